"""Reads the figures of a migration from the values that all processes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rootcellar.history.history import History
from rootcellar.metrics import catalogue
from rootcellar.metrics.families import Family
from rootcellar.metrics.readings import label
from rootcellar.migration.status import status_of

#: the classes of differences that are exported from the start
_CLASSES = ("missing", "state", "value", "traceback", "times", "expiry")


def migration(history: History) -> Iterator[Family]:
    """Yield the phase, who has not confirmed it, how far the pass is, and what differs; nothing without a migration."""
    status = status_of(history.store)
    if status is None or status.state is None:
        return
    state = status.state
    yield Family(catalogue.MIGRATION_PHASE, {(): float(state.phase)})
    confirmed = len(status.processes) - len(status.silent)
    yield Family(
        catalogue.MIGRATION_PROCESSES, {("confirmed",): float(confirmed), ("silent",): float(len(status.silent))}
    )
    work = state.work
    if work is not None:
        yield Family(catalogue.MIGRATION_ROWS, {("read",): float(work.done), ("expected",): float(work.total)})
    if state.verified is not None:
        counts = {**dict.fromkeys(_CLASSES, 0), **state.verified.left}
        yield Family(catalogue.MIGRATION_DIFFERENCES, {(label(kind),): float(count) for kind, count in counts.items()})
    yield Family(catalogue.MIGRATION_UNMIRRORED, {(): float(status.unmirrored)})
    same, different = _reads(status.counters)
    yield Family(catalogue.MIGRATION_READS, {("same",): float(same), ("different",): float(different)})


def _reads(counters: Mapping[str, int]) -> tuple[int, int]:
    """Return how many real reads were the same in both stores, and how many were not."""
    different = sum(count for name, count in counters.items() if name.startswith("differing/"))
    return max(0, counters.get("sampled", 0) - different), different
