"""Deletes expired keys. The server does so by itself, except in two cases.

- A cleanup may be asked to delete the keys that expire before a later moment.
- A server with a journal may evict keys that have an expiry. So keys that are in no other store have no expiry.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from rootcellar.stores.redis import commands
from rootcellar.stores.redis.connection import pack
from rootcellar.stores.redis.keys import Keys, decoded, encoded, is_group
from rootcellar.stores.redis.servers import MAX_PIPELINE, Servers

#: clock tolerance in seconds: the server itself deletes the keys that expire before such a moment
CLOCK_TOLERANCE_SECONDS = 60.0


class Sweep:
    """Deletes the keys that expire before a given moment. If the moment is now, there is nothing to delete."""

    def __init__(self, servers: Servers, keys: Keys) -> None:
        self._servers = servers
        self._keys = keys

    def delete_expired(self, before: datetime, limit: int) -> int:
        """Delete up to ``limit`` tasks and groups, and then all chords; return how many tasks and groups."""
        if before.timestamp() <= time.time() + CLOCK_TOLERANCE_SECONDS:
            return 0
        count = 0
        for keys in self._batches(self._keys.all_tasks, limit):
            count += self._expire(keys[: limit - count], before)
            if count >= limit:
                return count
        for keys in self._batches(self._keys.all_groups, limit):
            count += self._expire([key for key in keys if is_group(key)][: limit - count], before)
            if count >= limit:
                return count
        self.delete_expired_chords(before)
        return count

    def delete_expired_chords(self, before: datetime) -> None:
        """Delete the chords that expire before a moment. Those of write-behind have no expiry in the server."""
        for keys in self._batches(self._keys.all_chords, MAX_PIPELINE):
            self._expire(keys, before)

    def delete_expired_refused(self, before: datetime, task_ids: Iterable[str] | None = None) -> int:
        """Delete the tasks that the durable store refused and that expire before a moment; return their number.

        Args:
            before: the moment.
            task_ids: only these tasks; ``None`` for all.
        """
        refused = self._keys.journal_refused
        count = 0
        for task_id in itertools.chain.from_iterable(self.refused()) if task_ids is None else task_ids:
            key = self._keys.task(task_id)
            call = commands.EXPIRE.call((key, refused), *_moments(before), encoded(task_id))
            count += self._servers.run(key, call)
        return count

    def refused(self) -> Iterator[list[str]]:
        """Yield the ids of the tasks that the durable store refused, some at a time."""
        refused = self._keys.journal_refused
        cursor = b"0"
        while True:
            cursor, found = self._servers.call(refused, pack(b"SSCAN", refused, cursor))
            yield [decoded(task_id) for task_id in found]
            if cursor == b"0":
                return

    def _batches(self, pattern: bytes, size: int) -> Iterator[list[bytes]]:
        for keys in self._servers.keys(pattern):
            for start in range(0, len(keys), size):
                yield keys[start : start + size]

    def _expire(self, keys: list[bytes], before: datetime) -> int:
        moments = _moments(before)
        return sum(self._servers.run(key, commands.EXPIRE.call((key,), *moments)) for key in keys)


def _moments(before: datetime) -> tuple[int, int]:
    """Return a moment and now, in milliseconds."""
    return int(before.timestamp() * 1000), int(time.time() * 1000)
