"""Reads all tasks and groups of Redis, page by page, and stores groups of another store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from rootcellar.errors import PayloadUnreadable, StoreUnavailable
from rootcellar.records import FOREIGN, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.redis.commands import load, ttl_milliseconds
from rootcellar.stores.redis.connection import Call, pack
from rootcellar.stores.redis.keys import Keys, is_group
from rootcellar.stores.redis.memory import memory_use
from rootcellar.stores.redis.servers import MAX_PIPELINE, Servers
from rootcellar.stores.redis.walking import Walk, foreign_cursor

#: about how many bytes of results a page has at most, so that a walk needs little memory
MAX_PAGE_BYTES = 16 << 20
#: how many keys are read before their size is known
_FIRST_READ = 100
#: seconds for counting keys; the rest is estimated
_COUNT_SECONDS = 0.5
#: how many times a group is compared if other processes store it at the same moment
_TRIES = 100
_MILLISECOND = timedelta(milliseconds=1)
#: the reply to PTTL for a key that does not exist
_GONE = -2

_COPY_GROUP = load("copy_group")


#: a key, its blob, and when it expires, if the blob does not say that
_Read = tuple[bytes, bytes, "datetime | None"]


class RedisStream:
    """The ability :class:`~rootcellar.stores.streaming.Streamed` of one Redis, or of a Cluster.

    Args:
        servers: the servers.
        keys: the names of the keys.
        database: the number of the database.
        where: the servers, for messages.
    """

    def __init__(self, servers: Servers, keys: Keys, database: int, where: str) -> None:
        self._servers = servers
        self._walk = Walk(servers)
        self._keys = keys
        self._database = database
        self._where = where

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. A page has about :data:`MAX_PAGE_BYTES` at most."""
        found, cursor = self._page(self._keys.all_tasks, self._keys.is_task, cursor, limit)
        return self._records(found), cursor

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. A group that is not JSON is returned as it is stored."""
        found, cursor = self._page(self._keys.all_groups, is_group, cursor, limit)
        return [_group(self._keys.group_id(key), blob, expires_at) for key, blob, expires_at in found], cursor

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        count = 0
        left: list[tuple[GroupRecord, bytes]] = [(group, b"") for group in groups]
        for _ in range(_TRIES):
            calls = [self._copy_call(group, expected) for group, expected in left]
            older: list[tuple[GroupRecord, bytes]] = []
            for (group, _), answer in zip(left, self._servers.run_many(calls, durable=True), strict=True):
                if type(answer) is int:
                    count += 1
                elif newer_wins and _group(group.group_id, answer, None).done_at < group.done_at:
                    older.append((group, answer))
            left = older
            if not left:
                return count
        raise StoreUnavailable(
            "other processes stored the group again and again", where=self._where, remedy="try again"
        )

    def _copy_call(self, group: GroupRecord, expected: bytes) -> tuple[bytes, Call]:
        key = self._keys.group(group.group_id)
        return key, _COPY_GROUP.call(
            (key,), json_blob.encode_group(group), ttl_milliseconds(group.expires_at), expected
        )

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records of these tasks, as :meth:`stream` does: with their expiry, also if Celery wrote them."""
        found = self._values([self._keys.task(task_id) for task_id in dict.fromkeys(task_ids)])
        return {record.task_id: record for record in self._records(found)}

    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, as :meth:`stream_groups` does; ``None`` if there is none."""
        found = self._values([self._keys.group(group_id)])
        return _group(group_id, *found[0][1:]) if found else None

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        use = memory_use(self._servers.servers(), self._keys.all_tasks, self._database, _COUNT_SECONDS)
        return use.result_keys or 0

    def open_chords(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        found: set[bytes] = set()
        for keys in self._servers.keys(self._keys.all_chords):
            asked = [(key, pack(b"HMGET", key, b"begun", b"done")) for key in keys]
            for key, (begun, done) in zip(keys, self._servers.call_many(asked), strict=True):
                if begun and not done:
                    found.add(key)
        return len(found)

    # -- reading

    def _records(self, found: Iterable[_Read]) -> list[TaskRecord]:
        return [
            json_blob.decode_task(self._keys.task_id(key), blob, expires_at=expires_at)
            for key, blob, expires_at in found
            if not json_blob.is_forgotten(blob)
        ]

    def _page(
        self, pattern: bytes, is_wanted: Callable[[bytes], bool], cursor: str | None, limit: int
    ) -> tuple[list[_Read], str | None]:
        """Return what some keys hold, and the next cursor."""
        keys, cursor = _left(cursor)
        if not keys:
            keys, cursor = self._walk.page(pattern, cursor, limit)
            keys = [key for key in keys if is_wanted(key)]
        found: list[_Read] = []
        size, count = 0, _FIRST_READ
        while keys and size < MAX_PAGE_BYTES:
            some, keys = keys[:count], keys[count:]
            read = self._values(some)
            found += read
            size += sum(len(blob) for _, blob, _ in read)
            # so many that the next reading is no larger than a page
            count = max(1, min(MAX_PIPELINE, MAX_PAGE_BYTES * len(found) // (size + 1)))
        return found, json.dumps([cursor, [key.decode("latin-1") for key in keys]]) if keys else cursor

    def _values(self, keys: Sequence[bytes]) -> list[_Read]:
        """Return the keys that are strings, each with its blob and when it expires, unless the blob says that."""
        blobs = dict(zip(keys, self._servers.get_many(keys), strict=True))
        found = {key: blob for key, blob in blobs.items() if blob is not None}
        silent = [key for key, blob in found.items() if not json_blob.has_expiry(blob)]
        left = dict(zip(silent, self._servers.call_many([(key, pack(b"PTTL", key)) for key in silent]), strict=True))
        now = datetime.now(timezone.utc)
        return [
            (key, blob, now + milliseconds * _MILLISECOND if milliseconds >= 0 else None)
            for key, blob in found.items()
            if (milliseconds := left.get(key, -1)) != _GONE
        ]


def _left(cursor: str | None) -> tuple[list[bytes], str | None]:
    """Return the keys of a page that was too large, and the cursor of the walk; no keys for another cursor.

    SCAN returns all keys of a step at once, so those that were not read are in the cursor of the next call.
    """
    if cursor is None or not cursor.startswith("["):
        return [], cursor
    try:
        walk, keys = json.loads(cursor)
        return [key.encode("latin-1") for key in keys], walk
    except (ValueError, TypeError, AttributeError):
        raise foreign_cursor(cursor) from None


def _group(group_id: str, blob: bytes, expires_at: datetime | None) -> GroupRecord:
    try:
        group = json_blob.decode_group(group_id, blob)
    except PayloadUnreadable:
        return GroupRecord(
            group_id=group_id, result=Payload(blob, FOREIGN, "binary"), done_at=NO_DATE, expires_at=expires_at
        )
    return group if expires_at is None else replace(group, expires_at=expires_at)
