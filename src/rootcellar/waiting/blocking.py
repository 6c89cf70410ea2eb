"""Waiting for results, in threads and greenlets: told by the store's watcher, not by looking again and again."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack
from functools import partial

from celery.exceptions import TimeoutError
from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store, Watchable
from rootcellar.stores.watching import Notification, NotifyOn, PollingWatcher, Watcher
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.presence import Presence

logger = visible_logs(get_logger(__name__))

#: seconds in which the one look of a timeout of 0 must be answered
ONE_LOOK = 5.0


class Waiter:
    """Waits for results of one store.

    Args:
        store: where the results will be.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._polling = PerProcess(lambda: PollingWatcher(store.get_many))
        #: for what must not be waited for beyond a deadline
        self.aside = DeadlineExecutor()
        #: whether anything is stored of a task
        self.presence = Presence(store.get_many, self.aside)

    def watcher(self) -> Watcher:
        """Return the one watcher of this process: the store's own, or one that polls."""
        if isinstance(self._store, Watchable):
            return self._store.watcher()
        return self._polling.get()

    def close(self) -> None:
        """End the thread of a watcher that polls."""
        if (polling := self._polling.take()) is not None:
            polling.close()

    def wait_for(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: Callable[[], object] | None = None,
        on_change: Callable[[TaskRecord], object] | None = None,
    ) -> Iterator[TaskRecord]:
        """Yield the record of each task as it becomes ready, see :func:`wait_everywhere`."""
        changed = None if on_change is None else (lambda _, record: on_change(record))
        found = wait_everywhere(
            {self: task_ids}, timeout=timeout, interval=interval, on_interval=on_interval, on_change=changed
        )
        for _, record in found:
            yield record

    def glance(self, task_ids: Iterable[str]) -> Iterable[TaskRecord]:
        """Read what there is of tasks now; find nothing where the store does not answer within a few seconds."""
        ids = list(task_ids)
        try:
            return self.aside.call(lambda: self._read(ids), ONE_LOOK)
        except NotInTime:
            logger.warning("Could not look at %d tasks: no answer within %g s.", len(ids), ONE_LOOK)
        except RootcellarError as exc:
            logger.warning("Could not look at %d tasks: %s", len(ids), exc)
        return ()

    def look(self, task_ids: list[str], deadline: float | None, *, is_last: bool) -> Iterable[TaskRecord]:
        """Read the records; in an outage find nothing, unless there will be no second look."""
        try:
            if deadline is None:
                return self._read(task_ids)
            # a server that is frozen answers nobody
            left = ONE_LOOK if is_last else deadline - time.monotonic()
            return self.aside.call(lambda: self._read(task_ids), left)
        except NotInTime:
            silent = StoreUnavailable(f"no answer within {ONE_LOOK:g} s", where=self._store.where) if is_last else None
            raise timed_out(silent) from silent
        except RootcellarError as exc:
            if is_last or not exc.retryable:
                raise
            logger.warning("Could not look for %d results: %s. Waiting for the store.", len(task_ids), exc)
            return ()

    def _read(self, task_ids: list[str]) -> Iterable[TaskRecord]:
        if len(task_ids) == 1:
            record = self._store.get(task_ids[0])
            return () if record is None else (record,)
        return self._store.get_many(task_ids).values()


#: called with the waiter of the store where a record is, and the record
Receive = Callable[[Waiter, TaskRecord], object]


def wait_everywhere(
    awaited: Mapping[Waiter, Iterable[str]],
    *,
    timeout: float | None = None,
    interval: float = 0.5,
    on_interval: Callable[[], object] | None = None,
    on_change: Receive | None = None,
    others: Mapping[Waiter, Iterable[str]] | None = None,
    on_other: Receive | None = None,
) -> Iterator[tuple[Waiter, TaskRecord]]:
    """Yield the record of each task as it becomes ready, wherever it is stored. An outage of a store is waited out.

    Args:
        awaited: the tasks, by the waiter of the store in which their results will be.
        timeout: seconds to wait for all of them; 0 looks once; ``None`` for ever.
        interval: seconds between two calls of ``on_interval``.
        on_interval: called at first when something is left to wait for, and then at every interval.
        on_change: called with each record that is new or changed since it was last seen.
        others: tasks that are not waited for; ``on_other`` is called for each that ends meanwhile.
        on_other: called with the record of such a task.

    Raises:
        celery.exceptions.TimeoutError: they were not all ready in time.
    """
    waiting = {waiter: dict.fromkeys(task_ids) for waiter, task_ids in awaited.items()}
    besides = {waiter: dict.fromkeys(task_ids) for waiter, task_ids in (others or {}).items()}
    deadline = None if timeout is None else time.monotonic() + timeout
    is_last = timeout is not None and timeout <= 0

    def take(waiter: Waiter, record: TaskRecord) -> bool:
        """Pass a record on, and return whether it is the end of a task that is waited for."""
        ids = waiting.get(waiter, {})
        if record.task_id in ids:
            if on_change:
                on_change(waiter, record)
            if record.done_at is not None:
                del ids[record.task_id]
                return True
        elif record.done_at is not None and on_other and record.task_id in besides.get(waiter, {}):
            del besides[waiter][record.task_id]
            on_other(waiter, record)
        return False

    for waiter, records in _first_look(waiting, besides, deadline, is_last=is_last):
        for record in records:
            # the watcher delivers changes, also earlier ones
            if record.done_at is not None and take(waiter, record):
                yield waiter, record
    if not any(waiting.values()):
        return
    if is_last:
        raise timed_out()
    told: queue.SimpleQueue[tuple[Waiter, Notification]] = queue.SimpleQueue()
    tell = NotifyOn.CHANGES if on_change else NotifyOn.RECORD
    with ExitStack() as stack:
        for waiter, ids in waiting.items():
            if ids:
                stack.enter_context(waiter.watcher().subscribed(ids, partial(_put, told, waiter), tell))
        for waiter, ids in besides.items():
            if ids:
                stack.enter_context(waiter.watcher().subscribed(ids, partial(_put_records, told, waiter)))
        while any(waiting.values()):
            waiter, news = _next(told, waiting, deadline, interval, on_interval)
            for record in _records(news):
                if take(waiter, record):
                    yield waiter, record


def _first_look(
    waiting: Mapping[Waiter, Iterable[str]],
    besides: Mapping[Waiter, Iterable[str]],
    deadline: float | None,
    *,
    is_last: bool,
) -> Iterator[tuple[Waiter, Iterable[TaskRecord]]]:
    """Read what there is already. Of several stores none is waited for before the others were asked."""
    if len(waiting) == 1:
        for waiter, ids in waiting.items():
            yield waiter, waiter.look([*ids, *besides.get(waiter, ())], deadline, is_last=is_last)
        return
    if not is_last:
        # each watcher reads as soon as it is subscribed to, in its own thread
        return
    asked = [
        (waiter, waiter.aside.submit(partial(waiter.look, list(ids), None, is_last=True)))
        for waiter, ids in waiting.items()
    ]
    until = time.monotonic() + ONE_LOOK
    for waiter, answer in asked:
        try:
            yield waiter, answer.result(max(0.0, until - time.monotonic()))
        except NotInTime:
            raise timed_out() from None


def _next(
    told: queue.SimpleQueue[tuple[Waiter, Notification]],
    waiting: Mapping[Waiter, Mapping[str, None]],
    deadline: float | None,
    interval: float,
    on_interval: Callable[[], object] | None,
) -> tuple[Waiter, Notification]:
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            outages = [waiter.watcher().outage for waiter, ids in waiting.items() if ids]
            raise timed_out(next(filter(None, outages), None))
        pause = interval if left is None else min(interval, left)
        try:
            return told.get_nowait() if not told.empty() else told.get(timeout=pause)
        except queue.Empty:
            if on_interval:
                on_interval()


def _put(told: queue.SimpleQueue[tuple[Waiter, Notification]], waiter: Waiter, news: Notification) -> None:
    told.put((waiter, news))


def _put_records(told: queue.SimpleQueue[tuple[Waiter, Notification]], waiter: Waiter, news: Notification) -> None:
    """Pass on records, but no error: it would end the wait for other tasks, and these are not waited for."""
    if not isinstance(news, RootcellarError):
        told.put((waiter, news))


def _records(told: Notification) -> Iterable[TaskRecord]:
    if isinstance(told, RootcellarError):
        raise told
    return [record for record in told if isinstance(record, TaskRecord)]


def timed_out(outage: RootcellarError | None = None) -> TimeoutError:
    """Return the error of a wait that was too short, which says so where the store was out of reach."""
    if outage is None:
        return TimeoutError("The operation timed out.")
    error = TimeoutError(f"The operation timed out. Meanwhile: {outage}")
    error.__cause__ = outage
    return error
