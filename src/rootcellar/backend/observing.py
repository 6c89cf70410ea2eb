"""Lets the metrics observe a backend: an observer replaces three of the backend's parts while the backend is made.

A backend without an observer has the parts themselves, so it pays nothing.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

from rootcellar.stores import Store
from rootcellar.stores.watching import Fetch
from rootcellar.support.outages import Outage
from rootcellar.waiting.blocking import Waiter


class Observed(Protocol):
    """What an observer may ask a backend."""

    store: Store

    @property
    def late_writes(self) -> int:
        """How many states and results of this process could not be stored yet."""


class Observer(Protocol):
    """Sees what a backend stores, reads and waits for."""

    def store(self, store: Store) -> Store:
        """Return a store that does the same as ``store``, and is observed."""

    def waiter(self, store: Store, archived: Fetch | None = None) -> Waiter:
        """Return the waiter of the backend."""

    def outage(self) -> Outage:
        """Return the object that logs the backend's outages."""

    def made(self, backend: Observed) -> None:
        """Take note of the backend, which is complete now."""


#: set by Celery where the children of a pool are new programs
_STARTED_BY_POOL = "FORKED_BY_MULTIPROCESSING"
_observers: weakref.WeakKeyDictionary[Any, Observer] = weakref.WeakKeyDictionary()


def observe(app: Any, observer: Observer) -> None:
    """Let ``observer`` observe each backend that ``app`` makes from now on."""
    _observers[app] = observer


def observer_of(app: Any) -> Observer | None:
    """Return the observer of an app's backends, or ``None``."""
    found = _observers.get(app)
    if found is None and _STARTED_BY_POOL in os.environ:
        # a child that is a new program stores with a copy of the app that its modules make
        return next((observer for each, observer in _observers.items() if each.main == app.main), None)
    return found
