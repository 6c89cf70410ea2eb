"""What a cache holds of a durable store: copies of results that can never change, and nothing else.

Only a SUCCESS is copied, for a SUCCESS stays; no state that another may follow can be stale here. The copy is the
durable store's record, to the last field. It may vanish at any time: a miss asks the durable store.

What can happen to a SUCCESS is that it is forgotten. Then the copy is replaced by a *tombstone*, which like any SUCCESS
stays, so that a copy which somebody read before and brings late is refused; whoever finds the tombstone asks the
durable store. Nobody brings a copy that is older than :data:`FRESH`, and a tombstone outlives that by far.
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

#: before the ids in the cache, so that a copy is never taken for a result that lives there
PREFIX = "rootcellar-copy-"
#: seconds for which a copy lives at most, unless it is said otherwise
EXPIRES = 3_600.0
#: seconds after the beginning of the read or the write of a record within which its copy may be made
FRESH = 30.0
#: how long a tombstone stands
TOMBSTONE = timedelta(seconds=20 * FRESH)

_COPY = "application/x-rootcellar-copy"
_FORGOTTEN = Payload(b"", "application/x-rootcellar-forgotten", "binary")
#: how often a tombstone is set where late copies slip in
_TRIES = 100


class Cache:
    """Copies of a durable store's results in another store.

    Args:
        store: where the copies are.
        expires: seconds for which a copy lives at most.
    """

    def __init__(self, store: Store, expires: float) -> None:
        self._store = store
        self._expires = timedelta(seconds=expires)
        self.breaker = Breaker(store.check, store.where)

    def get(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the copies of these tasks, and those ids of which no copy may be made now."""

        def look() -> dict[str, TaskRecord]:
            if len(task_ids) == 1:
                found = self._store.get(PREFIX + task_ids[0])
                return {} if found is None else {found.task_id: found}
            return self._store.get_many([PREFIX + task_id for task_id in task_ids])

        nothing: dict[str, TaskRecord] = {}
        copies: dict[str, TaskRecord] = {}
        barred = set()
        for key, found in self.breaker.call(look, nothing).items():
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
            record: as the durable store has it.
            known_since: the monotonic time before which it was not yet asked for, or to be stored.
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
        """Put tombstones in place of copies, also while others are kept from the cache.

        Raises:
            StoreUnavailable: the cache did not hear of it.
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
                # a late copy slipped in, or somebody else forgets the same
                self._store.delete([tombstone.task_id])
            else:
                raise StoreUnavailable("others copy it again and again", where=self._store.where, remedy="try again")

    def drop(self, task_ids: Sequence[str]) -> None:
        """Take away copies and tombstones of tasks that nobody will bring late, such as throw-away ones."""
        self._store.delete([PREFIX + task_id for task_id in task_ids])

    def close(self) -> None:
        """Close the store of the copies."""
        self.breaker.close()
        self._store.close()
