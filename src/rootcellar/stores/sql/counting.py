"""Keeps and reads the counts beside the rows, for all SQL stores: see ``docs/statistics.md`` for the idea.

All that a pass or an answer reads is of one snapshot, so that a row is counted once, also if it is deleted or stored
again at the same moment.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from rootcellar.stores.counting import Question, Unit
from rootcellar.stores.fields import EARLIEST, LATEST
from rootcellar.stores.sql.cells import Line, line_of
from rootcellar.stores.sql.statements import fill_in

C = TypeVar("C")

#: the version of what the tables contain; another one is counted again
VERSION = 1
#: how long minutes and hours are kept; days are kept for ever
MINUTES_KEPT = timedelta(hours=3)
HOURS_KEPT = timedelta(days=100)
#: the first day that is counted, and the first one that is not
ALWAYS, LAST = EARLIEST, LATEST.replace(hour=0, minute=0, second=0, microsecond=0)
#: the tables, by their keys, and the endings of their names; then the same of the indexes
TABLES = {
    key: f"_{key}" for key in ("minute", "hour", "day", "failure_hour", "failure", "name", "gone", "dirty", "roll")
}
INDEXES = {
    f"{key}_index": f"_{key}_idx"
    for key in ("minute", "hour", "hour_name", "day", "failure_hour", "failure_hour_group", "gone")
}
#: what the lines of a pass count apart, by the keys in ``tallied``
KEYS = {"name_key": "coalesce(name, '')", "queue_key": "coalesce(queue, '')", "group_key": "failure_group"}
_ROLL_COLUMNS = (
    *("version", "system_id", "horizon", "passed_at", "recounted_at"),
    *("minutes_from", "hours_from", "hours_until", "days_from", "days_until"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The server at the moment of a snapshot.

    Attributes:
        now: its time.
        horizon: every row that this snapshot does not see has this marker or a larger one, so that a later pass finds
            it; ``None`` if the server's rows have no marker.
        next_marker: no row has this marker or a larger one yet; ``None`` without markers.
        system: the identity of the server's data; ``None`` if it is not known.
    """

    now: datetime
    horizon: int | None = None
    next_marker: int | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """What is counted.

    Attributes:
        version: the version of the cells; 0 if nothing was ever counted.
        system_id: the server's data that was counted.
        horizon: rows at or above this marker may not be counted yet.
        passed_at: the time of the last pass.
        recounted_at: when the last hours were all counted again, on a server without markers.
        minutes_from: minutes are counted from here.
        hours_from, hours_until: hours are counted from here, to here.
        days_from, days_until: the same for days.
    """

    version: int
    system_id: str | None
    horizon: int | None
    passed_at: datetime
    recounted_at: datetime
    minutes_from: datetime
    hours_from: datetime
    hours_until: datetime
    days_from: datetime
    days_until: datetime

    @classmethod
    def begun(cls, present: Present) -> Roll:
        """Return a state in which nothing is counted. Counting goes forward from now, and then backward."""
        hour = Unit.HOUR.floor(present.now)
        return cls(
            version=VERSION,
            system_id=present.system,
            horizon=present.horizon,
            passed_at=present.now,
            recounted_at=present.now,
            minutes_from=hour,
            hours_from=hour,
            hours_until=hour,
            days_from=Unit.DAY.floor(hour),
            days_until=Unit.DAY.floor(hour),
        )

    def is_of(self, present: Present) -> bool:
        """Return whether this describes the data of this server: not those of an older release or another cluster."""
        if self.version != VERSION:
            return False
        if self.system_id is not None and present.system is not None and self.system_id != present.system:
            return False
        if self.horizon is None and present.horizon is not None:
            # the index of the markers is new
            return False
        # a marker from the future is one of another cluster
        return self.horizon is None or present.next_marker is None or self.horizon <= present.next_marker

    @property
    def is_whole(self) -> bool:
        """Whether all hours in the past are counted."""
        return self.hours_from <= ALWAYS

    def has_hour(self, hour: datetime) -> bool:
        """Return whether an hour is counted."""
        return self.hours_from <= hour < self.hours_until

    def has_day(self, day: datetime) -> bool:
        """Return whether a day is counted."""
        return self.days_from <= day < self.days_until


@dataclass(frozen=True, slots=True)
class Dirty:
    """A minute, or a whole hour, that must be counted again.

    Attributes:
        start: its begin.
        is_hour: whether it is a whole hour.
        id: its number if it is stored; ``None`` if it was only found.
    """

    start: datetime
    is_hour: bool = False
    id: int | None = None

    @property
    def hour(self) -> datetime:
        """The hour that it is in."""
        return Unit.HOUR.floor(self.start)

    def minutes(self) -> tuple[datetime, datetime]:
        """Return from when to when it lasts."""
        return self.start, self.start + (Unit.HOUR if self.is_hour else Unit.MINUTE).length


def taken_back(tallied: str) -> str:
    """Return the fragment ``tallied`` with every sum negated, for deleted rows that exist again."""
    for summed in (
        "count(*) AS n,",
        "coalesce(sum(retries), 0) AS retries,",
        "sum(run) AS run_sum,",
        "sum(wait) AS wait_sum,",
    ):
        assert summed in tallied, summed
        tallied = tallied.replace(summed, f"-{summed}")
    return tallied


class Server(ABC, Generic[C]):
    """How the statements of ``statistics.sql`` are run on one kind of server.

    Args:
        statements: the statements by name.
    """

    #: the most seconds that one transaction of a pass takes
    longest_transaction: ClassVar[float] = 1.0
    keys: ClassVar[Mapping[str, str]] = KEYS
    #: the table of each unit, by its key
    tables: Mapping[Unit, str]

    def __init__(self, statements: Mapping[str, str], tables: Mapping[str, str]) -> None:
        self.sql = dict(statements)
        self.names = dict(tables)
        self.tables = {unit: tables[unit.value] for unit in Unit}
        #: the numbers of the passes, by which the kinds of work take turns
        self.turns = itertools.count()

    # -- different for each server

    @abstractmethod
    def snapshot(self, connection: C, *, is_write: bool) -> AbstractContextManager[object]:
        """Begin a transaction whose statements all see the same moment."""

    @abstractmethod
    def rows(self, connection: C, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a query."""

    @abstractmethod
    def execute(self, connection: C, text: str, params: Mapping[str, Any]) -> int:
        """Run a statement; return how many rows it changed."""

    @abstractmethod
    def execute_many(self, connection: C, text: str, params: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of these parameters."""

    @abstractmethod
    def date(self, moment: datetime) -> Any:
        """Return a date as a parameter."""

    @abstractmethod
    def read_date(self, value: Any) -> datetime:
        """Return the date in a column, in UTC."""

    @abstractmethod
    def parameter(self, name: str) -> str:
        """Return a named parameter in a statement."""

    @abstractmethod
    def unit(self, unit: Unit) -> Any:
        """Return a unit as the parameter of ``lines``."""

    @abstractmethod
    def is_conflict(self, exc: BaseException) -> bool:
        """Return whether a statement failed because another pass runs."""

    @abstractmethod
    def present(self, connection: C) -> Present:
        """Return the server at the moment of the snapshot."""

    def has_rows_of_the_past(self) -> bool:
        """Return whether rows that were counted as deleted may exist, because they were moved to another table."""
        return False

    @abstractmethod
    def found_dirty(self, connection: C, roll: Roll) -> Iterator[Dirty]:
        """Yield the minutes and hours whose rows may have changed since the last pass."""

    def prepare(self, connection: C) -> None:
        """Do what makes a pass faster, before its transaction."""

    def recount(self, roll: Roll, present: Present) -> tuple[Roll, list[Dirty]]:
        """Return the hours that are counted again now and then, because no marker shows that they changed."""
        return roll, []

    # -- statements

    def ids(self, ids: Iterable[int]) -> Any:
        """Return numbers as a statement's parameter."""
        return list(ids)

    def all(
        self, connection: C, statement: str, params: Mapping[str, Any] | None = None, **texts: str
    ) -> list[tuple[Any, ...]]:
        """Run a query by its name; ``texts`` replace ``{key}`` in it."""
        return self.rows(connection, fill_in(self.sql[statement], texts), params or {})

    def do(self, connection: C, statement: str, params: Mapping[str, Any] | None = None, **texts: str) -> int:
        """Run a statement by its name; return how many rows it changed."""
        return self.execute(connection, fill_in(self.sql[statement], texts), params or {})

    def many(self, connection: C, statement: str, params: Sequence[Mapping[str, Any]], **texts: str) -> None:
        """Run a statement by its name for each of these parameters."""
        if params:
            self.execute_many(connection, fill_in(self.sql[statement], texts), params)

    def delete(self, connection: C, statement: str, ids: Sequence[int]) -> None:
        """Run a statement by its name that deletes rows by their numbers."""
        if ids:
            self.do(connection, statement, {"ids": self.ids(ids)})

    def window(self, since: datetime, until: datetime) -> dict[str, Any]:
        """Return the parameters of a time."""
        return {"since": self.date(since), "until": self.date(until)}

    def read_roll(self, connection: C, *, lock: bool = False) -> Roll | None:
        """Return what is counted; ``None`` if another pass holds the lock, or nothing was ever counted."""
        found = self.all(connection, "lock_roll" if lock else "read_roll")
        if not found:
            return None
        values: dict[str, Any] = dict(zip(_ROLL_COLUMNS, found[0], strict=True))
        if values["passed_at"] is None:
            return None
        dates = {name: self.read_date(values[name]) for name in _ROLL_COLUMNS[3:]}
        return Roll(**{**values, **dates})

    def lock(self, connection: C) -> bool:
        """Exclude other passes until the end of the transaction; return whether there is none."""
        return bool(self.all(connection, "lock_roll"))

    def save_roll(self, connection: C, roll: Roll) -> None:
        """Store what is counted."""
        values = {name: getattr(roll, name) for name in _ROLL_COLUMNS}
        values.update({name: self.date(values[name]) for name in _ROLL_COLUMNS[3:]})
        self.do(connection, "save_roll", values)

    def stored_dirty(self, connection: C) -> list[Dirty]:
        """Return what was remembered to be counted again."""
        return [
            Dirty(self.read_date(start), bool(is_hour), id_) for id_, start, is_hour in self.all(connection, "dirty")
        ]

    def gone_hours(self, connection: C) -> list[Dirty]:
        """Return the hours with deleted rows that are not in the cells yet."""
        return [Dirty(self.read_date(start), True) for (start,) in self.all(connection, "gone_hours")]

    def lines(
        self, connection: C, unit: Unit, since: datetime, until: datetime, question: Question | None = None
    ) -> list[Line]:
        """Count the rows that ended in a time."""
        selected, params = self.selected_rows(question)
        params |= {**self.window(since, until), "unit": self.unit(unit)}
        keys = self.keys if question is None else self._asked_keys(question)
        found = self.all(connection, "lines", params, selected=selected, **keys)
        return [line_of(row, self.read_date) for row in found]

    def older_lines(
        self, connection: C, unit: Unit, since: datetime, until: datetime, question: Question
    ) -> list[Line]:
        """Count the rows that were moved to another table and ended in a time."""
        return []

    def _asked_keys(self, question: Question) -> dict[str, str]:
        """Return what an answer counts apart: fewer lines take less time."""
        keys = {**self.keys, "group_key": "NULL"}
        if not question.by_name:
            keys["name_key"] = "''"
        if not question.by_queue:
            keys["queue_key"] = "''"
        return keys

    def gone_lines(self, connection: C, since: datetime, until: datetime) -> list[tuple[int, bool, Line]]:
        """Return the lines of deleted rows that are not in the cells: number, whether it is of an hour, line."""
        found = self.all(connection, "gone_lines", self.window(since, until))
        return [(row[0], bool(row[1]), line_of(row[2:], self.read_date)) for row in found]

    # -- conditions

    def selected_cells(self, question: Question | None) -> tuple[str, dict[str, Any]]:
        """Return the condition of a question for cells, and its parameters."""
        if question is None:
            return "", {}
        return self._conditions({"name": question.names, "queue": question.queues, "status": question.states})

    def selected_rows(self, question: Question | None) -> tuple[str, dict[str, Any]]:
        """Return the condition of a question for tasks, which may have no name and no queue."""
        if question is None:
            return "", {}
        text = ""
        params: dict[str, Any] = {}
        for column, values in (("name", question.names), ("queue", question.queues), ("status", question.states)):
            if values is None:
                continue
            condition, more = self._in(column, [value for value in values if value])
            if "" in values:
                condition = f"({condition} OR {column} IS NULL)"
            text += f" AND {condition}"
            params |= more
        return text, params

    def _conditions(self, columns: Mapping[str, Sequence[Any] | None]) -> tuple[str, dict[str, Any]]:
        text: str = ""
        params: dict[str, Any] = {}
        for column, values in columns.items():
            if values is not None:
                condition, more = self._in(column, values)
                text += f" AND {condition}"
                params |= more
        return text, params

    def _in(self, column: str, values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
        if not values:
            return "1 = 0", {}
        params = {f"{column}_{number}": value for number, value in enumerate(values)}
        return f"{column} IN ({', '.join(map(self.parameter, params))})", params

    def selected_groups(self, groups: Collection[int] | None) -> tuple[str, dict[str, Any]]:
        """Return the condition for groups of failures, and its parameters."""
        return self._conditions({"failure_group": None if groups is None else list(groups)})
