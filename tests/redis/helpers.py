"""Helpers of the tests of the Redis store."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery

from rootcellar.records import TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.redis import RedisStore
from tests.helpers import PATIENCE


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[RedisStore]:
    """Open a store and close it at the end."""
    store = open_store(url, StoreOptions(**options))
    assert isinstance(store, RedisStore)
    try:
        yield store
    finally:
        store.close()


def stock_app(url: str, **conf: Any) -> Celery:
    """Return an app whose results are in Celery's own Redis backend."""
    app = Celery("stock", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(conf)
    return app


def our_app(url: str, **conf: Any) -> Celery:
    """Return an app whose results are in rootcellar's store."""
    app = Celery("ours", broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(conf)
    return app


class Inbox:
    """Receives a watcher's notifications."""

    def __init__(self) -> None:
        self._notifications: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.deliver = self._notifications.put

    def take(self, count: int = 1, timeout: float = PATIENCE) -> list[TaskRecord]:
        """Wait for ``count`` records; return them in the order in which they came."""
        deadline = time.monotonic() + timeout
        found: list[TaskRecord] = []
        while len(found) < count:
            try:
                notification = self._notifications.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{count - len(found)} of {count} did not come within {timeout:g} s") from None
            if isinstance(notification, Exception):
                raise notification
            found.extend(notification)
        return found

    def is_empty(self) -> bool:
        return self._notifications.empty()
