"""Work that may hang, done in threads that nobody has to wait for to the end.

A server that is frozen, or that a network swallows, keeps a call until somebody gives up; most drivers have no deadline
for a single call. A caller that has one asks for the work here and leaves when it has passed. What it asked for is then
not begun any more.

A caller may be interrupted at any moment, so it shares no lock with the thread that does its work, but one that is held
by ``with`` alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from rootcellar.support.forking import PerProcess
from rootcellar.support.gates import LOOK, Gate
from rootcellar.support.threads import start_thread

T = TypeVar("T")

#: the most threads; while all of them hang, other calls wait until one is free or their caller leaves
MOST = 32
#: seconds that a thread waits for more to do
LINGER = 10.0


class DeadlineExecutor:
    """Threads that do what they are given, as few as are needed. None of them keeps the process from ending."""

    def __init__(self) -> None:
        self._crew = PerProcess(_Crew)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return len(self._crew.get().jobs)

    def call(self, work: Callable[[], T], timeout: float) -> T:
        """Return what ``work`` returns; after ``timeout`` seconds it is given up, and not begun any more.

        Raises:
            concurrent.futures.TimeoutError: it was not done in time.
        """
        crew = self._crew.get()
        deadline = time.monotonic() + timeout
        presence = threading.Lock()
        job = _Job(work, is_wanted=presence.locked)
        with presence:
            try:
                crew.take(job)
                # by short waits: an exception that another thread throws strikes between two of them
                while not job.gate.wait(min(LOOK, deadline - time.monotonic())):
                    if time.monotonic() >= deadline:
                        raise NotInTime
            finally:
                crew.jobs.pop(job, None)
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[no-any-return]

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have ``work`` done; the future knows what came of it. Cancel the future when nobody needs it any more."""
        crew = self._crew.get()
        future: Future[T] = Future()
        job = _Job(lambda: _fulfil(future, work), is_wanted=lambda: not future.cancelled())
        # while a server is frozen, what nobody wants any more would become more and more
        future.add_done_callback(lambda _: crew.jobs.pop(job, None))
        crew.take(job)
        return future


class _Job:
    """What a thread is to do.

    Attributes:
        answer, error: what came of it, once ``gate`` was opened.
        is_wanted: tells whether the caller still waits for it.
    """

    __slots__ = ("answer", "error", "gate", "is_wanted", "work")

    def __init__(self, work: Callable[[], Any], is_wanted: Callable[[], bool]) -> None:
        self.work = work
        self.is_wanted = is_wanted
        self.answer: Any = None
        self.error: BaseException | None = None
        self.gate = Gate()

    def do(self) -> None:
        try:
            self.answer = self.work()
        except BaseException as exc:
            self.error = exc
        self.gate.open()


class _Crew:
    """The threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: what nobody does yet, the oldest first
        self.jobs: dict[_Job, None] = {}
        #: how many threads there are; each counts itself
        self._count = 0
        #: where threads that have nothing to do wait
        self._idle: list[Gate] = []

    def take(self, job: _Job) -> None:
        """Have a job done: by a thread that is idle, or a new one."""
        self.jobs[job] = None
        with self._lock:
            if self._idle:
                self._idle.pop().open()
                return
            if self._count < MOST:
                start_thread(self._run, "rootcellar-aside")

    def _run(self) -> None:
        with self._lock:
            if self._count >= MOST:
                # others were started at the same moment
                return
            self._count += 1
        gate = Gate()
        while True:
            if (job := self._next(gate)) is not None:
                job.do()
                # a thread that waits for long must not keep alive what was found here
                del job
            elif not gate.wait(LINGER) and self._may_end(gate):
                return

    def _next(self, gate: Gate) -> _Job | None:
        """Return the oldest job that is wanted; where there is none, note that this thread waits at ``gate``."""
        with self._lock:
            for job in list(self.jobs):
                self.jobs.pop(job, None)
                if job.is_wanted():
                    return job
            self._idle.append(gate)
            return None

    def _may_end(self, gate: Gate) -> bool:
        """Tell whether there has been nothing to do for long."""
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
