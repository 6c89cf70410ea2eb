"""`rootcellar copy`, and what it is made of, with stores in memory. Real servers are in test_copy_stores."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.migration import resuming, walking
from rootcellar.migration.copying import Copier
from rootcellar.migration.resuming import CopyState, CopyTaken, StateKeeper, key_of
from rootcellar.migration.transfer import packed, unpacked
from rootcellar.migration.walking import read_ahead, walk_tasks
from rootcellar.records import DAMAGED, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.mirroring import CopyReport
from rootcellar.support.backoff import Backoff
from rootcellar.testing.memory import MemoryStore, forget_place
from tests.commands import run_here
from tests.helpers import PATIENCE, new_id, now, record


@pytest.fixture
def source() -> Iterator[MemoryStore]:
    yield from _new_store()


@pytest.fixture
def target() -> Iterator[MemoryStore]:
    yield from _new_store()


def _new_store() -> Iterator[MemoryStore]:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield store
    forget_place(store.url)


def stored(store: MemoryStore) -> dict[str, TaskRecord]:
    return {one.task_id: one for one in store.scan(limit=1_000_000)}


def fill(store: MemoryStore, count: int, **fields: Any) -> list[TaskRecord]:
    ones = [record(value=number, **fields) for number in range(count)]
    for one in ones:
        store.put(one)
    return ones


def copy(*args: str) -> dict[str, Any]:
    ended = run_here("copy", *args, "--json")
    assert ended.status == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_copy_has_every_record_and_group_as_it_was(source: MemoryStore, target: MemoryStore) -> None:
    fill(source, 2_500, name="shop.pay", expires_at=now() + timedelta(days=1))
    source.put(record(state="STARTED", started_at=now()))
    source.put(record(state="FAILURE", traceback="Traceback …", done_at=NO_DATE))
    group = GroupRecord(group_id=new_id(), result=Payload(b"[1]"), done_at=now())
    source.put_group(group)
    found = copy(source.url, target.url)
    assert stored(target) == stored(source)
    assert target.get_group(group.group_id) == group
    assert (found["copied"], found["read"], found["groups_copied"]) == (2_502, 2_502, 1)
    # a second copy finds everything there, and nothing is left in the shared values
    again = copy(source.url, target.url)
    assert (again["copied"], again["kept"], again["groups_copied"]) == (0, 2_502, 0)
    assert not target.shared("copy/")


def test_newer_record_wins_in_both_directions(source: MemoryStore, target: MemoryStore) -> None:
    early, late = now() - timedelta(hours=1), now()
    ids = [new_id() for _ in range(3)]
    source.put(record(ids[0], "new", "FAILURE", done_at=late))
    target.put(record(ids[0], "old", done_at=early))
    source.put(record(ids[1], "old", done_at=early))
    target.put(record(ids[1], "new", "FAILURE", done_at=late))
    source.put(record(ids[2], "same"))
    found = copy(source.url, target.url)
    assert (found["copied"], found["kept"]) == (2, 1)
    assert [stored(target)[each].result for each in ids] == [Payload(b'"new"'), Payload(b'"new"'), Payload(b'"same"')]


def test_missing_only_keeps_every_result_of_the_target(source: MemoryStore, target: MemoryStore) -> None:
    one, other = new_id(), new_id()
    source.put(record(one, "new"))
    source.put(record(other, "new"))
    target.put(record(one, "old", done_at=now() - timedelta(days=1)))
    found = copy(source.url, target.url, "--missing-only")
    assert (found["copied"], found["kept"]) == (1, 1)
    assert stored(target)[one].result == Payload(b'"old"')


def test_filter_decides_what_is_copied(source: MemoryStore, target: MemoryStore) -> None:
    source.put(record("a", {"total": 5}, name="shop.pay"))
    source.put(record("b", {"total": 500}, name="shop.pay"))
    source.put(record("c", {"total": 500}, name="shop.ship"))
    source.put(record("d", {"total": 500}, name="shop.pay", done_at=now() - timedelta(days=9)))
    found = copy(source.url, target.url, "task:shop.pay", "result.total:>100", "since:7d")
    assert set(stored(target)) == {"b"}
    assert (found["copied"], found["filtered_out"]) == (1, 3)


def test_order_in_the_filter_is_refused(source: MemoryStore, target: MemoryStore) -> None:
    ended = run_here("copy", source.url, target.url, "sort:done")
    assert ended.status == 2
    assert "leave out sort:" in ended.err


def test_expired_record_is_not_copied(source: MemoryStore, target: MemoryStore) -> None:
    source.put(record("gone", expires_at=now() - timedelta(seconds=1)))
    kept = record("kept", expires_at=now() + timedelta(hours=1))
    source.put(kept)
    assert copy(source.url, target.url)["expired"] == 1
    assert stored(target) == {"kept": kept}


def test_forgotten_record_is_not_brought_back(source: MemoryStore, target: MemoryStore) -> None:
    one = record("a")
    source.put(one)
    target.put(one)
    target.bury(["a"])
    assert copy(source.url, target.url)["buried"] == 1
    assert not stored(target)


def test_unreadable_record_is_named_and_the_others_are_copied(source: MemoryStore, target: MemoryStore) -> None:
    source.put(record("bad", result=Payload(b"?", DAMAGED, "binary")))
    source.put(record("good"))
    ended = run_here("copy", source.url, target.url)
    assert ended.status == 1
    assert set(stored(target)) == {"good"}
    assert "task 'bad' is left out: its result cannot be read" in ended.err


def test_dry_run_changes_nothing_and_counts_what_a_copy_copies(source: MemoryStore, target: MemoryStore) -> None:
    ones = fill(source, 30)
    target.put(ones[0])
    before = stored(target)
    ended = run_here("copy", source.url, target.url, "--dry-run", "--json")
    assert json.loads(ended.out)["copied"] == 29
    assert stored(target) == before
    assert not target.shared("")
    assert "29 tasks would be copied" in run_here("copy", source.url, target.url, "--dry-run").out


def test_copy_onto_itself_is_refused(source: MemoryStore) -> None:
    ended = run_here("copy", source.url, f"rootcellar+{source.url}")
    assert ended.status == 2
    assert "the same place" in ended.err


def test_store_of_a_live_migration_is_not_written_to(source: MemoryStore, target: MemoryStore) -> None:
    fill(source, 3)
    target.share("migration/state", "{}")
    for command in (["copy"], ["verify", "--repair"]):
        ended = run_here(command[0], source.url, target.url, *command[1:])
        assert ended.status == 1
        assert "takes part in a live migration" in ended.err
    assert not stored(target)
    assert run_here("copy", source.url, target.url, "--dry-run").status == 0
    # it may be read
    assert copy(target.url, source.url)["read"] == 0
    target.share("migration/state", json.dumps({"phase": int(Phase.RETIRED)}))
    assert copy(source.url, target.url)["copied"] == 3, "the migration is over"


def test_variable_names_an_end(source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source, 3)
    # the variables of the test's own environment are removed, except this one
    monkeypatch.setenv("OLD_RESULTS", source.url)
    assert copy("env:OLD_RESULTS", target.url)["copied"] == 3
    ended = run_here("copy", "env:NOT_SET", target.url)
    assert ended.status == 2
    assert "NOT_SET is not set" in ended.err


# -- going on


class _Stops(Exception):
    pass


class _StopsAfter:
    """A target that fails when it was called so often."""

    def __init__(self, target: MemoryStore, calls: int) -> None:
        self._target = target
        self._left = calls

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        self._left -= 1
        if self._left < 0:
            raise _Stops
        return self._target.copy(records, newer_wins=newer_wins)

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        return self._target.copy_groups(groups, newer_wins=newer_wins)


def keeper(target: MemoryStore) -> StateKeeper:
    return StateKeeper(target, key_of("a", "b"), "here")


def test_copy_that_died_goes_on_where_it_was(
    source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the state is stored after each batch
    monkeypatch.setattr(resuming, "INTERVAL", 0.0)
    fill(source, 3_000)
    source.put_group(GroupRecord(group_id="g", result=Payload(b"[1]"), done_at=now()))
    with pytest.raises(_Stops):
        Copier(source, _StopsAfter(target, 3), keeper=keeper(target)).run()
    done = len(stored(target))
    assert 0 < done < 3_000
    second = keeper(target)
    state = second.load()
    assert state is not None
    assert state.counts.read == state.counts.written == done
    read: list[str] = []

    def matches(one: TaskRecord) -> bool:
        read.append(one.task_id)
        return True

    copied = Copier(source, target, matches=matches, keeper=second, state=state).run()
    assert len(read) == 3_000 - done
    assert copied.counts.written == 3_000
    assert copied.counts.groups_written == 1
    assert stored(target) == stored(source)
    assert keeper(target).load() is None


def test_command_goes_on_with_the_moments_of_its_first_run(source: MemoryStore, target: MemoryStore) -> None:
    fill(source, 3)
    state = CopyState(filter="done:>=2999-01-01")
    state.counts.read = 17
    key = key_of(source.url, target.url, "since:7d", True, True)
    assert target.share(key, state.to_text(), if_version=0)
    ended = run_here("copy", source.url, target.url, "since:7d", "--json")
    assert "Going on with the copy" in ended.err
    assert "17 tasks were read" in ended.err
    found = json.loads(ended.out)
    assert (found["read"], found["copied"], found["filtered_out"]) == (20, 0, 3)
    assert copy(source.url, target.url, "since:7d")["copied"] == 3


def test_restart_begins_again(source: MemoryStore, target: MemoryStore) -> None:
    fill(source, 3)
    key = key_of(source.url, target.url, "", True, True)
    target.share(key, CopyState(stage="groups").to_text(), if_version=0)
    assert copy(source.url, target.url, "--restart")["copied"] == 3


def test_second_process_that_runs_the_same_copy_ends_the_first(
    source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "INTERVAL", 0.0)
    fill(source, 3_000)
    other = keeper(target)

    def take_over() -> None:
        other.load()
        other.store(CopyState())

    with pytest.raises(CopyTaken, match="another process"):
        Copier(source, target, keeper=keeper(target), on_batch=take_over).run()


def test_lost_answer_of_the_state_is_no_other_process(target: MemoryStore) -> None:
    one = keeper(target)
    state = CopyState()
    one.store(state)
    # the same was stored already, with an answer that was lost
    target.share(key_of("a", "b"), state.to_text())
    one.store(state)


def test_state_of_a_later_release_begins_again(target: MemoryStore) -> None:
    target.share(key_of("a", "b"), '{"version": 2}')
    one = keeper(target)
    assert one.load() is None
    one.store(CopyState())


# -- outages, and records that are refused


class _Fails(MemoryStore):
    """A store whose copies fail: so many times with an outage, and for the ids that it refuses."""

    outages = 0
    refused: frozenset[str] = frozenset()

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("gone", where="here", remedy="wait")
        if bad := self.refused.intersection(one.task_id for one in records):
            raise RecordRefused(f"{min(bad)} is too large", where="here", remedy="leave it out")
        return super().copy(records, newer_wins=newer_wins)


def test_outage_of_the_target_is_waited_for(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source, 5)
    target = _Fails(f"memory://{uuid.uuid4().hex}")
    target.outages = 3
    monkeypatch.setattr(walking, "_BACKOFF", Backoff(0.01, 0.01))
    assert Copier(source, target).run().counts.written == 5
    assert target.outages == 0
    target.outages = 1_000
    with pytest.raises(StoreUnavailable):
        Copier(source, target).run()
    assert target.outages == 1_000 - 1 - walking.TRIES


def test_copy_that_is_interrupted_in_an_outage_ends_at_once(source: MemoryStore) -> None:
    fill(source, 5_000)
    target = MemoryStore(f"memory://{uuid.uuid4().hex}")
    began = threading.Event()

    def copy(records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        began.set()
        raise StoreUnavailable("gone", where="here", remedy="wait")

    target.copy = copy  # type: ignore[method-assign]

    copier = Copier(source, target, at_once=2)
    signal_at = threading.Timer(0.0, lambda: (began.wait(PATIENCE), os.kill(os.getpid(), signal.SIGUSR1)))
    before = signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(130))
    signal_at.start()
    try:
        with pytest.raises(SystemExit):
            copier.run()
    finally:
        signal_at.join()
        signal.signal(signal.SIGUSR1, before)


def test_refused_record_is_named_and_the_others_are_copied(source: MemoryStore) -> None:
    ones = fill(source, 250)
    target = _Fails(f"memory://{uuid.uuid4().hex}")
    target.refused = frozenset([ones[7].task_id, ones[200].task_id])
    state = Copier(source, target).run()
    assert (state.counts.written, state.counts.refused) == (248, 2)
    assert sum("is too large" in problem for problem in state.problems) == 2


# -- walks


def test_walk_yields_a_record_once_that_a_call_returns_twice() -> None:
    one = record("a")
    (batch,) = walk_tasks(lambda cursor, limit: ([one, one], None))
    assert [each.task_id for each in batch.rows] == ["a"]


def test_batches_are_small_while_the_records_are_large() -> None:
    limits: list[int] = []

    def stream(cursor: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        limits.append(limit)
        size = 1_000_000 if len(limits) < 5 else 10
        return [record(value="x" * size) for _ in range(limit)], None if len(limits) == 12 else "next"

    assert sum(len(batch.rows) for batch in walk_tasks(stream)) == sum(limits)
    assert limits[0] == 100
    assert limits[1:5] == [4, 3, 3, 3] or max(limits[1:5]) <= 4
    assert limits[-1] > 100


def test_error_of_the_reader_reaches_the_caller_and_ends_the_thread() -> None:
    def stream(cursor: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        if cursor is None:
            return [record()], "next"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), read_ahead(lambda wait: walk_tasks(stream, wait=wait)) as batches:
        for _ in batches:
            pass


def test_reader_ends_when_the_caller_leaves_early() -> None:
    calls = 0

    def stream(cursor: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        nonlocal calls
        calls += 1
        return [record()], "next"

    with read_ahead(lambda wait: walk_tasks(stream, wait=wait)) as batches:
        next(batches)
    so_far = calls
    assert calls == so_far <= 6


def test_records_are_the_same_in_another_process() -> None:
    ones = [record(value=number, args=Payload(b"[1]"), expires_at=now()) for number in range(5)]
    assert unpacked(packed(ones)) == ones
    assert unpacked(packed([])) == []
