"""A master is killed while results are stored: every result is stored, and no worker restarts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from celery import Celery, chord
from celery.result import ResultSet

from rootcellar.errors import StoreError
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.redis import RedisStore
from rootcellar.testing.conformance_app import make_app
from tests.helpers import record, wait_until
from tests.redis.helpers import opened
from tests.redis_servers import RedisCluster, SentinelSet
from tests.servers import RedisServer
from tests.workers import Worker

COUNT = 2_000
#: seconds for the whole test; a failover takes about three
ALL_OF_IT = 90.0


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[SentinelSet | RedisCluster]:
    """Servers that these tests may kill."""
    with SentinelSet() if request.param == "sentinel" else RedisCluster() as found:
        yield found


def master_of(servers: SentinelSet | RedisCluster) -> RedisServer:
    return servers.master if isinstance(servers, SentinelSet) else servers.nodes[1]


def app_of(broker: str, servers: SentinelSet | RedisCluster) -> Celery:
    return make_app(broker, f"rootcellar+{servers.url}")


def test_two_thousand_tasks_survive_a_failover(servers: SentinelSet | RedisCluster, redis_server: RedisServer) -> None:
    broker = redis_server.database_url(9_100 + os.getpid() % 100)
    conf = {"result_backend_max_sleep_between_retries_ms": 500}
    env = {"TEST_BROKER": broker, "TEST_BACKEND": f"rootcellar+{servers.url}", "TEST_CONF": json.dumps(conf)}
    app = app_of(broker, servers)
    add, total = app.tasks["conformance.add"], app.tasks["conformance.total"]
    with Worker("rootcellar.testing.conformance_app", env=env, concurrency=2) as worker:
        results = [add.delay(number, 0) for number in range(COUNT // 2)]
        chords = [chord((add.s(n, m) for n in range(10)), total.s())() for m in range(10)]
        wait_until(lambda: results[COUNT // 4].ready(), "a quarter of the work")
        master_of(servers).kill()
        results += [add.delay(number, 0) for number in range(COUNT // 2, COUNT)]
        assert ResultSet(results, app=app).get(timeout=ALL_OF_IT) == list(range(COUNT))
        assert [one.get(timeout=ALL_OF_IT) for one in chords] == [45 + 10 * m for m in range(10)]
        assert worker.running
    # the results were returned; they are also stored
    store = open_store(servers.url)
    found = store.get_many([one.id for one in results])
    assert len(found) == COUNT
    assert {one.state for one in found.values()} == {"SUCCESS"}
    store.close()
    app.backend.store.close()


def test_acknowledged_results_survive_a_failover(servers: SentinelSet | RedisCluster) -> None:
    """Results are stored as fast as possible until the master dies: each acknowledged one is on the replica."""
    with opened(servers.url) as store:
        stored = []
        for number in range(3_000):
            one = record(value=number)
            try:
                store.put(one)
            except StoreError:
                break
            stored.append(one)
            if number == 1_500:
                master_of(servers).kill()

        def found() -> bool:
            try:
                return store.get_many([one.task_id for one in stored]) == {one.task_id: one for one in stored}
            except StoreError:
                return False

        assert len(stored) > 1_500
        wait_until(found, "all results on the former replica", 30)


def test_planned_failover_loses_no_result(servers: SentinelSet | RedisCluster) -> None:
    """The master becomes a replica while results are stored: it refuses them, and the new master gets them."""
    old = master_of(servers)
    with opened(servers.url) as store:
        stored = [record() for _ in range(50)]
        last = record()
        for one in stored:
            store.put(one)
        if isinstance(servers, SentinelSet):
            with servers.sentinels[0].client() as sentinel:
                sentinel.execute_command("SENTINEL", "FAILOVER", servers.master_name)
        else:
            with servers.nodes[servers.nodes.index(old) + 3].client() as replica:
                replica.execute_command("CLUSTER", "FAILOVER")

        def is_over() -> bool:
            one = record()
            with suppress(StoreError):
                store.put(one)
                stored.append(one)
            return is_replica(old)

        wait_until(is_over, "the old master as a replica")
        wait_until(lambda: _is_stored(store, last), "a result on the new master")
        stored.append(last)
        wait_until(lambda: all(_works(store, one) for one in stored), "all results")


def _is_stored(store: RedisStore, one: TaskRecord) -> bool:
    with suppress(StoreError):
        store.put(one)
        return True
    return False


def _works(store: RedisStore, one: TaskRecord) -> bool:
    try:
        return store.get(one.task_id) == one
    except StoreError:
        return False


def is_replica(server: RedisServer) -> bool:
    with server.client() as client:
        try:
            return bool(client.info("replication")["role"] == "slave")
        except redis.ConnectionError:
            return False  # a Sentinel that demotes a master ends its clients' sessions
