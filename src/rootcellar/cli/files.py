"""Writes a file completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from rootcellar.errors import FileUnwritable


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing. It gets its name, in place of an older one, only if the block ends well.
    The mode of the older one is kept, because a private file must stay private.

    A device, a pipe or a socket is written directly.

    Raises:
        FileUnwritable: it cannot be written, or the disk is full.
    """
    with _translated(path):
        # a link stays a link
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            with target.open("wb") as file:
                yield file
            return
        partial = target.with_name(f".{target.name[:100]}.{token_hex(8)}.partial")
        try:
            with open(partial, "xb", opener=_private if mode is not None else None) as file:
                if mode is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space, and start again" if is_full else "name a file in a folder that exists and is writable"
        raise FileUnwritable(
            f"the file cannot be written: {exc.strerror or exc}", where=str(path), remedy=remedy
        ) from exc
