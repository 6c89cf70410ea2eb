"""Storing and reading tasks, also in threads and processes: which fields are kept, and which state stays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar import errors
from rootcellar.records import (
    ChordProgress,
    GroupRecord,
    Payload,
    Stored,
    TaskRecord,
)
from rootcellar.stores.base import Store
from rootcellar.testing.helpers import (
    NOW,
    begun,
    each_in_a_thread,
    full_record,
    in_threads,
    json_payload,
    new_id,
    part,
    record,
)
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import Open, StoreUnderTest


class TestTasks:
    def test_record_comes_back_with_every_field(self, store: Store) -> None:
        stored = full_record()
        assert store.put(stored) == Stored(written=True, chord=None)
        assert store.get(stored.task_id) == stored

    def test_record_that_need_not_be_durable_is_stored(self, store: Store) -> None:
        group = begun(store, 1)
        stored, alone = full_record(), full_record()
        assert store.put(alone, durable=False) == Stored(written=True, chord=None)
        progress = ChordProgress(size=1, counted=1, claimed=True, finished=False)
        assert store.put(stored, part(group, stored.task_id), durable=False) == Stored(written=True, chord=progress)
        assert store.get_many([stored.task_id, alone.task_id]) == {stored.task_id: stored, alone.task_id: alone}

    def test_record_without_optional_fields_is_stored(self, store: Store) -> None:
        stored = TaskRecord(task_id=new_id(), state="STARTED")
        assert store.put(stored).written
        assert store.get(stored.task_id) == stored

    def test_unknown_task_has_no_record(self, store: Store) -> None:
        assert store.get(new_id()) is None

    @pytest.mark.parametrize(
        "task_id",
        ["a" * 255, "with space", 'it\'s "quoted" 100%', "_%\\", "snow ☃ 雪 🧊", "A", "a", "{task}", ":id", "$1", "%s"],
    )
    def test_task_id_is_any_text(self, store: Store, task_id: str) -> None:
        stored = record(task_id=task_id, result=json_payload(task_id))
        store.delete([task_id])
        assert store.put(stored).written
        assert store.get(task_id) == stored
        assert store.get_many([task_id]) == {task_id: stored}
        assert store.delete([task_id]) == 1
        assert store.get(task_id) is None

    def test_text_field_holds_any_text(self, store: Store) -> None:
        stored = full_record(
            name="tâche «é» 'q' \"d\" 100% _ 🧊", queue="очередь", worker="worker@قبو", traceback="line\r\n\tline\n"
        )
        store.put(stored)
        assert store.get(stored.task_id) == stored

    @pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["NUL", "lone surrogate"])
    def test_text_field_replaces_what_is_not_text(self, store: Store, odd: str) -> None:
        names = ("name", "queue", "worker", "traceback", "parent_id", "root_id", "group_id")
        stored = full_record(**{name: f"before {odd} after" for name in names})
        assert store.put(stored).written
        found = store.get(stored.task_id)
        assert found is not None
        for name in names:
            shown = getattr(found, name)
            assert shown.startswith("before "), name
            assert shown.endswith(" after"), name
        assert replace(found, **{name: getattr(stored, name) for name in names}) == stored

    @pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["NUL", "lone surrogate"])
    def test_task_id_with_invalid_text_is_kept_or_refused(self, store: Store, odd: str) -> None:
        good, bad = record(), record(task_id=f"{new_id()}{odd}")
        store.put(good)
        try:
            store.put(bad)
        except errors.RecordRefused:
            kept: dict[str, TaskRecord] = {}
        else:
            kept = {bad.task_id: bad}
        assert store.get(bad.task_id) == kept.get(bad.task_id)
        assert store.get_many([bad.task_id, good.task_id]) == {**kept, good.task_id: good}
        assert store.delete([bad.task_id]) == len(kept)
        assert store.get_group(bad.task_id) is None
        assert store.get(good.task_id) == good

    @pytest.mark.parametrize(
        "given", [{"task_id": "\x00"}, {"task_id": "\ud800"}, {"result": Payload(b"no JSON")}, {"retries": 2**80}]
    )
    def test_refused_record_does_not_affect_others(self, store: Store, given: dict[str, Any]) -> None:
        def work(number: int) -> list[TaskRecord]:
            stored = []
            for turn in range(6):
                is_good = number % 4 != turn % 4
                one = record() if is_good else record(**given)
                with nullcontext() if is_good else suppress(errors.RecordRefused):
                    store.put(one)
                    stored.append(one)
            return stored

        stored = [one for some in in_threads(8, work) for one in some]
        assert len(stored) >= 8 * 4
        assert [store.get(one.task_id) for one in stored] == stored

    def test_dates_are_exact_and_in_utc(self, store: Store) -> None:
        moments = {
            "sent_at": datetime(1970, 1, 1, tzinfo=timezone.utc),
            "started_at": datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=timezone.utc),
            "done_at": datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=timezone.utc),
            "expires_at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc),
        }
        stored = record(**moments)
        store.put(stored)
        found = store.get(stored.task_id)
        assert found == stored
        for name in moments:
            assert getattr(found, name).utcoffset() == timedelta(0), name

    def test_next_state_keeps_fields_that_it_lacks(self, store: Store) -> None:
        first = full_record()
        store.put(first)
        # another state, without the fields of the call
        bare = TaskRecord(task_id=first.task_id, state="RETRY", retries=first.retries)
        assert store.put(bare).written
        assert store.get(first.task_id) == replace(
            first, state="RETRY", result=None, traceback=None, done_at=None, expires_at=None, failure_group=None
        ), "the fields of the state are replaced, the others stay"

    def test_next_state_replaces_fields_that_it_has(self, store: Store) -> None:
        first = full_record()
        store.put(first)
        second = full_record(
            first.task_id,
            **{"state": "FAILURE", "result": json_payload("oh"), "traceback": "tb", "name": "other", "retries": 0},
            **{"args": json_payload([]), "kwargs": json_payload({}), "queue": "q2", "worker": "w2", "group_index": 0},
            **{"children": json_payload([]), "stamps": json_payload({}), "sent_at": NOW, "started_at": NOW},
        )
        assert store.put(second).written
        assert store.get(first.task_id) == second, "0 and empty values are values"

    def test_next_state_keeps_or_replaces_whole_payloads(self, store: Store) -> None:
        odd, plain = Payload(b"\x80\x04odd", "application/x-python-serialize", "binary"), json_payload([1])
        first = full_record(args=odd, kwargs=plain, result=odd)
        store.put(first)
        store.put(TaskRecord(task_id=first.task_id, state="RETRY", retries=2, result=plain))
        found = store.get(first.task_id)
        assert found is not None
        assert (found.args, found.kwargs, found.result) == (odd, plain, plain)
        store.put(TaskRecord(task_id=first.task_id, state="RETRY", retries=2, args=plain, kwargs=odd, result=odd))
        found = store.get(first.task_id)
        assert found is not None
        assert (found.args, found.kwargs, found.result) == (plain, odd, odd)

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
    @pytest.mark.parametrize("later", [None, json_payload([[["second", None], None]])], ids=["none", "some"])
    def test_finished_task_has_the_children_of_its_last_run(
        self, store: Store, state: str, later: Payload | None
    ) -> None:
        first = full_record(state="RETRY", done_at=None, children=json_payload([[["first", None], None]]))
        store.put(first)
        store.put(replace(first, state="STARTED", children=None))
        assert store.get(first.task_id) == replace(first, state="STARTED"), "a state that is not final keeps them"
        end = replace(first, state=state, done_at=NOW, children=later)
        assert store.put(end).written
        assert store.get(first.task_id) == end

    @pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
    def test_success_overwrites_other_states(self, store: Store, state: str) -> None:
        first = record(state=state)
        store.put(first)
        second = replace(first, state="SUCCESS", result=json_payload("better"))
        assert store.put(second).written
        assert store.get(first.task_id) == second

    @pytest.mark.parametrize("state", ["SUCCESS", "STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
    def test_success_is_not_overwritten(self, store: Store, state: str) -> None:
        first = full_record(state="SUCCESS")
        store.put(first)
        again = full_record(first.task_id, state=state, result=json_payload("worse"), name="other", expires_at=None)
        assert store.put(again) == Stored(written=False, chord=None)
        assert store.get(first.task_id) == first

    @pytest.mark.parametrize("group", [0, 1, -1, 2**63 - 1, -(2**63)])
    @pytest.mark.parametrize("state", ["RETRY", "SUCCESS", "FAILURE"])
    def test_group_of_a_failure_ends_with_the_failure(self, store: Store, group: int, state: str) -> None:
        failure = record(state="FAILURE", failure_group=group)
        assert store.put(failure).written
        assert store.get(failure.task_id) == failure
        assert store.get_many([failure.task_id]) == {failure.task_id: failure}
        later = replace(failure, state=state, failure_group=None, done_at=None if state == "RETRY" else NOW)
        assert store.put(later).written
        assert store.get(failure.task_id) == later

    def test_group_of_a_failure_is_stored_with_its_chord_part(self, store: Store) -> None:
        group = begun(store, 1)
        failure = record(state="FAILURE", failure_group=-7)
        assert store.put(failure, part(group, failure.task_id, state="FAILURE")).written
        assert store.get(failure.task_id) == failure

    def test_late_retry_of_an_earlier_run_is_ignored(self, store: Store) -> None:
        end = record(state="FAILURE", retries=2, done_at=NOW)
        store.put(end)
        late = replace(end, state="RETRY", retries=1, done_at=None)
        assert not store.put(late).written
        assert store.get(end.task_id) == end
        # a new run of the task, sent by hand, ends as it ends
        assert store.put(replace(end, state="REVOKED", retries=0)).written
        assert store.put(replace(end, state="STARTED", retries=0, done_at=None)).written

    def test_success_stays_while_its_part_is_counted(self, store: Store) -> None:
        group = new_id()
        store.size_chord(group, 2)
        first = record()
        store.put(first)
        stored = store.put(replace(first, state="FAILURE"), part(group, first.task_id))
        assert not stored.written
        assert stored.chord == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        assert store.get(first.task_id) == first

    def test_eight_threads_store_one_success(self, store: Store) -> None:
        for _ in range(10):
            task_id = new_id()
            records = [record(task_id=task_id, result=json_payload(n), worker=f"w{n}") for n in range(8)]
            written = [stored.written for stored in each_in_a_thread(store.put, records)]
            assert written.count(True) == 1
            assert store.get(task_id) == records[written.index(True)]

    def test_success_wins_among_threads(self, store: Store) -> None:
        states = ["STARTED", "RETRY", "FAILURE", "SUCCESS", "REVOKED", "FAILURE", "STARTED", "PROGRESS"]
        for _ in range(10):
            task_id = new_id()
            records = [record(task_id=task_id, state=state, result=json_payload(n)) for n, state in enumerate(states)]
            each_in_a_thread(store.put, records)
            found = store.get(task_id)
            assert found is not None
            assert (found.state, found.result) == ("SUCCESS", json_payload(3))

    def test_two_processes_store_the_same_tasks(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, processes: SyncedProcesses
    ) -> None:
        ids = [new_id() for _ in range(50)]
        answers = processes.run_alike(2, _put_all, under_test.open, place, ids)
        for task_id, one, other in zip(ids, *answers, strict=True):
            assert one != other, "exactly one of the two wrote"
            found = store.get(task_id)
            assert found is not None
            assert found.result == json_payload(0 if one else 1)

    def test_get_many_of_no_ids_finds_nothing(self, store: Store) -> None:
        assert store.get_many([]) == {}

    def test_get_many_accepts_an_iterator_with_repeated_ids(self, store: Store) -> None:
        stored = [record() for _ in range(3)]
        for one in stored:
            store.put(one)
        ids = [one.task_id for one in stored]
        found = store.get_many(task_id for task_id in [*ids, *ids, new_id()])
        assert found == {one.task_id: one for one in stored}

    def test_get_many_reads_twelve_thousand_ids(self, new_store: Store) -> None:
        stored = [record(result=json_payload(n)) for n in range(300)]
        in_threads(4, lambda n: [new_store.put(one) for one in stored[n::4]])
        ids = [one.task_id for one in stored] + [new_id() for _ in range(11_700)]
        random.Random(1).shuffle(ids)
        assert new_store.get_many(ids) == {one.task_id: one for one in stored}
        assert new_store.delete(ids) == 300
        assert new_store.get_many(ids) == {}

    def test_deleted_tasks_are_gone(self, store: Store) -> None:
        kept, *gone = [record() for _ in range(4)]
        for one in (kept, *gone):
            store.put(one)
        ids = [one.task_id for one in gone]
        assert store.delete([]) == 0
        assert store.delete([new_id()]) == 0
        assert store.delete(task_id for task_id in [*ids, ids[0], new_id()]) == 3
        assert store.delete(ids) == 0
        assert store.get_many([kept.task_id, *ids]) == {kept.task_id: kept}

    def test_deleted_success_can_be_overwritten(self, store: Store) -> None:
        first = full_record(state="SUCCESS")
        store.put(first)
        store.delete([first.task_id])
        second = TaskRecord(task_id=first.task_id, state="FAILURE")
        assert store.put(second).written
        assert store.get(first.task_id) == second

    def test_store_is_used_by_sixteen_threads(self, store: Store) -> None:
        def work(number: int) -> None:
            for turn in range(10):
                one = full_record(result=json_payload([number, turn]))
                group = GroupRecord(group_id=new_id(), result=json_payload(turn), done_at=NOW)
                assert store.put(one).written
                store.put_group(group)
                assert store.get(one.task_id) == one
                assert store.get_group(group.group_id) == group
                assert store.count_part(part(group.group_id)).counted == 1
                assert store.delete([one.task_id]) == 1

        in_threads(16, work)


def _put_all(open_store: Open, url: str, ids: Sequence[str], number: int) -> list[bool]:
    store = open_store(url, None)
    written = [store.put(record(task_id=task_id, result=json_payload(number))).written for task_id in ids]
    store.close()
    return written
