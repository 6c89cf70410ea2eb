"""Lists archived results: those that ended last come first, as in the list of a store.

Files are opened when the list reaches their time, and row groups are read when it reaches theirs. Row groups whose
times overlap are in memory together, as tables of pyarrow, up to a limit. Beyond it they are read again for the next
rows of the list. A row group whose footer shows that nothing in it can be wanted is not read.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Protocol

from rootcellar.archive.files import FileReader, Row
from rootcellar.archive.masks import Masks
from rootcellar.archive.reading import Archive
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, RootcellarError
from rootcellar.history.cursors import Cursor, to_text
from rootcellar.history.filters import Clock, Filter, FilterWrong, Matcher, sentence
from rootcellar.history.filters.conditions import limits, span
from rootcellar.history.filters.notes import notes
from rootcellar.history.filters.tree import And, Field, Pattern, is_findable
from rootcellar.history.lists import Page, Tasks, opened
from rootcellar.history.stuck import without_unfinished
from rootcellar.payloads import Codec
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.archiving import ArchiveFile
from rootcellar.stores.search import Position, Segment

#: seconds for one page
BUDGET = 10.0
#: the most records for which the store is asked at a time whether they were stored again
_AT_ONCE = 500
#: the most bytes of row groups that stay in memory until their rows are yielded, and of rows that are converted at once
_HELD_BYTES, _YIELD_BYTES = 96 * 1024 * 1024, 8 * 1024 * 1024
_MICROSECOND = timedelta(microseconds=1)
#: the place before the first record of a list
_BEFORE_ALL = 2**62 - 1


class Source(Protocol):
    """Files of an archive, and the store that knows whether a task was stored again."""

    def files(self, since: datetime | None, until: datetime | None) -> Sequence[ArchiveFile]:
        """Return the files that may have tasks that ended at or after ``since`` and before ``until``."""

    def opened(self, file: ArchiveFile) -> AbstractContextManager[FileReader]:
        """Open a file."""

    def numbers(self, task_ids: Sequence[str]) -> Collection[int]:
        """Return the numbers of the files in which these tasks may be."""

    def stored(self, task_ids: Sequence[str]) -> Mapping[str, object]:
        """Return the tasks that were stored again, by id: these do not count as archived."""


class StoreSource:
    """The files in the manifest of a store.

    Args:
        archive: the archive.
        store: the store.
    """

    def __init__(self, archive: Archive, store: Store) -> None:
        self._archive = archive
        # of a hybrid, the durable store, which has the manifest: its cache keeps copies of archived results for a while
        self._store = archive.manifest if isinstance(archive.manifest, Store) else store

    def files(self, since: datetime | None, until: datetime | None) -> Sequence[ArchiveFile]:
        """See :class:`Source`."""
        return self._archive.manifest.files(since, until)

    def opened(self, file: ArchiveFile) -> AbstractContextManager[FileReader]:
        """See :class:`Source`."""
        return self._archive.opened(file)

    def numbers(self, task_ids: Sequence[str]) -> Collection[int]:
        """See :class:`Source`."""
        return {place.file for places in self._archive.manifest.places(task_ids).values() for place in places}

    def stored(self, task_ids: Sequence[str]) -> Mapping[str, object]:
        """See :class:`Source`."""
        return self._store.get_many(task_ids)


@dataclass(frozen=True, slots=True, order=True)
class _Later:
    """A place in a list; the less, the earlier in the list: the later the end, and the greater the id."""

    negative: int
    descending: _Descending


class _Descending(str):
    """A text that is less the greater it is."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)

    def __le__(self, other: str) -> bool:
        return str.__ge__(self, other)

    def __gt__(self, other: str) -> bool:
        return str.__lt__(self, other)

    def __ge__(self, other: str) -> bool:
        return str.__le__(self, other)


@dataclass(order=True, slots=True)
class _Waiting:
    """A file or a row group that is not read yet: the latest end in it, negative, and an order among equals."""

    negative: int
    order: tuple[int, int]
    file: ArchiveFile = field(compare=False)
    group: int | None = field(compare=False, default=None)


class _Group:
    """A row group that was read, with rows that are not yielded yet.

    Args:
        source: opens its file.
        file, number: the file, and the number of the row group in it.
    """

    __slots__ = ("_first", "_held", "_source", "file", "left", "number", "row_bytes")

    def __init__(self, source: Source, file: ArchiveFile, number: int) -> None:
        self.file = file
        self.number = number
        #: how many of its rows are not yielded yet
        self.left = 0
        #: about how many bytes a row takes
        self.row_bytes = 0
        self._first = 0
        self._source = source
        self._held: tuple[FileReader, Any] | None = None

    def keys(
        self, masks: Masks, matches: Callable[[TaskRecord], bool], start: _Later | None
    ) -> Iterator[tuple[_Later, int]]:
        """Read it, and yield the place in the list, and in the row group, of each row that is wanted."""
        with self._source.opened(self.file) as reader:
            table = reader.table(self.number)
        self._held = reader, table
        self._first = reader.bounds(self.number)[0]
        self.row_bytes = int(table.nbytes) // max(1, table.num_rows)
        wanted = [place for place, is_chosen in enumerate(masks.choose(table).to_pylist()) if is_chosen]
        for row in reader.rows_in(table, self.number, wanted):
            later = _Later(-_microseconds(row.record.done_at or NO_DATE), _Descending(row.record.task_id))
            is_after = start is None or later > start
            if is_after and row.number not in self.file.void and matches(row.record):
                self.left += 1
                yield later, row.number - self._first

    @property
    def held_bytes(self) -> int:
        """How many bytes of it are in memory."""
        return 0 if self._held is None else int(self._held[1].nbytes)

    def let_go(self) -> None:
        """Take it out of the memory; it is read again when its rows are yielded."""
        self._held = None

    def rows(self, places: Sequence[int]) -> dict[int, Row]:
        """Return some rows, by their places in the row group."""
        self.left -= len(places)
        if self._held is None:
            with self._source.opened(self.file) as reader:
                held = reader, reader.table(self.number)
        else:
            held = self._held
        found = {row.number - self._first: row for row in held[0].rows_in(held[1], self.number, places)}
        if not self.left:
            self.let_go()
        return found


#: a row that is not yielded yet: its place in the list, an order among equals, its row group, and its place in this
_Key = tuple[_Later, tuple[int, int, int], _Group]


def _hold(held: list[_Group], group: _Group) -> None:
    """Keep a row group in memory, unless others take all of it already."""
    held[:] = [one for one in held if one.held_bytes]
    if not group.left or sum(one.held_bytes for one in held) + group.held_bytes > _HELD_BYTES:
        group.let_go()
    else:
        held.append(group)


def _next_rows(
    rows: list[_Key], until: int | None, on_problem: Callable[[ArchiveFile, RootcellarError], object] | None
) -> Iterator[tuple[_Later, _Group, Row]]:
    """Take the next rows of a heap, up to those that ended at a moment, and as many as memory should have at a time."""
    taken: list[_Key] = []
    size = 0
    while rows and len(taken) < _AT_ONCE and size < _YIELD_BYTES and (until is None or rows[0][0].negative < until):
        taken.append(heapq.heappop(rows))
        size += taken[-1][2].row_bytes
    wanted: dict[_Group, list[int]] = {}
    for _, (_, _, place), group in taken:
        wanted.setdefault(group, []).append(place)
    found: dict[_Group, dict[int, Row]] = {}
    for group, places in wanted.items():
        try:
            found[group] = group.rows(places)
        except (ArchiveFileMissing, ArchiveDamaged) as exc:
            if on_problem is None:
                raise
            on_problem(group.file, exc)
    for later, (_, _, place), group in taken:
        if group in found:
            yield later, group, found[group][place]


def in_order(
    source: Source,
    files: Sequence[ArchiveFile],
    masks: Masks,
    matches: Callable[[TaskRecord], bool],
    after: Position | None = None,
    on_problem: Callable[[ArchiveFile, RootcellarError], object] | None = None,
) -> Iterator[tuple[Position, ArchiveFile, Row]]:
    """Yield the rows of files that match and count, those that ended last first.

    Args:
        source: opens the files.
        files: the files.
        masks: chooses the rows of a row group that may match.
        matches: decides about a row.
        after: only rows after this place of the list.
        on_problem: called with a file that is missing or damaged, which is left out from there on; ``None``: the error
            is raised.
    """
    floor = _BEFORE_ALL if after is None else after.moment
    waiting = [_Waiting(-_end_of(file), (file.id, -1), file) for file in files]
    heapq.heapify(waiting)
    start = None if after is None else _Later(-after.moment, _Descending(after.task_id))
    rows: list[_Key] = []
    held: list[_Group] = []
    while waiting or rows:
        if waiting and (not rows or waiting[0].negative <= rows[0][0].negative):
            each = heapq.heappop(waiting)
            try:
                if each.group is None:
                    for unread in _groups_of(source, each.file, masks, floor):
                        heapq.heappush(waiting, unread)
                    continue
                group = _Group(source, each.file, each.group)
                keys = list(group.keys(masks, matches, start))
            except (ArchiveFileMissing, ArchiveDamaged) as exc:
                if on_problem is None:
                    raise
                on_problem(each.file, exc)
                continue
            for later, place in keys:
                heapq.heappush(rows, (later, (*each.order, place), group))
            _hold(held, group)
            if ends := [*(one.negative for one in waiting[:1]), *(key[0].negative for key in rows[:1])]:
                # the caller looks at the time; everything that ended after this moment was yielded
                yield Position(Segment.FINISHED, -min(ends), ""), each.file, _NOTHING
            continue
        for later, group, row in _next_rows(rows, waiting[0].negative if waiting else None, on_problem):
            yield Position(Segment.FINISHED, -later.negative, row.record.task_id), group.file, row


#: stands for no row, when row groups were read and nothing was found in them
_NOTHING = Row(-1, TaskRecord(task_id="", state=""))


def _groups_of(source: Source, file: ArchiveFile, masks: Masks, floor: int) -> Iterator[_Waiting]:
    with source.opened(file) as reader:
        for group in range(reader.groups):
            first, last = reader.done_between(group)
            if first is not None and _microseconds(first) > floor:
                # all of it is before the place where the list goes on
                continue
            if masks.may_be_in(reader, group):
                end = _BEFORE_ALL if last is None else _microseconds(last)
                yield _Waiting(-end, (file.id, group), file, group)


def _until_nothing(found: Iterator[tuple[Position, ArchiveFile, Row]]) -> list[tuple[Position, ArchiveFile, Row]]:
    """Return the rows up to the first that stands for no row."""
    some = []
    for each in found:
        some.append(each)
        if each[2] is _NOTHING:
            break
    return some


def _end_of(file: ArchiveFile) -> int:
    return _BEFORE_ALL if file.last_done is None else _microseconds(file.last_done)


def _microseconds(moment: datetime) -> int:
    return (moment - NO_DATE) // _MICROSECOND


def ids_of(query: Filter) -> list[str]:
    """Return the ids, if the filter is about a few tasks by their ids; empty otherwise."""
    terms = query.condition.terms if isinstance(query.condition, And) else (query.condition,)
    for term in terms:
        if isinstance(term, Field) and term.name == "id":
            patterns = [value for value in term.values if isinstance(value, Pattern)]
            texts = [pattern.text for pattern in patterns if pattern.text is not None and is_findable(pattern)]
            if len(texts) == len(term.values):
                return texts
    return []


class ArchivedTasks(Tasks):
    """The archived tasks that a filter finds. Nothing is read before the first page or task is requested.

    A task that was stored again is left out: its stored result counts.

    Args:
        source: the files.
        store: the store of the results.
        codec: opens values.
        query: the filter.
        clock: the present and the zone of the reader.
        size: the most records of a page.
        after: the cursor of an earlier page; ``None`` from the beginning.
        budget: seconds for a page; ``None`` for 10.

    Raises:
        ValueError: ``size`` is not between 1 and 10,000.
        CursorWrong: ``after`` is damaged, or belongs to another filter.
        FilterWrong: the filter has an order that needs every record.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        codec: Codec,
        query: Filter,
        clock: Clock,
        *,
        size: int = 50,
        after: str | None = None,
        budget: float | None = None,
    ) -> None:
        super().__init__(
            store, codec, query, clock, size=size, after=after, budget=BUDGET if budget is None else budget
        )
        if self._sort is not None:
            raise FilterWrong(
                f"sort:{query.sort} would read the whole archive",
                str(query),
                str(query).rindex("sort:"),
                "leave it out: archived tasks are listed by their end, the last first",
            )
        self._source = source

    def pages(self) -> Iterator[Page]:
        """Yield every page, in one pass through the files."""
        for page, _ in self._pages(self._after):
            yield page

    def _pages(self, first: Cursor | None) -> Iterator[tuple[Page, Cursor | None]]:
        """Yield the pages up to the end, each with the cursor of the next one."""
        query, clock = self._query, self._clock
        opener = partial(opened, self._codec)
        wanted = without_unfinished(query)
        matches = Matcher(wanted.condition, clock, opener)
        since, until = span(wanted.condition, clock)
        masks = Masks(limits(wanted.condition, clock).at_most)
        start = None if first is None else first.position
        files = self._source.files(since, until)
        if ids := ids_of(wanted):
            numbers = self._source.numbers(ids)
            files = [file for file in files if file.id in numbers]
        problems: dict[int, RootcellarError] = {}
        found = in_order(
            self._source, files, masks, matches, start, lambda file, exc: problems.setdefault(file.id, exc)
        )
        reached = _BEFORE_ALL if start is None else start.moment
        budget = BUDGET if self._budget is None else self._budget
        page: list[tuple[Position, TaskRecord]] = []
        deadline = time.monotonic() + budget
        for position, record in self._counting(found):
            if record is not None and len(page) == self._size:
                # one more than a page has shows whether there is another page
                yield self._page(page, page[-1][0], matches, problems, is_over=False)
                page, deadline, matches.unread = [], time.monotonic() + budget, 0
            if record is not None:
                page.append((position, record))
            elif time.monotonic() >= deadline and position.moment + 1 < reached:
                # each page that ends early is farther back than the one before
                reached = position.moment + 1
                yield self._page(page, Position(Segment.FINISHED, reached, ""), matches, problems, is_over=True)
                page, deadline, matches.unread = [], time.monotonic() + budget, 0
        yield self._page(page, None, matches, problems, is_over=False)

    def _read(self, after: Cursor | None) -> tuple[Page, Cursor | None]:
        return next(self._pages(after))

    def _counting(
        self, found: Iterator[tuple[Position, ArchiveFile, Row]]
    ) -> Iterator[tuple[Position, TaskRecord | None]]:
        """Yield the records that were not stored again, and ``None`` after each row group."""
        while some := _until_nothing(islice(found, min(_AT_ONCE, self._size + 1))):
            ids = [row.record.task_id for _, _, row in some if row is not _NOTHING]
            stored = self._source.stored(ids) if ids else {}
            for position, _, row in some:
                if row is _NOTHING:
                    yield position, None
                elif row.record.task_id not in stored:
                    yield position, row.record

    def _page(
        self,
        found: Sequence[tuple[Position, TaskRecord]],
        place: Position | None,
        matches: Matcher,
        problems: Mapping[int, RootcellarError],
        *,
        is_over: bool,
    ) -> tuple[Page, Cursor | None]:
        cursor = None if place is None else Cursor(place, self._clock.now)
        reached = None
        if is_over and place is not None:
            reached = min(self._clock.now, NO_DATE + min(place.moment, _microseconds(self._clock.now)) * _MICROSECOND)
        page = Page(
            records=[self._codec.opened(record)[0] for _, record in found],
            cursor=None if cursor is None else to_text(cursor, self._query, self._zone),
            searched_back_to=reached,
            sentence=sentence(self._query, self._clock),
            unread=matches.unread,
            notes=notes(self._query, self._codec.redactor.masks),
            problems=tuple(problems.values()),
        )
        return page, cursor


class ArchivedResults:
    """The archived results of a store, for a history. See :class:`~rootcellar.history.old_results.OldResults`.

    Args:
        archive: the archive.
        store: the store of the results.
    """

    def __init__(self, archive: Archive, store: Store) -> None:
        self._archive = archive
        self._store = store
        self.where = archive.place.where

    def find(self, task_id: str) -> tuple[TaskRecord, str] | None:
        """See :class:`~rootcellar.history.old_results.OldResults`."""
        found = self._archive.read([task_id]).get(task_id)
        if found is None:
            return None
        file = self._archive.manifest.file(self._archive.places([task_id])[task_id].file)
        return found, "" if file is None else file.path

    def forget(self, task_ids: Collection[str]) -> int:
        """See :class:`~rootcellar.history.old_results.OldResults`."""
        return self._archive.forget(task_ids)

    def tasks(
        self, codec: Codec, query: Filter, clock: Clock, *, size: int, after: str | None, budget: float | None
    ) -> ArchivedTasks:
        """See :class:`~rootcellar.history.old_results.OldResults`."""
        source = StoreSource(self._archive, self._store)
        return ArchivedTasks(source, self._store, codec, query, clock, size=size, after=after, budget=budget)
