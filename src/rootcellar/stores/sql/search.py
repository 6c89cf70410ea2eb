"""Renders a search as one SQL statement with parameters.

A rendered condition may find more records than are wanted, never fewer. Inside a negation, it may find fewer, never
more. NULL counts as false, so each negation is ``IS NOT TRUE``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.fields import EARLIEST, FieldReader, clamped
from rootcellar.stores.search import (
    Always,
    BeyondAscii,
    Bounds,
    Condition,
    Contains,
    Dated,
    Equal,
    ErrorType,
    Every,
    Failed,
    Found,
    Has,
    JsonHas,
    JsonLiteral,
    JsonNumber,
    JsonText,
    Lasted,
    Like,
    MoreHolds,
    Negated,
    OneOf,
    Opaque,
    Position,
    Search,
    Segment,
    Sized,
    Some,
    Timed,
    Within,
)
from rootcellar.stores.sql.rows import TASK_COLUMNS, TYPED_TEXT
from rootcellar.stores.sql.statements import fill_in

#: a longer time, or a larger number, is no number of any column; in microseconds more than 9,000 years
_LARGEST = 3 * 10**17
_ONE = "SELECT {columns}, {place} AS place FROM {task} WHERE {where} ORDER BY {order} LIMIT {limit}"
_ONE_OF_SEVERAL = "SELECT * FROM ({one}) AS {name}"
_SEVERAL = "SELECT * FROM ({together}) AS t ORDER BY {order} LIMIT {limit}"
_MICROSECOND = timedelta(microseconds=1)
#: more names than these are not searched one by one
MAX_NAMES = 20
#: columns that a list does not show
UNLISTED = frozenset(
    {"traceback"} | {f"{name}{suffix}" for name in ("result", "children", "stamps") for suffix in ("", "_exact")}
)
_SPANS = {"runtime": ("date_started", "date_done"), "wait": ("date_sent", "date_started")}

Path = tuple["str | None", ...]


class Renderer(ABC):
    """Renders one search for one server.

    Args:
        search: the search.
        task: the quoted name of the table.
        select: returns the SQL that reads a column.

    Attributes:
        params: the parameters of the statement, once it is rendered.
        is_anywhere: whether a condition is for a row in any segment.
        holds_placed: the statement that counts the holds that were ever placed.
    """

    true: ClassVar[str] = "TRUE"
    false: ClassVar[str] = "FALSE"

    is_anywhere: bool = False
    holds_placed: str = ""

    def __init__(self, search: Search, task: str, select: Callable[[str], str]) -> None:
        self.search = search
        self.params: dict[str, Any] = {}
        self._task = task
        self._select = select

    # -- different for each server

    @abstractmethod
    def placeholder(self, name: str) -> str:
        """Return the placeholder of a parameter."""

    @abstractmethod
    def date(self, moment: datetime) -> Any:
        """Return a date as a parameter."""

    @abstractmethod
    def is_like(self, column: str, parts: Sequence[str]) -> str:
        """Return the condition that a text consists of parts, with any text between them; every character counts."""

    @abstractmethod
    def is_one_of(self, column: str, texts: Sequence[str]) -> str:
        """Return the condition that a column is one of several texts, byte for byte, by its index if it has one."""

    @abstractmethod
    def has_text(self, column: str, text: str) -> str:
        """Return the condition that a column contains an ASCII text in any case."""

    @abstractmethod
    def is_beyond_ascii(self, column: str) -> str:
        """Return the condition that a column contains a character that is not ASCII."""

    @abstractmethod
    def size_of(self, column: str) -> str:
        """Return the number of bytes of a column of JSON text."""

    @abstractmethod
    def span_between(self, start: str, end: str) -> str:
        """Return the microseconds between two columns of dates as a whole number, or NULL."""

    @abstractmethod
    def json_has(self, column: str, path: Path, is_widened: bool) -> str:
        """Return the condition that there is a value at a path."""

    @abstractmethod
    def json_text(self, column: str, path: Path, parts: Sequence[str], is_widened: bool) -> str:
        """Return the condition that there is a text at a path."""

    @abstractmethod
    def json_number(self, column: str, path: Path, bounds: Bounds, is_widened: bool) -> str:
        """Return the condition that there is a number at a path."""

    @abstractmethod
    def json_literal(self, column: str, path: Path, value: bool | None, is_widened: bool) -> str:
        """Return the condition that there is a literal at a path."""

    @abstractmethod
    def error_type(self, parts: Sequence[str], is_widened: bool) -> str:
        """Return the condition that the exception in the result has this type."""

    # -- the statement

    @property
    def task(self) -> str:
        """The quoted name of the table."""
        return self._task

    def selected(self, column: str) -> str:
        """Return the SQL that reads a column."""
        return self._select(column)

    def param(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        name = f"p{len(self.params)}"
        self.params[name] = value
        return self.placeholder(name)

    def statement(self) -> str:
        """Return the statement; call it once."""
        search = self.search
        if 1 < len(search.names) <= MAX_NAMES and self._is_finished and search.sort is None:
            # the index of names has no common order of several names, so each is read by itself
            each = [self._one(self.is_one_of("name", [name])) for name in search.names]
            together = " UNION ALL ".join(
                fill_in(_ONE_OF_SEVERAL, {"one": one, "name": f"t{number}"}) for number, one in enumerate(each)
            )
            order = self._order("place", "c_task_id")
            return fill_in(_SEVERAL, {"together": together, "order": order, "limit": str(self._limit)})
        names = self.is_one_of("name", search.names) if search.names else ""
        return self._one(names)

    def _one(self, names: str) -> str:
        where = [self.segment(), names, *self._window(), *self._keyset(), *self._of_condition()]
        kept = [each for each in where if each and each != self.true]
        # with the same names as the columns, ORDER BY would sort by what is read of them
        columns = ", ".join(f"{self._column(column)} AS c_{column}" for column in TASK_COLUMNS)
        return fill_in(
            _ONE,
            {
                "columns": columns,
                "place": self.place,
                "task": self._task,
                "where": " AND ".join(kept) or self.true,
                "order": self._order(self.place),
                "limit": str(self._limit),
            },
        )

    def _of_condition(self) -> list[str]:
        condition = self.search.condition
        return [self.render(term) for term in (condition.terms if isinstance(condition, Every) else (condition,))]

    def _column(self, column: str) -> str:
        if not self.search.with_values and column in UNLISTED:
            return "NULL"
        return self._select(column)

    @property
    def _limit(self) -> int:
        return int(self.search.limit)

    # -- the place in the list

    @property
    def moment(self) -> str:
        """The SQL of the time of a record in this segment."""
        if self.is_anywhere:
            return "coalesce(date_done, date_started, date_sent)"
        return "date_done" if self._is_finished else "coalesce(date_started, date_sent)"

    @property
    def _is_finished(self) -> bool:
        return self.search.segment in (Segment.FINISHED, Segment.OLDER)

    @property
    def place(self) -> str:
        """The SQL of the value by which the segment is sorted, before the id."""
        sort = self.search.sort
        if sort is None:
            return "0" if self.search.segment is Segment.TIMELESS else self.moment
        if sort.by == "done":
            return "date_done"
        return "retries" if sort.by == "retries" else self.span_between(*_SPANS[sort.by])

    @property
    def is_by_date(self) -> bool:
        """Whether the segment is sorted by a date."""
        sort = self.search.sort
        return sort.by == "done" if sort is not None else self.search.segment is not Segment.TIMELESS

    def _order(self, place: str, task_id: str = "task_id") -> str:
        direction = "DESC" if self._is_descending else "ASC"
        if self.search.sort is None and self.search.segment is Segment.TIMELESS:
            return f"{task_id} {direction}"
        return f"{place} {direction}, {task_id} {direction}"

    @property
    def _is_descending(self) -> bool:
        return self.search.sort is None or self.search.sort.is_descending

    def segment(self) -> str:
        """Return the condition that a record belongs to the segment, as far as the window does not say so."""
        if self.search.sort is not None:
            return f"{self.place} IS NOT NULL"
        match self.search.segment:
            case Segment.FINISHED | Segment.OLDER:
                # a range of time says the same
                return "" if self.search.since or self.search.until else "date_done IS NOT NULL"
            case Segment.UNFINISHED:
                return f"date_done IS NULL AND {self.moment} IS NOT NULL"
        return f"date_done IS NULL AND {self.moment} IS NULL"

    def _window(self) -> list[str]:
        if self.search.segment is Segment.TIMELESS:
            return []
        moment = self.moment
        found = []
        if self.search.since is not None:
            found.append(f"{moment} >= {self.param(self.date(self.search.since))}")
        if self.search.until is not None:
            found.append(f"{moment} < {self.param(self.date(self.search.until))}")
        return found

    def _keyset(self) -> list[str]:
        after = self.search.after
        if after is None:
            return []
        sign = "<" if self._is_descending else ">"
        is_later = f"task_id {sign} {self.param(after.task_id)}"
        if self.search.sort is None and self.search.segment is Segment.TIMELESS:
            return [is_later]
        place = self.param(self.date(NO_DATE + after.moment * _MICROSECOND) if self.is_by_date else after.moment)
        return [f"{self.place} {sign}= {place}", f"({self.place} {sign} {place} OR {is_later})"]

    # -- conditions

    def render(self, condition: Condition, is_widened: bool = True) -> str:
        """Return the SQL of a condition.

        Args:
            condition: the condition.
            is_widened: whether it may hold for more records, if the server cannot say it exactly; else for fewer.
        """
        match condition:
            case Always(holds):
                return self.true if holds else self.false
            case MoreHolds(known):
                return f"(({self.holds_placed}) > {self.param(known)})"
            case Every(terms):
                return f"({' AND '.join(self.render(term, is_widened) for term in terms)})"
            case Some(terms):
                return f"({' OR '.join(self.render(term, is_widened) for term in terms)})"
            case Negated(term):
                return f"({self.render(term, not is_widened)}) IS NOT TRUE"
            case Has("date_done"):
                return f"(date_done IS NOT NULL AND date_done <> {self.param(self.date(NO_DATE))})"
            case Has(column):
                return f"{column} IS NOT NULL"
            case Like(column, parts):
                return self.is_like(column, parts)
            case OneOf("status", texts) if self._is_failure(texts) and is_widened:
                return f"(status IN ('FAILURE', 'REVOKED') AND {self.is_one_of('status', texts)})"
            case OneOf(column, texts):
                return self.is_one_of(column, texts)
            case Contains(column, text):
                return self.has_text(self.as_text(column), text)
            case BeyondAscii(column):
                return self.is_beyond_ascii(self.as_text(column))
            case Equal(column, numbers):
                return f"{column} IN ({', '.join(map(self.param, numbers))})"
            case Within(column, bounds):
                return self.within(column, bounds)
            case Sized(bounds):
                return self.within(self.size_of("result"), bounds)
            case Lasted(start, end, bounds):
                return self._lasted(start, end, bounds)
            case Dated(column, since, until):
                return self._dated(column, since, until)
            case Timed(since, until):
                return self._timed(since, until)
            case Failed():
                return self._failed()
            case Opaque(column):
                return self._opaque(column)
        return self._of_json(condition, is_widened)

    def _of_json(self, condition: Condition, is_widened: bool) -> str:
        match condition:
            case ErrorType(parts):
                return self.error_type(parts, is_widened)
            case JsonHas(column, path):
                return self.json_has(column, path, is_widened)
            case JsonText(column, path, parts):
                return self.json_text(column, path, parts, is_widened)
            case JsonNumber(column, path, bounds):
                return self.json_number(column, path, bounds, is_widened)
            case JsonLiteral(column, path, value):
                return self.json_literal(column, path, value, is_widened)
        raise AssertionError(condition)

    def as_text(self, column: str) -> str:
        """Return the SQL that reads a column as text."""
        return column

    def guess(self, is_widened: bool) -> str:
        """Return the condition for what a server cannot say: true where it may hold for more records, else false."""
        return self.true if is_widened else self.false

    def within(self, value: str, bounds: Bounds) -> str:
        """Return the condition that a whole number is within bounds, both ends included."""
        low, high = bounds.low, bounds.high
        if (low is not None and low > _LARGEST) or (high is not None and high < -_LARGEST):
            return self.false
        if low is not None and low == high:
            return f"{value} = {self.param(int(low))}"
        found = [f"{value} IS NOT NULL"] if low is None and high is None else []
        if low is not None:
            found.append(f"{value} >= {self.param(int(max(low, Decimal(-_LARGEST))))}")
        if high is not None:
            found.append(f"{value} <= {self.param(int(min(high, Decimal(_LARGEST))))}")
        return f"({' AND '.join(found)})"

    def _lasted(self, start: str, end: str, bounds: Bounds | None) -> str:
        is_known = f" AND {self.render(Has('date_done'))}" if end == "date_done" else ""
        if bounds is None:
            return f"({start} IS NOT NULL AND {end} IS NOT NULL{is_known})"
        return f"({self.within(self.span_between(start, end), bounds)}{is_known})"

    def _dated(self, column: str, since: datetime | None, until: datetime | None) -> str:
        found = [] if column != "date_done" or not _has_no_date(since, until) else [self.render(Has("date_done"))]
        if since is not None:
            found.append(f"{column} >= {self.param(self.date(since))}")
        if until is not None:
            found.append(f"{column} < {self.param(self.date(until))}")
        return f"({' AND '.join(found or [f'{column} IS NOT NULL'])})"

    def _timed(self, since: datetime | None, until: datetime | None) -> str:
        if self.search.segment is Segment.TIMELESS:
            return self.false
        moment = self.moment
        found = [f"{moment} IS NOT NULL"] if since is None and until is None else []
        if since is not None:
            found.append(f"{moment} >= {self.param(self.date(since))}")
        if until is not None:
            found.append(f"{moment} < {self.param(self.date(until))}")
        return f"({' AND '.join(found)})"

    def _failed(self) -> str:
        if self._is_finished:
            # the words of the index of failures
            return "status IN ('FAILURE', 'REVOKED')"
        return "(status IN ('FAILURE', 'REVOKED') OR (status = 'RETRY' AND date_done IS NULL))"

    def _is_failure(self, texts: Sequence[str]) -> bool:
        """Return whether the index of failures finds these states; it is used if its own words are there."""
        return self._is_finished and {"FAILURE", "REVOKED"}.issuperset(texts)

    def _opaque(self, column: str) -> str:
        return f"({column}_exact IS NOT NULL AND {column}_exact <> {self.param(TYPED_TEXT)})"

    def found(self, record: TaskRecord, place: Any) -> Found:
        """Return a record with its place in the list.

        Args:
            record: the record.
            place: the value of the statement's last column.
        """
        moment = self.place_of(place) if self.is_by_date else int(place)
        return Found(record, Position(self.search.segment, moment, record.task_id))

    def place_of(self, value: Any) -> int:
        """Return a date that was read, in microseconds since 1970; a damaged one counts as the earliest."""
        moment = FieldReader().moment("place", value, self.read_date) or EARLIEST
        return (moment - NO_DATE) // _MICROSECOND

    def read_date(self, value: Any) -> datetime:
        """Return a date that was read."""
        return clamped(value)


def _has_no_date(since: datetime | None, until: datetime | None) -> bool:
    return (since is None or since <= NO_DATE) and (until is None or until > NO_DATE)


# -- texts of patterns and paths


def like_of(parts: Sequence[str]) -> str:
    """Return the pattern of LIKE, with the backslash as its escape, of parts with any text between them."""
    return "%".join(re.sub(r"([\\%_])", r"\\\1", part) for part in parts)


def glob_of(parts: Sequence[str]) -> str:
    """Return the pattern of GLOB of parts with any text between them."""
    return "*".join(re.sub(r"([\[?*])", r"[\1]", part) for part in parts)


def is_index(step: str) -> bool:
    """Return True for a step that is the index of a list, or the key of an object."""
    return step.isascii() and step.isdigit() and len(step) < 10
