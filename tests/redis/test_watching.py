"""Waiting on Redis: published messages notify waiters, also those of stock workers, and a lost connection is safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.redis import RedisStore, notify
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.watching import NotifyOn
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import Inbox, opened, stock_app
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def own_server() -> Iterator[RedisServer]:
    """A server without listeners of other tests, because the tests count them."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(own_server: RedisServer) -> str:
    own_server.flush()
    return own_server.url


@pytest.fixture(autouse=True)
def no_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a message wakes the watcher."""
    monkeypatch.setattr(Servers, "safety_read_seconds", 3600.0)


def subscribe(store: RedisStore, *task_ids: str, notify_on: NotifyOn = NotifyOn.RECORD) -> Inbox:
    inbox = Inbox()
    store.watcher().subscribe(task_ids, inbox.deliver, notify_on)
    return inbox


def listeners(client: redis.Redis) -> list[dict[str, str]]:
    return [one for one in client.client_list() if int(one["sub"]) > 0]


def await_listening(client: redis.Redis, count: int) -> None:
    wait_until(lambda: sum(int(one["sub"]) for one in listeners(client)) == count, f"{count} subscribed channels")


def test_one_connection_for_ten_thousand_waiters(store: RedisStore, client: redis.Redis) -> None:
    ids = [new_id() for _ in range(10_000)]
    inboxes = [subscribe(store, task_id) for task_id in ids]
    await_listening(client, 10_000)
    assert len(listeners(client)) == 1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda task_id: store.put(record(task_id, task_id)), ids))
    for task_id, inbox in zip(ids, inboxes, strict=True):
        assert [one.task_id for one in inbox.take()] == [task_id]
    await_listening(client, 0)


def test_no_notification_is_lost_in_races(store: RedisStore) -> None:
    """Each result is stored at about the moment at which a waiter subscribes."""
    ids = [new_id() for _ in range(1_500)]
    gate = threading.Barrier(2)
    inboxes: list[Inbox] = []

    def put_all() -> None:
        gate.wait()
        for task_id in ids:
            store.put(record(task_id))

    storing = threading.Thread(target=put_all)
    storing.start()
    gate.wait()
    for task_id in ids:
        inboxes.append(subscribe(store, task_id))
        time.sleep(0.0001)
    for inbox in inboxes:
        inbox.take()
    storing.join()


@pytest.mark.parametrize("kind", ["pubsub", "all"])
def test_lost_connection_loses_no_notification(
    store: RedisStore, redis_url: str, client: redis.Redis, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [new_id() for _ in range(200)]
    inbox = subscribe(store, *ids)
    await_listening(client, 200)
    for task_id in ids[:100]:
        store.put(record(task_id))
    # another process stores and publishes while the watcher does not listen
    (listener,) = listeners(client)
    with client.pipeline(transaction=True) as pipe:
        pipe.client_kill_filter(_id=listener["id"])
        blob = client.get(f"celery-task-meta-{ids[0]}")
        assert isinstance(blob, bytes)
        for task_id in ids[100:150]:
            pipe.set(f"celery-task-meta-{task_id}", blob)
            pipe.publish(f"celery-task-meta-{task_id}", blob)
        pipe.execute()
    if kind == "all":
        client.client_kill_filter(_type="normal", skipme=True)
    for task_id in ids[150:]:
        store.put(record(task_id))
    assert {one.task_id for one in inbox.take(200)} == set(ids)
    assert caplog.text.count("No connection to wait for results") == 1


def test_waiters_get_results_after_a_restart(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(appendonly=True)
    with opened(server.url) as store:
        ids = [new_id() for _ in range(100)]
        inbox = subscribe(store, *ids)
        store.put(record(ids[0]))
        inbox.take()
        server.kill()
        server.start()
        for task_id in ids[1:]:
            store.put(record(task_id))
        assert {one.task_id for one in inbox.take(99)} == set(ids[1:])


def test_watcher_reconnects_to_a_silent_server(
    new_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may die silently, as behind a firewall: the watcher notices it and reconnects."""
    monkeypatch.setattr(notify, "SILENCE", 0.2)
    server = new_redis()
    with opened(server.url) as store, redis.Redis.from_url(server.url) as client:
        task_id = new_id()
        inbox = subscribe(store, task_id)
        await_listening(client, 1)
        watcher = store.watcher()
        assert isinstance(watcher, notify.ListeningWatcher)
        wait_until(lambda: watcher.has_read, "the first read")
        (first,) = listeners(client)
        server.pause()
        try:
            wait_until(lambda: store.watcher().outage, "the outage")
        finally:
            server.resume()
        wait_until(lambda: [one["id"] for one in listeners(client)] not in ([], [first["id"]]), "a new listener")
        store.put(record(task_id))
        assert [one.task_id for one in inbox.take()] == [task_id]


def test_result_is_read_after_the_server_drops_the_listener(
    store: RedisStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The server drops a listener whose output buffer is full."""
    ids = [new_id() for _ in range(3)]
    inbox = subscribe(store, *ids)
    await_listening(client, 3)
    store.put(record(ids[0], "x" * (40 << 20)))
    for task_id in ids[1:]:
        store.put(record(task_id))
    assert {one.task_id for one in inbox.take(3)} == set(ids)


def test_watcher_reads_replies_while_it_subscribes(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """The server drops a listener that does not read while it subscribes, and would drop it each time."""
    server = new_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("client-output-buffer-limit", "pubsub 1mb 0 0")
    with opened(server.url) as store:
        ids = [f"task-{number:040}" for number in range(150_000)]
        inbox = subscribe(store, *ids)
        store.put(record(ids[-1]))
        assert [one.task_id for one in inbox.take()] == [ids[-1]]
    assert "No connection" not in caplog.text


def test_long_read_is_not_taken_for_a_dead_server(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SILENCE", 1.0)
    watcher = store.watcher()
    assert isinstance(watcher, notify.ListeningWatcher)
    fetch = watcher._fetch
    read_at: list[float] = []

    def fetch_slowly(task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        time.sleep(2.5)
        found = fetch(task_ids)
        read_at.append(time.monotonic())
        return found

    monkeypatch.setattr(watcher, "_fetch", fetch_slowly)
    subscribe(store, new_id())
    wait_until(lambda: read_at and watcher._last_heard > read_at[0], "a reply after the long read")
    assert "No connection" not in caplog.text


def test_watcher_notifies_of_a_result_without_a_date(store: RedisStore, client: redis.Redis) -> None:
    """Workers in other languages store no ``date_done``."""
    task_id = new_id()
    inbox = subscribe(store, task_id)
    await_listening(client, 1)
    blob = f'{{"task_id":"{task_id}","status":"SUCCESS","traceback":null,"result":3,"children":null}}'
    client.set(f"celery-task-meta-{task_id}", blob)
    client.publish(f"celery-task-meta-{task_id}", blob)
    (notified,) = inbox.take()
    assert (notified.state, notified.result) == ("SUCCESS", Payload(b"3"))


def test_watcher_notifies_of_every_state_of_a_stock_worker(store: RedisStore, redis_url: str) -> None:
    stock = stock_app(redis_url).backend
    task_id = new_id()
    inbox = subscribe(store, task_id, notify_on=NotifyOn.CHANGES)
    for state in ("STARTED", "PROGRESS", "SUCCESS"):
        stock.store_result(task_id, {"at": state}, state)
        (notified,) = inbox.take()
        assert notified.state == state
        assert notified.result is not None
        assert notified.result.body == b'{"at": "%s"}' % state.encode()
    assert notified.done_at is not None


def test_user_who_may_not_subscribe_polls(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis()
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser("deaf", enabled=True, passwords=["+secret"], commands=["+@all", "-subscribe"], keys=["*"])
        client.execute_command("ACL", "SETUSER", "deaf", "allchannels")
    with opened(server.url.replace("://", "://deaf:secret@")) as store:
        task_id = new_id()
        inbox = subscribe(store, task_id)
        store.put(record(task_id))
        assert [one.task_id for one in inbox.take()] == [task_id]
    assert "Polling instead" in caplog.text
    assert "secret" not in caplog.text
