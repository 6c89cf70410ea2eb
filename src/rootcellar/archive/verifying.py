"""Verifies the archive: that every file is what was written, and that manifest, index and files agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

from rootcellar.archive.files import FileReader
from rootcellar.archive.places import Place as FilePlace
from rootcellar.archive.remains import GRACE, orphans, own_entries
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing
from rootcellar.records import TaskRecord
from rootcellar.stores.archiving import DELETED, VERIFIED, WRITTEN, ArchiveFile, Manifest, Place

_BLOCK = 1024 * 1024
_AT_ONCE = 1_000
#: the most rows of a file that a problem names
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a file.

    Attributes:
        path: the file.
        text: what is wrong.
    """

    path: str
    text: str


@dataclass(slots=True)
class Verified:
    """What was verified.

    Attributes:
        files, rows, bytes: how many files were read, how many of their rows count, and their size.
        problems: what is wrong.
        elsewhere: how many files were written to another place, which was not read.
        uncommitted: how many files at this place have no entry in the manifest and are younger than the grace time.
    """

    files: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    elsewhere: int = 0
    uncommitted: int = 0


class Verifying:
    """Verifies all files of the manifest at a place.

    Args:
        manifest: the manifest.
        place: where the files are.
        is_full: whether every row is read and compared with the index, and not only the digest of each file.
        now: the present.
        on_file: is called after each file, with the number of its rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        place: FilePlace,
        *,
        is_full: bool,
        now: datetime,
        on_file: Callable[[int], object] = lambda rows: None,
    ) -> None:
        self._manifest = manifest
        self._place = place
        self._is_full = is_full
        self._now = now
        self._on_file = on_file

    def run(self) -> Verified:
        """Verify; a file without a problem becomes :data:`~rootcellar.stores.archiving.VERIFIED`.

        Raises:
            StoreError: the store or the place cannot be read.
        """
        found = Verified()
        for listed in self._manifest.files():
            if listed.location != self._place.where:
                found.elsewhere += 1
                continue
            verified = self._verified(listed)
            if verified is None:
                # it was replaced by another file, or all of its results expired, after the list was read
                continue
            file, problems = verified
            found.problems += [Problem(file.path, text) for text in problems]
            found.files += 1
            found.rows += file.valid
            found.bytes += file.bytes
            if not problems and file.state in (WRITTEN, VERIFIED):
                self._manifest.mark_file(file.id, VERIFIED, self._now)
            self._on_file(file.valid)
        self._look_for_others(found)
        return found

    def _verified(self, file: ArchiveFile) -> tuple[ArchiveFile, list[str]] | None:
        """Return the entry of a file and its problems; ``None`` if the file was deleted meanwhile."""
        while True:
            problems = list(self._problems_of(file))
            now = self._manifest.file(file.id) if problems else file
            if now is None or now.state == DELETED:
                return None
            if now.void == file.void:
                return file, problems
            # results of it were restored or forgotten while it was read
            file = now

    def _problems_of(self, file: ArchiveFile) -> Iterator[str]:
        try:
            with closing(self._place.open(file.path)) as source:
                size, digest = _digest_of(source)
                if size != file.bytes:
                    yield f"it has {size:,} bytes, and was written with {file.bytes:,}"
                elif digest != file.sha256:
                    yield "its bytes are not those that were written: their SHA-256 differs"
                source.seek(0)
                reader = FileReader(source, self._place.where)
                if reader.rows != file.rows:
                    yield f"it has {reader.rows:,} rows, and the manifest says {file.rows:,}"
                elif self._is_full:
                    yield from self._problems_of_rows(file, reader)
        except (ArchiveDamaged, ArchiveFileMissing) as exc:
            yield exc.what

    def _problems_of_rows(self, file: ArchiveFile, reader: FileReader) -> Iterator[str]:
        missing: list[str] = []
        superfluous: list[str] = []
        batch: list[tuple[int, TaskRecord]] = []

        def compare() -> None:
            places = self._manifest.places([record.task_id for _, record in batch])
            for number, record in batch:
                is_listed = Place(file.id, number) in places.get(record.task_id, ())
                if is_listed == (number in file.void):
                    (superfluous if is_listed else missing).append(record.task_id)
            batch.clear()

        for row in reader.read():
            batch.append((row.number, row.record))
            if len(batch) >= _AT_ONCE:
                compare()
        compare()
        if missing:
            yield f"{len(missing):,} of its rows are not in the index, such as {_some(missing)}"
        if superfluous:
            yield f"{len(superfluous):,} rows that do not count are in the index, such as {_some(superfluous)}"

    def _look_for_others(self, found: Verified) -> None:
        """Look for files of this database that have no entry in the manifest."""
        entries = list(own_entries(self._manifest, self._place))
        now = self._now.timestamp()
        lost = {entry.name for entry in orphans(self._manifest, entries, now=now)}
        found.problems += [
            Problem(name, "it is not in the manifest; the next `rootcellar archive run` deletes it")
            for name in sorted(lost)
        ]
        young = orphans(self._manifest, entries, now=now, grace=-GRACE)
        found.uncommitted = len({entry.name for entry in young} - lost)


def _digest_of(source: BinaryIO) -> tuple[int, str]:
    """Return the size and the digest of a file."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _some(ids: list[str]) -> str:
    return ", ".join(json.dumps(task_id) for task_id in ids[:_NAMED])
