"""The cache of a durable store: it has only copies of results that can never change.

Only a SUCCESS is copied, because a SUCCESS never changes: no copy is stale. A copy has every field of the durable
store's record. It may be evicted at any time; then the durable store is read.

A SUCCESS can be deleted. Then its copy is replaced by a *tombstone*. A copy that was read before the deletion may still
arrive later. A tombstone is itself a SUCCESS, so the cache refuses such a copy. A reader that finds a tombstone reads
the durable store. No copy is made later than :data:`FRESH` seconds after its record was read, and a tombstone is kept
far longer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from rootcellar.errors import StoreUnavailable
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.hybrid.breaker import Breaker
from rootcellar.stores.layouts import json_blob

#: the prefix of ids in the cache, so that a copy is never mistaken for a result that is stored there
PREFIX = "rootcellar-copy-"
#: seconds for which a copy is kept, by default
EXPIRES = 3_600.0
#: a copy may be made only within this many seconds after the read or write of its record began
FRESH = 30.0
#: how long a tombstone is kept
TOMBSTONE = timedelta(seconds=20 * FRESH)

_COPY = "application/x-rootcellar-copy"
_FORGOTTEN = Payload(b"", "application/x-rootcellar-forgotten", "binary")
#: the most tries to store a tombstone while late copies arrive
_TRIES = 100


class Cache:
    """Copies of a durable store's results in another store.

    Args:
        store: the store of the copies.
        expires: the most seconds for which a copy is kept.
    """

    def __init__(self, store: Store, expires: float) -> None:
        self._store = store
        self._expires = timedelta(seconds=expires)
        self.breaker = Breaker(store.check, store.where)

    def get(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the copies of these tasks, and the ids whose records may not be copied now."""

        def read_copies() -> dict[str, TaskRecord]:
            if len(task_ids) == 1:
                found = self._store.get(PREFIX + task_ids[0])
                return {} if found is None else {found.task_id: found}
            return self._store.get_many([PREFIX + task_id for task_id in task_ids])

        nothing: dict[str, TaskRecord] = {}
        copies: dict[str, TaskRecord] = {}
        barred = set()
        for key, found in self.breaker.call(read_copies, nothing).items():
            task_id = key.removeprefix(PREFIX)
            copy = None
            if found.result is not None and found.result.content_type == _COPY:
                copy = json_blob.decode_task(task_id, found.result.body)
            if copy is not None and not damaged_fields(copy):
                copies[task_id] = copy
            else:
                barred.add(task_id)
        return copies, barred

    def keep(self, record: TaskRecord, known_since: float) -> None:
        """Copy a record of the durable store, if it can never change.

        Args:
            record: the record of the durable store.
            known_since: the monotonic time when its read or its write began.
        """
        now = datetime.now(timezone.utc)
        if record.state != "SUCCESS" or record.damage or time.monotonic() - known_since > FRESH:
            return
        until = now + self._expires
        if record.expires_at is not None:
            if record.expires_at <= now:
                return
            until = min(until, record.expires_at)
        body = json_blob.encode_task(record)
        copy = TaskRecord(
            task_id=PREFIX + record.task_id,
            state="SUCCESS",
            result=Payload(body, _COPY, "binary"),
            done_at=now,
            expires_at=until,
        )
        self.breaker.call(lambda: self._store.put(copy), None)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Replace copies by tombstones. Also done while the breaker is open.

        Raises:
            StoreUnavailable: the cache cannot be reached, so a copy may still be there.
        """
        self._store.delete([PREFIX + task_id for task_id in task_ids])
        for task_id in task_ids:
            now = datetime.now(timezone.utc)
            tombstone = TaskRecord(
                task_id=PREFIX + task_id, state="SUCCESS", result=_FORGOTTEN, done_at=now, expires_at=now + TOMBSTONE
            )
            for _ in range(_TRIES):
                if self._store.put(tombstone).written:
                    break
                # a late copy was stored meanwhile, or another process deletes the same task
                self._store.delete([tombstone.task_id])
            else:
                raise StoreUnavailable(
                    "other processes copy it again and again", where=self._store.where, remedy="try again"
                )

    def drop(self, task_ids: Sequence[str]) -> None:
        """Delete copies and tombstones of tasks that can get no late copy, such as those of a test."""
        self._store.delete([PREFIX + task_id for task_id in task_ids])

    def close(self) -> None:
        """Close the store of the copies."""
        self.breaker.close()
        self._store.close()
