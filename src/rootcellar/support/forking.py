"""Values that belong to one process, and the detection of forks.

Connections, threads, locks and queues of a process are of no use in a child that was forked from it: the connections
are still the parent's, the threads are not there, and a lock that another thread held at the moment of the fork is held
for ever. Not every fork runs Python's hooks (``os.register_at_fork``): a server that forks in C, such as uWSGI, runs
none of them. So nothing here relies on a hook. What belongs to a process is kept by the process's id, and is looked up
by that id at every use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: values of the parent process: never used or closed here, because closing would affect the parent
_inherited: list[Any] = []


class PerProcess(Generic[T]):
    """A value that each process creates for itself at the first use. Safe to use from any thread.

    Args:
        make: creates the value of this process.
        discard: called once before, with the parent's value after a fork; the parent's value is kept in memory in any
        case.
    """

    __slots__ = ("_discard", "_locks", "_make", "_values")

    def __init__(self, make: Callable[[], T], discard: Callable[[T], object] | None = None) -> None:
        self._make = make
        self._discard = discard
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> T:
        """Return the value of this process."""
        try:
            return self._values[os.getpid()]
        except KeyError:
            return self._made(os.getpid())

    def peek(self) -> T | None:
        """Return the value of this process, or ``None`` if it has not been used yet."""
        return self._values.get(os.getpid())

    def take(self) -> T | None:
        """Return the value of this process and remove it: the next use creates a new one."""
        return self._values.pop(os.getpid(), None)

    def _made(self, pid: int) -> T:
        # a new lock: another thread of the parent may have held the old one during the fork
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._values:
                self._discard_inherited()
                self._values[pid] = self._make()
            return self._values[pid]

    def _discard_inherited(self) -> None:
        for other in list(self._values):
            value = self._values.pop(other)
            _inherited.append(value)
            self._locks.pop(other, None)
            if self._discard is not None:
                self._discard(value)
