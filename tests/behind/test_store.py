"""Write-behind: where a result is before and after it is moved; overwriting, forgetting and refusing it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import redis
from celery import Celery

from rootcellar import errors
from rootcellar.records import ChordPart, Payload
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import HasSchema, Queryable, Replaceable, TaskQuery, Watchable
from rootcellar.stores.hybrid import WriteBehindStore
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.redis import journal
from tests.behind.helpers import open_behind
from tests.helpers import now, record, wait_until
from tests.redis_servers import COMMANDS, KEYS
from tests.servers import RedisServer

# -- storing and moving ------------------------------------------------------------------------------------------------


def test_result_is_in_redis_first_and_moved_later(
    behind: WriteBehindStore, durable: Store, client: redis.Redis
) -> None:
    one, other = record(name="shop.pack"), record(state="FAILURE", expires_at=now() + timedelta(seconds=50))
    for stored in (one, other):
        assert behind.put(stored).written
        assert client.ttl(f"celery-task-meta-{stored.task_id}") == -1, "it does not expire while it waits"
    assert durable.get(one.task_id) is None
    assert behind.get(one.task_id) == one
    assert behind.lag().waiting == 2

    assert behind.drain() == 2
    assert behind.drain() == 0
    assert (behind.lag().waiting, behind.lag().oldest) == (0, 0)
    assert durable.get_many([one.task_id, other.task_id]) == {one.task_id: one, other.task_id: other}
    assert 3500 < client.ttl(f"celery-task-meta-{one.task_id}") <= 3600
    assert 0 < client.ttl(f"celery-task-meta-{other.task_id}") <= 50
    assert behind.get(one.task_id) == one


def test_record_that_redis_dropped_is_read_from_postgresql(behind: WriteBehindStore, client: redis.Redis) -> None:
    one, other = record(), record()
    behind.put(one)
    behind.drain()
    client.flushall()
    behind.put(other)
    assert behind.get(one.task_id) == one
    assert behind.get_many([one.task_id, other.task_id, "unknown"]) == {one.task_id: one, other.task_id: other}


def test_task_that_is_stored_again_waits_once(behind: WriteBehindStore, durable: Store, client: redis.Redis) -> None:
    one = record(state="STARTED", name="shop.pack")
    behind.put(one)
    behind.put(replace(one, state="RETRY", retries=1))
    done = record(one.task_id, value=7)
    behind.put(done)
    assert client.xlen("rootcellar-journal") == client.hlen("rootcellar-journal-versions") == 1
    assert behind.drain() == 1
    assert durable.get(one.task_id) == behind.get(one.task_id) == replace(done, name="shop.pack", retries=1)
    assert client.hlen("rootcellar-journal-versions") == 0


def test_record_that_changes_while_it_is_moved_waits_again(
    behind: WriteBehindStore, durable: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, done = record("a", state="STARTED"), record("a", value=7)
    behind.put(started)
    remove_moved = behind._journal.remove_moved

    def late(move_results: Any) -> None:
        behind.put(done)
        remove_moved(move_results)

    monkeypatch.setattr(behind._journal, "remove_moved", late)
    assert behind.drain() == 1
    monkeypatch.undo()
    assert durable.get("a") == started
    assert client.ttl("celery-task-meta-a") == -1
    assert behind.lag().waiting == 1
    assert behind.drain() == 1
    assert durable.get("a") == behind.get("a") == done
    assert client.ttl("celery-task-meta-a") > 0


def test_late_drainer_keeps_a_newer_entry(
    behind: WriteBehindStore, postgres_url: str, front_url: str, client: redis.Redis
) -> None:
    """A drainer hangs after its commit, while others move the task, forget it, and store it again."""
    other = open_behind(postgres_url, front_url)
    notified: list[Any] = []
    remove_moved = behind._journal.remove_moved
    behind._journal.remove_moved = notified.extend  # type: ignore[method-assign]
    one = record("a")
    behind.put(one)
    assert behind.drain() == 1
    assert other.drain() == 1
    other.delete(["a"])
    assert other.drain() == 1
    other.put(one)
    remove_moved(notified)
    assert client.ttl("celery-task-meta-a") == -1
    assert other.lag().waiting == 1
    other.close()


def test_one_drainer_at_a_time_moves_results(
    behind: WriteBehindStore, durable: Store, postgres_url: str, front_url: str
) -> None:
    other = open_behind(postgres_url, front_url)
    behind.put(record("a"))
    with behind._drainer._durable.exclusive_batch() as batch:
        assert batch is not None
        assert other.drain() == 0, "another drainer holds the batch"
    assert other.drain() == 1
    assert durable.get("a") is not None
    other.close()


def test_drainer_that_hung_writes_nothing(
    behind: WriteBehindStore, durable: Store, postgres_url: str, front_url: str
) -> None:
    started, done = record("a", state="STARTED"), record("a")
    behind.put(started)
    other = open_behind(postgres_url, front_url)

    def hang(batch: Any) -> None:
        assert behind._journal.oldest(10)[0].record == started
        _end_idle_transactions(postgres_url)  # as the server does after a minute
        other.put(done)
        assert other.drain() == 1
        batch.put([started])

    with pytest.raises(errors.StoreUnavailable):  # noqa: SIM117 - the error is raised at the end
        with behind._drainer._durable.exclusive_batch() as batch:
            hang(batch)
    assert durable.get("a") == done
    other.close()


def _end_idle_transactions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle in transaction'"
        )


def test_drain_moves_results_in_batches(behind: WriteBehindStore, durable: Store) -> None:
    ones = [record() for _ in range(1_200)]
    for one in ones:
        behind.put(one)
    moved: list[int] = []
    assert behind.drain_all(moved.append) == 1_200
    assert moved == [500, 500, 200]
    assert {one.task_id: one for one in ones} == durable.get_many(one.task_id for one in ones)


def test_drain_moves_large_results_in_small_batches(
    behind: WriteBehindStore, durable: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_BATCH_BYTES", 1_000_000)
    ones = [record(value='"' + "x" * size + '"') for size in (400_000, 400_000, 400_000, 2_000_000, 1)]
    for one in ones:
        behind.put(one)
    assert [behind.drain() for _ in range(5)] == [2, 1, 1, 1, 0]
    assert [durable.get(one.task_id) for one in ones] == ones


def test_refused_result_stays_in_redis_and_blocks_no_other(
    behind: WriteBehindStore, durable: Store, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = record(), record(retries=2**80)
    behind.put(bad)
    behind.put(good)
    assert behind.drain() == 2
    assert durable.get(good.task_id) == good
    assert durable.get(bad.task_id) is None
    assert f"task {bad.task_id} stays in Redis" in caplog.text
    assert behind.get(bad.task_id) == bad
    assert (behind.lag().waiting, behind.lag().refused) == (0, 1)
    assert behind.delete([bad.task_id]) == 1
    behind.drain()
    assert behind.lag().refused == 0


# -- successes ---------------------------------------------------------------------------------------------------------


def test_success_stays_in_redis_and_after_it_left_redis(
    behind: WriteBehindStore, durable: Store, client: redis.Redis
) -> None:
    first, second = record("a", value=1), record("a", value=2)
    assert behind.put(first).written
    assert not behind.put(second).written
    behind.drain()
    assert not behind.put(second).written
    client.delete("celery-task-meta-a")
    for late in (record("a", state="STARTED"), second):
        assert behind.put(late).written, "Redis knows nothing of it"
        assert behind.get("a") == late, "what a client can read until it is moved"
        behind.drain()
        assert durable.get("a") == first
        assert behind.get("a") == first
        assert 0 < client.ttl("celery-task-meta-a") <= 3600
        client.delete("celery-task-meta-a")


def test_waiter_gets_the_success_that_stays(behind: WriteBehindStore, client: redis.Redis) -> None:
    first = record("a", value=1)
    behind.put(first)
    behind.drain()
    client.delete("celery-task-meta-a")
    behind.put(record("a", state="STARTED"))
    notified: list[Any] = []
    subscription = behind.watcher().subscribe(["a"], notified.append)
    wait_until(lambda: client.pubsub_numsub("celery-task-meta-a")[0][1], "a listener")
    behind.drain()
    wait_until(lambda: notified, "the first result")
    assert notified == [[first]]
    subscription.cancel()


def test_earlier_state_is_merged_after_redis_dropped_it(
    behind: WriteBehindStore, durable: Store, client: redis.Redis
) -> None:
    started, done = record("a", state="STARTED", name="shop.pack"), record("a")
    behind.put(started)
    behind.drain()
    client.delete("celery-task-meta-a")
    behind.put(done)
    behind.drain()
    assert durable.get("a") == behind.get("a") == replace(done, name="shop.pack")


# -- forgetting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("is_dropped", [False, True])
def test_forgotten_record_stays_forgotten(
    behind: WriteBehindStore, durable: Store, client: redis.Redis, is_moved: bool, is_dropped: bool
) -> None:
    one, again = record("a", value=1), record("a", value=2)
    behind.put(one)
    if is_moved:
        behind.drain()
    if is_dropped:
        client.delete("celery-task-meta-a")
    known = 0 if is_dropped and not is_moved else 1
    assert behind.delete(["a", "a", "unknown"]) == known
    assert behind.get("a") is None
    assert behind.get_many(["a"]) == {}
    assert behind.delete(["a"]) == 0
    assert (durable.get("a") is not None) == is_moved
    assert b"PENDING" in client.get("celery-task-meta-a"), "a client of Celery's own backend sees a pending task"
    behind.drain()
    assert durable.get("a") is None
    assert behind.get("a") is None
    assert client.exists("celery-task-meta-a") == 0
    assert behind.put(again).written
    behind.drain()
    assert durable.get("a") == behind.get("a") == again


def test_forgotten_record_is_stored_again_before_the_move(behind: WriteBehindStore, durable: Store) -> None:
    behind.put(record("a", value=1))
    behind.drain()
    behind.delete(["a"])
    again = record("a", value=2)
    assert behind.put(again).written
    assert behind.get("a") == again
    behind.drain()
    assert durable.get("a") == behind.get("a") == again


def test_forgetting_is_acknowledged_without_postgresql(postgres_url: str, front_url: str) -> None:
    away = open_behind(postgres_url.rpartition(":")[0] + ":1/none?connect_timeout=1", front_url)
    one = record()
    away.put(one)
    assert away.get(one.task_id) == one
    assert away.delete([one.task_id]) == 1
    assert away.get(one.task_id) is None
    with pytest.raises(errors.StoreUnavailable):
        away.get("unknown")
    away.close()


# -- other methods of a store ------------------------------------------------------------------------------------------


def test_chord_finds_results_that_left_redis(behind: WriteBehindStore, client: redis.Redis) -> None:
    ones = [record(value=number) for number in range(3)]
    behind.size_chord("g", 3)
    for place, one in enumerate(ones):
        part = ChordPart(group_id="g", task_id=one.task_id, group_index=place, state="SUCCESS")
        stored = behind.put(one, part)
        assert stored.chord is not None
        assert stored.chord.claimed == (place == 2)
    assert behind.drain() == 3
    client.delete(f"celery-task-meta-{ones[1].task_id}")
    assert [part.result for part in behind.chord_parts("g")] == [one.result for one in ones]


def test_query_finds_results_that_were_just_stored(behind: WriteBehindStore) -> None:
    one = record(name="shop.pack")
    behind.put(one)
    assert behind.ability(HasSchema) is behind.durable
    for ability in (Queryable, Watchable, WritesBehind, Replaceable):
        assert behind.ability(ability) is behind
    assert list(behind.query(TaskQuery(names=("shop.*",)))) == [one]
    other = record()
    behind.put(other)
    assert len(behind.scan()) == 2


def test_lag_grows_while_nothing_is_moved(behind: WriteBehindStore) -> None:
    behind.put(record("a", state="STARTED"))
    wait_until(lambda: behind.lag().oldest > 0.1, "an age")
    behind.put(record("a"))
    assert behind.lag().oldest > 0.1, "since it first changed"
    behind.drain()
    assert behind.lag().oldest == 0


# -- errors and warnings -----------------------------------------------------------------------------------------------


def test_redis_without_an_append_only_file_stores_nothing(postgres_url: str, redis_url: str) -> None:
    store = open_behind(postgres_url, redis_url)
    with pytest.raises(errors.ConfigurationError, match="no append-only file") as caught:
        store.check()
    assert not caught.value.retryable, "a worker does not start"
    assert "appendonly yes" in caught.value.remedy
    with pytest.raises(errors.AppendOnlyMissing) as later:
        store.put(record())
    assert later.value.retryable, "a running worker keeps its results until Redis has a file again"
    store.close()


def test_results_wait_for_an_append_only_file(postgres_url: str, new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(appendonly=False)
    store = open_behind(postgres_url, server.url)
    with pytest.raises(errors.AppendOnlyMissing):
        store.put(record("a"))
    with server.client() as admin:
        admin.config_set("appendonly", "yes")
    assert store.put(record("a")).written
    store.check()
    with server.client() as admin:
        admin.config_set("maxmemory", "100mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(errors.ConfigurationError, match="allkeys-lru"):
        store.check()
    with server.client() as admin:
        admin.config_set("maxmemory-policy", "volatile-lru")
    store.check()
    store.close()


def test_check_logs_how_much_a_crash_can_lose(
    behind: WriteBehindStore, postgres_url: str, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    behind.check()
    assert [line for line in caplog.messages if "appendfsync is everysec" in line]
    caplog.clear()
    safe = open_behind(postgres_url, own_redis.url)
    safe.check()
    assert not [line for line in caplog.messages if "appendfsync" in line]
    with own_redis.client() as admin:
        admin.config_set("no-appendfsync-on-rewrite", "yes")
        admin.acl_setuser(
            "blind", enabled=True, passwords=["+x"], keys=["*"], categories=["+@all"], commands=["-config"]
        )
    safe.check()
    assert "no-appendfsync-on-rewrite" in caplog.text
    blind = open_behind(postgres_url, own_redis.url.replace("redis://", "redis://blind:x@"))
    blind.check()
    assert "may not read appendfsync" in caplog.text
    for store in (safe, blind):
        store.close()


def test_user_with_the_documented_rights_is_enough(postgres_url: str, own_redis: RedisServer) -> None:
    more = (
        "+strlen +hexists +hdel +xadd +xdel +xlen +xrange +xrevrange +sadd +srem +sismember +scard +sscan +config|get"
    )
    assert more in Path(__file__).parents[2].joinpath("docs/hybrid.md").read_text(encoding="utf-8")
    with own_redis.client() as admin:
        rules = [*COMMANDS.split(), *KEYS.split(), *more.split()]
        admin.execute_command("ACL", "SETUSER", "cellar", "reset", "on", ">x", *rules)
    store = open_behind(postgres_url, own_redis.url.replace("redis://", "redis://cellar:x@"))
    store.check()
    one, forgotten, refused = record(), record(), record(retries=2**80)
    for stored in (one, forgotten, refused):
        store.put(stored, ChordPart(group_id="g", task_id=stored.task_id, group_index=0, state="SUCCESS"))
    store.delete([forgotten.task_id])
    assert store.drain_all() == 3
    assert store.lag().refused == 1
    assert store.replace(one, replace(one, result=Payload(b"1")))
    store.finish_chord("g")
    store.delete_expired(now() + timedelta(days=9))
    store.close()


@pytest.mark.parametrize(
    ("durable_url", "cache_url", "message"),
    [
        ("sqlite:///x", "redis://h", "durable_url names a store"),
        ("postgresql://h/d", "sqlite:///x", "cache_url names a store"),
        ("postgresql://h/d", "redis-cluster://h", "Redis Cluster"),
    ],
)
def test_write_behind_refuses_unfit_stores(durable_url: str, cache_url: str, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        open_behind(durable_url, cache_url)


def test_celerys_settings_reach_write_behind(postgres_url: str, front_url: str) -> None:
    app = Celery("app", backend="rootcellar+hybrid://", set_as_current=False)
    urls = {"durable_url": f"rootcellar+{postgres_url}", "cache_url": front_url}
    app.conf.result_backend_transport_options = {**urls, "mode": "write-behind", "cache_expires": 60}
    app.backend.store_result("t", {"a": 1}, "SUCCESS")
    assert app.AsyncResult("t").get(timeout=20) == {"a": 1}
    app.backend.store.drain()
    direct = open_store(postgres_url)
    found = direct.get("t")
    assert found is not None
    assert found.result == Payload(b'{"a": 1}')
    app.AsyncResult("t").forget()
    assert app.AsyncResult("t").state == "PENDING"
    direct.close()
    app.backend.store.close()


def test_changed_mode_reports_results_that_wait(
    behind: WriteBehindStore, postgres_url: str, front_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    urls = {"durable_url": postgres_url, "cache_url": front_url}
    through = open_store("hybrid://", StoreOptions(transport_options=urls))
    through.check()
    assert not caplog.messages
    behind.put(record())
    through.check()
    assert "are not moved and cannot be read in this mode: 1." in caplog.text
    through.close()


def test_mode_can_be_in_the_url(postgres_url: str, front_url: str) -> None:
    query = urlencode({"durable_url": "postgresql://h/d", "cache_url": front_url, "mode": "write-behind"})
    assert isinstance(open_store(f"hybrid://?{query}", StoreOptions()), WriteBehindStore)
