"""``python -m benchmarks.history.counting``: what counting beside the results costs, and how fast the answers are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone

import psycopg

from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from benchmarks.machine import machine
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.counting import Counted, Rolled
from tests.servers import MissingServer, PostgresServer

#: results that are stored between two passes
BETWEEN = 1_000
QUESTIONS: dict[str, Callable[[History], object]] = {
    "count of all": lambda history: history.count(),
    "count of failures, 24 hours": lambda history: history.count("state:failed since:24h"),
    "count by a pattern of names, 7 days": lambda history: history.count("task:shop.* since:7d"),
    "timeline by the hour, 24 hours": lambda history: history.timeline("since:24h"),
    "timeline by the day, 30 days": lambda history: history.timeline("since:30d", by="day"),
    "statistics of each task, 24 hours": lambda history: history.stats("since:24h"),
    "statistics of each task, 30 days": lambda history: history.stats("since:30d"),
    "percentiles, 30 days": lambda history: history.percentiles("since:30d"),
    "the 10 slowest, 30 days": lambda history: history.slowest("since:30d"),
    "comparison of two days": lambda history: history.compare("since:48h until:24h", "since:24h"),
}


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history.counting", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="how many results (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with PostgresServer() as server:
            print(f"{machine()}\n{options.rows:,} results in 30 days")
            for name, figure in measure(server.create_database(), options.rows):
                print(f"{name:<45} {figure}", flush=True)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def measure(url: str, rows: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the figure."""
    now = datetime.now(timezone.utc)
    postgres.write(url, runs(Period(rows=rows, days=30, end=now, seed=0)), postgres.OwnLayout(), lambda count: None)
    with closing(open_store(url)) as store, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        counted = store.ability(Counted)
        assert counted is not None
        yield "counting all of them for the first time", f"{_seconds(lambda: _roll(counted)):.1f} s"
        yield "a pass when nothing was stored", f"{_best(counted.roll):.1f} ms"
        before = _wal(connection)
        _store(store, BETWEEN)
        stored = _wal(connection) - before
        seconds = _seconds(lambda: _roll(counted))
        written = _wal(connection) - before - stored
        yield f"a pass after {BETWEEN:,} results", f"{seconds * 1_000:.1f} ms, {written / 1_000:.0f} kB of WAL"
        yield "WAL of a stored result", f"{stored / BETWEEN:.0f} bytes"
        before = _wal(connection)
        deleted = store.delete_expired(now + timedelta(days=2_000), BETWEEN)
        yield "WAL of a deleted result", f"{(_wal(connection) - before) / max(1, deleted):.0f} bytes"
        _roll(counted)
        history = History(store, codec_of({}), zone=timezone.utc)
        for name, ask in QUESTIONS.items():
            yield name, f"{_best(lambda ask=ask: ask(history)):.1f} ms"  # type: ignore[misc]


def _roll(counted: Counted) -> Rolled:
    while not (rolled := counted.roll()).is_done:
        pass
    return rolled


def _store(store: Store, count: int) -> None:
    for number in range(count):
        now = datetime.now(timezone.utc)
        store.put(
            TaskRecord(
                task_id=f"new-{number}",
                state="SUCCESS" if number % 20 else "FAILURE",
                name=f"shop.task_{number % 60}",
                queue=f"queue_{number % 5}",
                sent_at=now - timedelta(seconds=2),
                started_at=now - timedelta(seconds=number % 30 / 10),
                done_at=now,
                expires_at=now + timedelta(days=1),
            )
        )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _best(work: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of five calls."""
    return min(_seconds(work) for _ in range(5)) * 1_000


def _wal(connection: psycopg.Connection[tuple[int]]) -> int:
    found = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert found is not None
    return found[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
