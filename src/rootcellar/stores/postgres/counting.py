"""Counts beside the rows in PostgreSQL.

Each row has a marker: the transaction that stored it last. A pass remembers the oldest transaction that was running, as
the horizon: every row with a lower marker was visible to it. So only rows from the horizon on may have changed since,
and a block range index finds them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.stores.base import StoreOptions
from rootcellar.stores.counting import Question, Unit
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.schema import older_names, table_names
from rootcellar.stores.sql.cells import Line, line_of
from rootcellar.stores.sql.counting import ALWAYS, KEYS, LAST, Dirty, Present, Roll, Server, taken_back
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements, quote_identifier

_PACKAGE = "rootcellar.stores.postgres"
#: only indexes are used: a sequential scan of the results would slow down the workers
_SETTINGS = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
#: the identity of the server's data
_SYSTEM = "(SELECT system_identifier::text FROM pg_control_system())"
#: seconds between two updates of the index of the markers, and the most time that one may wait for a lock
_SUMMARY_INTERVAL, _SUMMARY_WAIT = 30.0, "100ms"
#: without the index of the markers: how long after its end a row may be stored and still be found by its end
_OPEN = timedelta(minutes=15)


def statements(options: StoreOptions) -> dict[str, str]:
    """Return the statements of ``statistics.sql`` by name."""
    found = load_statements(_PACKAGE, "statistics.sql", in_parameterized(table_names(options)))
    fragments = {"tallied": found["tallied"], "timed": found["timed"]}
    names = {**in_parameterized(table_names(options)), **in_parameterized(older_names(options))}
    all_rows = fill_in(_ALL_ROWS, {**names, "columns": ", ".join(_TIMED_COLUMNS)})
    of_all = load_statements(_PACKAGE, "statistics.sql", {**names, "task": all_rows})
    back = fill_in(found["note_gone"], {**fragments, "tallied": taken_back(found["tallied"])})
    found = {name: fill_in(text, fragments) for name, text in found.items()}
    found["note_gone"] = fill_in(found["note_gone"], KEYS)
    of_older = load_statements(_PACKAGE, "statistics.sql", {**names, "task": names["older"]})
    found["older_lines"] = fill_in(of_older["lines"], fragments)
    # the same of both tables, if results are moved to an older one
    for name in _OF_ALL_ROWS:
        found[f"{name}_of_all"] = fill_in(of_all[name], fragments)
    # the deleted rows are those of the statement that deletes them; the others are read
    found["note_back"] = fill_in(back, KEYS).replace("FROM deleted\n", "FROM {deleted}\n")
    return found


#: questions about rows, and not about counts, and the columns that they read
_OF_ALL_ROWS = ("durations", "slowest")
_TIMED_COLUMNS = ("task_id", "status", "name", "queue", "date_sent", "date_started", "date_done")
_ALL_ROWS = "(SELECT {columns} FROM {task} UNION ALL SELECT {columns} FROM {older}) AS all_rows"


class PostgresCounts(Server[Connection]):
    """Runs the statements of ``statistics.sql``.

    Args:
        options: the names of the tables.
    """

    def __init__(self, options: StoreOptions) -> None:
        names = table_names(options)
        super().__init__(statements(options), in_parameterized(names))
        schema = f"{quote_identifier(options.task_schema)}." if options.task_schema else ""
        self._marker_index = schema + names["task_changed_index"]
        self._has_index = False
        #: whether there is an older table
        self.has_older: Callable[[], bool] = lambda: False
        self._may_read_system: bool | None = None
        self._may_summarize = True
        self._summarized_at = -_SUMMARY_INTERVAL

    @contextmanager
    def snapshot(self, connection: Connection, *, is_write: bool) -> Iterator[None]:
        mode = "" if is_write else ", READ ONLY"
        with connection.without_timeout(), connection.transaction():
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ{mode}; {_SETTINGS}", prepare=False)
            yield

    def has_rows_of_the_past(self) -> bool:
        return self.has_older()

    def older_lines(
        self, connection: Connection, unit: Unit, since: datetime, until: datetime, question: Question
    ) -> list[Line]:
        if not self.has_older():
            return []
        selected, params = self.selected_rows(question)
        params |= {**self.window(since, until), "unit": self.unit(unit)}
        text = fill_in(self.sql["older_lines"], {"selected": selected, **self._asked_keys(question)})
        found = connection.execute(text.encode(), params, prepare=False).fetchall()
        return [line_of(row, self.read_date) for row in found]

    def all(
        self, connection: Connection, statement: str, params: Mapping[str, Any] | None = None, **texts: str
    ) -> list[tuple[Any, ...]]:
        if statement in _OF_ALL_ROWS and self.has_older():
            text = fill_in(self.sql[f"{statement}_of_all"], texts)
            return connection.execute(text.encode(), params or {}, prepare=False).fetchall()
        return super().all(connection, statement, params, **texts)

    def rows(self, connection: Connection, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.execute(text, params).fetchall()

    def execute(self, connection: Connection, text: str, params: Mapping[str, Any]) -> int:
        return connection.execute(text, params).rowcount

    def execute_many(self, connection: Connection, text: str, params: Sequence[Mapping[str, Any]]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(text, params)

    def many(self, connection: Connection, statement: str, params: Sequence[Mapping[str, Any]], **texts: str) -> None:
        if statement != "insert_cell" or not params:
            super().many(connection, statement, params, **texts)
            return
        # COPY takes a tenth of the time of single statements
        table = texts["table"].replace("%%", "%")
        with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(params[0])}) FROM STDIN") as copy:
            for row in params:
                copy.write_row(tuple(row.values()))

    def date(self, moment: datetime) -> datetime:
        return moment

    def read_date(self, value: datetime) -> datetime:
        return value.astimezone(timezone.utc)

    def parameter(self, name: str) -> str:
        return f"%({name})s"

    def unit(self, unit: Unit) -> str:
        return unit.value

    def is_conflict(self, exc: BaseException) -> bool:
        return isinstance(exc, (psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable))

    def present(self, connection: Connection) -> Present:
        if self._may_read_system is None:
            ((self._may_read_system,),) = self.all(connection, "may_read_system")
        system_id = _SYSTEM if self._may_read_system else "NULL"
        ((now, horizon, next_marker, system),) = self.all(connection, "present", system=system_id)
        if not self._has_marker_index(connection):
            return Present(now=self.read_date(now), system=system)
        return Present(now=self.read_date(now), horizon=int(horizon), next_marker=int(next_marker), system=system)

    def _has_marker_index(self, connection: Connection) -> bool:
        """Return whether there is an index of the markers: a large table gets it after the upgrade."""
        if not self._has_index:
            ((self._has_index,),) = self.all(connection, "has_marker_index", {"index": self._marker_index})
        return self._has_index

    def found_dirty(self, connection: Connection, roll: Roll) -> Iterator[Dirty]:
        if roll.horizon is None:
            since = {"since": self.date(Unit.MINUTE.floor(roll.passed_at - _OPEN))}
            for (minute,) in self.all(connection, "recent_minutes", since):
                yield Dirty(self.read_date(minute))
            return
        for minute, hours in self.all(connection, "changed_minutes", {"horizon": roll.horizon}):
            if minute is not None:
                yield Dirty(self.read_date(minute))
            for hour in map(self.read_date, hours or ()):
                if ALWAYS <= hour < LAST:
                    yield Dirty(hour, True)

    def prepare(self, connection: Connection) -> None:
        if not self._may_summarize or time.monotonic() - self._summarized_at < _SUMMARY_INTERVAL:
            return
        self._summarized_at = time.monotonic()
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{_SUMMARY_WAIT}'")
                self.rows(connection, self.sql["summarize"], {"index": self._marker_index})
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            # only the owner may do it; without it, a pass reads more rows
            self._may_summarize = False
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.ReadOnlySqlTransaction,
            # on a standby
            psycopg.errors.ObjectNotInPrerequisiteState,
        ):
            # the next pass does it
            return
