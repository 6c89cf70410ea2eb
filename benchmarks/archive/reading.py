"""``python -m benchmarks.archive.reading``: read results out of an archive on a local disk, and measure each read."""

from __future__ import annotations

import argparse
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery

from benchmarks.archive.writing import archive_in_this_process
from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from benchmarks.machine import machine
from benchmarks.sections import write_section
from rootcellar.archive.places import open_place
from rootcellar.archive.scanning import find_in_files
from rootcellar.opening import open_history
from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.helpers import new_id
from tests.servers import MissingServer, PostgresServer

#: the section of RESULTS.md that this command writes begins with this line
SECTION = "## Reading from the archive"
ABOUT = """\
Written by `python -m benchmarks.archive.reading`; no figure by hand. {rows:,} results of {days:g} days in PostgreSQL \
are archived into one file for each day, in a folder. Then one client reads {reads:,} of each kind, by random ids, in \
turns. An archived id is read with `AsyncResult(id).get()`, which also decodes the result, and a missing one with \
`AsyncResult(id).state`.
"""


@dataclass(frozen=True)
class Times:
    """How long reads took, in seconds."""

    name: str
    taken: list[float]

    def line(self) -> str:
        """Return the row of the table in RESULTS.md."""
        cuts = statistics.quantiles(self.taken, n=100)
        return f"| {self.name} | {cuts[49] * 1e3:.2f} | {cuts[98] * 1e3:.2f} | {max(self.taken) * 1e3:.2f} |"


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive.reading", description="Read archived results, and measure how long it takes."
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many results (default %(default)s)")
    parser.add_argument("--days", type=float, default=30, help="how many days they are of (default %(default)s)")
    parser.add_argument("--reads", type=int, default=2_000, help="how many reads of each kind (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="also write the section of RESULTS.md")
    options = parser.parse_args(arguments)
    if options.rows < 1_000 or options.days <= 0 or options.reads < 100:
        parser.error("at least 1,000 rows, 100 reads and some days")
    try:
        with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
            text = "\n".join(
                [
                    SECTION,
                    "",
                    ABOUT.format(rows=options.rows, days=options.days, reads=options.reads),
                    f"- Reading: `{shlex.join(['python', '-m', 'benchmarks.archive.reading', *arguments])}`, "
                    f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {machine()}",
                    *measure(server.create_database(), Path(folder), options),
                    "",
                ]
            )
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    print(text)
    if options.write:
        write_section(SECTION, text)
    return 0


def measure(url: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Fill a database, archive it, read from it, and return the lines of the section."""
    period = Period(rows=options.rows, days=options.days, end=datetime.now(timezone.utc))
    postgres.write(url, runs(period), postgres.OwnLayout(), lambda count: None)
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT task_id, date_done FROM celery_taskmeta WHERE status = 'SUCCESS' AND date_done IS NOT NULL "
            "ORDER BY random() LIMIT %s",
            [options.reads],
        ).fetchall()
    done = archive_in_this_process(url, str(folder))
    archived = [str(task_id) for task_id, _ in found]
    lately = sorted(found, key=lambda row: row[1])[-max(100, options.reads // 10) :]
    rows = _reads(url, str(folder), archived, [str(task_id) for task_id, _ in lately])
    return [
        f"- {done['rows']:,} results are in {done['files']:,} files with {done['file_bytes'] / 2**20:.0f} MB",
        "",
        "| read | p50, ms | p99, ms | longest, ms |",
        "| --- | --- | --- | --- |",
        *(each.line() for each in rows),
        "",
        "| question | seconds |",
        "| --- | --- |",
        *_questions(url, str(folder), archived[0]),
    ]


def _reads(url: str, folder: str, archived: Sequence[str], lately: Sequence[str]) -> list[Times]:
    without, named = _app(url, None), _app(url, folder)
    live = [new_id() for _ in archived]
    now = datetime.now(timezone.utc)
    for task_id in live:
        without.backend.store.put(
            TaskRecord(task_id=task_id, state="SUCCESS", result=Payload(b'{"total": 5}'), done_at=now)
        )
    kinds: dict[str, tuple[Callable[[str], Any], list[str]]] = {
        "a result in the table, without an archive": (lambda one: without.AsyncResult(one).get(timeout=10), live),
        "a result in the table, with an archive": (lambda one: named.AsyncResult(one).get(timeout=10), live),
        "a missing id, without an archive": (lambda one: without.AsyncResult(one).state, []),
        "a missing id, with an archive": (lambda one: named.AsyncResult(one).state, []),
        "an archived result, of any file": (lambda one: named.AsyncResult(one).get(timeout=10), list(archived)),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    # the first read imports pyarrow, and the first ones connect
    for read, ids in kinds.values():
        read(ids[0] if ids else new_id())
    for number in range(len(archived)):
        order = list(kinds)
        random.shuffle(order)
        for name in order:
            read, ids = kinds[name]
            taken[name].append(_timed(read, ids[number] if ids else new_id()))
    recent = [_timed(lambda one: named.AsyncResult(one).get(timeout=10), one) for one in (*lately, *lately)]
    return [
        *(Times(name, each) for name, each in taken.items()),
        Times("an archived result, of the last files", recent[len(lately) :]),
    ]


def _questions(url: str, folder: str, task_id: str) -> list[str]:
    app = _app(url, folder)
    with open_history(app=app) as history:
        questions: dict[str, Callable[[], Any]] = {
            "the last 50 archived tasks": lambda: history.tasks(archive=True).page(),
            "the last 50 archived failures": lambda: history.tasks("state:failed", archive=True).page(),
            "50 archived failures of a day": lambda: history.tasks(
                "state:failed since:10d until:9d", archive=True
            ).page(),
            "a value in no result, in a day": lambda: list(
                history.tasks("result.nothing:1 since:10d until:9d", archive=True)
            ),
            "one id, without the database": lambda: find_in_files(open_place(folder), task_id),
            "an id that is in no file, without the database": lambda: find_in_files(open_place(folder), "missing"),
        }
        found = []
        for name, ask in questions.items():
            began = time.perf_counter()
            ask()
            found.append(f"| {name} | {time.perf_counter() - began:.2f} |")
        return found


def _timed(read: Callable[[str], Any], task_id: str) -> float:
    began = time.perf_counter()
    read(task_id)
    return time.perf_counter() - began


def _app(url: str, archive: str | None) -> Celery:
    app = Celery("benchmark", broker="memory://", set_as_current=False)
    app.conf.update(result_backend=f"rootcellar+{url}", result_archive=archive)
    return app


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
