"""Helpers of the suites and the tests: records, threads and waiting."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from rootcellar.records import (
    ChordPart,
    ChordRecord,
    Payload,
    TaskRecord,
)
from rootcellar.stores.base import Store

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)


A = TypeVar("A")

#: seconds that a test waits for something that should happen at once
PATIENCE = 20.0


def able(store: Store, protocol: type[A]) -> A:
    """Return an ability that a store must have."""
    found = store.ability(protocol)
    assert found is not None, f"{store.where} is not {protocol.__name__}"
    return found


def new_id() -> str:
    return str(uuid.uuid4())


def json_payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


def record(**given: Any) -> TaskRecord:
    """Return a record of a finished task, with a new id unless one is given."""
    return TaskRecord(
        **{"task_id": new_id(), "state": "SUCCESS", "result": json_payload(42), "done_at": NOW, "retries": 0, **given}
    )


def full_record(task_id: str | None = None, **given: Any) -> TaskRecord:
    """Return a record in which every field has a value of its own."""
    values: dict[str, Any] = {
        "task_id": task_id or new_id(),
        "state": "PROGRESS",
        "result": json_payload({"done": 3}),
        "traceback": "Traceback (most recent call last):\n  …\nValueError: täg",
        "name": "shop.tasks.pack",
        "args": json_payload([1, "two"]),
        "kwargs": json_payload({"three": None}),
        "queue": "parcels",
        "worker": "celery@host",
        "retries": 2,
        "children": json_payload([[["child", None], None]]),
        "stamps": json_payload({"customer": "c-1"}),
        "group_id": new_id(),
        "group_index": 4,
        "parent_id": new_id(),
        "root_id": new_id(),
        "failure_group": -(2**63) + 5,
        "sent_at": NOW - timedelta(seconds=3),
        "started_at": NOW - timedelta(seconds=2),
        "done_at": NOW,
        "expires_at": NOW + timedelta(days=1),
    }
    # damage is found when a record is read; it is never stored
    assert values.keys() == {field.name for field in fields(TaskRecord)} - {"damage"}, "a new field needs a value here"
    return TaskRecord(**{**values, **given})


def part(group_id: str, task_id: str = "", index: int | None = 0, **given: Any) -> ChordPart:
    return ChordPart(group_id=group_id, task_id=task_id or new_id(), group_index=index, **{"state": "SUCCESS", **given})


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work(number)`` in ``count`` threads at the same moment; return what they returned."""
    barrier = threading.Barrier(count)

    def call(number: int) -> Any:
        barrier.wait(PATIENCE)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def each_in_a_thread(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Call ``work(item)`` for each item, each in a thread, at the same moment; return what they returned, in order."""
    return in_threads(len(items), lambda number: work(items[number]))


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Call ``condition`` until it returns a true value, and return that value. For the end of a lease, for example."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.005)
    return found


def begun(store: Store, size: int | None = None, **given: Any) -> str:
    """Begin a chord, with ``size`` parts if given; return its id."""
    chord = ChordRecord(group_id=new_id(), **{"body": json_payload({"task": "body"}), **given})
    store.begin_chord(chord)
    if size is not None:
        store.size_chord(chord.group_id, size)
    return chord.group_id


def completed(store: Store, size: int = 2, lease: float = 30.0, owner: str = "me") -> str:
    """Complete a chord, whose last part ("last", size - 1) claims it; return its id."""
    group = begun(store, size)
    for index in range(size - 1):
        assert not store.count_part(part(group, index=index, owner=owner), lease=lease).claimed
    assert store.count_part(part(group, "last", size - 1, owner=owner), lease=lease).claimed
    return group
