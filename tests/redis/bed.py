"""What the tests of the Redis store share."""

from __future__ import annotations

import contextlib
import json
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from celery import Celery

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.redis import RedisStore

#: seconds that a test waits for what should come at once
PATIENCE = 20.0


def new_id() -> str:
    return str(uuid.uuid4())


def record(task_id: str | None = None, value: Any = 42, state: str = "SUCCESS", **fields: Any) -> TaskRecord:
    """Return a record, of a task that is done unless its state says otherwise."""
    done_at = datetime.now(timezone.utc) if state in ("SUCCESS", "FAILURE", "REVOKED") else None
    given = {"result": Payload(json.dumps(value).encode()), "done_at": done_at, **fields}
    return TaskRecord(task_id=task_id or new_id(), state=state, **given)


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
    """Return an app whose results are in our store."""
    app = Celery("ours", broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(conf)
    return app


def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Wait for what only the server can tell; return what ``condition`` gave."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return found


class Inbox:
    """Where a watcher delivers."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.deliver = self._told.put

    def take(self, count: int = 1, timeout: float = PATIENCE) -> list[TaskRecord]:
        """Wait until ``count`` records were told; return them in the order in which they came."""
        deadline = time.monotonic() + timeout
        found: list[TaskRecord] = []
        while len(found) < count:
            try:
                told = self._told.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{count - len(found)} of {count} were not told within {timeout:g} s") from None
            if isinstance(told, Exception):
                raise told
            found.extend(told)
        return found

    def is_empty(self) -> bool:
        return self._told.empty()
