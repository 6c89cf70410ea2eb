"""How a caller stores: a client or a worker's pool waits until it is done, and a worker's main process does not wait.

A task waits until its result is stored, because its worker has nothing else to do. A client waits for a few tries. A
worker's main process must not wait: the service of deferred writes stores for it. The choice is made here, for each
call: the only thread of a solo worker is the main process, and during a task it is the pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from celery import states
from celery.utils.log import get_logger

from rootcellar.backend import lifecycle
from rootcellar.backend.interim import Interim
from rootcellar.backend.retries import FEW_RETRIES, retry
from rootcellar.errors import RootcellarError
from rootcellar.maintenance.deferred_writes import DeferredWrites
from rootcellar.records import ChordProgress, Stored, TaskRecord
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: the progress of a chord whose part is counted later
COUNTED_LATER = ChordProgress(size=None, counted=0, claimed=False, finished=False)

#: the most states of one process that wait for the store before the ends of tasks with ignored results are not kept
MAX_UNAWAITED = 10_000

#: calls a chord's body if the part of a request completed the chord
Proceed = Callable[[Any, ChordProgress | None], object]


class StorePolicy(ABC):
    """How a caller stores."""

    #: whether the caller is a worker's main process, which notices lost workers
    is_main: bool = False

    @abstractmethod
    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, action: str) -> ChordProgress | None:
        """Store a record.

        Args:
            record: the record.
            put: stores it, and counts its part of a chord; doing it twice must be harmless.
            request: the request of the part.
            action: what ``put`` does, for the log: "store SUCCESS of task …".

        Returns:
            the chord's progress, with which the caller proceeds; :data:`COUNTED_LATER` if the part may not be counted
            yet; ``None`` if there is no part.

        Raises:
            RootcellarError: it was not stored, and will not be retried.
        """

    @abstractmethod
    def store_unawaited(self, task_id: str, put: Callable[[], Stored], action: str) -> None:
        """Store the end of a task whose result nobody awaits. In an outage it is stored later, or not at all.

        Args:
            task_id: the task.
            put: stores the record; doing it twice must be harmless.
            action: what ``put`` does, for the log.

        Raises:
            RootcellarError: it cannot be stored, and a retry cannot help.
        """

    @abstractmethod
    def ensure(self, work: Callable[[], T], action: str, limit: float | None = None) -> T:
        """Return the result of ``work``, with retries in an outage.

        Args:
            work: the operation; doing it twice must be harmless.
            action: what it does, for the log.
            limit: the most retries; ``None`` for the default.

        Raises:
            RootcellarError: the error of the last try.
        """

    @abstractmethod
    def count(self, count: Callable[[], ChordProgress], request: Any, action: str) -> None:
        """Count a part of a chord, and call the chord's body if the part completed it.

        Raises:
            RootcellarError: the error of the last try.
        """

    @abstractmethod
    def complete(self, work: Callable[[], object], action: str) -> None:
        """Call ``work`` now, or later if the caller must not wait. ``work`` itself retries what it stores.

        Raises:
            RootcellarError: the error of the last try.
        """


class WaitingPolicy(StorePolicy):
    """Waits until a final state is stored, for a worker's pool or a client. Other states do not delay a pool.

    Args:
        interim: stores the states that are not final.
        backoff: the pauses between two tries.
        outage: logs that an operation fails, and that it works again.
        proceed: calls a chord's body, for the request of a part and its progress.
        limit: returns the most retries that the user allows.
        is_over: returns whether a task has ended.
    """

    def __init__(
        self,
        interim: Interim,
        backoff: Backoff,
        outage: Outage,
        *,
        proceed: Proceed,
        limit: Callable[[], float],
        is_over: Callable[[str], bool],
    ) -> None:
        self._interim = interim
        self._backoff = backoff
        self._outage = outage
        self._proceed = proceed
        self._limit = limit
        self._is_over = is_over

    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, action: str) -> ChordProgress | None:
        if record.state not in states.READY_STATES and lifecycle.is_in_pool():
            self._interim.store(record.task_id, put, partial(self._is_over, record.task_id), action)
            return None
        self._interim.drop_earlier(record.task_id)
        return self.ensure(put, action).chord

    def store_unawaited(self, task_id: str, put: Callable[[], Stored], action: str) -> None:
        if self._interim.waiting < MAX_UNAWAITED:
            self._interim.store(task_id, put, partial(self._is_over, task_id), action)
            return
        logger.debug("Could not %s: too many others wait for the store.", action)

    def ensure(self, work: Callable[[], T], action: str, limit: float | None = None) -> T:
        return retry(
            work, action=action, limit=lambda: self._max_retries(limit), backoff=self._backoff, outage=self._outage
        )

    def count(self, count: Callable[[], ChordProgress], request: Any, action: str) -> None:
        self._proceed(request, self.ensure(count, action))

    def complete(self, work: Callable[[], object], action: str) -> None:
        work()

    def _max_retries(self, asked: float | None) -> float:
        """Return the most retries for a caller that asks for ``asked``; ``None`` asks for the default."""
        if asked is None:
            asked = self._limit() if lifecycle.is_in_pool() else FEW_RETRIES
        return min(asked, self._limit())


class MainPolicy(StorePolicy):
    """Does not wait, for a worker's main process: an operation that is not done soon is done later.

    Args:
        late: the service that does it.
        proceed: calls a chord's body, for the request of a part and its progress.
        limit: returns the most retries that the user allows.
    """

    is_main = True

    def __init__(self, late: DeferredWrites, *, proceed: Proceed, limit: Callable[[], float]) -> None:
        self._late = late
        self._proceed = proceed
        self._limit = limit

    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, action: str) -> ChordProgress | None:
        if record.state in states.READY_STATES:
            self.complete(lambda: self._proceed(request, put().chord), action)
            return COUNTED_LATER
        try:
            self._late.run(put, action, self._limit())
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            # if it was stored later, it could replace a newer state of the task
            logger.error("The state %s of task %s is not recorded: %s", record.state, record.task_id, exc)
        return None

    def store_unawaited(self, task_id: str, put: Callable[[], Stored], action: str) -> None:
        self.complete(put, action)

    def ensure(self, work: Callable[[], T], action: str, limit: float | None = None) -> T:
        return self._late.run(work, action, min(FEW_RETRIES if limit is None else limit, self._limit()))

    def count(self, count: Callable[[], ChordProgress], request: Any, action: str) -> None:
        self.complete(lambda: self._proceed(request, count()), action)

    def complete(self, work: Callable[[], object], action: str) -> None:
        if not self._late.submit(work, action, self._limit()):
            logger.error("Could not %s at once. The worker's main process goes on, and it is done later.", action)


class StorePolicies:
    """The policies of a backend, and the choice between them.

    Args:
        main: the policy of a worker's main process.
        waiting: the policy of all other callers.
    """

    def __init__(self, main: MainPolicy, waiting: WaitingPolicy) -> None:
        self._main = main
        #: the policy for operations for which every caller must wait
        self.waiting = waiting

    def current(self) -> StorePolicy:
        """Return the policy of the caller."""
        return self._main if lifecycle.is_worker_main() else self.waiting
