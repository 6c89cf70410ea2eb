"""Subscriptions to tasks: which waiter is notified of which task, and what it is sent.

This module has no thread, no lock and no server: these are in :mod:`rootcellar.stores.watching`.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord


class NotifyOn(enum.IntEnum):
    """What a waiter is sent, and when."""

    RECORD = 0  #: the record, once the task is ready
    ID = 1  #: the id, once the task is ready
    CHANGES = 2  #: the record at every change of state, the last one when it is ready


#: records (or, for :attr:`NotifyOn.ID`, ids) of tasks, or the error that ends the subscription
Notification = Sequence[TaskRecord] | Sequence[str] | RootcellarError
Deliver = Callable[[Notification], None]


class Subscription:
    """One waiter's interest in some tasks.

    Args:
        task_ids: the tasks.
        deliver: called with each notification, in the watcher's thread; must not block.
        notify_on: what the waiter is sent, and when.
        on_cancel: called by :meth:`cancel`.
    """

    __slots__ = ("_on_cancel", "_sent", "deliver", "notify_on", "waiting")

    def __init__(
        self, task_ids: Iterable[str], deliver: Deliver, notify_on: NotifyOn, on_cancel: Callable[[Subscription], None]
    ) -> None:
        self._on_cancel = on_cancel
        self._sent: dict[str, TaskRecord] = {}
        self.waiting = dict.fromkeys(task_ids)
        self.deliver = deliver
        self.notify_on = notify_on

    def accepts_change(self, record: TaskRecord) -> bool:
        """Store a record that is not ready; return whether to send it, because it differs from the last one."""
        if self.notify_on is not NotifyOn.CHANGES or self._sent.get(record.task_id) == record:
            return False
        self._sent[record.task_id] = record
        return True

    def cancel(self) -> None:
        """Stop the notifications."""
        self._on_cancel(self)


class SubscriptionTable:
    """Which subscriptions wait for which task, and which tasks were added and removed. Not thread-safe.

    Attributes:
        by_task: the subscriptions of each task that has a waiter.
        added: the tasks that got a waiter since the last :meth:`take_changes`, each with what must be read.
        removed: the tasks that lost their last waiter since then. No task is in both.
    """

    def __init__(self) -> None:
        self.by_task: defaultdict[str, list[Subscription]] = defaultdict(list)
        self.added: dict[str, NotifyOn] = {}
        self.removed: dict[str, None] = {}

    def add(self, subscription: Subscription) -> None:
        """Register a subscription with all of its tasks."""
        notify_on = subscription.notify_on
        for task_id in subscription.waiting:
            self.by_task[task_id].append(subscription)
            self.added[task_id] = _for_both(notify_on, self.added.get(task_id, notify_on))
            self.removed.pop(task_id, None)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription from all tasks for which it still waits."""
        waiting, subscription.waiting = subscription.waiting, {}
        for task_id in waiting:
            self._remove(task_id, subscription)

    def clear(self) -> set[Subscription]:
        """Remove all subscriptions; return them."""
        everyone = {subscription for waiting in self.by_task.values() for subscription in waiting}
        self.by_task.clear()
        self.added.clear()
        return everyone

    def records_to_send(self, found: Iterable[TaskRecord]) -> dict[Subscription, list[TaskRecord]]:
        """Return the records to send to each subscription; remove the tasks that are ready from it."""
        to_send: defaultdict[Subscription, list[TaskRecord]] = defaultdict(list)
        for record in found:
            for subscription in list(self.by_task.get(record.task_id, ())):
                if record.done_at is not None:
                    self._end(record.task_id, subscription)
                    to_send[subscription].append(record)
                elif subscription.accepts_change(record):
                    to_send[subscription].append(record)
        return to_send

    def ids_to_send(self, ready_ids: Iterable[str]) -> dict[Subscription, list[str]]:
        """Return the ids to send to each subscription that wants only ids; remove these tasks from it."""
        to_send: defaultdict[Subscription, list[str]] = defaultdict(list)
        for task_id in ready_ids:
            for subscription in list(self.by_task.get(task_id, ())):
                if subscription.notify_on is NotifyOn.ID:
                    self._end(task_id, subscription)
                    to_send[subscription].append(task_id)
        return to_send

    def take_changes(self) -> tuple[dict[str, NotifyOn], list[str]]:
        """Return which tasks were added and which were removed, and clear both."""
        added, self.added = self.added, {}
        removed, self.removed = list(self.removed), {}
        return added, removed

    def add_all_again(self) -> None:
        """Count every task as added: nothing is registered on a new connection."""
        self.removed = {}
        self.added = {
            task_id: reduce(_for_both, {subscription.notify_on for subscription in waiting})
            for task_id, waiting in self.by_task.items()
        }

    def _end(self, task_id: str, subscription: Subscription) -> None:
        self._remove(task_id, subscription)
        subscription.waiting.pop(task_id, None)

    def _remove(self, task_id: str, subscription: Subscription) -> None:
        waiting = self.by_task.get(task_id)
        if waiting and subscription in waiting:
            waiting.remove(subscription)
            if not waiting:
                del self.by_task[task_id]
                self.removed[task_id] = None
                self.added.pop(task_id, None)


def _for_both(one: NotifyOn, other: NotifyOn) -> NotifyOn:
    """Return what to read for two waiters of one task."""
    if one is other:
        return one
    return NotifyOn.CHANGES if NotifyOn.CHANGES in (one, other) else NotifyOn.RECORD
