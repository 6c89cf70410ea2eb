"""``python -m benchmarks.migration.copying``: copy results from Redis to PostgreSQL, and verify them."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from psycopg import sql

from benchmarks.history.postgres import KEPT, TABLE, OwnLayout
from benchmarks.history.runs import Period, Run, runs
from benchmarks.machine import machine
from benchmarks.retention.sections import write_section
from rootcellar.migration.endpoint import store_endpoint
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store
from tests.servers import MissingServer, PostgresServer, RedisServer

#: the section of RESULTS.md that this command writes begins with this line
SECTION = "## Copying and verifying"
ABOUT = """\
Written by `python -m benchmarks.migration.copying`; no figure by hand. {rows:,} results in Redis, with arguments, are \
copied into a new PostgreSQL by `rootcellar copy`, and compared by `rootcellar verify`; the time is that of the whole \
command. "COPY alone" writes the same rows, made before, by one COPY into the same table with its indexes. "The loop" \
reads each result with `AsyncResult.get` and stores it with `store_result`, both by rootcellar, as scripts do. It \
waits for each answer, so it suffers most from a busy machine. Memory is the peak of the largest process.
"""
#: the goals: shares of COPY alone and of the loop, bytes, and seconds for a million rows
OF_COPY, OF_LOOP, MEMORY, VERIFYING = 0.25, 20.0, 200 << 20, 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BATCH = 1_000


@dataclass(frozen=True)
class Command:
    """A command that ran: how long, and the peak of its memory in bytes."""

    seconds: float
    peak: int
    printed: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What the run has shown. Times are in seconds."""

    rows: int
    copy_alone: float
    copying: Command
    again: Command
    verifying: Command
    loop_rows: int
    loop: float

    def lines(self) -> list[tuple[str, str, str]]:
        """Return the rows of the table in RESULTS.md: name, figure, and what the goal says."""
        copied, alone = self.rows / self.copying.seconds, self.rows / self.copy_alone
        loop = self.loop_rows / self.loop
        verified = self.verifying.seconds * 1_000_000 / self.rows
        return [
            ("COPY alone, rows a second", f"{alone:,.0f}", ""),
            ("the loop, rows a second", f"{loop:,.0f}", ""),
            ("`rootcellar copy`, rows a second", f"{copied:,.0f}", ""),
            (
                "... as a part of COPY alone",
                f"{copied / alone:.2f}",
                _goal(OF_COPY, copied / alone >= OF_COPY, "at least"),
            ),
            (
                "... as a multiple of the loop",
                f"{copied / loop:.1f}",
                _goal(OF_LOOP, copied / loop >= OF_LOOP, "at least"),
            ),
            (
                "... memory",
                _megabytes(self.copying.peak),
                _goal(_megabytes(MEMORY), self.copying.peak < MEMORY, "less than"),
            ),
            ("the same again, rows a second", f"{self.rows / self.again.seconds:,.0f}", ""),
            (
                "`rootcellar verify`, seconds for a million equal rows",
                f"{verified:.0f}",
                _goal(VERIFYING, verified < VERIFYING, "less than"),
            ),
            ("... memory", _megabytes(self.verifying.peak), ""),
        ]


def _goal(goal: float | str, is_met: bool, words: str) -> str:
    return f"{words} {goal if isinstance(goal, str) else f'{goal:g}'}: {'met' if is_met else 'missed'}"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.migration.copying", description="Copy from Redis to PostgreSQL, and verify."
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many results (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few results: only to check that it works")
    parser.add_argument("--write", action="store_true", help="also write the section of RESULTS.md")
    options = parser.parse_args(arguments)
    rows = 2_000 if options.quick else options.rows
    if rows < 1:
        parser.error("--rows must be positive")
    try:
        with PostgresServer() as postgres, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            measured = measure(
                postgres, redis, Path(folder), rows, loop_rows=min(rows, 200 if options.quick else 5_000)
            )
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    text = "\n".join(_section(measured, arguments))
    print(text)
    if options.write:
        write_section(SECTION, text)
    return 0


def measure(postgres: PostgresServer, redis: RedisServer, folder: Path, rows: int, *, loop_rows: int) -> Measured:
    """Fill a Redis, and copy it in each way."""
    period = Period(rows=rows, days=30, end=datetime.now(timezone.utc))
    lines, ids = folder / "lines", folder / "ids"
    count = _fill(redis.url, runs(period), lines, ids)
    source, target = redis.url, postgres.create_database()
    alone = _copy_alone(postgres.create_database(), lines)
    copying = _run("copy", source, target, "--json")
    assert copying.printed["copied"] == count, copying.printed
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute(f"VACUUM (ANALYZE) {TABLE}")
    again = _run("copy", source, target, "--json")
    assert again.printed["copied"] == 0, again.printed
    verifying = _run("verify", source, target, "--json")
    assert verifying.printed["target_results"] == count, verifying.printed
    some = list(itertools.islice(ids.read_text().split(), loop_rows))
    loop = _loop(source, postgres.create_database(), some)
    return Measured(count, alone, copying, again, verifying, len(some), loop)


def _fill(url: str, all_runs: Iterable[Run], lines: Path, ids: Path) -> int:
    """Store runs in Redis, and write them to a file as lines for COPY; return how many."""
    layout, count = OwnLayout(), 0
    endpoint = store_endpoint(open_store(url))
    with lines.open("w") as texts, ids.open("w") as names:
        for batch in _batches(all_runs):
            endpoint.to_write.copy([_record(run) for run in batch])
            texts.writelines(f"{layout.line(run)}\n" for run in batch)
            names.writelines(f"{run.task_id}\n" for run in batch)
            count += len(batch)
    endpoint.close()
    return count


def _batches(all_runs: Iterable[Run]) -> Iterator[list[Run]]:
    source = iter(all_runs)
    while batch := list(itertools.islice(source, _BATCH)):
        yield batch


def _record(run: Run) -> TaskRecord:
    return TaskRecord(
        task_id=run.task_id,
        state=run.state,
        result=_payload(run.result),
        traceback=run.traceback,
        name=run.name,
        args=_payload(run.args),
        kwargs=_payload(run.kwargs),
        queue=run.queue,
        worker=run.worker,
        retries=run.retries,
        children=_payload(run.children),
        group_id=run.group_id,
        group_index=run.group_index,
        parent_id=run.parent_id,
        root_id=run.root_id,
        failure_group=run.failure_group,
        sent_at=_moment(run.sent),
        started_at=_moment(run.started),
        done_at=_moment(run.done),
        expires_at=None if run.done is None else _moment(run.done + KEPT),
    )


def _payload(text: str | None) -> Payload | None:
    return None if text is None else Payload(text.encode())


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _copy_alone(url: str, lines: Path) -> float:
    """Write lines by one COPY into rootcellar's table; return the seconds."""
    layout = OwnLayout()
    layout.create(url)
    columns = sql.SQL(", ").join(map(sql.Identifier, layout.columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(TABLE), columns)
    began = time.monotonic()
    with (
        lines.open("rb") as source,
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        while block := source.read(1 << 16):
            copy.write(block)
    return time.monotonic() - began


def _run(*arguments: str) -> Command:
    """Run the command `rootcellar`; return how long it took, its memory, and the JSON that it printed."""
    program = str(Path(sys.executable).with_name("rootcellar"))
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([program, *arguments], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            raise RuntimeError(f"rootcellar {arguments[0]} ended with {process.returncode}")
        out.seek(0)
        return Command(seconds, usage.ru_maxrss * 1024, json.load(out))


def _loop(source: str, target: str, ids: Sequence[str]) -> float:
    """Read each result and store it, as a script does; return the seconds."""
    one, other = _app(source), _app(target).backend
    other.store_result("first", 1, "SUCCESS")
    began = time.monotonic()
    for task_id in ids:
        result = one.AsyncResult(task_id)
        # the get of a task that has not ended would wait
        if result.ready():
            value = result.get(propagate=False)
            other.store_result(task_id, value, result.state, traceback=result.traceback)
    return time.monotonic() - began


def _app(url: str) -> Celery:
    return Celery("benchmark", backend=f"rootcellar+{url}", set_as_current=False)


def _section(measured: Measured, arguments: Sequence[str]) -> list[str]:
    command = shlex.join(["python", "-m", "benchmarks.migration.copying", *arguments])
    return [
        SECTION,
        "",
        ABOUT.format(rows=measured.rows),
        f"- Copying: `{command}`, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {machine()}",
        "",
        "| | | goal |",
        "| --- | --- | --- |",
        *(f"| {name} | {value} | {goal} |" for name, value, goal in measured.lines()),
        "",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
