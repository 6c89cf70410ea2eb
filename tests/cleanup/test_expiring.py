"""The ability to delete expired rows in batches, of every SQL store, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from rootcellar.records import ChordPart, ChordRecord, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.counting import Counted, Question
from rootcellar.stores.expiring import Deleted, Due, Expiring, Place
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.search import Condition, Failed, Like, OneOf, Some, Timed
from rootcellar.stores.sql.statements import fill_in
from rootcellar.stores.sqlite import SQLiteStore
from rootcellar.testing.helpers import NOW, able, json_payload, new_id, record
from tests.history.stores import SQL, opened

SECOND = timedelta(seconds=1)


@pytest.fixture(params=SQL, ids=str)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def expiring(store: Store) -> Expiring:
    return able(store, Expiring)


def put_due(store: Store, count: int, **given: object) -> list[TaskRecord]:
    """Store records that expired one after the other before ``NOW``; return them in this order."""
    found = [record(expires_at=NOW - (count - number) * SECOND, **given) for number in range(count)]
    for one in reversed(found):
        store.put(one)
    return found


def left(store: Store) -> set[str]:
    return {one.task_id for one in store.scan()}


def ids(records: object) -> list[str]:
    return [one.task_id for one in records]  # type: ignore[attr-defined]


def test_batch_goes_on_where_the_one_before_ended(store: Store, expiring: Expiring) -> None:
    records = put_due(store, 5)
    first = expiring.delete_expired_tasks(Due(now=NOW, limit=2))
    assert first == Deleted(2, Place(NOW - 4 * SECOND, records[1].task_id))
    # a row that expires before the place of the last batch is left for the next run
    late = record(expires_at=NOW - 100 * SECOND)
    store.put(late)
    second = expiring.delete_expired_tasks(Due(now=NOW, limit=2, after=first.last))
    assert second == Deleted(2, Place(NOW - 2 * SECOND, records[3].task_id))
    assert expiring.delete_expired_tasks(Due(now=NOW, limit=2, after=second.last)) == Deleted(1, None)
    assert left(store) == {late.task_id}


def test_rows_that_expire_together_are_each_looked_at_once(store: Store, expiring: Expiring) -> None:
    together = [record(expires_at=NOW - SECOND, name="gone" if number % 2 else "kept") for number in range(9)]
    for one in together:
        store.put(one)
    # this one has moved to another place in the table
    store.put(replace(together[1], traceback="x" * 1_000))
    spared = OneOf("name", ("kept",))
    for look_at in (expiring.count_expired, expiring.delete_expired_tasks):
        last, seen = None, []
        while True:
            found = look_at(Due(now=NOW, limit=2, after=last, spared=spared))
            seen.append(found.count + found.spared)
            if found.last is None:
                break
            window = Due(now=NOW, after=last, until=found.last, wanted=spared)
            assert len(expiring.expired(window)) == found.spared
            last = found.last
        assert seen == [2, 2, 2, 2, 1]
    assert left(store) == set(ids(together[::2]))


@pytest.mark.parametrize("spared", [None, OneOf("name", ("kept",))], ids=["all", "spared"])
def test_rows_that_expire_together_are_not_sorted_for_each_batch(
    store: Store, expiring: Expiring, spared: Condition | None
) -> None:
    for _ in range(50):
        store.put(record(expires_at=NOW - SECOND))
    first = expiring.delete_expired_tasks(Due(now=NOW, limit=20, spared=spared))
    rows = store._due_rows(Due(now=NOW, limit=20, after=first.last, spared=spared))  # type: ignore[attr-defined]
    if isinstance(store, PostgresStore):
        text, params = store._deletion(rows)
        plan = [line for (line,) in store._deleted(f"EXPLAIN {text}", params, 30.0)]
        (found,) = (number for number, line in enumerate(plan) if line.strip() == "CTE due")
        assert "Index Scan using" in "".join(plan[found : found + 4]), "not sorted"
        assert "Sort" not in "".join(plan[found : found + 4])
        return
    explain = "EXPLAIN QUERY PLAN" if isinstance(store, SQLiteStore) else "EXPLAIN"
    text = f"{explain} {fill_in(store._sql['due_tasks'], rows.names)}"  # type: ignore[attr-defined]
    plan = store._run(lambda connection: store._searched(connection, text, rows.params, 30.0))  # type: ignore[attr-defined]
    assert "TEMP B-TREE" not in str(plan)
    assert "filesort" not in str(plan)


def test_row_that_is_spared_stays_and_the_next_batch_goes_on_after_it(store: Store, expiring: Expiring) -> None:
    records = [*put_due(store, 6, name="kept"), record(name="gone", expires_at=NOW - SECOND / 2)]
    store.put(records[-1])
    spared = OneOf("name", ("kept",))
    first = expiring.delete_expired_tasks(Due(now=NOW, limit=6, spared=spared))
    assert (first.count, first.spared) == (0, 6)
    assert first.last == Place(NOW - SECOND, records[5].task_id)
    assert expiring.delete_expired_tasks(Due(now=NOW, limit=6, after=first.last, spared=spared)) == Deleted(1, None)
    assert left(store) == set(ids(records[:6]))


@pytest.mark.parametrize(
    "spared",
    [
        Failed(),
        Timed(NOW - SECOND, None),
        OneOf("status", ("FAILURE", "RETRY", "STARTED")),
        Some((Failed(), Like("name", ("a.", "")))),
    ],
    ids=str,
)
def test_condition_is_tested_for_finished_and_unfinished_rows(
    store: Store, expiring: Expiring, spared: Condition
) -> None:
    old = NOW - timedelta(hours=1)
    records = {
        "success": record(done_at=old),
        "failure": record(state="FAILURE", done_at=NOW),
        "retry": record(state="RETRY", done_at=None, started_at=NOW, name="a.b"),
        "started": record(state="STARTED", done_at=None, started_at=old),
        "timeless": record(state="SENT", done_at=None, name="b.a"),
    }
    for one in records.values():
        store.put(replace(one, expires_at=NOW - SECOND))
    expected = {
        Failed(): {"failure", "retry"},
        Timed(NOW - SECOND, None): {"failure", "retry"},
        OneOf("status", ("FAILURE", "RETRY", "STARTED")): {"failure", "retry", "started"},
        Some((Failed(), Like("name", ("a.", "")))): {"failure", "retry"},
    }[spared]
    due = Due(now=NOW, spared=spared)
    assert expiring.count_expired(due) == Deleted(5 - len(expected), None, len(expected))
    assert expiring.delete_expired_tasks(due) == Deleted(5 - len(expected), None, len(expected))
    assert left(store) == {records[name].task_id for name in expected}


def test_expired_rows_are_read_in_their_order_between_two_places(store: Store, expiring: Expiring) -> None:
    records = put_due(store, 6, name="one.task")
    store.put(record(expires_at=NOW))
    store.put(record(expires_at=None))
    assert list(expiring.expired(Due(now=NOW))) == [store.get(each) for each in ids(records)]
    places = [Place(one.expires_at, one.task_id) for one in records if one.expires_at]
    between = Due(now=NOW, after=places[0], until=places[3], limit=100)
    assert ids(expiring.expired(between)) == ids(records[1:4])
    assert ids(expiring.expired(replace(between, limit=2))) == ids(records[1:3])
    assert ids(expiring.expired(replace(between, wanted=OneOf("name", ("another",))))) == []
    without = expiring.expired(replace(between, with_values=False, limit=1))
    assert [(one.task_id, one.result) for one in without] == [(records[1].task_id, None)]
    assert left(store) >= set(ids(records))


def test_count_is_what_would_be_deleted(store: Store, expiring: Expiring) -> None:
    records = put_due(store, 5)
    store.put(record(expires_at=NOW + SECOND))
    first = expiring.count_expired(Due(now=NOW, limit=3))
    assert first == Deleted(3, Place(NOW - 3 * SECOND, records[2].task_id))
    assert expiring.count_expired(Due(now=NOW, limit=3, after=first.last)) == Deleted(2, None)
    assert expiring.count_expired(Due(now=NOW - timedelta(days=1))) == Deleted(0, None)
    assert len(left(store)) == 6


def test_row_that_was_stored_again_is_not_deleted_as_unchanged(store: Store, expiring: Expiring) -> None:
    same, again, gone = put_due(store, 3, state="FAILURE", result=json_payload("x"))
    read = expiring.expired(Due(now=NOW))
    store.put(replace(again, state="SUCCESS", expires_at=NOW + SECOND))
    store.delete([gone.task_id])
    assert expiring.delete_unchanged(read) == 1
    assert left(store) == {again.task_id}
    assert expiring.delete_unchanged([replace(same, expires_at=None)]) == 0


@pytest.mark.parametrize("spared", [None, OneOf("name", ("kept",))], ids=["all", "spared"])
def test_deleted_rows_stay_in_the_counts(store: Store, expiring: Expiring, spared: Condition | None) -> None:
    counted = able(store, Counted)
    done = NOW - timedelta(days=3)
    put_due(store, 4, name="some.task", done_at=done)
    unchanged = put_due(store, 1, name="kept", done_at=done)
    question = Question(since=done - timedelta(hours=1), until=done + timedelta(hours=1))
    counted.roll()
    before = sum(cell.tally.count for cell in counted.counts(question).cells)
    expiring.delete_expired_tasks(Due(now=NOW, spared=spared))
    expiring.delete_unchanged(unchanged)
    counted.roll()
    assert not left(store)
    assert before == sum(cell.tally.count for cell in counted.counts(question).cells) == 5


def test_batch_of_chords_has_not_too_many_parts(store: Store, expiring: Expiring) -> None:
    groups = [new_id() for _ in range(4)]
    for number, group in enumerate(groups):
        store.begin_chord(ChordRecord(group_id=group, body=json_payload(1), expires_at=NOW - SECOND))
        for index in range(8 if number < 3 else 1):
            one = record(expires_at=NOW - SECOND)
            store.put(one, ChordPart(group_id=group, task_id=one.task_id, group_index=index, state="SUCCESS"))
    lasting = ChordRecord(group_id=new_id(), body=json_payload(1), expires_at=NOW + timedelta(days=9_999))
    store.begin_chord(lasting)
    with pytest.MonkeyPatch.context() as patched:
        for module in ("sql", "postgres"):
            patched.setattr(f"rootcellar.stores.{module}.expiring.PARTS_OF_A_CHORD", 2)
        last = NOW + timedelta(days=9_000)
        assert expiring.count_expired_chords(last) == 4
        # the parts of two chords are more than the 10 of this batch
        counts = [expiring.delete_expired_chords(last, 5) for _ in range(3)]
    assert sum(counts) == 4
    assert counts[0] in (2, 3)
    assert counts[2] == 0
    assert [store.get_chord(group) for group in groups] == [None] * 4
    assert [list(store.chord_parts(group)) for group in groups] == [[]] * 4
    assert store.get_chord(lasting.group_id) is not None
