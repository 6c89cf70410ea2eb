"""Counts beside the rows in MySQL and MariaDB."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pymysql

from rootcellar.records import TaskRecord
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.counting import Unit
from rootcellar.stores.fields import clamped
from rootcellar.stores.mysql.driver import Connection
from rootcellar.stores.mysql.failures import DENIED, LOCK_WAIT, code_of
from rootcellar.stores.mysql.schema import PACKAGE, table_names
from rootcellar.stores.sql.by_date import ByDate
from rootcellar.stores.sql.counting import KEYS, Present, taken_back
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: how many characters of a date say the day, the hour and the minute
_LENGTHS = {Unit.DAY: 10, Unit.HOUR: 13, Unit.MINUTE: 16}
_DELETED_IN_ONE_STATEMENT = 500
#: MySQL's error for a row that is locked; MariaDB has the one of a wait
_LOCKED = 3572


def statements(options: StoreOptions) -> dict[str, str]:
    """Return the statements of ``statistics.sql`` by name."""
    found = load_statements(PACKAGE, "statistics.sql", in_parameterized(table_names(options)))
    fragments = {"tallied": found["tallied"], "timed": found["timed"]}
    back = fill_in(found["note_gone"], {**fragments, "tallied": taken_back(found["tallied"])})
    found = {name: fill_in(text, fragments) for name, text in found.items()}
    found["note_gone"] = fill_in(found["note_gone"], KEYS)
    found["note_back"] = fill_in(back, KEYS)
    return found


class MySQLCounts(ByDate[Connection]):
    """Runs the statements of ``statistics.sql``.

    Args:
        options: the names of the tables.
    """

    def __init__(self, options: StoreOptions) -> None:
        super().__init__(statements(options), in_parameterized(table_names(options)))
        self._has_warned = False

    @contextmanager
    def snapshot(self, connection: Connection, *, is_write: bool) -> Iterator[None]:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with connection.transaction():
            yield

    def mark_late(self, connection: Connection, record: TaskRecord) -> None:
        with self._if_allowed():
            super().mark_late(connection, record)

    def mark_ends(self, connection: Connection, ends: Iterable[datetime]) -> None:
        with self._if_allowed():
            super().mark_ends(connection, ends)

    @contextmanager
    def _if_allowed(self) -> Iterator[None]:
        """Go on if this user may not mark what must be counted again."""
        try:
            yield
        except pymysql.Error as exc:
            if code_of(exc) not in DENIED:
                raise
            # a result is more important than its count: this user has the rights of an earlier release
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "Late results are counted later, because the rights of this user are those of an earlier release: "
                    "run what `rootcellar schema grants` prints. [%s]",
                    exc.args[-1],
                )

    def rows(self, connection: Connection, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.rows(text, params)

    def execute(self, connection: Connection, text: str, params: Mapping[str, Any]) -> int:
        return connection.execute(text, params)

    def execute_many(self, connection: Connection, text: str, params: Sequence[Mapping[str, Any]]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(text, params)

    def date(self, moment: datetime) -> str:
        return clamped(moment).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def read_date(self, value: datetime | str) -> datetime:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=timezone.utc)

    def parameter(self, name: str) -> str:
        return f"%({name})s"

    def unit(self, unit: Unit) -> int:
        return _LENGTHS[unit]

    def delete(self, connection: Connection, statement: str, ids: Sequence[int]) -> None:
        # for a list, the optimizer may scan the table, and a scan locks the gaps into which workers insert
        for start in range(0, len(ids), _DELETED_IN_ONE_STATEMENT):
            some = ids[start : start + _DELETED_IN_ONE_STATEMENT]
            self.do(connection, statement, ids=" UNION ALL ".join(f"SELECT {number:d} AS id" for number in some))

    def is_conflict(self, exc: BaseException) -> bool:
        return isinstance(exc, pymysql.Error) and code_of(exc) in (LOCK_WAIT, _LOCKED)

    def present(self, connection: Connection) -> Present:
        ((now,),) = self.all(connection, "present")
        return Present(now=self.read_date(now))
