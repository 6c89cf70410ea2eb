"""``python -m benchmarks.migration.storing``: what storing and waiting cost while results are migrated.

Redis and PostgreSQL are migrated in both directions. In each phase, a result is stored, and a client that waits for
it gets it. The same is done with each store alone. The calls alternate in random order, so that all have the same share
of a machine's slower moments. The figure is the median.
"""

from __future__ import annotations

import argparse
import queue
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from benchmarks.machine import machine
from benchmarks.retention.sections import write_section
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import Watchable
from rootcellar.stores.dual import DualStore, FixedPhases, Phase
from rootcellar.stores.watching import Watcher
from rootcellar.testing.helpers import new_id
from tests.servers import MissingServer, PostgresServer, RedisServer

#: the section of RESULTS.md that this command writes begins with this line
SECTION = "## Storing and waiting during a migration"
ABOUT = """\
Written by `python -m benchmarks.migration.storing`; no figure by hand. Each cell is the median of {calls:,} calls in \
microseconds, in random order; a wait lasts from the begin of the store until the waiting client has the result. The \
ratio of a store is to the sum of both stores alone, and in the last phase to the target alone; that of a wait is to \
the slower one of both stores alone.
"""
#: the most that a store and a wait may cost during the migration, and a store at its end
DURING, WAITING, AT_THE_END = 1.3, 1.3, 1.05
PHASES = (Phase.PREPARED, Phase.DUAL, Phase.SWITCHING, Phase.TARGET_FIRST, Phase.TARGET_ONLY)
#: seconds after which a client that waits has lost its result
_PATIENCE = 30.0


@dataclass(frozen=True)
class Row:
    """A phase of one direction. Times are in seconds; a limit of 0 is none."""

    direction: str
    phase: str
    store: float
    wait: float
    store_ratio: float
    wait_ratio: float
    store_limit: float

    @property
    def is_met(self) -> bool:
        """Whether both ratios are within their limits."""
        return (not self.store_limit or self.store_ratio <= self.store_limit) and self.wait_ratio <= WAITING

    def __str__(self) -> str:
        limit = f" of at most {self.store_limit:g}x" if self.store_limit else ""
        return (
            f"| {self.direction}, {self.phase} | {self.store * 1e6:,.0f} | {self.store_ratio:.2f}x{limit} "
            f"| {self.wait * 1e6:,.0f} | {self.wait_ratio:.2f}x of at most {WAITING:g}x |"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status: 1 if a call costs more than its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.migration.storing", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="calls of each kind (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="also write the section of RESULTS.md")
    options = parser.parse_args(arguments)
    try:
        with PostgresServer() as postgres, RedisServer() as redis:
            rows = [
                *measure("Redis to PostgreSQL", redis.url, postgres.create_database(), options.calls),
                *measure("PostgreSQL to Redis", postgres.create_database(), redis.url, options.calls),
            ]
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    text = "\n".join(_section(rows, options.calls, arguments))
    print(text)
    if options.write:
        write_section(SECTION, text)
    return 0 if all(row.is_met for row in rows) else 1


def measure(direction: str, source_url: str, target_url: str, calls: int) -> Iterator[Row]:
    """Yield a row for each phase of one direction."""
    with ExitStack() as stack:
        stores: dict[str, Store] = {
            name: stack.enter_context(closing(open_store(url)))
            for name, url in (("source alone", source_url), ("target alone", target_url))
        }
        for phase in PHASES:
            dual = DualStore(open_store(source_url), open_store(target_url), FixedPhases(phase))
            stores[phase.name] = stack.enter_context(closing(dual))
        storing, waiting = _medians(stores, calls)
    alone = storing["source alone"], storing["target alone"]
    slower = max(waiting["source alone"], waiting["target alone"])
    for name in ("source alone", "target alone"):
        yield Row(direction, name, storing[name], waiting[name], 1.0, waiting[name] / slower, 0.0)
    for phase in PHASES:
        base, limit = sum(alone), DURING
        if phase is Phase.PREPARED:
            base, limit = alone[0], 0.0
        elif phase is Phase.TARGET_ONLY:
            base, limit = alone[1], AT_THE_END
        store, wait = storing[phase.name], waiting[phase.name]
        name = phase.name.lower().replace("_", " ")
        yield Row(direction, name, store, wait, store / base, wait / slower, limit)


def _medians(stores: dict[str, Store], calls: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds of a store and of a wait, by the name of the store."""
    works: dict[tuple[str, str], Callable[[], float]] = {}
    for name, store in stores.items():
        works[name, "store"] = _storing(store)
        works[name, "wait"] = _waiting(store)
    found: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    order = list(works)
    warming_up = max(1, calls // 10)
    for number in range(calls + warming_up):
        random.shuffle(order)
        for key in order:
            seconds = works[key]()
            if number >= warming_up:
                found[key].append(seconds)
    medians = {key: statistics.median(each) for key, each in found.items()}
    return {name: medians[name, "store"] for name in stores}, {name: medians[name, "wait"] for name in stores}


def _storing(store: Store) -> Callable[[], float]:
    def work() -> float:
        record = _record()
        began = time.perf_counter()
        store.put(record)
        return time.perf_counter() - began

    return work


def _waiting(store: Store) -> Callable[[], float]:
    watcher = _watcher(store)
    notified: queue.Queue[float] = queue.Queue()

    def work() -> float:
        record = _record()
        with watcher.subscribed([record.task_id], lambda _: notified.put(time.perf_counter())):
            # the subscription is stored, so that the notification is measured and not the first look
            time.sleep(0.002)
            began = time.perf_counter()
            store.put(record)
            return notified.get(timeout=_PATIENCE) - began

    return work


def _watcher(store: Store) -> Watcher:
    watchable = store.ability(Watchable)
    assert watchable is not None, "both servers notify"
    return watchable.watcher()


def _record() -> TaskRecord:
    now = datetime.now(timezone.utc)
    return TaskRecord(
        task_id=new_id(),
        state="SUCCESS",
        result=Payload(b'{"value": 42}'),
        name="shop.pay",
        queue="celery",
        worker="celery@host",
        retries=0,
        sent_at=now,
        started_at=now,
        done_at=now,
        expires_at=now + timedelta(days=1),
    )


def _section(rows: Sequence[Row], calls: int, arguments: Sequence[str]) -> list[str]:
    command = shlex.join(["python", "-m", "benchmarks.migration.storing", *arguments])
    return [
        SECTION,
        "",
        ABOUT.format(calls=calls),
        f"- Storing: `{command}`, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {machine()}",
        "",
        "| | store | ratio | wait | ratio |",
        "| --- | --- | --- | --- | --- |",
        *map(str, rows),
        "",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
