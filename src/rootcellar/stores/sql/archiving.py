"""The manifest of the archive in tables: the ability :class:`~rootcellar.stores.archiving.Manifest` of all SQL stores.

Each method is one transaction. Each change of void rows locks the rows of the files first, in the order of their
numbers, and then the entries of the index.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date, datetime, timezone
from itertools import islice
from typing import Any, Generic, TypeVar

from rootcellar.records import TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.archiving import (
    DELETED,
    HOME,
    WRITTEN,
    ArchiveFile,
    Committed,
    Copy,
    Moved,
    NewFile,
    Place,
    Restoring,
    in_batches,
    key_of_id,
    packed,
    unpacked,
)
from rootcellar.stores.sql.rows import storable

C = TypeVar("C")
T = TypeVar("T")

#: how many rows are compared, deleted and restored by one statement
AT_ONCE = 1_000

#: the columns of a file in the manifest, in the order in which they are read
FILE_COLUMNS = (
    *("id", "location", "path", "day", "n", "bytes", "sha256", "first_done", "last_done", "expires_at"),
    *("state", "created_at", "changed_at", "void"),
)

#: an entry of the index: the hash of an id, the file, and the row in it
Entry = tuple[int, int, int]


class SqlManifest(ABC, Generic[C]):
    """The part of a SQL store that keeps the manifest. Its statements are in ``archive.sql``."""

    #: see :class:`~rootcellar.stores.archiving.Manifest`. A commit takes seconds for each 10,000 rows on a busy server.
    #: As long as it lasts, vacuum waits, and so does a process that stores one of these tasks again.
    rows_in_one_file: int = 250_000

    @abstractmethod
    def _in_transaction(self, work: Callable[[C], T]) -> T:
        """Call ``work`` with a connection, in one transaction; ``work`` may be called again."""

    def _patiently(self, connection: C) -> AbstractContextManager[object]:
        """Wait for each answer without a limit, within a ``with`` block, if the server has one."""
        return nullcontext()

    @abstractmethod
    def _all(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement, by name, and return its rows."""

    @abstractmethod
    def _rows_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement, by name, and return its rows."""

    @abstractmethod
    def _count_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> int:
        """Run a statement, by name, and return how many rows it changed."""

    @abstractmethod
    def _many_of(self, connection: C, statement: str, params: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement, by name, once for each of these parameters."""

    @abstractmethod
    def _delete_live(self, connection: C, ids: Sequence[str]) -> None:
        """Delete live rows that this transaction has locked, and keep what was counted of them."""

    @abstractmethod
    def _restore_live(self, connection: C, record: TaskRecord) -> bool:
        """Insert a live row; return ``False`` if the task has one."""

    @abstractmethod
    def _note_restored(self, connection: C, ids: Sequence[str]) -> None:
        """Take live rows that were inserted out of the counts of deleted rows."""

    @abstractmethod
    def _numbers(self, numbers: Sequence[int]) -> Any:
        """Return numbers as a statement's parameter."""

    @abstractmethod
    def _texts(self, texts: Sequence[str]) -> Any:
        """Return texts as a statement's parameter."""

    @abstractmethod
    def _ids(self, ids: Sequence[str]) -> Any:
        """Return ids as a statement's parameter."""

    @abstractmethod
    def _date(self, moment: datetime) -> Any:
        """Return a date as a statement's parameter."""

    @abstractmethod
    def _read_date(self, value: Any) -> datetime:
        """Return the date in a column, in UTC."""

    @abstractmethod
    def _task_record(self, row: Sequence[Any]) -> TaskRecord:
        """Return the record of a row of tasks."""

    # -- a new file

    def commit_file(
        self, file: NewFile, copies: Callable[[], Iterable[Copy]], *, older: Collection[int] = ()
    ) -> Committed:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""

        def commit(connection: C) -> Committed:
            with self._patiently(connection):
                return self._commit(connection, file, copies(), older)

        try:
            return self._in_transaction(commit)
        except _NothingCounts as nothing:
            # the entry of the file was rolled back
            return Committed(None, 0, nothing.void)

    def _commit(self, connection: C, file: NewFile, copies: Iterable[Copy], older: Collection[int]) -> Committed:
        known = self._rows_of(connection, "file_of_path", {"path": file.path})
        if known:
            earlier = self._file(known[0])
            return Committed(earlier.id, earlier.valid, len(earlier.void))
        # before the live rows, and before the entries of these files are read
        self._lock_files(connection, older)
        self._count_of(connection, "add_file", self._file_params(file))
        ((number,),) = self._rows_of(connection, "number_of_path", {"path": file.path})
        void: set[int] = set()
        superseded: dict[Place, str] = {}
        removed = dropped = 0
        for some in in_batches(copies, lambda copy: copy.record, AT_ONCE):
            same = self._unchanged(connection, self._where_they_were(connection, some))
            self._delete_live(connection, [copy.record.task_id for copy in same])
            removed += len(same)
            kept = [copy for copy in same if copy.is_kept]
            dropped += len(same) - len(kept)
            void |= {copy.row for copy in some} - {copy.row for copy in kept}
            self._add_entries(connection, [(key_of_id(each.record.task_id), number, each.row) for each in kept])
            superseded.update({place: each.record.task_id for each in kept for place in each.earlier})
        if not removed:
            raise _NothingCounts(len(void))
        if void:
            self._count_of(connection, "set_void", {"id": number, "void": packed(void, file.rows)})
        self._make_void(connection, [(key_of_id(one), place.file, place.row) for place, one in superseded.items()])
        return Committed(int(number), removed, len(void), dropped)

    # -- files that become one

    def merge_files(self, file: NewFile, sources: Collection[int], moved: Callable[[], Iterable[Moved]]) -> Committed:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""

        def merge(connection: C) -> Committed:
            with self._patiently(connection):
                return self._merge(connection, file, sources, moved())

        try:
            return self._in_transaction(merge)
        except _NothingCounts as nothing:
            return Committed(None, 0, nothing.void)

    def _merge(self, connection: C, file: NewFile, sources: Collection[int], moved: Iterable[Moved]) -> Committed:
        known = self._rows_of(connection, "file_of_path", {"path": file.path})
        if known:
            earlier = self._file(known[0])
            return Committed(earlier.id, 0, len(earlier.void))
        # before the entries are read: what makes a row void waits for this
        self._lock_files(connection, sources)
        self._count_of(connection, "add_file", self._file_params(file))
        ((number,),) = self._rows_of(connection, "number_of_path", {"path": file.path})
        void: set[int] = set()
        for some in _chunks(moved, AT_ONCE):
            by_entry = {(key_of_id(each.task_id), each.place.file, each.place.row): each.row for each in some}
            present = self._present(connection, by_entry)
            void |= {each.row for each in some} - {by_entry[entry] for entry in present}
            self._add_entries(connection, [(entry[0], int(number), by_entry[entry]) for entry in present])
        if len(void) == file.rows:
            raise _NothingCounts(len(void))
        if void:
            self._count_of(connection, "set_void", {"id": number, "void": packed(void, file.rows)})
        now = self._date(datetime.now(timezone.utc))
        for source in sorted(sources):
            self._mark(connection, source, DELETED, now)
            self._count_of(connection, "drop_entries_of_file", {"file": source})
        return Committed(int(number), 0, len(void))

    def _where_they_were(self, connection: C, copies: Sequence[Copy]) -> list[Copy]:
        """Return the copies whose older copies in the index are exactly those that the run saw.

        An older one may have moved, expired or been forgotten meanwhile. Then it must not win, nor count twice.
        """
        seen = {
            copy.row: {(key_of_id(copy.record.task_id), place.file, place.row) for place in copy.earlier + copy.others}
            for copy in copies
            if copy.earlier or copy.others
        }
        if not seen:
            return list(copies)
        by_key: dict[int, set[Entry]] = {}
        for entry in self._entries_of(connection, {key for entries in seen.values() for key, _, _ in entries}):
            by_key.setdefault(entry[0], set()).add(entry)
        return [
            copy
            for copy in copies
            if copy.row not in seen or by_key.get(key_of_id(copy.record.task_id), set()) == seen[copy.row]
        ]

    def _unchanged(self, connection: C, copies: Sequence[Copy]) -> list[Copy]:
        """Lock the live rows of these copies, and return the copies whose rows are exactly what was copied."""
        ids = [copy.record.task_id for copy in copies]
        live = {
            record.task_id: record for row in self._locked_rows(connection, ids) for record in [self._task_record(row)]
        }
        # a live row counts for one copy only
        return [copy for copy in copies if not copy.is_held and live.pop(copy.record.task_id, None) == copy.record]

    def _locked_rows(self, connection: C, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Lock and read the rows of tasks; one that is locked is being changed, and is left out."""
        return self._rows_of(connection, "lock_tasks", {"task_ids": self._ids(ids)})

    def _file_params(self, file: NewFile) -> dict[str, Any]:
        now = self._date(datetime.now(timezone.utc))
        return {
            "location": file.location,
            "path": file.path,
            "day": file.day.isoformat(),
            "n": file.rows,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "first_done": self._date_or_none(file.first_done),
            "last_done": self._date_or_none(file.last_done),
            "expires_at": self._date_or_none(file.expires_at),
            "state": WRITTEN,
            "created_at": now,
            "changed_at": now,
        }

    # -- reading

    def homes(self) -> Sequence[str]:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        if not (found := self._homes()):
            epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
            home = NewFile(
                location="",
                path=secrets.token_hex(8),
                day=epoch.date(),
                rows=0,
                bytes=0,
                sha256="",
                first_done=None,
                last_done=None,
                expires_at=None,
            )
            params = {**self._file_params(home), "state": HOME}
            self._in_transaction(lambda connection: self._count_of(connection, "add_file", params))
            found = self._homes()
        return found

    def _homes(self) -> list[str]:
        return [path for (path,) in self._all("homes", {"state": HOME})]

    def places(self, task_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        by_key: dict[int, list[str]] = {}
        for task_id in dict.fromkeys(task_ids):
            by_key.setdefault(key_of_id(task_id), []).append(task_id)
        found: dict[str, list[Place]] = {}
        for some in _chunks(by_key, AT_ONCE):
            for key, file, row in self._all("find_entries", {"hashes": self._numbers(some)}):
                for task_id in by_key[int(key)]:
                    found.setdefault(task_id, []).append(Place(int(file), int(row)))
        for each in found.values():
            each.sort(key=lambda place: place.file, reverse=True)
        return found

    def file(self, number: int) -> ArchiveFile | None:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        found = self._all("file_of_number", {"id": number})
        return self._file(found[0]) if found else None

    def files(
        self, since: datetime | None = None, until: datetime | None = None, *, with_deleted: bool = False
    ) -> Sequence[ArchiveFile]:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        params = {
            "since": self._date_or_none(since),
            "until": self._date_or_none(until),
            "home": HOME,
            # a state that no file has, unless deleted files are left out
            "unwanted": "" if with_deleted else DELETED,
        }
        return [self._file(row) for row in self._all("files", params)]

    def known_paths(self, paths: Collection[str]) -> set[str]:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        found: set[str] = set()
        for some in framing.chunks(sorted(path for path in paths if storable(path) == path), AT_ONCE):
            found |= {path for (path,) in self._all("known_paths", {"paths": self._texts(some)})}
        return found

    def _file(self, row: Sequence[Any]) -> ArchiveFile:
        number, location, path, day, rows, size, sha256, first, last, expires, state, created, changed, void = row
        return ArchiveFile(
            id=int(number),
            location=location,
            path=path,
            day=date.fromisoformat(day) if isinstance(day, str) else day,
            rows=int(rows),
            bytes=int(size),
            sha256=sha256,
            first_done=None if first is None else self._read_date(first),
            last_done=None if last is None else self._read_date(last),
            expires_at=None if expires is None else self._read_date(expires),
            state=state,
            created_at=self._read_date(created),
            changed_at=self._read_date(changed),
            void=unpacked(None if void is None else bytes(void)),
        )

    # -- changes

    def mark_file(self, number: int, state: str, at: datetime, *, holds: int | None = None) -> bool:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""

        def mark(connection: C) -> bool:
            with self._patiently(connection):
                is_marked = self._mark(connection, number, state, self._date(at))
                if is_marked and state == DELETED:
                    self._count_of(connection, "drop_entries_of_file", {"file": number})
                # last, because all of the above may take long
                if holds is not None and int(self._rows_of(connection, "holds_placed", {})[0][0]) > holds:
                    raise _HoldPlaced
                return is_marked

        try:
            return self._in_transaction(mark)
        except _HoldPlaced:
            return False

    def _mark(self, connection: C, number: int, state: str, at: Any) -> bool:
        params = {"id": number, "state": state, "changed_at": at, "deleted": DELETED}
        return self._count_of(connection, "mark_file", params) == 1

    def discard(self, places: Mapping[str, Place]) -> int:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        entries = [(key_of_id(task_id), place.file, place.row) for task_id, place in places.items()]
        return self._in_transaction(lambda connection: len(self._make_void(connection, entries)))

    def restore(self, rows: Sequence[Restoring]) -> set[str]:
        """See :class:`~rootcellar.stores.archiving.Manifest`."""
        return self._in_transaction(lambda connection: self._restore(connection, rows)) if rows else set()

    def _restore(self, connection: C, rows: Sequence[Restoring]) -> set[str]:
        entries = {
            (key_of_id(each.record.task_id), each.place.file, each.place.row): each.record
            # all transactions insert rows in this order
            for each in sorted(rows, key=lambda each: each.record.task_id)
        }
        self._lock_files(connection, {file for _, file, _ in entries})
        present = self._present(connection, entries)
        restored = {entry: record for entry, record in entries.items() if entry in present}
        restored = {entry: record for entry, record in restored.items() if self._restore_live(connection, record)}
        ids = [record.task_id for record in restored.values()]
        if ids:
            self._note_restored(connection, ids)
            self._make_void(connection, restored)
        return set(ids)

    def _make_void(self, connection: C, entries: Iterable[Entry]) -> set[Entry]:
        """Take entries out of the index, and mark their rows as void; return those that were in the index."""
        wanted = list(entries)
        if not wanted:
            return set()
        files = self._lock_files(connection, {file for _, file, _ in wanted})
        present = self._present(connection, wanted)
        self._many_of(
            connection, "drop_entry", [{"hash": key, "file": file, "place": row} for key, file, row in sorted(present)]
        )
        for number in sorted({file for _, file, _ in present} & files.keys()):
            size, void = files[number]
            rows = void | {row for _, file, row in present if file == number}
            self._count_of(connection, "set_void", {"id": number, "void": packed(rows, size)})
        return present

    def _lock_files(self, connection: C, numbers: Collection[int]) -> dict[int, tuple[int, frozenset[int]]]:
        """Lock the rows of files; return how many rows each of them has, and which are void."""
        found: dict[int, tuple[int, frozenset[int]]] = {}
        for number in sorted(numbers):
            for rows, void in self._rows_of(connection, "lock_file", {"id": number}):
                found[number] = (int(rows), unpacked(None if void is None else bytes(void)))
        return found

    def _present(self, connection: C, entries: Iterable[Entry]) -> set[Entry]:
        """Return those of these entries that are in the index."""
        wanted = set(entries)
        return self._entries_of(connection, {key for key, _, _ in wanted}) & wanted

    def _entries_of(self, connection: C, keys: Collection[int]) -> set[Entry]:
        """Return all entries of the index with these hashes."""
        found: set[Entry] = set()
        for some in _chunks(sorted(keys), AT_ONCE):
            for key, file, row in self._rows_of(connection, "find_entries", {"hashes": self._numbers(some)}):
                found.add((int(key), int(file), int(row)))
        return found

    def _add_entries(self, connection: C, entries: Sequence[Entry]) -> None:
        # sorted, so that neighbours in the index are inserted one after the other
        rows = [{"hash": key, "file": file, "place": row} for key, file, row in sorted(entries)]
        self._many_of(connection, "add_entry", rows)

    def _date_or_none(self, moment: datetime | None) -> Any:
        return None if moment is None else self._date(moment)


class _NothingCounts(ValueError):
    """Rolls back the entry of a file that has no row that counts."""

    def __init__(self, void: int) -> None:
        super().__init__()
        self.void = void


class _HoldPlaced(Exception):
    """Rolls back the deletion of a file, because a hold was placed meanwhile."""


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
