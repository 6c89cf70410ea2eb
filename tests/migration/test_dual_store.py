"""What a store that is migrated does in each phase, with two stores in memory or in files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import AbilityMissing, StoreUnavailable
from rootcellar.records import ChordPart, ChordRecord, GroupRecord, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import (
    HasSchema,
    KnowsParts,
    Queryable,
    RecordsSent,
    Replaceable,
    ReportsInserts,
    TaskQuery,
)
from rootcellar.stores.counting import Counted
from rootcellar.stores.dual import DualStore, FixedPhases, Phase
from rootcellar.stores.dual.abilities import DualHolding
from rootcellar.stores.dual.reading import better
from rootcellar.stores.dual.unmirrored import MAX_NOTED, MORE, Unmirrored
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.mirroring import CopyReport, Mirrored
from rootcellar.stores.search import OneOf, Searchable
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import NOW, able, json_payload, new_id, part, record
from rootcellar.testing.memory import MemoryStore
from rootcellar.testing.suites.store.sent import sent

Open = Callable[[Phase], DualStore]
WITH_TWO_STORES = (Phase.DUAL, Phase.SWITCHING, Phase.TARGET_FIRST)
PAST = NOW - timedelta(hours=1)


@pytest.fixture
def source() -> MemoryStore:
    return MemoryStore(f"memory://{new_id()}")


@pytest.fixture
def target() -> MemoryStore:
    return MemoryStore(f"memory://{new_id()}")


@pytest.fixture
def open_dual(source: MemoryStore, target: MemoryStore) -> Iterator[Open]:
    """Open the store of another process, in a phase of its own."""
    opened: list[DualStore] = []

    def open_one(phase: Phase, **known: Any) -> DualStore:
        opened.append(DualStore(source, target, FixedPhases(phase, **known)))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Open]:
    """Do the same with two files, which keep holds and can be searched."""
    ends = [open_store(f"sqlite:///{tmp_path}/{name}.sqlite3") for name in ("source", "target")]
    opened: list[DualStore] = []

    def open_one(phase: Phase) -> DualStore:
        opened.append(DualStore(ends[0], ends[1], FixedPhases(phase)))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


# -- storing


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_success_of_the_other_store_is_the_answer_of_both(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    """It was perhaps read already, so it must not change."""
    ours = record(result=json_payload("ours"))
    theirs = replace(ours, result=json_payload("theirs"))
    other = source if phase.target_decides else target
    other.put(theirs)
    stored = open_dual(phase).put(ours)
    if phase.target_decides:
        # a SUCCESS that only the source has was brought over by the pass before this phase
        assert source.get(ours.task_id) == target.get(ours.task_id) == ours
    else:
        assert not stored.written
        assert source.get(ours.task_id) == target.get(ours.task_id) == theirs


def test_failure_never_replaces_the_success_of_the_source(
    open_dual: Open, source: MemoryStore, target: MemoryStore
) -> None:
    """A writer of the phase before stored it, and its mirror is on its way."""
    done = record()
    source.put(done)
    open_dual(Phase.TARGET_FIRST).put(replace(done, state="FAILURE", result=None))
    assert source.get(done.task_id) == target.get(done.task_id) == done


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_late_start_of_a_task_that_has_ended_is_not_mirrored(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = record()
    store = open_dual(phase)
    store.put(done)
    monkeypatch.delattr(MemoryStore, "mirror")
    assert not store.put(replace(done, state="STARTED", result=None, done_at=None)).written
    assert source.get(done.task_id) == target.get(done.task_id) == done


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_sent_task_is_recorded_in_both_stores(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    new, done = sent(), record()
    target.put(done)
    source.put(done)
    able(open_dual(phase), RecordsSent).put_sent([new, sent(done.task_id)])
    ids = [new.task_id, done.task_id]
    assert source.get_many(ids) == target.get_many(ids) == {new.task_id: new, done.task_id: done}


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_new_values_reach_both_stores(open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase) -> None:
    old = record()
    store = open_dual(phase)
    store.put(old)
    new = replace(old, result=json_payload("encrypted"))
    assert able(store, Replaceable).replace(old, new)
    assert source.get(old.task_id) == target.get(old.task_id) == new
    assert not able(store, Replaceable).replace(old, new)


def test_verb_that_is_too_old_calls_no_store(
    open_dual: Open, source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_dual(Phase.SWITCHING)
    now = time.monotonic()
    with store.verb() as verb:
        monkeypatch.setattr(time, "monotonic", lambda: now + 11)
        for call in (lambda: verb.source, lambda: verb.target, lambda: verb.decider, lambda: verb.other):
            with pytest.raises(StoreUnavailable) as caught:
                call()
            assert caught.value.retryable


# -- reading


class Choosy(MemoryStore):
    """A store that refuses every copy, as a server refuses a record that is too large."""

    def copy(self, records: Any, *, newer_wins: bool = False) -> CopyReport:
        return CopyReport(refused={one.task_id: "too large" for one in records})


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_result_that_the_target_cannot_keep_is_read_from_the_source(source: MemoryStore, phase: Phase) -> None:
    store = DualStore(source, Choosy(f"memory://{new_id()}"), FixedPhases(phase))
    one, other = record(), record()
    source.put(one)
    source.put(other)
    assert store.get(one.task_id) == one
    assert store.get_many([one.task_id, other.task_id]) == {one.task_id: one, other.task_id: other}
    store.close()


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_result_that_was_forgotten_in_the_target_is_not_read_from_the_source(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    one = record()
    target.bury([one.task_id], {one.task_id: [one]})
    source.put(one)
    store = open_dual(phase)
    assert store.get(one.task_id) is None
    assert store.get_many([one.task_id]) == {}


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_many_results_are_read_as_each_alone(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    states = [None, "STARTED", "FAILURE", "SUCCESS"]
    ids = []
    for in_source in states:
        for in_target in states:
            task_id = new_id()
            ids.append(task_id)
            for store, state in ((source, in_source), (target, in_target)):
                if state is not None:
                    done_at = None if state == "STARTED" else NOW
                    store.put(record(task_id=task_id, state=state, done_at=done_at, result=json_payload(store.url)))
    dual = open_dual(phase)
    many = dual.get_many(ids)
    assert many == {task_id: one for task_id in ids if (one := dual.get(task_id)) is not None}
    assert len(many) == len(ids) - 1
    done = [task_id for task_id in ids if "SUCCESS" in _states_of(task_id, source, target)]
    assert {many[task_id].state for task_id in done} == {"SUCCESS"}


def _states_of(task_id: str, *stores: MemoryStore) -> set[str]:
    return {found.state for store in stores if (found := store.get(task_id)) is not None}


def test_end_of_a_task_is_preferred_to_another_state() -> None:
    ended, other, begun = record(state="FAILURE"), record(state="REVOKED"), record(state="STARTED", done_at=None)
    assert better(begun, ended) is ended
    assert better(ended, begun) is ended
    assert better(ended, other) is ended, "the target's"
    assert better(begun, begun) is begun
    assert better(None, begun) is begun
    assert better(begun, None) is begun
    assert better(None, None) is None


# -- forgetting


@pytest.mark.parametrize("phase", list(Phase)[:-1])
def test_forgotten_result_is_buried_in_both_stores_in_every_phase(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    in_source, in_target, nowhere = record(), record(), new_id()
    source.put(in_source)
    target.put(in_target)
    ids = [in_source.task_id, in_target.task_id, nowhere]
    assert open_dual(phase).delete(ids) == 2
    for store in (source, target):
        assert store.get_many(ids) == {}
        assert store.burials_of(ids).keys() == set(ids)
        for one in (in_source, in_target):
            assert store.mirror(one).buried


def test_retired_migration_forgets_in_the_target_alone(
    open_dual: Open, source: MemoryStore, target: MemoryStore
) -> None:
    one = record()
    source.put(one)
    target.put(one)
    assert open_dual(Phase.RETIRED).delete([one.task_id]) == 1
    assert source.get(one.task_id) == one
    assert target.burials_of([one.task_id]) == {}


def test_many_results_are_forgotten_in_verbs_that_do_not_take_long(
    open_dual: Open, source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch takes six seconds here."""
    ids = [new_id() for _ in range(2_500)]
    for task_id in ids:
        source.put(record(task_id=task_id))
    now, bury = time.monotonic(), MemoryStore.bury
    passed = 0.0

    def slow(self: MemoryStore, *args: Any) -> Any:
        nonlocal passed
        passed += 3.0
        return bury(self, *args)

    monkeypatch.setattr(time, "monotonic", lambda: now + passed)
    monkeypatch.setattr(MemoryStore, "bury", slow)
    assert open_dual(Phase.DUAL).delete(ids) == len(ids)
    assert passed > 10
    assert source.get_many(ids) == target.get_many(ids) == {}


# -- chords


@pytest.mark.parametrize("begins", list(Phase)[:-1])
@pytest.mark.parametrize("ends", list(Phase)[:-1])
def test_chord_ends_in_the_store_in_which_it_began(
    open_dual: Open, source: MemoryStore, target: MemoryStore, begins: Phase, ends: Phase
) -> None:
    """Forth and back: each part is stored by a process of one phase or another, and one of them claims the chord."""
    group, now = new_id(), datetime.now(timezone.utc)
    first = open_dual(begins, is_back=begins > ends)
    first.begin_chord(ChordRecord(group_id=group, body=json_payload("body")))
    first.size_chord(group, 3)
    home, other = (target, source) if begins.target_decides else (source, target)
    path = sorted(Phase(number) for number in range(min(begins, ends), max(begins, ends) + 1))
    steps = path[::-1] if begins > ends else path
    phases = [begins, steps[len(steps) // 2], ends]
    progress = []
    for number, phase in enumerate(phases):
        one = record(result=json_payload(number), done_at=now)
        counted = part(group, one.task_id, number)
        progress.append(open_dual(phase, is_back=begins > ends).put(one, counted).chord)
    assert [each.claimed for each in progress if each] == [False, False, True]
    last = open_dual(ends, is_back=begins > ends)
    found = last.get_chord(group)
    assert found is not None
    assert found.body == json_payload("body")
    assert [each.result for each in last.chord_parts(group)] == [json_payload(number) for number in range(3)]
    assert other.chord_parts(group) == []
    assert [each.result for each in home.chord_parts(group)] == [json_payload(number) for number in range(3)]
    last.finish_chord(group)
    assert last.get_chord(group) is None
    late = last.count_part(part(group, new_id(), 3))
    assert not late.claimed


def test_part_is_counted_before_the_result_is_stored_elsewhere(
    open_dual: Open, source: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the worker is killed between the two, the task runs again; the other way round, its part would be missing."""
    group = new_id()
    open_dual(Phase.SWITCHING).begin_chord(ChordRecord(group_id=group))
    order: list[str] = []
    put, count = MemoryStore.put, MemoryStore.count_part

    def noted_put(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        order.append(f"put {self.url == source.url} {bool(args[1:] and args[1])}")
        return put(self, *args, **kwargs)

    def noted_count(self: MemoryStore, counted: ChordPart, **kwargs: Any) -> Any:
        order.append(f"count {self.url == source.url} {counted.result}")
        return count(self, counted, **kwargs)

    monkeypatch.setattr(MemoryStore, "put", noted_put)
    monkeypatch.setattr(MemoryStore, "count_part", noted_count)
    one = record()
    open_dual(Phase.TARGET_FIRST).put(one, part(group, one.task_id))
    assert order[:2] == [f"count True {one.result}", "put False False"]


def test_orphans_and_parts_of_both_stores_are_found(open_dual: Open) -> None:
    groups, ids = [], []
    for phase in (Phase.DUAL, Phase.TARGET_FIRST):
        store = open_dual(phase)
        group, one = new_id(), record()
        store.begin_chord(ChordRecord(group_id=group))
        store.put(one, part(group, one.task_id, owner="me"), lease=0.0)
        store.size_chord(group, 1)
        groups.append(group)
        ids.append(one.task_id)
    for phase in WITH_TWO_STORES:
        store = open_dual(phase)
        assert set(store.orphaned_chords("me")) == set(groups), phase
        assert able(store, KnowsParts).living_parts([*ids, new_id()]) == set(ids)


def test_orphans_of_a_store_that_cannot_be_reached_wait(
    open_dual: Open, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, one = new_id(), record()
    store = open_dual(Phase.DUAL)
    store.begin_chord(ChordRecord(group_id=group))
    store.put(one, part(group, one.task_id, owner="me"), lease=0.0)
    store.size_chord(group, 1)
    orphaned = MemoryStore.orphaned_chords

    def fail(self: MemoryStore, owner: str, limit: int = 100) -> Any:
        if self.url == target.url:
            raise StoreUnavailable("stopped")
        return orphaned(self, owner, limit)

    monkeypatch.setattr(MemoryStore, "orphaned_chords", fail)
    assert store.orphaned_chords("me") == [group]


# -- groups


def group_record(name: str, group_id: str | None = None) -> GroupRecord:
    return GroupRecord(group_id=group_id or new_id(), result=json_payload(name), done_at=NOW)


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_group_that_is_saved_again_is_the_same_in_both_stores(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process saves it while it is mirrored."""
    first = group_record("first")
    second = group_record("second", first.group_id)
    decider, other = (target, source) if phase.target_decides else (source, target)
    put = MemoryStore.put_group

    def overtaken(self: MemoryStore, group: GroupRecord) -> None:
        if self.url == other.url and group == first:
            put(decider, second)
            put(other, second)
        put(self, group)

    monkeypatch.setattr(MemoryStore, "put_group", overtaken)
    open_dual(phase).put_group(first)
    assert source.get_group(first.group_id) == target.get_group(first.group_id) == second


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_group_of_the_source_is_brought_to_the_target_when_it_is_read(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    saved = group_record("saved")
    source.put_group(saved)
    assert open_dual(phase).get_group(saved.group_id) == saved
    assert target.get_group(saved.group_id) == saved


@pytest.mark.parametrize("phase", list(Phase)[:-1])
def test_deleted_group_is_deleted_in_both_stores(
    open_dual: Open, source: MemoryStore, target: MemoryStore, phase: Phase
) -> None:
    saved = group_record("saved")
    source.put_group(saved)
    target.put_group(saved)
    open_dual(phase).delete_group(saved.group_id)
    assert (source.get_group(saved.group_id), target.get_group(saved.group_id)) == (None, None)


# -- abilities


def test_abilities_are_those_of_the_store_that_decides(tmp_path: Path, source: MemoryStore) -> None:
    target = open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    phases = FixedPhases(Phase.SWITCHING)
    store = DualStore(source, target, phases)
    one = record(name="shop.pack")
    store.put(one)
    assert store.ability(Searchable) is None
    assert store.ability(HasSchema) is None
    assert store.ability(Queryable) is None
    phases.set(Phase.TARGET_FIRST)
    schema = able(store, HasSchema)
    assert schema.schema.status().is_complete
    assert [found.task_id for found in able(store, Queryable).query(TaskQuery(names=("shop.pack",)))] == [one.task_id]
    counted = store.ability(Counted)
    assert counted is not None
    phases.set(Phase.SWITCHING)
    assert callable(counted.roll), "a service that has begun goes on with the store that it began with"
    store.close()


def test_abilities_of_one_store_are_not_those_of_the_migration(open_dual: Open) -> None:
    store = open_dual(Phase.DUAL)
    for protocol in (Mirrored, Streamed, SharesValues, ReportsInserts):
        assert store.ability(protocol) is None


def test_missing_ability_is_an_error_if_the_phase_has_changed(tmp_path: Path, source: MemoryStore) -> None:
    phases = FixedPhases(Phase.TARGET_FIRST)
    store = DualStore(source, open_store(f"sqlite:///{tmp_path}/target.sqlite3"), phases)
    queryable = able(store, Queryable)
    phases.set(Phase.SWITCHING)
    with pytest.raises(AbilityMissing):
        queryable.query(TaskQuery())
    store.close()


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_hold_is_placed_and_released_in_both_stores(files: Open, phase: Phase) -> None:
    store = files(phase)
    # so that the numbers differ
    able(store.target, Holding).place_hold("task:x", "another one", "me", NOW)
    holding = able(store, Holding)
    hold = holding.place_hold("state:SUCCESS", "audit", "me", NOW)
    for each in (store.source, store.target):
        assert "audit" in {found.reason for found in able(each, Holding).holds()}
    assert hold in holding.holds()
    assert holding.release_hold(hold.id, "me", NOW) is not None
    for each in (store.source, store.target):
        assert "audit" not in {found.reason for found in able(each, Holding).holds()}


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_spared_result_is_buried_in_neither_store(files: Open, phase: Phase) -> None:
    store = files(phase)
    kept, gone = record(), record(state="FAILURE")
    for one in (kept, gone):
        store.put(one)
    removed = able(store, Holding).delete_spared([kept.task_id, gone.task_id], OneOf("status", ("SUCCESS",)))
    assert (removed.count, removed.kept) == (1, {kept.task_id})
    for each in (store.source, store.target):
        assert each.get_many([kept.task_id, gone.task_id]) == {kept.task_id: kept}
        assert able(each, Mirrored).burials_of([kept.task_id, gone.task_id]).keys() == {gone.task_id}


def expired(**given: Any) -> TaskRecord:
    return record(**{"expires_at": PAST, "done_at": PAST, **given})


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_expired_results_are_deleted_in_both_stores(files: Open, phase: Phase) -> None:
    store = files(phase)
    both, alone = [expired() for _ in range(5)], [expired() for _ in range(12)]
    for one in both:
        store.put(one)
    other = store.source if phase.target_decides else store.target
    for one in alone:
        other.put(one)
    expiring = able(store, Expiring)
    assert expiring.count_expired(Due(now=NOW)).count == 5
    count, due = 0, Due(now=NOW, limit=3)
    while True:
        deleted = expiring.delete_expired_tasks(due)
        count += deleted.count
        if deleted.last is None:
            break
        due = replace(due, after=deleted.last)
    assert count == 5, "those of the store that decides"
    for each in (store.source, store.target):
        assert list(each.scan()) == []


def test_expired_results_are_kept_while_the_other_store_has_a_hold(tmp_path: Path, source: MemoryStore) -> None:
    """The store that decides keeps no holds, so it cannot say what must stay."""
    target = open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    store = DualStore(source, target, FixedPhases(Phase.DUAL))
    one = expired()
    store.put(one)
    able(target, Holding).place_hold("state:SUCCESS", "audit", "me", NOW)
    assert len(able(store, Holding).holds()) == 1
    while store.delete_expired(NOW):
        pass
    assert source.get(one.task_id) is None
    assert target.get(one.task_id) == one
    with pytest.raises(AbilityMissing):
        able(store, Holding).place_hold("state:FAILURE", "audit", "me", NOW)
    store.close()


@pytest.mark.parametrize("phase", [Phase.PREPARED, Phase.TARGET_ONLY])
def test_result_is_forgotten_if_the_store_that_decides_keeps_no_holds(
    phase: Phase, tmp_path: Path, source: MemoryStore
) -> None:
    """A process asks for the ability before it knows the phase."""
    other = open_store(f"sqlite:///{tmp_path}/other.sqlite3")
    pair = (other, source) if phase.target_decides else (source, other)
    store = DualStore(*pair, FixedPhases(phase))
    holding = DualHolding(store)
    one = record()
    store.put(one)
    assert list(holding.holds()) == []
    assert holding.delete_spared([one.task_id], OneOf("status", ("FAILURE",))).count == 1
    assert store.get(one.task_id) is None
    store.close()


# -- groups


def saved() -> GroupRecord:
    return GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.TARGET_FIRST])
def test_group_that_is_deleted_while_it_is_read_stays_deleted(
    phase: Phase, open_dual: Open, source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, reader = saved(), open_dual(phase)
    source.put_group(group)
    copy_groups = MemoryStore.copy_groups

    def late(self: MemoryStore, groups: Any) -> int:
        open_dual(phase).delete_group(group.group_id)
        return copy_groups(self, groups)

    monkeypatch.setattr(MemoryStore, "copy_groups", late)
    assert reader.get_group(group.group_id) is None
    assert (source.get_group(group.group_id), target.get_group(group.group_id)) == (None, None)


@pytest.mark.parametrize("phase", WITH_TWO_STORES)
def test_group_that_is_deleted_while_it_is_saved_stays_deleted(
    phase: Phase, open_dual: Open, source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, writer = saved(), open_dual(phase)
    other = source if phase.target_decides else target
    put_group = MemoryStore.put_group

    def late(self: MemoryStore, one: GroupRecord) -> None:
        if self is other:
            open_dual(phase).delete_group(group.group_id)
        put_group(self, one)

    monkeypatch.setattr(MemoryStore, "put_group", late)
    writer.put_group(group)
    assert (source.get_group(group.group_id), target.get_group(group.group_id)) == (None, None)


def test_save_that_ends_while_its_group_is_deleted_brings_nothing_back(
    open_dual: Open, source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, writer = saved(), open_dual(Phase.TARGET_FIRST)
    target.put_group(group)
    delete_group = MemoryStore.delete_group

    def late(self: MemoryStore, group_id: str) -> None:
        delete_group(self, group_id)
        if self is source and source.get_group(group_id) is None and not has_ended:
            has_ended.append(True)
            with writer.verb() as verb:
                writer.groups._mirror(verb, group)

    has_ended: list[bool] = []
    monkeypatch.setattr(MemoryStore, "delete_group", late)
    open_dual(Phase.TARGET_FIRST).delete_group(group.group_id)
    assert has_ended
    assert (source.get_group(group.group_id), target.get_group(group.group_id)) == (None, None)


# -- notes


def test_notes_are_limited() -> None:
    unmirrored = Unmirrored()
    for number in range(MAX_NOTED + 10):
        unmirrored.note(str(number))
    assert unmirrored.count == MAX_NOTED + 10
    assert unmirrored.waiting() == [*map(str, range(MAX_NOTED)), MORE]
    for task_id in unmirrored.waiting():
        unmirrored.written(task_id)
    unmirrored.note("later")
    assert unmirrored.waiting() == [MORE], "the coordinator must compare again"
    unmirrored.written(MORE)
    unmirrored.begin_again("a comparison")
    unmirrored.note("later")
    assert unmirrored.waiting() == ["later"]


def test_result_is_noted_again_after_its_note_was_written() -> None:
    unmirrored = Unmirrored()
    for _ in range(2):
        unmirrored.note("one")
        assert unmirrored.waiting() == ["one"], "the coordinator removes each note"
        unmirrored.written("one")


def test_notes_of_a_forked_process_are_its_own() -> None:
    unmirrored = Unmirrored()
    unmirrored.note("parent")
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, str(unmirrored.waiting()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"[]"
