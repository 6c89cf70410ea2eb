"""Runs calls in threads, so that a caller can stop waiting for a call that hangs.

If a server is frozen, or the network loses its packets, a call does not return, and most drivers have no deadline for a
single call. A caller with a deadline submits the call here, and stops waiting when the deadline passes. If the call has
not begun by then, it is never begun::

                       a thread is free
    submitted ──> queued ────────────────> running ──> done: the caller gets the result
                    |                         |
                    |  the caller has left    |  the caller has left
                    └──> dropped              └──> done: the result is dropped

A caller may be interrupted at any moment. So the only lock that it shares with the thread is held by ``with``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from rootcellar.support.forking import PerProcess
from rootcellar.support.gates import RECHECK_SECONDS, Gate
from rootcellar.support.threads import start_thread

T = TypeVar("T")

#: the most threads; if all of them hang, other calls wait until a thread is free or their caller stops waiting
MAX_THREADS = 32
#: a thread without work ends after this time
IDLE_SECONDS = 10.0


class DeadlineExecutor:
    """Runs calls in as few threads as possible. The threads do not prevent the process from ending."""

    def __init__(self) -> None:
        self._threads = PerProcess(_Threads)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return len(self._threads.get().jobs)

    def call(self, work: Callable[[], T], timeout: float) -> T:
        """Return the result of ``work``. After ``timeout`` seconds stop waiting; if it has not begun, drop it.

        Raises:
            concurrent.futures.TimeoutError: it was not done in time.
        """
        threads = self._threads.get()
        deadline = time.monotonic() + timeout
        waiting_lock = threading.Lock()
        job = _Job(work, is_awaited=waiting_lock.locked)
        with waiting_lock:
            try:
                threads.assign(job)
                # wait in short steps, because an exception from another thread is raised only between two of them
                while not job.gate.wait(min(RECHECK_SECONDS, deadline - time.monotonic())):
                    if time.monotonic() >= deadline:
                        raise NotInTime
            finally:
                threads.jobs.pop(job, None)
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[no-any-return]

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run ``work`` in a thread and return a future with its result. Cancel the future if it is no longer needed."""
        threads = self._threads.get()
        future: Future[T] = Future()
        job = _Job(lambda: _fulfil(future, work), is_awaited=lambda: not future.cancelled())
        # otherwise cancelled calls would accumulate while a server is frozen
        future.add_done_callback(lambda _: threads.jobs.pop(job, None))
        threads.assign(job)
        return future


class _Job:
    """A call for a thread.

    Attributes:
        answer, error: the result or the exception, after ``gate`` was opened.
        is_wanted: returns whether the caller still waits.
    """

    __slots__ = ("answer", "error", "gate", "is_awaited", "work")

    def __init__(self, work: Callable[[], Any], is_awaited: Callable[[], bool]) -> None:
        self.work = work
        self.is_awaited = is_awaited
        self.answer: Any = None
        self.error: BaseException | None = None
        self.gate = Gate()

    def run(self) -> None:
        try:
            self.answer = self.work()
        except BaseException as exc:
            self.error = exc
        self.gate.open()


class _Threads:
    """The threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: calls that have not begun, the oldest first
        self.jobs: dict[_Job, None] = {}
        #: the number of threads; each adds itself
        self._count = 0
        #: the gates of idle threads
        self._idle: list[Gate] = []

    def assign(self, job: _Job) -> None:
        """Give a job to an idle thread or to a new one."""
        self.jobs[job] = None
        with self._lock:
            if self._idle:
                self._idle.pop().open()
                return
            if self._count < MAX_THREADS:
                start_thread(self._run, "rootcellar-executor")

    def _run(self) -> None:
        with self._lock:
            if self._count >= MAX_THREADS:
                # other threads were started at the same moment
                return
            self._count += 1
        gate = Gate()
        while True:
            if (job := self._next(gate)) is not None:
                job.run()
                # a waiting thread must not keep a reference to the last job
                del job
            elif not gate.wait(IDLE_SECONDS) and self._try_to_end(gate):
                return

    def _next(self, gate: Gate) -> _Job | None:
        """Return the oldest job that is still wanted. If there is none, add ``gate`` to the gates of idle threads."""
        with self._lock:
            for job in list(self.jobs):
                self.jobs.pop(job, None)
                if job.is_awaited():
                    return job
            self._idle.append(gate)
            return None

    def _try_to_end(self, gate: Gate) -> bool:
        """Remove an idle thread, unless there are jobs; return whether it was removed and must end."""
        with self._lock:
            if gate in self._idle:
                self._idle.remove(gate)
            if self.jobs:
                return False
            self._count -= 1
            return True


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as exc:
        future.set_exception(exc)
