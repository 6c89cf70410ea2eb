"""What everything needs that writes files: into a folder, or into any filesystem that fsspec supports.

fsspec is imported only when a URL needs it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rootcellar.errors import ConfigurationError, DiskFull, PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.support.imports import import_failure
from rootcellar.support.interruptions import raise_interruption
from rootcellar.urls import redact


def folder_of(url: str) -> Path | None:
    """Return the folder that a URL means, which is a path or ``file://`` and a path; ``None`` for a URL of fsspec."""
    if "://" not in url and "::" not in url:
        return Path(url).absolute()
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    return None


@contextmanager
def file_errors(what: str, where: str) -> Iterator[None]:
    """Raise the errors of a folder as errors of rootcellar.

    Args:
        what: what cannot be used, such as ``the archive``.
        where: the place, without secrets.
    """
    try:
        yield
    except PermissionError as exc:
        raise PermissionDenied(
            f"{what} refuses it: {exc.strerror}", where=where, remedy="let this user write there"
        ) from exc
    except OSError as exc:
        raise_interruption(exc)
        kind = DiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnavailable
        problem = redact(f"{what} cannot be used: {exc.strerror or exc}")
        raise kind(problem, where=where, remedy="see whether it is there and has room") from exc


@contextmanager
def filesystem_errors(what: str, where: str) -> Iterator[None]:
    """Raise the errors of a filesystem of fsspec as errors of rootcellar.

    Args:
        what: what cannot be used, such as ``the archive``.
        where: the place, without secrets.
    """
    try:
        with file_errors(what, where):
            yield
    except RootcellarError:
        raise
    except Exception as exc:  # the libraries that fsspec calls may raise any exception
        raise_interruption(exc)
        raise StoreUnavailable(
            redact(f"{what} cannot be used: {type(exc).__name__}: {exc}"), where=where, remedy="see whether it is there"
        ) from exc


def open_filesystem(url: str, *, what: str, where: str, extra: str) -> tuple[Any, str]:
    """Return the filesystem of fsspec that a URL means, and the path in it.

    Args:
        url: a URL of fsspec.
        what: what is there, such as ``a blob store``.
        where: the setting with the URL.
        extra: the extra of rootcellar that installs fsspec.

    Raises:
        DriverMissing: fsspec is not installed.
        ConfigurationError: fsspec knows no such filesystem, or the package for it is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as exc:
        raise import_failure(
            exc,
            ["fsspec"],
            f"the Python package fsspec, which {what} at {url.partition(':')[0]}:// needs,",
            where=where,
            install=f"pip install 'rootcellar[{extra}]', and what fsspec needs for that place",
        ) from exc
    try:
        filesystem, root = url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as exc:
        raise ConfigurationError(
            redact(f"fsspec cannot open it: {exc}"), where=where, remedy=_remedy(url.partition(":")[0])
        ) from exc
    return filesystem, str(root)


def _remedy(scheme: str) -> str:
    """Return what to do if fsspec cannot open a URL of this scheme."""
    # imported late: only an error needs it
    from fsspec.registry import known_implementations

    package = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    if package and package != "fsspec":
        return f"pip install {package}"
    return "see fsspec's documentation for the filesystems that it knows"


def modified(info: Any) -> float:
    """Return when a file was written, by one of the names that filesystems of fsspec use; now if there is none."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if value is None:
            continue
        if hasattr(value, "timestamp"):
            return float(value.timestamp())
        if isinstance(value, (int, float)):
            return float(value)
    return time.time()


def sync_folder(path: Path) -> None:
    """Write a folder to the disk, so that the name of a new file survives a crash of the machine."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
