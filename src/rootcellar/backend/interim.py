"""States that are not final (STARTED, RETRY, an application's own): they are stored if that is possible, and hold up
no work.

What such a state tells is of use only until the next one. So in an outage the task goes on at once, and a thread stores
the state when the store is back, unless a later state of the task has come. A final state never comes this way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from functools import partial

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError
from rootcellar.maintenance.deferred_writes import PATIENCE
from rootcellar.support.backoff import Backoff
from rootcellar.support.blocking import allow_blocking
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.support.threads import start_thread
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
        #: whether a thread stores them
        self.has_thread = False


class Interim:
    """Stores states that are not final.

    Args:
        backoff: how long to wait between two attempts.
        outage: logs that states cannot be stored, and that this works again.
        patience: seconds that a task waits at most.
    """

    def __init__(self, backoff: Backoff, outage: Outage, patience: float = PATIENCE) -> None:
        self._backoff = backoff
        self._outage = outage
        self._patience = patience
        self._aside = DeadlineExecutor()
        self._late = PerProcess(_Late)

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
            if not late.has_thread:
                try:
                    # the caller may be interrupted here by its task's time limit
                    start_thread(partial(self._run, late), "rootcellar-interim")
                except RuntimeError as exc:
                    # no task fails for a state that is not final
                    logger.warning("Could not %s: %s. The next state tries again.", job.what, exc)
                else:
                    late.has_thread = True

    def _run(self, late: _Late) -> None:
        allow_blocking()
        try:
            self._store_all(late)
        except BaseException:
            # the next state that is late starts another thread
            late.has_thread = False
            raise

    def _store_all(self, late: _Late) -> None:
        """Store what is late, until nothing is."""
        attempt = 0
        while True:
            with late.lock:
                found = next(iter(late.jobs.items()), None)
                if found is None:
                    late.has_thread = False
                    return
            if _is_finished(late, *found):
                attempt = 0
            else:
                attempt += 1
                time.sleep(self._backoff.before(attempt))


def _is_finished(late: _Late, task_id: str, job: _Job) -> bool:
    try:
        is_finished = job.run()
    except RootcellarError as exc:
        logger.error("Gave up: could not %s: %s", job.what, exc)
        is_finished = True
    except Exception:  # a thread that ends would leave the states of all other tasks undone
        logger.exception("Gave up: could not %s", job.what)
        is_finished = True
    with late.lock:
        if is_finished and late.jobs.get(task_id) is job:
            del late.jobs[task_id]
    return is_finished
