"""The ability to keep holds, on each SQL store and on the hybrids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.search import Always, Every, MoreHolds, Negated, OneOf, Timed
from tests.conformance.registered import HYBRID, MONGO, MYSQL, PGBOUNCER, POSTGRES, REDIS, SQLITE, WRITE_BEHIND
from tests.history.stores import opened

NOW = datetime.now(timezone.utc).replace(microsecond=123456)
SQL = [SQLITE, POSTGRES, PGBOUNCER, MYSQL, HYBRID]


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture
def holding(store: Store) -> Holding:
    found = store.ability(Holding)
    assert found is not None
    return found


def done(number: int, **fields: object) -> TaskRecord:
    record = TaskRecord(task_id=f"task-{number}", state="SUCCESS", name="shop.pay", done_at=NOW)
    return replace(record, **fields)  # type: ignore[arg-type]


def test_released_hold_stays_on_record(holding: Holding) -> None:
    first = holding.place_hold("task:shop.*", "a lawsuit; 'quoted' \\ ü 😀", "ann", NOW)
    second = holding.place_hold("id:x", "an audit", "bob", NOW)
    assert [hold.id for hold in holding.holds()] == [first.id, second.id]
    assert first.placed_at == NOW
    assert first.reason == "a lawsuit; 'quoted' \\ ü 😀"
    assert first.is_active
    later = NOW + timedelta(hours=1)
    released = holding.release_hold(first.id, "eve", later)
    assert released == replace(first, released_by="eve", released_at=later)
    assert holding.holds() == [second]
    assert holding.holds(with_released=True) == [released, second]
    # what was recorded first stays
    assert holding.release_hold(first.id, "mallory", later + timedelta(hours=1)) is None
    assert holding.release_hold(999, "eve", later) is None
    assert holding.holds(with_released=True)[0].released_by == "eve"


def test_deletion_spares_what_meets_a_condition(store: Store, holding: Holding) -> None:
    store.put(done(1))
    store.put(done(2, name="shop.mail"))
    store.put(TaskRecord(task_id="task-3", state="STARTED", started_at=NOW))
    removed = holding.delete_spared(["task-1", "task-2", "task-3", "none"], OneOf("name", ("shop.mail",)))
    assert (removed.count, removed.kept) == (2, {"task-2"})
    assert store.get_many(["task-1", "task-2", "task-3"]).keys() == {"task-2"}


def test_time_of_a_condition_counts_for_a_row_in_any_segment(store: Store, holding: Holding) -> None:
    before, after = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    times = {"done": "done_at", "started": "started_at", "sent": "sent_at"}
    ids = []
    for name, field in times.items():
        for word, moment in (("before", before), ("after", after)):
            ids.append(f"{name}-{word}")
            state = "SUCCESS" if name == "done" else "STARTED"
            store.put(TaskRecord(task_id=ids[-1], state=state, **{field: moment}))  # type: ignore[arg-type]
    removed = holding.delete_spared(ids, Timed(NOW, None))
    assert removed.kept == {"done-after", "started-after", "sent-after"}


def test_deletion_spares_all_if_another_hold_was_placed(store: Store, holding: Holding) -> None:
    store.put(done(1))
    holding.release_hold(holding.place_hold("id:x", "r", "ann", NOW).id, "ann", NOW)
    # also a task whose record is in no table, or in another one
    assert holding.delete_spared(["task-1", "none"], MoreHolds(0)).kept == {"task-1", "none"}
    assert holding.delete_spared(["task-1"], MoreHolds(1)).count == 1


def test_deletion_by_a_negated_condition_spares_rows_without_a_value(store: Store, holding: Holding) -> None:
    store.put(done(1, queue="low"))
    store.put(done(2))
    held = Every((Always(True), Negated(OneOf("queue", ("low",)))))
    assert holding.delete_spared(["task-1", "task-2"], held).kept == {"task-2"}


def test_deletion_of_held_rows_counts_only_what_it_deletes(store: Store, holding: Holding) -> None:
    for number in range(30):
        store.put(done(number, queue="low" if number % 2 else "high"))
    removed = holding.delete_spared([f"task-{n}" for n in range(30)], OneOf("queue", ("low",)))
    assert (removed.count, len(removed.kept)) == (15, 15)


@pytest.mark.parametrize("under_test", [WRITE_BEHIND], ids=lambda store: store.name)
def test_write_behind_keeps_holds_in_its_durable_store(under_test, request: pytest.FixtureRequest) -> None:  # type: ignore[no-untyped-def]
    with opened(under_test, request) as store:
        holding = store.ability(Holding)
        assert holding is not None
        hold = holding.place_hold("id:x", "r", "ann", NOW)
        assert store.durable.ability(Holding).holds() == [hold]  # type: ignore[attr-defined]
        store.put(done(1))
        assert holding.delete_spared(["task-1"], Always(False)).count == 1
        assert store.get("task-1") is None


@pytest.mark.parametrize("under_test", [REDIS, MONGO], ids=lambda store: store.name)
def test_store_whose_server_deletes_keeps_no_holds(under_test, request: pytest.FixtureRequest) -> None:  # type: ignore[no-untyped-def]
    with opened(under_test, request) as store:
        assert store.ability(Holding) is None
