"""What a migration needs of Redis: records of the other store, and burials.

A burial is a hash beside the task's key, in the same slot of a Cluster, so that one script reads both. No key of a task
ever has anything but a record in it. The server deletes a burial :data:`~rootcellar.stores.mirroring.BURIALS_KEPT`
after it was made, also during a migration: a late copy arrives within seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from hashlib import sha1

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.mirroring import (
    BURIALS_KEPT,
    FINGERPRINT_BYTES,
    MOST_FINGERPRINTS,
    NOTHING_KNOWN,
    Burial,
    CopyReport,
    Held,
    fingerprint,
    joined_fingerprints,
    latest_end,
    may_be_copied,
    moment,
    split_fingerprints,
)
from rootcellar.stores.redis.commands import TaskCommands, load, ttl_milliseconds
from rootcellar.stores.redis.connection import Call, Reply, pack
from rootcellar.stores.redis.keys import Keys
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.redis.walking import Walk

#: how many times a change is tried if other processes store the same task at the same moment
_TRIES = 100
_KEPT_MILLISECONDS = BURIALS_KEPT // timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_MIRROR = load("mirror", "tasks", "burials")
_SETTLE = load("settle", "tasks", "burials")
_COPY = load("copy", "tasks", "burials")
_BURY = load("bury", "burials")

#: returns ``later`` with the fields of a blob that it does not set; ``None`` if the blob must stay
Merge = Callable[[TaskRecord, bytes], "TaskRecord | None"]


class RedisMirror:
    """The ability :class:`~rootcellar.stores.mirroring.Mirrored` of one Redis, or of a Cluster.

    Args:
        servers: the servers.
        keys: the names of the keys.
        merge: fills the unset fields of a record from a stored blob, as ``put`` does.
        where: the servers, for messages.
    """

    def __init__(self, servers: Servers, keys: Keys, merge: Merge, where: str) -> None:
        self._servers = servers
        self._walk = Walk(servers)
        self._keys = keys
        self._merge = merge
        self._where = where
        self._blob = TaskCommands(servers.message, where).blob

    # -- one record

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        keys = self._pair(record.task_id)
        name, done = fingerprint(record), _microseconds(record.done_at)
        expected = b""
        new = record
        for _ in range(_TRIES):
            call = _MIRROR.call(keys, *self._written(new), expected, name, done)
            answer, *stored = self._servers.run(keys[0], call, durable=True)
            if answer == b"written":
                return Held(new)
            if answer == b"buried":
                return Held(self._decoded(record.task_id, stored[0]), buried=True)
            expected = stored[0]
            if answer == b"kept" or (whole := self._merge(new, expected)) is None:
                return Held(self._decoded(record.task_id, expected))
            new = whole
        raise self._contention()

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        keys = self._pair(record.task_id)
        call = _SETTLE.call(keys, *self._written(record), fingerprint(record), _microseconds(record.done_at))
        answer, *stored = self._servers.run(keys[0], call, durable=True)
        if answer == b"buried":
            return Held(self._decoded(record.task_id, stored[0]), buried=True)
        return Held(record)

    # -- many records

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Waiting clients are notified of each record."""
        refused: dict[str, str] = {}
        left: list[tuple[TaskRecord, tuple[bytes, int, bytes], bytes]] = []
        for record in records:
            try:
                left.append((record, self._written(record), b""))
            except RecordRefused as exc:
                refused[record.task_id] = str(exc)
        ids: dict[bytes, set[str]] = defaultdict(set)
        for _ in range(_TRIES):
            calls = [self._copy_call(record, written, expected, newer_wins) for record, written, expected in left]
            replies = self._servers.run_many(calls, durable=True)
            compared = []
            for (record, written, _), (answer, *stored) in zip(left, replies, strict=True):
                if answer != b"compare":
                    ids[answer].add(record.task_id)
                elif may_be_copied(record, self._decoded(record.task_id, stored[0]), newer_wins=newer_wins):
                    compared.append((record, written, stored[0]))
                else:
                    ids[b"kept"].add(record.task_id)
            left = compared
            if not left:
                break
        else:
            raise self._contention()
        return CopyReport(
            written=frozenset(ids[b"written"]),
            kept=frozenset(ids[b"kept"]),
            buried=frozenset(ids[b"buried"]),
            refused=refused,
        )

    def _copy_call(
        self, record: TaskRecord, written: tuple[bytes, int, bytes], expected: bytes, newer_wins: bool
    ) -> tuple[bytes, Call]:
        keys = self._pair(record.task_id)
        call = _COPY.call(
            keys,
            *written,
            expected,
            int(newer_wins),
            fingerprint(record),
            _microseconds(record.done_at),
            _microseconds(moment(record)),
        )
        return keys[0], call

    # -- burials

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`.

        The records are read first, because a script cannot compute a fingerprint. A record that changes meanwhile is
        read again.
        """
        ids = list(dict.fromkeys(task_ids))
        blobs = self._servers.get_many([self._keys.task(task_id) for task_id in ids])
        found: dict[str, TaskRecord] = {}
        left = dict(zip(ids, blobs, strict=True))
        for _ in range(_TRIES):
            there = {task_id: self._decoded(task_id, blob) for task_id, blob in left.items()}
            calls = [
                self._bury_call(task_id, left[task_id], there[task_id], known.get(task_id, ())) for task_id in left
            ]
            changed: dict[str, bytes | None] = {}
            for (task_id, record), (answer, *stored) in zip(
                there.items(), self._servers.run_many(calls, durable=True), strict=True
            ):
                if answer == b"changed":
                    changed[task_id] = stored[0]
                elif record is not None:
                    found[task_id] = record
            left = changed
            if not left:
                return found
        raise self._contention()

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        names = {record.task_id: fingerprint(record) for record in records}
        blobs = self._servers.get_many([self._keys.task(task_id) for task_id in names])
        count = 0
        left: dict[str, bytes | None] = dict(zip(names, blobs, strict=True))
        for _ in range(_TRIES):
            same: dict[str, bytes] = {}
            calls = []
            for task_id, blob in left.items():
                there = self._decoded(task_id, blob)
                if blob is not None and there is not None and fingerprint(there) == names[task_id]:
                    same[task_id] = blob
                    calls.append(self._bury_call(task_id, blob, there, ()))
            changed: dict[str, bytes | None] = {}
            for task_id, (answer, *stored) in zip(same, self._servers.run_many(calls, durable=True), strict=True):
                if answer == b"changed":
                    changed[task_id] = stored[0]
                else:
                    count += 1
            left = changed
            if not left:
                return count
        raise self._contention()

    def _bury_call(
        self, task_id: str, blob: bytes | None, there: TaskRecord | None, known: Sequence[TaskRecord]
    ) -> tuple[bytes, Call]:
        keys = self._pair(task_id)
        buried = [*known] if there is None else [*known, there]
        end = latest_end(buried)
        call = _BURY.call(
            keys,
            b"" if blob is None else sha1(blob, usedforsecurity=False).hexdigest().encode(),
            b"" if there is None else fingerprint(there),
            joined_fingerprints(b"", buried),
            b"" if end is None else _microseconds(end),
            MOST_FINGERPRINTS * FINGERPRINT_BYTES,
            _KEPT_MILLISECONDS,
        )
        return keys[0], call

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        keys, cursor = self._walk.page(self._keys.all_burials, after, limit)
        return list(self._read(keys).values()), cursor

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._read([self._keys.burial(task_id) for task_id in dict.fromkeys(task_ids)])

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        count = 0
        for keys in self._servers.keys(self._keys.all_burials):
            if before is not None:
                old = [burial.task_id for burial in self._read(keys).values() if burial.buried_at < before]
                keys = [self._keys.burial(task_id) for task_id in old]
            count += sum(self._servers.call_many([(key, pack(b"UNLINK", key)) for key in keys]))
        return count

    def _read(self, keys: Sequence[bytes]) -> dict[str, Burial]:
        replies = self._servers.call_many([(key, pack(b"HMGET", key, b"at", b"done", b"names")) for key in keys])
        found = [
            _burial(self._keys.buried_id(key), reply) for key, reply in zip(keys, replies, strict=True) if reply[0]
        ]
        return {burial.task_id: burial for burial in found}

    # -- keys and blobs

    def _pair(self, task_id: str) -> tuple[bytes, bytes]:
        return self._keys.task(task_id), self._keys.burial(task_id)

    def _written(self, record: TaskRecord) -> tuple[bytes, int, bytes]:
        """Return the first arguments of the scripts that store a task: blob, TTL, message."""
        return self._blob(record), ttl_milliseconds(record.expires_at), self._servers.message

    def _decoded(self, task_id: str, blob: bytes | None) -> TaskRecord | None:
        if blob is None or json_blob.is_forgotten(blob):
            return None
        return json_blob.decode_task(task_id, blob)

    def _contention(self) -> StoreUnavailable:
        return StoreUnavailable(
            "other processes stored the task again and again",
            where=self._where,
            remedy="try again; see what stores the same task so often",
        )


def _microseconds(date: datetime | None) -> bytes:
    """Return the microseconds since 1970 as text; empty for ``None``."""
    return b"" if date is None else b"%d" % ((date - _EPOCH) // _MICROSECOND)


def _burial(task_id: str, reply: Sequence[Reply]) -> Burial:
    at, done, names = reply
    return Burial(
        task_id=task_id,
        buried_at=_EPOCH + int(at) * _MICROSECOND,
        done_at=_EPOCH + int(done) * _MICROSECOND if done else None,
        fingerprints=frozenset(split_fingerprints(names)),
    )
