"""A pool of connections that knows about forks: nothing in it crosses one."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rootcellar.errors import StoreUnavailable

C = TypeVar("C")

#: a connection that lay idle for longer is tested before it is used, in seconds, where nobody says otherwise
IDLE_BEFORE_PING = 15.0
#: seconds that a fork waits at most for connections that must not cross it
FORK_PATIENCE = 5.0

_pools: weakref.WeakSet[ConnectionPool[Any]] = weakref.WeakSet()
#: held while a pool is added, and while a process forks
_registering = threading.Lock()
#: connections of the parent process: never used here, and never closed here, for that would end the parent's session
_inherited: list[Any] = []


class ConnectionPool(Generic[C]):
    """Hands out connections, the most recently used first, and opens one where none is idle.

    Args:
        connect: opens a connection.
        close: closes one.
        alive: tells whether an idle one still answers.
        usable: tells, without a round trip, whether one may be used again.
        size: the most connections at a time.
        timeout: seconds to wait for one to come free.
        recycle: seconds after which one is replaced; 0 closes it after each use, a negative number never.
        ping: whether one that lay idle is asked ``alive`` first.
        idle_before_ping: for how many seconds it must have lain idle for that; ``None`` for :data:`IDLE_BEFORE_PING`.
        where: the server, for messages.
        remedy: what to do when none comes free.
        may_cross_forks: whether an open connection may be left behind in a forked child; otherwise every one is closed
            before the fork.
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
        self._reset()
        with _registering:
            _pools.add(self)

    def _reset(self) -> None:
        self._free = threading.Condition()
        self._idle: list[tuple[C, float, float]] = []
        self._open = 0
        self._is_forking = False

    def connection(self, *, fresh: bool = False) -> Loan[C]:
        """Lend a connection for the length of a ``with`` block.

        Args:
            fresh: drop the idle ones and open a new one: the server may have been restarted.

        Raises:
            StoreUnavailable: none came free in time, or what ``connect`` raises.
        """
        if fresh:
            self.drop_idle()
        return Loan(self)

    def drop_idle(self) -> None:
        """Close every connection that is not in use."""
        with self._free:
            idle, self._idle = self._idle, []
        for connection, _, _ in idle:
            self._discard(connection)

    def _take(self) -> tuple[C, float]:
        while True:
            found = self._idle_or_slot()
            if found is None:
                return self._open_one(), time.monotonic()
            connection, born, since = found
            is_fit = False
            try:
                is_fit = self._is_fit(connection, born, since)
            finally:
                # also when a time limit came in between: the slot is not lost
                if not is_fit:
                    self._discard(connection)
            if is_fit:
                return connection, born

    def _idle_or_slot(self) -> tuple[C, float, float] | None:
        """Return an idle connection, or ``None`` once there is room to open one."""
        with self._free:
            if self._idle and not self._is_forking:
                return self._idle.pop()
            deadline = time.monotonic() + self._timeout
            while self._is_forking or (not self._idle and self._open >= self._size):
                left = deadline - time.monotonic()
                if left <= 0 or not self._free.wait(left):
                    raise StoreUnavailable(
                        f"all {self._size} connections were in use for {self._timeout:g} s",
                        where=self._where,
                        remedy=self._remedy,
                    )
            if self._idle:
                return self._idle.pop()
            self._open += 1
            return None

    def _open_one(self) -> C:
        try:
            return self._connect()
        except BaseException:
            self._release_slot()
            raise

    def _is_fit(self, connection: C, born: float, since: float) -> bool:
        now = time.monotonic()
        if 0 <= self._recycle < now - born or not self._usable(connection):
            return False
        longest = IDLE_BEFORE_PING if self._idle_before_ping is None else self._idle_before_ping
        if not self._ping or now - since < longest or self._alive(connection):
            return True
        # the others have lain idle for longer still, and each might take long to say nothing
        self.drop_idle()
        return False

    def _give_back(self, connection: C, born: float) -> None:
        if self._recycle == 0 or not self._usable(connection):
            self._discard(connection)
            return
        with self._free:
            self._idle.append((connection, born, time.monotonic()))
            self._wake()

    def _discard(self, connection: C) -> None:
        try:
            self._close(connection)
        finally:
            self._release_slot()

    def _release_slot(self) -> None:
        with self._free:
            self._open -= 1
            self._wake()

    def _wake(self) -> None:
        """Wake who waits for this: one borrower, or the fork, which must not be passed over for a borrower."""
        if self._is_forking:
            self._free.notify_all()
        else:
            self._free.notify()

    def _before_fork(self) -> None:
        """Close what must not cross, and let nothing be opened until the fork is over."""
        self._free.acquire()
        if not self._may_cross_forks:
            self._is_forking = True
            self._free.wait_for(lambda: self._open == len(self._idle), FORK_PATIENCE)
            while self._idle:
                self._close(self._idle.pop()[0])
                self._open -= 1

    def _after_fork_in_parent(self) -> None:
        self._is_forking = False
        self._free.notify_all()
        self._free.release()

    def _after_fork_in_child(self) -> None:
        _inherited.extend(connection for connection, _, _ in self._idle)
        self._reset()


class Loan(Generic[C]):
    """A connection for the length of a ``with`` block; a class, for a generator would cost as much as all the rest."""

    __slots__ = ("_born", "_connection", "_pool")

    def __init__(self, pool: ConnectionPool[C]) -> None:
        self._pool = pool

    def __enter__(self) -> C:
        self._connection, self._born = self._pool._take()
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._pool._give_back(self._connection, self._born)


def _before_fork() -> None:
    _registering.acquire()
    for pool in _pools:
        pool._before_fork()


def _after_fork_in_parent() -> None:
    for pool in _pools:
        pool._after_fork_in_parent()
    _registering.release()


def _after_fork_in_child() -> None:
    global _registering
    _registering = threading.Lock()
    for pool in _pools:
        pool._after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
