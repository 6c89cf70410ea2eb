"""``python -m benchmarks.retention.cleanup``: what it costs to delete millions of expired results on PostgreSQL.

Two databases with the same rows: in one, rootcellar's cleanup deletes what is due; in the other, one DELETE. Four
processes store results at the same time, at a fixed rate, and note how long each takes; one store in 200 is that of an
expired task that runs again. A third, smaller table is cleaned while an old transaction is open.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import psycopg
from celery import Celery

from benchmarks.history import postgres
from benchmarks.history.runs import SECOND, Period, runs
from benchmarks.machine import machine
from benchmarks.processes import Other, start
from benchmarks.retention.sections import RESULTS, write_section
from rootcellar.maintenance.cleanup import BATCH, Cleanup, CleanupWork
from rootcellar.payloads import codec_of
from rootcellar.stores import open_store
from rootcellar.stores.expiring import Due
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.store import PostgresStore
from tests.servers import MissingServer, PostgresServer

SECTION = "## Deleting expired results"
DAYS, KEPT_DAYS = 30, 5
#: processes that store, and of how many stores one is that of an expired task
STORING, AGAIN = 4, 200
#: the batch that is compared with the first one
LATE = 2_000
#: seconds between two looks at who waits for a lock
LOOK = 0.01
_WAITS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0)::float
FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL
"""
_SIZE = "SELECT pg_total_relation_size('celery_taskmeta')"

ABOUT = """\
Written by `python -m benchmarks.retention.cleanup`; no figure by hand. {rows:,} results; {due:,} are due. \
{storing} processes store {rate:,.0f} results a second each, at random moments, before and during the deletion; of \
{again} stores, one is that of an expired task that runs again. One DELETE is \
`DELETE FROM celery_taskmeta WHERE expires_at < now()`, which keeps no counts of what it deletes. A checkpoint ends \
before the stores begin, so both write whole pages to the log again. The longest wait for a lock is that of any \
session, looked at 100 times a second. The memory is all of the process that cleans, with Python and its modules. The \
pages are those of the statement of a batch of {batch:,} rows, by EXPLAIN (ANALYZE, BUFFERS), while a transaction \
with an older snapshot is open.
"""


@dataclass(frozen=True)
class Stores:
    """The stores of all processes in one phase.

    Attributes:
        seconds: how long each took, sorted.
    """

    seconds: Sequence[float]

    def percentile(self, part: float) -> float:
        """Return a percentile in milliseconds."""
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * part))] * 1_000 if self.seconds else 0.0


@dataclass(frozen=True)
class Deletion:
    """What one way to delete has cost.

    Attributes:
        seconds: how long it took.
        deleted: how many rows.
        wait: the longest wait for a lock, in seconds.
        quiet, busy: the stores before it, and during it.
        errors: how many stores failed.
        before, after: the bytes of the table with its indexes.
        memory: the most memory of the process that cleaned, in MB.
    """

    seconds: float
    deleted: int
    wait: float
    quiet: Stores
    busy: Stores
    errors: int
    before: int
    after: int
    memory: float


# -- the processes


def store_results(parent: Other, url: str, ids: Sequence[str], rate: float, number: int) -> dict[str, Any]:
    """Store results at a rate until the parent says stop; return when each began and how long it took."""
    app = Celery("benchmark", backend=f"rootcellar+{url}", broker="memory://", set_as_current=False)
    backend, chosen = app.backend, random.Random(number)
    times: list[tuple[float, float]] = []
    errors = 0
    stop = threading.Event()

    def wait_for_the_end() -> None:
        _wait_long(parent)
        stop.set()

    parent.tell()
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    began = time.monotonic()
    for count in itertools.count():
        # at random moments: at regular ones, a process might meet every batch of the cleanup, or none
        if stop.wait(max(0.0, began + (count + chosen.random()) / rate - time.monotonic())):
            break
        task_id = chosen.choice(ids) if count % AGAIN == AGAIN - 1 else f"new-{number}-{count}"
        at = time.monotonic()
        try:
            backend.store_result(task_id, {"value": count, "text": "x" * 80}, "SUCCESS")
        except Exception:  # any error is counted
            errors += 1
        times.append((at, time.monotonic() - at))
    return {"times": times, "errors": errors}


def clean(parent: Other, url: str) -> tuple[int, float, float]:
    """Clean up; return how many rows were deleted, the seconds, and the most memory in MB."""
    with closing(open_store(url)) as store:
        cleanup = Cleanup(CleanupWork.of(store, codec_of({}), {}))
        store.check()
        parent.tell()
        began = time.monotonic()
        deleted = cleanup.clean().deleted
    return deleted, time.monotonic() - began, _memory()


def delete_at_once(parent: Other, url: str) -> tuple[int, float, float]:
    """Delete with one statement; return the same."""
    with psycopg.connect(url, autocommit=True) as connection:
        parent.tell()
        began = time.monotonic()
        deleted = connection.execute("DELETE FROM celery_taskmeta WHERE expires_at < now()").rowcount
    return deleted, time.monotonic() - began, _memory()


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000


# -- measuring


class LockWaits:
    """Looks again and again for how long any session waits for a lock; a context manager.

    Attributes:
        longest: the longest wait, in seconds.
    """

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> LockWaits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(LOOK):
                row = connection.execute(_WAITS).fetchone()
                assert row is not None
                self.longest = max(self.longest, row[0])


def measure(url: str, way: Any, rate: float, quiet: float, warm: float = 2.0) -> Deletion:
    """Delete what is due, while processes store.

    Args:
        url: the database.
        way: the function of the process that deletes.
        rate: results a second that each process stores.
        quiet: seconds of storing before.
        warm: seconds before that, because the first stores of a process take longer.
    """
    with psycopg.connect(url, autocommit=True) as connection, ExitStack() as stack:
        # else a checkpoint of the new rows may begin in any phase, and this new server has no segments of its log to
        # use again, as an older one has: each new one is filled with zeros while stores wait
        connection.execute("CHECKPOINT")
        before = _number(connection, _SIZE)
        due = "SELECT task_id FROM celery_taskmeta WHERE expires_at < now() ORDER BY random() LIMIT 5000"
        ids = [row[0] for row in connection.execute(due)]
        storing = [stack.enter_context(start(store_results, url, ids, rate, each)) for each in range(STORING)]
        for child in storing:
            child.next_line()
        time.sleep(warm)
        began_quiet = time.monotonic()
        time.sleep(quiet)
        deleting = stack.enter_context(start(way, url))
        deleting.next_line()
        began = time.monotonic()
        with LockWaits(url) as waits:
            deleted, seconds, memory = _wait_long(deleting)
        ended = time.monotonic()
        for child in storing:
            child.tell()
        found = [_wait_long(child) for child in storing]
        times = sorted(each for one in found for each in one["times"])
        connection.execute("CHECKPOINT")
        return Deletion(
            seconds=seconds,
            deleted=deleted,
            wait=waits.longest,
            quiet=_between(times, began_quiet, began),
            busy=_between(times, began, ended),
            errors=sum(one["errors"] for one in found),
            before=before,
            after=_number(connection, _SIZE),
            memory=memory,
        )


def _wait_long(child: Any) -> Any:
    """Return the next message of a process, which may need many minutes."""
    while not child._pipe.poll(60):
        pass
    return child.next_line()


def _between(times: Sequence[tuple[float, float]], since: float, until: float) -> Stores:
    return Stores(sorted(seconds for at, seconds in times if since <= at < until))


def _number(connection: psycopg.Connection[Any], statement: str) -> int:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


class ExplainedStore(PostgresStore):
    """A store that can say how many pages its next batch reads."""

    def pages(self, due: Due) -> int:
        """Run a batch with EXPLAIN (ANALYZE, BUFFERS), undo it, and return how many pages it read."""
        text, params = self._deletion(self._due_rows(due))

        def work(connection: Connection) -> int:
            count = 0
            with self._limited(connection, due.timeout):
                explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}".encode()
                row = connection.execute(explained, params, prepare=False).fetchone()
                assert row is not None
                plan = row[0][0]["Plan"]
                count = int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
                raise psycopg.Rollback
            return count

        return self._run(work)


def pages_with_an_old_snapshot(url: str) -> tuple[int, int, int]:
    """Clean while a snapshot is open; return the pages of the first batch, those of a late one, and its number."""
    with psycopg.connect(url) as old, closing(ExplainedStore(url)) as store:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM celery_taskmeta")
        due = Due(now=datetime.now(timezone.utc), limit=BATCH)
        first = last = store.pages(due)
        for number in itertools.count(1):
            deleted = store.delete_expired_tasks(due)
            if deleted.last is None:
                return first, last, number
            due = Due(now=due.now, limit=BATCH, after=deleted.last)
            if number + 1 == LATE or number % 100 == 0:
                last = store.pages(due)
            if number + 1 == LATE:
                return first, last, LATE
    raise AssertionError("unreachable")


# -- the command


def main(arguments: Sequence[str]) -> int:
    """Fill the databases, delete, and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention.cleanup", description=__doc__)
    parser.add_argument("--rows", type=int, default=6_000_000, help="results (default %(default)s)")
    parser.add_argument("--rate", type=float, default=100.0, help="stores a second of a process (default %(default)s)")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds before the deletion (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(arguments)
    try:
        with PostgresServer(shared_buffers="1GB", max_wal_size="8GB", max_connections=100) as server:
            text = "".join(f"{line}\n" for line in _lines(server, options, arguments))
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    print(text)
    if options.write:
        write_section(SECTION, text)
        print(f"Written to {RESULTS}")
    return 0


def _lines(server: PostgresServer, options: argparse.Namespace, arguments: Sequence[str]) -> Iterator[str]:
    end = datetime.now(timezone.utc)
    deletions = {}
    for name, way in (("rootcellar's cleanup", clean), ("one DELETE", delete_at_once)):
        url = server.create_database()
        fill(url, options.rows, end)
        deletions[name] = measure(url, way, options.rate, options.quiet)
        print(name, deletions[name].seconds, file=sys.stderr, flush=True)
        server.drop_database(url)
    url = server.create_database()
    # enough for the late batch, with a tenth of the rows that are not due
    fill(url, min(options.rows, (LATE + 5) * BATCH * DAYS // (DAYS - KEPT_DAYS)), end)
    first, late, number = pages_with_an_old_snapshot(url)
    ours = deletions["rootcellar's cleanup"]
    yield from (SECTION, "")
    yield ABOUT.format(
        rows=options.rows, due=ours.deleted, storing=STORING, rate=options.rate, again=AGAIN, batch=BATCH
    )
    yield f"- Command: `{shlex.join(['python', '-m', 'benchmarks.retention.cleanup', *arguments])}`"
    yield f"- {end:%Y-%m-%d %H:%M} UTC, {machine()}; PostgreSQL with `shared_buffers` of 1 GB on the same machine"
    yield ""
    yield f"| | {' | '.join(deletions)} |"
    yield f"|{' --- |' * (len(deletions) + 1)}"
    for title, cells in figures(list(deletions.values())):
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"With an old snapshot open, batch 1 reads {first:,} pages and batch {number} {late:,}: {late / first:.2f}x; "
        f"at most 1.5x: {_met(late / first <= 1.5)}."
    )


def figures(found: Sequence[Deletion]) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the cells of each row; the first deletion is that of rootcellar."""
    ours = found[0]
    speed = ours.deleted / ours.seconds
    ratio = ours.busy.percentile(0.99) / max(ours.quiet.percentile(0.99), 0.001)
    memory = ours.memory
    yield "time (s)", [f"{each.seconds:,.1f}" for each in found]
    speeds = [f"{each.deleted / each.seconds:,.0f}" for each in found]
    yield "results a second", [f"{speeds[0]}; at least 20,000: {_met(speed >= 20_000)}", *speeds[1:]]
    yield "longest wait for a lock (s)", [f"{each.wait:,.2f}" for each in found]
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        cells = [f"{each.quiet.percentile(part):,.1f} / {each.busy.percentile(part):,.1f}" for each in found]
        if part == 0.99:
            cells[0] += f", {ratio:.1f}x; at most 3x: {_met(ratio <= 3)}"
        yield f"{name} of store_result, before / during (ms)", cells
    yield "longest store during it (s)", [f"{each.busy.percentile(1) / 1_000:,.2f}" for each in found]
    yield "stores during it", [f"{len(each.busy.seconds):,}" for each in found]
    yield "errors of stores", [f"{each.errors:,}" for each in found]
    sizes = [f"{each.before / 1e6:,.0f} / {each.after / 1e6:,.0f}" for each in found]
    yield "table with indexes, before / after (MB)", sizes
    yield (
        "memory of the process (MB)",
        [f"{memory:,.0f}; under 150: {_met(memory < 150)}", *(f"{each.memory:,.0f}" for each in found[1:])],
    )


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def fill(url: str, rows: int, end: datetime) -> None:
    """Fill a database with results; five of six are due."""
    period = Period(rows=rows, days=DAYS, end=end, seed=0)
    layout = postgres.OwnLayout(KEPT_DAYS * 86_400 * SECOND)
    postgres.write(url, runs(period), layout, lambda count: print(f"{count:,} rows", file=sys.stderr, flush=True))


__all__ = ["ExplainedStore", "main", "pages_with_an_old_snapshot"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
