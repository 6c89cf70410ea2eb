"""The coordinator: it leads processes through the phases, and nothing is lost on the way."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import redis

from rootcellar.errors import (
    MigrationBusy,
    MigrationChordsOpen,
    MigrationDiffers,
    MigrationRefused,
    MigrationUnconfirmed,
    PayloadTooLarge,
)
from rootcellar.maintenance.burials import forget_old_burials
from rootcellar.migration.confirmations import Process
from rootcellar.migration.coordinator import Coordinator, Watching, postpone, set_rate
from rootcellar.migration.operator import OperatorLock
from rootcellar.migration.pair import Pair, Side, pair_of
from rootcellar.migration.passes import Pass, begin
from rootcellar.migration.plan import Level, plan
from rootcellar.migration.state import (
    PROCESSES,
    STATE,
    UNMIRRORED,
    Direction,
    PassKind,
    PassState,
    State,
    find_state,
    text_of,
)
from rootcellar.migration.status import read_status, status_object
from rootcellar.migration.throttle import Throttle
from rootcellar.records import ChordRecord, GroupRecord, Payload, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.holding import Holding
from rootcellar.stores.mirroring import CopyReport, Held, fingerprint
from rootcellar.testing.memory import MemoryStore
from tests.helpers import now
from tests.migration.coordinating import (
    QUICK,
    Follower,
    book,
    coordinator,
    in_store,
    memory_pair,
    record,
    records,
    sqlite_pair,
    to_phase,
)

BETWEEN = (Phase.DUAL, Phase.SWITCHING, Phase.TARGET_FIRST)


def phase_of(pair: Pair) -> Phase:
    return book(pair).read().phase


# -- forth


def test_migration_goes_through_all_phases_and_copies_everything() -> None:
    with memory_pair() as pair, Follower(pair, "a/1-1"), Follower(pair, "b/2-1"):
        pair.source.mirrored.copy(records(2_500))
        group = GroupRecord(group_id="g", result=Payload(b"[]"), done_at=datetime.now(timezone.utc))
        pair.source.store.put_group(group)
        begun = coordinator(pair).start()
        assert begun.phase is Phase.DUAL
        assert in_store(pair.target.store) == in_store(pair.source.store)
        assert pair.target.store.get_group("g") == group
        phases = [coordinator(pair).advance().phase for _ in range(3)]
        assert phases == [Phase.SWITCHING, Phase.TARGET_FIRST, Phase.TARGET_ONLY]
        assert coordinator(pair).retire().phase is Phase.RETIRED


def test_state_is_in_both_stores_after_each_step() -> None:
    with memory_pair() as pair:
        for phase in Phase:
            if phase is Phase.RETIRED:
                coordinator(pair).retire()
            elif phase is not Phase.PREPARED:
                to_phase(pair, phase)
                assert find_state(pair.source) == find_state(pair.target)
                assert book(pair).read().phase is phase


def test_copy_in_the_source_is_not_replaced_by_one_of_an_earlier_phase() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.DUAL)
        early = book(pair).read()
        to_phase(pair, Phase.SWITCHING)
        pair.target.values.share(STATE, text_of(early))
        book(pair).note("somebody who was late")
        in_source = find_state(pair.source)
        assert in_source is not None
        assert in_source.phase is Phase.SWITCHING


def test_what_was_forgotten_in_the_source_is_removed_from_the_target() -> None:
    with memory_pair() as pair:
        pair.source.store.put(record("kept"))
        coordinator(pair).prepare()
        pair.target.store.put(record("late-mirror"))
        coordinator(pair).start()
        assert set(in_store(pair.target.store)) == {"kept"}
        assert set(pair.target.mirrored.burials_of(["late-mirror"])) == {"late-mirror"}


@pytest.mark.parametrize("phase", [Phase.DUAL, Phase.SWITCHING, Phase.TARGET_FIRST])
def test_result_that_a_killed_writer_left_in_the_source_is_copied_before_the_next_phase(phase: Phase) -> None:
    with memory_pair() as pair:
        to_phase(pair, phase)
        pair.source.store.put(record("left"))
        # what was compared before does not count for what was noted later
        pair.source.values.share(f"{UNMIRRORED}left", "{}")
        coordinator(pair).advance()
        assert pair.target.store.get("left") == record("left")


def test_noted_results_are_repaired_and_not_noted_any_more() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.DUAL)
        pair.source.store.put(record("again", "FAILURE", "second"))
        pair.target.store.put(record("again", "FAILURE", "first", minutes_ago=9))
        pair.source.values.share(f"{UNMIRRORED}again", "{}")
        assert read_status(pair).unmirrored == 1
        coordinator(pair).advance()
        assert pair.target.store.get("again") == record("again", "FAILURE", "second")
        assert read_status(pair).unmirrored == 0


def test_two_successes_of_one_task_become_that_of_the_target() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.DUAL)
        pair.source.store.put(record("twice", value="in source"))
        pair.target.store.put(record("twice", value="in target"))
        pair.source.values.share(f"{UNMIRRORED}twice", "{}")
        coordinator(pair).advance()
        assert pair.source.store.get("twice") == pair.target.store.get("twice") == record("twice", value="in target")


@pytest.mark.parametrize("phase", BETWEEN)
def test_group_that_differs_becomes_that_of_the_store_that_decides(phase: Phase) -> None:
    def group(text: bytes) -> GroupRecord:
        return GroupRecord(group_id="g", result=Payload(text), done_at=datetime.now(timezone.utc))

    with memory_pair() as pair:
        to_phase(pair, phase)
        pair.source.store.put_group(group(b'"source"'))
        pair.target.store.put_group(group(b'"target"'))
        book(pair).change(lambda state: replace(state, verified=None))
        coordinator(pair).advance()
        found = [side.store.get_group("g") for side in (pair.source, pair.target)]
        wanted = b'"target"' if phase is Phase.TARGET_FIRST else b'"source"'
        assert [each.result.body for each in found if each is not None] == [wanted, wanted]


def test_result_that_the_source_has_evicted_does_not_stop_a_step() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.SWITCHING)
        pair.target.store.put(record("evicted"))
        state = coordinator(pair).advance()
        assert state.verified is not None
        assert (state.verified.is_clean, state.verified.only_in_target) == (True, 1)
        assert pair.target.store.get("evicted") == record("evicted")


def test_late_mirror_of_what_was_forgotten_is_removed_by_a_comparison() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.SWITCHING)
        pair.source.store.put(record("forgotten"))
        pair.source.mirrored.bury(["forgotten"])
        pair.target.store.put(record("forgotten"))
        coordinator(pair).advance()
        assert pair.target.store.get("forgotten") is None


def test_tasks_that_have_not_ended_do_not_stop_a_step() -> None:
    with memory_pair() as pair:
        for number in range(20):
            pair.source.store.put(record(f"running-{number}", "STARTED", None, done_at=None))
        state = coordinator(pair).start()
        assert state.verified is not None
        assert state.verified.is_clean


def test_holds_of_the_source_are_placed_in_the_target_once(tmp_path: Path) -> None:
    with sqlite_pair(tmp_path) as pair:
        source, target = pair.source.store.ability(Holding), pair.target.store.ability(Holding)
        assert source is not None
        assert target is not None
        source.place_hold("task:shop.*", "lawsuit 17", "ann", datetime.now(timezone.utc))
        for _ in range(2):
            coordinator(pair).start()
        coordinator(pair).rollback()
        coordinator(pair).start()
        assert [(each.filter, each.reason, each.placed_by) for each in target.holds()] == [
            ("task:shop.*", "lawsuit 17", "ann")
        ]


def test_hold_that_is_placed_in_one_store_is_in_both_after_the_next_step(tmp_path: Path) -> None:
    with sqlite_pair(tmp_path) as pair:
        source, target = pair.source.store.ability(Holding), pair.target.store.ability(Holding)
        assert source is not None
        assert target is not None
        to_phase(pair, Phase.DUAL)
        source.place_hold("task:late", "by a process without the variable", "ann", datetime.now(timezone.utc))
        to_phase(pair, Phase.SWITCHING)
        assert [each.filter for each in target.holds()] == ["task:late"]
        target.place_hold("task:target", "the same", "ann", datetime.now(timezone.utc))
        coordinator(pair).rollback()
        assert [each.filter for each in source.holds()] == ["task:late", "task:target"]


def hold_in(side: Side, reason: str) -> None:
    holding = side.store.ability(Holding)
    assert holding is not None
    holding.place_hold("task:shop.*", reason, "ann", datetime.now(timezone.utc))


def reasons_in(side: Side) -> set[str]:
    holding = side.store.ability(Holding)
    assert holding is not None
    return {hold.reason for hold in holding.holds()}


def test_hold_that_was_placed_in_the_source_is_in_the_target_before_the_source_is_left(tmp_path: Path) -> None:
    with sqlite_pair(tmp_path) as pair:
        to_phase(pair, Phase.TARGET_ONLY)
        hold_in(pair.source, "by a command without the variable")
        coordinator(pair).retire()
        assert reasons_in(pair.target) == {"by a command without the variable"}


@pytest.mark.parametrize("where", ["source", "target"])
def test_hold_that_was_released_in_one_store_is_released_in_both(tmp_path: Path, where: str) -> None:
    with sqlite_pair(tmp_path) as pair:
        hold_in(pair.source, "released")
        hold_in(pair.source, "kept")
        to_phase(pair, Phase.DUAL)
        holding = getattr(pair, where).store.ability(Holding)
        number = next(hold.id for hold in holding.holds() if hold.reason == "released")
        holding.release_hold(number, "bob", datetime.now(timezone.utc))
        coordinator(pair).advance()
        assert reasons_in(pair.source) == reasons_in(pair.target) == {"kept"}


def test_holds_that_the_target_cannot_keep_refuse_the_migration(tmp_path: Path) -> None:
    with sqlite_pair(tmp_path) as both, memory_pair() as memory:
        holding = both.source.store.ability(Holding)
        assert holding is not None
        holding.place_hold("task:shop.*", "lawsuit 17", "ann", datetime.now(timezone.utc))
        pair = pair_of(both.source.store, memory.target.store)
        with pytest.raises(MigrationRefused, match="cannot keep holds"):
            coordinator(pair).start()
        assert phase_of(pair) is Phase.PREPARED


def test_target_with_results_of_something_else_is_refused() -> None:
    with memory_pair() as pair:
        pair.target.store.put(record("of-another-application"))
        with pytest.raises(MigrationRefused, match="has results already"):
            coordinator(pair).start()
        assert set(in_store(pair.target.store)) == {"of-another-application"}


def test_store_that_takes_part_in_another_migration_is_refused() -> None:
    with memory_pair() as first, memory_pair() as second:
        to_phase(first, Phase.DUAL)
        with pytest.raises(MigrationRefused, match="takes part in another migration"):
            coordinator(pair_of(first.source.store, second.target.store)).start()


def test_migration_in_the_other_direction_begins_after_retire() -> None:
    with memory_pair() as pair:
        pair.source.store.put(record("one"))
        to_phase(pair, Phase.TARGET_ONLY)
        coordinator(pair).retire()
        pair.source.store.delete(["one"])
        back = pair_of(pair.target.store, pair.source.store)
        to_phase(back, Phase.TARGET_ONLY)
        assert pair.source.store.get("one") == record("one")


def test_stores_in_the_wrong_order_are_refused() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        wrong = pair_of(pair.target.store, pair.source.store)
        for again in (coordinator(wrong).advance, coordinator(wrong).rollback, lambda: read_status(wrong)):
            with pytest.raises(MigrationRefused, match="in the other order"):
                again()
        assert phase_of(pair) is Phase.TARGET_FIRST


def test_store_may_be_named_in_another_way(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with sqlite_pair(tmp_path) as pair:
        pair.source.mirrored.copy(records(3))
        to_phase(pair, Phase.DUAL)
        other = [f"sqlite:///{tmp_path}/sub/../{name}.sqlite3" for name in ("source", "target")]
        stores = [open_store(url) for url in other]
        assert [each.level for each in plan(*stores) if each.level is Level.REFUSED] == []
        assert coordinator(pair_of(*stores)).advance().phase is Phase.SWITCHING
        for store in stores:
            store.close()


def test_pass_before_retire_does_not_bring_an_old_state_back() -> None:
    with memory_pair() as pair:
        pair.source.store.put(record("again", "FAILURE"))
        to_phase(pair, Phase.TARGET_ONLY)
        again = record("again", "RETRY", None, done_at=None, retries=1)
        pair.target.store.put(again)
        pair.source.store.put(record("left-by-a-frozen-process"))
        coordinator(pair).retire()
        found = in_store(pair.target.store)
        assert found["again"].state == "RETRY"
        assert set(found) == {"again", "left-by-a-frozen-process"}


def test_migration_is_refused_while_a_process_follows_the_one_before() -> None:
    with memory_pair() as first, memory_pair() as second:
        to_phase(first, Phase.TARGET_ONLY)
        state = coordinator(first).retire()
        about = json.dumps({"phase": int(state.phase), "epoch": state.epoch})
        first.target.values.share(f"{PROCESSES}web1/9-9", about)
        following = pair_of(first.target.store, second.target.store)
        with pytest.raises(MigrationRefused, match="web1/9"):
            coordinator(following).start()
        first.target.values.unshare([f"{PROCESSES}web1/9-9"])
        assert coordinator(following).start().phase is Phase.DUAL


# -- who has not confirmed


def without_patience(pair: Pair, **options: object) -> Coordinator:
    return coordinator(pair, replace(QUICK, patience=0.2, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", BETWEEN)
def test_silent_process_is_named_and_the_phase_stays(phase: Phase) -> None:
    with memory_pair() as pair, Follower(pair, "web1/1-1"), Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, phase)
        frozen.frozen.set()
        before = phase_of(pair)
        with pytest.raises(MigrationUnconfirmed) as caught:
            without_patience(pair).advance()
        assert caught.value.processes == ("web2/4711",)
        assert "web2/4711" in str(caught.value)
        assert phase_of(pair) == before + 1
        # nobody goes further than one phase ahead of it
        with pytest.raises(MigrationUnconfirmed):
            without_patience(pair).advance() if before < Phase.TARGET_FIRST else without_patience(pair).retire()
        assert phase_of(pair) == before + 1
        status = read_status(pair)
        assert [each.name for each in status.silent] == ["web2/4711"]
        assert status_object(status)["unconfirmed"] == ["web2/4711"]
        frozen.frozen.clear()
        assert coordinator(pair).advance().phase == before + 1, "it finishes the step that was interrupted"
        if before < Phase.TARGET_FIRST:
            assert coordinator(pair).advance().phase == before + 2


@pytest.mark.parametrize("name", ["web2", "web2/4711", "web2/4711-5"])
def test_operator_may_go_on_without_a_silent_process(name: str) -> None:
    with memory_pair() as pair, Follower(pair, "web1/1-1"), Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, Phase.DUAL)
        frozen.frozen.set()
        state = coordinator(pair, replace(QUICK, without=(name,))).advance()
        assert state.phase is Phase.SWITCHING
        assert state.without == ("web2/4711-5",)
        assert "goes on without web2/4711" in {each.text for each in state.log}
        assert [each.name for each in read_status(pair).left_out] == ["web2/4711"]


def test_coordinator_waits_until_a_process_that_was_left_out_can_do_nothing() -> None:
    waited: list[float] = []

    class Sees(Watching):
        def waits_for_left_out(self, state: State, processes: Sequence[Process], seconds: float) -> None:
            waited.append(seconds)
            frozen.frozen.clear()

    with memory_pair() as pair, Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, Phase.DUAL)
        frozen.frozen.set()
        options = replace(QUICK, without=("web2",), left_out_after=1_000.0)
        assert coordinator(pair, options, watching=Sees()).advance().phase is Phase.SWITCHING
        assert waited[0] > 900


def test_process_that_was_left_out_and_confirms_again_counts_again() -> None:
    with memory_pair() as pair, Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, Phase.DUAL)
        frozen.frozen.set()
        coordinator(pair, replace(QUICK, without=("web2",))).advance()
        frozen.frozen.clear()
        assert coordinator(pair).advance().without == ()
        frozen.frozen.set()
        with pytest.raises(MigrationUnconfirmed):
            without_patience(pair).advance()


def test_name_that_no_process_has_is_refused() -> None:
    with memory_pair() as pair, Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, Phase.DUAL)
        frozen.frozen.set()
        with pytest.raises(MigrationRefused, match=r"web3.*web2/4711"):
            coordinator(pair, replace(QUICK, without=("web3",))).advance()


def test_process_that_has_confirmed_nothing_is_waited_for() -> None:
    with memory_pair() as pair:
        pair.target.values.share(f"{PROCESSES}web1/9-9", json.dumps({"phase": None, "epoch": None}))
        with pytest.raises(MigrationUnconfirmed, match="web1/9"):
            without_patience(pair).start()
        assert phase_of(pair) is Phase.PREPARED


def test_process_that_confirms_in_the_source_only_counts() -> None:
    with memory_pair() as pair:
        state = coordinator(pair).start()
        text = json.dumps({"phase": int(state.phase), "epoch": state.epoch})
        pair.target.values.share(f"{PROCESSES}web1/9-9", json.dumps({"phase": 0, "epoch": 1}))
        pair.source.values.share(f"{PROCESSES}web1/9-9", text)
        assert read_status(pair).silent == []


def test_process_that_has_gone_back_to_the_source_has_not_confirmed() -> None:
    with memory_pair() as pair:
        state = coordinator(pair).start()
        pair.target.values.share(f"{PROCESSES}web1/9-9", json.dumps({"phase": int(state.phase), "epoch": state.epoch}))
        pair.source.values.share(f"{PROCESSES}web1/9-9", json.dumps({"phase": 0, "epoch": state.epoch - 1}))
        assert [each.name for each in read_status(pair).silent] == ["web1/9"]


def test_confirmation_of_an_earlier_visit_of_the_same_phase_does_not_count() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.SWITCHING)
        early = book(pair).read()
        to_phase(pair, Phase.TARGET_FIRST)
        assert coordinator(pair).rollback(Phase.SWITCHING).epoch == early.epoch + 2
        text = json.dumps({"phase": int(early.phase), "epoch": early.epoch})
        pair.target.values.share(f"{PROCESSES}web1/9-9", text)
        assert [each.name for each in read_status(pair).silent] == ["web1/9"]


# -- one operator at a time


def test_second_operator_is_refused_and_told_who_works() -> None:
    with memory_pair() as pair:
        coordinator(pair).prepare()
        with OperatorLock(book(pair), "copies", renewal=0.1), pytest.raises(MigrationBusy, match="bob coordinates"):
            coordinator(pair).start()
        assert coordinator(pair).start().phase is Phase.DUAL


def test_silent_operator_is_replaced_and_cannot_change_the_phase_any_more() -> None:
    with memory_pair() as pair:
        coordinator(pair).prepare()
        # it never renews its lock, as a process that stands still
        frozen = OperatorLock(book(pair), "copies", silent=0.05, renewal=1_000.0)
        with frozen:
            taken = threading.Event()
            while not taken.wait(0.02):
                try:
                    with OperatorLock(book(pair), "takes over", silent=0.05):
                        taken.set()
                except MigrationBusy:
                    continue
            with pytest.raises(MigrationBusy, match="taken over"):
                frozen.check()
            with pytest.raises(MigrationBusy, match="taken over"):
                frozen.fenced(book(pair).read())


def test_operator_that_could_not_renew_its_lock_goes_on_if_nobody_took_it() -> None:
    with memory_pair() as pair:
        coordinator(pair).prepare()
        with OperatorLock(book(pair), "copies", silent=0.01, renewal=1_000.0) as lock:
            threading.Event().wait(0.02)
            lock.check()
            lock.fenced(book(pair).read())


class _Stops(Watching):
    """Ends a pass in its middle, as a signal does."""

    def __init__(self, after: int) -> None:
        self._after = after

    def passes(self, work: PassState) -> None:
        if work.done >= self._after:
            raise SystemExit(143)


def test_interrupted_pass_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootcellar.migration.passes.KEEP_EVERY", 0.0)
    with sqlite_pair(tmp_path) as pair:
        pair.source.mirrored.copy(records(3_000))
        with pytest.raises(SystemExit):
            coordinator(pair, watching=_Stops(1_000)).start()
        work = book(pair).read().work
        assert work is not None
        assert work.cursor is not None
        assert work.done < 3_000
        seen: list[PassState] = []

        class Sees(Watching):
            def passes(self, work: PassState) -> None:
                seen.append(work)

        state = coordinator(pair, watching=Sees()).start()
        assert seen[0].done > work.done
        assert state.work is not None
        assert state.work.done == 3_000
        assert len(in_store(pair.target.store)) == 3_000


# -- postponing, the rate, and differences


class _During(Watching):
    """Does something once, while a pass runs."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work

    def passes(self, work: PassState) -> None:
        if self._work is not None:
            self._work()
            self._work = None


def test_postponement_during_a_pass_keeps_the_phase_until_the_operator_advances() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.SWITCHING)
        watching = _During(lambda: postpone(book(pair), "not before the release"))
        with pytest.raises(MigrationRefused, match="not before the release"):
            coordinator(pair, watching=watching).advance()
        state = book(pair).read()
        assert state.phase is Phase.SWITCHING
        assert state.finished_pass is not None
        assert coordinator(pair).advance().phase is Phase.TARGET_FIRST


def test_rate_that_is_changed_from_elsewhere_is_followed_by_the_pass() -> None:
    with memory_pair() as pair:
        pair.source.mirrored.copy(records(3_000))
        coordinator(pair).prepare()
        set_rate(book(pair), 10)  # five minutes
        watching = _During(lambda: set_rate(book(pair), None))
        state = coordinator(pair, replace(QUICK, renewal=0.05), watching=watching).start()
        assert state.rate is None
        assert len(in_store(pair.target.store)) == 3_000


def damaged_pair(folder: Path) -> Pair:
    """Return a pair whose source has a result that cannot be read."""
    pair = pair_of(*(open_store(f"sqlite:///{folder}/{name}.sqlite3") for name in ("source", "target")))
    pair.source.mirrored.copy(records(10))
    with closing(sqlite3.connect(folder / "source.sqlite3")) as connection, connection:
        connection.execute("UPDATE celery_taskmeta SET result_exact = 5 WHERE task_id = 'task-00003'")
    return pair


def test_step_ends_with_a_list_if_the_stores_differ(tmp_path: Path) -> None:
    pair = damaged_pair(tmp_path)
    with pytest.raises(MigrationDiffers, match=r"1 missing.*task-00003"):
        coordinator(pair).start()
    verified = book(pair).read().verified
    assert verified is not None
    assert verified.examples == {"missing": ("task-00003",)}
    with pytest.raises(MigrationDiffers):
        coordinator(pair).advance()
    assert phase_of(pair) is Phase.DUAL
    assert coordinator(pair, replace(QUICK, accept_differences=True)).advance().phase is Phase.SWITCHING
    pair.close()


def test_pass_is_made_again_after_the_stores_differed(tmp_path: Path) -> None:
    pair = damaged_pair(tmp_path)
    with pytest.raises(MigrationDiffers):
        coordinator(pair).start()
    pair.source.store.delete(["task-00003"])
    pair.source.mirrored.copy([record("new")])
    assert coordinator(pair).advance().phase is Phase.SWITCHING
    assert pair.target.store.get("new") == record("new")
    pair.close()


# -- back


@pytest.mark.parametrize("phase", BETWEEN)
def test_rollback_ends_in_the_source_with_every_result(phase: Phase) -> None:
    with memory_pair() as pair, Follower(pair, "web1/1-1"):
        pair.source.store.put(record("old"))
        to_phase(pair, phase)
        if phase is Phase.TARGET_FIRST:
            # a writer of target first was killed before it wrote to the source
            pair.target.store.put(record("new"))
            pair.target.store.put(record("failed", "FAILURE"))
        state = coordinator(pair).rollback()
        assert (state.phase, state.direction) == (Phase.PREPARED, Direction.BACK)
        wanted = {"old", "new", "failed"} if phase is Phase.TARGET_FIRST else {"old"}
        assert set(in_store(pair.source.store)) == wanted


def test_rollback_brings_the_success_of_the_target_to_the_source() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        pair.source.store.put(record("twice", value="in source"))
        pair.target.store.put(record("twice", value="in target"))
        coordinator(pair).rollback()
        assert pair.source.store.get("twice") == record("twice", value="in target")


def test_rollback_brings_a_noted_failure_of_the_target_to_the_source() -> None:
    with memory_pair() as pair:
        pair.source.store.put(record("again", "FAILURE", "first", minutes_ago=9))
        to_phase(pair, Phase.TARGET_FIRST)
        # the source did not answer, so the writer noted it in the target
        pair.target.store.put(record("again", "FAILURE", "second"))
        pair.target.values.share(f"{UNMIRRORED}again", "{}")
        coordinator(pair).rollback()
        assert pair.source.store.get("again") == record("again", "FAILURE", "second")
        assert read_status(pair).unmirrored == 0


@pytest.mark.parametrize("is_later_in_target", [True, False])
def test_rollback_keeps_the_later_failure_of_a_writer_that_was_killed(is_later_in_target: bool) -> None:
    """The writer was killed between its two writes, so nothing is noted, and readers may have seen what it stored."""
    first, second = record("again", "FAILURE", "first", minutes_ago=9), record("again", "FAILURE", "second")
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        pair.source.store.put(first if is_later_in_target else second)
        pair.target.store.put(second if is_later_in_target else first)
        coordinator(pair).rollback()
        assert pair.source.store.get("again") == second


def test_rollback_applies_burials_of_the_target() -> None:
    with memory_pair() as pair:
        pair.source.store.put(record("forgotten"))
        to_phase(pair, Phase.TARGET_FIRST)
        pair.target.mirrored.bury(["forgotten"])
        coordinator(pair).rollback()
        assert in_store(pair.source.store) == {}


def test_rollback_goes_through_the_phases_one_by_one_and_begins_again() -> None:
    with memory_pair() as pair, Follower(pair, "web1/1-1"):
        to_phase(pair, Phase.TARGET_FIRST)
        epoch = book(pair).read().epoch
        assert coordinator(pair).rollback().epoch == epoch + 3
        assert coordinator(pair).start().phase is Phase.DUAL
        to_phase(pair, Phase.TARGET_ONLY)


class SmallStore(MemoryStore):
    """A store that refuses large results of the other store, as a server does."""

    def mirror(self, record: TaskRecord) -> Held:
        self._check(record)
        return super().mirror(record)

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        for each in records:
            self._check(each)
        return super().copy(records, newer_wins=newer_wins)

    def _check(self, record: TaskRecord) -> None:
        if record.result is not None and len(record.result.body) > 100:
            raise PayloadTooLarge("the result is too large", where=self.where, remedy="store a smaller one")


def test_result_that_the_source_refuses_stops_the_way_back() -> None:
    with memory_pair() as both:
        pair = pair_of(SmallStore(both.source.store.url), both.target.store)
        to_phase(pair, Phase.TARGET_FIRST)
        large = record("large", value="x" * 200)
        pair.target.store.put(large)
        pair.target.values.share(f"{UNMIRRORED}large", "{}")
        with pytest.raises(MigrationDiffers, match=r"1 only in target \(such as large\)"):
            coordinator(pair).rollback()
        state = book(pair).read()
        assert state.phase is Phase.SWITCHING
        assert state.work is not None
        assert state.work.refused == 1
        # on the way forth, nothing is lost by that
        assert coordinator(pair).advance().phase is Phase.TARGET_FIRST


def test_result_that_the_target_refuses_is_in_the_list() -> None:
    with memory_pair() as both:
        pair = pair_of(both.source.store, SmallStore(both.target.store.url))
        pair.source.mirrored.copy([*records(10), record("large", value="x" * 200)])
        with pytest.raises(MigrationDiffers, match=r"1 missing \(such as large\)"):
            coordinator(pair).start()
        assert len(in_store(pair.target.store)) == 10


def after_another_step(pair: Pair, phase: Phase) -> Coordinator:
    """Return a coordinator that gets the lock only after another operator has reached a phase."""
    found = coordinator(pair)
    lock = found._lock

    def late(work: str) -> OperatorLock:
        to_phase(pair, phase) if phase > Phase.PREPARED else coordinator(pair).rollback()
        return lock(work)

    found._lock = late  # type: ignore[method-assign]
    return found


def test_step_is_decided_by_the_phase_that_is_read_with_the_lock() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        with pytest.raises(MigrationRefused, match="no way back"):
            after_another_step(pair, Phase.TARGET_ONLY).rollback()
        assert phase_of(pair) is Phase.TARGET_ONLY
    with memory_pair() as pair:
        to_phase(pair, Phase.DUAL)
        with pytest.raises(MigrationRefused, match="run `rootcellar migrate start`"):
            after_another_step(pair, Phase.PREPARED).advance()
        assert phase_of(pair) is Phase.PREPARED
        with pytest.raises(MigrationRefused, match="still in use"):
            after_another_step(pair, Phase.DUAL).retire()
        assert phase_of(pair) is Phase.DUAL


def test_answer_counts_only_for_the_phase_that_was_asked_about() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.SWITCHING)
        again = coordinator(pair)
        for step in (
            lambda: again.advance(Phase.DUAL),
            lambda: again.rollback(asked=Phase.DUAL),
            lambda: again.retire(Phase.DUAL),
        ):
            with pytest.raises(MigrationBusy, match="has changed the phase meanwhile: it is 'switching'"):
                step()
        assert phase_of(pair) is Phase.SWITCHING


def late(task_id: str) -> TaskRecord:
    """Return a result of a worker that does not follow the migration, which has reached its phase long before."""
    return record(task_id, minutes_ago=-5, worker="celery@web9")


def test_worker_without_the_variable_is_named_before_only_the_target_is_used() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        pair.source.store.put(late("strange"))
        with pytest.raises(MigrationDiffers, match=r"1 stored by a process without .*strange of celery@web9"):
            coordinator(pair).advance()
        assert phase_of(pair) is Phase.TARGET_FIRST
        assert pair.target.store.get("strange") == late("strange")
        # the worker was restarted, and stores nothing more there
        assert coordinator(pair).advance().phase is Phase.TARGET_ONLY


def test_pass_before_only_the_target_is_used_is_made_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        watching = _During(lambda: postpone(book(pair), "not today"))
        with pytest.raises(MigrationRefused, match="not today"):
            coordinator(pair, watching=watching).advance()
        pair.source.store.put(late("strange"))
        monkeypatch.setattr("rootcellar.migration.coordinator.VERIFIED_FOR", timedelta(0))
        with pytest.raises(MigrationDiffers, match="strange of celery@web9"):
            coordinator(pair).advance()


def test_worker_without_the_variable_is_named_before_the_source_is_left() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_ONLY)
        pair.source.store.put(late("strange"))
        with pytest.raises(MigrationDiffers, match="strange of celery@web9"):
            coordinator(pair).retire()
        assert pair.target.store.get("strange") == late("strange")
        pair.source.store.put(late("again"))
        assert coordinator(pair, replace(QUICK, accept_differences=True)).retire().phase is Phase.RETIRED


def test_there_is_no_way_back_from_target_only() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_ONLY)
        with pytest.raises(MigrationRefused, match="no way back"):
            coordinator(pair).rollback()


# -- the end


@pytest.mark.parametrize("phase", BETWEEN)
def test_retire_is_refused_before_target_only(phase: Phase) -> None:
    with memory_pair() as pair:
        to_phase(pair, phase)
        with pytest.raises(MigrationRefused, match="the source is still in use"):
            coordinator(pair).retire()
        assert phase_of(pair) is phase


def test_retire_is_refused_while_chords_are_open_in_the_source() -> None:
    with memory_pair() as pair:
        for number in range(3):
            pair.source.store.begin_chord(ChordRecord(group_id=f"chord-{number}"))
        to_phase(pair, Phase.TARGET_ONLY)
        with pytest.raises(MigrationChordsOpen, match="3 chords are open in the source"):
            coordinator(pair).retire()
        assert phase_of(pair) is Phase.TARGET_ONLY
        pair.source.store.finish_chord("chord-0")
        with pytest.raises(MigrationChordsOpen, match="2 chords are open"):
            coordinator(pair).retire()
        assert coordinator(pair, replace(QUICK, abandon_chords=True)).retire().phase is Phase.RETIRED


def test_retire_leaves_nothing_but_the_state() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.DUAL)
        for side in (pair.source, pair.target):
            side.mirrored.bury(["forgotten"])
        to_phase(pair, Phase.TARGET_ONLY)
        coordinator(pair).retire()
        for side in (pair.source, pair.target):
            assert list(side.values.shared("migration/")) == [STATE]
            assert side.mirrored.burials(None, 10) == ([], None)


def test_values_of_dead_processes_are_removed_at_the_end_and_before_the_next_migration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with memory_pair() as pair, memory_pair() as other:
        to_phase(pair, Phase.TARGET_ONLY)
        state = book(pair).read()
        about = json.dumps({"phase": int(state.phase), "epoch": state.epoch})
        for side in (pair.source, pair.target):
            side.values.share(f"{PROCESSES}web2/77-1", about)
        monkeypatch.setattr("rootcellar.migration.coordinator.ALIVE", 0.0)
        coordinator(pair, replace(QUICK, without=("web2",))).retire()
        assert [list(side.values.shared(PROCESSES)) for side in (pair.source, pair.target)] == [[], []]
        pair.target.values.share(f"{PROCESSES}web3/77-1", about)
        threading.Event().wait(0.01)
        assert coordinator(pair_of(pair.target.store, other.target.store)).start().phase is Phase.DUAL


def test_old_burials_are_deleted_again_after_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootcellar.maintenance.burials.BURIALS_KEPT", timedelta(seconds=-60))
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_ONLY)
        for side in (pair.source, pair.target):
            side.mirrored.bury(["forgotten"])
        assert [forget_old_burials(side.store) for side in (pair.source, pair.target)] == [0, 0]
        coordinator(pair).retire()
        for side in (pair.source, pair.target):
            side.mirrored.bury(["forgotten"])
        assert [forget_old_burials(side.store) for side in (pair.source, pair.target)] == [1, 1]


def test_migration_that_was_rolled_back_is_ended_by_retire() -> None:
    with memory_pair() as pair:
        to_phase(pair, Phase.TARGET_FIRST)
        pair.target.store.begin_chord(ChordRecord(group_id="begun in the target"))
        coordinator(pair).rollback()
        for again in (coordinator(pair).retire, coordinator(pair).start):
            with pytest.raises(MigrationChordsOpen, match="1 chord is open in the target"):
                again()
        pair.target.store.finish_chord("begun in the target")
        assert coordinator(pair).retire().phase is Phase.PREPARED
        assert [dict(side.values.shared("migration/")) for side in (pair.source, pair.target)] == [{}, {}]


# -- the passes


def test_passes_may_be_done_twice() -> None:
    with memory_pair() as pair:
        pair.source.mirrored.copy(records(50))
        to_phase(pair, Phase.DUAL)
        before = {key: fingerprint(each) for key, each in in_store(pair.target.store).items()}
        for _ in range(2):
            pair.source.values.share(f"{UNMIRRORED}task-00001", "{}")
            book(pair).change(lambda state: replace(state, work=None, verified=None))
            coordinator(pair).start()
        assert {key: fingerprint(each) for key, each in in_store(pair.target.store).items()} == before


def test_status_of_a_migration_that_has_not_begun_is_empty() -> None:
    with memory_pair() as pair:
        status = read_status(pair)
        assert (status.state, status.silent, status.owner) == (None, [], None)
        assert status_object(status)["begun"] is False


def test_waiting_coordinator_says_for_whom_it_waits() -> None:
    named: list[Sequence[Process]] = []

    class Sees(Watching):
        def waits(self, state: State, silent: Sequence[Process], seconds: float) -> None:
            named.append(silent)

    with memory_pair() as pair, Follower(pair, "web2/4711-5") as frozen:
        to_phase(pair, Phase.DUAL)
        frozen.frozen.set()
        with pytest.raises(MigrationUnconfirmed):
            coordinator(pair, replace(QUICK, patience=0.1), watching=Sees()).advance()
        assert [each.name for each in named[-1]] == ["web2/4711"]


def run_pass(pair: Pair, phase: Phase, kind: PassKind) -> PassState:
    """Make a pass alone, without the comparison that follows it."""
    work = begin(pair, kind, 1, datetime.now(timezone.utc))
    return Pass(pair, phase, work, throttle=Throttle()).run()


def test_pass_forth_buries_in_the_target_what_the_source_lacks() -> None:
    with memory_pair() as pair:
        pair.target.store.put(record("late-mirror"))
        pair.target.store.put(record("expired", expires_at=now() - timedelta(seconds=1)))
        done = run_pass(pair, Phase.DUAL, PassKind.EQUAL)
        assert set(in_store(pair.target.store)) == {"expired"}
        assert (done.removed, set(pair.target.mirrored.burials_of(["late-mirror"]))) == (1, {"late-mirror"})


def test_pass_back_settles_each_success_of_the_target() -> None:
    with memory_pair() as pair:
        for name, state in (("other-success", "SUCCESS"), ("failure", "FAILURE")):
            pair.source.store.put(record(name, state, "in source"))
            pair.target.store.put(record(name, value="in target"))
        pair.source.store.put(record("again", "FAILURE", "earlier"))
        pair.target.store.put(record("again", "FAILURE", "later", minutes_ago=1))
        pair.source.store.put(record("later in source", "FAILURE", "later", minutes_ago=1))
        pair.target.store.put(record("later in source", "FAILURE", "earlier"))
        pair.target.store.put(record("only-in-target"))
        pair.source.mirrored.bury(["buried"])
        pair.target.store.put(record("buried"))
        run_pass(pair, Phase.SWITCHING, PassKind.BACK)
        assert in_store(pair.source.store) == {
            "other-success": record("other-success", value="in target"),
            "failure": record("failure", value="in target"),
            "again": record("again", "FAILURE", "later", minutes_ago=1),
            "later in source": record("later in source", "FAILURE", "later", minutes_ago=1),
            "only-in-target": record("only-in-target"),
        }


def test_expiry_of_what_celery_wrote_to_redis_comes_along_with_a_single_result(redis_url: str, tmp_path: Path) -> None:
    source, target = open_store(redis_url), open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    pair = pair_of(source, target)
    to_phase(pair, Phase.DUAL)
    about = {"status": "SUCCESS", "result": 7, "traceback": None, "children": [], "task_id": "celerys"}
    about["date_done"] = now().isoformat()
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.set("celery-task-meta-celerys", json.dumps(about), ex=3_600)
    pair.source.values.share(f"{UNMIRRORED}celerys", "{}")
    coordinator(pair).advance()
    found = target.get("celerys")
    assert found is not None
    assert found.expires_at is not None
    assert abs((found.expires_at - now()).total_seconds() - 3_600) < 600
    for store in (source, target):
        store.close()
