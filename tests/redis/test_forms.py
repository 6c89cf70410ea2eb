"""Sentinel and Cluster: errors, users of least privilege, and slots that move."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootcellar import errors
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.redis import RedisStore, search
from rootcellar.stores.redis.address import read_address
from rootcellar.stores.redis.cluster import Cluster
from rootcellar.stores.redis.keys import slot_of
from rootcellar.testing.helpers import begun, part
from tests.certificates import Authority
from tests.helpers import record, wait_until
from tests.redis.helpers import Inbox, opened
from tests.redis_servers import COMMANDS, KEYS, RedisCluster, SentinelSet
from tests.servers import HOST, RedisServer, free_port

#: rights that docs/redis.md adds for each form
ALSO_SENTINEL = "+role +wait"
ALSO_CLUSTER = "+cluster|slots +cluster|nodes +asking +role +wait"


def use(store: RedisStore) -> None:
    """Use every kind of key, and wait for a result."""
    one = record()
    inbox = Inbox()
    store.watcher().subscribe([one.task_id], inbox.deliver)
    group = begun(store, 1)
    assert store.put(one, part(group, one.task_id)).chord.claimed  # type: ignore[union-attr]
    assert inbox.take() == [one]
    assert [found.result for found in store.chord_parts(group)] == [one.result]
    store.finish_chord(group)
    assert store.delete([one.task_id]) == 1


def make_user(server: RedisServer, rules: str) -> None:
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "cellar", "reset", "on", ">secret", *rules.split())


# -- Sentinel


@pytest.mark.parametrize(
    ("url", "hosts", "db"),
    [
        ("sentinel://a", (("a", 26379),), 0),
        ("sentinel://:pw@a:1;sentinel://b:2/3", (("a", 1), ("b", 2)), 3),
        ("sentinel://a:1;b:2;c/0", (("a", 1), ("b", 2), ("c", 26379)), 0),
    ],
)
def test_sentinel_url_names_sentinels_and_database(url: str, hosts: tuple[tuple[str, int], ...], db: int) -> None:
    address = read_address(url, StoreOptions(transport_options={"master_name": "m"}))
    assert (address.hosts, address.db, address.master) == (hosts, db, "m")
    assert address.connect["password"] == ("pw" if "pw" in url else None)
    assert "pw" not in address.where


def test_sentinel_url_without_a_master_name_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="which master is meant") as caught:
        open_store("sentinel://a;sentinel://b/0")
    assert "master_name" in caught.value.remedy


def test_unknown_master_is_refused(sentinel_set: SentinelSet) -> None:
    store = open_store(sentinel_set.url.replace(sentinel_set.master_name, "nobody"))
    with pytest.raises(errors.DatabaseMissing, match="no master called nobody"):
        store.check()


def test_option_that_redis_py_does_not_know_is_refused(sentinel_set: SentinelSet) -> None:
    options = StoreOptions(transport_options={"sentinel_kwargs": {"pasword": "hush"}})
    with pytest.raises(errors.ConfigurationError, match="pasword") as caught:
        open_store(sentinel_set.url, options).check()
    assert "hush" not in str(caught.value)


def test_unreachable_sentinels_are_an_outage(sentinel_set: SentinelSet) -> None:
    store = open_store(f"sentinel://{HOST}:{free_port()}/0?master_name=pantry")
    with pytest.raises(errors.StoreUnavailable, match="no Sentinel knows the master pantry"):
        store.check()
    # one Sentinel that answers is enough
    open_store(f"sentinel://{HOST}:{free_port()};" + sentinel_set.url).check()


def test_sentinel_password_is_used(sentinel_set: SentinelSet) -> None:
    sentinel = sentinel_set.sentinels[2]
    with sentinel.client() as admin:
        admin.execute_command("ACL", "SETUSER", "asker", "on", ">theirs", "allkeys", "allchannels", "+@all")
    url = f"sentinel://{HOST}:{sentinel.port}/0?master_name={sentinel_set.master_name}"
    with opened(url, transport_options={"sentinel_kwargs": {"username": "asker", "password": "theirs"}}) as store:
        use(store)
    store = open_store(url, StoreOptions(transport_options={"sentinel_kwargs": {"username": "x", "password": "wrong"}}))
    with pytest.raises(errors.AuthenticationFailed) as caught:
        store.check()
    assert "wrong" not in str(caught.value).replace("wrong CA", "")


def test_user_of_least_privilege_works_with_sentinel(
    sentinel_set: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    make_user(sentinel_set.master, f"{COMMANDS} {KEYS} {ALSO_SENTINEL}")
    with opened(sentinel_set.url.replace("sentinel://", "sentinel://cellar:secret@", 1)) as store:
        use(store)
    assert not caplog.records


def test_missing_replica_is_logged_once(sentinel_set: SentinelSet, caplog: pytest.LogCaptureFixture) -> None:
    with opened(sentinel_set.url, transport_options={"wait_replicas": 2, "wait_timeout": 0.1}) as store:
        for _ in range(20):
            assert store.put(record()).written
    messages = [one.getMessage() for one in caplog.records if "1 of 2 replicas" in one.getMessage()]
    assert len(messages) == 1, "the store does not wait for the missing replica each time"
    with opened(sentinel_set.url, transport_options={"wait_replicas": 9, "wait_timeout": 20}) as store:
        assert store.put(record(), durable=False).written, "a write that need not be durable does not wait"


@pytest.mark.parametrize("options", [{"wait_replicas": "two"}, {"wait_timeout": "soon"}])
def test_invalid_number_of_replicas_is_refused(sentinel_set: SentinelSet, options: dict[str, str]) -> None:
    with pytest.raises(errors.ConfigurationError, match="is not a number"):
        open_store(sentinel_set.url, StoreOptions(transport_options=options))


# -- Cluster


@pytest.fixture
def store(redis_cluster: RedisCluster) -> Iterator[RedisStore]:
    with opened(f"{redis_cluster.url}?global_keyprefix=forms") as found:
        yield found


def test_cluster_url_names_nodes_and_login() -> None:
    address = read_address("redis-cluster://me:p%40ss@a:7000,b,[::1]:7001", StoreOptions())
    assert address.hosts == (("a", 7000), ("b", 6379), ("::1", 7001))
    assert (address.connect["username"], address.connect["password"], address.tls) == ("me", "p@ss", None)
    assert read_address("rediss-cluster://a", StoreOptions()).tls is not None
    with pytest.raises(errors.ConfigurationError, match="only database 0"):
        open_store("redis-cluster://a,b/3")


@pytest.mark.parametrize(("prefix", "fits"), [("{app}", True), ("a}", True), ("a{b", False), ("{}", False)])
def test_prefix_with_incomplete_braces_is_refused(prefix: str, fits: bool) -> None:
    """The first complete pair of braces in a key decides its slot."""
    options = StoreOptions(transport_options={"global_keyprefix": prefix})
    if fits:
        read_address("redis-cluster://host", options)
    else:
        with pytest.raises(errors.ConfigurationError, match="not a hash tag"):
            read_address("redis-cluster://host", options)
    assert read_address("redis://host", options).prefix.startswith(prefix.encode())


def test_slot_follows_the_hash_tag() -> None:
    assert slot_of(b"123456789") == 12739, "the example of the Cluster's specification"
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000") == slot_of(b"foo{user1000}{bar}")
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")


def test_results_are_distributed_over_the_nodes(redis_cluster: RedisCluster, store: RedisStore) -> None:
    for _ in range(300):
        store.put(record())
    for node in redis_cluster.nodes[:3]:
        with node.client() as client:
            assert 50 < len(list(client.scan_iter("forms_celery-task-meta-*", count=1000))) < 150
    assert len(store.scan()) == 300
    store.delete([one.task_id for one in store.scan()])


def test_one_reachable_node_is_enough(redis_cluster: RedisCluster) -> None:
    dead = free_port()
    with opened(f"redis-cluster://{HOST}:{dead},{HOST}:{redis_cluster.nodes[4].port}") as store:
        use(store)


def test_keys_are_found_while_slots_are_refreshed(store: RedisStore) -> None:
    cluster = store._servers
    assert isinstance(cluster, Cluster)
    records = [record() for _ in range(20)]
    for one in records:
        store.put(one)
    refresh = cluster._refresh

    def refresh_and_forget(*args: Any, **kwargs: Any) -> Any:
        found = refresh(*args, **kwargs)
        cluster._masters = []  # like another thread that finds a slot without a node
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_refresh", refresh_and_forget)
        cluster._masters = []
        assert {one.task_id for one in store.scan()} == {one.task_id for one in records}
        assert store.get(records[0].task_id) == records[0]
    store.delete([one.task_id for one in records])


def test_silent_node_is_asked_last_and_then_forgotten(redis_cluster: RedisCluster) -> None:
    with socket.create_server((HOST, 0)) as silent, opened(redis_cluster.url) as store:
        silent.setblocking(False)
        cluster = store._servers
        assert isinstance(cluster, Cluster)
        cluster._node(HOST, silent.getsockname()[1])
        use(store)
        with pytest.raises(BlockingIOError):
            silent.accept()
        assert {port for _, port in cluster._nodes} == {node.port for node in redis_cluster.nodes[:3]}


def test_node_used_as_single_server_names_the_right_url(redis_cluster: RedisCluster) -> None:
    with opened(redis_cluster.nodes[0].url) as store:
        found: errors.StoreError | None = None
        for _ in range(50):
            try:
                store.put(record())
            except errors.StoreError as exc:
                found = exc
    assert found is not None
    assert "redis-cluster://" in found.remedy


def test_user_of_least_privilege_works_in_a_cluster(
    redis_cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    for node in redis_cluster.nodes:
        make_user(node, f"{COMMANDS} {KEYS} {ALSO_CLUSTER}")
    with opened(redis_cluster.url.replace("://", "://cellar:secret@")) as store:
        for _ in range(20):
            use(store)
        assert len(store.scan()) >= 0
    assert not caplog.records


def test_keys_are_used_while_their_slot_moves(redis_cluster: RedisCluster, store: RedisStore) -> None:
    """Keys are read and stored before, while and after their slot moves to another node."""
    tag = "{moving}"
    old = [record(f"{tag}{number}") for number in range(20)]
    for one in old:
        store.put(one)
    slot = slot_of(b"moving")
    source = next(node for node in redis_cluster.nodes[:3] if _has(node, slot))
    target = next(node for node in redis_cluster.nodes[:3] if node is not source)
    with source.client() as here, target.client() as there:
        ids = {node: _id(node) for node in (source, target)}
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        for one in old[:10]:
            key = f"forms_celery-task-meta-{one.task_id}"
            here.execute_command("MIGRATE", HOST, target.port, key, 0, 5000)
        # half of the keys have moved: the nodes redirect the client with ASK
        new = [record(f"{tag}new{number}") for number in range(10)]
        for one in new:
            assert store.put(one).written
            assert not store.put(one).written
        assert store.get_many([one.task_id for one in old + new]) == {one.task_id: one for one in old + new}
        # also keys of other tests, if their names have this slot
        for key in here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            here.execute_command("MIGRATE", HOST, target.port, key, 0, 5000)
        for client in (there, here):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    wait_until(lambda: _has(target, slot), "the slot on its new node")
    for one in old + new:
        assert store.get(one.task_id) == one
    assert store.delete([one.task_id for one in old + new]) == 30


def test_cluster_works_over_tls(tmp_path: Path) -> None:
    right, other = Authority(tmp_path / "right"), Authority(tmp_path / "other", "Another CA")
    own, client = right.server("server", HOST), right.client("anybody")
    tls = {"tls_cert_file": own.certificate, "tls_key_file": own.key, "tls_ca_cert_file": right.certificate}
    cluster = RedisCluster(**{name: str(path) for name, path in tls.items()})
    ports = [free_port() for _ in cluster.nodes]
    for node, port in zip(cluster.nodes, ports, strict=True):
        node.configure(tls_port=port, tls_cluster=True, tls_replication=True)
    query = f"ssl_certfile={client.certificate}&ssl_keyfile={client.key}&ssl_ca_certs="
    url = f"rediss-cluster://{','.join(f'{HOST}:{port}' for port in ports[:2])}?{query}"
    with cluster:
        with opened(f"{url}{right.certificate}") as store:
            for _ in range(20):
                use(store)
        with pytest.raises(errors.CertificateRefused, match="wrong CA"):
            open_store(f"{url}{other.certificate}").check()


def test_part_stays_if_its_worker_dies_before_the_result(redis_cluster: RedisCluster) -> None:
    """They are in different slots. A user without the right to store a task acts like a worker killed in between."""
    if redis_cluster.nodes[0].version < (7, 0):
        pytest.skip("Redis before 7.0 has no users who may only read some keys")
    for node in redis_cluster.nodes:
        make_user(node, "+@all &* ~rootcellar-* %R~celery-task-meta-*")
    one = record(value="kept with the part")
    with (
        opened(redis_cluster.url) as store,
        opened(redis_cluster.url.replace("://", "://cellar:secret@")) as dying,
    ):
        group = begun(store, 1)
        counted = part(group, one.task_id)
        with pytest.raises(errors.PermissionDenied):
            dying.put(one, counted)
        assert store.get(one.task_id) is None
        assert [found.result for found in store.chord_parts(group)] == [one.result], "the chord has its part"
        # the task runs again: it counts nothing twice, and its record is stored
        again = store.put(one, counted)
        assert again.written
        assert again.chord is not None
        assert (again.chord.counted, again.chord.claimed) == (1, True)
        assert store.get(one.task_id) == one
        store.finish_chord(group)


def _has(node: RedisServer, slot: int) -> bool:
    with node.client() as client:
        for start, end, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return bool(master[1] == node.port)
    return False


def _id(node: RedisServer) -> str:
    with node.client() as client:
        found = client.execute_command("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else str(found)


# -- queries


def test_query_over_too_many_results_is_refused(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(name="shop.pack") for _ in range(30)]
    for one in records:
        store.put(one)
    assert len(store.query(TaskQuery(names=("shop.*",)))) == 30
    monkeypatch.setattr(search, "MAX_TASKS", 20)
    with pytest.raises(errors.AbilityMissing, match="more than 20 results") as caught:
        store.query(TaskQuery())
    assert "PostgreSQL" in caught.value.remedy
    store.delete([one.task_id for one in records])
