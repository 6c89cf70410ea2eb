"""Values that belong to one process, and the detection of forks.

A forked child cannot use the connections, threads, locks and queues of its parent: the connections still belong to the
parent, the threads do not exist in the child, and a lock that another thread held at the moment of the fork is never
released. Not every fork runs Python's hooks (``os.register_at_fork``): a server that forks in C, such as uWSGI, runs
none of them. So this module does not depend on hooks. It stores each value under the id of its process, and looks it up
by this id at every use.
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
        discard: called once in a forked child, with the parent's value, before ``make``. The parent's value is never
            deleted.
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
            return self._create(os.getpid())

    def peek(self) -> T | None:
        """Return the value of this process, or ``None`` if it has not been used yet."""
        return self._values.get(os.getpid())

    def take(self) -> T | None:
        """Return the value of this process and remove it: the next use creates a new one."""
        return self._values.pop(os.getpid(), None)

    def _create(self, pid: int) -> T:
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
