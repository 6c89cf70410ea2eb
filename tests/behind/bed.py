"""What the tests of write-behind share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.hybrid import WriteBehindStore

#: seconds that a test waits for what should come at once
PATIENCE = 20.0


def now() -> datetime:
    return datetime.now(timezone.utc)


def record(task_id: str = "", value: object = 42, state: str = "SUCCESS", **given: Any) -> TaskRecord:
    done = None if state in ("STARTED", "RETRY") else now()
    payload = Payload(str(value).encode())
    return TaskRecord(task_id=task_id or str(uuid.uuid4()), state=state, result=payload, done_at=done, **given)


def open_behind(durable_url: str, cache_url: str, **options: Any) -> WriteBehindStore:
    given = {"durable_url": durable_url, "cache_url": cache_url, "mode": "write-behind", **options}
    store = open_store("hybrid://", StoreOptions(transport_options=given))
    assert isinstance(store, WriteBehindStore)
    return store


def eventually(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
