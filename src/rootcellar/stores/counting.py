"""Counts of finished tasks that are kept beside the rows: what they contain, and the ability :class:`Counted`.

A *cell* counts the tasks of one name, one queue and one state that ended in one minute, hour or day (in UTC). A service
keeps the cells up to date, outside the path that stores results. Readers add what the cells do not contain yet.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, runtime_checkable

#: the shortest duration that the steps of a spread distinguish, in seconds
SHORTEST = 0.001
#: each step is this many times as long as the one before
FACTOR = 2 ** (1 / 3)
#: the last step: everything from about 29 hours
LAST_STEP = 80
#: how far a quantile of a spread may be from the true one, as a share
QUANTILE_ERROR = FACTOR**0.5 - 1


class Unit(Enum):
    """The length of the time that a cell counts."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        """The length of the time."""
        return _LENGTHS[self]

    def floor(self, moment: datetime) -> datetime:
        """Return the begin of the minute, hour or day in UTC that contains a moment."""
        if self is Unit.MINUTE:
            return moment.replace(second=0, microsecond=0)
        if self is Unit.HOUR:
            return moment.replace(minute=0, second=0, microsecond=0)
        return moment.replace(hour=0, minute=0, second=0, microsecond=0)

    def ceiling(self, moment: datetime) -> datetime:
        """Return the next begin at or after a moment; the moment itself if there is no later one."""
        start = self.floor(moment)
        try:
            return moment if start == moment else start + self.length
        except OverflowError:
            return moment


_LENGTHS = {Unit.MINUTE: timedelta(minutes=1), Unit.HOUR: timedelta(hours=1), Unit.DAY: timedelta(days=1)}


def step_of(seconds: float) -> int:
    """Return the step of a duration."""
    if seconds <= SHORTEST:
        return 0
    return min(LAST_STEP, max(0, math.floor(3 * math.log2(seconds / SHORTEST))))


def begin_of(step: int) -> float:
    """Return the shortest duration of a step, in seconds."""
    return 0.0 if step <= 0 else float(SHORTEST * FACTOR**step)


@dataclass(slots=True)
class Spread:
    """How long something took: how many times, the sum, the longest, and how many times in each step.

    Attributes:
        count: how many durations are known.
        total: their sum, in seconds.
        longest: the longest one, in seconds.
        steps: step -> how many durations.
    """

    count: int = 0
    total: float = 0.0
    longest: float = 0.0
    steps: dict[int, int] = field(default_factory=dict)

    def add(self, other: Spread) -> None:
        """Add the durations of another spread."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        for step, count in other.steps.items():
            self.steps[step] = self.steps.get(step, 0) + count

    def quantile(self, share: float) -> float | None:
        """Return about the duration that this share of all durations does not exceed, in seconds; ``None`` if none.

        It differs from the true one by up to :data:`QUANTILE_ERROR`, above a millisecond and below a day.
        """
        counted = sum(self.steps.values())
        if not counted:
            return None
        rank = max(1, math.ceil(share * counted))
        for step in sorted(self.steps):
            rank -= self.steps[step]
            if rank <= 0:
                middle = SHORTEST if step == 0 else begin_of(step) * FACTOR**0.5
                return min(self.longest, self.longest if step >= LAST_STEP else middle)
        return self.longest

    @property
    def mean(self) -> float | None:
        """The mean duration in seconds; ``None`` if none is known."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Tally:
    """What is counted of some tasks.

    Attributes:
        count: how many tasks.
        retries: the sum of their retries.
        run: the times from start to end.
        wait: the times from sending to start.
    """

    count: int = 0
    retries: int = 0
    run: Spread = field(default_factory=Spread)
    wait: Spread = field(default_factory=Spread)

    def add(self, other: Tally) -> None:
        """Add the tasks of another tally."""
        self.count += other.count
        self.retries += other.retries
        self.run.add(other.run)
        self.wait.add(other.wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which tasks are counted, and which of them are counted separately.

    Attributes:
        since, until: the tasks that ended at or after ``since`` and before ``until``; ``None`` for no border.
        names, queues, states: only tasks of these; ``None`` for all. An empty text means no name, or no queue.
        by_name, by_queue, by_state: whether the answer has a cell for each name, queue and state.
        by: whether the answer has a cell for each minute, hour or day; ``None`` for one of the whole time.
        with_spreads: whether the answer has the steps of the spreads.
        with_new_names: whether rows that are not counted yet are in the answer whatever their names and queues, so that
            a name that no cell has yet is not left out. The caller leaves out what it does not want.
    """

    since: datetime | None = None
    until: datetime | None = None
    names: tuple[str, ...] | None = None
    queues: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None
    by_name: bool = False
    by_queue: bool = False
    by_state: bool = True
    by: Unit | None = None
    with_spreads: bool = False
    with_new_names: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The tally of the tasks of one key.

    Attributes:
        start: the begin of the minute, hour or day, in UTC; ``None`` for the whole time. A day that is kept without its
            hours has one cell, at its begin, also where hours were asked for. An hour whose minutes are not kept has
            one cell, too, for its deleted tasks.
        name, queue, state: those of the tasks; ``None`` where they are counted together; an empty text if
            the tasks have none.
        tally: what was counted.
    """

    start: datetime | None = None
    name: str | None = None
    queue: str | None = None
    state: str | None = None
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Cells, and how complete they are.

    Attributes:
        cells: in no order.
        as_of: the moment at which they are right, by the server's clock.
        behind_by: how old the newest counted results are, if the newest ones are missing; otherwise 0.
        is_exact: whether every task is counted. Otherwise there are at least as many.
    """

    cells: Sequence[Cell]
    as_of: datetime
    behind_by: timedelta = timedelta(0)
    is_exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """What one pass has done.

    Attributes:
        hours: how many hours were counted anew.
        is_done: whether nothing is left to do at this moment; ``False`` if the budget ended.
        is_leader: whether this process did the pass; ``False`` if another one was doing one.
    """

    hours: int = 0
    is_done: bool = True
    is_leader: bool = True


class Kind(Enum):
    """What a name names."""

    TASK = "task"
    QUEUE = "queue"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a task, a queue or a worker, and when a task of it ended last."""

    name: str
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureHour:
    """How many failures of one group and one task ended in one hour (in UTC)."""

    start: datetime
    group: int
    name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureTotal:
    """How many failures of one group and one task ended, and the first and the last hour (in UTC) that has some."""

    group: int
    name: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFailure:
    """What is kept of a group of failures.

    Attributes:
        group: its number, as in :attr:`~rootcellar.records.TaskRecord.failure_group`.
        first_seen, last_seen: when its first and its last failure ended.
        example: the id of one of its tasks.
        type, place, template: the exception's type, the place in the code, and the message with the variable parts
            replaced; ``None`` until :meth:`Counted.describe_failure` was called.
        mark: ``resolved``, ``muted`` or ``None``, set by a person.
        marked_at: when it was marked.
        muted_until: the end of the mark ``muted``; ``None`` for no end.
        note: the text of the person.
    """

    group: int
    first_seen: datetime
    last_seen: datetime
    example: str
    type: str | None = None
    place: str | None = None
    template: str | None = None
    mark: str | None = None
    marked_at: datetime | None = None
    muted_until: datetime | None = None
    note: str | None = None


@runtime_checkable
class Counted(Protocol):
    """A store that keeps counts of finished tasks beside the rows."""

    def roll(self, *, budget: float = 1.0) -> Rolled:
        """Bring the counts up to date: one pass of about ``budget`` seconds. Doing it twice is harmless.

        Raises:
            StoreReadOnly, PermissionDenied: this user may only read.
        """

    def rebuild_counts(self) -> None:
        """Forget what was counted of the rows that exist: the next passes count them again, the newest first.

        What was counted of deleted rows stays. A pass that is running ends first.

        Raises:
            StoreUnavailable: it did not end within 10 seconds.
        """

    def counts(self, question: Question) -> Answer:
        """Count finished tasks, from the cells and, where they are not up to date, from the rows. Writes nothing."""

    def unfinished(self, question: Question, cap: int = 10_000) -> Answer:
        """Count unfinished tasks of these names, queues and states; the times are when they started or were sent.

        Stops after ``cap`` tasks; then the answer is not exact. The cells have no start.
        """

    def durations(self, question: Question, of: str, limit: int) -> Sequence[float] | None:
        """Return the durations, in seconds, of the rows that exist; ``None`` if there are more than ``limit`` rows.

        Args:
            question: which tasks.
            of: ``run`` or ``wait``.
            limit: the most rows that are read.
        """

    def slowest(self, question: Question, limit: int) -> Sequence[str]:
        """Return the ids of the tasks that ran longest, the longest first, of the rows that exist."""

    def names(self, kind: Kind) -> Sequence[Name]:
        """Return every name that a finished task ever had, the last seen first."""

    def failure_hours(
        self, since: datetime | None = None, until: datetime | None = None, groups: Collection[int] | None = None
    ) -> Sequence[FailureHour]:
        """Return the failures by group, task and hour: from the cells and, where these are not up to date, from rows.

        Hours that begin before ``since`` are left out.
        """

    def failure_totals(
        self, since: datetime | None = None, until: datetime | None = None, groups: Collection[int] | None = None
    ) -> Sequence[FailureTotal]:
        """Return the failures by group and task: the sums of what :meth:`failure_hours` returns."""

    def known_failures(self, groups: Collection[int] | None = None) -> Sequence[KnownFailure]:
        """Return what is kept of groups of failures; of all if ``groups`` is ``None``."""

    def describe_failure(self, group: int, *, type: str, place: str, template: str) -> None:
        """Store the type, place and template of a group that is known."""

    def mark_failure(
        self, group: int, mark: str | None, *, at: datetime, until: datetime | None = None, note: str | None = None
    ) -> bool:
        """Store the mark of a group, or remove it; return whether the group is known."""


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for each key."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = (cell.start, cell.name, cell.queue, cell.state)
        if key in found:
            found[key].tally.add(cell.tally)
        else:
            found[key] = cell
    return list(found.values())
