"""The stores for blobs: a folder, or a filesystem of fsspec. A blob is written completely or not at all."""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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

#: the ending of a file's name until the blob is completely written
_PARTIAL_SUFFIX = ".part"


class Blobs(ABC):
    """Stores bytes under names like ``ab/…``. Safe to use from any thread and after a fork.

    Args:
        where: the place, for messages, without secrets.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def put(self, name: str, body: bytes) -> None:
        """Write a blob. Raises the same errors as a store."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return a blob, or ``None`` if it does not exist."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a blob, if it exists."""

    @abstractmethod
    def names(self, older_than: float) -> Iterator[str]:
        """Yield the names of the blobs that were written at least ``older_than`` seconds ago."""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with file_errors("the blob store", self.where):
            yield


class Folder(Blobs):
    """Blobs as files in a folder, which all workers and clients share.

    Args:
        path: the folder; it is created when the first blob is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def put(self, name: str, body: bytes) -> None:
        with self._translated():
            path = self._path / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = path.with_name(f"{path.name[:100]}.{secrets.token_hex(8)}{_PARTIAL_SUFFIX}")
            try:
                with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
            sync_folder(path.parent)

    def get(self, name: str) -> bytes | None:
        with self._translated():
            try:
                return (self._path / name).read_bytes()
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        with self._translated():
            (self._path / name).unlink(missing_ok=True)

    def names(self, older_than: float) -> Iterator[str]:
        with self._translated():
            before = time.time() - older_than
            for path in self._path.glob("??/*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime > before:
                        continue
                    if path.name.endswith(_PARTIAL_SUFFIX):
                        # a process died while it wrote this file
                        path.unlink()
                    else:
                        yield f"{path.parent.name}/{path.name}"


class Filesystem(Blobs):
    """Blobs in any filesystem that fsspec supports, such as ``s3://bucket/results``.

    Args:
        url: a URL of fsspec.
    """

    def __init__(self, url: str) -> None:
        super().__init__(redact(url))
        # one for each process, because few filesystems can be used after a fork
        self._opened: PerProcess[tuple[Any, str]] = PerProcess(lambda: _open_filesystem(url))
        # raises the error for a wrong URL at once
        self._filesystem()

    def _filesystem(self) -> tuple[Any, str]:
        """Return fsspec's filesystem and the path in it."""
        return self._opened.get()

    def put(self, name: str, body: bytes) -> None:
        with self._translated():
            filesystem, path = self._at(name)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            # an object store shows only complete objects; in other filesystems, the digest detects an incomplete one
            filesystem.pipe_file(path, body)

    def get(self, name: str) -> bytes | None:
        with self._translated():
            filesystem, path = self._at(name)
            try:
                found = filesystem.cat_file(path)
            except FileNotFoundError:
                return None
            return bytes(found)

    def delete(self, name: str) -> None:
        with self._translated(), suppress(FileNotFoundError):
            filesystem, path = self._at(name)
            filesystem.rm_file(path)

    def names(self, older_than: float) -> Iterator[str]:
        with self._translated():
            before = time.time() - older_than
            filesystem, root = self._filesystem()
            try:
                filesystem.invalidate_cache()
                found = filesystem.find(root, detail=True)
            except FileNotFoundError:
                return
            for path, info in found.items():
                if modified(info) <= before:
                    yield "/".join(path.rsplit("/", 2)[-2:])

    def _at(self, name: str) -> tuple[Any, str]:
        filesystem, root = self._filesystem()
        return filesystem, f"{root.rstrip('/')}/{name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with filesystem_errors("the blob store", self.where):
            yield


def open_blobs(url: str) -> Blobs:
    """Return the blob store of a URL: a path, ``file://`` and a path, or a URL of fsspec.

    Raises:
        ConfigurationError: it is none of these.
        DriverMissing: fsspec is not installed.
    """
    folder = folder_of(url)
    return Filesystem(url) if folder is None else Folder(folder)


def _open_filesystem(url: str) -> tuple[Any, str]:
    return open_filesystem(url, what="a blob store", where="ROOTCELLAR_BLOB_URL", extra="blobs")
