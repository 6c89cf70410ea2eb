"""Celery's own layout: stock clients and workers read rootcellar's records, and rootcellar reads theirs."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from celery.app.task import Context
from celery.result import GroupResult

from rootcellar import errors
from rootcellar.records import GroupRecord, Payload, TaskRecord
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.redis import RedisStore, commands
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.helpers import full_record
from rootcellar.testing.suites.store.exactness import JSON_TEXTS, OTHER_PAYLOADS
from tests.helpers import PATIENCE, new_id, record
from tests.redis.helpers import opened, our_app, stock_app
from tests.servers import RedisServer
from tests.workers import Worker

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)


def request(task_id: str, **given: Any) -> Context:
    fields = {"task": "shop.pack", "id": task_id, "hostname": "w@h", "retries": 1, "args": [1], "kwargs": {"a": 2}}
    return Context(**{**fields, "delivery_info": {"routing_key": "parcels"}, **given})


# -- a stock client reads rootcellar's records


def test_stock_client_reads_a_success(redis_url: str) -> None:
    ours, stock = our_app(redis_url, result_extended=True), stock_app(redis_url)
    task_id = new_id()
    ours.backend.store_result(task_id, {"b": [1, "ü"], "a": None}, "SUCCESS", request=request(task_id))
    found = stock.AsyncResult(task_id)
    assert found.get(timeout=PATIENCE) == {"b": [1, "ü"], "a": None}
    assert (found.state, found.traceback, found.children) == ("SUCCESS", None, [])
    assert (found.name, found.args, found.kwargs) == ("shop.pack", [1], {"a": 2})
    assert (found.worker, found.retries, found.queue) == ("w@h", 1, "parcels")
    assert abs(found.date_done - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_stock_client_reads_a_failure(redis_url: str) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    task_id = new_id()
    ours.backend.store_result(task_id, KeyError("gone"), "FAILURE", traceback="Traceback …")
    found = stock.AsyncResult(task_id)
    with pytest.raises(KeyError, match="gone"):
        found.get(timeout=PATIENCE)
    assert (found.state, found.traceback) == ("FAILURE", "Traceback …")


def test_stock_client_reads_a_failure_with_a_group(redis_url: str, store: RedisStore) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    task_id = new_id()
    ours.backend.store_result(task_id, KeyError("gone"), "FAILURE", traceback="Traceback …")
    failure = store.get(task_id)
    assert failure is not None
    assert store.put(replace(failure, failure_group=-(2**63))).written
    found = stock.AsyncResult(task_id)
    with pytest.raises(KeyError, match="gone"):
        found.get(timeout=PATIENCE)
    assert (found.state, found.traceback) == ("FAILURE", "Traceback …")


def test_stock_client_reads_stamps(redis_url: str) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    task_id = new_id()
    stamps = {"customer": ["c-1"], "status": ["no state"], "other": ["x"]}
    stamped = request(task_id, stamps=stamps, stamped_headers=["customer", "status"])
    ours.backend.store_result(task_id, 1, "SUCCESS", request=stamped)
    meta = stock.backend.get_task_meta(task_id)
    assert (meta["status"], meta["customer"]) == ("SUCCESS", ["c-1"]), "a stamp does not hide the state"
    assert meta["stamped_headers"] == ["customer", "status"]
    assert "other" not in meta


@pytest.mark.parametrize("text", JSON_TEXTS.values(), ids=JSON_TEXTS.keys())
def test_json_value_is_in_the_blob_unchanged(text: str) -> None:
    payload = Payload(text.encode())
    blob = json_blob.encode_task(full_record("t", result=payload, args=payload, stamps=None))
    assert b'"result":' + payload.body + b"," in blob
    try:
        expected = json.loads(text)
    except (RecursionError, ValueError):
        return
    meta = json.loads(blob)
    for key in ("result", "args"):
        assert json.dumps(meta[key]) == json.dumps(expected)


@pytest.mark.parametrize("payload", OTHER_PAYLOADS.values(), ids=OTHER_PAYLOADS.keys())
def test_value_of_another_format_is_refused_by_stock_clients(payload: Payload) -> None:
    blob = json_blob.encode_task(record("t", result=None))
    assert json.loads(blob)["result"] is None
    opaque = json_blob.encode_task(TaskRecord(task_id="t", state="SUCCESS", result=payload, done_at=NOW))
    if payload == Payload(payload.body):
        return  # its content type is JSON
    with pytest.raises(ValueError, match=r"Expecting value|codec can't decode|decode byte"):
        json.loads(opaque)
    assert json_blob.decode_task("t", opaque).result == payload


def test_stock_client_restores_a_group(redis_url: str) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    ids = [new_id() for _ in range(3)]
    for number, task_id in enumerate(ids):
        ours.backend.store_result(task_id, number, "SUCCESS")
    saved = GroupResult(new_id(), [ours.AsyncResult(task_id) for task_id in ids], app=ours)
    saved.save()
    restored = GroupResult.restore(saved.id, app=stock)
    assert [one.id for one in restored.results] == ids
    assert restored.get(timeout=PATIENCE) == [0, 1, 2]


def test_waiting_stock_client_is_notified(redis_url: str) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    task_id = new_id()
    values: list[Any] = []
    waiting = threading.Thread(target=lambda: values.append(stock.AsyncResult(task_id).get(timeout=PATIENCE)))
    waiting.start()
    with redis.Redis.from_url(redis_url) as client:
        while not client.pubsub_numsub(f"celery-task-meta-{task_id}")[0][1]:
            pass
    ours.backend.store_result(task_id, "there", "SUCCESS")
    waiting.join(PATIENCE)
    assert values == ["there"]


# -- rootcellar reads the records of a stock worker


def test_stock_record_is_read(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url, result_extended=True).backend
    ok, failed, retried = new_id(), new_id(), new_id()
    children = Context(**request(ok).__dict__, stamped_headers=["customer"], stamps={"customer": ["c"]})
    children.group, children.parent_id = "the-group", "the-parent"
    stock.store_result(ok, {"n": [1.10, 2**70]}, "SUCCESS", request=children)
    stock.store_result(failed, ValueError("oh"), "FAILURE", traceback="tb")
    stock.store_result(retried, None, "RETRY")
    found = store.get(ok)
    assert found is not None
    assert (found.state, found.name, found.queue, found.worker, found.retries) == (
        *("SUCCESS", "shop.pack", "parcels", "w@h", 1),
    )
    assert (found.group_id, found.parent_id, found.traceback) == ("the-group", "the-parent", None)
    assert (found.result, found.args, found.kwargs) == (
        Payload(b'{"n": [1.1, 1180591620717411303424]}'),
        Payload(b"[1]"),
        Payload(b'{"a": 2}'),
    )
    assert found.stamps == Payload(b'{"customer": ["c"]}')
    assert found.done_at is not None
    assert abs(found.done_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    ours = our_app(redis_url)
    with pytest.raises(ValueError, match="oh"):
        ours.AsyncResult(failed).get(timeout=PATIENCE)
    assert ours.AsyncResult(failed).traceback == "tb"
    assert ours.AsyncResult(retried).state == "RETRY"
    assert {one.task_id for one in store.scan()} == {ok, failed, retried}


def test_stock_group_is_restored(redis_url: str) -> None:
    ours, stock = our_app(redis_url), stock_app(redis_url)
    members = [stock.AsyncResult(new_id()) for _ in range(2)]
    for one in members:
        stock.backend.store_result(one.id, one.id, "SUCCESS")
    saved = GroupResult(new_id(), members, app=stock)
    saved.save()
    assert GroupResult.restore(saved.id, app=ours).get(timeout=PATIENCE) == [one.id for one in members]


@pytest.mark.parametrize("serializer", ["pickle", "msgpack", "yaml"])
def test_unreadable_stock_value_fails_only_its_own_waiter(redis_url: str, serializer: str) -> None:
    stock = stock_app(redis_url, result_serializer=serializer, accept_content=[serializer])
    task_id, good = new_id(), new_id()
    stock.backend.store_result(task_id, 1, "SUCCESS")
    ours = our_app(redis_url)
    ours.backend.store_result(good, 1, "SUCCESS")
    with pytest.raises(errors.PayloadUnreadable):
        ours.AsyncResult(task_id).get(timeout=PATIENCE)
    assert dict(ours.backend.get_many([good], timeout=PATIENCE))[good]["result"] == 1


def test_damaged_record_fails_only_its_own_waiter(redis_url: str, store: RedisStore, client: redis.Redis) -> None:
    good, damaged = record(), record(result=Payload(b"\x80", "application/x-python-serialize", "binary"))
    store.put(good)
    store.put(damaged)
    key = f"celery-task-meta-{damaged.task_id}"
    blob = client.get(key)
    assert isinstance(blob, bytes)
    client.set(key, blob.replace(b"rc1\n", b"???\n"))
    assert store.get_many([good.task_id, damaged.task_id])[good.task_id] == good
    with pytest.raises(errors.PayloadUnreadable):
        our_app(redis_url).AsyncResult(damaged.task_id).get(timeout=PATIENCE)


# -- which record stays


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack"])
def test_stock_success_is_not_overwritten(redis_url: str, store: RedisStore, serializer: str) -> None:
    stock = stock_app(redis_url, result_serializer=serializer, accept_content=[serializer])
    task_id = new_id()
    stock.backend.store_result(task_id, "first", "SUCCESS")
    assert not store.put(record(task_id, "second")).written
    assert stock.AsyncResult(task_id).get(timeout=PATIENCE) == "first"


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack"])
@pytest.mark.parametrize("state", ["SUCCESS_SO_FAR", "NOSUCCESS"])
def test_state_with_a_similar_name_is_no_success(
    redis_url: str, store: RedisStore, serializer: str, state: str
) -> None:
    stock = stock_app(redis_url, result_serializer=serializer, accept_content=[serializer])
    task_id = new_id()
    stock.backend.store_result(task_id, "first", state)
    assert store.put(record(task_id, "end")).written
    assert our_app(redis_url).AsyncResult(task_id).get(timeout=PATIENCE) == "end"


def test_result_before_the_state_is_read_as_data(store: RedisStore, client: redis.Redis) -> None:
    task_id = new_id()
    client.set(f"celery-task-meta-{task_id}", '{"result": {"status": "SUCCESS"}, "status": "PROGRESS"}')
    assert store.put(record(task_id, "end")).written


def test_success_is_not_overwritten_by_a_stock_worker(redis_url: str, store: RedisStore) -> None:
    first = record(value="first")
    store.put(first)
    stock_app(redis_url).backend.store_result(first.task_id, "second", "FAILURE")
    assert store.get(first.task_id) == first


@pytest.mark.parametrize(
    "value",
    [
        '{"status": "SUCCESS"}',
        '"status": "SUCCESS", "rootcellar":"1S0000000300511000000000000000,',
        {"status": "SUCCESS", "rootcellar": "1S00000000000000000000000000000"},
        "status SUCCESS",
        ["!", {'"rootcellar":"1S': "SUCCESS"}],
    ],
)
@pytest.mark.parametrize("writer", ["stock", "ours"])
def test_data_that_looks_like_the_marker_is_read_as_data(
    redis_url: str, store: RedisStore, writer: str, value: Any
) -> None:
    app = stock_app(redis_url) if writer == "stock" else our_app(redis_url)
    task_id = new_id()
    for state in ("STARTED", "FAILURE", "PROGRESS"):
        app.backend.store_result(task_id, ValueError(value) if state == "FAILURE" else value, state)
        found = store.get(task_id)
        assert found is not None
        assert found.state == state
    assert store.put(record(task_id, "end")).written, "no state was a SUCCESS"
    assert our_app(redis_url).AsyncResult(task_id).get(timeout=PATIENCE) == "end"


def test_fields_of_a_stock_record_are_kept(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url, result_extended=True).backend
    task_id = new_id()
    stock.store_result(task_id, None, "STARTED", request=request(task_id))
    assert store.put(record(task_id, "end")).written
    found = store.get(task_id)
    assert found is not None
    assert (found.state, found.name, found.args) == ("SUCCESS", "shop.pack", Payload(b"[1]"))


def test_late_retry_does_not_overwrite_a_stock_failure(redis_url: str, store: RedisStore) -> None:
    stock = stock_app(redis_url, result_extended=True).backend
    task_id = new_id()
    stock.store_result(task_id, ValueError("x"), "FAILURE", request=request(task_id, retries=2))
    assert not store.put(record(task_id, state="RETRY", retries=1)).written
    assert store.get(task_id).state == "FAILURE"  # type: ignore[union-attr]


# -- keys and times


def test_keys_have_the_configured_prefix(redis_url: str, client: redis.Redis) -> None:
    prefix = {"global_keyprefix": "shop"}
    with opened(redis_url, transport_options=prefix) as store, opened(redis_url) as plain:
        one = record()
        store.put(one)
        store.put_group(GroupRecord(group_id="g", result=Payload(b"1"), done_at=NOW))
        assert sorted(client.keys()) == [
            *sorted([b"shop_celery-task-meta-" + one.task_id.encode(), b"shop_celery-taskset-meta-g"])
        ]
        stock = stock_app(redis_url, result_backend_transport_options=prefix)
        assert stock.AsyncResult(one.task_id).get(timeout=PATIENCE) == 42
        assert list(store.scan()) == [one]
        assert list(plain.scan()) == []
        assert plain.get(one.task_id) is None


def test_prefix_is_not_a_pattern(redis_url: str, client: redis.Redis) -> None:
    with opened(redis_url, transport_options={"global_keyprefix": "a*[b]?\\"}) as store:
        one = record()
        store.put(one)
        client.set("aXXb_celery-task-meta-other", "x")
        assert list(store.scan()) == [one]


def test_key_expires_with_its_record(store: RedisStore, client: redis.Redis) -> None:
    now = datetime.now(timezone.utc)
    hour, never = record(expires_at=now + timedelta(hours=1)), record()
    for one in (hour, never):
        store.put(one)
    assert 3_590_000 < client.pttl(f"celery-task-meta-{hour.task_id}") <= 3_600_000
    assert client.pttl(f"celery-task-meta-{never.task_id}") == -1
    again = record(state="STARTED", expires_at=now + timedelta(hours=1))
    store.put(again)
    store.put(record(again.task_id))
    assert client.pttl(f"celery-task-meta-{again.task_id}") == -1, "the last state decides the expiry"


def test_value_beyond_the_limit_of_redis_is_refused(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_BLOB_BYTES", 1 << 20)
    with pytest.raises(errors.RecordRefused, match="Redis takes no more than 1"):
        store.put(record(value="x" * (1 << 20)))


def test_store_takes_one_command(store: RedisStore, client: redis.Redis) -> None:
    store.put(record())
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    packets = client.info("stats")["total_commands_processed"]
    for _ in range(100):
        store.put(record())
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 100
    # GETRANGE, SET and PUBLISH run inside the script
    assert client.info("stats")["total_commands_processed"] - packets <= 100 * 4 + 5


# -- with real workers


def test_client_reads_results_of_a_stock_worker(redis_server: RedisServer) -> None:
    url, broker = redis_server.database_url(9_001), redis_server.database_url(9_002)
    with Worker("rootcellar.testing.conformance_app", env={"TEST_BROKER": broker, "TEST_BACKEND": url}, pool="threads"):
        ours = make_app(broker, f"rootcellar+{url}")
        add, fail = ours.tasks["conformance.add"], ours.tasks["conformance.raise_"]
        assert [add.delay(n, n).get(timeout=PATIENCE) for n in range(20)] == [2 * n for n in range(20)]
        with pytest.raises(ValueError, match="oh"):
            fail.delay("builtin").get(timeout=PATIENCE)
        ours.backend.store.close()


def test_stock_client_reads_results_of_a_worker(redis_server: RedisServer) -> None:
    url, broker = redis_server.database_url(9_003), redis_server.database_url(9_004)
    env = {"TEST_BROKER": broker, "TEST_BACKEND": f"rootcellar+{url}"}
    with Worker("rootcellar.testing.conformance_app", env=env, pool="threads"):
        stock = make_app(broker, url)
        add, fail = stock.tasks["conformance.add"], stock.tasks["conformance.raise_"]
        assert [add.delay(n, n).get(timeout=PATIENCE) for n in range(20)] == [2 * n for n in range(20)]
        with pytest.raises(ValueError, match="oh"):
            fail.delay("builtin").get(timeout=PATIENCE)
