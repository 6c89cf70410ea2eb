"""Walks over all records and groups, and copies of groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import NOW, able, begun, completed, full_record, in_threads, json_payload, new_id, part
from rootcellar.testing.helpers import record as task


class TestStreaming:
    """Every store but a hybrid in the mode write-behind is Streamed."""

    @pytest.fixture(autouse=True)
    def _only_if_able(self, store: Store) -> None:
        if store.ability(Streamed) is None:
            pytest.skip("this store cannot be part of a migration")

    def test_empty_store_has_no_pages(self, new_store: Store) -> None:
        assert _walk(new_store) == []
        assert _walk_groups(new_store) == []
        assert able(new_store, Streamed).count_roughly() == 0
        assert able(new_store, Streamed).open_chords() == 0

    @pytest.mark.parametrize("limit", [1, 7, 1_000])
    def test_walk_returns_every_record(self, new_store: Store, limit: int) -> None:
        records = [full_record(state=f"STEP {number}") for number in range(40)]
        for one in records:
            new_store.put(one)
        found = _walk(new_store, limit)
        assert {one.task_id: one for one in found} == {one.task_id: one for one in records}

    def test_walk_goes_on_in_another_store_object(self, open_new: Callable[..., Store]) -> None:
        records = {one.task_id for one in (task() for _ in range(45))}
        with_first = open_new()
        for task_id in records:
            with_first.put(task(task_id=task_id))
        found: set[str] = set()
        cursor = None
        while True:
            page, cursor = able(open_new(), Streamed).stream(cursor, 20)
            found.update(one.task_id for one in page)
            if cursor is None:
                break
            assert isinstance(cursor, str)
        assert found == records

    def test_walk_misses_no_record_while_others_are_stored_and_deleted(self, new_store: Store) -> None:
        stay = [task() for _ in range(60)]
        for one in stay:
            new_store.put(one)

        def work(number: int) -> set[str]:
            if number == 0:
                return {one.task_id for one in _walk(new_store, 9)}
            for _ in range(25):
                other = task()
                new_store.put(other)
                new_store.put(replace(stay[number], state="FAILURE"))
                new_store.delete([other.task_id])
            return set()

        found, *_ = in_threads(4, work)
        assert {one.task_id for one in stay} <= found

    def test_expiry_is_part_of_a_streamed_record(self, new_store: Store) -> None:
        soon = datetime.now(timezone.utc) + timedelta(hours=1)
        records = [task(expires_at=soon), task(expires_at=None), task(state="STARTED", done_at=None, expires_at=soon)]
        for one in records:
            new_store.put(one)
        found = {one.task_id: one.expires_at for one in _walk(new_store)}
        assert found == {one.task_id: one.expires_at for one in records}

    def test_records_are_counted_roughly(self, new_store: Store) -> None:
        for _ in range(40):
            new_store.put(task())
        assert 20 <= able(new_store, Streamed).count_roughly() <= 80

    def test_walk_returns_every_group(self, new_store: Store) -> None:
        soon = datetime.now(timezone.utc) + timedelta(hours=1)
        groups = [_group(number, expires_at=soon if number % 2 else None) for number in range(40)]
        for group in groups:
            new_store.put_group(group)
        found = _walk_groups(new_store, 7)
        assert {one.group_id: one for one in found} == {one.group_id: one for one in groups}

    def test_groups_are_copied_only_where_there_is_none(self, store: Store) -> None:
        there, other = _group(1), _group(2)
        store.put_group(there)
        newer = replace(there, result=json_payload("newer"), done_at=NOW + timedelta(seconds=1))
        assert able(store, Streamed).copy_groups([newer, other]) == 1
        assert store.get_group(there.group_id) == there
        assert store.get_group(other.group_id) == other
        assert able(store, Streamed).copy_groups([]) == 0

    def test_newer_group_wins_if_asked(self, store: Store) -> None:
        there, other = _group(1), _group(2)
        store.put_group(there)
        older = replace(there, result=json_payload("older"), done_at=NOW - timedelta(seconds=1))
        newer = replace(there, result=json_payload("newer"), done_at=NOW + timedelta(seconds=1), expires_at=None)
        assert able(store, Streamed).copy_groups([older], newer_wins=True) == 0
        assert store.get_group(there.group_id) == there
        assert able(store, Streamed).copy_groups([newer, other], newer_wins=True) == 2
        assert able(store, Streamed).copy_groups([newer], newer_wins=True) == 0
        assert store.get_group(there.group_id) == newer
        assert store.get_group(other.group_id) == other

    def test_open_chords_are_counted(self, new_store: Store) -> None:
        begun(new_store)
        begun(new_store, 3)
        complete = completed(new_store, 2)
        finished = completed(new_store, 2)
        new_store.finish_chord(finished)
        new_store.count_part(part(new_id(), "of a chord that nobody began"))
        assert able(new_store, Streamed).open_chords() == 3
        new_store.finish_chord(complete)
        assert able(new_store, Streamed).open_chords() == 2


def _group(number: int, expires_at: datetime | None = NOW) -> GroupRecord:
    return GroupRecord(group_id=new_id(), result=json_payload(number), done_at=NOW, expires_at=expires_at)


def _walk(store: Store, limit: int = 1_000) -> list[TaskRecord]:
    found: list[TaskRecord] = []
    cursor = None
    while True:
        page, cursor = able(store, Streamed).stream(cursor, limit)
        found += page
        if cursor is None:
            return found


def _walk_groups(store: Store, limit: int = 1_000) -> list[GroupRecord]:
    found: list[GroupRecord] = []
    cursor = None
    while True:
        page, cursor = able(store, Streamed).stream_groups(cursor, limit)
        found += page
        if cursor is None:
            return found
