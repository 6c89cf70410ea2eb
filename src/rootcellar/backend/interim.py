"""States that are not final (STARTED, RETRY, an application's own): stored if that is possible, without delay of their
tasks.

Such a state is of use only until the next one. So in an outage the task goes on at once, and a service stores the state
when the store is back, unless a later state of the task has come. A final state is never stored in this way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.maintenance.deferred_writes import PATIENCE
from rootcellar.maintenance.service import Service
from rootcellar.support.backoff import Backoff
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))


class _Job:
    """One state of one task, to be stored.

    Args:
        write: stores it; doing it twice must be harmless.
        is_over: tells whether the task has ended meanwhile, so that this state must not be stored any more.
        what: its name for the log.
        outage: logs that it fails, and that it works again.
    """

    def __init__(self, write: Callable[[], object], is_over: Callable[[], bool], what: str, outage: Outage) -> None:
        self._write = write
        self._is_over = is_over
        self.what = what
        self._outage = outage
        self._lock = threading.Lock()
        self._is_done = False
        self._is_first = True
        #: why the last attempt failed
        self.failure: RootcellarError = StoreUnavailable(f"could not {what}")

    def run(self) -> bool:
        """Store the state, unless that is done or must not be done any more; return whether nothing is left to do.

        Raises:
            RootcellarError: it cannot be stored, and trying again is of no use.
        """
        with self._lock:
            if self._is_done:
                return True
            try:
                # only a state that is late can come after the end of its task
                if self._is_first or not self._is_over():
                    self._write()
            except RootcellarError as exc:
                if exc.retryable:
                    self.failure = exc
                    self._outage.note(self.what, exc, is_first=self._is_first)
                    self._is_first = False
                    return False
                self._is_done = True
                raise
            self._is_done = True
            if not self._is_first:
                self._outage.end()
            return True

    def cancel(self) -> None:
        """Do not store it any more; wait until an attempt that has begun is over."""
        with self._lock:
            self._is_done = True


class _Late:
    """What one process could not store yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: the latest state of each task, the oldest first
        self.jobs: dict[str, _Job] = {}

    def oldest(self) -> tuple[str, _Job] | None:
        """Return the state that has waited longest, with its task."""
        with self.lock:
            return next(iter(self.jobs.items()), None)

    def remove(self, task_id: str, job: _Job) -> None:
        """Take out a state with which nothing is left to do."""
        with self.lock:
            if self.jobs.get(task_id) is job:
                del self.jobs[task_id]


class _LateStates(Service):
    """Stores the states of a process that could not be stored at once.

    Args:
        late: has them.
        backoff: how long to wait between two attempts.
    """

    name = "late states"
    what = "store late states"

    def __init__(self, late: PerProcess[_Late], backoff: Backoff) -> None:
        super().__init__(backoff=backoff)
        self._late = late

    def run_once(self) -> int:
        late = self._late.get()
        found = late.oldest()
        if found is None:
            return 0
        task_id, job = found
        try:
            if not job.run():
                raise job.failure
        except Exception as exc:  # it must not keep the states of other tasks waiting
            if exc is job.failure:
                raise
            logger.error("Gave up: could not %s: %s", job.what, exc, exc_info=not isinstance(exc, RootcellarError))
        late.remove(task_id, job)
        return 1

    def pause_after(self, done: int) -> float:
        return 0.0 if done else float("inf")

    def note_failure(self, exc: RootcellarError, *, is_first: bool) -> None:
        """Log nothing: the state has logged it, and its end."""

    def note_recovery(self) -> None:
        """Log nothing: the state has logged it."""


class Interim:
    """Stores states that are not final.

    Args:
        backoff: how long to wait between two attempts.
        outage: logs that states cannot be stored, and that this works again.
        patience: seconds that a task waits at most.
    """

    def __init__(self, backoff: Backoff, outage: Outage, patience: float = PATIENCE) -> None:
        self._outage = outage
        self._patience = patience
        self._aside = DeadlineExecutor()
        self._late = PerProcess(_Late)
        self._service = _LateStates(self._late, backoff)

    @property
    def waiting(self) -> int:
        """How many states of this process are still to be stored."""
        return len(self._late.get().jobs)

    def store(self, task_id: str, write: Callable[[], object], is_over: Callable[[], bool], what: str) -> None:
        """Store a state now or, where that takes too long, later.

        Args:
            task_id: the task.
            write: stores it; doing it twice must be harmless.
            is_over: tells whether the task has ended meanwhile.
            what: its name for the log.

        Raises:
            RootcellarError: it cannot be stored, and trying again is of no use.
        """
        self.settle(task_id)
        job = _Job(write, is_over, what, self._outage)
        if not self._late.get().jobs:
            try:
                if self._aside.call(job.run, self._patience):
                    return
            except NotInTime:
                pass
            except RootcellarError:
                raise
            except BaseException:
                # a time limit of the task; its next state must know of this one
                self._defer(task_id, job)
                raise
        self._defer(task_id, job)

    def settle(self, task_id: str) -> None:
        """Store no earlier state of a task any more: a later one comes."""
        late = self._late.get()
        if not late.jobs:
            return
        with late.lock:
            job = late.jobs.pop(task_id, None)
        if job is not None:
            job.cancel()

    def _defer(self, task_id: str, job: _Job) -> None:
        late = self._late.get()
        with late.lock:
            logger.debug("Could not %s at once: it is done when that is possible.", job.what)
            late.jobs[task_id] = job
        try:
            # the caller may be interrupted here by its task's time limit
            self._service.start()
        except RuntimeError as exc:
            # no task fails for a state that is not final
            logger.warning("Could not %s: %s. The next state tries again.", job.what, exc)
        self._service.wake()
