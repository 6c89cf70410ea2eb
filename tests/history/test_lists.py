"""Lists of tasks: their order, their pages, and what a page says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.history.cursors import CursorWrong
from rootcellar.history.filters import FilterWrong
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from tests.history.stores import ALL, opened

NOW = datetime.now(timezone.utc).replace(microsecond=0)


@pytest.fixture(params=ALL, ids=lambda store: store.name)
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
