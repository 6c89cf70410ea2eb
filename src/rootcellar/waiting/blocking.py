"""Waits for results in threads and greenlets, with the notifications of the store's watcher."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack, contextmanager
from functools import partial

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store, Watchable
from rootcellar.stores.watching import Deliver, Fetch, Notification, NotifyOn, PollingWatcher, Subscription, Watcher
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.deadlines import deadline_after, timed_out
from rootcellar.waiting.notifications import records_of
from rootcellar.waiting.presence import Presence

logger = visible_logs(get_logger(__name__))

#: the time limit for the single read of a wait with a timeout of 0
READ_TIMEOUT_SECONDS = 5.0
#: seconds until the archive is asked again in an outage
ARCHIVE_PAUSE_SECONDS = 0.5


class Waiter:
    """Waits for results of one store.

    Args:
        store: the store of the results.
        archived: reads archived results, which is asked once for each id that is not in the store; ``None`` if there is
            no archive.
    """

    def __init__(self, store: Store, archived: Fetch | None = None) -> None:
        self._store = store
        self._archived = archived
        self._watchable = store.ability(Watchable)
        self._polling = PerProcess(lambda: PollingWatcher(store.get_many))
        #: for calls with a deadline
        self.executor = DeadlineExecutor()
        #: finds out whether anything is stored of a task
        self.presence = Presence(store.get_many if archived is None else self.fetch, self.executor)

    def watcher(self) -> Watcher:
        """Return the watcher of this process: the store's own, or one that polls."""
        if self._watchable is not None:
            return self._watchable.watcher()
        return self._polling.get()

    def subscribe(
        self, task_ids: Iterable[str], deliver: Deliver, notify_on: NotifyOn = NotifyOn.RECORD
    ) -> Subscription:
        """Subscribe to tasks, see :meth:`Watcher.subscribe`. Archived results are delivered, too."""
        watcher = self.watcher()
        if self._archived is None:
            return watcher.subscribe(task_ids, deliver, notify_on)
        ids = list(task_ids)
        subscription = watcher.subscribe(ids, deliver, notify_on)
        self._ask_archive(watcher, ids, subscription)
        return subscription

    @contextmanager
    def subscribed(
        self,
        task_ids: Iterable[str],
        deliver: Deliver,
        notify_on: NotifyOn = NotifyOn.RECORD,
        *,
        is_asked: bool = False,
    ) -> Iterator[None]:
        """Subscribe to tasks for the length of a ``with`` block, see :meth:`Watcher.subscribed`.

        Args:
            task_ids: the tasks.
            deliver: called with each notification; must not block.
            notify_on: which notifications are delivered.
            is_asked: whether the archive was asked for these tasks already.
        """
        watcher = self.watcher()
        ids = task_ids if self._archived is None else list(task_ids)
        with watcher.subscribed(ids, deliver, notify_on) as subscription:
            if self._archived is not None and not is_asked:
                self._ask_archive(watcher, list(ids), subscription)
            yield

    def fetch(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Return the records that exist, stored or archived, by task id. A stored record wins."""
        ids = list(task_ids)
        return self._with_archived(ids, dict(self._store.get_many(ids)))

    def _with_archived(self, task_ids: list[str], found: dict[str, TaskRecord]) -> dict[str, TaskRecord]:
        if self._archived is None:
            return found
        missing = [task_id for task_id in task_ids if task_id not in found]
        return {**self._archived(missing), **found} if missing else found

    def _ask_archive(self, watcher: Watcher, task_ids: list[str], subscription: Subscription) -> None:
        """Ask the archive once, in another thread. In an outage, ask again while somebody waits."""

        def ask() -> None:
            while subscription.waiting and not watcher.has_ended(subscription):
                try:
                    found = [record for record in self.fetch(task_ids).values() if record.done_at is not None]
                except RootcellarError as exc:
                    if not exc.retryable:
                        subscription.deliver(exc)
                        return
                    logger.warning("Could not ask the archive for %d results: %s. Trying again.", len(task_ids), exc)
                    time.sleep(ARCHIVE_PAUSE_SECONDS)
                else:
                    watcher.deliver(found)
                    return

        if task_ids:
            self.executor.submit(ask)

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

    def try_read(self, task_ids: Iterable[str]) -> Iterable[TaskRecord]:
        """Read the existing records once. In an outage, or after a few seconds without an answer, return none."""
        ids = list(task_ids)
        try:
            return self.executor.call(lambda: self._read(ids), READ_TIMEOUT_SECONDS)
        except NotInTime:
            logger.warning("Could not read %d tasks: no answer within %g s.", len(ids), READ_TIMEOUT_SECONDS)
        except RootcellarError as exc:
            logger.warning("Could not read %d tasks: %s", len(ids), exc)
        return ()

    def read(self, task_ids: list[str], deadline: float | None, *, is_last: bool) -> Iterable[TaskRecord] | None:
        """Read the records. In an outage return ``None``, or raise an error if this is the last read."""
        try:
            if deadline is None:
                return self._read(task_ids)
            # a frozen server does not answer
            left = READ_TIMEOUT_SECONDS if is_last else deadline - time.monotonic()
            return self.executor.call(lambda: self._read(task_ids), left)
        except NotInTime:
            if not is_last:
                raise timed_out() from None
            silent = StoreUnavailable(f"no answer within {READ_TIMEOUT_SECONDS:g} s", where=self._store.where)
            raise timed_out(silent) from silent
        except RootcellarError as exc:
            if is_last or not exc.retryable:
                raise
            logger.warning("Could not read %d results: %s. Waiting for the store.", len(task_ids), exc)
            return None

    def _read(self, task_ids: list[str]) -> Iterable[TaskRecord]:
        if len(task_ids) == 1:
            record = self._store.get(task_ids[0])
            found = {} if record is None else {record.task_id: record}
        else:
            found = dict(self._store.get_many(task_ids))
        return self._with_archived(task_ids, found).values()


#: called with a record and the waiter of its store
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
    """Yield the record of each task as it becomes ready, from several stores. In an outage, wait for its end.

    Args:
        awaited: the tasks, by the waiter of their store.
        timeout: seconds to wait for all of them; 0 reads once; ``None`` for ever.
        interval: seconds between two calls of ``on_interval``.
        on_interval: called at every interval.
        on_change: called with each record that is new or has changed since the last call.
        others: other tasks; ``on_other`` is called for each of them that ends meanwhile.
        on_other: called with the record of such a task.

    Raises:
        celery.exceptions.TimeoutError: they were not all ready in time.
    """
    waiting = {waiter: dict.fromkeys(task_ids) for waiter, task_ids in awaited.items()}
    other_ids = {waiter: dict.fromkeys(task_ids) for waiter, task_ids in (others or {}).items()}
    deadline = deadline_after(timeout)
    is_last = timeout is not None and timeout <= 0

    def take(waiter: Waiter, record: TaskRecord) -> bool:
        """Call the callbacks for a record; return whether it is the end of one of the awaited tasks."""
        ids = waiting.get(waiter, {})
        if record.task_id in ids:
            if on_change:
                on_change(waiter, record)
            if record.done_at is not None:
                del ids[record.task_id]
                return True
        elif record.done_at is not None and on_other and record.task_id in other_ids.get(waiter, {}):
            del other_ids[waiter][record.task_id]
            on_other(waiter, record)
        return False

    asked: set[Waiter] = set()
    for waiter, records in _first_read(waiting, other_ids, deadline, is_last=is_last):
        if records is not None:
            asked.add(waiter)
        for record in records or ():
            # the watcher sends the other changes, also earlier ones
            if record.done_at is not None and take(waiter, record):
                yield waiter, record
    if not any(waiting.values()):
        return
    if is_last:
        raise timed_out()
    notifications: queue.SimpleQueue[tuple[Waiter, Notification]] = queue.SimpleQueue()
    notify_on = NotifyOn.CHANGES if on_change else NotifyOn.RECORD
    with ExitStack() as stack:
        for waiter, ids in waiting.items():
            if ids:
                deliver = partial(_put, notifications, waiter)
                stack.enter_context(waiter.subscribed(ids, deliver, notify_on, is_asked=waiter in asked))
        for waiter, ids in other_ids.items():
            if ids:
                deliver = partial(_put_records, notifications, waiter)
                stack.enter_context(waiter.subscribed(ids, deliver, is_asked=waiter in asked))
        while any(waiting.values()):
            waiter, notification = _next(notifications, waiting, deadline, interval, on_interval)
            for record in records_of(notification):
                if take(waiter, record):
                    yield waiter, record


def _first_read(
    waiting: Mapping[Waiter, Iterable[str]],
    other_ids: Mapping[Waiter, Iterable[str]],
    deadline: float | None,
    *,
    is_last: bool,
) -> Iterator[tuple[Waiter, Iterable[TaskRecord] | None]]:
    """Read the records that exist already. Several stores are read at the same time."""
    if len(waiting) == 1:
        for waiter, ids in waiting.items():
            yield waiter, waiter.read([*ids, *other_ids.get(waiter, ())], deadline, is_last=is_last)
        return
    if not is_last:
        # each watcher reads in its own thread at the subscription
        return
    asked = [
        (waiter, waiter.executor.submit(partial(waiter.read, list(ids), None, is_last=True)))
        for waiter, ids in waiting.items()
    ]
    until = time.monotonic() + READ_TIMEOUT_SECONDS
    for waiter, answer in asked:
        try:
            yield waiter, answer.result(max(0.0, until - time.monotonic()))
        except NotInTime:
            raise timed_out() from None


def _next(
    notifications: queue.SimpleQueue[tuple[Waiter, Notification]],
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
            return notifications.get_nowait() if not notifications.empty() else notifications.get(timeout=pause)
        except queue.Empty:
            if on_interval:
                on_interval()


def _put(
    notifications: queue.SimpleQueue[tuple[Waiter, Notification]], waiter: Waiter, notification: Notification
) -> None:
    notifications.put((waiter, notification))


def _put_records(
    notifications: queue.SimpleQueue[tuple[Waiter, Notification]], waiter: Waiter, notification: Notification
) -> None:
    """Put records, but no errors: an error would end the wait, although these tasks are not awaited."""
    if not isinstance(notification, RootcellarError):
        notifications.put((waiter, notification))
