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

    A device, a pipe or a socket is written directly.

    Raises:
        FileUnwritable: it cannot be written, or the disk is full.
    """
    with _translated(path):
        # a link stays a link
        target = Path(os.path.realpath(path))
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            with target.open("wb") as file:
                yield file
            return
        partial = target.with_name(f".{target.name[:100]}.{token_hex(8)}.partial")
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


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
