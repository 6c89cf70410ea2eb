"""Folders and files of Parquet as the source or the target of a copy, in the format of the archive.

A folder has files ``results-000001.parquet`` and so on, and ``groups-000001.parquet`` for the saved groups: a group is
a row with its id, the state ``GROUP`` and its result. A single file has tasks only.
"""

from __future__ import annotations

import os
import shutil
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from rootcellar.archive.files import FileReader, FileWriter
from rootcellar.errors import ArchiveDamaged, ConfigurationError, FileUnwritable
from rootcellar.migration.endpoint import Endpoint
from rootcellar.records import NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.mirroring import CopyReport

#: the beginning of the names of files with saved groups
_GROUPS = "groups-"
#: the state of a row that is a saved group
_GROUP_STATE = "GROUP"
_END = ".parquet"
#: the bits of the number of a row; a file has at most a million
_ROW = (1 << 24) - 1
#: returns a record with its result itself, and the reference to the blob that it had
Fetch = Callable[[TaskRecord], "tuple[TaskRecord, Payload | None]"]


def parquet_endpoint(path: Path) -> Endpoint:
    """Return a folder or file of Parquet as an endpoint: a source if it exists, and otherwise a target.

    Args:
        path: the folder or file.

    Raises:
        DriverMissing: pyarrow is not installed.
        ConfigurationError: the folder has no file of Parquet.
    """
    if path.exists():
        source = ParquetSource(path)
        return Endpoint(name=f"parquet:{path.absolute()}", where=str(path), source=source, lookup=source)
    target = ParquetTarget(path)
    return Endpoint(
        name=f"parquet:{path.absolute()}", where=str(path), target=target, finish=target.finish, close=target.close
    )


class ParquetSource:
    """Reads the files of a folder in the order of their names, or one file.

    Args:
        path: the folder or file.

    Raises:
        ConfigurationError: the folder has no file of Parquet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        files = sorted(path.rglob(f"*{_END}")) if path.is_dir() else [path]
        # a folder whose name begins with a dot is not complete yet
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not files:
            raise ConfigurationError(
                "this folder has no file of Parquet", where=str(path), remedy="name the folder that was exported"
            )
        self._tasks = [file for file in files if not file.name.startswith(_GROUPS)]
        self._groups = [file for file in files if file.name.startswith(_GROUPS)]
        #: the next records of the last call, and the cursor that goes on there
        self._next: dict[bool, tuple[str, Iterator[tuple[str, TaskRecord]]]] = {}
        self._index: _Index | None = None

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """Return the next records, in the order of the files."""
        return self._read(False, cursor, limit)

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """Return the next saved groups."""
        records, cursor = self._read(True, cursor, limit)
        return [_group_of(record) for record in records], cursor

    def count_roughly(self) -> int:
        """Return how many tasks the files have."""
        return sum(self._with_reader(file, lambda reader: reader.rows) for file in self._tasks)

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records of these tasks. The first call reads the ids of all files."""
        if self._index is None:
            self._index = _Index(self._tasks, self._reader)
        wanted = set(task_ids)
        return {record.task_id: record for record in self._index.records(wanted) if record.task_id in wanted}

    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group. It reads all of them."""
        for _, record in self._rows(self._groups, 0, 0):
            if record.task_id == group_id:
                return _group_of(record)
        return None

    def _read(self, is_groups: bool, cursor: str | None, limit: int) -> tuple[list[TaskRecord], str | None]:
        files = self._groups if is_groups else self._tasks
        at, rows = self._next.pop(is_groups, ("", iter(())))
        if cursor is None or cursor != at:
            rows = self._rows(files, *_place_of(cursor, files))
        found: list[TaskRecord] = []
        after: str | None = None
        for after, record in rows:
            found.append(record)
            if len(found) >= limit:
                self._next[is_groups] = after, rows
                return found, after
        return found, None

    def _rows(self, files: Sequence[Path], first: int, row: int) -> Iterator[tuple[str, TaskRecord]]:
        """Yield the records from a row of a file on, each with the cursor after it."""
        for number, file in enumerate(files[first:], first):
            with self._reader(file) as reader:
                groups = [group for group in range(reader.groups) if reader.bounds(group)[1] > row]
                for each in reader.read(groups, at_once=1_000):
                    if each.number >= row:
                        yield f"{file.name}:{number}:{each.number + 1}", each.record
            row = 0

    @contextmanager
    def _reader(self, file: Path) -> Iterator[FileReader]:
        with file.open("rb") as source:
            try:
                reader = FileReader(source, str(file))
            except ArchiveDamaged as exc:
                raise ArchiveDamaged(
                    exc.what,
                    where=exc.where,
                    remedy="write it with `rootcellar export --exact`: other exports are for people, and not complete",
                ) from exc
            yield reader

    def _with_reader(self, file: Path, ask: Callable[[FileReader], int]) -> int:
        with self._reader(file) as reader:
            return ask(reader)


def _place_of(cursor: str | None, files: Sequence[Path]) -> tuple[int, int]:
    """Return the number of the file and of the row at which a cursor goes on."""
    if cursor is None:
        return 0, 0
    name, number, row = cursor.rsplit(":", 2)
    if int(number) >= len(files) or files[int(number)].name != name:
        # other files are there now: everything is read again
        return 0, 0
    return int(number), int(row)


class _Index:
    """Finds the rows of ids: 8 bytes for each row.

    Args:
        files: the files.
        reader: opens one.
    """

    def __init__(self, files: Sequence[Path], reader: Callable[[Path], AbstractContextManager[FileReader]]) -> None:
        self._files = files
        self._reader = reader
        #: of each file, the hashes of its ids with the numbers of their rows, sorted
        self._entries = [self._of(file) for file in files]

    def _of(self, file: Path) -> array[int]:
        with self._reader(file) as reader:
            return array("Q", sorted(_hash(task_id) | row for row, task_id in enumerate(reader.ids())))

    def records(self, task_ids: Iterable[str]) -> Iterator[TaskRecord]:
        """Yield the records whose ids have the hash of one of these."""
        hashes = [_hash(task_id) for task_id in task_ids]
        for file, entries in zip(self._files, self._entries, strict=True):
            rows = [row for hashed in hashes for row in _rows_with(entries, hashed)]
            if rows:
                with self._reader(file) as reader:
                    yield from (row.record for row in reader.rows_at(rows))


def _rows_with(entries: array[int], hashed: int) -> Iterator[int]:
    """Yield the numbers of the rows whose ids have a hash."""
    at = bisect_left(entries, hashed)
    while at < len(entries) and entries[at] & ~_ROW == hashed:
        yield entries[at] & _ROW
        at += 1


def _hash(task_id: str) -> int:
    """Return a hash of 64 bits. Its last bits are 0: they have room for the number of a row."""
    hashed = blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") & ~_ROW


def _as_it_is(record: TaskRecord) -> tuple[TaskRecord, Payload | None]:
    return record, None


class ParquetTarget:
    """Writes files of Parquet. They get their names when all of them are complete.

    Args:
        path: a folder that does not exist yet, or a file whose name ends with ``.parquet``.

    Attributes:
        fetch: returns a record with its result itself, and the reference to the blob that it had. It may be set.
        groups_left_out: how many saved groups a single file leaves out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fetch: Fetch = _as_it_is
        self._is_file = path.suffix == _END
        self._partial = path.with_name(f".{path.name[:100]}.{token_hex(8)}.partial")
        self._open: dict[bool, tuple[FileWriter, BinaryIO]] = {}
        self._files = {False: 0, True: 0}
        self.groups_left_out = 0

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """Write records; each is written, also if it was written before."""
        with self._translated():
            for record in records:
                whole, reference = self.fetch(record)
                self._writer(False).add(whole, reference, expires_at=record.expires_at)
        return CopyReport(written=frozenset(record.task_id for record in records))

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """Write saved groups; a single file leaves them out."""
        if self._is_file:
            self.groups_left_out += len(groups)
            return 0
        with self._translated():
            for group in groups:
                self._writer(True).add(_record_of(group), expires_at=group.expires_at)
        return len(groups)

    def finish(self) -> None:
        """Give the files their names."""
        with self._translated():
            if not self._is_file or not self._files[False]:
                # also without a single result there is a file
                self._writer(False)
            for is_groups in list(self._open):
                self._close(is_groups)
            self._partial.replace(self._path)

    def close(self) -> None:
        """Remove the files, unless they have their names."""
        for writer, file in self._open.values():
            with suppress(OSError):
                writer.close()
                file.close()
        self._open.clear()
        if self._partial.is_dir():
            shutil.rmtree(self._partial, ignore_errors=True)
        else:
            self._partial.unlink(missing_ok=True)

    def _writer(self, is_groups: bool) -> FileWriter:
        found = self._open.get(is_groups)
        if found is not None and not self._is_file and found[0].is_full:
            self._close(is_groups)
            found = None
        if found is None:
            found = self._begin(is_groups)
            self._open[is_groups] = found
        return found[0]

    def _begin(self, is_groups: bool) -> tuple[FileWriter, BinaryIO]:
        self._files[is_groups] += 1
        if self._is_file:
            file: BinaryIO = self._partial.open("xb")
        else:
            self._partial.mkdir(exist_ok=True)
            name = f"{_GROUPS if is_groups else 'results-'}{self._files[is_groups]:06}{_END}"
            file = (self._partial / name).open("xb")
        return FileWriter(file), file

    def _close(self, is_groups: bool) -> None:
        writer, file = self._open.pop(is_groups)
        with closing(file):
            writer.close()
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise FileUnwritable(
                f"the file cannot be written: {exc.strerror or exc}",
                where=str(self._path),
                remedy="free space, or name a folder that does not exist yet in one that is writable",
            ) from exc


def _record_of(group: GroupRecord) -> TaskRecord:
    return TaskRecord(
        task_id=group.group_id,
        state=_GROUP_STATE,
        result=group.result,
        done_at=group.done_at,
        expires_at=group.expires_at,
    )


def _group_of(record: TaskRecord) -> GroupRecord:
    return GroupRecord(
        group_id=record.task_id,
        result=record.result or Payload(b"null"),
        done_at=record.done_at or NO_DATE,
        expires_at=record.expires_at,
    )
