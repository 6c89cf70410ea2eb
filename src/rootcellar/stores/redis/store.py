"""Records in Redis: one key for a task or a group, in Celery's own layout; one hash for a chord."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast

from rootcellar.errors import StoreUnavailable
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores.base import DELETE_BATCH, Store, StoreOptions, TaskQuery
from rootcellar.stores.framing import claimant
from rootcellar.stores.journal import Journal
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.measures import MemoryUse
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.redis import chords, commands, driver
from rootcellar.stores.redis.address import Address, read_address
from rootcellar.stores.redis.commands import JournaledTaskCommands, TaskCommands, ttl_milliseconds
from rootcellar.stores.redis.connection import RespConnection, pack, pack_get
from rootcellar.stores.redis.expiry import Sweep
from rootcellar.stores.redis.journal import RedisJournal
from rootcellar.stores.redis.keys import Keys, decoded, encoded
from rootcellar.stores.redis.mastership import Mastership
from rootcellar.stores.redis.memory import memory_use
from rootcellar.stores.redis.notify import ListeningWatcher
from rootcellar.stores.redis.replication import Replication
from rootcellar.stores.redis.search import Scanner, query_all
from rootcellar.stores.redis.servers import OneServer, Servers
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import ReadsWhole, Streamed
from rootcellar.stores.watching import Fetch, Watcher
from rootcellar.support.forking import PerProcess

A = TypeVar("A")

#: how long a finished chord refuses late parts
REMEMBERED = timedelta(days=1)
#: the most tasks in one call of a script, because the server does nothing else while a script runs
_SENT_IN_ONE_SCRIPT = 100
#: how many times a merge is tried if other processes store the same task at the same moment
_MERGES = 100


class RedisStore(Store):
    """The store for ``rootcellar+redis://user:password@host:port/db`` and its relatives."""

    expires_by_itself = True

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        self._address = read_address(url, self.options)
        self._servers = _servers(self._address, self.options)
        self._keys = Keys(self._address.prefix, self._servers.chord_tags)
        self._scanner = Scanner(self._servers, self._keys)
        self._task_commands = TaskCommands(self._servers.message, self.where)
        self._has_journal = False
        self._abilities: Mapping[type[Any], object] = {}
        self._fetch: Fetch = self.get_many
        self._watchers = PerProcess(self._new_watcher)

    @property
    def where(self) -> str:
        return self._address.where

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability, or ``None``. With a journal, a store cannot be migrated: not all records are its own."""
        if protocol in (Mirrored, Streamed, ReadsWhole, SharesValues):
            return None if self._has_journal else self._migrating(protocol)
        return super().ability(protocol)

    def _migrating(self, protocol: type[A]) -> A:
        """Return an ability that only a migration needs. It is imported here, because most processes do not use it."""
        if protocol not in self._abilities:
            from rootcellar.stores.redis.mirroring import RedisMirror
            from rootcellar.stores.redis.shared_values import RedisSharedValues
            from rootcellar.stores.redis.streaming import RedisStream

            self._abilities = {
                Mirrored: RedisMirror(self._servers, self._keys, _merged_with, self.where),
                Streamed: (stream := RedisStream(self._servers, self._keys, self._address.db, self.where)),
                ReadsWhole: stream,
                SharesValues: RedisSharedValues(self._servers, self._keys),
            }
        return cast("A", self._abilities[protocol])

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        key = self._keys.task(record.task_id)
        if part is None:
            return Stored(written=self._put(key, record, durable))
        if self._servers.shares_scripts:
            return self._put_and_count(key, record, part, lease, durable)
        # the part first, with its result: if the process dies between the two steps, the chord can still be completed,
        # and the task is run again or has no record; in the other order the part might never be counted
        progress = self._count(part, lease, record)
        return Stored(written=self._put(key, record, durable), chord=progress)

    def _put(self, key: bytes, record: TaskRecord, durable: bool) -> bool:
        expected = b""
        for _ in range(_MERGES):
            answer = self._servers.run(key, self._task_commands.task(key, record, expected), durable=durable)
            if type(answer) is int:
                return answer == 1
            expected = answer
            if (whole := _merged_with(record, expected)) is None:
                return False
            record = whole
        raise _contention_error(self.where)

    def _put_and_count(self, key: bytes, record: TaskRecord, part: ChordPart, lease: float, durable: bool) -> Stored:
        keys = (key, self._keys.chord(part.group_id))
        count_arguments = self._count_arguments(part, lease, record)
        expected = b""
        for _ in range(_MERGES):
            call = self._task_commands.task_and_part(keys, record, expected, count_arguments)
            answer = self._servers.run(key, call, durable=durable)
            if type(answer) is list:
                return Stored(written=answer[4] == 1, chord=chords.progress(answer))
            expected = answer
            if (whole := _merged_with(record, expected)) is None:
                return Stored(written=False, chord=self._count(part, lease, record))
            record = whole
        raise _contention_error(self.where)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        if self._has_journal:
            self._put_sent_journaled(records)
            return
        keys = [self._keys.task(record.task_id) for record in records]
        self._servers.call_many(
            [(key, self._task_commands.sent(key, record)) for key, record in zip(keys, records, strict=True)]
        )

    def _put_sent_journaled(self, records: Sequence[TaskRecord]) -> None:
        stream = self._keys.journal
        for start in range(0, len(records), _SENT_IN_ONE_SCRIPT):
            some = records[start : start + _SENT_IN_ONE_SCRIPT]
            keys = [stream, self._keys.journal_versions, *(self._keys.task(record.task_id) for record in some)]
            values = [part for one in some for part in (encoded(one.task_id), self._task_commands.blob(one))]
            self._servers.run(stream, commands.PUT_SENT_JOURNALED.call(tuple(keys), *values), durable=True)

    def get(self, task_id: str) -> TaskRecord | None:
        key = self._keys.task(task_id)
        blob = self._servers.call(key, pack_get(key))
        return None if blob is None or json_blob.is_forgotten(blob) else json_blob.decode_task(task_id, blob)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = list(dict.fromkeys(task_ids))
        blobs = self._servers.get_many([self._keys.task(task_id) for task_id in ids])
        return {
            task_id: json_blob.decode_task(task_id, blob)
            for task_id, blob in zip(ids, blobs, strict=True)
            if blob is not None and not json_blob.is_forgotten(blob)
        }

    def delete(self, task_ids: Iterable[str]) -> int:
        keys = [self._keys.task(task_id) for task_id in dict.fromkeys(task_ids)]
        return sum(self._servers.call_many([(key, pack(b"UNLINK", key)) for key in keys]))

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""
        key = self._keys.task(old.task_id)
        blob = self._servers.call(key, pack_get(key))
        if blob is None or json_blob.decode_task(old.task_id, blob) != old:
            return False
        return bool(
            self._servers.run(key, commands.REPLACE.call((key,), blob, self._task_commands.blob(new)), durable=True)
        )

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        return self._scanner.page(after, limit, self.get_many)

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        return query_all(self._servers, self._keys, self.get_many, query, self.where)

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        key = self._keys.group(group.group_id)
        ttl = ttl_milliseconds(group.expires_at)
        blob = json_blob.encode_group(group)
        command = pack(b"SET", key, blob, b"PX", ttl) if ttl else pack(b"SET", key, blob)
        self._servers.call(key, command, durable=True)

    def get_group(self, group_id: str) -> GroupRecord | None:
        key = self._keys.group(group_id)
        blob = self._servers.call(key, pack_get(key))
        return None if blob is None else json_blob.decode_group(group_id, blob)

    def delete_group(self, group_id: str) -> None:
        key = self._keys.group(group_id)
        self._servers.call(key, pack(b"UNLINK", key))

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        key = self._keys.chord(chord.group_id)
        call = commands.BEGIN_CHORD.call(
            (key,),
            chords.framed(chord.body),
            chords.framed(chord.header),
            chords.microseconds(chord.expires_at),
            self._chord_ttl(chord.expires_at),
            *self._waiting_set(chord.group_id),
        )
        self._servers.run(key, call, durable=True)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        name = self._keys.chord(group_id)
        growth = b"" if key is None else encoded(key)
        what = b"extra" if relative else b"size"
        call = commands.SIZE_CHORD.call((name,), size, what, growth, *self._waiting_set(group_id))
        self._servers.run(name, call, durable=True)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self._count(part, lease, None)

    def _count(self, part: ChordPart, lease: float, record: TaskRecord | None) -> ChordProgress:
        key = self._keys.chord(part.group_id)
        call = commands.COUNT_PART.call((key,), *self._count_arguments(part, lease, record))
        return chords.progress(self._servers.run(key, call, durable=True))

    def _count_arguments(self, part: ChordPart, lease: float, record: TaskRecord | None) -> tuple[bytes | int, ...]:
        """Return the arguments of a script that counts a part."""
        return (
            chords.part_field(part),
            chords.part_value(part, record),
            encoded(part.owner),
            encoded(claimant(part)),
            int(lease * 1_000_000),
            chords.microseconds(part.expires_at),
            self._chord_ttl(part.expires_at),
            *self._waiting_set(part.group_id),
        )

    def _chord_ttl(self, expires_at: datetime | None) -> int:
        """Return for how many milliseconds the server keeps a chord; 0 if a cleanup deletes it."""
        return 0 if self._has_journal else ttl_milliseconds(expires_at)

    def _waiting_set(self, group_id: str) -> tuple[bytes, bytes]:
        return self._keys.waiting(group_id), encoded(group_id)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        key = self._keys.chord(group_id)
        arguments = (encoded(claimant), int(lease * 1_000_000), *self._waiting_set(group_id))
        return bool(self._servers.run(key, commands.CLAIM_CHORD.call((key,), *arguments), durable=True))

    def get_chord(self, group_id: str) -> ChordRecord | None:
        key = self._keys.chord(group_id)
        return chords.read_record(group_id, self._servers.call(key, pack(b"HMGET", key, *chords.RECORD_FIELDS)))

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        key = self._keys.chord(group_id)
        parts = chords.read_parts(self._servers.call(key, pack(b"HGETALL", key)))
        records = self.get_many([part.task_id for part in parts if part.result is None])
        return [
            replace(part, result=records[part.task_id].result) if part.task_id in records else part for part in parts
        ]

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`. It reads the parts of all chords, one chord at a time."""
        wanted = set(task_ids)
        found: set[str] = set()
        for keys in self._servers.keys(self._keys.all_chords):
            for key in keys:
                # not HKEYS, which users that were created for earlier releases may not run
                parts = chords.read_parts(self._servers.call(key, pack(b"HGETALL", key)))
                found.update(wanted.intersection(part.task_id for part in parts))
        return found

    def finish_chord(self, group_id: str) -> None:
        key = self._keys.chord(group_id)
        remembered = int(REMEMBERED.total_seconds() * 1000)
        call = commands.FINISH_CHORD.call((key,), remembered, *self._waiting_set(group_id))
        self._servers.run(key, call, durable=True)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        found: list[str] = []
        for tag in self._keys.tags:
            if len(found) >= limit:
                break
            key = self._keys.waiting_on(tag) + encoded(owner)
            call = commands.ORPHANED_CHORDS.call((key,), limit - len(found), self._keys.chords(tag))
            found += [decoded(group) for group in self._servers.run(key, call)]
        return found

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        return Sweep(self._servers, self._keys).delete_expired(now, limit)

    def check(self) -> None:
        key = self._keys.task("")
        self._servers.call(key, pack(b"EXISTS", key))

    def watcher(self) -> Watcher:
        """Return the one watcher of this process."""
        return self._watchers.get()

    def watcher_over(self, fetch: Fetch) -> Watcher:
        """Return the one watcher of this process, which reads records with ``fetch``."""
        self._fetch = fetch
        return self._watchers.get()

    def _new_watcher(self) -> ListeningWatcher:
        return ListeningWatcher(self._servers, self._fetch, self._keys, self.where)

    def unmoved(self) -> int:
        """See :class:`~rootcellar.stores.journal.KeepsJournal`."""
        return int(self._servers.call(self._keys.journal, pack(b"XLEN", self._keys.journal)))

    def keep_journal(self) -> Journal:
        """See :class:`~rootcellar.stores.journal.KeepsJournal`."""
        journal = RedisJournal(self._servers, self._keys, self.where)
        self._task_commands = JournaledTaskCommands(self._keys, self._servers.message, self.where)
        # a server may evict keys that have an expiry, and no other store has these chords
        self._has_journal = True
        return journal

    def pools(self) -> Sequence[ConnectionPool[RespConnection]]:
        """See :class:`~rootcellar.stores.pool.Pooled`."""
        return self._servers.pools()

    def memory_use(self, budget: float) -> MemoryUse:
        """See :class:`~rootcellar.stores.measures.InMemory`."""
        return memory_use(self._servers.servers(), self._keys.all_tasks, self._address.db, budget)

    def close(self) -> None:
        if (watcher := self._watchers.take()) is not None:
            watcher.close()
        self._servers.close()


def _servers(address: Address, options: StoreOptions) -> Servers:
    where, answer_timeout = address.where, address.answer_timeout
    # both are imported only where they are used, to make the start of others shorter
    if address.form == "cluster":
        from rootcellar.stores.redis.cluster import Cluster

        return Cluster(address, options)
    if address.form == "sentinel":
        from rootcellar.stores.redis.sentinel import Sentinels

        sentinels = Sentinels(address)
        connect = sentinels.connect
        replication = Replication(
            options, where, default=1, answer_timeout=answer_timeout, mastership=Mastership(sentinels.others)
        )
    else:
        host, port = address.hosts[0] if address.hosts else ("", 0)
        connect = partial(driver.connect, address, host, port)
        replication = Replication(options, where, default=0, answer_timeout=answer_timeout)
    return OneServer(connect, options, where, replication=replication, idle_before_ping=address.idle_before_ping)


def _merged_with(record: TaskRecord, blob: bytes) -> TaskRecord | None:
    """Return ``record`` with its unset fields filled from ``blob``; ``None`` if the stored record must stay."""
    earlier = json_blob.decode_task(record.task_id, blob)
    is_late = record.done_at is None and (earlier.retries or 0) > (record.retries or 0)
    if earlier.state == "SUCCESS" or (earlier.done_at is not None and is_late):
        return None
    return json_blob.merged(earlier, record)


def _contention_error(where: str) -> StoreUnavailable:
    return StoreUnavailable(
        "other processes stored the task again and again",
        where=where,
        remedy="try again; see what stores the same task so often",
    )
