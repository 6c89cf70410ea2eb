"""Starts threads, safely also if the starting thread is interrupted."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable


def start_thread(work: Callable[[], object], name: str) -> None:
    """Run ``work`` in a daemon thread.

    ``Thread.start`` waits in Python until the new thread runs: an exception that is raised there can end the new
    thread before it begins, or let the starting thread wait for ever. This function makes one call in C instead.

    Raises:
        RuntimeError: the system cannot start another thread.
    """
    beginning = _Beginning(work, name)
    try:
        _thread.start_new_thread(beginning, ())
    except (MemoryError, RuntimeError):
        # the caller gets the error; without this line, __del__ would try again, without an end
        beginning.is_begun = True
        raise


class _Beginning:
    """The first call of a new thread.

    An exception for the starting thread (``PyThreadState_SetAsyncExc``) can be raised in the new thread,
    because the interpreter cannot distinguish them at that moment. Then another thread is started.

    Attributes:
        is_begun: whether the work has begun.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._name = name
        self.is_begun = False

    def __call__(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:
            # the system cannot start a second thread: do the work in this one
            self.is_begun = True
            self._work()
        self.is_begun = True

    def __del__(self) -> None:
        if not self.is_begun:
            # no thread can be started, for example at the end of the interpreter
            with contextlib.suppress(MemoryError, RuntimeError):
                start_thread(self._work, self._name)
