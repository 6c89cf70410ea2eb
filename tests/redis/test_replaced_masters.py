"""A replaced master that does not know it: its writes will be discarded, so they must not be acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from rootcellar.errors import StoreError, StoreUnavailable
from rootcellar.records import ChordPart, Payload, TaskRecord
from rootcellar.stores.redis import RedisStore
from rootcellar.stores.redis.mastership import Opinion, decide
from rootcellar.stores.redis.replication import ASK_SECONDS
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import opened
from tests.redis.test_forms import ALSO_CLUSTER, make_user
from tests.redis_servers import COMMANDS, KEYS, RedisCluster, SeveredSentinelSet
from tests.servers import HOST, RedisServer

WRITERS = 4


class Writers:
    """Threads that store results continuously, and record the acknowledged ones."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._stop = threading.Event()
        self._lock = threading.Lock()
        #: the time at which each call began, and its record
        self.acknowledged: list[tuple[float, TaskRecord]] = []

    def _write(self) -> None:
        while not self._stop.is_set():
            one, began = record(), time.monotonic()
            try:
                self._store.put(one)
            except StoreError:
                # an outage; a worker would retry
                self._stop.wait(0.01)
                continue
            with self._lock:
                self.acknowledged.append((began, one))

    def count_since(self, moment: float) -> int:
        """Return how many calls that began after ``moment`` were acknowledged."""
        with self._lock:
            return sum(began > moment for began, _ in self.acknowledged)

    @contextmanager
    def working(self) -> Iterator[None]:
        with ThreadPoolExecutor(WRITERS) as threads:
            futures = [threads.submit(self._write) for _ in range(WRITERS)]
            try:
                yield
            finally:
                self._stop.set()
        for future in futures:
            future.result()

    def lost(self, since: float = 0.0) -> list[TaskRecord]:
        """Return the acknowledged records whose calls began after ``since`` and that are not stored."""
        stored = [one for began, one in self.acknowledged if began > since]

        def found() -> list[dict[str, TaskRecord]]:
            with suppress(StoreError):
                return [self._store.get_many([one.task_id for one in stored])]
            return []

        (there,) = wait_until(found, "servers that answer", 30)
        return [one for one in stored if there.get(one.task_id) != one]


# -- Cluster


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as found:
        yield found


@contextmanager
def frozen_until_replaced(cluster: RedisCluster, number: int) -> Iterator[None]:
    """Freeze a master, and resume it when its replica has taken over."""
    cluster.nodes[number].pause()
    try:
        yield
        with cluster.nodes[number + 3].client() as client:
            wait_until(lambda: client.info("replication")["role"] == "master", "a replica that took over", 60)
    finally:
        cluster.nodes[number].resume()


@pytest.mark.parametrize("may_wait", [True, False], ids=["waits", "may-not-wait"])
def test_former_master_acknowledges_nothing_after_a_freeze(cluster: RedisCluster, may_wait: bool) -> None:
    """The frozen master executes its commands when it resumes, and then discards them."""
    rights = ALSO_CLUSTER if may_wait else ALSO_CLUSTER.replace("+wait", "")
    for node in cluster.nodes:
        make_user(node, f"{COMMANDS} {KEYS} {rights}")
    url = cluster.url.replace("redis-cluster://", "redis-cluster://cellar:secret@")
    with opened(f"{url}?socket_timeout=60") as store:
        writers = Writers(store)
        with writers.working():
            wait_until(lambda: writers.count_since(0) > 100, "a hundred results")
            with frozen_until_replaced(cluster, 1):
                pass
            thawed = time.monotonic()
            wait_until(lambda: writers.count_since(thawed) > 300, "results on the new master", 60)
        assert not writers.lost()


def test_former_master_counts_no_part_of_a_chord(cluster: RedisCluster) -> None:
    with opened(f"{cluster.url}?socket_timeout=60") as store, ThreadPoolExecutor(12) as threads:
        groups = [new_id() for _ in range(12)]
        for group in groups:
            store.size_chord(group, 2)
            store.count_part(_part(group, 0))

        def count(group: str) -> bool:
            try:
                return store.count_part(_part(group, 1)).counted == 2
            except StoreUnavailable:
                return False

        with frozen_until_replaced(cluster, 1):
            counted = [threads.submit(count, group) for group in groups]
        acknowledged = [group for group, answer in zip(groups, counted, strict=True) if answer.result()]
        assert acknowledged, "the parts on the other masters"
        assert all(wait_until(lambda group=group: _parts(store, group), "the parts", 60) == 2 for group in acknowledged)


def _part(group: str, index: int) -> ChordPart:
    task_id = f"{group}-{index}"
    return ChordPart(group_id=group, task_id=task_id, group_index=index, state="SUCCESS", result=Payload(b"1"))


def _parts(store: RedisStore, group: str) -> int:
    with suppress(StoreError):
        return len(store.chord_parts(group))
    return 0


def test_master_without_a_majority_stores_nothing(cluster: RedisCluster) -> None:
    """The master reaches no other node: they may have replaced it."""
    alone, others = cluster.nodes[1], [node for node in cluster.nodes if node is not cluster.nodes[1]]
    for node in cluster.nodes:
        with node.client() as client:
            client.config_set("cluster-node-timeout", 600_000)  # otherwise it would stop by itself first
    with opened(f"{cluster.url}?socket_timeout=2", transport_options={"wait_timeout": 0.1}) as store:
        ids = [new_id() for _ in range(50)]
        for task_id in ids:
            store.put(record(task_id, 1, "STARTED"))
        with alone.client() as client:
            mine = (
                next(key for key in client.scan_iter("celery-task-meta-*")).decode().removeprefix("celery-task-meta-")
            )
        for node in others:
            node.pause()
        try:
            with pytest.raises(StoreUnavailable, match="no majority of the others confirms"):
                store.put(record(mine))
        finally:
            for node in others:
                node.resume()

        def works() -> bool:
            with suppress(StoreUnavailable):
                store.put(record(mine))
                return True
            return False

        wait_until(works, "a master that is confirmed")


# -- Sentinel


def test_clients_leave_a_cut_off_master_within_a_second() -> None:
    """Clients reach the old master, Sentinels and replicas do not: clients leave it when most Sentinels report it."""
    with SeveredSentinelSet() as servers, opened(servers.url, transport_options={"wait_timeout": 0.1}) as store:
        old, new = servers.servers
        writers = Writers(store)
        with writers.working():
            wait_until(lambda: writers.count_since(0) > 100, "a hundred results")
            servers.cut_off(old)
            wait_until(lambda: servers.is_master_for_most(new), "a failover", 60)
            known = time.monotonic() + ASK_SECONDS
            wait_until(lambda: writers.count_since(known) > 300, "results after it", 60)
        with new.client() as client:
            keys = {key.decode() for key in client.scan_iter("celery-task-meta-*", count=10_000)}
        late = [one for began, one in writers.acknowledged if began > known]
        assert all(f"celery-task-meta-{one.task_id}" in keys for one in late)


def test_master_out_of_the_sentinels_reach_stores_nothing() -> None:
    """No other master is elected yet: results that are stored until then would be lost."""
    options = {"wait_timeout": 0.1}
    with SeveredSentinelSet(down_after=600_000) as servers, opened(servers.url, transport_options=options) as store:
        assert store.put(record()).written
        servers.cut_off(servers.servers[0])

        def is_refused() -> bool:
            try:
                store.put(record())
            except StoreUnavailable as exc:
                return "no majority" in exc.what
            return False

        wait_until(is_refused, "a refusal", 30)
        servers.reconnect(servers.servers[0])

        def works() -> bool:
            with suppress(StoreUnavailable):
                return store.put(record()).written
            return False

        wait_until(works, "a master that is confirmed", 30)


def test_clients_leave_a_cut_off_master_without_wait_replicas() -> None:
    with SeveredSentinelSet() as servers, opened(servers.url, transport_options={"wait_replicas": 0}) as store:
        old, new = servers.servers
        assert store.put(record()).written
        replaced: list[str] = []
        store._servers.on_replaced = replaced.append
        servers.cut_off(old)
        wait_until(lambda: servers.is_master_for_most(new), "a failover", 60)

        def works() -> bool:
            with suppress(StoreError):
                return store.put(record()).written and _is_on(new, store)
            return False

        wait_until(works, "results on the new master", 30)
        assert replaced == [f"{HOST}:{old.port}"]


def _is_on(server: RedisServer, store: RedisStore) -> bool:
    one = record()
    store.put(one)
    with server.client() as client:
        return bool(client.exists(f"celery-task-meta-{one.task_id}"))


# -- the majority


@pytest.mark.parametrize(
    ("opinions", "asked", "decided"),
    [
        ([Opinion(True), Opinion(True)], 3, True),
        ([Opinion(True)], 2, True),
        ([Opinion(True)], 1, True),
        ([Opinion(True)], 3, None),
        ([], 3, None),
        ([Opinion(None), Opinion(None), Opinion(True)], 3, None),
        ([Opinion(False), Opinion(False), Opinion(True)], 3, False),
        ([Opinion(True), Opinion(True), Opinion(False)], 3, None),
        # the first node that knows of an election
        ([Opinion(True, 4), Opinion(True, 4), Opinion(False, 5)], 3, False),
        # a node that was cut off before the last election
        ([Opinion(True, 5), Opinion(True, 5), Opinion(False, 4)], 3, True),
        ([Opinion(True, 5), Opinion(False, 4)], 3, None),
    ],
)
def test_majority_decides(opinions: list[Opinion], asked: int, decided: bool | None) -> None:
    assert decide(opinions, asked) is decided
