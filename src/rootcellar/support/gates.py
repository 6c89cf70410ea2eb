"""A gate at which one thread waits until another thread opens it. Interruptions of both threads are harmless."""

from __future__ import annotations

import threading

#: a waiting thread checks again after this many seconds, because the thread that wakes it may be interrupted
RECHECK_SECONDS = 0.5


class Gate:
    """A thread waits at the gate until another thread opens it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire(blocking=False)

    def close(self) -> None:
        """Close the gate, whether it is open or not."""
        self._lock.acquire(blocking=False)

    def open(self) -> None:
        """Let one thread pass, now or later. Waits for no lock, so the garbage collector may call it."""
        try:
            self._lock.release()
        except RuntimeError:
            # the gate is open already
            return

    def wait(self, seconds: float = RECHECK_SECONDS) -> bool:
        """Wait until the gate is open, at most ``seconds``, and close it. Return whether it was open."""
        return self._lock.acquire(timeout=max(0.0, seconds))
