"""Waiting for tasks: one thread notifies all waiters of a process.

:class:`PollingWatcher` works with every store: it reads often at first, and then less often. A store whose server sends
notifications extends :class:`ReconnectingWatcher`, which falls back to polling.

The thread starts with the first subscription, and ends when there has been none for a while::

                  subscribe                      no subscription for LINGER seconds
    no thread ───────────────> thread runs _serve ──────────────────────────────────> thread ends ──> no thread
                                      ^                                                    |
                                      └────────────────────────────────────────────────────┘
                                       a subscription was added while the thread was ending

    close() at any time: the thread ends, and each subscription gets an error
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from rootcellar.errors import RootcellarError, StoreError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.subscriptions import Deliver, Notification, NotifyOn, Subscription, SubscriptionTable
from rootcellar.support.backoff import Backoff
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

__all__ = [
    "Deliver",
    "Fetch",
    "Notification",
    "NotifyOn",
    "PollingWatcher",
    "ReconnectingWatcher",
    "Subscription",
    "Watcher",
]

C = TypeVar("C")

#: seconds between the first two polls, and between any two at most
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 1.0
#: the pause is this share of the time since the last waiter began to wait
PAUSE_SHARE = 0.25
#: seconds for which the thread continues after the last subscription has ended
LINGER = 30.0
#: seconds before the next poll if some results could not be read
OUTAGE_PAUSE = 0.1
#: the most records that are read at a time
MAX_BATCH = 250
#: milliseconds before the first reconnect, and the longest pause before any reconnect
FIRST_RECONNECT_MS = 50.0
LONGEST_RECONNECT_MS = 2_000.0

Fetch = Callable[[Iterable[str]], Mapping[str, TaskRecord]]


class Watcher(ABC):
    """Keeps the subscriptions of a process, and runs the thread that finds their results. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        #: changed only with the lock held
        self._table = SubscriptionTable()
        self._cancelled: deque[Subscription] = deque()
        self._youngest = 0.0
        self._thread: threading.Thread | None = None
        #: whether the thread was started
        self._has_thread = False
        self._is_closed = False
        #: called with the number of tasks of each notification, in the watcher's thread; ``None`` for nobody
        self.on_notified: Callable[[int], object] | None = None
        #: why results cannot be read at present; ``None`` if they can
        self.outage: RootcellarError | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._pid = os.getpid()

    def is_of_this_process(self) -> bool:
        """Return whether this process created the watcher. A forked child has not its thread, and must not use it."""
        return self._pid == os.getpid()

    def subscribe(
        self, task_ids: Iterable[str], deliver: Deliver, notify_on: NotifyOn = NotifyOn.RECORD
    ) -> Subscription:
        """Subscribe to tasks: each is delivered once when it is ready, including those that are ready already.

        Args:
            task_ids: the tasks.
            deliver: called with each notification, in the watcher's thread; must not block.
            notify_on: which notifications are delivered.
        """
        subscription = self._new_subscription(task_ids, deliver, notify_on)
        self._register(subscription)
        return subscription

    @contextlib.contextmanager
    def subscribed(
        self, task_ids: Iterable[str], deliver: Deliver, notify_on: NotifyOn = NotifyOn.RECORD
    ) -> Iterator[Subscription]:
        """Subscribe to tasks for the length of a ``with`` block. The subscription also ends if the block raises."""
        subscription = self._new_subscription(task_ids, deliver, notify_on)
        try:
            try:
                self._register(subscription)
                yield subscription
            finally:
                subscription.cancel()
        except BaseException:
            # once more, because an interruption may have stopped the first call
            subscription.cancel()
            raise

    def _new_subscription(self, task_ids: Iterable[str], deliver: Deliver, notify_on: NotifyOn) -> Subscription:
        # an id that cannot exist is never ready, and would make the read of all other ids fail
        return Subscription(filter(self._can_exist, task_ids), deliver, notify_on, self.unsubscribe)

    def _register(self, subscription: Subscription) -> None:
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
        """Return whether the server can store a task with this id."""
        return True

    def _add(self, subscription: Subscription) -> None:
        self._youngest = time.monotonic()
        self._table.add(subscription)
        if not self._has_thread:
            self._start()

    def _start(self) -> None:
        """Start the thread. If an interruption comes between the two lines, a second thread starts and ends at once."""
        start_thread(self._run, self._name)
        self._has_thread = True

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. Takes no lock: the garbage collector may call this at any point of any thread."""
        subscription.deliver = _ignore
        if subscription.waiting:
            self._cancelled.append(subscription)
            self._wake()

    def has_ended(self, subscription: Subscription) -> bool:
        """Return whether a subscription was cancelled."""
        return subscription.deliver is _ignore

    def deliver(self, found: Iterable[TaskRecord]) -> None:
        """Send records that were found elsewhere to those who wait for them. Each task is sent once, as always."""
        self._deliver(found)

    def _forget_cancelled(self) -> None:
        """Remove the subscriptions that :meth:`unsubscribe` ended."""
        while self._cancelled:
            subscription = self._cancelled.popleft()
            with self._lock:
                self._table.remove(subscription)

    def close(self) -> None:
        """End the thread, and every subscription with an error."""
        with self._lock:
            self._is_closed = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait, after :meth:`close`, until the thread has ended and removed its registrations from the server.

        Args:
            timeout: seconds to wait at most.
        """
        if thread := self._thread:
            thread.join(timeout)

    # -- for the thread

    @abstractmethod
    def _serve(self) -> None:
        """Read results and :meth:`_deliver` them, until there was no waiter for a while, or the watcher is closed."""

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
                    # these subscriptions began while the thread was ending
                    self._table.add_all_again()
                    self._start()

    def _deliver(self, found: Iterable[TaskRecord]) -> None:
        """Send records that were read to their subscribers."""
        with self._lock:
            to_send = self._table.records_to_send(found)
        self._count(to_send)
        for subscription, records in to_send.items():
            subscription.deliver([r.task_id for r in records] if subscription.notify_on is NotifyOn.ID else records)

    def _deliver_ids(self, ready_ids: Iterable[str]) -> None:
        """Send the ids of tasks that are ready to the subscribers who want only ids."""
        with self._lock:
            to_send = self._table.ids_to_send(ready_ids)
        self._count(to_send)
        for subscription, ids in to_send.items():
            subscription.deliver(ids)

    def _count(self, to_send: Mapping[Subscription, Sequence[object]]) -> None:
        if self.on_notified is not None:
            self.on_notified(sum(map(len, to_send.values())))

    def _fail(self, error: RootcellarError) -> None:
        """End every subscription with an error."""
        with self._lock:
            everyone = self._table.clear()
        for subscription in everyone:
            subscription.deliver(error)

    @property
    def _subscriptions(self) -> Mapping[str, Sequence[Subscription]]:
        return self._table.by_task

    def awaited_ids(self) -> list[str]:
        """Return the ids of the tasks for which clients of this process wait."""
        with self._lock:
            return list(self._subscriptions)

    def _check_idle(self) -> bool:
        """Forget what was cancelled; return whether there is no waiter."""
        self._forget_cancelled()
        return not self._subscriptions

    def _awaited_ids(self) -> list[str]:
        self._forget_cancelled()
        with self._lock:
            return list(self._subscriptions)

    def _take_changes(self) -> tuple[dict[str, NotifyOn], list[str]]:
        """Return the tasks that got their first waiter, and those that lost their last waiter, since the last call.

        Both are returned by one call, so that no task is in both: such a task would stay registered without a waiter.
        """
        self._forget_cancelled()
        with self._lock:
            return self._table.take_changes()

    def _record_outage(self, error: RootcellarError, message: str) -> None:
        """Store and log why results cannot be read. Only the first failure is a warning: many tries may follow."""
        level = logging.WARNING if self.outage is None else logging.DEBUG
        self.outage = error
        logger.log(level, "%s: %s. Trying until it works.", message, error)

    def _record_recovery(self) -> None:
        if self.outage is not None:
            self.outage = None
            logger.warning("Results can be waited for again.")

    # -- sleeping and waking

    def _wait_before_connecting(self, seconds: float) -> None:
        """Sleep the whole time, even if new waiters subscribe: each of them would add a request to a failing server."""
        deadline = time.monotonic() + seconds
        while not self._is_closed and (left := deadline - time.monotonic()) > 0:
            self._sleep(left)

    def _wake(self) -> None:
        # if the socket is full, the thread wakes anyway; if it is closed, there is no thread
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
    """Polls: each time, reads all tasks that have a waiter with one call of ``fetch``.

    Args:
        fetch: reads the records that exist, such as :meth:`Store.get_many`.
    """

    def __init__(self, fetch: Fetch) -> None:
        super().__init__("rootcellar-poll")
        self._fetch = fetch

    def _serve(self) -> None:
        while not self._is_closed:
            if self._check_idle():
                self._sleep(LINGER)
                if self._check_idle():
                    return
            if self._poll():
                self._record_recovery()
            else:
                self._wait_before_connecting(OUTAGE_PAUSE)
            if not self._check_idle():
                self._sleep(self._pause())

    def _poll(self) -> bool:
        """Read all tasks that have a waiter; return whether all could be read."""
        self._take_changes()
        return not self._read_reachable(self._awaited_ids())

    def _by_server(self, task_ids: Sequence[str]) -> Iterable[tuple[Hashable, Sequence[str]]]:
        """Yield each server with the tasks whose records it has, because one server may be down while others answer."""
        yield None, task_ids

    def _read_reachable(self, task_ids: Sequence[str], skipped: Container[Hashable] = ()) -> dict[str, Hashable]:
        """Read records and deliver them; return the tasks that cannot be read at present, each with its server.

        Args:
            task_ids: the tasks.
            skipped: servers that are known to be unreachable.
        """
        unread: dict[str, Hashable] = {}
        for server, its_ids in self._by_server(task_ids):
            if server in skipped:
                unread.update(dict.fromkeys(its_ids, server))
                continue
            for place in range(0, len(its_ids), MAX_BATCH):
                try:
                    self._deliver(self._fetch(its_ids[place : place + MAX_BATCH]).values())
                except RootcellarError as exc:
                    if not exc.retryable:
                        raise
                    self._record_outage(exc, "Could not read results")
                    unread.update(dict.fromkeys(its_ids[place:], server))
                    break
        return unread

    def _pause(self) -> float:
        age = time.monotonic() - self._youngest
        return min(max(age * PAUSE_SHARE, FIRST_PAUSE), LONGEST_PAUSE)


class ReconnectingWatcher(PollingWatcher, Generic[C]):
    """Holds a connection on which the server sends notifications, and reconnects when it is lost.

    ::

        connect ──> prepare ──> serve ──> end     no waiter for LINGER seconds, or closed
         ^  |        |   |        |
         |  |        |   └────────┼─────> poll    notifications do not arrive
         |  └────────┴────────────┤
         |                        | lost
         └─── pause <─────────────┼─────> poll    a new connection cannot help: _is_curable
                                  └─────> end     there is no waiter

    The pause grows with each try. It is short again after everything was read on a connection.

    Args:
        fetch: reads the records that exist, such as :meth:`Store.get_many`.
    """

    #: the exceptions that a lost connection raises
    failures: ClassVar[tuple[type[Exception], ...]] = (StoreError,)

    def __init__(self, fetch: Fetch) -> None:
        super().__init__(fetch)
        self._name = "rootcellar-listen"
        #: whether everything was read since the connection was opened
        self.has_read = False
        self._last_heard = 0.0
        self._idle_since: float | None = None
        self._reconnect = Backoff(FIRST_RECONNECT_MS, LONGEST_RECONNECT_MS)

    @abstractmethod
    def _connect(self) -> contextlib.AbstractContextManager[C]:
        """Open a connection, for the length of a ``with`` block."""

    @abstractmethod
    def _prepare(self, connection: C) -> bool:
        """Prepare a new connection; return whether notifications arrive on it."""

    @abstractmethod
    def _serve_on(self, connection: C) -> None:
        """Deliver the results; return if there was no waiter for a while, or the watcher is closed."""

    @abstractmethod
    def _explain(self, exc: Exception) -> RootcellarError:
        """Return the error that says why the connection was lost; it is retryable if a new one may work."""

    def _serve(self) -> None:
        tries = 0
        while not self._is_closed:
            try:
                with self._connect() as connection:
                    if not self._prepare(connection):
                        break
                    self._idle_since = None
                    self._serve_on(connection)
                    return
            except self.failures as exc:
                error = self._explain(exc)
                if not self._is_curable(exc, error):
                    logger.warning("Cannot be notified of results: %s. Polling instead.", error)
                    break
                if self._check_idle():
                    return
                if self.has_read:
                    tries = 0
                    self.has_read = False
                tries += 1
                self._record_outage(error, "No connection to wait for results")
                self._read_without_connection(error)
                self._wait_before_connecting(self._reconnect.before(tries))
        if not self._is_closed:
            super()._serve()

    def _is_curable(self, exc: Exception, error: RootcellarError) -> bool:
        """Return whether a new connection may work."""
        return error.retryable

    def _read_without_connection(self, error: RootcellarError) -> None:
        """Read, between two tries to connect, the records that can be read despite ``error``."""

    def _measure_idle(self) -> float:
        """Record whether there is a waiter; return for how many seconds there has been no waiter; 0 if there is one."""
        now = time.monotonic()
        if not self._check_idle():
            self._idle_since = None
            return 0.0
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since


def _ignore(notification: Notification) -> None:
    """Replace the ``deliver`` of a subscription that ended."""


def _closed() -> RootcellarError:
    return StoreUnavailable("the store was closed while a client waited for results", remedy="wait for them again")
