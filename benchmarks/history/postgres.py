"""Writes runs to PostgreSQL by COPY: into rootcellar's own table, or into that of Celery's database backend."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Protocol

import psycopg
from celery import Celery
from celery.backends.database import DatabaseBackend
from psycopg import sql
from sqlalchemy import PickleType

from benchmarks.history.runs import SECOND, Run
from rootcellar.stores import open_store
from rootcellar.stores.base import HasSchema

#: rows in one transaction, and rows in one call of the driver
BATCH, CHUNK = 100_000, 1_000
TABLE = "celery_taskmeta"
#: how long results are kept
KEPT = 365 * 86_400 * SECOND
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid), pg_get_constraintdef(k.oid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
WHERE i.indrelid = 'celery_taskmeta'::regclass
"""


class Layout(Protocol):
    """A table, and how a run becomes one of its rows."""

    #: the columns that are written
    columns: tuple[str, ...]

    def create(self, url: str) -> None:
        """Create the table, if it does not exist."""

    def line(self, run: Run) -> str | None:
        """Return the text of a run for COPY; ``None`` if this table has no row for it."""

    def finish(self, connection: psycopg.Connection) -> None:
        """Do what follows the last row."""


class OwnLayout:
    """The table of rootcellar.

    Args:
        kept: how long results are kept after their end, in microseconds.
    """

    columns: tuple[str, ...] = (
        *("task_id", "status", "result", "traceback", "name", "args", "kwargs", "worker", "retries", "queue"),
        *("children", "group_id", "group_index", "parent_id", "root_id", "date_sent", "date_started", "date_done"),
        *("expires_at", "failure_group"),
    )

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._time = Times("+00")

    def create(self, url: str) -> None:
        store = open_store(url)
        tables = store.ability(HasSchema)
        assert tables is not None
        tables.schema.create()
        store.close()

    def line(self, run: Run) -> str | None:
        time, done = self._time, run.done
        return "\t".join(
            (
                run.task_id,
                run.state,
                _text(run.result),
                _text(run.traceback),
                run.name,
                _text(run.args),
                _text(run.kwargs),
                run.worker or "\\N",
                str(run.retries),
                run.queue,
                run.children or "\\N",
                run.group_id or "\\N",
                "\\N" if run.group_index is None else str(run.group_index),
                run.parent_id or "\\N",
                run.root_id,
                time.text(run.sent),
                time.text(run.started),
                time.text(done),
                "\\N" if done is None else time.text(done + self._kept),
                "\\N" if run.failure_group is None else str(run.failure_group),
            )
        )

    def finish(self, connection: psycopg.Connection) -> None:
        pass


class CeleryLayout:
    """The table of Celery's database backend with ``result_extended``, as the installed version of Celery creates it.

    Until version 5.6 Celery pickles results; since 5.7 it stores them as JSON. It has no row for a task that has only
    been sent.
    """

    columns: tuple[str, ...] = (
        *("id", "task_id", "status", "result", "date_done", "traceback"),
        *("name", "args", "kwargs", "worker", "retries", "queue"),
    )

    def __init__(self) -> None:
        self._time = Times("")
        self._ids = itertools.count(1)
        self._has_children = self._is_pickled = False

    def create(self, url: str) -> None:
        app = Celery("history", set_as_current=False)
        app.conf.result_extended = True
        backend = DatabaseBackend(dburi=url.replace("postgresql://", "postgresql+psycopg://"), app=app)
        backend.ResultSession().close()
        found = backend.task_cls.__table__.columns
        self._is_pickled = isinstance(found["result"].type, PickleType)
        self._has_children = "children" in found
        if self._has_children:
            self.columns = (*CeleryLayout.columns, "children")

    def line(self, run: Run) -> str | None:
        if run.state == "SENT":
            return None
        fields = [
            str(next(self._ids)),
            run.task_id,
            run.state,
            self._result(run.result),
            self._time.text(run.done),
            _text(run.traceback),
            run.name,
            _bytes(run.args),
            _bytes(run.kwargs),
            run.worker or "\\N",
            str(run.retries),
            run.queue,
        ]
        if self._has_children:
            fields.append(_bytes(run.children))
        return "\t".join(fields)

    def _result(self, text: str | None) -> str:
        if not self._is_pickled:
            return _bytes(text or "null")
        return "\\\\x" + pickle.dumps(json.loads(text or "null"), pickle.HIGHEST_PROTOCOL).hex()

    def finish(self, connection: psycopg.Connection) -> None:
        connection.execute("SELECT setval('task_id_sequence', %s)", [next(self._ids)])


class Times:
    """Makes texts of microseconds since 1970.

    Args:
        zone: the end of each text.
    """

    def __init__(self, zone: str) -> None:
        self._zone = zone
        # formatting a moment from the beginning would take longer than everything else of a row
        self._of_day = [f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86_400)]
        self._days: dict[int, str] = {}

    def text(self, moment: int | None) -> str:
        """Return the text of a moment for COPY."""
        if moment is None:
            return "\\N"
        second, rest = divmod(moment, SECOND)
        day, second = divmod(second, 86_400)
        date = self._days.get(day)
        if date is None:
            date = self._days[day] = f"{datetime.fromtimestamp(day * 86_400, timezone.utc):%Y-%m-%d}"
        return f"{date} {self._of_day[second]}.{rest:06d}{self._zone}"


def _text(text: str | None) -> str:
    return "\\N" if text is None else text.translate(_ESCAPES) if "\\" in text or "\n" in text else text


def _bytes(text: str | None) -> str:
    return "\\N" if text is None else "\\\\x" + text.encode().hex()


def write(url: str, runs: Iterable[Run], layout: Layout, progress: Callable[[int], None]) -> int:
    """Write runs; return how many rows were written.

    The indexes of an empty table are created when it is full, which is faster.

    Args:
        url: of the database.
        runs: the runs.
        layout: the table.
        progress: called with the number of rows after each transaction.
    """
    layout.create(url)
    lines = (line for run in runs if (line := layout.line(run)) is not None)
    written = 0
    with psycopg.connect(url, autocommit=True) as connection, _without_indexes(connection):
        while batch := _write_batch(connection, layout.columns, lines):
            written += batch
            progress(written)
        layout.finish(connection)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"VACUUM (ANALYZE) {TABLE}")
    return written


def _write_batch(connection: psycopg.Connection, columns: tuple[str, ...], lines: Iterator[str]) -> int:
    """Write one transaction; return its rows: 0 if nothing is left."""
    copy_to = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(TABLE), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    count = 0
    with connection.cursor() as cursor, cursor.copy(copy_to) as copy:
        while count < BATCH and (chunk := list(itertools.islice(lines, CHUNK))):
            copy.write("\n".join(chunk) + "\n")
            count += len(chunk)
    return count


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    """Drop the indexes of the table, if it is empty, and create them again at the end."""
    if connection.execute("SELECT EXISTS (SELECT FROM celery_taskmeta)").fetchone() == (True,):
        yield
        return
    indexes = connection.execute(_INDEXES).fetchall()
    for name, _, constraint in indexes:
        is_index = constraint is None
        statement = "DROP INDEX {}" if is_index else f"ALTER TABLE {TABLE} DROP CONSTRAINT {{}}"
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
    yield
    connection.execute("SET maintenance_work_mem = '512MB'")
    for name, definition, constraint in indexes:
        if constraint is None:
            connection.execute(definition)
        else:
            added = sql.SQL(f"ALTER TABLE {TABLE} ADD CONSTRAINT {{}} {constraint}").format(sql.Identifier(name))
            connection.execute(added)
