"""Lists of tasks: their order, their pages, and what a page says about itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from rootcellar.errors import AbilityMissing
from rootcellar.history.cursors import CursorWrong
from rootcellar.history.filters import FilterWrong
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import HasSchema
from rootcellar.stores.search import SearchTooSlow
from tests.history.stores import ALL, SQL, opened
from tests.older.at_once import OLDER
from tests.test_store_adopted import place  # noqa: F401 - a fixture

NOW = datetime.now(timezone.utc).replace(microsecond=0)


@pytest.fixture(params=[*ALL, OLDER], ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture
def history(store: Store) -> History:
    return History(store, codec_of({}), zone=timezone.utc)


def done(number: int, **fields: object) -> TaskRecord:
    moment = NOW - timedelta(minutes=number)
    values = {"state": "SUCCESS", "name": "shop.pay", "sent_at": moment, "started_at": moment, "done_at": moment}
    return TaskRecord(task_id=f"task-{number:03}", **{**values, **fields})  # type: ignore[arg-type]


def fill(store: Store) -> None:
    for number in range(25):
        store.put(done(number))
    # two that ended at the same moment as another one
    store.put(replace(done(3), task_id="task-x"))
    store.put(replace(done(3), task_id="task-A"))
    store.put(TaskRecord(task_id="started", state="STARTED", started_at=NOW - timedelta(hours=2)))
    store.put(TaskRecord(task_id="sent", state="RETRY", sent_at=NOW - timedelta(hours=1)))
    store.put(TaskRecord(task_id="timeless", state="PACKED"))


def ids(records: Iterator[TaskRecord] | list[TaskRecord]) -> list[str]:
    return [record.task_id for record in records]


def test_pages_together_are_the_whole_list_in_its_order(store: Store, history: History) -> None:
    fill(store)
    whole = ids(list(history.tasks(size=100)))
    assert whole[:3] == ["timeless", "sent", "started"]
    assert [each for each in whole[3:] if each not in ("task-x", "task-A")] == [f"task-{n:03}" for n in range(25)]
    assert set(whole[6:9]) == {"task-003", "task-x", "task-A"}
    pages, cursor = [], None
    for _ in range(40):
        page = history.tasks(size=4, after=cursor).page()
        pages += ids(page.records)
        cursor = page.cursor
        if cursor is None:
            break
    assert pages == whole
    assert ids(list(history.tasks(size=1))) == whole


def test_page_goes_on_after_its_last_record_was_deleted(store: Store, history: History) -> None:
    fill(store)
    whole = ids(list(history.tasks(size=100)))
    page = history.tasks(size=10).page()
    store.delete(ids(page.records))
    assert ids(history.tasks(size=100, after=page.cursor).page().records) == whole[10:]


def test_filter_narrows_every_page(store: Store, history: History) -> None:
    fill(store)
    store.put(done(30, state="FAILURE", name="shop.mail"))
    store.put(done(31, state="FAILURE", name="shop.mail", queue="low"))
    assert ids(list(history.tasks("state:failed -queue:low", size=1))) == ["task-030"]
    assert ids(list(history.tasks("task:shop.m*", size=1))) == ["task-030", "task-031"]
    assert ids(list(history.tasks("state:unfinished"))) == ["timeless", "sent", "started"]


def test_cursor_of_another_list_is_refused(store: Store, history: History) -> None:
    fill(store)
    cursor = history.tasks("state:succeeded", size=3).page().cursor
    with pytest.raises(CursorWrong, match="another list"):
        history.tasks("state:failed", after=cursor)
    for damaged in ("", "x", "é", str(cursor)[:-3], "W10"):
        with pytest.raises(CursorWrong):
            history.tasks("state:succeeded", after=damaged)
    values = json.loads(base64.urlsafe_b64decode(f"{cursor}=="))
    for at, forged in (
        (0, 2),
        (2, 9),
        (3, 2**61),
        (3, 1.5),
        (3, None),
        (4, "a\x00"),
        (4, 5),
        (5, 10**30),
        (6, -1.0),
    ):
        changed = [*values[:at], forged, *values[at + 1 :]]
        text = base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip("=")
        with pytest.raises(CursorWrong, match="not the place"):
            history.tasks("state:succeeded", after=text)


def test_filter_that_is_wrong_is_refused_before_anything_is_read(history: History) -> None:
    with pytest.raises(FilterWrong):
        history.tasks("stat:failed")
    with pytest.raises(ValueError, match="between 1"):
        history.tasks(size=0)


def test_moments_stay_the_same_from_page_to_page(store: Store, history: History) -> None:
    fill(store)
    first = history.tasks("since:1h", size=2).page()
    later = history.tasks("since:1h", size=2, after=first.cursor).page()
    assert first.sentence == later.sentence


@pytest.fixture(params=[*SQL, OLDER], ids=lambda store: store.name)
def sql_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


def sql_history(store: Store, **conf: object) -> History:
    return History(store, codec_of(conf), zone=timezone.utc)


@pytest.mark.parametrize("text", ["queue:low", "-queue:high", "state:succeeded queue:low", "task:shop.* queue:low"])
def test_search_without_an_index_ends_with_its_time_and_goes_on(sql_store: Store, text: str) -> None:
    days = [NOW - timedelta(days=number) for number in range(0, 40, 4)]
    for number, moment in enumerate(days):
        queue = "low" if number % 3 == 0 else "high"
        sql_store.put(done(number, done_at=moment, queue=queue))
        sql_store.put(done(100 + number, done_at=moment, queue=queue, name="mail.send"))
    history = sql_history(sql_store)
    whole = ids(list(history.tasks(text)))
    assert len(whole) == (4 if "task:" in text else 8)
    # no time at all: each page has what its first statement found
    found, backs, cursor = [], [], None
    for _ in range(100):
        page = history.tasks(text, size=3, after=cursor, budget=0.0).page()
        found += ids(page.records)
        backs += [page.searched_back_to] if page.searched_back_to is not None else []
        cursor = page.cursor
        if cursor is None:
            break
    assert found == whole
    # each page came further back than the one before
    assert backs
    assert backs == sorted(backs, reverse=True)


def test_list_is_sorted_by_a_value_within_a_stretch_of_time(store: Store, history: History) -> None:
    for number in range(8):
        ended = NOW - timedelta(minutes=number)
        length = timedelta(seconds=(number * 5) % 8, microseconds=number % 2)
        store.put(done(number, done_at=ended, started_at=ended - length, retries=number % 3))
    store.put(done(50, started_at=None))
    whole = [record.done_at - record.started_at for record in history.tasks("sort:runtime since:1h", size=3)]
    assert len(whole) == 8
    assert whole == sorted(whole)
    falling = ids(list(history.tasks("sort:-runtime since:1h", size=3)))
    assert falling == ids(list(history.tasks("sort:runtime since:1h", size=3)))[::-1]
    newest = ids(list(history.tasks("sort:-done since:1h")))
    assert ids(list(history.tasks("sort:done since:1h", size=3)))[::-1] == newest
    retries = [record.retries for record in history.tasks("sort:-retries since:1h retries:any", size=3)]
    assert retries == [2, 2, 1, 1, 1, 0, 0, 0]


def test_order_that_would_read_every_task_is_refused(sql_store: Store) -> None:
    history = sql_history(sql_store)
    with pytest.raises(FilterWrong, match="would read every task") as caught:
        history.tasks("state:failed sort:-runtime").page()
    assert caught.value.position == len("state:failed ")
    assert not list(history.tasks("sort:-done"))


def test_encrypted_values_are_found_with_their_key_and_counted_without(store: Store) -> None:
    keys = {"result_encryption_keys": f"k1:{base64.b64encode(bytes(32)).decode()}"}
    codec = codec_of(keys)
    for number in range(3):
        store.put(done(number, kwargs=codec.encode({"order_id": number}, task_id=f"task-{number:03}", field="kwargs")))
    store.put(done(9, kwargs=Payload(b'{"order_id": 1}')))
    asked = "kwargs.order_id:1"
    page = History(store, codec_of(keys)).tasks(asked).page()
    assert ids(list(page.records)) == ["task-001", "task-009"]
    assert page.unread == 0
    page = History(store, codec_of({})).tasks(asked).page()
    assert ids(list(page.records)) == ["task-009"]
    assert page.unread == 3
    assert set(ids(list(History(store, codec_of({})).tasks("is:encrypted")))) == {"task-000", "task-001", "task-002"}


def test_list_without_values_does_not_read_them(sql_store: Store) -> None:
    sql_store.put(done(1, result=Payload(b'"large"'), args=Payload(b"[1]"), traceback="long"))
    history = sql_history(sql_store)
    (light,) = history.tasks("state:any", with_values=False)
    assert (light.result, light.traceback) == (None, None)
    assert light.args == Payload(b"[1]")
    # a filter that asks for a value reads it
    (heavy,) = history.tasks("result:large", with_values=False)
    assert heavy.result == Payload(b'"large"')


def test_store_with_too_many_records_and_no_index_says_so(redis_url: str) -> None:
    store = open_store(redis_url)
    for number in range(1_001):
        store.put(done(number))
    history = History(store, codec_of({}))
    with pytest.raises(AbilityMissing, match="no index") as caught:
        history.tasks(budget=0.0).page()
    assert "budget" in caught.value.remedy
    assert len(history.tasks(size=2_000).page().records) == 1_001
    store.close()


def test_search_that_waits_for_a_lock_ends_with_a_clear_error(postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.put(done(1))
    history = History(store, codec_of({}))
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SearchTooSlow) as caught:
            history.tasks(budget=0.05).page()
        assert caught.value.retryable
    assert len(list(history.tasks())) == 1
    store.close()


def test_tasks_of_celerys_own_table_come_last(place: str) -> None:  # noqa: F811
    store = open_store(place)
    schema = store.ability(HasSchema)
    assert schema is not None
    schema.schema.adopt(None)
    store.put(done(1))
    # it ended again since then, so its new record counts
    store.put(TaskRecord(task_id="bad", state="STARTED", started_at=NOW))
    history = sql_history(store)
    assert ids(list(history.tasks(size=1))) == ["bad", "task-001", "good"]
    assert ids(list(history.tasks("task:shop.pack"))) == ["good"]
    assert ids(list(history.tasks("args.a:2"))) == ["good"]
    assert ids(list(history.tasks("state:failed"))) == []
    assert ids(list(history.tasks("sort:-done"))) == ["task-001", "good"]
    store.close()
