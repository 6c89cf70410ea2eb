"""Threads that may wait for the store as long as it takes, in a process whose main thread must not wait."""

from __future__ import annotations

import threading

_flags = threading.local()


def allow_blocking() -> None:
    """Let this thread wait for the store as long as it takes, whatever process it is in."""
    _flags.is_allowed = True


def blocking_allowed() -> bool:
    """Tell whether this thread has called :func:`allow_blocking`."""
    return getattr(_flags, "is_allowed", False)
