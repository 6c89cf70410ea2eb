"""The manifest on every SQL store: a result is either a live row or in the archive, and is counted once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.errors import StoreError
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.archiving import (
    DELETED,
    VERIFIED,
    WRITTEN,
    Copy,
    Manifest,
    NewFile,
    Place,
    Restoring,
    key_of_id,
    packed,
    unpacked,
)
from rootcellar.stores.sql import archiving, by_date
from rootcellar.testing.helpers import full_record
from rootcellar.testing.suites.store.exactness import OTHER_PAYLOADS
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import HYBRID, MONGO, MYSQL, POSTGRES, REDIS
from tests.helpers import record
from tests.history.counted import Actor, assert_right, roll_all
from tests.history.stores import SQL, opened

_NOW = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


def manifest_of(store: Store) -> Manifest:
    found = store.ability(Manifest)
    assert found is not None
    return found


def new_file(rows: int, path: str = "2026-11/a.parquet", **given: Any) -> NewFile:
    values = {
        "location": "/archive",
        "path": path,
        "day": date(2026, 11, 20),
        "rows": rows,
        "bytes": 10 * rows,
        "sha256": "ab" * 32,
        "first_done": _NOW - timedelta(hours=1),
        "last_done": _NOW,
        "expires_at": None,
        **given,
    }
    return NewFile(**values)


def copies_of(store: Store, ids: Sequence[str]) -> list[Copy]:
    # of a hybrid, the rows of the durable store
    found = manifest_of(store).get_many(ids)  # type: ignore[attr-defined]
    return [Copy(row, found[task_id]) for row, task_id in enumerate(ids)]


def archive(store: Store, ids: Sequence[str], path: str = "2026-11/a.parquet") -> int:
    copies = copies_of(store, ids)
    committed = manifest_of(store).commit_file(new_file(len(ids), path), lambda: copies)
    assert committed.file is not None
    return committed.file


def test_live_rows_become_entries_of_the_index(store: Any) -> None:
    records = [
        full_record(state="SUCCESS"),
        record(value=None),
        *(record(result=one) for one in OTHER_PAYLOADS.values()),
    ]
    for one in records:
        store.put(one)
    store.put(stays := record())
    ids = [one.task_id for one in records]
    manifest = manifest_of(store)
    copies = copies_of(store, ids)
    file = new_file(len(ids), expires_at=_NOW + timedelta(days=9, microseconds=7))
    committed = manifest.commit_file(file, lambda: copies)
    assert (committed.removed, committed.void) == (len(ids), 0)
    assert not manifest.get_many(ids)  # type: ignore[attr-defined]
    assert manifest.places([*ids, stays.task_id]) == {
        task_id: [Place(committed.file, row)] for row, task_id in enumerate(ids)
    }
    (found,) = manifest.files()
    assert {name: getattr(found, name) for name in NewFile.__dataclass_fields__} == {
        name: getattr(file, name) for name in NewFile.__dataclass_fields__
    }
    assert (found.state, found.void, found.valid) == (WRITTEN, frozenset(), len(ids))
    assert manifest.file(found.id) == found
    assert manifest.file(found.id + 1) is None
    assert store.get(stays.task_id) is not None


@pytest.mark.parametrize("store", SQL, indirect=True, ids=lambda one: one.name)
def test_row_that_changed_stays_and_its_copy_is_void(store: Any) -> None:
    records = [record(state="FAILURE", value=number) for number in range(4)]
    for one in records:
        store.put(one)
    ids = [one.task_id for one in records]
    copies = copies_of(store, ids)
    store.put(replace(records[0], worker="again"))
    store.replace(copies[1].record, replace(copies[1].record, result=record(value=9).result))
    store.delete([ids[2]])
    committed = manifest_of(store).commit_file(new_file(4), lambda: copies)
    assert (committed.removed, committed.void) == (1, 3)
    assert manifest_of(store).files()[0].void == {0, 1, 2}
    assert manifest_of(store).places(ids) == {ids[3]: [Place(committed.file, 3)]}
    assert set(store.get_many(ids)) == {ids[0], ids[1]}


def test_file_without_a_row_that_counts_is_not_added(store: Any) -> None:
    store.put(one := record())
    archive(store, [one.task_id])
    copies = [Copy(0, one)]
    committed = manifest_of(store).commit_file(new_file(1, "2026-11/b.parquet"), lambda: copies)
    assert (committed.file, committed.removed, committed.void) == (None, 0, 1)
    assert [file.path for file in manifest_of(store).files()] == ["2026-11/a.parquet"]
    assert manifest_of(store).known_paths(["2026-11/a.parquet", "2026-11/b.parquet", "\ud800"]) == {"2026-11/a.parquet"}


def test_commit_that_is_repeated_does_nothing(store: Any) -> None:
    ones = [record() for _ in range(3)]
    for one in ones:
        store.put(one)
    copies = copies_of(store, [one.task_id for one in ones])
    store.delete([ones[1].task_id])
    first = manifest_of(store).commit_file(new_file(3), lambda: copies)
    store.put(ones[0])
    assert manifest_of(store).commit_file(new_file(3), lambda: copies) == first
    assert store.get(ones[0].task_id) is not None


def test_commit_that_fails_changes_nothing(store: Any) -> None:
    ones = [record() for _ in range(3)]
    for one in ones:
        store.put(one)
    copies = copies_of(store, [one.task_id for one in ones])

    def broken() -> Iterator[Copy]:
        yield from copies[:2]
        raise StoreError("the file cannot be read any more")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archiving, "AT_ONCE", 1)
        with pytest.raises(StoreError, match="any more"):
            manifest_of(store).commit_file(new_file(3), broken)
    assert len(store.get_many([one.task_id for one in ones])) == 3
    assert not manifest_of(store).files()
    assert not manifest_of(store).places([one.task_id for one in ones])


def test_older_copy_becomes_void_or_wins(store: Any) -> None:
    first, second = record(value=1), record(value=2)
    for one in (first, second):
        store.put(one)
    old = archive(store, [first.task_id, second.task_id])
    for one in (first, second):
        store.put(replace(one, state="FAILURE"))
    live = manifest_of(store).get_many([first.task_id, second.task_id])  # type: ignore[attr-defined]
    copies = [
        Copy(0, live[first.task_id], earlier=(Place(old, 0),)),
        Copy(1, live[second.task_id], earlier=(Place(old, 1),), is_kept=False),
    ]
    committed = manifest_of(store).commit_file(new_file(2, "2026-11/b.parquet"), lambda: copies)
    assert (committed.removed, committed.void) == (2, 1)
    assert manifest_of(store).places([first.task_id, second.task_id]) == {
        first.task_id: [Place(committed.file, 0)],
        second.task_id: [Place(old, 1)],
    }
    assert [file.void for file in manifest_of(store).files()] == [{0}, {1}]


def test_restored_row_is_what_it_was(store: Any) -> None:
    records = [full_record(state="SUCCESS"), *(record(result=one) for one in OTHER_PAYLOADS.values())]
    for one in records:
        store.put(one)
    ids = [one.task_id for one in records]
    before = store.get_many(ids)
    file = archive(store, ids)
    rows = [Restoring(Place(file, row), before[task_id]) for row, task_id in enumerate(ids)]
    assert manifest_of(store).restore(rows) == set(ids)
    assert store.get_many(ids) == before
    assert not manifest_of(store).places(ids)
    assert manifest_of(store).files()[0].valid == 0
    assert manifest_of(store).restore(rows) == set()


def test_newer_live_row_wins_over_a_restored_one(store: Any) -> None:
    store.put(old := record(state="FAILURE", value=1))
    file = archive(store, [old.task_id])
    store.put(new := replace(old, state="SUCCESS", worker="later"))
    assert manifest_of(store).restore([Restoring(Place(file, 0), old)]) == set()
    assert store.get(new.task_id) == new
    assert manifest_of(store).places([old.task_id]) == {old.task_id: [Place(file, 0)]}


def test_discarded_row_is_void(store: Any) -> None:
    ones = [record() for _ in range(2)]
    for one in ones:
        store.put(one)
    ids = [one.task_id for one in ones]
    file = archive(store, ids)
    assert manifest_of(store).discard({ids[0]: Place(file, 0)}) == 1
    assert manifest_of(store).discard({ids[0]: Place(file, 0)}) == 0
    assert manifest_of(store).files()[0].void == {0}
    assert list(manifest_of(store).places(ids)) == [ids[1]]


def test_entries_of_a_deleted_file_leave_the_index(store: Any) -> None:
    ones = [record() for _ in range(2)]
    for one in ones:
        store.put(one)
    first, second = archive(store, [ones[0].task_id]), archive(store, [ones[1].task_id], "2026-11/b.parquet")
    assert manifest_of(store).mark_file(first, VERIFIED, _NOW)
    assert manifest_of(store).mark_file(second, DELETED, _NOW)
    assert not manifest_of(store).mark_file(second + 1, DELETED, _NOW)
    assert list(manifest_of(store).places([one.task_id for one in ones])) == [ones[0].task_id]
    assert [(file.id, file.state, file.changed_at) for file in manifest_of(store).files()] == [(first, VERIFIED, _NOW)]
    assert len(manifest_of(store).files(with_deleted=True)) == 2


def test_deleted_file_never_counts_again(store: Any) -> None:
    store.put(one := record())
    file = archive(store, [one.task_id])
    assert manifest_of(store).mark_file(file, DELETED, _NOW)
    assert not manifest_of(store).mark_file(file, VERIFIED, _NOW + timedelta(days=1))
    assert [(each.state, each.changed_at) for each in manifest_of(store).files(with_deleted=True)] == [(DELETED, _NOW)]


def test_files_are_found_by_the_ends_of_their_tasks(store: Any) -> None:
    ends = [datetime(2026, 11, 18, 9, tzinfo=timezone.utc), datetime(2026, 11, 20, tzinfo=timezone.utc), NO_DATE]
    for number, end in enumerate(ends):
        store.put(one := record())
        copies = copies_of(store, [one.task_id])
        last = end + timedelta(hours=3)
        file = new_file(1, f"{number}.parquet", day=end.date(), first_done=end, last_done=last)
        manifest_of(store).commit_file(file, lambda copies=copies: copies)  # type: ignore[misc]
    midnight = ends[1]

    def days(since: datetime | None = None, until: datetime | None = None) -> list[int]:
        return [file.day.day for file in manifest_of(store).files(since, until)]

    assert days() == [1, 18, 20]
    assert days(since=midnight + timedelta(hours=3)) == [20]
    assert days(since=midnight + timedelta(hours=4)) == []
    assert days(until=midnight) == [1, 18]
    assert days(since=ends[0] + timedelta(hours=1), until=midnight + timedelta(microseconds=1)) == [18, 20]


def test_two_ids_with_one_hash_are_both_found(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "key_of_id", lambda task_id: 7)
    ones = [record() for _ in range(3)]
    for one in ones:
        store.put(one)
    ids = [one.task_id for one in ones]
    file = archive(store, ids)
    assert manifest_of(store).places(ids[:1]) == {ids[0]: [Place(file, 0), Place(file, 1), Place(file, 2)]}
    assert manifest_of(store).discard({ids[1]: Place(file, 1)}) == 1
    assert manifest_of(store).places(ids[:1]) == {ids[0]: [Place(file, 0), Place(file, 2)]}


@pytest.mark.parametrize("store", SQL, indirect=True, ids=lambda one: one.name)
def test_counts_stay_the_same_when_rows_are_archived_and_restored(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(0))
    actor = Actor(store, 5, datetime.now(timezone.utc))
    for _ in range(80):
        actor.act()
    roll_all(store)
    source = random.Random(1)
    rows = [one for one in store.scan(limit=500) if one.done_at is not None]
    assert len(rows) > 20
    for turn in range(3):
        some = source.sample(rows, 15)
        file = archive(store, [one.task_id for one in some], f"{turn}.parquet")
        if turn != 1:
            # restored before or after the deletion was counted
            roll_all(store)
            assert_right(store, actor.account)
        back: list[TaskRecord] = some[:10]
        places = [Restoring(Place(file, row), one) for row, one in enumerate(back)]
        assert len(manifest_of(store).restore(places)) == 10
        roll_all(store)
        assert_right(store, actor.account)
        rows = [one for one in rows if one not in some[10:]]


def test_locked_row_stays(request: pytest.FixtureRequest) -> None:
    with opened(POSTGRES, request) as store:
        ones = [record() for _ in range(2)]
        for one in ones:
            store.put(one)
        ids = [one.task_id for one in ones]
        copies = copies_of(store, ids)
        locked = "SELECT FROM celery_taskmeta WHERE task_id = %s FOR UPDATE"
        with store._pool.connection() as other, other.transaction():  # type: ignore[attr-defined]
            other.execute(locked, [ids[0]])
            committed = manifest_of(store).commit_file(new_file(2), lambda: copies)
        assert (committed.removed, committed.void) == (1, 1)
        assert set(store.get_many(ids)) == {ids[0]}


@pytest.mark.parametrize("under_test", [REDIS, MONGO], ids=lambda one: one.name)
def test_stores_without_tables_have_no_manifest(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        assert store.ability(Manifest) is None


def test_void_rows_are_packed_exactly() -> None:
    source = random.Random(3)
    for size in (1, 7, 8, 9, 10_000):
        rows = set(source.sample(range(size), source.randint(0, size)))
        assert unpacked(packed(rows, size)) == rows
    assert packed(set(), 9) is None
    assert len(packed(range(1_000_000), 1_000_000) or b"") < 1_000


def test_hash_of_an_id_fits_into_64_bits() -> None:
    assert key_of_id("d3a1") == key_of_id("d3a1") != key_of_id("d3a2")
    assert all(-(2**63) <= key_of_id(str(number)) < 2**63 for number in range(100))
    assert isinstance(key_of_id("\ud800"), int)


_PLANS = {
    "sqlite": ["EXPLAIN QUERY PLAN DELETE FROM celery_taskmeta_archived WHERE file = 1"],
    "postgres": [
        "SELECT set_config('enable_seqscan', 'off', true)",
        "EXPLAIN DELETE FROM celery_taskmeta_archived WHERE file = 1",
    ],
    "mysql": ["EXPLAIN DELETE FROM celery_taskmeta_archived WHERE file = 1"],
}


@pytest.mark.parametrize("under_test", SQL, ids=lambda one: one.name)
def test_entries_of_a_deleted_file_are_found_by_an_index(
    under_test: StoreUnderTest, request: pytest.FixtureRequest
) -> None:
    with opened(under_test, request) as store:
        store.put(record())
        plans = store._in_transaction(
            lambda connection: [store._rows_of_text(connection, text, {}) for text in _PLANS[under_test.name]]
        )
        assert "celery_taskmeta_archived_file_idx" in str(plans)


@pytest.mark.parametrize("under_test", [POSTGRES, MYSQL], ids=lambda one: one.name)
def test_live_row_that_is_locked_stays_and_no_commit_waits_for_it(
    under_test: StoreUnderTest, request: pytest.FixtureRequest
) -> None:
    with opened(under_test, request) as store:
        ones = [record() for _ in range(2)]
        for one in ones:
            store.put(one)
        copies = copies_of(store, [one.task_id for one in ones])

        def commit(connection: Any) -> Any:
            assert len(store._locked_rows(connection, [ones[0].task_id])) == 1
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(store.commit_file, new_file(2), lambda: copies).result()

        committed = store._in_transaction(commit)
        assert (committed.removed, committed.void) == (1, 1)
        assert store.get(ones[0].task_id) == ones[0]
