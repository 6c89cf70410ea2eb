"""What expires: the server deletes it when its time has come. What will have expired at a later moment is looked up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from rootcellar.stores.redis import scripts
from rootcellar.stores.redis.keys import Keys, is_group
from rootcellar.stores.redis.servers import PIPELINE, Servers

#: seconds by which clocks may differ: up to this, "now" is now, and the server has seen to it
CLOCKS = 60.0


class Sweep:
    """Deletes what expires before a moment to come, for whoever asks for that; a cleanup has nothing to do."""

    def __init__(self, servers: Servers, keys: Keys) -> None:
        self._servers = servers
        self._keys = keys

    def delete_expired(self, before: datetime, limit: int) -> int:
        """Delete up to about ``limit`` tasks and groups, and all chords; return how many tasks and groups."""
        if before.timestamp() <= time.time() + CLOCKS:
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
        for keys in self._batches(self._keys.all_chords, PIPELINE):
            self._expire(keys, before)
        return count

    def _batches(self, pattern: bytes, size: int) -> Iterator[list[bytes]]:
        for keys in self._servers.keys(pattern):
            for start in range(0, len(keys), size):
                yield keys[start : start + size]

    def _expire(self, keys: list[bytes], before: datetime) -> int:
        moments = (int(before.timestamp() * 1000), int(time.time() * 1000))
        return sum(self._servers.run(key, scripts.EXPIRE.call((key,), *moments)) for key in keys)
