"""Lists of tasks, page by page. A page begins after a place in the list, so later pages take as long as the first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rootcellar.errors import PayloadError, RootcellarError
from rootcellar.history.cursors import Cursor, from_text, to_text
from rootcellar.history.filters import Clock, Filter, FilterWrong, Matcher, sentence
from rootcellar.history.filters.notes import notes
from rootcellar.history.scanning import scan
from rootcellar.history.searching import FIRST_WINDOW, Walk, Walker, Wish, plan
from rootcellar.history.stuck import looked_up
from rootcellar.payloads import SEALED_FIELDS, Codec
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.search import Position, Searchable, Segment, Sort
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds for one page of a store with indexes, and of another one
BUDGET, SCAN_BUDGET = 0.3, 10.0
#: the most records of a page
MAX_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list.

    Attributes:
        records: the tasks, with values that are decrypted and verified if there is a key.
        cursor: the text with which the list goes on; ``None`` at its end.
        searched_back_to: how far back records were searched, if the time was over before the page was full; ``None`` if
            it is full or the list has ended. In UTC.
        sentence: what was asked, in English, with the moments that it means.
        unread: how many records were left out because a value that the filter asks for cannot be read: it is
            encrypted and there is no key, it is damaged or in a blob, or it is no JSON.
        problems: the error of each file of the archive that is left out up to here, because it is missing or damaged.
        notes: what the reader should know about the filter, each in a sentence: a state that may be misspelt, terms
            that exclude each other, a value that is masked.
    """

    records: Sequence[TaskRecord]
    cursor: str | None
    searched_back_to: datetime | None
    sentence: str
    unread: int = 0
    notes: tuple[str, ...] = ()
    problems: tuple[RootcellarError, ...] = ()


class Tasks:
    """The tasks that a filter finds. Nothing is read before the first page or task is requested.

    Iterating yields every task, page by page. Relative moments of the filter count from the first page on.

    Args:
        store: the store.
        codec: opens values.
        query: the filter.
        clock: the present and the zone of the reader.
        size: the most records of a page.
        after: the cursor of an earlier page; ``None`` from the beginning.
        budget: seconds for a page; ``None`` for the default of the store.
        with_values: whether results, tracebacks, children and stamps are read; without them a page takes less time.

    Raises:
        ValueError: ``size`` is not between 1 and 10,000.
        CursorWrong: ``after`` is damaged, or belongs to another filter.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        query: Filter,
        clock: Clock,
        *,
        size: int = 50,
        after: str | None = None,
        budget: float | None = None,
        with_values: bool = True,
    ) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"size is {size}: give a number between 1 and {MAX_SIZE:,}")
        self._store = store
        self._codec = codec
        self._query = query
        self._size = size
        self._budget = budget
        self._with_values = with_values
        self._zone = str(clock.zone)
        self._after = None if after is None else from_text(after, query, self._zone)
        self._clock = clock if self._after is None else replace(clock, now=self._after.now)

    def __iter__(self) -> Iterator[TaskRecord]:
        warned = 0
        for page in self.pages():
            for problem in page.problems[warned:]:
                logger.warning("The list leaves out the tasks of a file: %s", problem)
            warned = len(page.problems)
            yield from page.records

    def pages(self) -> Iterator[Page]:
        """Yield every page, up to the end of the list."""
        cursor = self._after
        while True:
            page, cursor = self._read(cursor)
            yield page
            if cursor is None:
                return

    def page(self) -> Page:
        """Return the page that begins at the place that was given, or the first page.

        Raises:
            AbilityMissing: the store cannot answer this.
            StoreError: the store cannot be read.
        """
        return self._read(self._after)[0]

    def _read(self, after: Cursor | None) -> tuple[Page, Cursor | None]:
        query, clock = self._query, self._clock
        opener = partial(opened, self._codec)
        wanted = looked_up(query, self._store, clock, opener)
        matches = Matcher(wanted.condition, clock, opener)
        searchable = self._store.ability(Searchable)
        if searchable is None:
            walk = self._scanned(wanted, matches, after)
        else:
            walk = self._searched(wanted, searchable, matches, after)
        place, going_on = walk.position, not walk.has_ended
        if len(walk.found) > self._size:
            place, going_on = walk.found[self._size - 1].position, True
        cursor = Cursor(place, clock.now, walk.window.total_seconds()) if going_on and place is not None else None
        page = Page(
            records=[self._codec.opened(each.record)[0] for each in walk.found[: self._size]],
            cursor=None if cursor is None else to_text(cursor, query, self._zone),
            searched_back_to=_moment_of(walk.position, clock.now) if walk.is_over else None,
            sentence=sentence(query, clock),
            unread=matches.unread,
            notes=notes(query, self._codec.redactor.masks),
        )
        return page, cursor

    def still_matching(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Read some tasks again, and return those that the filter finds now, as they are stored.

        Raises:
            AbilityMissing: the store cannot answer this.
            StoreError: the store cannot be read.
        """
        opener = partial(opened, self._codec)
        matches = Matcher(looked_up(self._query, self._store, self._clock, opener).condition, self._clock, opener)
        return [record for record in self._store.get_many(task_ids).values() if matches(record)]

    @property
    def _sort(self) -> Sort | None:
        query = self._query
        # the usual order of those that have ended
        is_usual = query.sort == "done" and query.is_descending
        return None if is_usual or not query.sort else Sort(by=query.sort, is_descending=query.is_descending)

    def _scanned(self, query: Filter, matches: Matcher, after: Cursor | None) -> Walk:
        budget = SCAN_BUDGET if self._budget is None else self._budget
        place = None if after is None else after.position
        found = scan(self._store, matches, query, place, self._size + 1, budget)
        return Walk(None, timedelta(), found, has_ended=True)

    def _searched(self, query: Filter, store: Searchable, matches: Matcher, after: Cursor | None) -> Walk:
        how = plan(store, query, self._clock)
        if self._sort is not None and how.since is None:
            raise FilterWrong(
                f"sort:{self._query.sort} would read every task",
                str(self._query),
                str(self._query).rindex("sort:"),
                "name a stretch of time, such as since:24h, or sort by -done",
            )
        budget = BUDGET if self._budget is None else self._budget
        # one more than a page has shows whether there is another page
        wish = Wish(count=self._size + 1, budget=budget, sort=self._sort, with_values=self._with_values)
        window = timedelta(seconds=after.window) if after is not None and after.window else FIRST_WINDOW
        walker = Walker(store, how, matches, self._clock.now, wish)
        return walker.walk(None if after is None else after.position, window)


def _moment_of(position: Position | None, now: datetime) -> datetime:
    """Return the time of a place; that of a place without a time is the present."""
    if position is None or position.segment in (Segment.TIMELESS, Segment.ADOPTED):
        return now
    return min(now, NO_DATE + timedelta(microseconds=position.moment))


def opened(codec: Codec, record: TaskRecord) -> TaskRecord:
    """Return a record with decrypted and decompressed values; a value that cannot be opened stays as it is."""
    plain, _ = codec.opened(record)
    changed: dict[str, Any] = {}
    for field in SEALED_FIELDS:
        payload = getattr(plain, field)
        if payload is None or not payload.compression or payload.key_id:
            continue
        try:
            changed[field] = codec.compressor.decompress(payload)
        except PayloadError:
            continue
    return replace(plain, **changed)
