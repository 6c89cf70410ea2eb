"""How something is stored: by a client or a worker's pool, which wait, or by a worker's main process, which does not.

A task waits until its result is stored, because its worker has nothing else to do. A client waits for a few tries. A
worker's main process must not wait: the service of deferred writes stores for it. The choice is made once for each
call, here: the same thread of a solo worker is the main process, and within a task it is the pool.
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
from rootcellar.backend.retries import FEW, retry
from rootcellar.errors import RootcellarError
from rootcellar.maintenance.deferred_writes import DeferredWrites
from rootcellar.records import ChordProgress, Stored, TaskRecord
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: the progress of a chord whose part is counted later
LATER = ChordProgress(size=None, counted=0, claimed=False, finished=False)

#: calls a chord's body if the part of a request completed the chord
Proceed = Callable[[Any, ChordProgress | None], object]


class StorePolicy(ABC):
    """How something is stored."""

    #: whether the caller is a worker's main process, which learns of lost workers
    is_main: bool = False

    @abstractmethod
    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, what: str) -> ChordProgress | None:
        """Store a record.

        Args:
            record: what is stored.
            put: stores it, and counts its part of a chord; doing it twice must be harmless.
            request: the request of the part.
            what: its name for the log.

        Returns:
            the chord's progress, with which the caller proceeds; :data:`LATER` where the part may not be counted yet;
            ``None`` where there is no part.

        Raises:
            RootcellarError: it was not stored, and is not tried again.
        """

    @abstractmethod
    def ensure(self, work: Callable[[], T], what: str, limit: float | None = None) -> T:
        """Return what ``work`` returns, after new tries in an outage.

        Args:
            work: what to do; doing it twice must be harmless.
            what: its name for the log.
            limit: the most new tries; ``None`` for as many as usual.

        Raises:
            RootcellarError: what the last try raised.
        """

    @abstractmethod
    def count(self, count: Callable[[], ChordProgress], request: Any, what: str) -> None:
        """Count a part of a chord, and call the chord's body if the part completed it.

        Raises:
            RootcellarError: what the last try raised.
        """

    @abstractmethod
    def complete(self, work: Callable[[], object], what: str) -> None:
        """Do ``work`` now, or later where the caller must not wait. It makes its own new tries of what it stores.

        Raises:
            RootcellarError: what the last try raised.
        """


class WaitingPolicy(StorePolicy):
    """A worker's pool waits until a final state is stored, and any other state does not delay it. A client waits too.

    Args:
        interim: has the states that are stored later.
        backoff: how long to wait between two tries.
        outage: logs that something fails, and that it works again.
        proceed: calls a chord's body, for the request of a part and its progress.
        limit: returns the most new tries that the user allows.
        is_over: tells whether a task has ended.
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

    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, what: str) -> ChordProgress | None:
        if record.state not in states.READY_STATES and lifecycle.is_in_pool():
            self._interim.store(record.task_id, put, partial(self._is_over, record.task_id), what)
            return None
        self._interim.settle(record.task_id)
        return self.ensure(put, what).chord

    def ensure(self, work: Callable[[], T], what: str, limit: float | None = None) -> T:
        return retry(work, what=what, limit=lambda: self._most(limit), backoff=self._backoff, outage=self._outage)

    def count(self, count: Callable[[], ChordProgress], request: Any, what: str) -> None:
        self._proceed(request, self.ensure(count, what))

    def complete(self, work: Callable[[], object], what: str) -> None:
        work()

    def _most(self, asked: float | None) -> float:
        """Return how many new tries there may be, where ``asked`` were asked for."""
        if asked is None:
            asked = self._limit() if lifecycle.is_in_pool() else FEW
        return min(asked, self._limit())


class MainPolicy(StorePolicy):
    """A worker's main process does not wait: what is not done soon is done later.

    Args:
        late: does it.
        proceed: calls a chord's body, for the request of a part and its progress.
        limit: returns the most new tries that the user allows.
    """

    is_main = True

    def __init__(self, late: DeferredWrites, *, proceed: Proceed, limit: Callable[[], float]) -> None:
        self._late = late
        self._proceed = proceed
        self._limit = limit

    def store(self, record: TaskRecord, put: Callable[[], Stored], request: Any, what: str) -> ChordProgress | None:
        if record.state in states.READY_STATES:
            self.complete(lambda: self._proceed(request, put().chord), what)
            return LATER
        try:
            self._late.ask(put, what, self._limit())
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            # stored later, it could hide a newer state of the task
            logger.error("The state %s of task %s is not recorded: %s", record.state, record.task_id, exc)
        return None

    def ensure(self, work: Callable[[], T], what: str, limit: float | None = None) -> T:
        return self._late.ask(work, what, min(FEW if limit is None else limit, self._limit()))

    def count(self, count: Callable[[], ChordProgress], request: Any, what: str) -> None:
        self.complete(lambda: self._proceed(request, count()), what)

    def complete(self, work: Callable[[], object], what: str) -> None:
        if not self._late.submit(work, what, self._limit()):
            logger.error("Could not %s at once. The worker's main process goes on, and it is done later.", what)


class StorePolicies:
    """The policies of a backend, and the choice.

    Args:
        main: that of a worker's main process.
        waiting: that of everything else.
    """

    def __init__(self, main: MainPolicy, waiting: WaitingPolicy) -> None:
        self._main = main
        #: the policy where the caller must wait, whatever it is
        self.waiting = waiting

    def current(self) -> StorePolicy:
        """Return the policy of the caller."""
        return self._main if lifecycle.is_worker_main() else self.waiting
