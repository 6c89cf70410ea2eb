"""Surviving an outage of the store.

A worker that runs a task has nothing better to do than to wait until its result is stored. The worker's main process
has: it stores too (lost workers, hard time limits), and must not block; what it cannot store at once, a thread of its
own stores when the store is back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeVar

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: tries after the first where nobody may be kept waiting
FEW = 3
#: seconds that a worker's main process waits for the store
PATIENCE = 0.5

_thread_flags = threading.local()


def allow_blocking() -> None:
    """Say that this thread may wait for the store as long as it takes, whatever process it is in."""
    _thread_flags.blocking_allowed = True


def blocking_allowed() -> bool:
    """Tell whether this thread said so."""
    return getattr(_thread_flags, "blocking_allowed", False)


def retry(work: Callable[[], T], *, what: str, limit: Callable[[], float], backoff: Backoff, outage: Outage) -> T:
    """Do ``work`` until it succeeds, or ``limit`` new tries have failed.

    Args:
        work: what to do; doing it twice must be harmless.
        what: its name for the log.
        limit: returns the most new tries, infinity for no limit; asked when a try failed.
        backoff: how long to wait between them.
        outage: logs that it fails, and that it works again.

    Raises:
        RootcellarError: the last one, if it is not retryable or the limit was reached.
    """
    attempt = 0
    while True:
        try:
            done = work()
            if attempt:
                outage.end()
            return done
        except RootcellarError as exc:
            most = limit()
            if not exc.retryable or attempt >= most:
                raise
            outage.note(what, exc, most=most, is_first=not attempt)
            attempt += 1
            time.sleep(backoff.before(attempt))


class DeferredWrites:
    """Does in a thread of its own what a worker's main process must not be kept waiting for.

    Args:
        backoff: how long to wait between two tries of one piece of work.
        outage: logs that work fails, and that it works again.
        patience: seconds that whoever brings work waits for it; not at all while earlier work is unfinished.
    """

    def __init__(self, backoff: Backoff, outage: Outage, patience: float = PATIENCE) -> None:
        self._backoff = backoff
        self._outage = outage
        self._patience = patience
        self._lock = threading.Lock()
        self._work: queue.Queue[tuple[Future[Any], Callable[[], Any], str, float]] = queue.Queue()
        self._unfinished: dict[Future[Any], str] = {}
        self._thread: threading.Thread | None = None

    def ask(self, work: Callable[[], T], what: str, limit: float) -> T:
        """Return what ``work`` gives, if that comes soon.

        Raises:
            StoreUnavailable: it does not come soon; it is not waited for any more.
            RootcellarError: what the last try raised.
        """
        answer = self._begin(work, what, limit)
        if answer.done():
            return answer.result()
        answer.cancel()
        raise StoreUnavailable(f"could not {what} soon enough", remedy="see whether the server answers")

    def submit(self, work: Callable[[], object], what: str, limit: float) -> bool:
        """Do ``work``, sooner or later; return whether it is done.

        Raises:
            RootcellarError: what the last try raised, if that came soon; later it is logged.
        """
        answer = self._begin(work, what, limit)
        if answer.done():
            answer.result()
            return True
        answer.add_done_callback(partial(_note_failure, what))
        return False

    def pending(self) -> list[str]:
        """Return what is not done yet."""
        with self._lock:
            return list(self._unfinished.values())

    def _begin(self, work: Callable[[], T], what: str, limit: float) -> Future[T]:
        """Give work to the thread, and wait a little for its answer."""
        answer: Future[T] = Future()
        with self._lock:
            is_behind = bool(self._unfinished)
            self._unfinished[answer] = what
            self._work.put((answer, work, what, limit))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="rootcellar-late-work", daemon=True)
                self._thread.start()
        wait([answer], 0 if is_behind else self._patience)
        return answer

    def _run(self) -> None:
        allow_blocking()
        while True:
            answer, work, what, most = self._work.get()
            value, error = None, None
            is_wanted = answer.set_running_or_notify_cancel()
            try:
                if is_wanted:
                    value = retry(
                        work, what=what, limit=partial(float, most), backoff=self._backoff, outage=self._outage
                    )
            except Exception as exc:  # a thread that dies would leave all the rest undone
                error = exc
            with self._lock:
                del self._unfinished[answer]
            if error is not None:
                answer.set_exception(error)
            elif is_wanted:
                answer.set_result(value)


def _note_failure(what: str, answer: Future[Any]) -> None:
    exc = answer.exception()
    if exc is not None:
        logger.critical("Gave up: could not %s: %s", what, exc)
