"""How a task is stored: the calls of the scripts that do it."""

from __future__ import annotations

import time
from datetime import datetime

from rootcellar import celery_meta
from rootcellar.errors import RecordRefused
from rootcellar.records import TaskRecord
from rootcellar.stores.redis import scripts
from rootcellar.stores.redis.keys import Keys, encoded
from rootcellar.stores.redis.wire import Call

#: bytes that a Redis string holds at most, whatever the server's settings allow
LARGEST = 512 << 20
#: the arguments of a script that say which part of a chord is counted
Counting = tuple[bytes | int, ...]


class Putting:
    """Makes the calls that store a task.

    Args:
        news: what is published when a task is stored; empty for the result itself.
        where: the server, for people.
    """

    def __init__(self, news: bytes, where: str) -> None:
        self._news = news
        self._where = where

    def task(self, key: bytes, record: TaskRecord, expected: bytes) -> Call:
        """Return the call that stores a task, over what is ``expected`` to be there if it must be merged."""
        return scripts.PUT.call((key,), self.blob(record), milliseconds(record.expires_at), self._news, expected)

    def task_and_part(self, keys: tuple[bytes, bytes], record: TaskRecord, expected: bytes, counting: Counting) -> Call:
        """Return the call that stores a task and counts it as a part of a chord; ``keys`` are theirs."""
        lasts = milliseconds(record.expires_at)
        return scripts.PUT_PART.call(keys, self.blob(record), lasts, self._news, expected, *counting)

    def blob(self, record: TaskRecord) -> bytes:
        """Return a task as it lies there; raise RecordRefused if it is too large."""
        blob = celery_meta.encode_task(record)
        if len(blob) > LARGEST:
            raise RecordRefused(
                f"a result of {len(blob) >> 20} MB: Redis takes no more than {LARGEST >> 20}",
                where=self._where,
                remedy="return less, or where to find it",
            )
        return blob


class NotedPutting(Putting):
    """Makes the calls that store a task for as long as it takes to move it, and note it in the journal."""

    def __init__(self, keys: Keys, news: bytes, where: str) -> None:
        super().__init__(news, where)
        self._journal = (keys.journal, keys.journal_versions)

    def task(self, key: bytes, record: TaskRecord, expected: bytes) -> Call:
        keys = (key, *self._journal)
        return scripts.PUT_NOTED.call(keys, self.blob(record), self._news, expected, encoded(record.task_id))

    def task_and_part(self, keys: tuple[bytes, bytes], record: TaskRecord, expected: bytes, counting: Counting) -> Call:
        all_keys = (*keys, *self._journal)
        arguments = (self.blob(record), self._news, expected, encoded(record.task_id))
        return scripts.PUT_PART_NOTED.call(all_keys, *arguments, *counting)


def milliseconds(expires_at: datetime | None) -> int:
    """Return for how many milliseconds something is kept, at least one; 0 for ever."""
    return 0 if expires_at is None else max(1, int((expires_at.timestamp() - time.time()) * 1000))
