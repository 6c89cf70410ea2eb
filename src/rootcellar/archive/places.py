"""The places where the files of the archive are: a folder, or any filesystem that fsspec supports.

A file is written once under a name that nothing else has, and is never renamed or changed.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rootcellar.errors import ArchiveDamaged, ArchiveFileExists, ArchiveFileMissing
from rootcellar.support.filesystems import (
    file_errors,
    filesystem_errors,
    folder_of,
    modified,
    open_filesystem,
    sync_folder,
)
from rootcellar.support.forking import PerProcess
from rootcellar.urls import redact

#: the setting that names the archive
SETTING = "result_archive"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file at a place.

    Attributes:
        name: its name, relative to the place, with ``/`` between folders.
        size: its size in bytes.
        modified: when it was written, in seconds since 1970.
    """

    name: str
    size: int
    modified: float


class Place(ABC):
    """Files under names like ``2026-11-28/….parquet``. Safe to use from any thread and after a fork.

    Args:
        where: the place, for messages, without secrets.

    Every method raises ``StoreUnavailable``, ``PermissionDenied`` or ``DiskFull`` if the place cannot be used.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Return a context manager with a new file to write into.

        The file is completely written, and on the disk, when the block ends. If the block raises an exception, the file
        is deleted. A process that dies leaves a part of it.

        Raises:
            ArchiveFileExists: there is a file of this name.
        """

    @abstractmethod
    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a file for reading at any place of it. Each ``read`` is one request.

        Args:
            name: the name of the file.
            size: its size in bytes, if the caller knows it, which saves a request.

        Raises:
            ArchiveFileMissing: there is no such file.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; ``None`` if it does not exist."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""

    @abstractmethod
    def list(self) -> Iterator[Entry]:
        """Yield all files at this place."""

    def missing(self, name: str) -> ArchiveFileMissing:
        """Return the error for a file that is not there."""
        return ArchiveFileMissing(
            f"the file {name} of the archive does not exist",
            where=self.where,
            remedy="restore the file from a backup; `rootcellar archive verify` lists every file that is missing",
        )


class Folder(Place):
    """Files in a folder.

    Args:
        path: the folder; it is created when the first file is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        with self._translated():
            path = self._path / name
            new = _missing_parents(path)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                raise _exists(name, self.where) from None
            try:
                with open(opened, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    path.unlink()
                raise
            for folder in (path.parent, *new):
                sync_folder(folder)

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        with self._translated():
            try:
                # without a buffer: pyarrow asks for exactly the bytes that it needs
                return open(self._path / name, "rb", buffering=0)
            except FileNotFoundError:
                raise self.missing(name) from None

    def size(self, name: str) -> int | None:
        with self._translated():
            try:
                return (self._path / name).stat().st_size
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        with self._translated():
            (self._path / name).unlink(missing_ok=True)

    def list(self) -> Iterator[Entry]:
        with self._translated():
            for path in sorted(self._path.rglob("*")):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if path.is_file():
                        yield Entry(path.relative_to(self._path).as_posix(), found.st_size, found.st_mtime)

    def _translated(self) -> AbstractContextManager[None]:
        return file_errors("the archive", self.where)


class Filesystem(Place):
    """Files in any filesystem that fsspec supports, such as ``s3://bucket/archive``.

    Args:
        url: a URL of fsspec.
    """

    def __init__(self, url: str) -> None:
        super().__init__(redact(url))
        # one for each process, because few filesystems can be used after a fork
        self._opened: PerProcess[tuple[Any, str]] = PerProcess(
            lambda: open_filesystem(url, what="an archive", where=SETTING, extra="archive")
        )
        # raises the error for a wrong URL at once
        self._opened.get()

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        with self._translated():
            filesystem, path = self._at(name)
            # names are random: this finds a mistake, not a race
            if filesystem.exists(path):
                raise _exists(name, self.where)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            file = filesystem.open(path, "wb")
        try:
            with file_errors("the archive", self.where):
                yield cast(BinaryIO, _Sink(file, self._translated))
            with self._translated():
                file.close()
        except BaseException:
            _abandon(filesystem, file, path)
            raise

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        known = self.size(name) if size is None else size
        if known is None:
            raise self.missing(name)
        return cast(BinaryIO, _Ranges(self, name, known))

    def size(self, name: str) -> int | None:
        with self._translated():
            filesystem, path = self._at(name)
            try:
                return int(filesystem.info(path)["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from ``start`` to before ``end``, in one request."""
        with self._translated():
            filesystem, path = self._at(name)
            try:
                return bytes(filesystem.cat_file(path, start=start, end=end))
            except FileNotFoundError:
                raise self.missing(name) from None

    def delete(self, name: str) -> None:
        with self._translated(), suppress(FileNotFoundError):
            filesystem, path = self._at(name)
            filesystem.rm_file(path)

    def list(self) -> Iterator[Entry]:
        with self._translated():
            filesystem, root = self._opened.get()
            try:
                filesystem.invalidate_cache()
                found = filesystem.find(root, detail=True)
            except FileNotFoundError:
                return
            for path in sorted(found):
                name = path.removeprefix(root).lstrip("/")
                yield Entry(name, int(found[path]["size"]), modified(found[path]))

    def _at(self, name: str) -> tuple[Any, str]:
        filesystem, root = self._opened.get()
        return filesystem, f"{root.rstrip('/')}/{name}"

    def _translated(self) -> AbstractContextManager[None]:
        return filesystem_errors("the archive", self.where)


class _Sink:
    """A new file of a filesystem of fsspec, whose parts are sent while it is written."""

    def __init__(self, file: Any, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._translated = translated

    def write(self, data: Any) -> int:
        """Write bytes.

        Raises:
            StoreUnavailable, PermissionDenied, DiskFull: the place cannot be used.
        """
        with self._translated():
            return int(self._file.write(data))


class _Ranges(io.RawIOBase):
    """A file of a filesystem of fsspec. Each ``read`` is one request for exactly these bytes, without reading ahead."""

    def __init__(self, place: Filesystem, name: str, size: int) -> None:
        super().__init__()
        self._place = place
        self._file = name
        self._size = size
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def read(self, size: int = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._offset + size)
        if end <= self._offset:
            return b""
        found = self._place.read(self._file, self._offset, end)
        if len(found) != end - self._offset:
            raise ArchiveDamaged(
                f"the file {self._file} of the archive is shorter than it was when it was written",
                where=self._place.where,
                remedy="run `rootcellar archive verify`, and restore the file from a backup",
            )
        self._offset = end
        return found

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def open_place(url: str) -> Place:
    """Return the place of a URL: a path, ``file://`` and a path, or a URL of fsspec.

    Raises:
        ConfigurationError: it is none of these.
        DriverMissing: fsspec is not installed.
    """
    folder = folder_of(url)
    return Filesystem(url) if folder is None else Folder(folder)


def _missing_parents(path: Path) -> list[Path]:
    """Return the folders that get a new entry if the folder of a file has to be created."""
    found = []
    for folder in path.parents:
        if folder.exists():
            break
        found.append(folder.parent)
    return found


def _abandon(filesystem: Any, file: Any, path: str) -> None:
    """Leave nothing of a file that is not completely written."""
    # what an abandoned upload raises must not hide why it was abandoned; the search for orphans deletes what is left
    with suppress(Exception):
        (file.discard if hasattr(file, "discard") else file.close)()
    with suppress(Exception):
        # otherwise its destructor would upload what there is
        file.closed = True
    with suppress(Exception):
        filesystem.rm_file(path)


def _exists(name: str, where: str) -> ArchiveFileExists:
    return ArchiveFileExists(
        f"the archive already has a file {name}, which is never replaced",
        where=where,
        remedy="run the command again: it chooses a new name",
    )
