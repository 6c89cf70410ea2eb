"""``python -m benchmarks.older.reading``: what a call costs with an older table, against the flat table.

Two databases on one server: one has only the live table, the other also an older table with so many partitions of a
week. The calls alternate in random order, as many for each database, so that both have the same share of a machine's
slower moments. The figure is the lower quartile, and the ratio to the flat table: of a moved id, to a live id of the
flat table. Moved ids have been read before, so that the server has made the plans that it keeps.

The servers use one core, and this process another one. If the system chose the cores, equal calls of two sessions would
differ by a third for a whole run, because it takes 20 to 50 us to wake up another core. With `--cores 1` all use one:
then nothing waits for another core, and the figures are what the processes work for a call.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import Any

import psycopg

from benchmarks.machine import machine
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.older import Older
from rootcellar.testing.helpers import new_id
from tests.servers import MissingServer, PgBouncerServer, PostgresServer

#: the most that each call may cost, as a ratio to the flat table
LIMITS = {"live id": 1.2, "missing id": 1.3, "moved id": 2.5, "store": 1.1}
#: how often a process has read each partition before: after a few reads, the server keeps a plan
_READ_BEFORE = 5
_FILL = """
INSERT INTO {table} (task_id, status, result, date_done, date_sent, date_started, expires_at, name, retries{day})
SELECT gen_random_uuid()::text, 'SUCCESS', '{{"value": 42}}', now() - interval '3 days', now() - interval '3 days',
    now() - interval '3 days', now() + interval '30 days', 'shop.pay', 0{value} FROM generate_series(1, {rows}) AS i
"""
_LIST = "INSERT INTO celery_taskmeta_moved SELECT hashtextextended(task_id, 0), drop_after FROM celery_taskmeta_older"

Call = Callable[[], object]


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status: 1 if a call costs more than its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.older.reading", description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="+", default=[12], help="default: 12; a full run: 12 60 365")
    parser.add_argument("--rows", type=int, default=5_000, help="results in each table (default %(default)s)")
    parser.add_argument("--calls", type=int, default=1_000, help="calls of each kind (default %(default)s)")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=2, help="default: %(default)s")
    options = parser.parse_args(arguments)
    is_within = True
    try:
        with ExitStack() as servers:
            with _on_core(0):
                server = servers.enter_context(PostgresServer())
                pooler = servers.enter_context(PgBouncerServer(server))
            servers.enter_context(_on_core(options.cores - 1))
            print(f"{machine()}\n{options.rows:,} results in each table, {options.calls:,} calls of each kind")
            for count in options.partitions:
                for way, place in (("prepared", str), ("PgBouncer", pooler.through)):
                    for name, ratio, figure in measure(server, place, count, options.rows, options.calls):
                        is_within = is_within and ratio <= LIMITS[name]
                        print(f"{count:>4} partitions, {way:<10} {name:<11} {figure}", flush=True)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0 if is_within else 1


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Run on one core within a ``with`` block, with all processes started in it, where the system allows it."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(
    server: PostgresServer, place: Callable[[str], str], partitions: int, rows: int, calls: int
) -> Iterator[tuple[str, float, str]]:
    """Yield each call, its ratio to the flat table, and the figure.

    Args:
        server: the server.
        place: returns the URL by which a database is used.
        partitions: how many partitions the older table has.
        rows: the results in each table.
        calls: how often each call is measured.
    """
    flat_url, new_url = server.create_database(), server.create_database()
    _fill(flat_url, rows)
    _fill(new_url, rows)
    _add_older(new_url, partitions, rows)
    with ExitStack() as stack:
        flat, new = (stack.enter_context(closing(open_store(place(url)))) for url in (flat_url, new_url))
        moved = _reading(new, _ids(new_url, "celery_taskmeta_older"))
        for _ in range(_READ_BEFORE * partitions):
            moved()
        found = _seconds(
            {
                "flat live id": _reading(flat, _ids(flat_url, "celery_taskmeta")),
                "flat moved id": _reading(flat, _ids(flat_url, "celery_taskmeta")),
                "live id": _reading(new, _ids(new_url, "celery_taskmeta")),
                "flat missing id": _reading(flat, None),
                "missing id": _reading(new, None),
                "moved id": moved,
                "flat store": _storing(flat),
                "store": _storing(new),
            },
            calls,
        )
    for url in (flat_url, new_url):
        server.drop_database(url)
    for name, limit in LIMITS.items():
        base = found[f"flat {name}"]
        ratio = found[name] / base
        yield name, ratio, f"{found[name] * 1e6:6.0f} us against {base * 1e6:6.0f} us: {ratio:.2f}x of at most {limit}x"


def _seconds(calls: dict[str, Call], count: int) -> dict[str, float]:
    """Return the lower quartile of the seconds of each call."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    warming_up = count // 5
    for number in range(count + warming_up):
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            calls[name]()
            if number >= warming_up:
                found[name].append(time.perf_counter() - began)
    return {name: sorted(seconds)[len(seconds) // 4] for name, seconds in found.items()}


def _reading(store: Store, ids: Sequence[str] | None) -> Call:
    def read() -> None:
        task_id = new_id() if ids is None else random.choice(ids)
        assert (store.get(task_id) is None) == (ids is None)

    return read


def _storing(store: Store) -> Call:
    def put() -> None:
        now = datetime.now(timezone.utc)
        store.put(
            TaskRecord(
                task_id=new_id(),
                state="SUCCESS",
                result=Payload(b'{"value": 42}'),
                name="shop.pay",
                retries=0,
                sent_at=now,
                started_at=now,
                done_at=now,
                expires_at=now + timedelta(days=30),
            )
        )

    return put


def _fill(url: str, rows: int) -> None:
    with closing(open_store(url)) as store:
        store.check()
    _run(url, _FILL.format(table="celery_taskmeta", rows=rows, day="", value=""), "VACUUM ANALYZE")


def _add_older(url: str, partitions: int, rows: int) -> None:
    with closing(open_store(url)) as store:
        older = store.ability(Older)
        assert older is not None
        older.enable()
    monday = date(2026, 1, 5)
    weeks = (monday + timedelta(weeks=number) for number in range(partitions))
    made = (
        f"CREATE TABLE older_{week:%Y%m%d} PARTITION OF celery_taskmeta_older "
        f"FOR VALUES FROM ('{week}') TO ('{week + timedelta(weeks=1)}')"
        for week in weeks
    )
    day = f", date '{monday}' + (i * 3) % {partitions * 7}"
    filled = _FILL.format(table="celery_taskmeta_older", rows=rows, day=", drop_after", value=day)
    _run(url, *made, filled, _LIST, "VACUUM ANALYZE")


def _ids(url: str, table: str) -> list[str]:
    return [row[0] for row in _run(url, f"SELECT task_id FROM {table}")]  # noqa: S608 - names of ours


def _run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
