"""Shares the news of a failover in a process: if one store notices it, all stores and watchers are notified.

A process may have several stores of the same servers, each with its own connections. A store that is often used notices
within a second that a server was replaced. A watcher that only waits would notice it much later.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

Leave = Callable[[str], object]

_numbers = itertools.count()
#: without a lock, because a fork could copy a held lock: each step is one atomic operation on a dict
_leaving: dict[int, weakref.WeakMethod[Leave]] = {}


def when_replaced(leave: Leave) -> None:
    """Register a method to be called with the address of each server that was replaced, as long as its object exists.

    Args:
        leave: a bound method; it may be called from any thread, and must not block for long.
    """
    number = next(_numbers)
    _leaving[number] = weakref.WeakMethod(leave, lambda _: _leaving.pop(number, None))


def report_replaced(address: str) -> None:
    """Call all registered methods: the server at ``address`` was replaced by another one."""
    for reference in _leaving.copy().values():
        leave = reference()
        if leave is not None:
            leave(address)
