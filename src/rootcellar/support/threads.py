"""Starting threads so that an interruption of the one that starts them does no harm."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable


def start_thread(work: Callable[[], object], name: str) -> None:
    """Have ``work`` done in a daemon thread.

    ``Thread.start`` waits in Python until the new thread is there: an exception that strikes in it can end the new
    thread before it begins, or leave the other one waiting for ever. This is one call in C.

    Raises:
        RuntimeError: the system has no room for another thread.
    """
    beginning = _Beginning(work, name)
    try:
        _thread.start_new_thread(beginning, ())
    except (MemoryError, RuntimeError):
        # the caller hears of it; a further try would have no end
        beginning.is_begun = True
        raise


class _Beginning:
    """What a new thread does first.

    An exception that is thrown into the thread that starts it (``PyThreadState_SetAsyncExc``) can strike the new one,
    which the interpreter cannot tell from the other at that moment. Then another thread is started.

    Attributes:
        is_begun: whether nothing is left to start.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._name = name
        self.is_begun = False

    def __call__(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:
            # no room for a second thread; another try would fail as well, and those who started it rely on the work
            self.is_begun = True
            self._work()
        self.is_begun = True

    def __del__(self) -> None:
        if not self.is_begun:
            # no room for a thread, also at the end of the interpreter
            with contextlib.suppress(MemoryError, RuntimeError):
                start_thread(self._work, self._name)
