"""Groups of failures as data: what is asked of them, and what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import overload

from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.counting import Unit

NEW, BACK, RISING, STEADY, GONE, RESOLVED, MUTED = (
    "new",
    "back",
    "rising",
    "steady",
    "gone",
    "resolved",
    "muted",
)


@dataclass(frozen=True, slots=True)
class Title:
    """The type, the place and the template of a group."""

    type: str
    place: str
    template: str


@dataclass(frozen=True, slots=True)
class Variant:
    """A template of messages in a group, and how many of the failures that were read have it."""

    template: str
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    """A value that the failures of a group have more often than other tasks of the same names.

    Attributes:
        name: ``queue``, ``worker``, or the name of a keyword argument, such as ``kwargs.country``.
        value: the value.
        share: the part of the failures that have it, from 0 to 1.
        others: the part of the other tasks that have it.
    """

    name: str
    value: str
    share: float
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failures of one type at one place.

    Attributes:
        group: its text form, such as ``7K2Q9XMD``; ``failure:7K2Q9XMD`` in a filter finds its tasks.
        type: the type of the exception; ``None`` if it cannot be read here.
        place: ``module:function``, or the name of a task.
        template: the message of its example, without what varies.
        count: how many failures the filter finds.
        tasks: the names of the tasks, and how many failures each has; the most frequent first.
        first_seen, last_seen: when its first and its last failure ended, also of those that the filter does not find.
        status: ``new``, ``back``, ``rising``, ``steady``, ``gone``, ``resolved`` or ``muted``.
        example: the id of one of the tasks, a recent one.
        trend: how many failures there were in each of the last 24 hours, the oldest first.
        muted_until: the end of the mark ``muted``; ``None`` for no end.
        note: the text of the person who marked it.
        variants: at most 20 templates of its messages, the most frequent first; only of ``History.failure``.
        other_variants: how many of the failures that were read have another template.
        newest: the ids of its newest tasks.
        oldest: the id of its oldest task that is stored.
        facets: what its failures have in common.
    """

    group: str
    type: str | None
    place: str | None
    template: str | None
    count: int
    tasks: Mapping[str, int]
    first_seen: datetime
    last_seen: datetime
    status: str
    example: str
    trend: Sequence[int] = ()
    muted_until: datetime | None = None
    note: str | None = None
    variants: Sequence[Variant] = ()
    other_variants: int = 0
    newest: Sequence[str] = ()
    oldest: str | None = None
    facets: Sequence[Facet] = ()


@dataclass(frozen=True, slots=True)
class Failures(Sequence[FailureGroup]):
    """Groups of failures: the new ones first, then those that are back or rising, then the most frequent.

    Attributes:
        groups: the groups.
        more: how many groups there are beyond the limit.
        searched_back_to: how far back rows were read, if the time was over before the end; otherwise ``None``.
        is_exact: whether all failures are counted; ``False`` soon after an upgrade, if no process counts them, or if
            rows without a count were too many or took too long to read.
    """

    groups: Sequence[FailureGroup]
    more: int = 0
    searched_back_to: datetime | None = None
    is_exact: bool = True

    @overload
    def __getitem__(self, place: int) -> FailureGroup: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[FailureGroup]: ...

    def __getitem__(self, place: int | slice) -> FailureGroup | Sequence[FailureGroup]:
        return self.groups[place]

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(slots=True)
class Seen:
    """The failures of one group that were counted.

    Attributes:
        tasks: name -> how many failures.
        hours: begin of an hour -> how many failures, of those that were counted one by one.
        begin, end: the begin of the first and of the last hour that has some.
        first, last: the ends of the first and the last one that were counted one by one.
        example: the id of the last one of these.
        title: what the group is, if it was computed from a row that was stored without its group.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    hours: Counter[datetime] = field(default_factory=Counter)
    begin: datetime | None = None
    end: datetime | None = None
    first: datetime | None = None
    last: datetime | None = None
    example: str | None = None
    title: Title | None = None

    def add(self, name: str, count: int, begin: datetime, end: datetime) -> None:
        """Count failures of a task, the first in the hour that begins at ``begin``, the last in that of ``end``."""
        self.tasks[name] += count
        self.begin = begin if self.begin is None else min(self.begin, begin)
        self.end = end if self.end is None else max(self.end, end)

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """When the first and the last one ended; the begin of the hour where that is not known."""
        begin, end = self.begin or NO_DATE, self.end or NO_DATE
        if self.first is not None and Unit.HOUR.floor(self.first) == begin:
            begin = self.first
        return begin, end if self.last is None else max(end, self.last)

    def add_record(self, record: TaskRecord) -> None:
        """Count one failure."""
        done = record.done_at or NO_DATE
        hour = Unit.HOUR.floor(done)
        self.add(record.name or "", 1, hour, hour)
        self.hours[hour] += 1
        self.first = done if self.first is None else min(self.first, done)
        if self.last is None or done >= self.last:
            self.last, self.example = done, record.task_id


@dataclass(slots=True)
class Recent:
    """How often a group failed in the last days, whatever the filter is.

    Attributes:
        hours: the failures of each of the last 24 hours, the one that has just begun as the last.
        week: the failures of the last 7 days.
        since: the begin of the hour of the first failure since a moment; ``None`` if there is none.
        before: the begin of the hour of the last failure in the 7 days before that moment.
    """

    hours: Counter[datetime] = field(default_factory=Counter)
    week: int = 0
    since: datetime | None = None
    before: datetime | None = None
