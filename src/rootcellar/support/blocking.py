"""Marks threads that may wait for the store without a limit, in a process whose main thread must not wait."""

from __future__ import annotations

import threading

_flags = threading.local()


def allow_blocking() -> None:
    """Let this thread wait for the store without a limit, also in a worker's main process."""
    _flags.is_allowed = True


def blocking_allowed() -> bool:
    """Return whether this thread has called :func:`allow_blocking`."""
    return getattr(_flags, "is_allowed", False)
