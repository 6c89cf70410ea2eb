"""Does in the background what a worker's main process must not wait for."""

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

#: seconds that a caller waits for the store
MAX_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredWritesConfig:
    """How long the main process waits.

    Attributes:
        max_wait: seconds that a caller waits for its work; not at all while earlier work is unfinished.

    Raises:
        ConfigurationError: it is no time.
    """

    max_wait: float = MAX_WAIT_SECONDS

    def __post_init__(self) -> None:
        check_seconds(self.max_wait, "max_wait")


class _Write:
    """One piece of work.

    Args:
        work: what to do; doing it twice must be harmless.
        action: its name for the log.
        most: how often it is tried again.
    """

    __slots__ = ("action", "answer", "is_wanted", "most", "tries", "work")

    def __init__(self, work: Callable[[], Any], action: str, most: float) -> None:
        self.work = work
        self.action = action
        self.most = most
        self.tries = 0
        self.is_wanted = True
        self.answer: Future[Any] = Future()


class _Queue:
    """The unfinished work of one process, the oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: dict[_Write, None] = {}
        #: what was tried last
        self.last: _Write | None = None

    def add(self, write: _Write) -> bool:
        """Add a piece of work; return whether there was unfinished work before it."""
        with self._lock:
            is_behind = bool(self._writes)
            self._writes[write] = None
            return is_behind

    def oldest(self) -> _Write | None:
        """Return the oldest piece of work that is still wanted."""
        with self._lock:
            for write in list(self._writes):
                if write.is_wanted:
                    return write
                del self._writes[write]
            return None

    def remove(self, write: _Write) -> None:
        """Take a piece of work out: it is finished."""
        with self._lock:
            self._writes.pop(write, None)

    def unfinished(self) -> list[str]:
        """Return the names of all work that is still wanted."""
        with self._lock:
            return [write.action for write in self._writes if write.is_wanted]


class DeferredWrites(Service):
    """Does one piece of work after the other, each until it succeeds or has been tried often enough.

    Args:
        backoff: the pauses between two tries of one piece of work.
        outage: logs that work fails, and that it works again.
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
        """Return what ``work`` returns, if that comes soon. Starts the service if it does not run.

        Args:
            work: what to do; doing it twice must be harmless.
            action: its name for the log.
            limit: how often it is tried again, infinity for no limit.

        Raises:
            StoreUnavailable: it does not come soon. The work is not tried again.
            RootcellarError: what the last try raised.
        """
        write = _Write(work, action, limit)
        if self._do_soon(write):
            value: T = write.answer.result()
            return value
        write.is_wanted = False
        raise StoreUnavailable(f"could not {action} soon enough", remedy="see whether the server answers")

    def submit(self, work: Callable[[], object], action: str, limit: float) -> bool:
        """Do ``work`` now or later; return whether it is done. Starts the service if it does not run.

        See :meth:`run` for the arguments.

        Raises:
            RootcellarError: what the last try raised, if that came soon; later it is logged.
        """
        write = _Write(work, action, limit)
        if self._do_soon(write):
            write.answer.result()
            return True
        write.answer.add_done_callback(partial(_log_failure, action))
        return False

    def pending(self) -> list[str]:
        """Return the names of all work that is not done yet."""
        return self._queue.get().unfinished()

    def _do_soon(self, write: _Write) -> bool:
        """Give work to the service, and wait for it a little; return whether it is finished."""
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
        except Exception as exc:  # the caller gets it, or the log
            may_retry = isinstance(exc, RootcellarError) and exc.retryable and write.tries < write.most
            if may_retry and write.is_wanted:
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
            self._outage.log_failure(write.action, exc, most=write.most, is_first=write.tries == 1)

    def log_recovery(self) -> None:
        write = self._queue.get().last
        if write is not None and write.answer.done() and write.answer.exception() is None:
            self._outage.log_end()


def _log_failure(action: str, answer: Future[Any]) -> None:
    exc = answer.exception()
    if exc is not None:
        logger.critical("Gave up: could not %s: %s", action, exc)
