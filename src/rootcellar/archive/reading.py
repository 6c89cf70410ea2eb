"""Reads archived results by id: one look into the manifest, one file, one row group.

The manifest has the file and the row of each result. A file that was read lately stays open with its footer, so
that the next result in it is one request. At first, it is three: the footer takes one or two, and the row group one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from rootcellar.archive.files import FileReader, Row
from rootcellar.archive.places import Place as FilePlace
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, RootcellarError
from rootcellar.records import NO_DATE, TaskRecord, UnreadRecord
from rootcellar.stores.archiving import ArchiveFile, Manifest, Place
from rootcellar.support.filesystems import file_errors
from rootcellar.support.forking import PerProcess

#: the most files that stay open in a process
OPEN_FILES = 16
#: the most entries of the manifest that a process remembers
_KNOWN_FILES = 10_000


class Archive:
    """The archived results of a store. Safe to use from any thread and after a fork.

    Args:
        manifest: the manifest, in the store.
        place: where the files are.
    """

    def __init__(self, manifest: Manifest, place: FilePlace) -> None:
        self.manifest = manifest
        self.place = place
        self._files = PerProcess(lambda: _OpenFiles(place))
        self._known: dict[int, ArchiveFile] = {}

    def read(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Return the archived records of these tasks, with their results themselves, by task id.

        An id that is not archived is one look into an index of the database, together with all others.

        Raises:
            ArchiveFileMissing: the file with a result is not at its place.
            ArchiveDamaged: the file cannot be read.
            StoreError: the manifest or the place cannot be read.
        """
        ids = list(task_ids)
        try:
            return self._read(ids)
        except ArchiveFileMissing:
            # another process may have moved the rows into a new file since the manifest was read
            return self._read(ids)

    def read_each(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Like :meth:`read`, but with an :class:`UnreadRecord` for each task whose file is missing or damaged.

        Raises:
            StoreError: the manifest or the place cannot be read.
        """
        problems: dict[str, RootcellarError] = {}
        found = self._found(list(task_ids), problems)
        if moved := [task_id for task_id, exc in problems.items() if isinstance(exc, ArchiveFileMissing)]:
            # see read
            problems = {task_id: exc for task_id, exc in problems.items() if task_id not in moved}
            found |= self._found(moved, problems)
        unread = {
            task_id: UnreadRecord(task_id=task_id, state="FAILURE", done_at=NO_DATE, error=exc)
            for task_id, exc in problems.items()
        }
        return {**unread, **{task_id: row.record for task_id, (_, row) in found.items()}}

    def places(self, task_ids: Collection[str]) -> dict[str, Place]:
        """Return where these archived results are, by task id. The rows are read, because the index has only hashes."""
        return {task_id: place for task_id, (place, _) in self._found(task_ids).items()}

    def forget(self, task_ids: Collection[str]) -> int:
        """Make the archived copies of these tasks void; return how many there were.

        The bytes stay in the file until it is deleted, and no process shows them any more.
        """
        count = 0
        # a task that was archived, stored again and archived again has two copies
        while removed := self.manifest.discard(self.places(task_ids)):
            count += removed
        return count

    @contextmanager
    def opened(self, file: ArchiveFile, task_ids: Sequence[str] = ()) -> Iterator[FileReader]:
        """Open a file of the manifest; it stays open for the next caller.

        Args:
            file: the file.
            task_ids: the tasks that are read, for the message of an error.

        Raises:
            ArchiveFileMissing: it is not at its place.
            ArchiveDamaged: it cannot be read.
        """
        try:
            with file_errors("the archive", self.place.where), self._files.get().opened(file) as reader:
                yield reader
        except RootcellarError as exc:
            raise _of_file(exc, task_ids, file, self.place.where) from exc

    def _read(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        return {task_id: row.record for task_id, (_, row) in self._found(task_ids).items()}

    def _found(
        self, task_ids: Collection[str], problems: dict[str, RootcellarError] | None = None
    ) -> dict[str, tuple[Place, Row]]:
        """Read rows; with ``problems``, a file that cannot be read is an entry in it for each of its tasks."""
        found: dict[str, tuple[Place, Row]] = {}
        left = dict(self.manifest.places(task_ids))
        while left:
            # nearly always one round: only two ids with the same hash, or two copies of a task, need another one
            wanted: dict[int, dict[int, list[str]]] = {}
            for task_id, places in left.items():
                wanted.setdefault(places[0].file, {}).setdefault(places[0].row, []).append(task_id)
            unread: set[str] = set()
            for file, rows in wanted.items():
                ids = [task_id for some in rows.values() for task_id in some]
                try:
                    for row in self._rows(file, rows, ids):
                        for task_id in rows[row.number]:
                            if row.record.task_id == task_id:
                                found[task_id] = Place(file, row.number), row
                except (ArchiveFileMissing, ArchiveDamaged) as exc:
                    if problems is None:
                        raise
                    unread |= {task_id for task_id in ids if task_id not in found}
                    problems.update(dict.fromkeys(unread.intersection(ids), exc))
            # an older copy does not stand for one that cannot be read
            left = {
                task_id: places[1:]
                for task_id, places in left.items()
                if task_id not in found and task_id not in unread and places[1:]
            }
        return found

    def _rows(self, number: int, rows: Collection[int], task_ids: Sequence[str]) -> Iterator[Row]:
        with self.opened(self._file(number, task_ids), task_ids) as reader:
            yield from reader.rows_at(rows)

    def _file(self, number: int, task_ids: Sequence[str]) -> ArchiveFile:
        """Return the entry of a file. What is used of it never changes, so it is read once."""
        known = self._known.get(number)
        if known is None:
            known = self.manifest.file(number)
            if known is None:
                raise ArchiveFileMissing(
                    f"the manifest of the archive has no file {number}, in which {_named(task_ids)} should be",
                    where=self.place.where,
                    remedy="run `rootcellar archive verify`",
                )
            if len(self._known) >= _KNOWN_FILES:
                self._known.clear()
            self._known[number] = known
        return known


class _OpenFiles:
    """The files that a process has opened, the last used ones at the end."""

    def __init__(self, place: FilePlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._readers: OrderedDict[int, tuple[FileReader, BinaryIO]] = OrderedDict()

    @contextmanager
    def opened(self, file: ArchiveFile) -> Iterator[FileReader]:
        """Open a file, or take an open one, which no other thread uses meanwhile."""
        with self._lock:
            taken = self._readers.pop(file.id, None)
        reader, source = taken or self._open(file)
        is_whole = False
        try:
            yield reader
            is_whole = True
        finally:
            self._put_back(file.id, reader, source, is_whole=is_whole)

    def _open(self, file: ArchiveFile) -> tuple[FileReader, BinaryIO]:
        source = self._place.open(file.path, file.bytes)
        try:
            return FileReader(source, self._place.where), source
        except BaseException:
            source.close()
            raise

    def _put_back(self, number: int, reader: FileReader, source: BinaryIO, *, is_whole: bool) -> None:
        superfluous: list[BinaryIO] = []
        with self._lock:
            if is_whole and number not in self._readers:
                self._readers[number] = reader, source
            else:
                superfluous.append(source)
            while len(self._readers) > OPEN_FILES:
                superfluous.append(self._readers.popitem(last=False)[1][1])
        for each in superfluous:
            each.close()


def _of_file(exc: RootcellarError, task_ids: Sequence[str], file: ArchiveFile, where: str) -> RootcellarError:
    """Return an error with the file that it concerns, and the tasks."""
    subject = f"{_named(task_ids)} in the file {file.path}" if task_ids else f"the file {file.path}"
    elsewhere = "" if file.location == where else f"; it was written to {file.location}"
    # named once
    what = exc.what.replace(f"the file {file.path} of the archive", "it")
    error = type(exc)(f"{subject} of the archive: {what}{elsewhere}", where=where, remedy=exc.remedy)
    error.retryable = exc.retryable
    return error


def _named(task_ids: Sequence[str]) -> str:
    return f"task {task_ids[0]}" if len(task_ids) == 1 else f"task {task_ids[0]} and {len(task_ids) - 1} more"
