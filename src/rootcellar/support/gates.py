"""A place where a thread waits until another one lets it go on, which an interruption of either cannot break."""

from __future__ import annotations

import threading

#: seconds after which a waiting thread looks again without being woken: the thread that wakes it may be interrupted
LOOK = 0.5


class Gate:
    """Something to wait at until another thread opens it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire(blocking=False)

    def close(self) -> None:
        """Close it, open or not."""
        self._lock.acquire(blocking=False)

    def open(self) -> None:
        """Let one thread through, now or when it comes. Needs no lock, and may be called by the garbage collector."""
        try:
            self._lock.release()
        except RuntimeError:
            # it is open
            return

    def wait(self, seconds: float = LOOK) -> bool:
        """Wait until it is open, at most so many seconds, and close it; return whether it was open."""
        return self._lock.acquire(timeout=max(0.0, seconds))
