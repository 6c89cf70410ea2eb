"""Redis as the source and the target of a migration: what only Redis has, beside the conformance suite."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from rootcellar import errors
from rootcellar.migration.agreeing import agreeing
from rootcellar.migration.checksums import Difference
from rootcellar.migration.endpoint import store_endpoint
from rootcellar.migration.pair import pair_of
from rootcellar.migration.verifying import Verifying
from rootcellar.records import FOREIGN, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.dual import DualStore, FixedPhases
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.measures import InMemory
from rootcellar.stores.mirroring import BURIALS_KEPT, Held, Mirrored, fingerprint
from rootcellar.stores.redis import RedisStore, streaming
from rootcellar.stores.redis.keys import Keys, slot_of
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import ReadsWhole, Streamed
from rootcellar.testing.helpers import able, json_payload
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import opened, our_app, stock_app
from tests.redis_servers import ALSO_MIGRATION, COMMANDS, KEYS, RedisCluster, SentinelSet
from tests.servers import HOST, RedisServer
from tests.waiting.proxy import Proxy

ABILITIES = (Mirrored, Streamed, SharesValues)
SECOND = timedelta(seconds=1)


def walked(
    store: Store, limit: int = 1_000, between: Callable[[str], object] = lambda cursor: None
) -> list[TaskRecord]:
    """Return all records of a walk; ``between`` is called with each cursor."""
    found: list[TaskRecord] = []
    cursor = None
    while True:
        page, cursor = able(store, Streamed).stream(cursor, limit)
        found += page
        if cursor is None:
            return found
        between(cursor)


def ids_of(records: list[TaskRecord]) -> set[str]:
    return {one.task_id for one in records}


# -- keys


@given(prefix=st.sampled_from(["", "app_", "{app}", "a{b", "{}", "a}b"]), task_id=st.text(alphabet="a{}-ü", max_size=9))
@example(prefix="", task_id="a}b{c}")
@example(prefix="{}", task_id="{a}")
def test_burial_is_in_the_slot_of_its_task(prefix: str, task_id: str) -> None:
    keys = Keys(prefix.encode(), 32)
    burial = keys.burial(task_id)
    assert slot_of(burial) == slot_of(keys.task(task_id))
    assert keys.buried_id(burial) == task_id
    assert burial.startswith(prefix.encode() + b"rootcellar-"), "the ACL of docs/redis.md allows it"


def test_shared_values_are_in_one_slot() -> None:
    values, names = Keys(b"", 32).shared
    assert slot_of(values) == slot_of(names)


# -- stock Celery and other readers of keys


def test_stock_client_reads_what_a_migration_writes(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url)
    mirrored = able(store, Mirrored)
    one, two, three, four = (record(value=number) for number in range(4))
    mirrored.mirror(one)
    mirrored.settle(two)
    mirrored.copy([three, four])
    values = [stock.AsyncResult(each.task_id).get(timeout=10) for each in (one, two, three, four)]
    assert values == [0, 1, 2, 3]
    mirrored.bury([one.task_id])
    assert (stock.AsyncResult(one.task_id).state, stock.AsyncResult(one.task_id).result) == ("PENDING", None)


def test_task_key_of_a_buried_result_is_free(client: redis.Redis, store: RedisStore) -> None:
    one = record()
    store.put(one)
    able(store, Mirrored).bury([one.task_id])
    assert not client.exists(f"celery-task-meta-{one.task_id}"), "there is no tombstone in place of the value"
    (burial,) = client.keys("rootcellar-buried-*")
    assert 0 <= BURIALS_KEPT / SECOND - client.ttl(burial) < 60


def test_nothing_that_reads_all_keys_finds_those_of_a_migration(store: RedisStore, client: redis.Redis) -> None:
    one, gone = record(), record()
    store.put(one)
    store.put(gone)
    able(store, Mirrored).bury([gone.task_id, "{tag}", "a}b", "a{b", "{}"])
    able(store, SharesValues).share("migration/state", "{}")
    assert store.scan() == [one]
    assert store.query(TaskQuery()) == [one]
    assert walked(store) == [one]
    assert able(store, Streamed).stream_groups() == ([], None)
    assert able(store, Streamed).count_roughly() == 1
    assert able(store, InMemory).memory_use(1.0).result_keys == 1
    assert able(store, Streamed).open_chords() == 0
    assert store.living_parts([one.task_id]) == set()
    assert store.delete_expired(datetime.now(timezone.utc) + timedelta(days=9)) == 0
    assert len(able(store, Mirrored).burials()[0]) == 5, "a cleanup leaves burials alone"


def test_result_of_stock_celery_has_its_time_to_live(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url, result_expires=3_600)
    for_ever = stock_app(redis_url, result_expires=None)
    ids = [new_id() for _ in range(2)]
    stock.backend.store_result(ids[0], {"a": 1}, "SUCCESS")
    for_ever.backend.store_result(ids[1], {"a": 1}, "SUCCESS")
    found = {one.task_id: one for one in walked(store)}
    expires_at = found[ids[0]].expires_at
    assert expires_at is not None
    assert abs(expires_at - datetime.now(timezone.utc) - timedelta(hours=1)) < SECOND
    assert found[ids[1]].expires_at is None
    assert found[ids[0]].result == json_payload({"a": 1})


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_result_of_stock_celery_that_a_reader_brings_over_keeps_its_time_to_live(
    redis_url: str, store: RedisStore, tmp_path: Path, phase: Phase
) -> None:
    stock = stock_app(redis_url, result_expires=3_600)
    ids = [new_id() for _ in range(3)]
    for task_id in ids:
        stock.backend.store_result(task_id, {"a": 1}, "SUCCESS")
    target = open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    migrated = DualStore(store, target, FixedPhases(phase))
    migrated.get(ids[0])
    migrated.get_many([ids[1]])
    agreeing(pair_of(store, target), phase)(ids[2])
    left = able(store, ReadsWhole).get_many(ids)
    for task_id, found in target.get_many(ids).items():
        expires_at, wanted = found.expires_at, left[task_id].expires_at
        assert expires_at is not None
        assert wanted is not None
        assert abs(expires_at - wanted) < SECOND
    assert target.get_many(ids).keys() == set(ids)
    migrated.close()


def test_comparison_finds_that_the_time_to_live_of_a_result_of_stock_celery_is_missing(
    redis_url: str, store: RedisStore, tmp_path: Path
) -> None:
    stock_app(redis_url, result_expires=3_600).backend.store_result(task_id := new_id(), {"a": 1}, "SUCCESS")
    with closing(open_store(f"sqlite:///{tmp_path}/target.sqlite3")) as target:
        copied = store.get(task_id)
        assert copied is not None
        assert copied.expires_at is None
        able(target, Mirrored).copy([copied])
        found = Verifying(store_endpoint(store), store_endpoint(target), repair=True).run()
        assert found.counts == found.repaired == {Difference.EXPIRY: 1}
        repaired = target.get(task_id)
    assert repaired is not None
    assert repaired.expires_at is not None


def test_time_to_live_that_only_the_server_knows_is_streamed(store: RedisStore, client: redis.Redis) -> None:
    """A rootcellar result without an expiry, to which somebody gave one; and one whose blob says another moment."""
    silent, says = record(), record(expires_at=datetime.now(timezone.utc) + timedelta(hours=2))
    for one in (silent, says):
        store.put(one)
        client.pexpire(f"celery-task-meta-{one.task_id}", 60_000)
    found = {one.task_id: one for one in walked(store)}
    expires_at = found[silent.task_id].expires_at
    assert expires_at is not None
    assert abs(expires_at - datetime.now(timezone.utc) - timedelta(minutes=1)) < SECOND
    assert found[says.task_id] == says


@pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
def test_expiry_becomes_a_time_to_live(store: RedisStore, client: redis.Redis, verb: str) -> None:
    soon = record(expires_at=datetime.now(timezone.utc) + timedelta(hours=1))
    never = record(expires_at=None)
    mirrored = able(store, Mirrored)
    for one in (soon, never):
        mirrored.copy([one]) if verb == "copy" else getattr(mirrored, verb)(one)
    assert abs(client.pttl(f"celery-task-meta-{soon.task_id}") - 3_600_000) < 1_000
    assert client.pttl(f"celery-task-meta-{never.task_id}") == -1


def test_failure_of_stock_celery_is_replaced_by_a_copied_success(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url)
    ids = [new_id() for _ in range(2)]
    stock.backend.store_result(ids[0], ValueError("no"), "FAILURE")
    stock.backend.store_result(ids[1], 1, "SUCCESS")
    report = able(store, Mirrored).copy([record(task_id, value=2) for task_id in ids])
    assert (report.written, report.kept) == ({ids[0]}, {ids[1]})
    assert [stock.AsyncResult(task_id).get(timeout=10) for task_id in ids] == [2, 1]


def test_group_that_is_not_json_is_streamed_as_it_is(redis_url: str, client: redis.Redis, store: RedisStore) -> None:
    blob = pickle.dumps({"result": (("group", None), [])}, protocol=4)
    client.set("celery-taskset-meta-pickled", blob, px=60_000)
    client.set("celery-taskset-meta-chord.j", b"[]")
    groups, cursor = able(store, Streamed).stream_groups()
    assert cursor is None
    (group,) = groups
    assert (group.group_id, group.result) == ("pickled", Payload(blob, FOREIGN, "binary"))
    assert group.expires_at is not None
    assert abs(group.expires_at - datetime.now(timezone.utc) - timedelta(minutes=1)) < SECOND


def test_key_of_another_kind_does_not_stop_a_walk(redis_url: str, redis_cluster: RedisCluster) -> None:
    one = record()
    for url in (redis_url, redis_cluster.url):
        with opened(url, transport_options={"global_keyprefix": f"{new_id()}_"}) as store:
            store.put(one)
            prefix = store._keys.task("")
            for number in range(5):
                key = prefix + b"%d" % number
                store._servers.call(key, b"*4\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n$1\r\na\r\n$1\r\nb\r\n" % (len(key), key))
            assert walked(store) == [one]


# -- without the abilities


def test_store_with_a_journal_cannot_be_migrated(redis_url: str) -> None:
    with opened(redis_url) as store:
        assert all(store.ability(one) for one in ABILITIES)
        store.keep_journal()
        assert not any(store.ability(one) for one in ABILITIES)


def test_migration_does_not_touch_the_journal(new_redis: Callable[..., RedisServer], postgres_url: str) -> None:
    server = new_redis(appendonly=True)
    options = {"durable_url": postgres_url, "cache_url": server.url, "mode": "write-behind"}
    behind = open_store("hybrid://", StoreOptions(transport_options=options))
    one = record()
    behind.put(one)
    assert not any(behind.ability(ability) for ability in ABILITIES)
    with server.client() as client, opened(server.url) as plain:
        before = {key: client.dump(key) for key in client.keys("*journal*")}
        able(plain, Mirrored).copy([record()])
        able(plain, Mirrored).bury([new_id()])
        assert {key: client.dump(key) for key in client.keys("*journal*")} == before
        assert before
    assert behind.get(one.task_id) == one
    behind.close()


# -- users


def test_user_with_the_documented_rights_can_migrate(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with server.client() as admin:
        rules = f"{COMMANDS} {ALSO_MIGRATION} {KEYS}"
        admin.execute_command("ACL", "SETUSER", "cellar", "reset", "on", ">secret", *rules.split())
    with opened(server.url.replace("://", "://cellar:secret@")) as store:
        one, two = record(), record()
        mirrored, streamed, shares = able(store, Mirrored), able(store, Streamed), able(store, SharesValues)
        assert mirrored.mirror(one) == Held(one)
        assert mirrored.settle(one) == Held(one)
        assert mirrored.copy([two]).written == {two.task_id}
        assert mirrored.bury([one.task_id]) == {one.task_id: one}
        assert mirrored.bury_same([two]) == 1
        assert len(mirrored.burials()[0]) == len(mirrored.burials_of([one.task_id, two.task_id])) == 2
        assert mirrored.forget_burials(None) == 2
        assert shares.share("migration/state", "{}") == 1
        assert shares.shared("migration/").keys() == {"migration/state"}
        assert shares.unshare(["migration/state"]) == 1
        assert shares.server_time().tzinfo is not None
        assert (walked(store), streamed.stream_groups(), streamed.open_chords()) == ([], ([], None), 0)
        assert streamed.count_roughly() == 0


# -- lost replies and failover


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_url) as proxy:
        yield proxy


def losing(proxy: Proxy, call: Callable[[], Any], number: int = 1) -> Any:
    """Return the result of a call; the reply of the server with this number is lost."""
    proxy.lose_next_answer(number)
    found = call()
    assert proxy.has_lost_the_answer
    return found


def test_verb_that_is_repeated_after_a_lost_reply_has_the_same_effect(proxy: Proxy) -> None:
    with opened(proxy.url) as store:
        mirrored, shares = able(store, Mirrored), able(store, SharesValues)
        # each script is known to the server, and each call has one reply
        mirrored.copy([record()])
        mirrored.settle(record())
        mirrored.bury([new_id()])
        one, two = record(), record()
        assert losing(proxy, lambda: mirrored.mirror(one)) == Held(one)
        other = replace(one, result=json_payload("other"))
        assert losing(proxy, lambda: mirrored.settle(other)) == Held(other)
        assert store.get(one.task_id) == other
        report = losing(proxy, lambda: mirrored.copy([two]))
        assert report.written | report.kept == {two.task_id}
        assert store.get(two.task_id) == two
        assert losing(proxy, lambda: mirrored.bury([one.task_id]), 2) == {one.task_id: other}
        assert store.get(one.task_id) is None
        assert mirrored.burials_of([one.task_id])[one.task_id].fingerprints == {fingerprint(other)}
        assert losing(proxy, lambda: mirrored.bury_same([two]), 2) == 1
        assert shares.share("a", "1") == 1
        assert losing(proxy, lambda: shares.share("a", "2", if_version=1)) == 2
        assert losing(proxy, lambda: shares.share("a", "3")) == 3
        assert losing(proxy, lambda: shares.share("b", "1", if_version=0)) == 1
        assert shares.shared("a")["a"].version == 3


def test_scripts_are_sent_again_after_the_server_forgot_them(store: RedisStore, client: redis.Redis) -> None:
    mirrored = able(store, Mirrored)
    for _ in range(2):
        client.script_flush()
        records = [record() for _ in range(30)]
        assert mirrored.copy(records).written == {one.task_id for one in records}
        client.script_flush()
        assert len(mirrored.bury([one.task_id for one in records])) == 30


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[SentinelSet | RedisCluster]:
    """Servers that these tests may kill."""
    with SentinelSet() if request.param == "sentinel" else RedisCluster() as found:
        yield found


def test_what_a_migration_wrote_survives_a_failover(servers: SentinelSet | RedisCluster) -> None:
    """The master is killed while records are copied and buried: what was acknowledged is on its replica."""
    with opened(servers.url) as store, opened(servers.url) as walker:
        assert walked(walker) == []
        mirrored = able(store, Mirrored)
        buried, copied = [record() for _ in range(50)], []
        mirrored.copy(buried)
        mirrored.bury([one.task_id for one in buried])
        for number in range(40):
            some = [record() for _ in range(50)]
            with suppress(errors.StoreError):
                report = mirrored.copy(some)
                copied += [one for one in some if one.task_id in report.written]
            if number == 20:
                (servers.master if isinstance(servers, SentinelSet) else servers.nodes[1]).kill()
        expected = {one.task_id: one for one in copied}

        def is_whole() -> bool:
            with suppress(errors.StoreError):
                return store.get_many(expected) == expected
            return False

        def is_walked() -> bool:
            # this store only walks, so nothing else tells it of the failover
            with suppress(errors.StoreError):
                return {one.task_id for one in walked(walker, 100)} >= expected.keys()
            return False

        assert len(copied) >= 1_000
        wait_until(is_whole, "all copied records on the former replica", 30)
        wait_until(lambda: _refuses_all(store, buried), "all burials on the former replica", 30)
        wait_until(is_walked, "a walk over the former replica", 30)


def test_what_a_migration_writes_waits_for_replicas(
    sentinel_set: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one replica less than the store waits for: each change that waits says so."""
    options = {"wait_replicas": 2, "wait_timeout": 0.1}
    one, gone = record(), new_id()
    calls: list[Callable[[RedisStore], object]] = [
        lambda store: able(store, Mirrored).mirror(one),
        lambda store: able(store, Mirrored).settle(one),
        lambda store: able(store, Mirrored).copy([record()]),
        lambda store: able(store, Mirrored).bury([gone]),
        lambda store: able(store, Mirrored).bury_same([one]),
        lambda store: able(store, Streamed).copy_groups(
            [GroupRecord(group_id=new_id(), result=json_payload([]), done_at=NO_DATE)]
        ),
        lambda store: able(store, SharesValues).share("migration/state", "{}"),
        lambda store: able(store, SharesValues).unshare(["migration/state"]),
    ]
    for call in calls:
        caplog.clear()
        with opened(sentinel_set.url, transport_options=options) as store:
            call(store)
        assert [found for found in caplog.records if "1 of 2 replicas" in found.getMessage()]


def _refuses_all(store: Store, records: list[TaskRecord]) -> bool:
    with suppress(errors.StoreError):
        return able(store, Mirrored).copy(records).buried == {one.task_id for one in records}
    return False


# -- walks


def test_walk_goes_on_after_the_server_was_restarted(new_redis: Callable[..., RedisServer]) -> None:
    """The cursor of the killed server means nothing to the new one, which has another order of keys."""
    server = new_redis(appendonly=True, appendfsync="always")
    with opened(server.url) as store:
        records = [record() for _ in range(500)]
        able(store, Mirrored).copy(records)
        pages = itertools.count(1)

        def restart(cursor: str) -> None:
            if next(pages) == 3:
                server.restart()

        assert ids_of(walked(store, 50, restart)) == {one.task_id for one in records}
        assert next(pages) > 8


@pytest.mark.parametrize("is_noticed", [False, True], ids=["noticed at the end", "noticed at once"])
def test_walk_over_a_cluster_finds_keys_that_move_to_a_node_which_was_read(is_noticed: bool) -> None:
    with RedisCluster() as cluster, opened(cluster.url) as store:
        # a walk reads the nodes in the order of their ports; the slot is on the last one
        target, _, source = sorted(cluster.nodes[:3], key=lambda node: node.port)
        tag = next(str(number) for number in itertools.count() if _says(source, slot_of(b"%d" % number), source.port))
        slot = slot_of(tag.encode())
        records = [record(f"{{{tag}}}{number}") for number in range(40)] + [record() for _ in range(100)]
        able(store, Mirrored).copy(records)
        is_moved: list[bool] = []

        def move(cursor: str) -> None:
            # the first node was read, and the second one is next: the keys go to the one that was read
            if not is_moved and int(cursor.split("/")[1]) == 1:
                _move(cluster, slot, source, target)
                is_moved.append(True)
                if is_noticed:
                    assert store.get(records[0].task_id) == records[0], "the nodes redirect the client"

        assert ids_of(walked(store, 1_000, move)) == {one.task_id for one in records}
        assert is_moved


def test_cursor_of_another_kind_is_refused(store: RedisStore) -> None:
    for cursor in ("some-id", "[]", '["", [1]]', "[1"):
        with pytest.raises(errors.ConfigurationError, match="not a cursor of Redis"):
            able(store, Streamed).stream(cursor)


def test_page_of_large_results_is_cut(redis_url: str, store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not read of a step of SCAN is read by the next call, also in another process."""
    monkeypatch.setattr(streaming, "MAX_PAGE_BYTES", 100_000)
    records = [record(f"ü {number}", value="x" * 9_000) for number in range(300)]
    able(store, Mirrored).copy(records)
    found: list[TaskRecord] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        with opened(redis_url) as other:
            page, cursor = able(other, Streamed).stream(cursor, 1_000)
        found += page
        pages += 1
        assert len(page) == 100, "the first reading is as large as a page"
    assert pages == 3
    assert {one.task_id: one for one in found} == {one.task_id: one for one in records}


def test_cursor_is_a_text_that_json_keeps(store: RedisStore) -> None:
    able(store, Mirrored).copy([record() for _ in range(300)])
    _, cursor = able(store, Streamed).stream(None, 20)
    assert isinstance(cursor, str)
    assert json.loads(json.dumps(cursor)) == cursor


def test_our_clients_hear_of_a_settled_result(redis_url: str, store: RedisStore) -> None:
    app = our_app(redis_url)
    task_id = new_id()
    result = app.AsyncResult(task_id)
    able(store, Mirrored).settle(record(task_id, value="theirs"))
    assert result.get(timeout=10) == "theirs"
    app.backend.store.close()


def _move(cluster: RedisCluster, slot: int, source: RedisServer, target: RedisServer) -> None:
    """Move a slot with all its keys to another node, and wait until all nodes know it."""
    with source.client() as here, target.client() as there:
        here_id, there_id = (_text(client.execute_command("CLUSTER", "MYID")) for client in (here, there))
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here_id)
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there_id)
        for key in here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            here.execute_command("MIGRATE", HOST, target.port, key, 0, 5000)
        for client in (there, here):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there_id)
    wait_until(lambda: all(_says(node, slot, target.port) for node in cluster.nodes[:3]), "the slot on its new node")


def _says(node: RedisServer, slot: int, port: int) -> bool:
    with node.client() as client:
        return any(
            start <= slot <= end and master[1] == port
            for start, end, master, *_ in client.execute_command("CLUSTER", "SLOTS")
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
