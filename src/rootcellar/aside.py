"""Work that may hang, done in threads that nobody has to wait for to the end.

A server that is frozen, or that a network swallows, keeps a call until somebody gives up; most drivers have no deadline
for a single call. A caller that has one asks for the work here and leaves when it has passed. What it asked for is then
not begun any more.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: the most threads; while all of them hang, other calls wait until one is free or their caller leaves
MOST = 32
#: seconds that a thread waits for more to do
LINGER = 10.0

_all: weakref.WeakSet[Aside] = weakref.WeakSet()


class Aside:
    """Threads that do what they are given, as few as are needed. None of them keeps the process from ending."""

    def __init__(self) -> None:
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        #: what nobody does yet, the oldest first
        self._jobs: dict[Future[Any], Callable[[], Any]] = {}
        self._threads = 0
        self._idle = 0

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return len(self._jobs)

    def call(self, work: Callable[[], T], timeout: float) -> T:
        """Return what ``work`` returns; after ``timeout`` seconds it is given up, and not begun any more.

        Raises:
            concurrent.futures.TimeoutError: it was not done in time.
        """
        future = self.submit(work)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have ``work`` done; the future knows what came of it. Cancel the future when nobody needs it any more."""
        future: Future[T] = Future()
        with self._lock:
            self._jobs[future] = work
            is_new = self._idle < len(self._jobs) and self._threads < MOST
            self._threads += is_new
            self._has_work.notify()
        future.add_done_callback(self._withdraw)
        if is_new:
            threading.Thread(target=self._run, name="rootcellar-aside", daemon=True).start()
        return future

    def _withdraw(self, future: Future[Any]) -> None:
        """Drop the work of a future that was cancelled: while a server is frozen it would become more and more."""
        if future.cancelled():
            with self._lock:
                self._jobs.pop(future, None)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as exc:
                    future.set_exception(exc)
            # a thread that waits for long must not keep alive what was found here
            del future, work, job

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Return the oldest job, or ``None`` once there has been none for long."""
        with self._lock:
            self._idle += 1
            has_one = self._has_work.wait_for(lambda: self._jobs, LINGER)
            self._idle -= 1
            if not has_one:
                self._threads -= 1
                return None
            future = next(iter(self._jobs))
            return future, self._jobs.pop(future)


def _after_fork_in_child() -> None:
    # the threads are not there
    for aside in _all:
        aside._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
