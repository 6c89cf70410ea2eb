"""Deadlines of waits, as times of ``time.monotonic()``; ``None`` means for ever."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterable
from typing import Any, TypeVar

from celery.exceptions import TimeoutError

from rootcellar.errors import RootcellarError
from rootcellar.stores.watching import Watcher

T = TypeVar("T")

#: seconds between two reads in an outage
OUTAGE_PAUSE_SECONDS = 0.5


def deadline_after(timeout: float | None) -> float | None:
    """Return the deadline of a wait of ``timeout`` seconds that begins now."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, at least 0."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def next_before(notifications: queue.SimpleQueue[T], deadline: float | None, watchers: Iterable[Watcher]) -> T:
    """Return the next notification of a queue, for a thread.

    Raises:
        celery.exceptions.TimeoutError: there was none before the deadline. If a watcher has an outage, that is the
            cause of the error.
    """
    try:
        return notifications.get(timeout=seconds_left(deadline))
    except queue.Empty:
        outage = _outage(watchers)
        raise timed_out(outage) from outage


async def await_before(deadline: float | None, waiting: Any, watchers: Iterable[Watcher] = ()) -> Any:
    """Return the result of an awaitable.

    Raises:
        celery.exceptions.TimeoutError: there was no result before the deadline. If a watcher has an outage, that is the
            cause of the error.
    """
    try:
        return await asyncio.wait_for(waiting, seconds_left(deadline))
    except asyncio.TimeoutError:
        outage = _outage(watchers)
        raise timed_out(outage) from outage


def pause_after(exc: RootcellarError, deadline: float | None) -> float:
    """Return the seconds until the next try, or raise the error that ends the wait.

    Raises:
        RootcellarError: ``exc``, if a retry cannot help.
        celery.exceptions.TimeoutError: the next try would be after the deadline.
    """
    if not exc.retryable:
        raise exc
    if deadline is not None and time.monotonic() + OUTAGE_PAUSE_SECONDS > deadline:
        raise timed_out() from exc
    return OUTAGE_PAUSE_SECONDS


def timed_out(outage: RootcellarError | None = None) -> TimeoutError:
    """Return the error for a timeout. Its message contains the outage of the store, if there was one."""
    if outage is None:
        return TimeoutError("The operation timed out.")
    error = TimeoutError(f"The operation timed out. Meanwhile: {outage}")
    error.__cause__ = outage
    return error


def _outage(watchers: Iterable[Watcher]) -> RootcellarError | None:
    return next((watcher.outage for watcher in watchers if watcher.outage is not None), None)
