"""``python -m benchmarks.older.moving``: rows that move to the older table, and partitions that are dropped.

Four processes store results meanwhile. The server logs every wait for a lock that takes longer than 10 ms, so the
longest wait of a store is known, also if it is short.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from multiprocessing.synchronize import Event
from typing import Any

import psycopg

from benchmarks.machine import machine
from benchmarks.sections import write_section
from rootcellar.maintenance.mover import KNOWN_AFTER
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.base import Store
from rootcellar.stores.older import WINDOW, Older
from tests.servers import MissingServer, PostgresServer

SECTION = "## Moving results to the older table"
ABOUT = """\
Written by `python -m benchmarks.older.moving`; no figure by hand. Results of about 300 bytes are moved to the older \
table, back, and dropped with a partition, while {writers} processes store results one by one. The longest wait of a \
store or a read for a lock is from the server's log, which has waits of more than {least} ms.
"""
WRITERS = 4
#: milliseconds of a wait for a lock that the server logs
LEAST_WAIT = 10
_WAIT = re.compile(r"^(\w*) .*?(?:acquired|still waiting for) .*? after ([\d.]+) ms", re.MULTILINE)
_WRITER, _READER = "writer", "reader"
_FILL = """
INSERT INTO {table} (task_id, status, result, name, queue, worker, retries, args, kwargs, date_sent, date_started,
    date_done, expires_at, changed{more})
SELECT gen_random_uuid()::text, CASE n %% 10 WHEN 0 THEN 'FAILURE' ELSE 'SUCCESS' END,
    json_build_object('order', n, 'text', repeat(md5(n::text), 4)), 'shop.task' || n %% 30, 'celery', 'celery@host',
    0, '[1, 2]', '{{"n": 1}}', done - interval '2 seconds', done - interval '1 second', done, {expires}, 0{value}
FROM (SELECT n, %(first)s::timestamptz + n * interval '7 days' / %(rows)s AS done
    FROM generate_series(1, %(rows)s) AS n) AS rows
"""


@dataclass
class Waits:
    """What processes did meanwhile.

    Attributes:
        stores, seconds: how many results were stored, and in which time.
        p99, longest: milliseconds of a store.
        longest_read: milliseconds of the longest read.
        longest_wait: milliseconds of the longest wait of a store or a read for a lock.
    """

    stores: int = 0
    seconds: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    longest_read: float = 0.0
    longest_wait: float = 0.0


@dataclass
class Case:
    """A line of the table."""

    title: str
    rows: int
    seconds: float
    waits: Waits = field(default_factory=Waits)

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        waits = self.waits
        rate = f"{self.rows / self.seconds:,.0f}" if self.seconds else "-"
        wait = f"{waits.longest_wait:.0f}" if waits.longest_wait else f"under {LEAST_WAIT}"
        stores = f"{waits.stores / waits.seconds:,.0f}" if waits.seconds else "-"
        return [
            *(self.title, f"{self.rows:,}", f"{self.seconds:.2f}", rate, stores),
            *(f"{waits.p99:.1f}", f"{waits.longest:.0f}", f"{waits.longest_read:.0f}", wait),
        ]


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and perhaps write; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.older.moving", description="Measure moving results to the older table."
    )
    parser.add_argument("--rows", type=int, default=5_000_000, help="results (default %(default)s)")
    parser.add_argument("--hold", type=float, default=60, help="seconds of the open transaction (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(arguments)
    try:
        with PostgresServer(
            shared_buffers="1GB",
            max_wal_size="8GB",
            log_lock_waits=True,
            deadlock_timeout=f"{LEAST_WAIT}ms",
            log_line_prefix="%a ",
        ) as server:
            text = _measure(server, options.rows, options.hold, arguments)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    print(text)
    if options.write:
        write_section(SECTION, text)
    return 0


def _measure(server: PostgresServer, rows: int, hold: float, arguments: Sequence[str]) -> str:
    began = datetime.now(timezone.utc)
    url = server.create_database()
    cases = []
    with closing(open_store(url)) as store:
        store.check()
        older = store.ability(Older)
        assert older is not None
        _fill(url, rows, began - timedelta(days=20))
        with _beside(server, url) as waits:
            time.sleep(5)
        cases.append(Case("stores alone", 0, 0.0, waits))
        with _beside(server, url) as waits:
            started = time.monotonic()
            older.enable()
            seconds = time.monotonic() - started
            time.sleep(1)
        cases.append(Case("enable", 0, seconds, waits))
        pause = min(KNOWN_AFTER, hold)
        print(f"waiting {pause:.0f} s, until each process knows of the table", file=sys.stderr, flush=True)
        time.sleep(pause)
        with _beside(server, url) as waits:
            moved, seconds = _move(older)
        cases.append(Case("move", moved, seconds, waits))
        for title, seconds_held in (("drop a partition", 0.0), ("drop it with an open transaction", hold)):
            cases.append(_drop(server, url, store, older, rows, title, seconds_held))
        with _beside(server, url) as waits:
            back, seconds = _move_back(older)
        cases.append(Case("move back and disable", back, seconds, waits))
    heading = [
        f"- Measured: `{shlex.join(['python', '-m', 'benchmarks.older.moving', *arguments])}`,"
        f" {began:%Y-%m-%d %H:%M} UTC, {machine()}",
        "- Server: PostgreSQL with `shared_buffers` of 1 GB, on the same machine",
    ]
    return "".join(f"{line}\n" for line in _lines(heading, cases))


def _lines(heading: Sequence[str], cases: Sequence[Case]) -> Iterator[str]:
    yield from (SECTION, "", ABOUT.format(writers=WRITERS, least=LEAST_WAIT), *heading, "")
    titles = ["what", "rows", "seconds", "rows a second", "stores a second", "p99 of a store (ms)"]
    titles += ["longest store (ms)", "longest read (ms)", "longest wait for a lock (ms)"]
    for cells in (titles, ["---"] * len(titles), *(case.cells() for case in cases)):
        yield f"| {' | '.join(cells)} |"
    yield ""


# -- the steps


def _fill(url: str, rows: int, first: datetime) -> None:
    """Store results that ended in a week, and expire in 60 days."""
    with psycopg.connect(url, autocommit=True) as connection:
        text = _FILL.format(table="celery_taskmeta", more="", expires="done + interval '60 days'", value="")
        connection.execute(text.encode(), {"rows": rows, "first": first})
        connection.execute("VACUUM ANALYZE celery_taskmeta")


def _move(older: Older) -> tuple[int, float]:
    now, total, after = datetime.now(timezone.utc), 0, None
    started = time.monotonic()
    while (moved := older.move(now, WINDOW, 5_000, after)).last is not None:
        total, after = total + moved.count, moved.last
    return total, time.monotonic() - started


def _move_back(older: Older) -> tuple[int, float]:
    total, started = 0, time.monotonic()
    while True:
        moved = older.disable_step(5_000)
        total += moved.count
        if moved.last is None:
            return total, time.monotonic() - started


def _drop(server: PostgresServer, url: str, store: Store, older: Older, rows: int, title: str, held: float) -> Case:
    """Fill a partition whose days have passed, and drop it."""
    day = datetime.now(timezone.utc).date() - timedelta(days=30)
    (name,) = older.ensure_partitions([day])
    _fill_partition(url, name, rows, day)
    with _beside(server, url) as waits:
        if not held:
            started = time.monotonic()
            assert older.drop_partition(name, None).is_done
            return Case(title, rows, time.monotonic() - started, waits)
        with psycopg.connect(url) as holder:
            holder.execute("SELECT FROM celery_taskmeta_older LIMIT 1")
            end = time.monotonic() + held
            assert not older.drop_partition(name, None).is_done
            while time.monotonic() < end:
                older.finish_interrupted()
                time.sleep(1)
        started = time.monotonic()
        older.finish_interrupted()
        seconds = time.monotonic() - started
        assert name not in [each.name for each in older.partitions()]
    return Case(f"{title} for {held:g} s, after its end", rows, seconds, waits)


def _fill_partition(url: str, name: str, rows: int, day: date) -> None:
    done = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - timedelta(days=30)
    with psycopg.connect(url, autocommit=True) as connection:
        text = _FILL.format(table=name, more=", drop_after", expires="%(day)s::date - 1", value=", %(day)s::date")
        connection.execute(text.encode(), {"rows": rows, "first": done, "day": day})


# -- what happens beside


@contextmanager
def _beside(server: PostgresServer, url: str) -> Iterator[Waits]:
    """Store and read in other processes for the ``with`` block; then say how long it took."""
    waits = Waits()
    log = server.log.stat().st_size
    context = multiprocessing.get_context("spawn")
    ready, ended, results = context.Barrier(WRITERS + 2), context.Event(), context.Queue()
    processes = [
        context.Process(target=_work, args=(url, what, ready, ended, results))
        for what in (*[_WRITER] * WRITERS, _READER)
    ]
    for process in processes:
        process.start()
    ready.wait(120)
    started = time.monotonic()
    try:
        yield waits
    finally:
        ended.set()
        waits.seconds = time.monotonic() - started
        found = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
    stores = sorted(each for what, times in found if what == _WRITER for each in times)
    waits.stores = len(stores)
    waits.p99, waits.longest = stores[int(len(stores) * 0.99)], stores[-1]
    waits.longest_read = max(each for what, times in found if what == _READER for each in times)
    with server.log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(log)
        logged = [float(after) for who, after in _WAIT.findall(lines.read()) if who in (_WRITER, _READER)]
    waits.longest_wait = max(logged, default=0.0)


def _work(url: str, what: str, ready: Any, ended: Event, results: Any) -> None:
    """Store or read until the end; then report the milliseconds of each call."""
    options = StoreOptions(connect_args={"application_name": what})
    times: list[float] = []
    with closing(open_store(url, options)) as store:
        store.check()
        one = TaskRecord(task_id="", state="SUCCESS", result=Payload(b'{"n": 1}'), name="shop.task1", retries=0)
        number, mine = 0, f"{threading.get_native_id()}"
        ready.wait(120)
        while not ended.is_set():
            number += 1
            now = datetime.now(timezone.utc)
            started = time.perf_counter()
            if what == _WRITER:
                store.put(
                    replace(
                        one,
                        task_id=f"{mine}-{started}-{number}",
                        sent_at=now,
                        started_at=now,
                        done_at=now,
                        expires_at=now + timedelta(days=60),
                    )
                )
            else:
                store.get(f"missing-{number}")
            times.append((time.perf_counter() - started) * 1_000)
    results.put((what, times))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
