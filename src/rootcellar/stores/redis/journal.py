"""The journal in Redis: the tasks that are still to be moved to a durable store.

A stream has each such task once, in the order of arrival. A hash has a version of each task, which changes whenever the
task is stored or deleted. The scripts that store and delete tasks also write the stream and the hash. A task that was
moved is removed from both, unless its version has changed since it was read. Until then it has no expiry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rootcellar.errors import AppendOnlyMissing, ConfigurationError
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.fields import damaged
from rootcellar.stores.framing import chunks
from rootcellar.stores.journal import Lag, MoveResult, Pending
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.redis import commands, driver, persistence
from rootcellar.stores.redis.connection import Reply, ServerError, pack
from rootcellar.stores.redis.expiry import Sweep
from rootcellar.stores.redis.keys import Keys, decoded, encoded
from rootcellar.stores.redis.servers import MAX_PIPELINE, OneServer, Servers

#: the most bytes of results that are read at a time; a larger result is read alone
MAX_BATCH_BYTES = 32 << 20
#: the most tasks in one call of a script, because the server does nothing else while a script runs
_MAX_TASKS_PER_CALL = 100

_Entry = tuple[bytes, bytes]


class RedisJournal:
    """The journal of one Redis.

    Args:
        servers: the server.
        keys: the names of the keys.
        where: the server, for messages.

    Raises:
        ConfigurationError: it is a Cluster, where a task and the journal are on different nodes.
    """

    def __init__(self, servers: Servers, keys: Keys, where: str) -> None:
        if not isinstance(servers, OneServer):
            raise ConfigurationError(
                "write-behind cannot be on a Redis Cluster, where a result and the journal are on different nodes",
                where=where,
                remedy="use one Redis or Sentinels, or mode write-through",
            )
        self._accept_any = servers.on_connect
        servers.on_connect = persistence.require
        self._servers = servers
        self._keys = keys
        self._where = where
        self._stream = keys.journal

    def read(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the records of these tasks, and the ids of those that have a tombstone."""
        if len(task_ids) == 1:
            key = self._keys.task(task_ids[0])
            blobs = [self._servers.call(key, pack(b"GET", key))]
        else:
            blobs = self._servers.get_many([self._keys.task(task_id) for task_id in task_ids])
        there = {task_id: blob for task_id, blob in zip(task_ids, blobs, strict=True) if blob is not None}
        forgotten = {task_id for task_id, blob in there.items() if json_blob.is_forgotten(blob)}
        return {
            task_id: json_blob.decode_task(task_id, blob) for task_id, blob in there.items() if task_id not in forgotten
        }, forgotten

    def forget(self, task_ids: Sequence[str]) -> None:
        """Replace each of these tasks by a tombstone, until the durable store has deleted it too."""
        for some in chunks(task_ids, _MAX_TASKS_PER_CALL):
            keys = (self._stream, self._keys.journal_versions, *map(self._keys.task, some))
            marks = [part for task_id in some for part in (encoded(task_id), json_blob.encode_forgotten(task_id))]
            self._servers.run(self._stream, commands.FORGET_JOURNALED.call(keys, *marks), durable=True)

    # -- moving

    def oldest(self, limit: int) -> Sequence[Pending]:
        """Return the tasks that have waited longest: at most ``limit``, and fewer if they are large."""
        entries = self._entries(limit)
        if not entries:
            return []
        # the versions before the records: if a task is stored between the two reads, its version will differ
        ids = [task_id for _, task_id in entries]
        versions = self._servers.call(self._stream, pack(b"HMGET", self._keys.journal_versions, *ids))
        keys = [self._keys.task(decoded(task_id)) for task_id in ids]
        sizes = self._sizes(keys)
        count = _count_within_limit(sizes)
        blobs = self._servers.get_many(keys[:count])
        return [
            _pending(entry, version or b"p", blob, is_string=size is not None)
            for entry, version, size, blob in zip(entries[:count], versions[:count], sizes, blobs, strict=False)
        ]

    def _sizes(self, keys: Sequence[bytes]) -> list[int | None]:
        """Return the length of each key; ``None`` for one that is not a string, which must not stop the others."""
        sizes: list[int | None] = []
        for start in range(0, len(keys), MAX_PIPELINE):
            commands = [pack(b"STRLEN", key) for key in keys[start : start + MAX_PIPELINE]]
            sizes += [self._size(reply) for reply in self._servers.send_many(commands)]
        return sizes

    def _size(self, reply: Reply) -> int | None:
        if not isinstance(reply, ServerError):
            return int(reply)
        if "WRONGTYPE" not in str(reply):
            raise driver.translate(reply, self._where)
        return None

    def _entries(self, limit: int) -> list[_Entry]:
        found = self._servers.call(self._stream, pack(b"XRANGE", self._stream, b"-", b"+", b"COUNT", limit))
        return [(entry, fields[1]) for entry, fields in found]

    def remove_moved(self, move_results: Sequence[MoveResult]) -> None:
        """Remove from the journal the tasks that were moved and have not changed since they were read."""
        for start in range(0, len(move_results), _MAX_TASKS_PER_CALL):
            some = move_results[start : start + _MAX_TASKS_PER_CALL]
            tasks = [self._keys.task(one.pending.task_id) for one in some]
            keys = (self._stream, self._keys.journal_versions, self._keys.journal_refused, *tasks)
            arguments = [argument for one in some for argument in _remove_arguments(one)]
            self._servers.run(self._stream, commands.REMOVE_MOVED.call(keys, *arguments))

    def release(self, task_id: str) -> bool:
        """Delete a task that was moved. Return ``False`` if it was not moved, and so was not deleted."""
        key = self._keys.task(task_id)
        keys = (key, self._keys.journal_versions, self._keys.journal_refused)
        return bool(self._servers.run(key, commands.RELEASE.call(keys, encoded(task_id)), durable=True))

    def delete_expired(self, now: datetime) -> int:
        """Delete the chords and the refused tasks that expired before ``now``; return how many tasks."""
        self.delete_expired_chords(now)
        return self.delete_expired_refused(now)

    def delete_expired_chords(self, now: datetime) -> None:
        """Delete the chords that expired before ``now``, and no task."""
        Sweep(self._servers, self._keys).delete_expired_chords(now)

    def refused(self) -> Iterator[Sequence[TaskRecord]]:
        """See :class:`~rootcellar.stores.journal.KeepsRefused`."""
        for ids in Sweep(self._servers, self._keys).refused():
            sizes = self._sizes([self._keys.task(task_id) for task_id in ids])
            left = [(task_id, size) for task_id, size in zip(ids, sizes, strict=True) if size]
            while left:
                count = _count_within_limit([size for _, size in left])
                yield list(self.read([task_id for task_id, _ in left[:count]])[0].values())
                del left[:count]

    def delete_expired_refused(self, now: datetime, task_ids: Sequence[str] | None = None) -> int:
        """See :class:`~rootcellar.stores.journal.KeepsRefused`."""
        return Sweep(self._servers, self._keys).delete_expired_refused(now, task_ids)

    # -- progress and safety

    def lag(self) -> Lag:
        """Return how much is still to be moved."""
        waiting, oldest, time, refused = self._servers.call_many(
            [
                (self._stream, pack(b"XLEN", self._stream)),
                (self._stream, pack(b"XRANGE", self._stream, b"-", b"+", b"COUNT", 1)),
                (self._stream, pack(b"TIME")),
                (self._stream, pack(b"SCARD", self._keys.journal_refused)),
            ]
        )
        now = int(time[0]) + int(time[1]) / 1_000_000
        age = now - _moment(oldest[0][0])[0] / 1000 if oldest else 0.0
        return Lag(waiting=waiting, oldest=max(0.0, age), refused=refused)

    def last_entry(self) -> str | None:
        """Return the newest entry of the journal; ``None`` if it is empty."""
        found = self._servers.call(self._stream, pack(b"XREVRANGE", self._stream, b"+", b"-", b"COUNT", 1))
        return found[0][0].decode() if found else None

    def is_moved(self, entry: str) -> bool:
        """Return whether every entry up to ``entry`` was moved."""
        oldest = self._entries(1)
        return not oldest or _moment(oldest[0][0]) > _moment(entry.encode())

    def check_journal(self) -> None:
        """Check that the journal survives a crash.

        Raises:
            ConfigurationError: it does not survive.
        """
        try:
            # only a new connection is checked
            self._servers.close()
            self._servers.call(self._stream, pack(b"PING"))
        except AppendOnlyMissing as exc:
            # a retry may help, but no process should start with it
            raise ConfigurationError(exc.what, where=exc.where, remedy=exc.remedy) from None

    def move_only(self) -> None:
        """From now on, accept a server that may lose the journal in a crash."""
        self._servers.on_connect = self._accept_any

    def window(self) -> str | None:
        """Return which acknowledged results a crash may lose, as a sentence; ``None`` for none."""
        return persistence.window(self._servers, self._stream)


def _pending(entry: _Entry, version: bytes, blob: bytes | None, *, is_string: bool) -> Pending:
    place, encoded_id = entry
    task_id = decoded(encoded_id)
    record = None
    if not is_string:
        result = damaged(b"a key that is not a string")
        record = TaskRecord(task_id=task_id, state="FAILURE", result=result, done_at=NO_DATE, damage=("state",))
    elif blob is not None and not json_blob.is_forgotten(blob):
        record = json_blob.decode_task(task_id, blob)
    return Pending(
        task_id=task_id,
        entry=place.decode(),
        version=version.decode("utf-8", "surrogateescape"),
        was_forgotten=version.startswith(b"f"),
        record=record,
    )


def _remove_arguments(move_result: MoveResult) -> tuple[bytes | int, ...]:
    """Return the arguments of the script for one task."""
    pending, ttl = move_result.pending, move_result.ttl
    return (
        encoded(pending.task_id),
        pending.entry.encode(),
        pending.version.encode("utf-8", "surrogateescape"),
        move_result.outcome.value,
        0 if ttl is None else max(1, int(ttl.total_seconds() * 1000)),
        b"" if move_result.kept is None else json_blob.encode_task(move_result.kept),
    )


def _count_within_limit(sizes: Sequence[int | None]) -> int:
    """Return how many records of these sizes fit into one batch, at least one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size or 0
        if count and total > MAX_BATCH_BYTES:
            return count
    return len(sizes)


def _moment(entry: bytes) -> tuple[int, int]:
    """Return an entry's time in milliseconds, and its number among the entries of that millisecond."""
    time, _, number = entry.partition(b"-")
    return int(time), int(number)
