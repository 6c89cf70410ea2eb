"""Waiting for results while they are written to two stores: listen to each store that a writer may write first.

What is delivered is what a read of the migrating store returns. A SUCCESS of the store that is read first is that::

    a store notifies ──> a SUCCESS of the store that is read first ────────────────────> deliver
           |
           └──> read both stores by the rules of the phase ──> done: deliver
                               ^                                 |  not done
                               └─────── after a pause <──────────┘

While both stores are read, the target usually notifies a moment after the source, and then one read of the target is
enough. So a notification of the source waits for that of the target, but not for long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store, Watchable
from rootcellar.stores.dual.phases import Known, Phase
from rootcellar.stores.dual.verbs import is_success
from rootcellar.stores.subscriptions import Notification, NotifyOn, Subscription
from rootcellar.stores.watching import (
    FIRST_PAUSE,
    LINGER,
    LONGEST_PAUSE,
    MAX_BATCH,
    OUTAGE_PAUSE,
    Fetch,
    PollingWatcher,
    Watcher,
)
from rootcellar.support.forking import PerProcess

#: the most seconds for which a notification of the source waits for that of the target
GRACE_SECONDS = 0.02
#: seconds after which the phase is looked at again
PHASE_SECONDS = 1.0


class Listened:
    """One of the two stores, to which a watcher listens. A store that sends no notifications is polled.

    Args:
        store: the store.
    """

    def __init__(self, store: Store) -> None:
        self.where = store.where
        self._watchable = store.ability(Watchable)
        self._polling = PerProcess(lambda: PollingWatcher(store.get_many))

    def watcher(self) -> Watcher:
        """Return the watcher of this process."""
        return self._polling.get() if self._watchable is None else self._watchable.watcher()

    def close(self) -> None:
        """End the thread of a watcher that polls."""
        if (polling := self._polling.take()) is not None:
            polling.close()


class DualWatcher(Watcher):
    """Notifies waiters of a store that is migrated.

    Args:
        fetch: reads records by the rules of the phase.
        now: returns what is known of the phase.
        source, target: the two stores.
    """

    def __init__(self, fetch: Fetch, now: Callable[[], Known], source: Listened, target: Listened) -> None:
        super().__init__("rootcellar-dual")
        self._fetch = fetch
        self._now = now
        self._source, self._target = source, target
        #: what the two stores have sent: the store, the task, and whether the store says that it has ended
        self._notified: deque[tuple[Listened, str, bool]] = deque()
        #: the store whose SUCCESS is the answer of a read, whatever the other one has; ``None`` before it is known
        self._answering: Listened | None = None
        #: the stores to which it listens
        self._listening: Sequence[Listened] = ()
        #: stores whose watchers have ended with an error
        self._lost: dict[Listened, RootcellarError] = {}
        #: the phase of the last look
        self._phase: Phase | None = None
        #: the subscriptions at each store, by task
        self._at: dict[Listened, dict[str, Subscription]] = {source: {}, target: {}}
        self._wanted: dict[str, NotifyOn] = {}
        #: the ids to read, and when
        self._due: dict[str, float] = {}
        #: the ids whose end a store has announced, and the pause before each is read again if it was not the end
        self._ended: set[str] = set()
        self._pauses: dict[str, float] = {}

    def _serve(self) -> None:
        try:
            while not self._is_closed:
                if self._check_idle():
                    self._forget_removed()
                    self._sleep(LINGER)
                    if self._check_idle():
                        return
                self._listen()
                self._take_notified()
                self._read_due()
                self._sleep(self._seconds_to_sleep())
        finally:
            for task_id in list(self._wanted):
                self._stop_listening(task_id)

    # -- listening

    def _listened(self) -> Sequence[Listened]:
        """Return the stores to listen to: each one that some process may write first."""
        try:
            phase = self._now().phase
        except RootcellarError as exc:
            self._answering = None
            # whatever is written now, the source gets it at once or soon
            self._record_outage(exc, "Could not read the phase of the migration")
            return [self._source]
        self._phase = phase
        self._answering = self._source if phase <= Phase.DUAL else self._target
        if phase <= Phase.DUAL:
            return [self._source]
        return [self._target] if phase >= Phase.TARGET_ONLY else [self._source, self._target]

    def _listen(self) -> None:
        """Subscribe to what is awaited at each store, and end the subscriptions to what is not."""
        added, removed = self._take_changes()
        for task_id in removed:
            self._stop_listening(task_id)
        for task_id, notify_on in added.items():
            if self._wanted.get(task_id) is not NotifyOn.CHANGES:
                # a subscription to the end of a task does not announce its changes
                self._stop_listening(task_id)
                self._wanted[task_id] = NotifyOn.CHANGES if notify_on is NotifyOn.CHANGES else NotifyOn.RECORD
        known = self._phase
        stores = self._listened()
        if added or self._phase is not known:
            self._try_lost_again()
        listened = [each for each in stores if each not in self._lost]
        if not listened and self._lost:
            raise next(iter(self._lost.values()))
        for each, subscribed in self._at.items():
            if each not in listened:
                _cancel(subscribed, list(subscribed))
            else:
                self._subscribe(each, added if each in self._listening else self._wanted)
        self._listening = listened

    def _try_lost_again(self) -> None:
        """Listen again to a store that refused: a right may have been granted since, as for a store without migration.

        All subscriptions there have ended with the error, so each task is subscribed anew.
        """
        for each in list(self._lost):
            _cancel(self._at[each], list(self._at[each]))
            del self._lost[each]
            self._listening = [other for other in self._listening if other is not each]

    def _subscribe(self, to: Listened, task_ids: Iterable[str]) -> None:
        subscribed = self._at[to]
        for task_id in task_ids:
            if task_id not in subscribed:
                deliver = partial(self._on_notified, to, task_id)
                subscribed[task_id] = to.watcher().subscribe([task_id], deliver, self._wanted[task_id])

    def _forget_removed(self) -> None:
        _, removed = self._take_changes()
        for task_id in removed:
            self._stop_listening(task_id)

    def _stop_listening(self, task_id: str) -> None:
        self._wanted.pop(task_id, None)
        self._due.pop(task_id, None)
        self._pauses.pop(task_id, None)
        self._ended.discard(task_id)
        for subscribed in self._at.values():
            _cancel(subscribed, [task_id])

    def _on_notified(self, by: Listened, task_id: str, notification: Notification) -> None:
        """Note what a store has sent. Called in the thread of its watcher."""
        if isinstance(notification, RootcellarError):
            self._lost[by] = notification
        elif (answer := self._answer_in(notification)) is not None and by is self._answering:
            self._deliver([answer])
        else:
            self._notified.append((by, task_id, any(map(_is_end, notification))))
        self._wake()

    def _answer_in(self, notification: Sequence[TaskRecord] | Sequence[str]) -> TaskRecord | None:
        """Return the SUCCESS that a store has sent, or ``None``."""
        return next((sent for sent in notification if isinstance(sent, TaskRecord) and is_success(sent)), None)

    # -- reading

    def _take_notified(self) -> None:
        while self._notified:
            by, task_id, is_end = self._notified.popleft()
            if task_id not in self._wanted:
                continue
            if is_end:
                self._ended.add(task_id)
            is_early = by is self._source and self._target in self._listening
            due = time.monotonic() + (GRACE_SECONDS if is_early else 0.0)
            self._due[task_id] = min(due, self._due.get(task_id, due))

    def _read_due(self) -> None:
        """Read what is due, and deliver it."""
        now = time.monotonic()
        due = [task_id for task_id, at in self._due.items() if at <= now]
        for place in range(0, len(due), MAX_BATCH):
            batch = due[place : place + MAX_BATCH]
            try:
                found = self._fetch(batch)
            except RootcellarError as exc:
                if not exc.retryable:
                    raise
                self._record_outage(exc, "Could not read results")
                self._due.update(dict.fromkeys(batch, time.monotonic() + OUTAGE_PAUSE))
                continue
            self._record_recovery()
            for task_id in batch:
                self._due.pop(task_id, None)
                record = found.get(task_id)
                if record is None or record.done_at is None:
                    self._look_later(task_id)
            self._deliver(found.values())

    def _look_later(self, task_id: str) -> None:
        """Read a task again after a pause, if a store has announced its end and this was not the end.

        One of the stores may be behind the other. Its subscription has ended, so it announces nothing more.
        """
        if task_id not in self._ended:
            return
        pause = self._pauses[task_id] = min(self._pauses.get(task_id, FIRST_PAUSE) * 2, LONGEST_PAUSE)
        self._due[task_id] = time.monotonic() + pause

    def _seconds_to_sleep(self) -> float:
        if self._notified:
            return 0.0
        until_due = min(self._due.values(), default=float("inf")) - time.monotonic()
        return max(0.0, min(until_due, PHASE_SECONDS))


def _cancel(subscribed: dict[str, Subscription], task_ids: Iterable[str]) -> None:
    """End the subscriptions to some tasks at one store."""
    for task_id in task_ids:
        if (subscription := subscribed.pop(task_id, None)) is not None:
            subscription.cancel()


def _is_end(sent: TaskRecord | str) -> bool:
    """Return whether what a store has sent says that a task has ended."""
    return isinstance(sent, str) or sent.done_at is not None
