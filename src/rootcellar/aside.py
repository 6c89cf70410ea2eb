"""Work that may hang, done in threads that nobody has to wait for to the end.

A server that is frozen, or that a network swallows, keeps a call until somebody gives up; most drivers have no deadline
for a single call. Who has one asks for the work here and leaves when it has passed.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: the most threads; while all of them hang, what else is asked waits for the server like they do
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
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue()
        self._threads = 0
        self._unfinished = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have ``work`` done; the future knows what came of it."""
        future: Future[T] = Future()
        with self._lock:
            self._unfinished += 1
            is_new = self._threads < min(self._unfinished, MOST)
            self._threads += is_new
        self._jobs.put((future, work))
        if is_new:
            threading.Thread(target=self._run, name="rootcellar-aside", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            try:
                future, work = self._jobs.get(timeout=LINGER)
            except queue.Empty:
                with self._lock:
                    if self._unfinished < self._threads:
                        self._threads -= 1
                        return
                # what was asked this moment counts on this thread
                continue
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as exc:
                    future.set_exception(exc)
            # who waits elsewhere for long must not keep alive what was found here
            del future, work
            with self._lock:
                self._unfinished -= 1


def _after_fork_in_child() -> None:
    # the threads are not there
    for aside in _all:
        aside._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
