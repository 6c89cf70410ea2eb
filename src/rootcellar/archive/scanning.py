"""Finds a result in files alone, without the database that has the manifest.

Every file is asked, the newest name first. Its bloom filters rule out nearly every row group without the id, so a file
costs two or three requests. Which rows are void is not known without the manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from rootcellar.archive.bloom import may_have
from rootcellar.archive.files import FileReader
from rootcellar.archive.places import Entry, Place
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, RootcellarError
from rootcellar.records import TaskRecord

_ENDING = ".parquet"


def find_in_files(
    place: Place, task_id: str, on_problem: Callable[[RootcellarError], object] = lambda problem: None
) -> tuple[TaskRecord, str] | None:
    """Return the record of a task and the name of its file; ``None`` if no file has it.

    Args:
        place: where the files are.
        task_id: the task's id.
        on_problem: called with the error of a file that is left out, because it cannot be read. A run that was killed
            leaves a part of a file.

    Raises:
        StoreError: the place cannot be read.
    """
    entries = [entry for entry in place.list() if entry.name.endswith(_ENDING)]
    for entry in sorted(entries, key=lambda entry: (entry.name.rpartition("/")[2], entry.name), reverse=True):
        try:
            record = _find_in(place, entry, task_id)
        except (ArchiveFileMissing, ArchiveDamaged) as exc:
            on_problem(exc)
            continue
        if record is not None:
            return record, entry.name
    return None


def _find_in(place: Place, entry: Entry, task_id: str) -> TaskRecord | None:
    with place.open(entry.name, entry.size) as source:
        reader = FileReader(source, f"{place.where}: {entry.name}")
        for group in _groups_with(reader, source, task_id):
            if (record := reader.find(group, task_id)) is not None:
                return record
    return None


def _groups_with(reader: FileReader, source: BinaryIO, task_id: str) -> list[int]:
    """Return the row groups that may have an id, by their bloom filters; all, if the file has none."""
    places = [reader.bloom_filter(group) for group in range(reader.groups)]
    known = [place for place in places if place is not None]
    if len(known) < len(places) or not known:
        return list(range(reader.groups))
    start, end = min(start for start, _ in known), max(start + size for start, size in known)
    source.seek(start)
    # they follow each other: one request reads all of them
    body = source.read(end - start)
    return [
        group
        for group, (first, size) in enumerate(known)
        if may_have(body[first - start : first - start + size], task_id)
    ]
