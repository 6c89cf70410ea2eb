"""Watching tasks: who subscribed is told when they are ready, by one thread for all that a process waits for.

:class:`PollingWatcher` looks, often at first and then less and less, and serves every store. A store that can be
notified has a watcher of its own with the same face.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import reduce

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds between the first two looks at a task, and the most between any
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 1.0
#: the pause is this share of the time since somebody last began to wait
PAUSE_SHARE = 0.25
#: seconds that the thread outlives the last subscription
LINGER = 30.0
#: seconds between two looks where not all could be read
OUTAGE_PAUSE = 0.1
#: the most records that one look holds at a time
LOOK_BATCH = 250


class NotifyOn(enum.IntEnum):
    """What a subscriber is told."""

    RECORD = 0  #: the record, once the task is ready
    ID = 1  #: the id, once the task is ready
    CHANGES = 2  #: the record at every change of state, the last one when it is ready


#: records (or, for :attr:`NotifyOn.ID`, ids) of tasks, or the error that ends the subscription
Notification = Sequence[TaskRecord] | Sequence[str] | RootcellarError
Deliver = Callable[[Notification], None]
Fetch = Callable[[Iterable[str]], Mapping[str, TaskRecord]]


class Subscription:
    """One waiter's interest in some tasks. ``deliver`` is called from the watcher's thread and must not block."""

    __slots__ = ("_seen", "_watcher", "deliver", "tell", "waiting")

    def __init__(self, watcher: Watcher, task_ids: Iterable[str], deliver: Deliver, tell: NotifyOn) -> None:
        self._watcher = watcher
        self._seen: dict[str, TaskRecord] = {}
        self.waiting = dict.fromkeys(task_ids)
        self.deliver = deliver
        self.tell = tell

    def is_news(self, record: TaskRecord) -> bool:
        """Tell whether a record that is not ready differs from the one that was told last."""
        if self.tell is not NotifyOn.CHANGES or self._seen.get(record.task_id) == record:
            return False
        self._seen[record.task_id] = record
        return True

    def cancel(self) -> None:
        """Be told nothing more."""
        self._watcher.unsubscribe(self)


class Watcher(ABC):
    """Knows who waits for what, and runs the thread that finds out. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._subscriptions: defaultdict[str, list[Subscription]] = defaultdict(list)
        self._fresh: dict[str, NotifyOn] = {}
        self._gone: dict[str, None] = {}
        self._cancelled: deque[Subscription] = deque()
        self._youngest = 0.0
        self._thread: threading.Thread | None = None
        #: whether it was started
        self._has_thread = False
        self._is_closed = False
        #: why nothing can be found out at present, while that is so
        self.outage: RootcellarError | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._pid = os.getpid()

    def is_of_this_process(self) -> bool:
        """Tell whether it was made here: one that came over a fork has no thread and must be left alone."""
        return self._pid == os.getpid()

    def subscribe(self, task_ids: Iterable[str], deliver: Deliver, tell: NotifyOn = NotifyOn.RECORD) -> Subscription:
        """Begin to wait for tasks: each is told of once it is ready, also if it has been for long.

        Args:
            task_ids: the tasks.
            deliver: called with what is told, in the watcher's thread; must not block.
            tell: what to tell.
        """
        subscription = self._new_subscription(task_ids, deliver, tell)
        self._begin_telling(subscription)
        return subscription

    @contextlib.contextmanager
    def told(self, task_ids: Iterable[str], deliver: Deliver, tell: NotifyOn = NotifyOn.RECORD) -> Iterator[None]:
        """Wait for tasks, as :meth:`subscribe` does, in a ``with`` block; nothing is left of it, however it ends."""
        subscription = self._new_subscription(task_ids, deliver, tell)
        try:
            try:
                self._begin_telling(subscription)
                yield
            finally:
                subscription.cancel()
        except BaseException:
            # once more, because an interruption may have struck in the first call
            subscription.cancel()
            raise

    def _new_subscription(self, task_ids: Iterable[str], deliver: Deliver, tell: NotifyOn) -> Subscription:
        # of the others there is nothing to tell, and one of them must not fail the look at all
        return Subscription(self, filter(self._can_exist, task_ids), deliver, tell)

    def _begin_telling(self, subscription: Subscription) -> None:
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._add(subscription)
        if is_closed:
            subscription.waiting = {}
            subscription.deliver(_closed())
        else:
            self._wake()

    def _can_exist(self, task_id: str) -> bool:
        """Tell whether the server can hold a task with this id."""
        return True

    def _add(self, subscription: Subscription) -> None:
        tell = subscription.tell
        self._youngest = time.monotonic()
        for task_id in subscription.waiting:
            self._subscriptions[task_id].append(subscription)
            self._fresh[task_id] = _for_both(tell, self._fresh.get(task_id, tell))
            self._gone.pop(task_id, None)
        if not self._has_thread:
            self._start()

    def _start(self) -> None:
        """Start the thread; interrupted between these two, it is started twice, and the second one ends at once."""
        start_thread(self._run, self._name)
        self._has_thread = True

    def unsubscribe(self, subscription: Subscription) -> None:
        """See :meth:`Subscription.cancel`. Takes no lock: the garbage collector may call it anywhere in any thread."""
        subscription.deliver = _ignore
        if subscription.waiting:
            self._cancelled.append(subscription)
            self._wake()

    def _forget_cancelled(self) -> None:
        """Do what :meth:`unsubscribe` asked for."""
        while self._cancelled:
            subscription = self._cancelled.popleft()
            with self._lock:
                waiting, subscription.waiting = subscription.waiting, {}
                for task_id in waiting:
                    self._remove(task_id, subscription)

    def close(self) -> None:
        """End the thread, and every subscription with an error."""
        with self._lock:
            self._is_closed = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait, after :meth:`close`, until the thread has ended and nothing of it is left on the server.

        Args:
            timeout: seconds to wait at most.
        """
        if thread := self._thread:
            thread.join(timeout)

    # -- for the thread

    @abstractmethod
    def _serve(self) -> None:
        """Find out and :meth:`_tell`, until :meth:`_is_idle` for long or the watcher is closed."""

    def _run(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.current_thread()
            self._has_thread = True
        try:
            self._serve()
        except RootcellarError as exc:
            self._fail(exc)
        except Exception as exc:
            logger.exception("Waiting for results failed")
            self._fail(RootcellarError(f"waiting for results failed: {type(exc).__name__}: {exc}"))
        finally:
            if self._is_closed:
                self._fail(_closed())
            self._forget_cancelled()
            with self._lock:
                self._thread = None
                self._has_thread = False
                if self._subscriptions:
                    # somebody subscribed while the thread was ending
                    self._all_are_fresh()
                    self._start()

    def _tell(self, found: Iterable[TaskRecord]) -> None:
        """Tell the subscribers of records that were read."""
        told: defaultdict[Subscription, list[TaskRecord]] = defaultdict(list)
        with self._lock:
            for record in found:
                for subscription in list(self._subscriptions.get(record.task_id, ())):
                    if record.done_at is not None:
                        self._remove(record.task_id, subscription)
                        subscription.waiting.pop(record.task_id, None)
                        told[subscription].append(record)
                    elif subscription.is_news(record):
                        told[subscription].append(record)
        for subscription, records in told.items():
            subscription.deliver([r.task_id for r in records] if subscription.tell is NotifyOn.ID else records)

    def _tell_ready(self, task_ids: Iterable[str]) -> None:
        """Tell the subscribers who want only ids."""
        told: defaultdict[Subscription, list[str]] = defaultdict(list)
        with self._lock:
            for task_id in task_ids:
                for subscription in list(self._subscriptions.get(task_id, ())):
                    if subscription.tell is NotifyOn.ID:
                        self._remove(task_id, subscription)
                        subscription.waiting.pop(task_id, None)
                        told[subscription].append(task_id)
        for subscription, ids in told.items():
            subscription.deliver(ids)

    def _fail(self, error: RootcellarError) -> None:
        """End every subscription with an error."""
        with self._lock:
            everyone = {subscription for waiting in self._subscriptions.values() for subscription in waiting}
            self._subscriptions.clear()
            self._fresh.clear()
        for subscription in everyone:
            subscription.deliver(error)

    def _is_idle(self) -> bool:
        self._forget_cancelled()
        return not self._subscriptions

    def _waited_for(self) -> list[str]:
        self._forget_cancelled()
        with self._lock:
            return list(self._subscriptions)

    def _take_news(self) -> tuple[dict[str, NotifyOn], list[str]]:
        """Return the tasks for which somebody began to wait, and those for which nobody waits any more.

        No task is in both: taken one after the other they could be, and a task would stay registered for nobody.
        """
        self._forget_cancelled()
        with self._lock:
            fresh, self._fresh = self._fresh, {}
            gone, self._gone = list(self._gone), {}
            return fresh, gone

    def _all_are_fresh(self) -> None:
        """Forget what is registered where; to be called with the lock held."""
        self._gone = {}
        self._fresh = {}
        for task_id, waiting in self._subscriptions.items():
            self._fresh[task_id] = reduce(_for_both, {subscription.tell for subscription in waiting})

    def _remove(self, task_id: str, subscription: Subscription) -> None:
        waiting = self._subscriptions.get(task_id)
        if waiting and subscription in waiting:
            waiting.remove(subscription)
            if not waiting:
                del self._subscriptions[task_id]
                self._gone[task_id] = None
                self._fresh.pop(task_id, None)

    def _note_outage(self, error: RootcellarError, what: str) -> None:
        """Keep and log why nothing can be found out; once an outage, for it is tried again every few moments."""
        level = logging.WARNING if self.outage is None else logging.DEBUG
        self.outage = error
        logger.log(level, "%s: %s. Trying until it works.", what, error)

    def _note_recovery(self) -> None:
        if self.outage is not None:
            self.outage = None
            logger.warning("Results can be waited for again.")

    # -- sleeping and waking

    def _wait_before_connecting(self, seconds: float) -> None:
        """Sleep, also while others begin to wait: they must not make a server in trouble answer to each of them."""
        deadline = time.monotonic() + seconds
        while not self._is_closed and (left := deadline - time.monotonic()) > 0:
            self._sleep(left)

    def _wake(self) -> None:
        # a full pipe wakes the thread anyway, and behind a closed one there is nobody to wake
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"x")

    def _sleep(self, seconds: float | None, *also: int) -> bool:
        """Sleep until woken, until one of the file descriptors ``also`` can be read, or for ``seconds``.

        Returns:
            whether one of ``also`` can be read.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            for descriptor in also:
                selector.register(descriptor, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        if self._wake_reader.fileno() in ready:
            self._drain_wakes()
        return any(descriptor in ready for descriptor in also)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass


class PollingWatcher(Watcher):
    """Looks for all that is waited for, in one call of ``fetch`` each time.

    Args:
        fetch: reads the records that exist, such as :meth:`Store.get_many`.
    """

    def __init__(self, fetch: Fetch) -> None:
        super().__init__("rootcellar-poll")
        self._fetch = fetch

    def _serve(self) -> None:
        while not self._is_closed:
            if self._is_idle():
                self._sleep(LINGER)
                if self._is_idle():
                    return
            if self._look():
                self._note_recovery()
            else:
                self._wait_before_connecting(OUTAGE_PAUSE)
            if not self._is_idle():
                self._sleep(self._pause())

    def _look(self) -> bool:
        """Look at all that is waited for; return whether that was possible."""
        self._take_news()
        return not self._read_reachable(self._waited_for())

    def _by_server(self, task_ids: Sequence[str]) -> Iterable[tuple[Hashable, Sequence[str]]]:
        """Yield each server with the tasks whose records it has: one may be out of reach, and the others not."""
        yield None, task_ids

    def _read_reachable(self, task_ids: Sequence[str], skipped: Container[Hashable] = ()) -> dict[str, Hashable]:
        """Read records and deliver them; return the tasks that cannot be read at present, each with its server.

        Args:
            task_ids: the tasks.
            skipped: servers that are known to be out of reach.
        """
        unread: dict[str, Hashable] = {}
        for server, its_ids in self._by_server(task_ids):
            if server in skipped:
                unread.update(dict.fromkeys(its_ids, server))
                continue
            for place in range(0, len(its_ids), LOOK_BATCH):
                try:
                    self._tell(self._fetch(its_ids[place : place + LOOK_BATCH]).values())
                except RootcellarError as exc:
                    if not exc.retryable:
                        raise
                    self._note_outage(exc, "Could not look for results")
                    unread.update(dict.fromkeys(its_ids[place:], server))
                    break
        return unread

    def _pause(self) -> float:
        age = time.monotonic() - self._youngest
        return min(max(age * PAUSE_SHARE, FIRST_PAUSE), LONGEST_PAUSE)


def _for_both(one: NotifyOn, other: NotifyOn) -> NotifyOn:
    """Return what to read for two subscribers."""
    if one is other:
        return one
    return NotifyOn.CHANGES if NotifyOn.CHANGES in (one, other) else NotifyOn.RECORD


def _ignore(told: Notification) -> None:
    """Is told in place of a subscriber who left."""


def _closed() -> RootcellarError:
    return StoreUnavailable("the store was closed while somebody waited for results", remedy="wait for them anew")
