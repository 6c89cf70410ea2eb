"""The manifest of the archive: which files there are, and the file and the row of each archived result.

The manifest is in the database of the results. So the transaction that deletes the live rows of archived results also
adds their file to the manifest: at every moment, a result is either in the live table or in the archive.

A row of a file that does not count is *void*: its task was written again before the file was committed, was restored,
or was forgotten. The index of ids has no entry for it, and the entry of its file lists it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol, TypeVar, runtime_checkable

from rootcellar.records import TaskRecord

T = TypeVar("T")

#: the states of a file: committed, then read again by ``archive verify``; or deleted from its place
WRITTEN, VERIFIED, DELETED = "written", "verified", "deleted"
#: about how many bytes of records are in memory at a time
BATCH_BYTES = 8 * 1024 * 1024
#: the state of an entry that is not a file, but the name of a folder with the files of this database
HOME = "home"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file that is completely written, and not in the manifest yet.

    Attributes:
        location: the place of the file, a folder or a URL without a password.
        path: its random name at this place.
        day: the day, in UTC, on which its tasks ended.
        rows: how many rows it has.
        bytes: its size.
        sha256: the digest of its bytes, in hexadecimal.
        first_done, last_done: the first and the last end of a task in it; ``None`` if no row has one.
        expires_at: when all of its rows have expired; ``None`` if one of them never does.
    """

    location: str
    path: str
    day: date
    rows: int
    bytes: int
    sha256: str
    first_done: datetime | None
    last_done: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile(NewFile):
    """A file in the manifest.

    Attributes:
        id: its number.
        void: the rows of it that do not count.
        state: :data:`WRITTEN`, :data:`VERIFIED` or :data:`DELETED`.
        created_at: when it was committed.
        changed_at: when its state changed last.
    """

    id: int
    void: frozenset[int] = frozenset()
    state: str = WRITTEN
    created_at: datetime
    changed_at: datetime

    @property
    def valid(self) -> int:
        """How many of its rows count."""
        return self.rows - len(self.void)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an archived result is.

    Attributes:
        file: the number of the file.
        row: the row in it, from 0.
    """

    file: int
    row: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A row of a new file.

    Attributes:
        row: its number in the file, from 0.
        record: the record of the live row that it is a copy of, exactly as the store returned it.
        earlier: older archived copies of the same task, which become void if this copy counts.
        is_kept: whether the copy counts. Otherwise an older archived copy wins, and this one is void.
        others: archived copies of other tasks whose ids have the same hash. If the index has anything else for this
            hash than ``earlier`` and ``others`` when the file is committed, the live row stays, and the copy is void.
        is_held: whether the live row stays in any case, so that the copy is void.
    """

    row: int
    record: TaskRecord
    earlier: tuple[Place, ...] = ()
    is_kept: bool = True
    is_held: bool = False
    others: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a new file.

    Attributes:
        file: its number; ``None`` if none of its rows counts. Then the manifest does not have it.
        removed: how many live rows were deleted.
        void: how many of its rows do not count.
        dropped: how many of the deleted live rows have no copy that counts, because an older archived one wins.
    """

    file: int | None
    removed: int
    void: int
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """A row of a new file that is a copy of an archived one.

    Attributes:
        row: its number in the new file, from 0.
        task_id: the task.
        place: where it was until now.
    """

    row: int
    task_id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Restoring:
    """A record that goes back into the live table.

    Attributes:
        place: where it is in the archive.
        record: the record as it will be stored.
    """

    place: Place
    record: TaskRecord


@runtime_checkable
class Manifest(Protocol):
    """A store with a manifest of archived results.

    Attributes:
        rows_in_one_file: how many rows may be committed in one transaction.
    """

    rows_in_one_file: int

    def commit_file(
        self, file: NewFile, copies: Callable[[], Iterable[Copy]], *, older: Collection[int] = ()
    ) -> Committed:
        """Delete the live rows that a file has copies of, and add the file to the manifest, in one transaction.

        A live row that is not exactly what was copied stays, and its copy is void. The same holds for a row that
        another transaction has locked. If the file is in the manifest already, nothing is done: an earlier try
        succeeded and its answer was lost.

        Args:
            file: the file.
            copies: returns all copies in the order of their rows; it may be called again.
            older: the numbers of the files with older copies. They are locked before any live row, as in
                :meth:`restore`, so that two transactions do not wait for each other.
        """

    def merge_files(self, file: NewFile, sources: Collection[int], moved: Callable[[], Iterable[Moved]]) -> Committed:
        """Put a new file in the place of several ones, which become deleted ones, in one transaction.

        A row that does not count any more at its earlier place is void in the new file. If the new file is in the
        manifest already, nothing is done.

        Args:
            file: the new file.
            sources: the numbers of the files whose rows it has.
            moved: returns all of its rows, in their order; it may be called again.
        """

    def homes(self) -> Sequence[str]:
        """Return the names of the folders in which the files of this database are, at every place.

        The first one is for new files. It is chosen at random when it is first asked for, so that several databases
        may have their files at one place, and none deletes those of another.
        """

    def places(self, task_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        """Return where archived results may be, by task id, the newest file first. Most tasks have one place.

        The index has a hash of each id, so the caller checks that the row is that of the task.
        """

    def file(self, number: int) -> ArchiveFile | None:
        """Return a file of the manifest; ``None`` if there is none of this number."""

    def files(
        self, since: datetime | None = None, until: datetime | None = None, *, with_deleted: bool = False
    ) -> Sequence[ArchiveFile]:
        """Return the files with tasks that ended at or after ``since`` and before ``until``, by day and number."""

    def known_paths(self, paths: Collection[str]) -> set[str]:
        """Return those of these paths that are in the manifest, also as deleted files."""

    def mark_file(self, number: int, state: str, at: datetime, *, holds: int | None = None) -> bool:
        """Set the state of a file; return whether it was done. The entries of a deleted file leave the index.

        A deleted file keeps its state.

        Args:
            number: the number of the file; nothing is done if there is none, or if it is deleted.
            state: the new state.
            at: the present.
            holds: how many holds had ever been placed when the caller looked whether one covers the file. If there are
                more now, nothing is done. ``None``: holds do not matter.
        """

    def discard(self, places: Mapping[str, Place]) -> int:
        """Make rows void, by task id, such as for ``forget``; return how many counted before."""

    def restore(self, rows: Sequence[Restoring]) -> set[str]:
        """Store archived records as live rows and make their places void, in one transaction; return their ids.

        A task that has a live row keeps it, and its archived copy stays as it is.
        """


def size_of(record: TaskRecord) -> int:
    """Return about how many bytes a record takes in memory."""
    payloads = (record.result, record.args, record.kwargs, record.children, record.stamps)
    return 500 + sum(len(each.body) for each in payloads if each is not None) + len(record.traceback or "")


def in_batches(items: Iterable[T], record: Callable[[T], TaskRecord], count: int) -> Iterator[list[T]]:
    """Cut items into batches of at most ``count`` that take about :data:`BATCH_BYTES` at most.

    Args:
        items: the items.
        record: returns the record of an item.
        count: the most items of a batch.
    """
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(record(item))
        if len(batch) >= count or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def key_of_id(task_id: str) -> int:
    """Return what the index of archived ids has for a task's id: 64 bits of a hash, as a signed integer."""
    digest = hashlib.blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def packed(rows: Collection[int], size: int) -> bytes | None:
    """Return a set of rows as compressed bits; ``None`` for an empty set.

    Args:
        rows: the rows.
        size: how many rows the file has.
    """
    if not rows:
        return None
    bits = bytearray(size // 8 + 1)
    for row in rows:
        bits[row // 8] |= 1 << row % 8
    return zlib.compress(bytes(bits), 6)


def unpacked(stored: bytes | None) -> frozenset[int]:
    """Return the set of rows that :func:`packed` wrote."""
    return frozenset() if stored is None else frozenset(_set_bits(zlib.decompress(stored)))


def _set_bits(bits: bytes) -> Iterator[int]:
    for place, byte in enumerate(bits):
        if byte:
            yield from (place * 8 + bit for bit in range(8) if byte >> bit & 1)
