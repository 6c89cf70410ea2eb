"""A damaged row or header affects only its own record and its own readers."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import bson
import pytest
import redis
from celery.app.task import Context
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet

import rootcellar
from rootcellar import errors
from rootcellar.cli.values import json_object
from rootcellar.payloads import Codec, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.payloads.rekey import Rekeyer
from rootcellar.records import NO_DATE, Payload, TaskRecord
from rootcellar.stores.base import Queryable, TaskQuery
from rootcellar.stores.fields import EARLIEST, LATEST
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.postgres.group_commit import Write
from rootcellar.stores.postgres.pipeline import Statement
from rootcellar.testing.helpers import able
from tests.commands import run as run_cli
from tests.damage.places import (
    BehindPlace,
    HybridPlace,
    MongoPlace,
    MySQLPlace,
    Place,
    PostgresPlace,
    RedisPlace,
    SQLitePlace,
)
from tests.damage.run import run

STORES = ["postgres", "mysql", "sqlite", "redis", "mongodb", "write-through", "write-behind"]
SQL = ["postgres", "mysql", "sqlite"]
PATIENCE = 30.0
PICKLED = pickle.dumps({"status": "SUCCESS", "result": 5, "traceback": None, "children": [], "date_done": None}, 4)


@pytest.fixture
def open_place(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Callable[[str], Place]]:
    """Open a store of a kind at an empty place."""
    opened: list[Place] = []

    def cache(server: str) -> str:
        url: str = request.getfixturevalue(server).database_url(15)
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def new(name: str) -> Place:
        places: dict[str, Callable[[], Place]] = {
            "postgres": lambda: PostgresPlace(request.getfixturevalue("postgres_url")),
            "mysql": lambda: MySQLPlace(request.getfixturevalue("mysql_url")),
            "sqlite": lambda: SQLitePlace(f"sqlite:///{tmp_path}/results.sqlite3"),
            "redis": lambda: RedisPlace(cache("redis_server")),
            "mongodb": lambda: MongoPlace(request.getfixturevalue("mongo_server").new_database()),
            "write-through": lambda: HybridPlace(request.getfixturevalue("postgres_url"), cache("redis_server")),
            "write-behind": lambda: BehindPlace(request.getfixturevalue("postgres_url"), cache("kept_redis_server")),
        }
        opened.append(places[name]())
        return opened[-1]

    yield new
    for place in opened:
        place.close()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, open_place: Callable[[str], Place]) -> Place:
    return open_place(request.param)


def new_id() -> str:
    return str(uuid.uuid4())


def stored(place: Place, count: int = 9) -> dict[str, Any]:
    """Store some results; return their values by id."""
    values = {new_id(): ["value", number] for number in range(count)}
    for task_id, value in values.items():
        place.backend.store_result(task_id, value, "SUCCESS", request=Context(id=task_id, task="a.task"))
    return values


# -- rows


@pytest.mark.parametrize("name", STORES)
def test_damaged_rows_and_headers_affect_only_their_own_tasks(name: str, open_place: Callable[[str], Place]) -> None:
    counts = run({name: lambda: open_place(name)}, 600, seed=20261128)
    reads: Counter[str] = Counter()
    for (_, _, reader), count in counts.items():
        reads[reader] += count
    readers = {"get", "get_many", "waiting", "join", "as_completed", "history", "scan", "rekey", "store", "chord"}
    assert readers <= reads.keys()
    assert ("drain" in reads) == (name == "write-behind")


DAMAGE: dict[str, list[tuple[str, Any]]] = {
    "postgres": [
        ("expires_at = %s", "infinity"),
        ("date_sent = %s", "-infinity"),
        ("date_done = %s", "0044-03-15 00:00:00+00 BC"),
        ("result_exact = %s", b"rc1\n[]\nx"),
    ],
    "mysql": [("date_done = %s", "0000-00-00 00:00:00"), ("result_exact = %s", b"rc1"), ("children = %s", "{")],
    "sqlite": [
        ("date_done = ?", "yesterday"),
        ("status = ?", b"\xff"),
        ("name = CAST(? AS TEXT)", b"\xff\xfe"),
        ("retries = ?", "many"),
        ("result_exact = ?", 5),
    ],
}


@pytest.mark.parametrize(("name", "damage"), [(name, one) for name in SQL for one in DAMAGE[name]])
def test_damaged_row_fails_only_its_own_reader(
    name: str, damage: tuple[str, Any], open_place: Callable[[str], Place]
) -> None:
    place: Any = open_place(name)
    values = stored(place)
    bad, *good = values
    assignment, value = damage
    place.execute("UPDATE {task} SET {assignment} WHERE task_id = {mark}", value, bad, assignment=assignment)

    results = [AsyncResult(task_id, app=place.app) for task_id in good]
    assert ResultSet(results, app=place.app).get(timeout=PATIENCE) == [values[task_id] for task_id in good]
    assert set(place.store.get_many(values)) == set(values)
    assert {record.task_id for record in place.store.scan()} == set(values)
    assert {record.task_id for record in able(place.store, Queryable).query(TaskQuery())} == set(values)
    both = ResultSet([AsyncResult(bad, app=place.app), *results], app=place.app)
    found = both.join_native(timeout=PATIENCE, propagate=False, disable_sync_subtasks=False)
    assert found[1:] == [values[task_id] for task_id in good]
    if isinstance(found[0], Exception):
        with pytest.raises(errors.PayloadUnreadable, match=bad):
            AsyncResult(bad, app=place.app).get(timeout=PATIENCE)
        assert isinstance(found[0], errors.PayloadUnreadable)
    else:
        assert AsyncResult(bad, app=place.app).get(timeout=PATIENCE) == found[0] == values[bad]


def test_damaged_row_does_not_end_other_waits(place: Place) -> None:
    """A process waits for a task whose row is damaged, and for one that ends later."""
    bad, late = new_id(), new_id()
    stored(place, 1)
    waiting = {task_id: threading.Event() for task_id in (bad, late)}
    outcomes: dict[str, Any] = {}

    def wait(task_id: str) -> None:
        try:
            outcomes[task_id] = AsyncResult(task_id, app=place.app).get(timeout=PATIENCE)
        except Exception as exc:
            outcomes[task_id] = exc
        waiting[task_id].set()

    for task_id in waiting:
        threading.Thread(target=wait, args=(task_id,), daemon=True).start()
    request = Context(id=bad, task="a.task", rootcellar_sent_at="0001-01-01T00:00:00+14:00", retries=[1])
    place.backend.store_result(bad, "bad", "SUCCESS", request=request)
    assert waiting[bad].wait(PATIENCE)
    place.backend.store_result(late, "late", "SUCCESS")
    assert waiting[late].wait(PATIENCE)
    assert outcomes == {bad: "bad", late: "late"}


@pytest.mark.parametrize(
    ("header", "moment"), [("0001-01-01T00:00:00+14:00", EARLIEST), ("9999-12-31T23:59:59.999999-14:00", LATEST)]
)
def test_sent_header_beyond_all_dates_becomes_the_nearest_date(header: str, moment: datetime, place: Place) -> None:
    task_id = new_id()
    place.backend.store_result(task_id, 1, "SUCCESS", request=Context(id=task_id, task="t", rootcellar_sent_at=header))
    assert AsyncResult(task_id, app=place.app).get(timeout=PATIENCE) == 1
    record = place.store.get(task_id)
    assert record is not None
    assert record.sent_at == moment
    if isinstance(place.store, WritesBehind):
        assert place.store.drain_all() == 1
        durable: Any = place.store
        assert durable.durable.get(task_id).sent_at == moment


def test_error_of_a_damaged_row_names_the_task_and_the_field(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("postgres")
    (task_id,) = stored(place, 1)
    for column in ("result", "args", "stamps", "children"):
        place.execute("UPDATE {task} SET {column} = '1', {column}_exact = 'rc1'", column=column)
        with pytest.raises(errors.PayloadUnreadable, match=rf"(?s)the {column} of task '{task_id}' is damaged"):
            AsyncResult(task_id, app=place.app).get(timeout=PATIENCE)
        place.execute("UPDATE {task} SET {column} = NULL, {column}_exact = NULL", column=column)


def test_damaged_row_is_named_in_the_history(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("sqlite")
    bad, *good = stored(place, 3)
    place.execute("UPDATE celery_taskmeta SET retries = 'many', result_exact = 5 WHERE task_id = ?", bad)
    shown = run_cli("history", "--backend", place.store.url, "--json")
    assert shown.status == 0
    by_id = {one["task_id"]: one for one in json.loads(shown.out)}
    assert by_id.keys() == {bad, *good}
    assert by_id[bad]["unreadable"] == ["retries", "result"]
    assert by_id[good[0]]["result"] == ["value", 1]
    assert f"task {bad} is damaged, this cannot be read: retries, result" in shown.err


ODD_GROUPS = ["x", 1.5, True, [], 2**63]


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("sqlite", "x"),
        ("sqlite", b"\xff"),
        *(("redis", odd) for odd in ODD_GROUPS),
        *(("mongodb", odd) for odd in ODD_GROUPS[:4]),
    ],
)
def test_damaged_group_of_a_failure_is_none_and_named(name: str, odd: Any, open_place: Callable[[str], Place]) -> None:
    place: Any = open_place(name)
    task_id = new_id()
    stored = TaskRecord(
        **{"task_id": task_id, "state": "FAILURE", "result": Payload(b"42"), "done_at": datetime.now(timezone.utc)},
        failure_group=123456789,
    )
    place.store.put(stored)
    if name == "redis":
        place.redis.set(
            f"celery-task-meta-{task_id}", with_field(place, task_id, b"123456789", json.dumps(odd).encode())
        )
    elif name == "mongodb":
        place._tasks.update_one({"_id": task_id}, {"$set": {"failure_group": odd}})
    else:
        place.execute("UPDATE {task} SET failure_group = {mark}", odd)
    damaged = replace(stored, failure_group=None, damage=("failure_group",))
    assert place.store.get(task_id) == damaged
    assert place.store.get_many([task_id]) == {task_id: damaged}
    assert place.store.put(stored).written, "the next state has its own"
    assert place.store.get(task_id) == stored


def with_field(place: Any, task_id: str, old: bytes, new: bytes) -> bytes:
    """Return a task's blob in Redis with another text in its fields, and with their new length."""
    blob: bytes = place.redis.get(f"celery-task-meta-{task_id}")
    length = re.search(rb",(\d+),", blob)
    assert length is not None
    other = b",%d," % (int(length[1]) + len(new) - len(old))
    return blob.replace(length[0], other, 1).replace(old, new, 1)


def test_rekey_skips_a_damaged_row_and_names_it(place: Place) -> None:
    values = stored(place)
    if isinstance(place.store, WritesBehind):
        pytest.skip("moved results are rekeyed in the durable store")
    bad, *good = values
    place.keep()
    damage_result(place, bad)
    codec = Codec(sealer=Sealer(read_keys(make_key("k"), "a test")))
    done = Rekeyer(place.store, codec, unsealed=True).run()
    assert (done.changed, done.left) == (len(good), 1)
    assert bad in done.problems[0]
    for task_id in good:
        record = place.store.get(task_id)
        assert record is not None
        assert record.result is not None
        assert codec.decode(record.result, task_id=task_id) == values[task_id]


def damage_result(place: Any, task_id: str) -> None:
    """Make a task's result unreadable."""
    if isinstance(place, RedisPlace):
        key = f"celery-task-meta-{task_id}"
        blob: bytes = place.redis.get(key)
        place.redis.set(key, blob.replace(b'"status"', b'"states"'))
    elif isinstance(place, MongoPlace):
        place._tasks.update_one({"_id": task_id}, {"$set": {"result": {"a": 1}}})
    else:
        place.execute("UPDATE {task} SET result_exact = {mark} WHERE task_id = {mark}", b"rc1", task_id)


def test_damaged_record_does_not_stop_the_journal(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("write-behind")
    values = stored(place)
    first, second, third, *good = values
    place.redis.delete(f"celery-task-meta-{first}")
    place.redis.rpush(f"celery-task-meta-{first}", "a list")
    damage_result(place, second)
    blob = place.redis.get(f"celery-task-meta-{third}")
    place.redis.set(f"celery-task-meta-{third}", blob.replace(b'"a.task"', b'["task"]'))
    place.store.drain_all()
    assert place.store.lag().waiting == 0
    moved = place.store.durable.get_many(values)
    # an unreadable field of the call is left out; a record whose result is unreadable stays in Redis
    assert moved.keys() == {third, *good}
    assert place.store.lag().refused == 2
    for task_id in (third, *good):
        assert place.backend.meta_of(moved[task_id])["result"] == values[task_id]
    with pytest.raises(errors.PayloadUnreadable, match=second):
        AsyncResult(second, app=place.app).get(timeout=PATIENCE)


def test_damaged_copy_in_the_cache_is_ignored(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("write-through")
    (task_id,) = stored(place, 1)
    key = f"celery-task-meta-rootcellar-copy-{task_id}"
    assert place.store.get(task_id)
    with closing(redis.Redis.from_url(place.app.conf.result_backend_transport_options["cache_url"])) as cache:
        copy = cache.get(key)
        assert copy
        cache.set(key, copy.replace(b'"status"', b'"states"'))
    assert AsyncResult(task_id, app=place.app).get(timeout=PATIENCE) == ["value", 0]


def test_damaged_member_fails_only_its_own_place_in_a_group(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("sqlite")
    values = stored(place)
    bad, *good = values
    damage_result(place, bad)
    group = ResultSet([AsyncResult(task_id, app=place.app) for task_id in values], app=place.app)

    found = group.join_native(timeout=PATIENCE, propagate=False, disable_sync_subtasks=False)
    assert isinstance(found[0], errors.PayloadUnreadable)
    assert found[1:] == [values[task_id] for task_id in good]
    with pytest.raises(errors.PayloadUnreadable, match=bad):
        group.join_native(timeout=PATIENCE, disable_sync_subtasks=False)
    completed = dict(rootcellar.as_completed(group, timeout=PATIENCE, propagate=False))
    assert {task_id: completed[task_id] for task_id in good} == {task_id: values[task_id] for task_id in good}
    assert isinstance(completed[bad], errors.PayloadUnreadable)
    awaited = asyncio.run(rootcellar.result(group, timeout=PATIENCE, propagate=False))
    assert awaited[1:] == [values[task_id] for task_id in good]
    with pytest.raises(errors.PayloadUnreadable, match=bad):
        asyncio.run(rootcellar.result(group, timeout=PATIENCE))
    metas = dict(place.backend.get_many(values, timeout=PATIENCE))
    assert {task_id: metas[task_id]["result"] for task_id in good} == {task_id: values[task_id] for task_id in good}
    assert metas[bad]["status"] == "FAILURE"


def test_damaged_chord_does_not_stop_the_sweep(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("postgres")
    store = place.store
    for number in range(3):
        place.backend.apply_chord((f"chord {number}", []), place.app.signature("a.body").set(task_id=f"body {number}"))
        place.backend.set_chord_size(f"chord {number}", 0)
        context = Context(id=new_id(), task="t", group=f"chord {number}", group_index=0, chord={"task": "a.body"})
        store.count_part(place.backend.chords.part_of(context, "SUCCESS", 1, holds_result=True), lease=0.0)
    place.execute("UPDATE celery_taskmeta_chord SET size = 1, extra = 2147483647 WHERE group_id = 'chord 1'")
    assert set(store.orphaned_chords(place.backend.chords.owner)) == {"chord 0", "chord 2"}


# -- ids


def test_uuid_is_accepted_as_an_id_everywhere(place: Place) -> None:
    task_id, other, group_id = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    app, backend = place.app, place.backend
    with pytest.raises(TimeoutError):
        AsyncResult(task_id, app=app).get(timeout=0.01)
    backend.store_result(task_id, 1, "SUCCESS", request=Context(id=task_id, task="t", group=group_id, parent_id=other))
    backend.store_result(str(other), 2, "SUCCESS")
    for key in (task_id, str(task_id), str(task_id).encode()):
        assert AsyncResult(key, app=app).get(timeout=PATIENCE) == 1
        assert AsyncResult(key, app=app).state == "SUCCESS"
        assert backend.task_result_exists(key)
    record = place.store.get(str(task_id))
    assert record is not None
    assert (record.group_id, record.parent_id) == (str(group_id), str(other))

    results = [AsyncResult(task_id, app=app), AsyncResult(other, app=app)]
    both = ResultSet(results, app=app)
    assert both.join_native(timeout=PATIENCE, disable_sync_subtasks=False) == [1, 2]
    # the keys are the ids of the results
    assert {key: meta["result"] for key, meta in both.iter_native(timeout=PATIENCE)} == {task_id: 1, other: 2}
    assert dict(rootcellar.as_completed(results, timeout=PATIENCE)) == {str(task_id): 1, str(other): 2}
    assert {key: meta["result"] for key, meta in backend.get_many([task_id, other], timeout=PATIENCE)} == {
        str(task_id): 1,
        str(other): 2,
    }
    assert asyncio.run(rootcellar.result(results[0], timeout=PATIENCE)) == 1
    assert asyncio.run(last_state(results[0])) == "SUCCESS"

    GroupResult(group_id, results, app=app).save()
    for key in (group_id, str(group_id)):
        restored = GroupResult.restore(key, backend=backend, app=app)
        assert [str(result.id) for result in restored.results] == [str(task_id), str(other)]
    backend.delete_group(group_id)
    assert GroupResult.restore(str(group_id), backend=backend, app=app) is None
    AsyncResult(task_id, app=app).forget()
    assert place.store.get(str(task_id)) is None
    assert AsyncResult(task_id, app=app).state == "PENDING"


async def last_state(task: Any) -> str:
    states = [change.state async for change in rootcellar.watch(task, timeout=PATIENCE)]
    return states[-1]


# -- headers


@pytest.mark.parametrize(
    "given",
    [
        {"parent_id": 5, "root_id": uuid.UUID(int=5), "retries": "3", "group_index": 2.0, "hostname": b"host"},
        {"parent_id": {}, "root_id": [], "retries": [1], "group_index": "x", "hostname": {"a": 1}},
        {"parent_id": "x" * 100_000, "root_id": "\x00", "retries": 2**80, "group_index": -1, "hostname": "x" * 100_000},
        {"group": 12, "group_index": 2**40, "task": ["t"], "delivery_info": 5, "stamps": 5, "stamped_headers": 5},
        {"stamped_headers": [["a"]], "stamps": {"a": object()}, "delivery_info": {"routing_key": {}}},
        {"rootcellar_sent_at": {"a": 1}, "rootcellar_started_at": "noon", "result_synchronous_commit": {}},
        {"group": "\ud800", "group_index": float("nan"), "chord": {"task": "t"}},
        {"group": "x" * 5_000, "group_index": [], "chord": {"task": "t"}},
    ],
)
def test_odd_header_does_not_lose_the_tasks_result(given: dict[str, Any], place: Place) -> None:
    task_id = new_id()
    place.backend.store_result(task_id, ["mine"], "SUCCESS", request=Context(**{"id": task_id, "task": "t", **given}))
    assert AsyncResult(task_id, app=place.app).get(timeout=PATIENCE) == ["mine"]
    if isinstance(place.store, WritesBehind):
        place.store.drain_all()
        durable: Any = place.store
        assert durable.durable.get(task_id) is not None


def test_empty_routing_key_names_no_queue(place: Place) -> None:
    """A message of a fanout exchange has one."""
    task_id = new_id()
    request = Context(id=task_id, task="t", delivery_info={"routing_key": ""})
    place.backend.store_result(task_id, 1, "SUCCESS", request=request)
    record = place.backend.store.get(task_id)
    assert record is not None
    assert record.queue is None


def test_header_of_another_type_is_converted_if_unambiguous(place: Place) -> None:
    task_id = new_id()
    given = {"parent_id": 5, "root_id": uuid.UUID(int=5), "retries": "3", "group": 12, "group_index": 2.0}
    place.backend.store_result(task_id, 1, "SUCCESS", request=Context(id=task_id, task="t", hostname=b"host", **given))
    record = place.store.get(task_id)
    assert record is not None
    found = (record.parent_id, record.root_id, record.retries, record.group_id, record.group_index, record.worker)
    assert found == ("5", "00000000-0000-0000-0000-000000000005", 3, "12", 2, "host")


# -- shared commits


def test_chord_part_of_an_odd_group_does_not_fail_its_batch(open_place: Callable[[str], Place]) -> None:
    place = open_place("postgres")
    ids = [new_id() for _ in range(300)]

    def store(number: int) -> None:
        odd = {"group": 5, "group_index": "x", "chord": {"task": "t"}} if number % 10 == 0 else {}
        request = Context(**{"id": ids[number], "task": "t", "ignore_result": True, **odd})
        place.backend.store_result(ids[number], number, "SUCCESS", request=request)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(store, range(len(ids))))
    found = place.store.get_many(ids)
    assert [place.backend.meta_of(found[task_id])["result"] for task_id in ids] == list(range(len(ids)))


@pytest.mark.parametrize("order", [(5, "id"), ("group", None), (b"group", "id")])
def test_write_of_another_type_is_refused_before_it_is_queued(order: Any) -> None:
    statement = Statement("nothing", "SELECT 1")
    with pytest.raises(errors.RecordRefused, match="another type"):
        Write("id", statement, ((), ()), order, is_durable=True, is_ready=True)
    with pytest.raises(errors.RecordRefused, match="another type"):
        Write("id", statement, ((5,), (0,)), ("", ""), is_durable=True, is_ready=True)  # type: ignore[arg-type]


def test_record_that_cannot_be_sent_is_refused_alone(open_place: Callable[[str], Place]) -> None:
    """The driver itself fails for one record of a batch."""
    place: Any = open_place("postgres")
    place.store.check()
    ids = [new_id() for _ in range(60)]
    refused: list[str] = []

    real = place.store._write

    def write(new_write: Callable[[], Write]) -> Write:
        def spoilt() -> Write:
            one = new_write()
            if one.task_id in ids[::10]:
                one.values = (("no bytes",) * len(one.values[0]), one.values[1])
            return one

        return real(spoilt)

    place.store._write = write

    def store(task_id: str) -> None:
        try:
            place.store.put(TaskRecord(task_id=task_id, state="SUCCESS", done_at=datetime.now(timezone.utc)))
        except errors.RecordRefused:
            refused.append(task_id)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(store, ids))
    assert sorted(refused) == sorted(ids[::10])
    assert place.store.get_many(ids).keys() == set(ids) - set(ids[::10])


# -- records of older versions and other programs


def mongo_tasks(place: Any) -> Any:
    return place._tasks


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Celery 4.0 to 4.2 encoded tracebacks and children
        ({"status": "SUCCESS", "result": "5", "traceback": "null", "children": "[]"}, ("SUCCESS", 5, None, [])),
        (
            {"status": "SUCCESS", "result": "5", "traceback": "null", "children": '[[["child", null], null]]'},
            ("SUCCESS", 5, None, ["child"]),
        ),
        (
            {"status": "RETRY", "result": "5", "traceback": '"Traceback: \\u00fc"', "children": "[]"},
            ("RETRY", None, "Traceback: \u00fc", []),
        ),
        ({"status": "SUCCESS", "result": "5", "traceback": None, "children": []}, ("SUCCESS", 5, None, [])),
    ],
)
def test_mongodb_document_of_an_old_celery_is_read(
    given: dict[str, Any], expected: tuple[Any, ...], open_place: Callable[[str], Place]
) -> None:
    place = open_place("mongodb")
    task_id = new_id()
    mongo_tasks(place).insert_one({"_id": task_id, "date_done": datetime(2018, 1, 1, 12), **given})
    result = AsyncResult(task_id, app=place.app)
    state, value, traceback, children = expected
    assert (result.state, result.traceback) == (state, traceback)
    assert [child.id for child in result.children] == children
    if state == "SUCCESS":
        assert result.get(timeout=PATIENCE) == value


def test_mongodb_document_of_pickles_is_refused_or_read(open_place: Callable[[str], Place]) -> None:
    place = open_place("mongodb")
    task_id = new_id()
    pickled = {name: pickle.dumps(value, 2) for name, value in (("result", 5), ("traceback", None), ("children", []))}
    mongo_tasks(place).insert_one({"_id": task_id, "status": "SUCCESS", "date_done": datetime(2018, 1, 1), **pickled})
    with pytest.raises(errors.RootcellarError, match=task_id):
        AsyncResult(task_id, app=place.app).get(timeout=PATIENCE)
    place.app.conf.result_accept_content = ["json", "pickle"]
    place.backend.codec.accept = {"application/json", "application/x-python-serialize"}
    assert AsyncResult(task_id, app=place.app).get(timeout=PATIENCE) == 5


@pytest.mark.parametrize("odd", [None, 5, "x", [1], datetime(2018, 1, 1)])
def test_damaged_mongodb_document_takes_the_next_state(odd: Any, open_place: Callable[[str], Place]) -> None:
    place = open_place("mongodb")
    values = stored(place, 2)
    late, sealed = values
    mongo_tasks(place).update_one({"_id": late}, {"$set": {"rootcellar": odd, "status": "STARTED"}})
    place.backend.store_result(late, "late", "SUCCESS")
    assert AsyncResult(late, app=place.app).get(timeout=PATIENCE) == "late"

    mongo_tasks(place).update_one({"_id": sealed}, {"$set": {"rootcellar": odd}})
    codec = Codec(sealer=Sealer(read_keys(make_key("k"), "a test")))
    assert Rekeyer(place.store, codec, unsealed=True).run().changed == 2
    record = place.store.get(sealed)
    assert record is not None
    assert record.result is not None
    assert codec.decode(record.result, task_id=sealed) == values[sealed]


@pytest.mark.parametrize("odd", [5, bson.ObjectId(), [1], {"a": 1}, None])
def test_mongodb_document_of_odd_types_fails_only_its_reader(odd: Any, open_place: Callable[[str], Place]) -> None:
    place = open_place("mongodb")
    values = stored(place, 3)
    bad = new_id()
    document = dict.fromkeys(("status", "result", "traceback", "children", "date_done", "rootcellar", "name"), odd)
    mongo_tasks(place).insert_one({"_id": bad, **document})
    found = dict(place.backend.get_many(values, timeout=PATIENCE))
    assert {task_id: meta["result"] for task_id, meta in found.items()} == values
    assert {record.task_id for record in place.store.scan()} == {bad, *values}
    with pytest.raises(errors.PayloadUnreadable, match=bad):
        AsyncResult(bad, app=place.app).get(timeout=PATIENCE)


def test_stock_result_without_a_date_has_none(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("redis")
    task_id = new_id()
    place.redis.set(f"celery-task-meta-{task_id}", b'{"status": "SUCCESS", "result": 5}')
    result = AsyncResult(task_id, app=place.app)
    assert result.get(timeout=PATIENCE) == 5
    assert result.date_done is None

    async def followed() -> Any:
        return [change.done_at async for change in rootcellar.watch(result, timeout=PATIENCE)]

    assert asyncio.run(followed()) == [None]
    mongo = open_place("mongodb")
    mongo_tasks(mongo).insert_one({"_id": task_id, "status": "SUCCESS", "result": "5"})
    other = AsyncResult(task_id, app=mongo.app)
    assert other.get(timeout=PATIENCE) == 5
    assert other.date_done is None


def test_pickled_stock_result_is_an_error_that_names_pickle(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("redis")
    task_id = new_id()
    place.redis.set(f"celery-task-meta-{task_id}", PICKLED)
    values = stored(place, 3)
    with pytest.raises(errors.PayloadUnreadable, match=rf"{task_id}.* pickle"):
        AsyncResult(task_id, app=place.app).get(timeout=PATIENCE)
    assert {record.task_id for record in able(place.store, Queryable).query(TaskQuery())} == {task_id, *values}


def test_missing_date_is_shown_as_none(open_place: Callable[[str], Place]) -> None:
    place: Any = open_place("redis")
    (task_id,) = stored(place, 1)
    record = place.store.get(task_id)
    assert json_object(replace(record, done_at=NO_DATE))["done_at"] is None
