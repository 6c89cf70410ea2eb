"""Redis in front of PostgreSQL: where results are read, while Redis may be flushed, frozen or down at any time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from rootcellar import errors
from rootcellar.records import ChordPart, Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import HasSchema, Queryable, Replaceable, Watchable
from rootcellar.stores.hybrid import HybridStore
from rootcellar.stores.hybrid import cache as caching
from rootcellar.stores.hybrid.breaker import Breaker
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import able
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.waiting.blocking import Waiter
from tests.helpers import PATIENCE, now, record, wait_until
from tests.servers import PostgresServer, RedisServer


def open_hybrid(durable_url: str, cache_url: str, **options: Any) -> HybridStore:
    store = open_store(
        "hybrid://",
        StoreOptions(transport_options={"durable_url": durable_url, "cache_url": cache_url, **options}),
    )
    assert isinstance(store, HybridStore)
    return store


@pytest.fixture
def durable(postgres_url: str) -> Iterator[Store]:
    """The store in PostgreSQL, without the cache."""
    store = open_store(postgres_url)
    yield store
    store.close()


@pytest.fixture
def own_redis(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis that a test may kill; it keeps its data."""
    return new_redis(appendonly=True, appendfsync="always")


@pytest.fixture
def hybrid(postgres_url: str, own_redis: RedisServer) -> Iterator[HybridStore]:
    store = open_hybrid(postgres_url, own_redis.url)
    yield store
    store.close()


def copies(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.dbsize())


# -- where results are read --------------------------------------------------------------------------------------------


@pytest.fixture
def two(new_postgres: Callable[..., PostgresServer], own_redis: RedisServer) -> Iterator[tuple[PostgresServer, Store]]:
    """A PostgreSQL that a test may stop, and a hybrid over it."""
    server = new_postgres()
    store = open_hybrid(server.create_database(), own_redis.url)
    yield server, store
    store.close()


def test_stored_result_is_read_from_the_cache(two: tuple[PostgresServer, Store], own_redis: RedisServer) -> None:
    postgres, store = two
    one, other, failed = record(), record(name="shop.pack"), record(state="FAILURE")
    for stored in (one, other, failed):
        assert store.put(stored).written
    postgres.kill()
    assert store.get(one.task_id) == one
    assert store.get_many([one.task_id, other.task_id]) == {one.task_id: one, other.task_id: other}
    with pytest.raises(errors.StoreUnavailable):
        store.get(failed.task_id)  # a failure is not copied, because another state may follow it
    postgres.start()
    own_redis.flush()
    # a miss stores a copy
    assert store.get(one.task_id) == one
    assert store.get_many([other.task_id, failed.task_id]) == {other.task_id: other, failed.task_id: failed}
    postgres.kill()
    assert store.get(one.task_id) == one
    assert store.get(other.task_id) == other


def test_copy_equals_the_record_of_the_durable_store(
    hybrid: HybridStore, durable: Store, own_redis: RedisServer
) -> None:
    first = record(state="STARTED", name="shop.pack", args=Payload(b"[1]"), started_at=now())
    hybrid.put(first)
    hybrid.put(record(first.task_id, state="SUCCESS"))
    found = hybrid.get(first.task_id)
    assert found == durable.get(first.task_id)
    assert found is not None
    assert (found.name, found.args) == ("shop.pack", Payload(b"[1]"))
    assert hybrid.get(first.task_id) == found, "from the copy"
    odd = record(name="a \x00 b", worker="\ud800")
    hybrid.put(odd)
    for _ in range(2):
        assert hybrid.get(odd.task_id) == durable.get(odd.task_id)


def test_first_success_stays_in_both_stores(hybrid: HybridStore, durable: Store, own_redis: RedisServer) -> None:
    one = record(value=1)
    assert hybrid.put(one).written
    for flush in (False, True):
        if flush:
            own_redis.flush()
        assert not hybrid.put(record(one.task_id, 2)).written
        assert hybrid.get(one.task_id) == durable.get(one.task_id) == one


def test_result_of_a_chord_part_is_copied_when_read(hybrid: HybridStore, own_redis: RedisServer) -> None:
    one = record()
    part = ChordPart(group_id="g", task_id=one.task_id, group_index=0, state="SUCCESS")
    assert hybrid.put(one, part).written
    assert copies(own_redis) == 0
    assert hybrid.get(one.task_id) == one
    assert copies(own_redis) == 1


def test_copy_expires_before_its_result(postgres_url: str, own_redis: RedisServer) -> None:
    store = open_hybrid(postgres_url, own_redis.url, cache_expires=100)
    soon, late, gone = (record(expires_at=now() + timedelta(seconds=left)) for left in (50, 5_000, -1))
    for one in (soon, late, gone):
        store.put(one)
    with redis.Redis.from_url(own_redis.url) as client:
        lives = {one.task_id: [client.ttl(key) for key in client.keys(f"*{one.task_id}")] for one in (soon, late, gone)}
    assert lives[gone.task_id] == []
    assert 0 < lives[soon.task_id][0] <= 50 < lives[late.task_id][0] <= 100
    assert store.get(late.task_id) == late, "the copy has the record's own date"
    store.close()


def test_hybrid_has_the_abilities_of_its_durable_store(
    hybrid: HybridStore, own_redis: RedisServer, tmp_path: Any
) -> None:
    assert hybrid.ability(HasSchema) is hybrid.durable
    for ability in (Queryable, Watchable, Replaceable):
        assert hybrid.ability(ability) is hybrid
    assert hybrid.ability(WritesBehind) is None
    behind_redis = open_hybrid(own_redis.url, own_redis.url)
    assert behind_redis.ability(HasSchema) is None, "Redis has no tables"
    on_sqlite = open_hybrid(f"sqlite:///{tmp_path}/results.sqlite3", own_redis.url)
    one = record()
    on_sqlite.put(one)
    assert copies(own_redis) == 0, "SQLite does not tell whether it was the first state"
    assert on_sqlite.get(one.task_id) == one
    assert copies(own_redis) == 1
    on_sqlite.close()


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_forgotten_record_stays_forgotten(hybrid: HybridStore, durable: Store) -> None:
    one, kept = record(value=1), record()
    hybrid.put(one)
    hybrid.put(kept)
    assert hybrid.delete([one.task_id, one.task_id, "unknown"]) == 1
    assert hybrid.get(one.task_id) is None
    assert durable.get(one.task_id) is None
    # another client read the record before and stores its copy now
    hybrid.cache.keep(one, time.monotonic())
    assert hybrid.get_many([one.task_id, kept.task_id]) == {kept.task_id: kept}
    assert hybrid.delete([one.task_id]) == 0
    again = record(one.task_id, value=2)
    assert hybrid.put(again).written
    for _ in range(2):
        assert hybrid.get(one.task_id) == again


def test_late_copy_is_not_stored(hybrid: HybridStore, own_redis: RedisServer) -> None:
    hybrid.cache.keep(record(), time.monotonic() - caching.FRESH - 1)
    assert copies(own_redis) == 0
    assert timedelta(seconds=10 * caching.FRESH) < caching.TOMBSTONE


def test_forget_fails_while_the_cache_is_down(hybrid: HybridStore, durable: Store, own_redis: RedisServer) -> None:
    one = record()
    hybrid.put(one)
    own_redis.kill()
    with pytest.raises(errors.StoreUnavailable, match="may still show it"):
        hybrid.delete([one.task_id])
    assert durable.get(one.task_id) is None
    assert hybrid.get(one.task_id) is None
    own_redis.start()
    assert hybrid.delete([one.task_id]) == 0
    wait_until(lambda: not hybrid.cache.breaker.is_open, "the cache in use")
    assert hybrid.get(one.task_id) is None


# -- Redis is down -----------------------------------------------------------------------------------------------------


def test_dead_cache_costs_one_timeout(hybrid: HybridStore, own_redis: RedisServer) -> None:
    known = record()
    hybrid.put(known)
    own_redis.pause()  # connections are accepted and get no reply
    started = time.monotonic()
    assert hybrid.get(known.task_id) == known
    assert 0.5 < time.monotonic() - started < 20
    started = time.monotonic()
    for _ in range(30):
        one = record()
        assert hybrid.put(one).written
        assert hybrid.get(one.task_id) == one
        assert hybrid.get_many([one.task_id, known.task_id]) == {one.task_id: one, known.task_id: known}
    # a timeout of the cache in each of 90 calls would take longer than this
    assert time.monotonic() - started < 40
    own_redis.resume()
    wait_until(lambda: not hybrid.cache.breaker.is_open, "the cache in use")
    before = copies(own_redis)
    hybrid.put(record())
    assert copies(own_redis) == before + 1


def test_no_notification_is_lost_while_the_cache_dies(
    hybrid: HybridStore, postgres_url: str, own_redis: RedisServer
) -> None:
    waiter = Waiter(hybrid)
    other = open_hybrid(postgres_url, own_redis.url)
    ones = [record() for _ in range(20)]
    found: list[TaskRecord] = []
    ids = [one.task_id for one in ones]
    waiting = threading.Thread(target=lambda: found.extend(waiter.wait_for(ids, timeout=PATIENCE)))
    waiting.start()
    for number, one in enumerate(ones):
        if number == 5:
            own_redis.flush()
        if number == 10:
            own_redis.kill()
        other.put(one)
    waiting.join(PATIENCE)
    assert {one.task_id: one for one in found} == {one.task_id: one for one in ones}
    waiter.close()
    other.close()


def test_check_passes_without_a_cache_and_fails_for_its_password(postgres_url: str, own_redis: RedisServer) -> None:
    own_redis.stop()
    without = open_hybrid(postgres_url, own_redis.url)
    without.check()
    without.close()
    own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "right-secret")
    wrong = open_hybrid(postgres_url, own_redis.url.replace("redis://", "redis://:wrong-secret@"))
    with pytest.raises(errors.AuthenticationFailed) as caught:
        wrong.check()
    assert "secret" not in str(caught.value)
    one = record()
    assert wrong.put(one).written, "results are stored all the same"
    assert wrong.get(one.task_id) == one
    wrong.close()


# -- the account -------------------------------------------------------------------------------------------------------

SECONDS = 8.0


def test_acknowledged_results_survive_kills_of_both_servers(
    new_postgres: Callable[..., PostgresServer], own_redis: RedisServer
) -> None:
    """Redis is killed, restarted, flushed and frozen, PostgreSQL killed: nothing is lost, changed or duplicated."""
    postgres = new_postgres()
    url = postgres.create_database()
    open_hybrid(url, own_redis.url).check()
    chance = random.Random(4)
    happened: list[str] = []

    def disturb(working: Callable[[], bool]) -> None:
        def kill() -> None:
            own_redis.kill()
            time.sleep(chance.uniform(0, 0.5))
            own_redis.start()

        def freeze() -> None:
            own_redis.pause()
            time.sleep(chance.uniform(0, 1.5))
            own_redis.resume()

        def kill_postgres() -> None:
            postgres.kill()
            postgres.start()

        faults = [kill, own_redis.restart, own_redis.flush, own_redis.flush, freeze]
        while working():
            time.sleep(chance.uniform(0.05, 0.4))
            fault = kill_postgres if len(happened) == 5 else chance.choice(faults)
            fault()
            happened.append(fault.__name__)

    with SyncedProcesses() as processes, ThreadPoolExecutor(1) as pool:
        books = pool.submit(processes.run_alike, 3, _keep_account, url, own_redis.url)
        disturb(lambda: not books.done())
        answers = books.result()

    assert "kill_postgres" in happened
    wrong = [line for _, lines in answers for line in lines]
    assert wrong == []
    account = {task_id: value for book, _ in answers for task_id, value in book.items()}
    kept = {task_id: value for task_id, value in account.items() if value is not None}
    assert kept, "some were acknowledged and not forgotten"
    assert len(kept) < len(account), "some were forgotten"
    hybrid, durable = open_hybrid(url, own_redis.url), open_store(url)
    for store in (hybrid, hybrid, durable):  # the second time much of it comes from the copies
        found = {task_id: one.result.body for task_id, one in store.get_many(account).items() if one.result}
        assert found == kept
    assert {one.task_id for one in durable.scan(limit=10 * len(account))} == set(kept)
    hybrid.close()
    durable.close()


def _keep_account(url: str, cache_url: str, number: int) -> tuple[dict[str, bytes | None], list[str]]:
    """Store, overwrite, forget and read for a while; return the expected results, and what was wrong."""
    store = open_hybrid(url, cache_url)
    chance = random.Random(number)
    account: dict[str, bytes | None] = {}
    wrong: list[str] = []
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or store.cache.breaker.is_open:
        task_id = f"{number}-{len(account)}"
        one = record(task_id, chance.randrange(10**9))
        assert one.result is not None
        path = chance.randrange(5)
        if path == 0:
            _persist(lambda: store.put(replace(one, state="STARTED", done_at=None, result=None)))  # noqa: B023
            _persist(lambda: store.put(replace(one, state="FAILURE", result=Payload(b'"no"'))))  # noqa: B023
            _persist(lambda: store.get(task_id))  # noqa: B023
        _persist(lambda: store.put(one))  # noqa: B023
        account[task_id] = one.result.body
        if path == 1:
            again = replace(one, result=Payload(b'"another"'), state=chance.choice(["SUCCESS", "FAILURE"]))
            if _persist(lambda: store.put(again)).written:  # noqa: B023
                wrong.append(f"{task_id} was stored twice")
        if path == 2:
            _persist(lambda: store.delete([task_id]))  # noqa: B023
            account[task_id] = None
            if chance.randrange(2):
                other = record(task_id, chance.randrange(10**9))
                assert other.result is not None
                _persist(lambda: store.put(other))  # noqa: B023
                account[task_id] = other.result.body
        some = {task_id, *chance.choices(list(account), k=chance.choice([1, 1, 5]))}
        found = _persist(lambda: _read(store, some))  # noqa: B023
        for read_id in some:
            if found.get(read_id) != account[read_id]:
                wrong.append(f"{read_id}: {found.get(read_id)!r} in place of {account[read_id]!r}")
    store.close()
    return account, wrong


def _read(store: Store, ids: set[str]) -> dict[str, bytes]:
    if len(ids) == 1:
        (task_id,) = ids
        one = store.get(task_id)
        found = {} if one is None else {task_id: one}
    else:
        found = store.get_many(ids)
    return {task_id: one.result.body for task_id, one in found.items() if one.result}


def _persist(work: Callable[[], Any]) -> Any:
    """Repeat a call until it is acknowledged, as the backend does."""
    while True:
        try:
            return work()
        except errors.RootcellarError as exc:
            if not exc.retryable:
                raise
            time.sleep(0.02)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("hybrid://", {}, "needs durable_url"),
        ("hybrid://", {"durable_url": "postgresql://h/d"}, "needs cache_url"),
        ("hybrid://", {"durable_url": "hybrid://", "cache_url": "redis://h"}, "is hybrid:// again"),
        ("hybrid://", {"durable_url": "sqlite:///x", "cache_url": "redis://h", "mode": "both"}, "no mode 'both'"),
        ("hybrid://", {"durable_url": "sqlite:///x", "cache_url": "redis://h", "cache_expires": "x"}, "cache_expires"),
        ("hybrid://host/db", {}, "names no place"),
        ("hybrid://?durable_uri=x", {}, "durable_uri=, which is not known"),
        ("hybrid://?durable_url=postgresql://u:hidden@h/d", {}, "has a password"),
    ],
)
def test_wrong_setting_is_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message) as caught:
        open_store(url, StoreOptions(transport_options=options))
    assert "hidden" not in str(caught.value)


def test_celerys_settings_reach_both_stores(postgres_url: str, redis_url: str) -> None:
    app = Celery("app", backend="rootcellar+hybrid://", set_as_current=False)
    app.conf.result_backend_transport_options = {"durable_url": f"rootcellar+{postgres_url}", "cache_url": redis_url}
    app.backend.store_result("t", {"a": 1}, "SUCCESS")
    assert app.AsyncResult("t").get(timeout=PATIENCE) == {"a": 1}
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.keys("*rootcellar-copy-t")) == 1
    app.AsyncResult("t").forget()
    assert app.AsyncResult("t").state == "PENDING"
    app.backend.store.close()


def test_breaker_closes_after_an_unknown_error_of_a_probe() -> None:
    probes: list[int] = []

    def probe() -> None:
        probes.append(1)
        if len(probes) == 1:
            raise ZeroDivisionError

    def fail() -> None:
        raise errors.StoreUnavailable("away")

    breaker = Breaker(probe, "redis")
    breaker.call(fail, None)
    assert breaker.is_open
    wait_until(lambda: not breaker.is_open, "the cache is in use again")
    assert len(probes) == 2


# -- in a migration ----------------------------------------------------------------------------------------------------


@pytest.fixture
def migrating(tmp_path: Path, own_redis: RedisServer) -> Iterator[HybridStore]:
    """A hybrid over SQLite."""
    store = open_hybrid(f"sqlite:///{tmp_path}/results.sqlite3", own_redis.url)
    yield store
    store.close()


@pytest.mark.parametrize("verb", ["settle", "copy", "bury", "bury_same"])
def test_copy_in_the_cache_ends_with_its_result(migrating: HybridStore, own_redis: RedisServer, verb: str) -> None:
    one = record(value="ours")
    other = replace(one, result=Payload(b'"theirs"'), done_at=now() + timedelta(minutes=1))
    migrating.put(one)
    assert migrating.get(one.task_id) == one
    assert copies(own_redis) == 1, "a copy was made"
    started = time.monotonic()
    mirrored = able(migrating, Mirrored)
    calls: dict[str, Callable[[], object]] = {
        "settle": lambda: mirrored.settle(other),
        "copy": lambda: mirrored.copy([other], newer_wins=True),
        "bury": lambda: mirrored.bury([one.task_id]),
        "bury_same": lambda: mirrored.bury_same([one]),
    }
    calls[verb]()
    # a reader that had read the earlier result copies it late
    migrating.cache.keep(one, started)
    assert migrating.get(one.task_id) == (None if "bury" in verb else other)
    assert migrating.durable.get(one.task_id) == (None if "bury" in verb else other)


def test_results_are_still_cached_while_the_other_store_decides(migrating: HybridStore, own_redis: RedisServer) -> None:
    """What replaces no SUCCESS leaves the cache alone, so that reading stays fast during a migration."""
    mirrored = able(migrating, Mirrored)
    one, two = record(), record()
    mirrored.mirror(one)
    mirrored.copy([two])
    assert copies(own_redis) == 0
    assert migrating.get_many([one.task_id, two.task_id]) == {one.task_id: one, two.task_id: two}
    assert copies(own_redis) == 2


def test_settling_fails_while_the_cache_is_down(migrating: HybridStore, own_redis: RedisServer) -> None:
    one = record(value="ours")
    other = replace(one, result=Payload(b'"theirs"'))
    migrating.put(one)
    assert migrating.get(one.task_id) == one
    own_redis.kill()
    mirrored = able(migrating, Mirrored)
    for call in (lambda: mirrored.settle(other), lambda: mirrored.bury([one.task_id])):
        with pytest.raises(errors.StoreUnavailable, match="the cache cannot be reached") as caught:
            call()
        assert caught.value.retryable
    own_redis.start()
    mirrored.bury([one.task_id])
    assert migrating.get(one.task_id) is None


def test_write_behind_cannot_be_migrated(postgres_url: str, own_redis: RedisServer) -> None:
    through = open_hybrid(postgres_url, own_redis.url)
    assert all(through.ability(one) for one in (Streamed, SharesValues))
    options = {"durable_url": postgres_url, "cache_url": own_redis.url, "mode": "write-behind"}
    behind = open_store("hybrid://", StoreOptions(transport_options=options))
    assert not any(behind.ability(one) for one in (Mirrored, Streamed, SharesValues))
    through.close()
    behind.close()
