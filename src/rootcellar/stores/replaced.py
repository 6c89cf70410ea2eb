"""Servers that were replaced: what one store of a process sees, all stores and waiters of the process act on.

A process may have several stores of the same servers, and each has connections of its own. One that stores all the time
notices within a second that a server was replaced. One that only waits would notice it much later.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

Leave = Callable[[str], object]

_numbers = itertools.count()
#: without a lock, which a fork might carry over: each step is one operation on a dict
_leaving: dict[int, weakref.WeakMethod[Leave]] = {}


def when_replaced(leave: Leave) -> None:
    """Have a method called with the address of each server that is seen to be replaced, as long as its object lives.

    Args:
        leave: a bound method; it may be called from any thread, and must not block for long.
    """
    number = next(_numbers)
    _leaving[number] = weakref.WeakMethod(leave, lambda _: _leaving.pop(number, None))


def tell_replaced(address: str) -> None:
    """Tell all of the process that the server at ``address`` was replaced by another one."""
    for reference in _leaving.copy().values():
        leave = reference()
        if leave is not None:
            leave(address)
