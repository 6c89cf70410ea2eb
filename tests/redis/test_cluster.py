"""A Cluster changes: nodes leave it, and slots move between nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rootcellar import errors
from rootcellar.records import ChordPart
from rootcellar.stores.redis.keys import slot_of
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import opened
from tests.redis_servers import RedisCluster
from tests.servers import HOST, RedisServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """A Cluster that these tests may change."""
    with RedisCluster() as found:
        yield found


def test_chord_completes_while_its_slot_moves(cluster: RedisCluster) -> None:
    group_id = new_id()
    part = ChordPart(group_id=group_id, task_id=new_id(), group_index=0, state="SUCCESS", owner="me", delivery="1")
    with opened(cluster.url) as store:
        store.size_chord(group_id, 1)
        slot = slot_of(store._keys.chord(group_id))
        source, target = _masters(cluster, slot)
        with source.client() as old, target.client() as new:
            ids = [str(client.execute_command("CLUSTER", "MYID"), "ascii") for client in (old, new)]
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            with pytest.raises(errors.StoreError) as caught:
                store.count_part(part)
            assert caught.value.retryable, str(caught.value)
            key = store._keys.chord(group_id)
            old.execute_command("MIGRATE", HOST, target.port, key, 0, 5000)
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        progress = store.count_part(part)
        assert (progress.counted, progress.claimed) == (1, True)


def test_removed_node_is_ignored(cluster: RedisCluster) -> None:
    """A node that ``redis-cli --cluster del-node`` removed still runs, and has no slots."""
    left = cluster.nodes[5]
    with left.client() as client:
        client.execute_command("CLUSTER", "RESET", "HARD")
        wait_until(lambda: client.execute_command("CLUSTER", "SLOTS") in ([], {}), "a node alone")
    url = cluster.url.replace("redis-cluster://", f"redis-cluster://{HOST}:{left.port},")
    # its master has no replica now; the store notices that and does not wait for one
    with opened(url, transport_options={"wait_timeout": 60}) as store:
        one = record()
        store.put(one)
        assert store.get(one.task_id) == one


def _masters(cluster: RedisCluster, slot: int) -> tuple[RedisServer, RedisServer]:
    """Return the master that has a slot, and another one."""
    place = 0 if slot < 5461 else 1 if slot < 10923 else 2
    return cluster.nodes[place], cluster.nodes[(place + 1) % 3]
