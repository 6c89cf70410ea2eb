"""What runs leave at a place: files that were never committed, and copies of the manifest beside the files.

The manifest is in the database. Beside each file is a copy of its entry, as JSON, for a reader without the database. It
says what was true when the file was committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, timezone
from typing import Any

from rootcellar.archive.places import Entry
from rootcellar.archive.places import Place as FilePlace
from rootcellar.errors import ArchiveFileExists, ArchiveFileMissing, StoreError
from rootcellar.stores.archiving import DELETED, ArchiveFile, Manifest

#: seconds after which a file without an entry in the manifest is an orphan. A file is committed minutes after it is
#: written.
GRACE = 86_400.0
_ENDING, _COPY_ENDING = ".parquet", ".json"
_AT_ONCE = 1_000


def copy_name(path: str) -> str:
    """Return the name of the copy of the entry of a file."""
    return path.removesuffix(_ENDING) + _COPY_ENDING


def own_entries(manifest: Manifest, place: FilePlace) -> Iterator[Entry]:
    """Yield the files at a place that belong to this database. Those of other databases are in other folders."""
    homes = tuple(f"{home}/" for home in manifest.homes())
    return (entry for entry in place.list() if entry.name.startswith(homes))


def orphans(manifest: Manifest, entries: Iterable[Entry], *, now: float, grace: float = GRACE) -> list[Entry]:
    """Return the files that are not in the manifest, and were written at least ``grace`` seconds ago.

    Args:
        manifest: the manifest.
        entries: the files of this database at the place.
        now: the present, in seconds since 1970.
        grace: seconds for which such a file is kept, because its run may go on.
    """
    old = [entry for entry in entries if entry.modified <= now - grace]
    found: list[Entry] = []
    for start in range(0, len(old), _AT_ONCE):
        some = old[start : start + _AT_ONCE]
        known = manifest.known_paths({_file_of(entry.name) for entry in some})
        found += [entry for entry in some if _file_of(entry.name) not in known]
    return found


def clear_up(manifest: Manifest, place: FilePlace, *, now: float, grace: float = GRACE) -> int:
    """Delete orphans, and write copies of entries that are missing, because a run died; return how many orphans.

    Args:
        manifest, place, now, grace: see :func:`orphans`.
    """
    entries = list(own_entries(manifest, place))
    lost = orphans(manifest, entries, now=now, grace=grace)
    for entry in lost:
        place.delete(entry.name)
    there = {entry.name for entry in entries}
    for file in manifest.files():
        if file.location == place.where and file.path in there and copy_name(file.path) not in there:
            write_copy(place, file)
    return len(lost)


def check_draft(place: FilePlace, path: str, size: int, since: datetime) -> None:
    """Check, as the last step of a transaction that commits a file, that no other run deletes it as an orphan.

    Args:
        place: where the file is.
        path: its name.
        size: its size in bytes.
        since: when it was begun.

    Raises:
        ArchiveFileMissing: it was begun so long ago that another run may have deleted it, or it is not there.
        StoreError: the place cannot be read.
    """
    if (datetime.now(timezone.utc) - since).total_seconds() > GRACE / 2:
        raise ArchiveFileMissing(
            f"the new file {path} was begun more than {GRACE / 7_200:g} hours ago, so another run may delete it",
            where=place.where,
            remedy="run the command again; nothing was changed",
        )
    if place.size(path) != size:
        raise place.missing(path)


def discard_draft(manifest: Manifest, place: FilePlace, path: str) -> None:
    """Delete a file that was not committed; where this cannot be done, a later run does it."""
    with suppress(StoreError):
        if not manifest.known_paths({path}):
            place.delete(path)


def write_copy(place: FilePlace, file: ArchiveFile) -> None:
    """Write a copy of the entry of a file beside it, unless there is one."""
    if file.state == DELETED:
        return
    body = json.dumps(as_object(file), indent=2).encode() + b"\n"
    with suppress(ArchiveFileExists), place.write(copy_name(file.path)) as sink:
        sink.write(body)


def as_object(file: ArchiveFile) -> dict[str, Any]:
    """Return an entry of the manifest as JSON has it."""
    return {
        "id": file.id,
        "location": file.location,
        "path": file.path,
        "day": file.day.isoformat(),
        "state": file.state,
        "rows": file.rows,
        "void": len(file.void),
        "bytes": file.bytes,
        "sha256": file.sha256,
        **{
            name: _text_of(getattr(file, name))
            for name in ("first_done", "last_done", "expires_at", "created_at", "changed_at")
        },
    }


def _text_of(moment: datetime | date | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _file_of(name: str) -> str:
    """Return the path of the file to which a file or a copy belongs."""
    return name.removesuffix(_COPY_ENDING) + _ENDING if name.endswith(_COPY_ENDING) else name
