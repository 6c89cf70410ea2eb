"""Joins small files of one day into one file.

The new file is written and read again. Then one transaction adds it to the manifest, and marks the small ones as
deleted. They stay at their place for an hour, because clients may be reading them::

    small files ──> a new file is written, and read again ──> committed ──> the small files are deleted, an hour later
                            |
                            └── the process died: a later run deletes the new file, which no entry names
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from rootcellar.archive.files import FILE_BYTES, FileReader, FileWriter, Written
from rootcellar.archive.listing import StoreSource, in_order
from rootcellar.archive.masks import Masks
from rootcellar.archive.reading import Archive
from rootcellar.archive.remains import check_draft, discard_draft, write_copy
from rootcellar.errors import ArchiveDamaged, RootcellarError
from rootcellar.stores import Store
from rootcellar.stores.archiving import ArchiveFile, Moved, NewFile, Place, key_of_id
from rootcellar.stores.search import Always

#: a file is small if it has fewer bytes, and a day is compacted if it has more than so many small files
SMALL, FEW = 16 * 1024 * 1024, 4
#: files whose last results expire at times farther apart are not joined: what expires first would be kept longer
_APART = timedelta(days=2)


@dataclass(slots=True)
class Compacted:
    """What a run has done.

    Attributes:
        files: how many small files were joined.
        into: how many new files there are.
        rows: how many results are in the new files.
        before, after: the bytes of the small files, and of the new ones.
    """

    files: int = 0
    into: int = 0
    rows: int = 0
    before: int = 0
    after: int = 0


def small_files(archive: Archive) -> list[list[ArchiveFile]]:
    """Return the files to join, day by day."""
    by_day: dict[object, list[ArchiveFile]] = {}
    for file in archive.manifest.files():
        if file.bytes < SMALL and file.valid and file.location == archive.place.where:
            by_day.setdefault(file.day, []).append(file)
    return [
        group
        for files in by_day.values()
        for alike in _alike(files)
        if len(alike) > FEW
        for group in _fitting(alike, archive.manifest.rows_in_one_file)
        if len(group) > 1
    ]


def compact(
    archive: Archive, store: Store, *, is_dry: bool = False, go_on: Callable[[], bool] = lambda: True
) -> Compacted:
    """Join the small files of each day that has more than four of them.

    Args:
        archive: the archive.
        store: the store with the manifest.
        is_dry: whether nothing is changed, and only counted.
        go_on: is asked between two files; a run ends when it returns ``False``.

    Raises:
        ArchiveDamaged: a file cannot be read. It and the others stay as they are.
        StoreError: the store or the place cannot be used.
    """
    done = Compacted()
    for files in small_files(archive):
        if not go_on():
            break
        if is_dry:
            size, rows = 0, sum(file.valid for file in files)
        else:
            merged = _merge(archive, store, files)
            if merged is None:
                # another run was faster
                continue
            size, rows = merged.bytes, merged.valid
        done.files += len(files)
        done.into += 1
        done.rows += rows
        done.before += sum(file.bytes for file in files)
        done.after += size
    return done


def _merge(archive: Archive, store: Store, files: Sequence[ArchiveFile]) -> ArchiveFile | None:
    day = files[0].day.isoformat()
    path = f"{archive.manifest.homes()[0]}/{day[:7]}/{day}-{secrets.token_hex(8)}.parquet"
    begun = datetime.now(timezone.utc)
    written, order = _write(archive, store, files, path)
    new = NewFile(
        location=archive.place.where,
        path=path,
        day=files[0].day,
        rows=written.rows,
        bytes=written.bytes,
        sha256=written.sha256,
        first_done=written.first_done,
        last_done=written.last_done,
        expires_at=written.expires_at,
    )

    tries = 0

    def all_moved() -> Iterator[Moved]:
        nonlocal tries
        tries += 1
        return moved()

    def moved() -> Iterator[Moved]:
        # read again from the new file, so that only what can be read replaces anything
        with archive.place.open(path, written.bytes) as source:
            copies = FileReader(source, f"{archive.place.where}: {path}").read()
            for (key, place), copy in zip(order.rows(), copies, strict=True):
                task_id = copy.record.task_id
                if key_of_id(task_id) != key:
                    raise ArchiveDamaged(
                        f"the new file {path} has task {task_id} in place of another one",
                        where=archive.place.where,
                        remedy="run `rootcellar archive compact` again; nothing was changed",
                    )
                yield Moved(copy.number, task_id, place)
        check_draft(archive.place, path, written.bytes, begun)

    try:
        committed = archive.manifest.merge_files(new, [file.id for file in files], all_moved)
    except RootcellarError as exc:
        if tries == 1 and not exc.retryable:
            discard_draft(archive.manifest, archive.place, path)
        raise
    if committed.file is None:
        archive.place.delete(path)
        return None
    if (file := archive.manifest.file(committed.file)) is not None:
        write_copy(archive.place, file)
    return file


class _Order:
    """Where each row of a new file comes from. It takes 24 bytes for each of them."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def add(self, task_id: str, place: Place) -> None:
        """Note the next row."""
        self._numbers.extend((key_of_id(task_id), place.file, place.row))

    def rows(self) -> Iterator[tuple[int, Place]]:
        """Yield the hash of the id, and the earlier place, of each row."""
        numbers = iter(self._numbers)
        for key, file, row in zip(numbers, numbers, numbers, strict=True):
            yield key, Place(file, row)


def _write(archive: Archive, store: Store, files: Sequence[ArchiveFile], path: str) -> tuple[Written, _Order]:
    source = StoreSource(archive, store)
    order = _Order()
    with archive.place.write(path) as sink:
        writer = FileWriter(sink)
        for _, file, row in in_order(source, files, Masks(Always(True)), lambda record: True):
            if row.number >= 0:
                writer.add(row.record, row.reference, expires_at=file.expires_at)
                order.add(row.record.task_id, Place(file.id, row.number))
        return writer.close(), order


def _alike(files: Sequence[ArchiveFile]) -> Iterator[list[ArchiveFile]]:
    """Yield groups of files that expire at about the same time."""
    for_ever = [file for file in files if file.expires_at is None]
    if for_ever:
        yield for_ever
    group: list[ArchiveFile] = []
    for file in sorted(
        (file for file in files if file.expires_at is not None), key=lambda file: (file.expires_at, file.id)
    ):
        first = group[0].expires_at if group else None
        if first is not None and file.expires_at is not None and file.expires_at - first > _APART:
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _fitting(files: Sequence[ArchiveFile], rows: int) -> Iterator[list[ArchiveFile]]:
    """Cut a group of files into those that fit into one file."""
    group: list[ArchiveFile] = []
    for file in files:
        if group and (
            sum(each.bytes for each in group) + file.bytes > FILE_BYTES
            or sum(each.rows for each in group) + file.rows > rows
        ):
            yield group
            group = []
        group.append(file)
    if group:
        yield group
