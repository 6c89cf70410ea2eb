"""Sentinel and Cluster: what can be wrong with them, users of least privilege, and slots that move."""

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
from rootcellar.stores.redis.cluster import Cluster, slot_of
from rootcellar.testing.helpers import begun, part
from tests.certificates import Authority
from tests.helpers import record, wait_until
from tests.redis.helpers import Inbox, opened
from tests.redis_servers import COMMANDS, KEYS, RedisCluster, SentinelSet
from tests.servers import HOST, RedisServer, free_port

#: what docs/redis.md adds for each form
ALSO_SENTINEL = "+role +wait"
ALSO_CLUSTER = "+cluster|slots +cluster|nodes +asking +role +wait"


def use(store: RedisStore) -> None:
    """Use each kind of key, and wait for one."""
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
def test_sentinel_urls(url: str, hosts: tuple[tuple[str, int], ...], db: int) -> None:
    address = read_address(url, StoreOptions(transport_options={"master_name": "m"}))
    assert (address.hosts, address.db, address.master) == (hosts, db, "m")
    assert address.connect["password"] == ("pw" if "pw" in url else None)
    assert "pw" not in address.where


def test_sentinels_without_a_name() -> None:
    with pytest.raises(errors.ConfigurationError, match="which master is meant") as caught:
        open_store("sentinel://a;sentinel://b/0")
    assert "master_name" in caught.value.remedy


def test_an_unknown_master(sentinel_set: SentinelSet) -> None:
    store = open_store(sentinel_set.url.replace(sentinel_set.master_name, "nobody"))
    with pytest.raises(errors.DatabaseMissing, match="no master called nobody"):
        store.check()


def test_option_that_redis_py_does_not_know_is_refused(sentinel_set: SentinelSet) -> None:
    options = StoreOptions(transport_options={"sentinel_kwargs": {"pasword": "hush"}})
    with pytest.raises(errors.ConfigurationError, match="pasword") as caught:
        open_store(sentinel_set.url, options).check()
    assert "hush" not in str(caught.value)


def test_no_sentinel_there(sentinel_set: SentinelSet) -> None:
    store = open_store(f"sentinel://{HOST}:{free_port()}/0?master_name=pantry")
    with pytest.raises(errors.StoreUnavailable, match="no Sentinel knows the master pantry"):
        store.check()
    # one that answers is enough
    open_store(f"sentinel://{HOST}:{free_port()};" + sentinel_set.url).check()


def test_sentinels_with_a_password(sentinel_set: SentinelSet) -> None:
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


def test_a_user_of_least_privilege_with_sentinel(sentinel_set: SentinelSet, caplog: pytest.LogCaptureFixture) -> None:
    make_user(sentinel_set.master, f"{COMMANDS} {KEYS} {ALSO_SENTINEL}")
    with opened(sentinel_set.url.replace("sentinel://", "sentinel://cellar:secret@", 1)) as store:
        use(store)
    assert not caplog.records


def test_replicas_may_be_done_without(sentinel_set: SentinelSet, caplog: pytest.LogCaptureFixture) -> None:
    with opened(sentinel_set.url, transport_options={"wait_replicas": 2, "wait_timeout": 0.1}) as store:
        for _ in range(20):
            assert store.put(record()).written
    told = [one.getMessage() for one in caplog.records if "1 of 2 replicas" in one.getMessage()]
    assert len(told) == 1, "it is not waited for again and again"
    with opened(sentinel_set.url, transport_options={"wait_replicas": 9, "wait_timeout": 20}) as store:
        assert store.put(record(), durable=False).written, "who need not be safe does not wait"


@pytest.mark.parametrize("options", [{"wait_replicas": "two"}, {"wait_timeout": "soon"}])
def test_numbers_that_are_none(sentinel_set: SentinelSet, options: dict[str, str]) -> None:
    with pytest.raises(errors.ConfigurationError, match="is not a number"):
        open_store(sentinel_set.url, StoreOptions(transport_options=options))


# -- Cluster


@pytest.fixture
def store(redis_cluster: RedisCluster) -> Iterator[RedisStore]:
    with opened(f"{redis_cluster.url}?global_keyprefix=forms") as found:
        yield found


def test_cluster_urls() -> None:
    address = read_address("redis-cluster://me:p%40ss@a:7000,b,[::1]:7001", StoreOptions())
    assert address.hosts == (("a", 7000), ("b", 6379), ("::1", 7001))
    assert (address.connect["username"], address.connect["password"], address.tls) == ("me", "p@ss", None)
    assert read_address("rediss-cluster://a", StoreOptions()).tls is not None
    with pytest.raises(errors.ConfigurationError, match="only database 0"):
        open_store("redis-cluster://a,b/3")


@pytest.mark.parametrize(("prefix", "fits"), [("{app}", True), ("a}", True), ("a{b", False), ("{}", False)])
def test_a_prefix_with_braces(prefix: str, fits: bool) -> None:
    """The first whole pair of braces in a key says in which slot it is."""
    options = StoreOptions(transport_options={"global_keyprefix": prefix})
    if fits:
        read_address("redis-cluster://host", options)
    else:
        with pytest.raises(errors.ConfigurationError, match="no hash tag"):
            read_address("redis-cluster://host", options)
    assert read_address("redis://host", options).prefix.startswith(prefix.encode())


def test_slots() -> None:
    assert slot_of(b"123456789") == 12739, "the example of the Cluster's specification"
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000") == slot_of(b"foo{user1000}{bar}")
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")


def test_results_are_spread_over_the_nodes(redis_cluster: RedisCluster, store: RedisStore) -> None:
    for _ in range(300):
        store.put(record())
    for node in redis_cluster.nodes[:3]:
        with node.client() as client:
            assert 50 < len(list(client.scan_iter("forms_celery-task-meta-*", count=1000))) < 150
    assert len(store.scan()) == 300
    store.delete([one.task_id for one in store.scan()])


def test_one_node_is_enough_to_find_the_others(redis_cluster: RedisCluster) -> None:
    dead = free_port()
    with opened(f"redis-cluster://{HOST}:{dead},{HOST}:{redis_cluster.nodes[4].port}") as store:
        use(store)


def test_every_key_is_found_while_the_nodes_are_looked_up_anew(store: RedisStore) -> None:
    cluster = store._servers
    assert isinstance(cluster, Cluster)
    records = [record() for _ in range(20)]
    for one in records:
        store.put(one)
    look = cluster._refresh

    def look_and_forget(*args: Any, **kwargs: Any) -> Any:
        found = look(*args, **kwargs)
        cluster._masters = []  # as another thread does that finds a slot without a node
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_refresh", look_and_forget)
        cluster._masters = []
        assert {one.task_id for one in store.scan()} == {one.task_id for one in records}
        assert store.get(records[0].task_id) == records[0]
    store.delete([one.task_id for one in records])


def test_a_node_that_does_not_answer_is_asked_last_and_one_without_slots_forgotten(redis_cluster: RedisCluster) -> None:
    with socket.create_server((HOST, 0)) as silent, opened(redis_cluster.url) as store:
        silent.setblocking(False)
        cluster = store._servers
        assert isinstance(cluster, Cluster)
        cluster._node(HOST, silent.getsockname()[1])
        use(store)
        with pytest.raises(BlockingIOError):
            silent.accept()
        assert {port for _, port in cluster._nodes} == {node.port for node in redis_cluster.nodes[:3]}


def test_a_node_as_if_it_were_one_server(redis_cluster: RedisCluster) -> None:
    with opened(redis_cluster.nodes[0].url) as store:
        found: errors.StoreError | None = None
        for _ in range(50):
            try:
                store.put(record())
            except errors.StoreError as exc:
                found = exc
    assert found is not None
    assert "redis-cluster://" in found.remedy


def test_a_user_of_least_privilege_in_a_cluster(redis_cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    for node in redis_cluster.nodes:
        make_user(node, f"{COMMANDS} {KEYS} {ALSO_CLUSTER}")
    with opened(redis_cluster.url.replace("://", "://cellar:secret@")) as store:
        for _ in range(20):
            use(store)
        assert len(store.scan()) >= 0
    assert not caplog.records


def test_a_slot_that_moves(redis_cluster: RedisCluster, store: RedisStore) -> None:
    """Keys are read and stored before, while and after their slot goes from one node to another."""
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
        # half of them are there: the nodes direct us, for once
        new = [record(f"{tag}new{number}") for number in range(10)]
        for one in new:
            assert store.put(one).written
            assert not store.put(one).written
        assert store.get_many([one.task_id for one in old + new]) == {one.task_id: one for one in old + new}
        for one in old[10:]:
            here.execute_command("MIGRATE", HOST, target.port, f"forms_celery-task-meta-{one.task_id}", 0, 5000)
        for client in (there, here):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    wait_until(lambda: _has(target, slot), "the slot on its new node")
    for one in old + new:
        assert store.get(one.task_id) == one
    assert store.delete([one.task_id for one in old + new]) == 30


def test_a_cluster_over_tls(tmp_path: Path) -> None:
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


def test_worker_that_dies_between_part_and_result_leaves_the_part(redis_cluster: RedisCluster) -> None:
    """They lie in different slots. A user who may store no task stands for a worker that is killed before it could."""
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
        assert [found.result for found in store.chord_parts(group)] == [one.result], "the chord goes on"
        # and the task that is run again counts nothing twice, and has its record
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


# -- questions


def test_too_many_to_ask_about(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(name="shop.pack") for _ in range(30)]
    for one in records:
        store.put(one)
    assert len(store.query(TaskQuery(names=("shop.*",)))) == 30
    monkeypatch.setattr(search, "MAX_TASKS", 20)
    with pytest.raises(errors.AbilityMissing, match="more than 20 results") as caught:
        store.query(TaskQuery())
    assert "PostgreSQL" in caught.value.remedy
    store.delete([one.task_id for one in records])
