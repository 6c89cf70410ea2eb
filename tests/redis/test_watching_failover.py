"""Waiting while some servers are dead, or while the watcher's master was replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise

import pytest

from rootcellar.errors import StoreError
from rootcellar.records import TaskRecord
from rootcellar.stores.redis import RedisStore, notify
from rootcellar.stores.redis.keys import slot_of
from rootcellar.stores.redis.servers import Servers
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import Inbox, opened
from tests.redis_servers import RedisCluster, SeveredSentinelSet
from tests.servers import RedisServer


@pytest.fixture(autouse=True)
def no_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a message, or a detected failure, makes the watcher read."""
    monkeypatch.setattr(Servers, "safety_read_seconds", 3600.0)


def subscribe(store: RedisStore, *task_ids: str) -> Inbox:
    inbox = Inbox()
    store.watcher().subscribe(task_ids, inbox.deliver)
    return inbox


def stores(store: RedisStore, *records: TaskRecord) -> bool:
    with suppress(StoreError):
        for one in records:
            store.put(one)
        return True
    return False


# -- a Cluster with a dead shard


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """A Cluster that serves the slots of its living masters."""
    with RedisCluster(cluster_require_full_coverage=False) as found:
        yield found


def test_dead_shard_delays_only_its_own_tasks(cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    options = {"transport_options": {"wait_replicas": 0}}
    with opened(cluster.url, **options) as store, opened(cluster.url, **options) as storing:
        ids = [new_id() for _ in range(300)]
        dead = [task_id for task_id in ids if 5461 <= slot_of(store._keys.task(task_id)) < 10923]
        alive = [task_id for task_id in ids if task_id not in dead]
        for node in (cluster.nodes[4], cluster.nodes[1]):
            node.kill()
        wait_until(lambda: stores(storing, record()) and not stores(storing, record(dead[0])), "a dead shard")
        caplog.clear()
        reads: list[float] = []
        watcher = store.watcher()
        assert isinstance(watcher, notify.ListeningWatcher)
        fetch = watcher._fetch

        def count_reads(task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
            known = list(task_ids)
            if not set(known).isdisjoint(dead):
                reads.append(time.monotonic())
            return fetch(known)

        watcher._fetch = count_reads
        inbox = subscribe(store, *ids)
        for task_id in alive:
            wait_until(lambda task_id=task_id: stores(storing, record(task_id)), "a result of another shard")
        assert {one.task_id for one in inbox.take(len(alive))} == set(alive)
        wait_until(lambda: len(reads) >= 7, "some tries to read from the dead shard")
        pauses = [after - before for before, after in pairwise(reads[:7])]
        # each pause is at least half of its limit, which doubles
        assert sum(pauses) > (0.05 + 0.1 + 0.2 + 0.4 + 0.8 + 1.6) / 2, (
            f"each pause is longer than the one before: {pauses}"
        )
        ours = [one.message for one in caplog.records if one.name == "rootcellar.stores.watching"]
        assert len(ours) == 1, ours
        assert "Trying until it works" in ours[0]
        cluster.nodes[1].start()
        wait_until(lambda: stores(storing, *map(record, dead)), "the results of the restarted shard", 60)
        assert {one.task_id for one in inbox.take(len(dead))} == set(dead)
        wait_until(lambda: "can be waited for again" in caplog.text, "the recovery")
        assert caplog.text.count("can be waited for again") == 1


# -- a replaced master that still answers


@pytest.fixture
def sentinels() -> Iterator[SeveredSentinelSet]:
    with SeveredSentinelSet() as servers:
        yield servers


def await_listener(server: RedisServer) -> None:
    with server.client() as client:
        # Sentinels subscribe too, as another user
        wait_until(
            lambda: any(int(one["sub"]) > 0 and one["user"] == "default" for one in client.client_list()),
            "a client that listens",
            30,
        )


@pytest.mark.parametrize("observer", ["the waiter itself", "another store of the process"])
def test_waiter_leaves_a_replaced_master(
    sentinels: SeveredSentinelSet, monkeypatch: pytest.MonkeyPatch, observer: str
) -> None:
    """Clients reach the old master, Sentinels and replicas do not: nothing notifies a client that listens there."""
    is_alone = observer == "the waiter itself"
    # the other way to notice it is switched off
    monkeypatch.setattr(notify, "SILENCE", 0.3 if is_alone else 3600.0)
    old, new = sentinels.servers
    with opened(sentinels.url) as waiting, opened(sentinels.url) as storing:
        storing.put(record())
        task_id = new_id()
        inbox = subscribe(waiting, task_id)
        await_listener(old)
        sentinels.cut_off(old)
        wait_until(lambda: sentinels.is_master_for_most(new), "a failover", 60)
        if not is_alone:
            wait_until(lambda: stores(storing, record()), "a result on the new master", 60)
        await_listener(new)
        wait_until(lambda: stores(storing, record(task_id)), "the result on the new master", 60)
        assert [one.task_id for one in inbox.take()] == [task_id]
