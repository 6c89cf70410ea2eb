"""Brings archived results back into the live table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from rootcellar.archive.files import FileReader, Row
from rootcellar.archive.listing import ids_of
from rootcellar.archive.places import Place as FilePlace
from rootcellar.archive.writing import manifest_of
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, RootcellarError
from rootcellar.history.filters import Clock, Filter, Matcher
from rootcellar.history.filters.conditions import span
from rootcellar.history.lists import opened
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.retention.policy import CALL, MARKS
from rootcellar.stores.archiving import ArchiveFile, Place, Restoring, in_batches
from rootcellar.stores.base import Store

#: how many rows are restored in one transaction
BATCH = 500
#: how many tasks a preview counts, and how many examples it has
CAP, EXAMPLES = 10_000, 5


@dataclass(frozen=True, slots=True)
class Found:
    """An archived result that a filter finds.

    Attributes:
        place: where it is.
        row: the row of the file.
        kept_until: when the archive may delete its file; ``None`` for never.
    """

    place: Place
    row: Row
    kept_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be restored.

    Attributes:
        count: how many results, up to :data:`CAP`.
        is_all: whether there are no more than ``count``.
        examples: a few of them, with their values.
        unread: how many are left out because a value that the filter asks for cannot be read.
    """

    count: int
    is_all: bool
    examples: tuple[TaskRecord, ...]
    unread: int


@dataclass(slots=True)
class Restored:
    """What a run has done.

    Attributes:
        restored: how many results are live rows again.
        live: how many were left in the archive, because a newer live row exists.
    """

    restored: int = 0
    live: int = 0


class ArchivedTasks:
    """The archived results that a filter finds.

    Args:
        store: the store with the manifest.
        place: where the files are.
        codec: opens values that the filter asks for.
        query: the filter.
        clock: the present, and the zone of the filter's moments.
        on_problem: called with the error of a file that is missing, damaged or at another place, whose tasks are left
            out; ``None``: the error is raised.

    Attributes:
        matches: the test of a record; it counts those whose values cannot be read.

    Raises:
        AbilityMissing: the store has no manifest.
        ValueError: a moment cannot be understood.
    """

    def __init__(
        self,
        store: Store,
        place: FilePlace,
        codec: Codec,
        query: Filter,
        clock: Clock,
        on_problem: Callable[[RootcellarError], object] | None = None,
    ) -> None:
        self._on_problem = on_problem
        self._manifest = manifest_of(store)
        self._place = place
        self._query = query
        self._since, self._until = span(query.condition, clock)
        self.matches = Matcher(query.condition, clock, partial(opened, codec))

    def __iter__(self) -> Iterator[Found]:
        """Yield what is found.

        Raises:
            ArchiveFileMissing, ArchiveDamaged: a file cannot be read, and ``on_problem`` was not given.
            StoreError: the manifest or the place cannot be read.
        """
        ids = ids_of(self._query)
        for file, rows in self._by_id(ids) if ids else self._by_day():
            try:
                if file.location != self._place.where:
                    raise ArchiveFileMissing(
                        f"the file {file.path} of the archive was written to another place, {file.location}",
                        where=self._place.where,
                        remedy="name that place",
                    )
                yield from self._in_file(file, rows)
            except (ArchiveFileMissing, ArchiveDamaged) as exc:
                if self._on_problem is None:
                    raise
                self._on_problem(exc)

    def _by_day(self) -> Iterator[tuple[ArchiveFile, set[int] | None]]:
        for file in self._manifest.files(self._since, self._until):
            if file.valid and self._overlaps(file.first_done, file.last_done):
                yield file, None

    def _by_id(self, ids: list[str]) -> Iterator[tuple[ArchiveFile, set[int] | None]]:
        rows: dict[int, set[int]] = {}
        for places in self._manifest.places(ids).values():
            for place in places:
                rows.setdefault(place.file, set()).add(place.row)
        for number, some in sorted(rows.items()):
            if (file := self._manifest.file(number)) is not None:
                yield file, some

    def _in_file(self, file: ArchiveFile, rows: set[int] | None) -> Iterator[Found]:
        with self._place.open(file.path, file.bytes) as source:
            reader = FileReader(source, f"{self._place.where}: {file.path}")
            for row in reader.rows_at(rows) if rows is not None else reader.read(self._groups(reader)):
                if row.number not in file.void and self.matches(row.record):
                    yield Found(Place(file.id, row.number), row, file.expires_at)

    def _groups(self, reader: FileReader) -> list[int]:
        return [group for group in range(reader.groups) if self._overlaps(*reader.done_between(group))]

    def _overlaps(self, first: datetime | None, last: datetime | None) -> bool:
        is_after = self._since is not None and last is not None and last < self._since
        is_before = self._until is not None and first is not None and first >= self._until
        return not is_after and not is_before


class RestoringRun:
    """Restores the archived results that a filter finds. It can be interrupted after any batch and run again.

    Args:
        store: the store.
        tasks: which results.
        codec: writes results that were in blobs to blobs again.
        keep: how long they are kept at least, so that a rule does not archive them again at once.
        now: the present.
        archives: says whether a rule archives a task when it expires. One that no rule archives is kept in the table
            for as long as the archive would have kept it, because it would not get there again.
    """

    def __init__(
        self,
        store: Store,
        tasks: Callable[[], ArchivedTasks],
        codec: Codec,
        keep: timedelta,
        now: datetime,
        archives: Callable[[TaskRecord], bool],
    ) -> None:
        self._manifest = manifest_of(store)
        self._tasks = tasks
        self._codec = codec
        self._archives = archives
        self._kept_until = now + keep
        self.done = Restored()

    def preview(self) -> Preview:
        """Count the results, up to :data:`CAP`, and read a few of them."""
        tasks = self._tasks()
        count = 0
        examples: list[TaskRecord] = []
        for found in islice(tasks, CAP + 1):
            count += 1
            if len(examples) < EXAMPLES:
                examples.append(self._codec.opened(found.row.record)[0])
        return Preview(min(count, CAP), count <= CAP, tuple(examples), tasks.matches.unread)

    def run(self, on_progress: Callable[[int], object] = lambda count: None) -> Restored:
        """Restore everything.

        Args:
            on_progress: is called after each batch, with the number that it restored.

        Raises:
            StoreError: the store, the place or the blob store cannot be used. What was restored stays restored.
        """
        for batch in in_batches(self._tasks(), lambda found: found.row.record, BATCH):
            restored = self._manifest.restore([Restoring(each.place, self._live(each)) for each in batch])
            self.done.restored += len(restored)
            self.done.live += len(batch) - len(restored)
            on_progress(len(restored))
        return self.done

    def _live(self, found: Found) -> TaskRecord:
        row, record = found.row, found.row.record
        if row.reference is not None and record.result is not None and self._codec.spiller is not None:
            record = replace(record, result=self._codec.spiller.spill(record.result, record.task_id))
        least: datetime | None = self._kept_until
        if not self._archives(record):
            least = None if found.kept_until is None else max(found.kept_until, self._kept_until)
        if record.expires_at is None or (least is not None and record.expires_at >= least):
            return record
        return replace(record, expires_at=None if least is None else _marked(least, record.done_at))


def _marked(moment: datetime, done_at: datetime | None) -> datetime:
    """Return about a moment, with the mark that it was asked for, so that `retention apply` does not change it."""
    if done_at is None:
        return moment
    millisecond = timedelta(milliseconds=1)
    return moment + millisecond - (moment - done_at) % millisecond + MARKS[CALL]
