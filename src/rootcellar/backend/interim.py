"""Stores states that are not final (STARTED, RETRY, an application's own) without delaying their tasks.

Such a state is only useful until the next one. So in an outage the task goes on, and a service stores the state when
the store is available again, unless the task has a later state by then. Final states are never stored in this way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.maintenance.deferred_writes import MAX_WAIT_SECONDS
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
        write: stores the state; doing it twice must be harmless.
        is_over: returns whether the task has ended meanwhile, so that this state must not be stored any more.
        action: what ``write`` does, for the log: "store STARTED of task …".
        outage: logs that it fails, and that it works again.
    """

    def __init__(self, write: Callable[[], object], is_over: Callable[[], bool], action: str, outage: Outage) -> None:
        self._write = write
        self._is_over = is_over
        self.action = action
        self._outage = outage
        self._lock = threading.Lock()
        self._is_done = False
        self._is_first = True
        #: the error of the last attempt
        self.failure: RootcellarError = StoreUnavailable(f"could not {action}")

    def run(self) -> bool:
        """Store the state, unless that is done already or not needed any more; return whether nothing is left to do.

        Raises:
            RootcellarError: it cannot be stored, and a retry cannot help.
        """
        with self._lock:
            if self._is_done:
                return True
            try:
                # only a state that could not be stored at once may be stored after the end of its task
                if self._is_first or not self._is_over():
                    self._write()
            except RootcellarError as exc:
                if exc.retryable:
                    self.failure = exc
                    self._outage.log_failure(self.action, exc, is_first=self._is_first)
                    self._is_first = False
                    return False
                self._is_done = True
                raise
            self._is_done = True
            if not self._is_first:
                self._outage.log_end()
            return True

    def cancel(self) -> None:
        """Do not store the state any more. Wait for the end of an attempt that has begun."""
        with self._lock:
            self._is_done = True


class _PendingStates:
    """The states that one process could not store yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: the latest state of each task, the oldest first
        self.jobs: dict[str, _Job] = {}

    def oldest(self) -> tuple[str, _Job] | None:
        """Return the state that has waited longest, with its task."""
        with self.lock:
            return next(iter(self.jobs.items()), None)

    def remove(self, task_id: str, job: _Job) -> None:
        """Remove a state for which nothing is left to do."""
        with self.lock:
            if self.jobs.get(task_id) is job:
                del self.jobs[task_id]


class _PendingStatesService(Service):
    """Stores the states of a process that could not be stored at once.

    Args:
        late: these states.
        backoff: the pauses between two attempts.
    """

    name = "late states"
    action = "store late states"

    def __init__(self, late: PerProcess[_PendingStates], backoff: Backoff) -> None:
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
        except Exception as exc:  # any error: the states of other tasks must not wait for this one
            if exc is job.failure:
                raise
            logger.error("Gave up: could not %s: %s", job.action, exc, exc_info=not isinstance(exc, RootcellarError))
        late.remove(task_id, job)
        return 1

    def pause_after(self, done: int) -> float:
        return 0.0 if done else float("inf")

    def log_failure(self, exc: RootcellarError, *, is_first: bool) -> None:
        """Log nothing, because the job has logged it."""

    def log_recovery(self) -> None:
        """Log nothing, because the job has logged it."""


class Interim:
    """Stores states that are not final.

    Args:
        backoff: the pauses between two attempts.
        outage: logs that states cannot be stored, and that this works again.
        max_wait: the most seconds that a task waits.
    """

    def __init__(self, backoff: Backoff, outage: Outage, max_wait: float = MAX_WAIT_SECONDS) -> None:
        self._outage = outage
        self._max_wait = max_wait
        self._executor = DeadlineExecutor()
        self._late = PerProcess(_PendingStates)
        self._service = _PendingStatesService(self._late, backoff)

    @property
    def waiting(self) -> int:
        """How many states of this process are still to be stored."""
        return len(self._late.get().jobs)

    def store(self, task_id: str, write: Callable[[], object], is_over: Callable[[], bool], action: str) -> None:
        """Store a state now, or later if that takes too long.

        Args:
            task_id: the task.
            write: stores the state; doing it twice must be harmless.
            is_over: returns whether the task has ended meanwhile.
            action: what ``write`` does, for the log.

        Raises:
            RootcellarError: it cannot be stored, and a retry cannot help.
        """
        self.drop_earlier(task_id)
        job = _Job(write, is_over, action, self._outage)
        if not self._late.get().jobs:
            try:
                if self._executor.call(job.run, self._max_wait):
                    return
            except NotInTime:
                pass
            except RootcellarError:
                raise
            except BaseException:
                # a time limit of the task: keep the state, so that the next one can replace it
                self._defer(task_id, job)
                raise
        self._defer(task_id, job)

    def drop_earlier(self, task_id: str) -> None:
        """Do not store an earlier state of a task any more, because a later one will be stored."""
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
            logger.debug("Could not %s at once: it is done when that is possible.", job.action)
            late.jobs[task_id] = job
        try:
            # the caller may be interrupted here by its task's time limit
            self._service.start()
        except RuntimeError as exc:
            # a task must not fail because of a state that is not final
            logger.warning("Could not %s: %s. The next state tries again.", job.action, exc)
        self._service.wake()
