"""``python -m benchmarks.archive.writing``: archive results of a PostgreSQL, and measure rate, size and memory."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from benchmarks.machine import machine
from benchmarks.sections import write_section
from tests.servers import MissingServer, PostgresServer

#: the section of RESULTS.md that this command writes begins with this line
SECTION = "## Archiving"
ABOUT = """\
Written by `python -m benchmarks.archive.writing`; no figure by hand. {rows:,} results of {days:g} days in PostgreSQL, \
with arguments, are moved into one file for each day. The command runs in a process of its own, whose peak of memory \
is that of the whole process, with Python and pyarrow. "The table" is without its indexes.
"""

_CHILD = """
import json, resource, sys
from benchmarks.archive.writing import archive_in_this_process
done = archive_in_this_process(sys.argv[1], sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({**done, "peak": peak}))
"""


@dataclass(frozen=True)
class Measured:
    """What a run has shown. Sizes are in bytes, times in seconds."""

    rows: int
    files: int
    seconds: float
    longest_commit: float
    longest_rows: int
    file_bytes: int
    table_bytes: int
    whole_bytes: int
    index_bytes: int
    peak: int

    def lines(self) -> list[tuple[str, str]]:
        """Return the rows of the table in RESULTS.md."""
        return [
            ("rows a second, from the first row read to the last commit", f"{self.rows / self.seconds:,.0f}"),
            (
                "the longest transaction of a commit",
                f"{self.longest_commit:.1f} s for a file of {self.longest_rows:,} rows",
            ),
            ("bytes of the files for each result", f"{self.file_bytes / self.rows:.0f}"),
            ("bytes of the table for each result", f"{self.table_bytes / self.rows:.0f}"),
            ("the files, as a part of the table", f"{self.file_bytes / self.table_bytes:.2f}"),
            ("the files, as a part of the table with its indexes", f"{self.file_bytes / self.whole_bytes:.2f}"),
            ("bytes of the index of archived ids for each result", f"{self.index_bytes / self.rows:.0f}"),
            ("peak of memory", f"{self.peak / 2**20:.0f} MB"),
        ]


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive.writing", description="Archive results, and measure rate, size and memory."
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many results (default %(default)s)")
    parser.add_argument("--days", type=float, default=30, help="how many days they are of (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="also write the section of RESULTS.md")
    options = parser.parse_args(arguments)
    if options.rows < 1 or options.days <= 0:
        parser.error("--rows and --days must be positive")
    try:
        with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
            measured = measure(server.create_database(), Path(folder), options.rows, options.days)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    text = "\n".join(_section(measured, options.rows, options.days, arguments))
    print(text)
    if options.write:
        write_section(SECTION, text)
    return 0


def measure(url: str, folder: Path, rows: int, days: float) -> Measured:
    """Fill a database, archive everything that has ended, and return what that took."""
    period = Period(rows=rows, days=days, end=datetime.now(timezone.utc))
    postgres.write(url, runs(period), postgres.OwnLayout(), lambda count: None)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE celery_taskmeta")
        table, whole = _sizes(connection, "celery_taskmeta")
    child = subprocess.run([sys.executable, "-c", _CHILD, url, str(folder)], capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(child.stderr)
    done = json.loads(child.stdout.splitlines()[-1])
    with psycopg.connect(url, autocommit=True) as connection:
        _, index = _sizes(connection, "celery_taskmeta_archived")
    return Measured(table_bytes=table, whole_bytes=whole, index_bytes=index, **done)


def archive_in_this_process(url: str, folder: str) -> dict[str, Any]:
    """Archive everything that has ended; return what it took."""
    from rootcellar.archive import writing
    from rootcellar.archive.places import open_place
    from rootcellar.archive.selecting import Selection, wanted_by_filter
    from rootcellar.history.history import History
    from rootcellar.history.holds import Holds
    from rootcellar.payloads import codec_of
    from rootcellar.stores import open_store
    from rootcellar.stores.archiving import Committed

    store, codec = open_store(url), codec_of({})
    history = History(store, codec)
    commits: list[tuple[float, int]] = []
    manifest = writing.manifest_of(store)
    commit_file = manifest.commit_file

    def timed(*args: Any) -> Committed:
        began = time.monotonic()
        committed = commit_file(*args)
        commits.append((time.monotonic() - began, committed.removed))
        return committed

    setattr(manifest, "commit_file", timed)  # noqa: B010
    wanted = wanted_by_filter(store, codec, history.parsed("state:any"), history.clock)
    archiving = writing.Archiving(store, open_place(folder), Selection(store, wanted), holds=Holds(store, codec))
    began = time.monotonic()
    done = archiving.run()
    seconds = time.monotonic() - began
    history.close()
    longest, of_rows = max(commits)
    return {
        "rows": done.archived,
        "files": done.files,
        "file_bytes": done.bytes,
        "seconds": seconds,
        "longest_commit": longest,
        "longest_rows": of_rows,
    }


def _sizes(connection: psycopg.Connection, table: str) -> tuple[int, int]:
    """Return the bytes of a table without its indexes, and with them."""
    found = connection.execute("SELECT pg_table_size(%s::regclass), pg_total_relation_size(%s::regclass)", [table] * 2)
    row = found.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _section(measured: Measured, rows: int, days: float, arguments: Sequence[str]) -> list[str]:
    command = shlex.join(["python", "-m", "benchmarks.archive.writing", *arguments])
    return [
        SECTION,
        "",
        ABOUT.format(rows=rows, days=days),
        f"- Archiving: `{command}`, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {machine()}",
        f"- {measured.rows:,} results were archived in {measured.files:,} files in {measured.seconds:.0f} s; "
        "tasks that have not ended stayed in the table",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in measured.lines()),
        "",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
