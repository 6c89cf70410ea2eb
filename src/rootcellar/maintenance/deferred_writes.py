"""Runs the operations in the background for which a worker's main process must not wait.

An operation passes through these states::

    run(), submit() ──> in the queue ──> running ──> done: the caller has the result, or it is logged
                          ^   |            |
                          |   |            | retryable error: pause
                          └───│────────────┘
                              └──> dropped: the caller of run() has stopped waiting
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.maintenance.service import Service, check_seconds
from rootcellar.support.backoff import Backoff
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: the most seconds that a caller waits for the store
MAX_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredWritesConfig:
    """How long the main process waits.

    Attributes:
        max_wait: the most seconds that a caller waits for its operation; 0 while earlier operations are unfinished.

    Raises:
        ConfigurationError: it is not a number of seconds.
    """

    max_wait: float = MAX_WAIT_SECONDS

    def __post_init__(self) -> None:
        check_seconds(self.max_wait, "max_wait")


class _Write:
    """One operation.

    Args:
        work: the operation; doing it twice must be harmless.
        action: what it does, for the log.
        max_retries: the most retries.
    """

    __slots__ = ("action", "answer", "is_awaited", "max_retries", "tries", "work")

    def __init__(self, work: Callable[[], Any], action: str, max_retries: float) -> None:
        self.work = work
        self.action = action
        self.max_retries = max_retries
        self.tries = 0
        self.is_awaited = True
        self.answer: Future[Any] = Future()


class _Queue:
    """The unfinished operations of one process, the oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: dict[_Write, None] = {}
        #: the operation that was tried last
        self.last: _Write | None = None

    def add(self, write: _Write) -> bool:
        """Add an operation; return whether there were unfinished ones before it."""
        with self._lock:
            is_behind = bool(self._writes)
            self._writes[write] = None
            return is_behind

    def oldest(self) -> _Write | None:
        """Return the oldest operation that is still wanted."""
        with self._lock:
            for write in list(self._writes):
                if write.is_awaited:
                    return write
                del self._writes[write]
            return None

    def remove(self, write: _Write) -> None:
        """Remove an operation that is finished."""
        with self._lock:
            self._writes.pop(write, None)

    def unfinished(self) -> list[str]:
        """Return what all operations do that are still wanted."""
        with self._lock:
            return [write.action for write in self._writes if write.is_awaited]


class DeferredWrites(Service):
    """Runs one operation after the other, each until it succeeds or has been retried often enough.

    Args:
        backoff: the pauses between two tries of one operation.
        outage: logs that operations fail, and that they work again.
        config: how long a caller waits.
    """

    name = "deferred writes"
    action = "do deferred work"

    def __init__(self, backoff: Backoff, outage: Outage, config: DeferredWritesConfig | None = None) -> None:
        super().__init__(backoff=backoff, outage=outage)
        self._max_wait = (config or DeferredWritesConfig()).max_wait
        self._queue = PerProcess(_Queue)

    # -- for the main process

    def run(self, work: Callable[[], T], action: str, limit: float) -> T:
        """Return the result of ``work``, if it is there soon. Starts the service if it does not run.

        Args:
            work: the operation; doing it twice must be harmless.
            action: what it does, for the log.
            limit: the most retries, infinity for no limit.

        Raises:
            StoreUnavailable: the result is not there soon. The operation is not tried again.
            RootcellarError: the error of the last try.
        """
        write = _Write(work, action, limit)
        if self._do_soon(write):
            value: T = write.answer.result()
            return value
        write.is_awaited = False
        raise StoreUnavailable(f"could not {action} soon enough", remedy="see whether the server answers")

    def submit(self, work: Callable[[], object], action: str, limit: float) -> bool:
        """Run ``work`` now or later; return whether it is done already. Starts the service if it does not run.

        See :meth:`run` for the arguments.

        Raises:
            RootcellarError: the error of the last try, if it is there soon; a later error is logged.
        """
        write = _Write(work, action, limit)
        if self._do_soon(write):
            write.answer.result()
            return True
        write.answer.add_done_callback(partial(_log_failure, action))
        return False

    def pending(self) -> list[str]:
        """Return what all operations do that are not done yet."""
        return self._queue.get().unfinished()

    def _do_soon(self, write: _Write) -> bool:
        """Give an operation to the service, and wait a little for it; return whether it is finished."""
        is_behind = self._queue.get().add(write)
        self.start()
        self.wake()
        wait([write.answer], 0 if is_behind else self._max_wait)
        return write.answer.done()

    # -- the service

    def run_once(self) -> int:
        queue = self._queue.get()
        write = queue.last = queue.oldest()
        if write is None:
            return 0
        try:
            value = write.work()
        except Exception as exc:  # any error: the caller gets it, or it is logged
            may_retry = isinstance(exc, RootcellarError) and exc.retryable and write.tries < write.max_retries
            if may_retry and write.is_awaited:
                write.tries += 1
                raise
            queue.remove(write)
            write.answer.set_exception(exc)
        else:
            queue.remove(write)
            write.answer.set_result(value)
        return 1

    def pause_after(self, done: int) -> float:
        return 0.0 if done else float("inf")

    def log_failure(self, exc: RootcellarError, *, is_first: bool) -> None:
        write = self._queue.get().last
        if write is not None:
            self._outage.log_failure(write.action, exc, max_retries=write.max_retries, is_first=write.tries == 1)

    def log_recovery(self) -> None:
        write = self._queue.get().last
        if write is not None and write.answer.done() and write.answer.exception() is None:
            self._outage.log_end()


def _log_failure(action: str, answer: Future[Any]) -> None:
    exc = answer.exception()
    if exc is not None:
        logger.critical("Gave up: could not %s: %s", action, exc)
