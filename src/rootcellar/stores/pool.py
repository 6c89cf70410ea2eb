"""A pool of connections: first come, first served, safe for forks and interruptions.

A soft time limit, Ctrl-C or a server's abort may raise an exception in any thread at any moment. So no step depends on
a later step that the exception may skip:

- Locks are held only by ``with``, which acquires and releases a plain lock in C.
- There is no counter of lent connections. A connection is lent while its :class:`Loan` exists; the pool has a weak
  reference to it. If a loan ended without returning its connection, the pool finds that out and closes the connection.
- A waiting thread holds a lock of its own, by ``with``. If this lock is free, the thread has left the queue, and its
  place is skipped.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.support.forking import PerProcess
from rootcellar.support.gates import RECHECK_SECONDS, Gate

C = TypeVar("C")

#: seconds of idleness after which a connection is tested before it is used, by default
IDLE_BEFORE_PING = 15.0
#: the most seconds that a fork waits until lent connections are returned
FORK_WAIT_SECONDS = 5.0
#: called with the seconds for which a thread has waited for a connection, whether it got one or not
_on_wait: list[Callable[[float], object]] = []
_pools: list[weakref.ref[ConnectionPool[Any]]] = []
#: held while Python forks this process
_forking = PerProcess(threading.Lock)


def report_waits(to: Callable[[float], object]) -> None:
    """From now on, call ``to`` with the seconds for which a thread of this process has waited for a connection."""
    _on_wait.append(to)


class _QueuePlace:
    """The place of a waiting thread in the queue."""

    __slots__ = ("gate", "waiting_lock")

    def __init__(self) -> None:
        self.gate = Gate()
        #: held for as long as the thread waits
        self.waiting_lock = threading.Lock()


class _Slot(Generic[C]):
    """A connection that is open, or is being opened.

    Attributes:
        connection: the connection; ``None`` while it is being opened.
        opened_at, idle_since: the monotonic times when it was opened and last returned.
        loan: the loan that has it; ``None`` while it is idle.
    """

    __slots__ = ("connection", "idle_since", "loan", "opened_at")

    def __init__(self, loan: weakref.ref[Loan[C]]) -> None:
        self.connection: C | None = None
        self.opened_at = self.idle_since = 0.0
        self.loan: weakref.ref[Loan[C]] | None = loan


class _State(Generic[C]):
    """A pool's connections in one process, and the threads that wait for one."""

    __slots__ = ("forker", "is_forking", "lock", "pid", "queue", "slots")

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: held while a connection is chosen, and while the lists are changed
        self.lock = threading.Lock()
        self.slots: list[_Slot[C]] = []
        self.queue: list[_QueuePlace] = []
        self.is_forking = False
        self.forker = Gate()

    def wake(self, _: object = None) -> None:
        """Wake the first thread in the queue, and a waiting fork. Takes no lock: a loan's end may call it anywhere."""
        if self.is_forking:
            self.forker.open()
        for queue_place in self.queue.copy():
            if queue_place.waiting_lock.locked():
                queue_place.gate.open()
                return


class ConnectionPool(Generic[C]):
    """Lends connections, the most recently used first, and opens one where none is idle.

    Args:
        connect: opens a connection.
        close: closes one.
        alive: returns whether an idle one still answers.
        usable: returns, without a round trip, whether a connection may be used again.
        size: the most connections at a time.
        timeout: seconds to wait for a free one.
        recycle: seconds after which one is replaced; 0 closes it after each use, a negative number never.
        ping: whether ``alive`` is called for one that was idle, before it is lent.
        idle_before_ping: for how many seconds it must have been idle for that; ``None`` for :data:`IDLE_BEFORE_PING`.
        where: the server, for messages.
        remedy: what to do if none becomes free.
        may_cross_forks: whether a forked child may inherit an open connection, which it never uses. Otherwise all are
            closed before the fork, or in the child if the fork runs no hook.
        harmless: the errors after which a connection may be used again. After any other exception in a loan's ``with``
            block, such as that of a time limit, it is closed: the server's answer may still arrive.
    """

    def __init__(
        self,
        connect: Callable[[], C],
        *,
        close: Callable[[C], None],
        alive: Callable[[C], bool],
        usable: Callable[[C], bool],
        size: int,
        timeout: float,
        recycle: float,
        ping: bool,
        where: str,
        idle_before_ping: float | None = None,
        remedy: str = "raise pool_size or max_overflow in database_engine_options",
        may_cross_forks: bool = True,
        harmless: tuple[type[Exception], ...] = (),
    ) -> None:
        self._connect = connect
        self._close = close
        self._alive = alive
        self._usable = usable
        self._size = max(1, size)
        self._timeout = timeout
        self._recycle = recycle
        self._ping = ping
        self._idle_before_ping = idle_before_ping
        self._where = where
        self._remedy = remedy
        self._may_cross_forks = may_cross_forks
        self._harmless: tuple[type[BaseException], ...] = (RootcellarError, *harmless)
        leave = None if may_cross_forks else self._close_inherited
        self._state: PerProcess[_State[C]] = PerProcess(_State, leave)
        if not may_cross_forks:
            _pools.append(weakref.ref(self, _pools.remove))

    @property
    def idle(self) -> int:
        """How many connections of this process are open and not in use."""
        return sum(slot.loan is None for slot in self._state.get().slots.copy())

    @property
    def used(self) -> int:
        """How many connections of this process are in use, or are being opened."""
        return sum(slot.loan is not None for slot in self._state.get().slots.copy())

    def connection(self, *, fresh: bool = False) -> Loan[C]:
        """Lend a connection for the length of a ``with`` block.

        Args:
            fresh: close the idle connections and open a new one, because the server may have been restarted.

        Raises:
            StoreUnavailable: no connection became free in time. Also any error of ``connect``.
        """
        if fresh:
            self.drop_idle()
        return Loan(self)

    def drop_idle(self) -> None:
        """Close every connection that is not in use."""
        state = self._state.peek()
        if state is None:
            return
        with state.lock:
            idle = [slot for slot in state.slots if slot.loan is None]
            for slot in idle:
                state.slots.remove(slot)
        state.wake()
        for slot in idle:
            if slot.connection is not None:
                self._close(slot.connection)

    # -- lending

    def _lend(self, loan: Loan[C]) -> C:
        """Give a connection to ``loan``; if this fails, close the connection."""
        state = loan._state = self._state.get()
        try:
            slot = self._claim(state, loan) or self._wait_for_one(state, loan)
            if slot.connection is not None and not self._test_before_loan(slot, slot.connection):
                unusable, slot.connection = slot.connection, None
                self._close(unusable)
            if slot.connection is None:
                slot.connection = self._connect()
                slot.opened_at = time.monotonic()
            return slot.connection
        except BaseException:
            self._drop(loan)
            raise

    def _claim(self, state: _State[C], loan: Loan[C], queue_place: _QueuePlace | None = None) -> _Slot[C] | None:
        """Assign an idle connection, or a slot for a new one, to ``loan``; return ``None`` if it must wait.

        Args:
            queue_place: its place in the queue; ``None`` if it is not in the queue.
        """
        abandoned = None
        with state.lock:
            queue = state.queue
            while queue and not queue[0].waiting_lock.locked():
                # the thread of this place was interrupted
                del queue[0]
            if state.is_forking or (queue and queue[0] is not queue_place):
                return None
            slot = _best_slot(state.slots)
            if slot is None and len(state.slots) >= self._size:
                return None
            reference = weakref.ref(loan, state.wake)
            if slot is None:
                slot = _Slot(reference)
                loan._slot = slot
                state.slots.append(slot)
            else:
                if slot.loan is not None:
                    abandoned, slot.connection = slot.connection, None
                loan._slot = slot
                slot.loan = reference
            if queue:
                del queue[0]
            is_more = bool(queue) and (len(state.slots) < self._size or _best_slot(state.slots) is not None)
        if is_more:
            state.wake()
        if abandoned is not None:
            self._close(abandoned)
        return slot

    def _wait_for_one(self, state: _State[C], loan: Loan[C]) -> _Slot[C]:
        """Wait in the queue for a connection."""
        began = time.monotonic()
        try:
            return self._wait_until(began + self._timeout, state, loan)
        finally:
            for report in _on_wait:
                report(time.monotonic() - began)

    def _wait_until(self, deadline: float, state: _State[C], loan: Loan[C]) -> _Slot[C]:
        queue_place = _QueuePlace()
        with queue_place.waiting_lock:
            try:
                with state.lock:
                    state.queue.append(queue_place)
                has_collected = False
                while (slot := self._claim(state, loan, queue_place)) is None:
                    left = deadline - time.monotonic()
                    if left > 0:
                        queue_place.gate.wait(min(left, RECHECK_SECONDS))
                    elif has_collected:
                        raise self._no_connection_error()
                    else:
                        # loans of interrupted threads may exist in reference cycles only
                        gc.collect()
                        has_collected = True
                return slot
            except BaseException:
                with state.lock:
                    if queue_place in state.queue:
                        state.queue.remove(queue_place)
                state.wake()
                raise

    def _no_connection_error(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"all {self._size} connections were in use for {self._timeout:g} s", where=self._where, remedy=self._remedy
        )

    def _test_before_loan(self, slot: _Slot[C], connection: C) -> bool:
        """Return whether a connection may be lent; test it if it was idle, and close all idle ones if it is dead."""
        now = time.monotonic()
        if 0 <= self._recycle < now - slot.opened_at or not self._usable(connection):
            return False
        longest = IDLE_BEFORE_PING if self._idle_before_ping is None else self._idle_before_ping
        if not self._ping or now - slot.idle_since < longest or self._alive(connection):
            return True
        # the others were idle for even longer, and each test of a dead one may take long
        self.drop_idle()
        return False

    # -- taking back

    def _take_back(self, loan: Loan[C], kind: type[BaseException] | None) -> None:
        state, slot = loan._state, loan._slot
        if slot is None or slot.connection is None or state.pid != os.getpid():
            # a child that was forked within the block must not touch the connection
            return
        is_sound = kind is None or issubclass(kind, self._harmless)
        if not is_sound or self._recycle == 0 or not self._usable(slot.connection):
            self._drop(loan)
            return
        slot.idle_since = time.monotonic()
        # from this line on, the connection is idle
        slot.loan = None
        if state.queue or state.is_forking:
            state.wake()

    def _drop(self, loan: Loan[C]) -> None:
        """Close the connection of ``loan``, if it has one, and free its place."""
        state, slot = loan._state, loan._slot
        if slot is None or slot.loan is None or slot.loan() is not loan:
            return
        connection, slot.connection = slot.connection, None
        try:
            if connection is not None:
                self._close(connection)
        finally:
            with state.lock:
                if slot in state.slots:
                    state.slots.remove(slot)
            state.wake()

    # -- forks

    def _before_fork(self) -> None:
        """Close every connection, and open no new one until the fork is done."""
        state = self._state.get()
        with state.lock:
            state.is_forking = True
        deadline = time.monotonic() + FORK_WAIT_SECONDS
        while _is_any_lent(state) and (left := deadline - time.monotonic()) > 0:
            state.forker.wait(min(left, RECHECK_SECONDS))
        self.drop_idle()

    def _after_fork_in_parent(self) -> None:
        state = self._state.get()
        state.is_forking = False
        state.wake()

    def _close_inherited(self, state: _State[C]) -> None:
        """Close the idle connections that a fork without hooks copied. Those in use must not be touched."""
        for slot in state.slots:
            if slot.loan is None and slot.connection is not None:
                self._close(slot.connection)


class Loan(Generic[C]):
    """A connection for the length of a ``with`` block. It is lent for as long as this object exists."""

    __slots__ = ("__weakref__", "_pool", "_slot", "_state")

    def __init__(self, pool: ConnectionPool[C]) -> None:
        self._pool = pool
        self._slot: _Slot[C] | None = None
        self._state: _State[C]

    def __enter__(self) -> C:
        return self._pool._lend(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool._take_back(self, kind)


@runtime_checkable
class Pooled(Protocol):
    """A store that keeps its connections in pools."""

    def pools(self) -> Sequence[ConnectionPool[Any]]:
        """Return the pools of this process."""


def _best_slot(slots: list[_Slot[C]]) -> _Slot[C] | None:
    """Return the idle connection that was used last; if none is idle, one whose loan ended without returning it."""
    best: _Slot[C] | None = None
    abandoned: _Slot[C] | None = None
    for slot in slots:
        loan = slot.loan
        if loan is None:
            if best is None or slot.idle_since >= best.idle_since:
                best = slot
        elif loan() is None:
            abandoned = slot
    return best or abandoned


def _is_any_lent(state: _State[C]) -> bool:
    return any(slot.loan is not None and slot.loan() is not None for slot in state.slots.copy())


# -- forks that run Python's hooks


def _before_fork() -> None:
    _forking.get().acquire()
    for pool in _living_pools():
        pool._before_fork()


def _after_fork_in_parent() -> None:
    for pool in _living_pools():
        pool._after_fork_in_parent()
    _forking.get().release()


def _living_pools() -> list[ConnectionPool[Any]]:
    return [pool for reference in _pools.copy() if (pool := reference()) is not None]


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
