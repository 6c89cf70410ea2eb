"""What a search asks a store: a condition on the columns of tasks, an order, and the place where it continues.

A condition is a frozen tree. It may be *exact*, or match some records that are not wanted; it never leaves out one that
is. Each store renders it in the language of its server. In a condition, a record without a value does not match, and
its negation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Protocol, TypeAlias, runtime_checkable

from rootcellar.errors import StoreError
from rootcellar.records import TaskRecord


class SearchTooSlow(StoreError):
    """A statement of a search did not end within its time. Retryable: with more time, or at a quieter moment."""

    retryable = True


class Segment(IntEnum):
    """The parts of a list of tasks, in this order."""

    #: neither ended nor started nor sent at a known time; by id, descending
    TIMELESS = 0
    #: not ended; by the time when it started, or else was sent, and id, descending
    UNFINISHED = 1
    #: ended; by the time of its end and id, descending
    FINISHED = 2
    #: ended, and moved to the older table; in the same order
    OLDER = 3
    #: in the table that Celery created; by the number of the row, descending
    ADOPTED = 4


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list. It stays valid if the record that was there is deleted.

    Attributes:
        segment: the part of the list.
        moment: microseconds since 1970; in the segment ``ADOPTED`` the number of the row, and in a sorted list the
            value that it is sorted by.
        task_id: the id of the record.
    """

    segment: Segment
    moment: int
    task_id: str


# -- conditions


@dataclass(frozen=True, slots=True)
class Always:
    """True or false for every record."""

    holds: bool


@dataclass(frozen=True, slots=True)
class Every:
    """True if every term is true."""

    terms: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """True if at least one term is true."""

    terms: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Negated:
    """True if the term is false, also if the record has no value."""

    term: Condition


@dataclass(frozen=True, slots=True)
class Has:
    """A column has a value."""

    column: str


@dataclass(frozen=True, slots=True)
class Like:
    """A text column consists of these parts, with any text between them. Every character counts, also its case."""

    column: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """A text column is one of these texts, byte for byte."""

    column: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contains:
    """A column, as text, contains an ASCII text in any case."""

    column: str
    text: str


@dataclass(frozen=True, slots=True)
class BeyondAscii:
    """A column, as text, contains a character that is not ASCII."""

    column: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """A stretch of numbers; ``None`` for an open end.

    Attributes:
        low, high: the ends.
        has_low, has_high: whether an end itself is included.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    has_low: bool = True
    has_high: bool = True


@dataclass(frozen=True, slots=True)
class Equal:
    """A column of whole numbers is one of these."""

    column: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """A column of whole numbers is within bounds."""

    column: str
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Sized:
    """The stored result has so many bytes."""

    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Lasted:
    """The time between two columns of dates, in microseconds, is within bounds."""

    start: str
    end: str
    bounds: Bounds | None


@dataclass(frozen=True, slots=True)
class Dated:
    """A column of dates is at or after ``since`` and before ``until``; ``None`` for an open end."""

    column: str
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Timed:
    """The task ended, or else was started, or else was sent, at or after ``since`` and before ``until``."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The result of the task is an exception: it failed, was revoked, or waits for a retry."""


@dataclass(frozen=True, slots=True)
class ErrorType:
    """The type of the exception, alone or with its module, consists of these parts with any text between them."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """A column of JSON holds only a readable version of the value; the value itself is in other bytes."""

    column: str


@dataclass(frozen=True, slots=True)
class JsonText:
    """There is a text at a path that consists of these parts. A step ``None`` is every element."""

    column: str
    path: tuple[str | None, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonNumber:
    """There is a number at a path within bounds."""

    column: str
    path: tuple[str | None, ...]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class JsonLiteral:
    """There is ``true``, ``false`` or ``null`` at a path."""

    column: str
    path: tuple[str | None, ...]
    value: bool | None


@dataclass(frozen=True, slots=True)
class JsonHas:
    """There is a value at a path."""

    column: str
    path: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class MoreHolds:
    """True for every record if more holds were ever placed than this number: the caller does not know them all."""

    known: int


Condition: TypeAlias = (
    "Always | MoreHolds | Every | Some | Negated | Has | Like | OneOf | Contains | BeyondAscii | Equal | Within |"
    "Sized | Lasted | Dated | Timed | Failed | ErrorType | Opaque | JsonText | JsonNumber | JsonLiteral | JsonHas"
)

# -- a search


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """An order by a value; records without the value are left out.

    Attributes:
        by: ``done``, ``runtime``, ``wait`` or ``retries``.
        is_descending: whether the largest value comes first.
    """

    by: str
    is_descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One bounded search in one segment of a list.

    Attributes:
        segment: the part of the list.
        condition: what a record must meet.
        after: only records after this place; ``None`` from the beginning.
        since, until: only records whose time in this segment is at or after ``since`` and before ``until``.
        names: if it is not empty, only tasks of these names, and the condition does not mention them.
        sort: another order than that of the segment.
        limit: the most records.
        timeout: seconds after which the server gives up.
        with_values: whether results, tracebacks, children and stamps are read.
    """

    segment: Segment
    condition: Condition
    after: Position | None = None
    since: datetime | None = None
    until: datetime | None = None
    names: tuple[str, ...] = ()
    sort: Sort | None = None
    limit: int = 50
    timeout: float = 30.0
    with_values: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A record that was found, and its place in the list.

    Attributes:
        record: the record.
        position: its place.
        is_hidden: whether another record of the same task counts instead, in another segment.
    """

    record: TaskRecord
    position: Position
    is_hidden: bool = False


@runtime_checkable
class Searchable(Protocol):
    """A store that finds tasks by indexes, page by page.

    Attributes:
        has_ordered_indexes: whether indexes have the tasks of a name, the failures, and those of a group of failures,
            each in the order of their ends.
        names_at_once: how many names can be searched in that order.
    """

    has_ordered_indexes: bool
    names_at_once: int

    def search(self, search: Search) -> Sequence[Found]:
        """Return the next records that meet the condition, in the order of the segment.

        In the segment ``ADOPTED``, which has no index, the condition and the times are not tested. In a sorted list,
        the segment ``FINISHED`` has the tasks of the segment ``OLDER`` too.

        Raises:
            SearchTooSlow: it took longer than ``timeout``.
        """

    def oldest(self, segment: Segment) -> datetime | None:
        """Return the earliest time in ``UNFINISHED``, ``FINISHED`` or ``OLDER``; ``None`` if there is no record."""

    def task_names(self, limit: int) -> Sequence[str] | None:
        """Return the names of tasks that have a record.

        ``None`` if there are more than ``limit``, or no index that finds them quickly.
        """

    def has_older(self) -> bool:
        """Return whether finished tasks are moved to an older table."""

    def has_adopted(self) -> bool:
        """Return whether there are records in a table that Celery created."""
