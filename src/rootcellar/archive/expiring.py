"""Deletes files whose results have all expired, and what earlier runs left of deleted files.

A file is first marked in the manifest, which takes its results out of the index, and then deleted from its place. A run
that dies between these two leaves the file. A later run deletes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import TypeVar

from rootcellar.archive.places import Place
from rootcellar.archive.reading import Archive
from rootcellar.archive.remains import copy_name, own_entries
from rootcellar.archive.writing import Held
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.archiving import DELETED, ArchiveFile, Manifest
from rootcellar.stores.holding import Holding

T = TypeVar("T")

#: seconds for which a file that was replaced by another one stays at its place, because a client may be reading it
GRACE = 3_600.0
#: how many records are tested at a time whether they are held
_AT_ONCE = 500


@dataclass(slots=True)
class Expired:
    """What became of files whose results have all expired.

    Attributes:
        files: how many files were deleted.
        rows: how many results were in them.
        bytes: the bytes of these files.
        held: how many files stay because a hold covers a result in them.
        unread: how many files stay because they cannot be read, and holds may cover a result in them.
        elsewhere: how many files stay because they are at another place than the one that is named.
        problem: the first error of a file that cannot be read.
    """

    files: int = 0
    rows: int = 0
    bytes: int = 0
    held: int = 0
    unread: int = 0
    elsewhere: int = 0
    problem: RootcellarError | None = None

    def sentence(self) -> str:
        """Return what was done, for a log and the record of the job."""
        kept = "".join(
            f", {count:,} kept ({why})"
            for count, why in ((self.held, "held"), (self.unread, "cannot be read"), (self.elsewhere, "elsewhere"))
            if count
        )
        return f"Deleted {self.files:,} files with {self.rows:,} results{kept}."


def expired_files(manifest: Manifest, now: datetime) -> list[ArchiveFile]:
    """Return the files whose results have all expired, or do not count any more."""
    return [
        file for file in manifest.files() if file.valid == 0 or (file.expires_at is not None and file.expires_at <= now)
    ]


def expire(
    archive: Archive,
    holds: Held,
    holding: Holding | None,
    now: datetime,
    *,
    is_dry: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> Expired:
    """Delete the files whose results have all expired, except those with a held result.

    Args:
        archive: the archive.
        holds: says which records are held.
        holding: the ability of the store to keep holds; ``None`` without.
        now: the present.
        is_dry: whether nothing is deleted, and only counted.
        go_on: is asked between two files; a run ends when it returns ``False``.

    Raises:
        StoreError: the store or the place cannot be used.
    """
    done = Expired()
    for file in expired_files(archive.manifest, now):
        if not go_on():
            break
        if file.location != archive.place.where:
            done.elsewhere += 1
            continue
        try:
            left = _removed(archive, file, holds, holding, now, is_dry=is_dry)
        except (ArchiveFileMissing, ArchiveDamaged) as exc:
            done.unread += 1
            done.problem = done.problem or exc
            continue
        if left is _Left.HELD:
            done.held += 1
        if left is not _Left.NOTHING:
            continue
        done.files += 1
        done.rows += file.valid
        done.bytes += file.bytes
    return done


def delete_remains(manifest: Manifest, place: Place, now: datetime, *, grace: float = GRACE) -> int:
    """Delete files from their place that the manifest has as deleted; return how many.

    Args:
        manifest: the manifest.
        place: where the files are.
        now: the present.
        grace: seconds for which such a file stays.
    """
    deleted = {
        file.path
        for file in manifest.files(with_deleted=True)
        if file.state == DELETED and (now - file.changed_at).total_seconds() >= grace
    }
    there = {entry.name for entry in own_entries(manifest, place)} if deleted else set()
    left = [path for path in sorted(deleted) if path in there or copy_name(path) in there]
    for path in left:
        _delete(place, path)
    return len(left)


def _delete(place: Place, path: str) -> None:
    place.delete(path)
    place.delete(copy_name(path))


class _Left(Enum):
    """Why a file was not deleted, if it was not."""

    NOTHING = "it was deleted"
    HELD = "a hold covers a result in it"
    GONE = "the manifest does not have it any more"


def _removed(
    archive: Archive, file: ArchiveFile, holds: Held, holding: Holding | None, now: datetime, *, is_dry: bool
) -> _Left:
    """Delete a file, unless a hold covers a result of it, also one that is placed while this looks."""
    while True:
        placed = None if holding is None else len(holding.holds(with_released=True))
        if holding is not None and _has_held(archive, file, holds, holding):
            return _Left.HELD
        if is_dry:
            return _Left.NOTHING
        if archive.manifest.mark_file(file.id, DELETED, now, holds=placed):
            _delete(archive.place, file.path)
            return _Left.NOTHING
        if holding is None or len(holding.holds(with_released=True)) == placed:
            return _Left.GONE


def _has_held(archive: Archive, file: ArchiveFile, holds: Held, holding: Holding) -> bool:
    """Return whether a hold covers a result of a file. Without holds, the file is not read."""
    if file.valid == 0 or not holding.holds():
        return False
    records = _records(archive, file)
    while some := list(islice(records, _AT_ONCE)):
        if holds.held(some):
            return True
    return False


def _records(archive: Archive, file: ArchiveFile) -> Iterator[TaskRecord]:
    with archive.opened(file) as reader:
        for row in reader.read():
            if row.number not in file.void:
                # with the value itself, which was in a blob before: a hold may ask for it
                yield row.record
