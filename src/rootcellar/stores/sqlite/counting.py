"""Counts beside the rows in a SQLite file. A pass is short, because nothing else can be stored meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from rootcellar.stores.base import StoreOptions
from rootcellar.stores.counting import Unit, step_of
from rootcellar.stores.fields import clamped
from rootcellar.stores.sql import counting
from rootcellar.stores.sql.by_date import ByDate
from rootcellar.stores.sql.counting import Present
from rootcellar.stores.sql.statements import fill_in, load_statements
from rootcellar.stores.sqlite.schema import PACKAGE, table_names, transaction

#: what is counted apart; a damaged number of a group is none
KEYS = {**counting.KEYS, "group_key": "CASE WHEN typeof(failure_group) = 'integer' THEN failure_group END"}
#: how many characters of a date say the day, the hour and the minute
_LENGTHS = {Unit.DAY: 10, Unit.HOUR: 13, Unit.MINUTE: 16}


def statements(options: StoreOptions) -> dict[str, str]:
    """Return the statements of ``statistics.sql`` by name."""
    found = load_statements(PACKAGE, "statistics.sql", table_names(options))
    fragments = {key: found[key] for key in ("tallied", "timed", "readable")}
    back = fill_in(found["note_gone"], {**fragments, "tallied": counting.taken_back(fragments["tallied"])})
    found = {name: fill_in(text, fragments) for name, text in found.items()}
    found["note_gone"] = fill_in(found["note_gone"], KEYS)
    found["note_back"] = fill_in(back, KEYS)
    return found


def add_functions(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Add the functions to a connection that the statements need; return it."""
    connection.create_function("rootcellar_seconds", 2, _seconds, deterministic=True)
    connection.create_function("rootcellar_step", 1, _step, deterministic=True)
    return connection


def _seconds(start: Any, end: Any) -> float | None:
    """Return the seconds between two dates; ``None`` if one is missing or damaged, or the end is before the start."""
    if not isinstance(start, str) or not isinstance(end, str) or end < start:
        return None
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def _step(seconds: float | None) -> int | None:
    return None if seconds is None else step_of(seconds)


class SQLiteCounts(ByDate[sqlite3.Connection]):
    """Runs the statements of ``statistics.sql``.

    Args:
        options: the names of the tables.
    """

    longest_transaction = 0.05
    keys = KEYS

    def __init__(self, options: StoreOptions) -> None:
        super().__init__(statements(options), table_names(options))

    @contextmanager
    def snapshot(self, connection: sqlite3.Connection, *, is_write: bool) -> Iterator[None]:
        if is_write:
            with transaction(connection):
                yield
            return
        connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")

    def rows(self, connection: sqlite3.Connection, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.execute(text, dict(params)).fetchall()

    def execute(self, connection: sqlite3.Connection, text: str, params: Mapping[str, Any]) -> int:
        return connection.execute(text, dict(params)).rowcount

    def execute_many(self, connection: sqlite3.Connection, text: str, params: Sequence[Mapping[str, Any]]) -> None:
        connection.executemany(text, params)

    def date(self, moment: datetime) -> str:
        return clamped(moment).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def read_date(self, value: str) -> datetime:
        return datetime.fromisoformat(value).replace(tzinfo=timezone.utc)

    def parameter(self, name: str) -> str:
        return f":{name}"

    def unit(self, unit: Unit) -> int:
        return _LENGTHS[unit]

    def ids(self, ids: Iterable[int]) -> str:
        return json.dumps(list(ids))

    def is_conflict(self, exc: BaseException) -> bool:
        # a pass waits for the file like every other writer
        return False

    def present(self, connection: sqlite3.Connection) -> Present:
        return Present(now=datetime.now(timezone.utc))
