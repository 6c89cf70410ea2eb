"""Lists the tasks of a store with indexes.

A question that an index answers is one statement. For any other, the search goes back in time in windows that double,
or grow faster while few records are found, until the page is full or the time is over: each statement reads a bounded
range of an index.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rootcellar.history.filters import Clock, Filter, Matcher
from rootcellar.history.filters.conditions import every, limits, span
from rootcellar.history.filters.tree import And, Field, Node, Pattern, is_findable, leaves
from rootcellar.records import ENDS, NO_DATE
from rootcellar.stores.fields import LATEST
from rootcellar.stores.search import (
    Always,
    Condition,
    Dated,
    Equal,
    Every,
    Found,
    Negated,
    OneOf,
    Position,
    Search,
    Searchable,
    SearchTooSlow,
    Segment,
    Sort,
    Timed,
)

#: the length of the first window
FIRST_WINDOW = timedelta(hours=1)
_SHORTEST_WINDOW = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_HIGHEST_ROW = 2**62 - 1
#: the most records that one statement returns if many of them may not be wanted
_BATCH = 500
#: the most names of tasks that a pattern of names is compared with
_MAX_NAMES = 2_000
#: after a statement that took less than this part of the budget, windows grow faster: nothing was there
_QUICK, _QUICK_GROWTH = 20, 8
#: a statement gets at least so many seconds
_LEAST = 0.05
#: the same of a statement that the server plans for many partitions, and the length of the first window of these
_LEAST_OF_OLDER, _FIRST_OLDER_WINDOW = 2.0, timedelta(days=1)
#: a page that found nothing yet gets so many times its budget, and at least so many seconds
_PATIENCE, _PATIENT_SECONDS = 10, 3.0
#: the states of an index of their own
_INDEXED_STATES = frozenset({"FAILURE", "REVOKED"})
#: fields whose values the predicate reads, so that a statement must return them
_VALUE_FIELDS = frozenset({"error", "error.message", "args", "kwargs", "result", "stamp", "is", "has", "size"})


@dataclass(frozen=True, slots=True)
class Plan:
    """How a filter is answered.

    Attributes:
        condition: what the store tests.
        names: the names of tasks, if the filter is about these only; the condition does not mention them.
        has_names: whether ``names`` counts: an empty one finds nothing.
        is_exact: whether the store tests exactly what is meant.
        is_indexed: whether an index finds the wanted records only, so that no windows are needed.
        is_indexed_in_older: the same of the older table, which has no index of failures.
        segments: the parts of the list in which there can be wanted records.
        since, until: when the wanted tasks ended.
        reads_values: whether the filter reads values.
    """

    condition: Condition
    names: tuple[str, ...]
    has_names: bool
    is_exact: bool
    is_indexed: bool
    is_indexed_in_older: bool
    segments: tuple[Segment, ...]
    since: datetime | None
    until: datetime | None
    reads_values: bool


@dataclass(slots=True)
class Walk:
    """What was found so far, and where the search is.

    Attributes:
        found: the wanted records.
        position: everything before this place was searched; ``None`` at the beginning.
        window: the length of the next window.
        is_over: whether the time was over before the page was full.
        has_ended: whether there is nothing after this.
    """

    position: Position | None
    window: timedelta
    found: list[Found] = field(default_factory=list)
    is_over: bool = False
    has_ended: bool = False


def plan(store: Searchable, query: Filter, clock: Clock) -> Plan:
    """Return how a filter is answered by a store."""
    terms = query.condition.terms if isinstance(query.condition, And) else (query.condition,)
    names: tuple[str, ...] | None = None
    others: list[Node | None] = []
    for term in terms:
        found = None if names is not None else _names(store, term)
        if found is None:
            others.append(term)
        else:
            names = found
    inner = [limits(term, clock) for term in others]
    condition = every(*(each.at_most for each in inner))
    since, until = span(query.condition, clock)
    return Plan(
        condition=condition,
        names=names or (),
        has_names=names is not None,
        is_exact=all(each.is_exact for each in inner),
        is_indexed=_is_indexed(store, condition, names),
        is_indexed_in_older=not _others(condition) and len(names or ()) <= store.names_at_once,
        segments=_segments(condition, query),
        since=since,
        until=until,
        reads_values=any(not isinstance(leaf, Field) or leaf.name in _VALUE_FIELDS for leaf in leaves(query.condition)),
    )


def _names(store: Searchable, term: Node | None) -> tuple[str, ...] | None:
    """Return the names of tasks that a term means; ``None`` if it is about something else, or they are too many."""
    if not isinstance(term, Field) or term.name != "task":
        return None
    patterns = [value for value in term.values if isinstance(value, Pattern)]
    if len(patterns) < len(term.values):
        return None
    texts = [pattern.text for pattern in patterns if pattern.text is not None and is_findable(pattern)]
    globs = [pattern.expression for pattern in patterns if pattern.text is None]
    if globs:
        known = store.task_names(_MAX_NAMES)
        if known is None:
            return None
        texts += [name for name in known if any(glob.fullmatch(name) for glob in globs)]
    return tuple(dict.fromkeys(texts))


def _is_indexed(store: Searchable, condition: Condition, names: tuple[str, ...] | None) -> bool:
    others = _others(condition)
    if not others and names is None:
        return True
    if not store.has_ordered_indexes or len(names or ()) > store.names_at_once:
        return False
    # an index has the tasks of one name, another one the failures: two conditions are more than one index answers
    if names is not None:
        return not others
    return len(others) == 1 and _has_index(others[0])


def _others(condition: Condition) -> list[Condition]:
    """Return the terms of a condition that are not about the time."""
    terms = condition.terms if isinstance(condition, Every) else (condition,)
    return [term for term in terms if not isinstance(term, (Always, Timed)) and not _is_of_end(term)]


def _is_of_end(condition: Condition) -> bool:
    return isinstance(condition, Dated) and condition.column == "date_done"


def _has_index(condition: Condition) -> bool:
    match condition:
        case OneOf("status", texts):
            return _INDEXED_STATES.issuperset(texts)
        case Equal("failure_group", numbers):
            return len(numbers) == 1
    return False


def _segments(condition: Condition, query: Filter) -> tuple[Segment, ...]:
    """Return the segments that can have wanted records: a task has ended if, and only if, its state is an end."""
    if query.sort == "done" and query.is_descending:
        return (Segment.FINISHED, Segment.OLDER, Segment.ADOPTED)
    if query.sort:
        # no index sorts the table that Celery created; a sorted list of finished tasks has the older ones too
        return (Segment.FINISHED,)
    terms = condition.terms if isinstance(condition, Every) else (condition,)
    segments = list(Segment)
    for term in terms:
        match term:
            case Dated("date_done"):
                segments = [each for each in segments if each >= Segment.FINISHED]
            case OneOf("status", texts) if ENDS.issuperset(texts):
                segments = [each for each in segments if each >= Segment.FINISHED]
            case OneOf("status", texts) if ENDS.isdisjoint(texts):
                segments = [each for each in segments if each not in (Segment.FINISHED, Segment.OLDER)]
            case Negated(OneOf("status", texts)) if ENDS.issubset(texts):
                segments = [each for each in segments if each not in (Segment.FINISHED, Segment.OLDER)]
    return tuple(segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a page should have.

    Attributes:
        count: the most records.
        budget: seconds.
        sort: the order; ``None`` for the usual one.
        with_values: whether values are read also if the filter does not need them.
    """

    count: int
    budget: float
    sort: Sort | None = None
    with_values: bool = True


class Walker:
    """Walks through a list until there are enough records or the time is over.

    Args:
        store: the store.
        plan: how the filter is answered.
        matches: decides about each record that was found.
        now: the present of the list.
        wish: what the page should have.
    """

    def __init__(self, store: Searchable, plan: Plan, matches: Matcher, now: datetime, wish: Wish) -> None:
        self._store = store
        self._plan = plan
        self._matches = matches
        self._now = now
        self._wish = wish
        self._began = time.monotonic()
        self._start: Position | None = None

    def walk(self, after: Position | None, window: timedelta) -> Walk:
        """Return the next records.

        Args:
            after: everything before this place was searched.
            window: the length of the first window.

        Raises:
            SearchTooSlow: the server could not search even a short stretch of time.
        """
        self._start = after
        walk = Walk(after, window)
        for segment in self._plan.segments:
            if after is not None and segment < after.segment:
                continue
            if after is None or segment > after.segment:
                walk.position = None
            self._walk_segment(walk, segment)
            if walk.is_over or self._is_full(walk):
                return walk
        walk.has_ended = True
        return walk

    def _walk_segment(self, walk: Walk, segment: Segment) -> None:
        if segment is Segment.OLDER and not self._store.has_older():
            return
        if segment is Segment.ADOPTED and not self._store.has_adopted():
            return
        if walk.position is None and self._is_late:
            walk.position = _beginning(segment)
            walk.is_over = True
            return
        if segment is Segment.ADOPTED:
            self._walk_at_once(walk, segment)
            return
        if self._plan.has_names and not self._plan.names:
            return
        is_indexed = self._plan.is_indexed_in_older if segment is Segment.OLDER else self._plan.is_indexed
        if segment is Segment.TIMELESS or is_indexed or self._wish.sort is not None:
            self._walk_at_once(walk, segment)
        else:
            self._walk_in_windows(walk, segment)

    def _walk_at_once(self, walk: Walk, segment: Segment) -> None:
        """Read records in the order of an index, without windows."""
        while True:
            search = self._search(walk, segment, self._plan.since)
            found = self._store.search(replace(search, timeout=self._patience))
            if self._take(walk, found) or len(found) < search.limit:
                return
            if self._is_late:
                walk.is_over = True
                return

    def _walk_in_windows(self, walk: Walk, segment: Segment) -> None:
        if segment is Segment.OLDER:
            # a statement takes long to plan over many partitions, so few statements are better than small ones
            walk.window = max(walk.window, _FIRST_OLDER_WINDOW)
        oldest = self._store.oldest(segment)
        if oldest is None:
            return
        end = oldest if self._plan.since is None else max(oldest, self._plan.since)
        while True:
            low = self._low(walk)
            is_last = low is None or low <= end
            search = self._search(walk, segment, self._plan.since if is_last else low)
            asked = time.monotonic()
            try:
                found = self._store.search(search)
            except SearchTooSlow:
                if self._spent > self._patience or walk.window < _SHORTEST_WINDOW:
                    raise
                if self._narrow(walk):
                    return
                continue
            if self._take(walk, found):
                return
            if len(found) < search.limit:
                if is_last or low is None:
                    return
                walk.position = Position(segment, _microseconds(low), "")
                is_quick = time.monotonic() - asked < self._wish.budget / _QUICK
                walk.window *= _QUICK_GROWTH if is_quick else 2
            if self._is_late:
                walk.is_over = True
                return

    def _low(self, walk: Walk) -> datetime | None:
        """Return the beginning of the next window; ``None`` if it is before all times."""
        if walk.position is not None:
            high = NO_DATE + walk.position.moment * _MICROSECOND
        else:
            high = self._now if self._plan.until is None else min(self._now, self._plan.until)
        try:
            return high - walk.window
        except OverflowError:
            return None

    def _narrow(self, walk: Walk) -> bool:
        """Make the window shorter after a statement took too long; return whether the page ends here."""
        if self._is_late and walk.position not in (None, self._start):
            walk.is_over = True
            return True
        walk.window /= 8
        return False

    def _search(self, walk: Walk, segment: Segment, since: datetime | None) -> Search:
        is_own = segment is not Segment.ADOPTED
        wanted = self._wish.count - len(walk.found)
        is_exact = self._plan.is_exact and is_own
        return Search(
            segment=segment,
            condition=self._plan.condition,
            after=walk.position,
            since=since if is_own else None,
            until=self._plan.until if is_own else None,
            names=self._plan.names if is_own else (),
            sort=self._wish.sort if is_own else None,
            limit=wanted if is_exact else max(wanted, _BATCH),
            timeout=self._timeout(segment),
            with_values=self._wish.with_values or self._plan.reads_values,
        )

    def _timeout(self, segment: Segment) -> float:
        least = _LEAST_OF_OLDER if segment is Segment.OLDER else _LEAST
        return max(self._wish.budget - self._spent, self._wish.budget / 2, least)

    def _take(self, walk: Walk, found: Sequence[Found]) -> bool:
        """Keep the wanted ones of some records; return whether the segment has no more, or the page is full."""
        if found and found[-1].position == walk.position:
            # a damaged time has no place of its own
            return True
        for each in found:
            walk.position = each.position
            if not each.is_hidden and self._matches(each.record):
                walk.found.append(each)
                if self._is_full(walk):
                    return True
        return False

    def _is_full(self, walk: Walk) -> bool:
        return len(walk.found) >= self._wish.count

    @property
    def _spent(self) -> float:
        return time.monotonic() - self._began

    @property
    def _patience(self) -> float:
        return max(self._wish.budget * _PATIENCE, _PATIENT_SECONDS)

    @property
    def _is_late(self) -> bool:
        return self._spent > self._wish.budget


def _beginning(segment: Segment) -> Position:
    """Return the place before every record of a segment."""
    return Position(segment, _HIGHEST_ROW if segment is Segment.ADOPTED else _microseconds(LATEST), "")


def _microseconds(moment: datetime) -> int:
    return (moment - NO_DATE) // _MICROSECOND
