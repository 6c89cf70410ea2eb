"""Tries with test tasks what every store must do.

A stored value comes back unchanged, a SUCCESS is not overwritten, and waiting clients are notified.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds, seconds_of, spread
from rootcellar.checks.steps import Step, passed, problem
from rootcellar.payloads import NotEncodable
from rootcellar.records import GroupRecord, Payload, TaskRecord
from rootcellar.retention.durations import show_duration
from rootcellar.stores import Store
from rootcellar.stores.base import Watchable

#: the ids of all test tasks begin with this
PREFIX = "rootcellar-check-"
#: the records of a killed check expire after this time
TRIAL_LIFETIME = timedelta(hours=1)

#: the maximum of notifications that are measured, and the timeout for each and for all
_NOTIFICATIONS, _NOTIFICATION_TIMEOUT_SECONDS = 5, 3.0
#: a longer median time from storing to notification is a warning
_SLOW_NOTIFICATION_SECONDS = 0.25
#: how many records are stored and read to measure the latency, and for how long at most
_LATENCY_SAMPLES, _LATENCY_SECONDS = 40, 0.8
#: a longer median time to store or to read is a warning
_SLOW_CALL_SECONDS = 0.1
#: no other task can have expired before this
_LONG_AGO = datetime(1970, 1, 2, tzinfo=timezone.utc)
#: the lifetime of a record on a server that deletes by itself, and how long to wait for its deletion
_EXPIRY_SECONDS, _EXPIRY_TIMEOUT_SECONDS = 0.1, 2.0

_TEXT = "Zoë 美咲 \U0001f955"
#: a value for each form in which a store can keep values, by a readable name
_KINDS: dict[str, Payload] = {
    "JSON": Payload(json.dumps({"text": _TEXT, "numbers": [0, -1, 2**100, 1.5, 1e-300], "none": None}).encode()),
    "text in UTF-8": Payload(json.dumps(_TEXT, ensure_ascii=False).encode()),
    "JSON that SQL cannot hold": Payload(b'["\\u0000", "\\ud800", NaN, -Infinity]'),
    "null": Payload(b"null"),
    "bytes": Payload(bytes(range(256)), "application/x-msgpack", "binary"),
    "compressed": Payload(zlib.compress(b'"long"'), compression="application/x-gzip"),
    "256 KB": Payload(json.dumps("x" * (1 << 18)).encode()),
}


class Trial:
    """The steps that try a store, and delete what they stored.

    Args:
        backend: returns the backend; called when the first step begins.
        is_deleted_by_server: whether the server deletes expired records at once.
    """

    def __init__(self, backend: Callable[[], ResultBackend], *, is_deleted_by_server: bool = False) -> None:
        self._open = backend
        self._backend: ResultBackend | None = None
        self._is_deleted_by_server = is_deleted_by_server
        self._tag = f"{PREFIX}{uuid4().hex[:12]}"
        self._ids: list[str] = []
        self._groups: list[str] = []

    def steps(self) -> list[Step]:
        return [
            Step("round trip", self._round_trip, stops_on_failure=True),
            Step("sticky success", self._sticky),
            Step("notification", self._notification),
            Step("expiry", self._expiry),
            Step("latency", self._latency),
        ]

    @property
    def backend(self) -> ResultBackend:
        if self._backend is None:
            self._backend = self._open()
        return self._backend

    @property
    def store(self) -> Store:
        return self.backend.store

    @property
    def task_ids(self) -> list[str]:
        """The ids of all tasks that were stored."""
        return list(self._ids)

    def close(self) -> None:
        """Delete everything that was stored, and close the store."""
        if self._backend is None:
            return
        with suppress(errors.RootcellarError):
            if self._ids:
                self.store.delete(self._ids)
            for group_id in self._groups:
                self.store.delete_group(group_id)
        watcher = self.backend.waiter.watcher()
        watcher.close()
        # removes the remaining subscriptions
        watcher.join(_NOTIFICATION_TIMEOUT_SECONDS)
        self.backend.waiter.close()
        self.store.close()
        self.backend.app.close()

    # -- steps

    def _round_trip(self) -> Iterator[Finding]:
        changed = [name for name, payload in _KINDS.items() if not self._comes_back(payload)]
        changed += [] if self._group_comes_back() else ["a group"]
        changed += self._values_changed()
        if changed:
            yield problem("round-trip-changed", f"came back changed: {', '.join(changed)}")
        else:
            yield passed(f"{', '.join(_KINDS)}, a failure, a group")

    def _sticky(self) -> Iterator[Finding]:
        task_id = self._new_id()
        self.store.put(self._record(task_id, result=Payload(b'"first"')))
        later = self.store.put(self._record(task_id, state="FAILURE", result=Payload(b'"second"')))
        found = self.store.get(task_id)
        if later.written or found is None or found.state != "SUCCESS":
            yield problem("sticky-overwritten", f"after a FAILURE the task is {found.state if found else 'gone'}")
        else:
            yield passed("a later FAILURE is refused")

    def _notification(self) -> Iterator[Finding]:
        spans = []
        # the first one also opens the listening connection
        for _ in range(_NOTIFICATIONS + 1):
            span = self._notification_seconds()
            if span is None:
                yield problem("notify-lost", f"no notification for {_NOTIFICATION_TIMEOUT_SECONDS:g} s")
                return
            spans.append(span)
            if sum(spans) > _NOTIFICATION_TIMEOUT_SECONDS:
                break
        median = statistics.median(spans[1:] or spans)
        how = "" if self.store.ability(Watchable) else " (by polling)"
        seen = f"{milliseconds(median)} after a result is stored{how}"
        yield problem("notify-slow", seen) if median > _SLOW_NOTIFICATION_SECONDS else passed(seen)

    def _expiry(self) -> Iterator[Finding]:
        task_id = self._new_id()
        if self._is_deleted_by_server:
            soon = datetime.now(timezone.utc) + timedelta(seconds=_EXPIRY_SECONDS)
            self.store.put(self._record(task_id, expires_at=soon))
            is_gone = self._is_gone_soon(task_id)
            seen = "the server deletes what has expired"
        else:
            # so long ago that the deletion affects no other records
            self.store.put(self._record(task_id, expires_at=_LONG_AGO))
            self.store.delete_expired(_LONG_AGO + timedelta(days=1))
            is_gone = self.store.get(task_id) is None
            interval = self.backend.cleanup_interval
            seen = f"workers delete what has expired, every {show_duration(interval).removeprefix('1 ')}"
            if not interval:
                seen = "workers do not delete what has expired, because cleanup_interval is 0"
            if self.store.expires_by_itself:
                seen = "the server deletes what has expired within a minute"
        yield passed(seen) if is_gone else problem("expiry-ignored", "a task that has expired is still there")

    def _latency(self) -> Iterator[Finding]:
        stores: list[float] = []
        reads: list[float] = []
        until = time.monotonic() + _LATENCY_SECONDS
        while len(stores) < _LATENCY_SAMPLES and (time.monotonic() < until or len(stores) < 3):
            task_id = self._new_id()
            stores.append(seconds_of(lambda task_id=task_id: self.store.put(self._record(task_id))))  # type: ignore[misc]
            reads.append(seconds_of(lambda task_id=task_id: self.store.get(task_id)))  # type: ignore[misc]
        seen = f"store {spread(stores)}, get {spread(reads)}, of {len(stores)}"
        is_slow = max(statistics.median(stores), statistics.median(reads)) > _SLOW_CALL_SECONDS
        yield problem("latency-high", seen) if is_slow else passed(seen)

    # -- how

    def _new_id(self) -> str:
        self._ids.append(f"{self._tag}-{len(self._ids)}")
        return self._ids[-1]

    def _record(self, task_id: str, **fields: Any) -> TaskRecord:
        now = datetime.now(timezone.utc)
        given: dict[str, Any] = {"state": "SUCCESS", "result": Payload(b'{"answer": 42}'), "done_at": now}
        return TaskRecord(
            task_id=task_id, name="rootcellar.check", **{**given, "expires_at": now + TRIAL_LIFETIME, **fields}
        )

    def _comes_back(self, payload: Payload) -> bool:
        task_id = self._new_id()
        self.store.put(self._record(task_id, result=payload, args=payload, traceback=_TEXT, worker=_TEXT))
        found = self.store.get(task_id)
        return found is not None and (found.result, found.args, found.traceback, found.worker) == (
            payload,
            payload,
            _TEXT,
            _TEXT,
        )

    def _group_comes_back(self) -> bool:
        now = datetime.now(timezone.utc)
        group_id = f"{self._tag}-group"
        self._groups.append(group_id)
        self.store.put_group(
            GroupRecord(group_id=group_id, result=_KINDS["JSON"], done_at=now, expires_at=now + TRIAL_LIFETIME)
        )
        found = self.store.get_group(group_id)
        return found is not None and found.result == _KINDS["JSON"]

    def _values_changed(self) -> list[str]:
        """Store values as a worker does, with the configured serializer. Return the kinds that came back changed."""
        value, failure = {"answer": 42, "text": _TEXT}, ValueError("checked")
        changed = []
        returned, raised = self._new_id(), self._new_id()
        with suppress(NotEncodable):
            self.backend.store_result(returned, value, "SUCCESS")
            if self.backend.get_task_meta(returned, cache=False)["result"] != value:
                changed.append(f"a result as {self.backend.serializer}")
        self.backend.store_result(raised, failure, "FAILURE", traceback="Traceback: checked")
        found = self.backend.get_task_meta(raised, cache=False)["result"]
        if not isinstance(found, ValueError) or found.args != failure.args:
            changed.append("a failure")
        return changed

    def _notification_seconds(self) -> float | None:
        """Return the seconds from storing a result to the notification of its waiter; ``None`` if there is none."""
        task_id, is_notified, notified_at = self._new_id(), threading.Event(), [0.0]

        def callback(notification: object) -> None:
            if not isinstance(notification, errors.RootcellarError):
                notified_at[0] = time.monotonic()
                is_notified.set()

        subscription = self.backend.waiter.watcher().subscribe([task_id], callback)
        time.sleep(0.02)
        self.store.put(self._record(task_id))
        stored_at = time.monotonic()
        if not is_notified.wait(_NOTIFICATION_TIMEOUT_SECONDS):
            subscription.cancel()
            return None
        return max(0.0, notified_at[0] - stored_at)

    def _is_gone_soon(self, task_id: str) -> bool:
        until = time.monotonic() + _EXPIRY_SECONDS + _EXPIRY_TIMEOUT_SECONDS
        while time.monotonic() < until:
            time.sleep(_EXPIRY_SECONDS / 2)
            if self.store.get(task_id) is None:
                return True
        return False
