"""Finds the live rows that are archived: those of a filter, or those that have expired and whose rule archives them.

It goes back in time, day by day. A day is read in pages that have few bytes, so that memory stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import partial

from rootcellar.errors import AbilityMissing
from rootcellar.history.filters import Clock, Filter, Matcher
from rootcellar.history.filters.conditions import every, limits, span
from rootcellar.history.lists import opened
from rootcellar.history.stuck import looked_up
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores.archiving import size_of
from rootcellar.stores.base import Store
from rootcellar.stores.search import Always, Condition, Dated, Position, Search, Searchable, SearchTooSlow, Segment

#: the most records of a page, and about the most bytes of the values in it
PAGE, PAGE_BYTES = 500, 8 * 1024 * 1024
_FIRST_PAGE = 20
#: seconds for one statement; one that takes longer is asked again for a shorter time
_TIMEOUT = 30.0
_SHORTEST_WINDOW = timedelta(seconds=1)
_DAY = timedelta(days=1)
_FIRST_DAY = datetime(1, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which finished tasks are archived.

    Attributes:
        condition: what the store tests.
        matches: decides about a record that the store found.
        since, until: when they ended: at or after ``since``, and before ``until``.
    """

    condition: Condition
    matches: Callable[[TaskRecord], bool]
    since: datetime | None
    until: datetime


def wanted_by_filter(store: Store, codec: Codec, query: Filter, clock: Clock) -> Wanted:
    """Return the finished tasks that a filter finds, and that had ended at the present of the clock.

    Raises:
        ValueError: a moment cannot be understood.
        AbilityMissing: the store cannot answer this.
    """
    opener = partial(opened, codec)
    condition = looked_up(query, store, clock, opener).condition
    since, until = span(condition, clock)
    now = clock.now + _MICROSECOND
    return Wanted(
        condition=limits(condition, clock).at_most,
        matches=Matcher(condition, clock, opener),
        since=since,
        until=now if until is None else min(until, now),
    )


def wanted_by_rule(condition: Condition, now: datetime) -> Wanted:
    """Return the finished tasks that meet a condition and have expired.

    Args:
        condition: that of :meth:`Retention.archiving`.
        now: the present.
    """
    return Wanted(
        condition=every(condition, Dated("expires_at", None, now)),
        matches=lambda record: record.expires_at is not None and record.expires_at < now,
        since=None,
        until=now + _MICROSECOND,
    )


class Selection:
    """The wanted rows of a store, by the day on which they ended, the last day first.

    Args:
        store: the store.
        wanted: which rows.

    Raises:
        AbilityMissing: the store cannot search.
    """

    def __init__(self, store: Store, wanted: Wanted) -> None:
        searchable = store.ability(Searchable)
        if searchable is None:
            raise AbilityMissing(
                "this store cannot search for results, so it cannot archive them",
                where=store.where,
                remedy="keep results in PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis; or write them to "
                "files with `rootcellar export`",
            )
        self._searchable = searchable
        self._wanted = wanted
        self._segments = (Segment.FINISHED, Segment.OLDER) if searchable.has_older() else (Segment.FINISHED,)
        self._page = _FIRST_PAGE

    def days(self) -> Iterator[date]:
        """Yield the days on which finished tasks ended, whether they are wanted or not, the last day first."""
        until = self._wanted.until
        while (last := self._last_before(until)) is not None:
            if self._wanted.since is not None and last < self._wanted.since:
                return
            yield last.date()
            until = _start_of(last.date())

    def records(self, day: date) -> Iterator[list[TaskRecord]]:
        """Yield the wanted records of a day, with their values, in pages; the last ones first."""
        start = _start_of(day)
        low = start if self._wanted.since is None else max(start, self._wanted.since)
        high = min(start + _DAY, self._wanted.until)
        for segment in self._segments:
            yield from self._between(segment, low, high, None)

    def _between(
        self, segment: Segment, low: datetime, high: datetime, after: Position | None
    ) -> Iterator[list[TaskRecord]]:
        while low < high:
            try:
                found = self._search(segment, self._wanted.condition, low, high, after, self._page, with_values=True)
            except SearchTooSlow:
                if high - low <= _SHORTEST_WINDOW:
                    raise
                middle = low + (high - low) / 2
                yield from self._between(segment, middle, high, after)
                high = middle
                continue
            if not found:
                return
            is_last = len(found) < self._page
            self._fit_page([record for record, _ in found])
            after = found[-1][1]
            yield [record for record, _ in found if self._wanted.matches(record)]
            if is_last:
                return

    def _search(
        self,
        segment: Segment,
        condition: Condition,
        low: datetime | None,
        high: datetime,
        after: Position | None,
        limit: int,
        *,
        with_values: bool,
    ) -> list[tuple[TaskRecord, Position]]:
        search = Search(
            segment=segment,
            condition=condition,
            after=after,
            since=low,
            until=high,
            limit=limit,
            timeout=_TIMEOUT,
            with_values=with_values,
        )
        return [(each.record, each.position) for each in self._searchable.search(search)]

    def _last_before(self, until: datetime) -> datetime | None:
        """Return when the last task ended that ended before a moment."""
        if until <= _FIRST_DAY:
            return None
        ends = []
        for segment in self._segments:
            for record, _ in self._search(segment, Always(True), None, until, None, 1, with_values=False):
                ends.append(record.done_at)
        return max((end for end in ends if end is not None), default=None)

    def _fit_page(self, records: Sequence[TaskRecord]) -> None:
        """Choose the size of the next page by the bytes of this one."""
        size = sum(map(size_of, records)) // len(records) + 1
        self._page = max(1, min(PAGE, 2 * self._page, PAGE_BYTES // size))


def _start_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
