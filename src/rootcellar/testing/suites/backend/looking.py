"""Helpers of the suite's files."""

from __future__ import annotations

import json
import time
from typing import Any

from celery.result import AsyncResult

from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness

#: seconds that a test waits for a result that should come at once
WAIT = 30.0


def stored(harness: Harness, task_id: str) -> TaskRecord | None:
    """Return a task's record, read from the store itself."""
    store: Store = harness.backend.store
    return store.get(task_id)


def alone(harness: Harness, result: AsyncResult) -> AsyncResult:
    """Return a result without its parents, so that getting it never raises an error of theirs."""
    found: AsyncResult = harness.app.AsyncResult(result.id)
    return found


def until_idle(harness: Harness) -> None:
    """Wait until the worker has ended all tasks sent before: fill its whole pool with tasks once."""
    with Gate() as gate:
        held = [harness.tasks.hold.delay(gate.port) for _ in range(harness.slots)]
        for _ in held:
            gate.await_arrival()
        gate.let_through()
        for result in held:
            result.get(timeout=WAIT)


def assert_same(found: Any, expected: Any) -> None:
    """Compare JSON values: also their types, the order of keys, and NaN, which does not equal itself."""
    assert json.dumps(found) == json.dumps(expected)


class Timer:
    """Measures a ``with`` block, in seconds."""

    def __enter__(self) -> Timer:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
