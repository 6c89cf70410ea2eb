"""How long tasks ran or waited, and which ones ran longest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rootcellar.history.filters import Clock, Filter
from rootcellar.history.lists import Tasks
from rootcellar.history.selections import Selection, counted_cells, selection_of, total
from rootcellar.history.timeline import cannot_count
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted

#: percentiles of up to this many rows are computed from the rows, exactly
EXACT_ROWS = 20_000
SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How long tasks ran or waited, in seconds.

    Attributes:
        of: ``runtime`` or ``wait``.
        p50, p90, p95, p99: what this share of them did not exceed; ``None`` if none is known.
        max: the longest.
        mean: the mean.
        count: how many durations are known.
        is_exact: whether the percentiles are exact. Otherwise they differ by about 12 % at most.
        as_of: the moment at which the numbers were right.
        behind_by: how old the newest counted results are, if the newest ones are missing; otherwise 0.
    """

    of: str
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None
    count: int
    is_exact: bool
    as_of: datetime
    behind_by: timedelta = timedelta(0)


def percentiles(store: Store, query: Filter, clock: Clock, of: str = "runtime") -> Percentiles:
    """Return how long finished tasks ran or waited: exactly if there are at most 20,000 of them, all still stored.

    Args:
        store: the store.
        query: a filter that names only tasks, queues, states and times.
        clock: the present and the zone of the reader.
        of: ``runtime`` or ``wait``.

    Raises:
        ValueError: ``of`` is another text.
        AbilityMissing: the store keeps no counts, or the filter names something else.
    """
    if of not in ("runtime", "wait"):
        raise ValueError(f"of is {of!r}: give runtime or wait")
    counted = store.ability(Counted)
    selection = selection_of(query, clock)
    if counted is None or selection is None:
        raise cannot_count(store, counted is not None)
    answer = counted_cells(counted, selection, with_spreads=True)
    tally = total(answer.cells)
    spread = tally.run if of == "runtime" else tally.wait
    found = [spread.quantile(share) for share in SHARES]
    exact = _exact(counted, selection, of, tally.count) if answer.is_exact else None
    is_exact = exact is not None and len(exact) == spread.count
    if exact and is_exact:
        found = [exact[max(0, math.ceil(share * len(exact)) - 1)] for share in SHARES]
    return Percentiles(
        of=of,
        p50=found[0],
        p90=found[1],
        p95=found[2],
        p99=found[3],
        max=spread.longest if spread.count else None,
        mean=spread.mean,
        count=spread.count,
        is_exact=is_exact,
        as_of=answer.as_of,
        behind_by=answer.behind_by,
    )


def _exact(counted: Counted, selection: Selection, of: str, count: int) -> list[float] | None:
    """Return all durations, sorted; ``None`` if there are too many, or no question fits the filter."""
    if count > EXACT_ROWS:
        return None
    question = selection.question(counted)
    if not selection.fits(question):
        return None
    found = counted.durations(question, "run" if of == "runtime" else "wait", EXACT_ROWS)
    return None if found is None else sorted(found)


def slowest(store: Store, codec: Codec, query: Filter, clock: Clock, limit: int = 10) -> Sequence[TaskRecord]:
    """Return the finished tasks that ran longest, the longest first, of those that are still stored.

    A filter that names only tasks, queues, states and times is answered exactly: the counts show the hours in which
    tasks ran long. Any other is answered by a search, within its time.

    Raises:
        ValueError: ``limit`` is not from 1 to 1,000.
        AbilityMissing: the store can neither count nor sort.
    """
    if not 1 <= limit <= 1_000:
        raise ValueError(f"limit is {limit}: give a number from 1 to 1,000")
    counted = store.ability(Counted)
    selection = None if counted is None else selection_of(query, clock)
    if counted is None or selection is None or not selection.fits(selection.question(counted)):
        return _slowest_rows(store, codec, query, clock, limit)
    # this brings the counts up to date if they are late
    counted_cells(counted, selection)
    question = replace(selection.question(counted), with_new_names=False)
    if not selection.fits(question):
        return _slowest_rows(store, codec, query, clock, limit)
    ids = counted.slowest(question, limit)
    records = store.get_many(ids)
    return [codec.opened(records[task_id])[0] for task_id in ids if task_id in records]


def _slowest_rows(store: Store, codec: Codec, query: Filter, clock: Clock, limit: int) -> Sequence[TaskRecord]:
    sorted_query = replace(query, sort="runtime", is_descending=True)
    return Tasks(store, codec, sorted_query, clock, size=limit).page().records
