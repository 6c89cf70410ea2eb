"""Write-behind over a full Redis: records that are only there are not evicted; a cleanup deletes them when due."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import redis

from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.payloads import codec_of
from rootcellar.records import ChordPart, ChordRecord, Payload, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.hybrid import WriteBehindStore
from tests.behind.helpers import open_behind
from tests.helpers import now, record
from tests.servers import RedisServer

CHORDS = 40
#: bytes: the free memory of Redis beside the test's own records, and the size of one result
ROOM, LARGE = 3 << 20, 20_000
#: sooner than moved results expire, so that a server that goes by the expiry would evict these first
SOON = timedelta(minutes=10)


def begin(store: WriteBehindStore, **given: object) -> str:
    """Begin a chord of two parts; return its id."""
    group = str(uuid.uuid4())
    store.begin_chord(ChordRecord(group_id=group, body=Payload(b"{}"), **given))  # type: ignore[arg-type]
    store.size_chord(group, 2)
    return group


def put_part(store: WriteBehindStore, group: str, index: int) -> TaskRecord:
    """Store a task with its part; the second one must claim the chord."""
    one = record(value=index, expires_at=now() + SOON)
    part = ChordPart(group_id=group, task_id=one.task_id, group_index=index, state="SUCCESS", expires_at=one.expires_at)
    stored = store.put(one, part)
    assert stored.chord is not None
    assert stored.chord.claimed == (index == 1), "the chord was forgotten"
    return one


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl"])
def test_full_redis_evicts_only_moved_results(
    policy: str, postgres_url: str, new_redis: Callable[..., RedisServer]
) -> None:
    server = new_redis(appendonly=True, maxmemory_policy=policy)
    store = open_behind(postgres_url, server.url)
    chords = [begin(store, expires_at=now() + SOON) for _ in range(CHORDS)]
    first = {group: put_part(store, group, 0) for group in chords}
    unbegun = str(uuid.uuid4())
    put_part(store, unbegun, 0)
    refused = record(retries=2**80, expires_at=now() + SOON)
    store.put(refused)
    store.drain_all()
    waiting = record(expires_at=now() + SOON)
    store.put(waiting)
    with server.client() as admin:
        admin.config_set("maxmemory", admin.info("memory")["used_memory"] + ROOM)
        evicted = 0
        while evicted < 4 * CHORDS:
            store.put(record(value="1" * LARGE, expires_at=now() + timedelta(days=1)))
            store.drain_all()
            evicted = admin.info("stats")["evicted_keys"]
    assert store.get(refused.task_id) == refused
    assert store.get(waiting.task_id) == waiting
    assert [len(store.chord_parts(group)) for group in (*chords, unbegun)] == [1] * (CHORDS + 1)
    for group in chords:
        last = put_part(store, group, 1)
        assert [part.result for part in store.chord_parts(group)] == [first[group].result, last.result]
    store.close()


def test_cleanup_deletes_records_that_redis_keeps(
    behind: WriteBehindStore, durable: Store, client: redis.Redis
) -> None:
    past, future = now() - timedelta(seconds=1), now() + timedelta(hours=1)
    gone, kept = begin(behind, expires_at=past), begin(behind, expires_at=future)
    refused = [record(retries=2**80, expires_at=when) for when in (past, future, None)]
    for one in refused:
        behind.put(one)
    behind.drain_all()
    assert behind.get_chord(gone) is not None
    assert {client.ttl(key) for key in client.keys("*")} == {-1}
    count = 0
    while deleted := behind.delete_expired(now()):
        count += deleted
    assert count == 1
    assert behind.get_chord(gone) is None
    assert behind.get_chord(kept) is not None
    assert [behind.get(one.task_id) for one in refused] == [None, *refused[1:]]
    assert behind.lag().refused == 2
    assert durable.get_many([one.task_id for one in refused]) == {}


def test_cleanup_moves_what_is_new_and_deletes_in_both_stores(behind: WriteBehindStore, durable: Store) -> None:
    past, future = now() - timedelta(seconds=1), now() + timedelta(hours=1)
    gone, again = record(state="FAILURE", expires_at=past), record(state="FAILURE", expires_at=past)
    refused, chord = record(retries=2**80, expires_at=past), begin(behind, expires_at=past)
    for one in (gone, again, refused):
        behind.put(one)
    behind.drain_all()
    # not moved yet: in PostgreSQL, the record has expired
    newer = replace(again, state="SUCCESS", expires_at=future)
    behind.put(newer)
    cleaned = Cleanup(CleanupWork.of(behind, codec_of({}), {})).clean()
    # the refused one counts too
    assert (cleaned.tasks, cleaned.is_complete) == (2, True)
    assert durable.get(gone.task_id) is None
    assert durable.get(again.task_id) == behind.get(again.task_id) == newer
    assert behind.lag().refused == 0
    assert behind.get_chord(chord) is None
