"""Processes follow the phase of a migration, and confirm it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import (
    ConfigurationError,
    MigrationPhaseUnknown,
    MigrationRefused,
    PermissionDenied,
    RootcellarError,
    StoreUnavailable,
)
from rootcellar.records import TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.dual import DualStore, Phase, following, presence
from rootcellar.stores.dual.phases import PROCESS_PREFIX, STATE_KEY, UNMIRRORED_PREFIX
from rootcellar.stores.dual.sampling import Samples, difference
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.unmirrored import MORE
from rootcellar.stores.shared_values import SharesValues
from rootcellar.testing.helpers import NOW, PATIENCE, able, new_id, record, wait_until
from rootcellar.testing.memory import MemoryStore, forget_place


@pytest.fixture
def urls() -> Iterator[tuple[str, str]]:
    pair = (f"memory://{uuid.uuid4().hex}", f"memory://{uuid.uuid4().hex}")
    yield pair
    for url in pair:
        forget_place(url)


@pytest.fixture
def open_dual(urls: tuple[str, str]) -> Iterator[Callable[[], DualStore]]:
    opened: list[DualStore] = []

    def open_one() -> DualStore:
        store = open_store(urls[0], StoreOptions(transport_options={"migrate_to": urls[1]}))
        assert isinstance(store, DualStore)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def source(urls: tuple[str, str]) -> MemoryStore:
    return MemoryStore(urls[0])


@pytest.fixture
def target(urls: tuple[str, str]) -> MemoryStore:
    return MemoryStore(urls[1])


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(following, "CONFIRM_PAUSE_SECONDS", 0.01)


def enter(place: MemoryStore, phase: Phase, epoch: int, **more: Any) -> None:
    """Write the phase, as the coordinator does."""
    place.share(STATE_KEY, json.dumps({"phase": int(phase), "epoch": epoch, "direction": "forth", **more}))


def processes(store: MemoryStore) -> list[dict[str, Any]]:
    """Return what processes have confirmed."""
    return [json.loads(each.value) for each in store.shared(PROCESS_PREFIX).values()]


def confirmed(store: MemoryStore) -> list[int | None]:
    return [each["phase"] for each in processes(store)]


def break_calls(monkeypatch: pytest.MonkeyPatch, url: str, error: RootcellarError) -> None:
    """Make each call about shared values of one store fail."""
    for name in ("shared", "share"):
        working = getattr(MemoryStore, name)

        def call(self: MemoryStore, *args: Any, working: Any = working, **kwargs: Any) -> Any:
            if self.url == url:
                raise error
            return working(self, *args, **kwargs)

        monkeypatch.setattr(MemoryStore, name, call)


def test_process_follows_each_phase_and_confirms_it(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore
) -> None:
    dual = open_dual()
    places = {0: (True, False), 1: (True, True), 2: (True, True), 3: (True, True), 4: (False, True), 5: (False, True)}
    for phase in Phase:
        enter(target, phase, int(phase) + 1)
        if phase is not Phase.PREPARED:
            wait_until(lambda phase=phase: confirmed(target) == [phase], f"the confirmation of {phase.name}")
        one = record()
        dual.put(one)
        assert (source.get(one.task_id) == one, target.get(one.task_id) == one) == places[phase]
        assert dual.get(one.task_id) == one
    assert len(processes(target)) == 1
    assert processes(source) == []


def test_process_registers_before_it_reads_the_phase(open_dual: Callable[[], DualStore], target: MemoryStore) -> None:
    """Otherwise the coordinator could begin the next phase without having heard of it."""
    calls: list[str] = []
    dual = open_dual()

    class Recorded:
        def shared(self, prefix: str) -> Any:
            calls.append(f"read {prefix}")
            return target.shared(prefix)

        def share(self, key: str, value: str, **kwargs: Any) -> Any:
            calls.append(f"store {json.loads(value)['phase']}")
            return target.share(key, value, **kwargs)

    side = Side(target)
    side.shared = Recorded()  # type: ignore[assignment]
    follower = following.Follower(Side(dual.source), side, dual.unmirrored, Samples())
    assert follower.now().phase is Phase.PREPARED
    assert calls.index("store None") < calls.index(f"read {STATE_KEY}")
    follower.close()


def test_phase_is_confirmed_only_when_no_verb_of_an_earlier_one_runs(
    open_dual: Callable[[], DualStore], target: MemoryStore
) -> None:
    enter(target, Phase.DUAL, 2)
    dual = open_dual()
    with dual.verb() as verb:
        wait_until(lambda: confirmed(target) == [Phase.DUAL], "the first confirmation")
        enter(target, Phase.SWITCHING, 3)
        wait_until(lambda: dual.phases.now().phase is Phase.SWITCHING, "the next phase")
        with dual.verb() as other:
            assert other.phase is Phase.SWITCHING
        rounds = processes(target)[0]["counters"]["rounds"]
        wait_until(lambda: dual.phases.now().read_at > 0 and _rounds(dual) > rounds + 5, "some rounds of the thread")
        assert confirmed(target) == [Phase.DUAL]
        assert verb.phase is Phase.DUAL
    wait_until(lambda: confirmed(target) == [Phase.SWITCHING], "the confirmation")


def _rounds(dual: DualStore) -> int:
    return dual.phases._followers.get()._rounds  # type: ignore[attr-defined,no-any-return]


def test_phase_is_not_confirmed_while_an_abandoned_call_goes_on(
    open_dual: Callable[[], DualStore], target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(target, Phase.DUAL, 2)
    dual = open_dual()
    dual.to_target._timeout = 0.05
    goes_on, has_begun = threading.Event(), threading.Event()
    mirror = MemoryStore.mirror

    def slow(self: MemoryStore, one: TaskRecord) -> Any:
        has_begun.set()
        goes_on.wait(PATIENCE)
        return mirror(self, one)

    monkeypatch.setattr(MemoryStore, "mirror", slow)
    one = record()
    assert dual.put(one).written
    assert has_begun.is_set()
    enter(target, Phase.SWITCHING, 3)
    wait_until(lambda: dual.phases.now().phase is Phase.SWITCHING, "the next phase")
    rounds = _rounds(dual)
    wait_until(lambda: _rounds(dual) > rounds + 5, "some rounds of the thread")
    assert Phase.SWITCHING not in confirmed(target)
    goes_on.set()
    wait_until(lambda: confirmed(target) == [Phase.SWITCHING], "the confirmation")
    assert target.get(one.task_id) == one, "the call went on"


def test_process_reads_the_copy_of_the_phase_if_the_target_cannot_be_reached(
    open_dual: Callable[[], DualStore],
    urls: tuple[str, str],
    source: MemoryStore,
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(target, Phase.DUAL, 2)
    enter(source, Phase.DUAL, 2)
    with monkeypatch.context() as broken:
        break_calls(broken, urls[1], StoreUnavailable("stopped"))
        dual = open_dual()
        assert dual.phases.now().phase is Phase.DUAL
        wait_until(lambda: confirmed(source) == [Phase.DUAL], "the confirmation in the source")
    wait_until(lambda: confirmed(target) == [Phase.DUAL], "the confirmation in the target")
    wait_until(lambda: processes(source) == [], "the removal of that in the source")


def test_process_with_another_target_is_refused_and_named(
    open_dual: Callable[[], DualStore], urls: tuple[str, str], source: MemoryStore
) -> None:
    """Otherwise it would store only in that target, where nobody else reads."""
    before = open_dual()
    assert before.get(new_id()) is None, "no migration has begun"
    assert len(processes(source)) == 1, "a coordinator that knows another target must find it"
    enter(source, Phase.TARGET_ONLY, 5, id="one", store="source", target="memory://right")
    with pytest.raises(MigrationPhaseUnknown, match="goes to memory://right") as caught:
        open_dual().put(record())
    assert not caught.value.retryable
    assert caught.value.remedy is not None
    assert "ROOTCELLAR_MIGRATION" in caught.value.remedy
    rounds = _rounds(before)
    wait_until(lambda: _rounds(before) > rounds + 3, "some rounds of the thread")
    assert before.phases.now().phase is Phase.PREPARED
    assert confirmed(source) == [0, None], "neither has confirmed this migration"


def test_process_that_names_the_stores_of_the_way_back_in_the_wrong_order_is_refused(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore
) -> None:
    enter(target, Phase.DUAL, 2, id="back", store="source", target="memory://source")
    enter(source, Phase.DUAL, 2, id="back", store="target", target="memory://source")
    with pytest.raises(MigrationPhaseUnknown, match="is the source of the migration to memory://source"):
        open_dual().get(new_id())
    enter(target, Phase.RETIRED, 6, id="back", store="source", target="memory://source")
    with pytest.raises(MigrationPhaseUnknown, match="is the target of another migration"):
        open_dual().get(new_id())
    enter(source, Phase.RETIRED, 6, id="back", store="target", target="memory://source")
    dual, one = open_dual(), record()
    dual.put(one)
    assert (source.get(one.task_id), target.get(one.task_id)) == (one, None), "a third migration has not begun"


def test_process_follows_the_copy_while_the_target_has_lost_its_state(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore
) -> None:
    for store, name in ((target, "target"), (source, "source")):
        enter(store, Phase.DUAL, 2, id="one", store=name)
    dual = open_dual()
    assert dual.phases.now().phase is Phase.DUAL
    target.unshare([STATE_KEY])
    enter(source, Phase.SWITCHING, 3, id="one", store="source")
    wait_until(lambda: dual.phases.now().phase is Phase.SWITCHING, "the phase in the source")


def test_target_that_cannot_be_reached_is_not_taken_for_another_one(
    open_dual: Callable[[], DualStore], urls: tuple[str, str], source: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_calls(monkeypatch, urls[1], StoreUnavailable("stopped"))
    enter(source, Phase.TARGET_FIRST, 4, id="one", store="source", target="memory://other")
    with pytest.raises(MigrationPhaseUnknown, match="goes to memory://other") as caught:
        open_dual().phases.now()
    assert caught.value.retryable
    enter(source, Phase.TARGET_FIRST, 4, id="one", store="source", target=urls[1])
    assert open_dual().phases.now().phase is Phase.TARGET_FIRST
    enter(source, Phase.DUAL, 2, id="one", store="source", target="memory://other")
    assert open_dual().phases.now().phase is Phase.DUAL, "results are first in the source"


def test_old_copy_in_the_source_takes_no_confirmation_back(
    open_dual: Callable[[], DualStore],
    urls: tuple[str, str],
    source: MemoryStore,
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(target, Phase.SWITCHING, 3, id="one", store="target")
    enter(source, Phase.DUAL, 2, id="one", store="source")
    dual = open_dual()
    assert dual.phases.now().phase is Phase.SWITCHING
    break_calls(monkeypatch, urls[1], StoreUnavailable("stopped"))
    began = time.monotonic()
    wait_until(lambda: dual.phases.now().read_at > began, "a read of the copy")
    assert dual.phases.now().phase is Phase.SWITCHING


def test_verb_reads_the_phase_again_when_its_lease_has_ended(
    open_dual: Callable[[], DualStore], target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that was frozen for longer than the lease."""
    enter(target, Phase.DUAL, 2)
    monkeypatch.setattr(following, "PAUSE_SECONDS", 3600.0)
    dual = open_dual()
    dual.get(new_id())
    wait_until(lambda: confirmed(target) == [Phase.DUAL], "the confirmation")
    enter(target, Phase.SWITCHING, 3)
    assert dual.phases.now().phase is Phase.DUAL
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + following.LEASE_SECONDS + 1)
    with dual.verb() as verb:
        assert verb.phase is Phase.SWITCHING


def test_no_verb_begins_if_the_phase_cannot_be_read(
    open_dual: Callable[[], DualStore],
    urls: tuple[str, str],
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dual = open_dual()
    one = record()
    with monkeypatch.context() as broken:
        for url in urls:
            break_calls(broken, url, StoreUnavailable("stopped"))
        with pytest.raises(MigrationPhaseUnknown) as caught:
            dual.put(one)
    assert caught.value.retryable
    dual.put(one)
    assert dual.get(one.task_id) == one


def test_wrong_login_at_the_first_read_is_no_outage(
    open_dual: Callable[[], DualStore], urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in urls:
        break_calls(monkeypatch, url, PermissionDenied("no right"))
    with pytest.raises(MigrationPhaseUnknown) as caught:
        open_dual().check()
    assert not caught.value.retryable


def test_process_keeps_its_phase_if_the_stored_one_disappears(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore
) -> None:
    enter(target, Phase.TARGET_FIRST, 4)
    dual = open_dual()
    assert dual.phases.now().phase is Phase.TARGET_FIRST
    target.unshare([STATE_KEY])
    rounds = _rounds(dual)
    wait_until(lambda: _rounds(dual) > rounds + 3, "some rounds of the thread")
    assert dual.phases.now().phase is Phase.TARGET_FIRST


def test_unreadable_phase_is_an_error(open_dual: Callable[[], DualStore], target: MemoryStore) -> None:
    for text in ("[]", "{}", '{"phase": 17}', '{"phase": "x"}', "no JSON"):
        target.share(STATE_KEY, text)
        dual = open_dual()
        with pytest.raises(MigrationPhaseUnknown):
            dual.get(new_id())


def test_value_of_a_process_is_removed_at_its_end(open_dual: Callable[[], DualStore], target: MemoryStore) -> None:
    dual = open_dual()
    dual.get(new_id())
    assert len(processes(target)) == 1
    dual.close()
    assert processes(target) == []
    dual.get(new_id())
    assert len(processes(target)) == 1, "it can be used again"


def test_value_of_a_process_is_removed_when_it_ends_without_closing_its_store(tmp_path: Path) -> None:
    source, target = (f"sqlite:///{tmp_path}/{name}.sqlite3" for name in ("source", "target"))
    program = f"""
from rootcellar.stores import StoreOptions, open_store
store = open_store({source!r}, StoreOptions(transport_options={{"migrate_to": {target!r}}}))
store.get("x")
print(len(store.target.shared("migration/process/")))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("1\n", "")
    store = open_store(target)
    assert able(store, SharesValues).shared(PROCESS_PREFIX) == {}
    store.close()


def test_value_is_not_stored_again_after_its_removal(
    open_dual: Callable[[], DualStore], target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dual = open_dual()
    dual.get(new_id())
    follower = dual.phases._followers.get()  # type: ignore[attr-defined]
    dual.close()
    follower._store(None)
    assert processes(target) == []


def test_values_of_dead_processes_of_this_host_are_removed(
    open_dual: Callable[[], DualStore], target: MemoryStore
) -> None:
    me = following.Identity()
    value = {"phase": 0, "epoch": 0, "namespace": me.namespace}
    dead = f"{me.keys_of_host}{_free_pid()}-123-1"
    reused = f"{me.keys_of_host}{os.getpid()}-1-1"
    in_another_container = f"{me.keys_of_host}{_free_pid()}-124-1"
    elsewhere = f"{PROCESS_PREFIX}elsewhere/1-1-1"
    for key in (dead, reused, elsewhere):
        target.share(key, json.dumps(value))
    target.share(in_another_container, json.dumps({**value, "namespace": "pid:[1]"}))
    open_dual().get(new_id())
    keys = set(target.shared(PROCESS_PREFIX))
    assert not keys & {dead, reused}
    assert keys > {in_another_container, elsewhere}
    assert len(keys) == 3


def test_process_that_the_system_hides_is_alive(
    target: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with hidepid, which hides /proc/<pid> of another user's process."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = following.Identity()
    value = json.dumps({"namespace": me.namespace})
    monkeypatch.setattr(presence, "_PROC", tmp_path)
    living, dead = f"{me.keys_of_host}{os.getpid()}-123-1", f"{me.keys_of_host}{ended.pid}-123-1"
    for key in (living, dead):
        target.share(key, value)
    assert me.dead(target.shared(me.keys_of_host)) == [dead]


def test_process_of_another_machine_with_the_same_name_is_not_judged(
    target: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first namespace of each Linux has the same number."""
    here = following.Identity()
    boot = tmp_path / "sys" / "kernel" / "random" / "boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("another\n")
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to(os.readlink("/proc/self/ns/pid"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(presence, "_PROC", tmp_path)
        other = following.Identity()
    assert other.namespace
    target.share(f"{here.keys_of_host}{_free_pid()}-123-1", json.dumps({"namespace": other.namespace}))
    assert here.dead(target.shared(here.keys_of_host)) == []


def _free_pid() -> int:
    """Return the number of a process that does not exist."""
    with open("/proc/sys/kernel/pid_max") as file:
        return int(file.read()) - 1


def test_forked_process_confirms_by_itself(open_dual: Callable[[], DualStore], target: MemoryStore) -> None:
    dual = open_dual()
    dual.get(new_id())
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            dual.get(new_id())
            os.write(writer, json.dumps(sorted(target.shared(PROCESS_PREFIX))).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    keys = json.loads(os.read(reader, 4096))
    assert {key.rpartition("/")[2].partition("-")[0] for key in keys} == {str(os.getpid()), str(pid)}


def test_unmirrored_results_are_noted_in_the_store_that_decides(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MemoryStore, one: TaskRecord) -> Any:
        raise StoreUnavailable("stopped")

    for phase, verb, decider in ((Phase.DUAL, "mirror", source), (Phase.TARGET_FIRST, "settle", target)):
        enter(target, phase, int(phase) + 1)
        dual = open_dual()
        with monkeypatch.context() as broken:
            broken.setattr(MemoryStore, verb, fail)
            ids = [new_id() for _ in range(5)]
            for task_id in ids:
                assert dual.put(record(task_id=task_id)).written
        wait_until(
            lambda decider=decider, ids=ids: (
                set(decider.shared(UNMIRRORED_PREFIX)) >= {UNMIRRORED_PREFIX + i for i in ids}
            ),
            "the notes",
        )
        assert dual.unmirrored.count == 5
        dual.close()


def test_notes_begin_again_after_a_comparison(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.dual.unmirrored.MAX_NOTED", 1)
    enter(target, Phase.DUAL, 2)
    dual = open_dual()
    dual.phases.now()
    for task_id, noted in (("one", "one"), ("two", MORE)):
        dual.unmirrored.note(task_id)
        wait_until(lambda noted=noted: UNMIRRORED_PREFIX + noted in source.shared(UNMIRRORED_PREFIX), "the note")
    wait_until(lambda: dual.unmirrored.waiting() == [], "the end of this round")
    enter(target, Phase.DUAL, 2, verified={"at": "2030-01-01T00:00:00+00:00"})
    rounds = _rounds(dual)
    wait_until(lambda: _rounds(dual) > rounds + 2, "some rounds of the thread")
    dual.unmirrored.note("three")
    wait_until(lambda: f"{UNMIRRORED_PREFIX}three" in source.shared(UNMIRRORED_PREFIX), "the note")


def test_sample_of_reads_is_compared(
    open_dual: Callable[[], DualStore], source: MemoryStore, target: MemoryStore
) -> None:
    enter(target, Phase.DUAL, 2)
    same, missing, other = record(), record(), record()
    for one in (same, missing, other):
        source.put(one)
    target.put(same)
    target.put(replace(other, state="FAILURE"))
    dual = open_dual()
    dual.reading._samples.rate = 1.0
    dual.get(same.task_id)
    dual.get_many([missing.task_id, other.task_id])
    wait_until(lambda: dual.reading._samples.counts == (3, {"missing": 1, "state": 1}), "the comparison")
    enter(target, Phase.DUAL, 2, work={"finished_at": "2030-01-01T00:00:00+00:00"})
    wait_until(lambda: dual.reading._samples.counts == (0, {}), "counting from zero after a pass")


def test_record_that_changes_is_not_compared(source: MemoryStore, target: MemoryStore) -> None:
    one = record(state="FAILURE")
    source.put(one)
    samples = Samples(rate=1.0)
    samples.note(one)

    class Changing(MemoryStore):
        def get_many(self, task_ids: Any) -> dict[str, TaskRecord]:
            found = super().get_many(task_ids)
            source.put(record(task_id=one.task_id))
            return found

    samples.compare(Side(source), Side(Changing(target.url)))
    assert samples.counts == (0, {})


def test_difference_is_named_by_its_class() -> None:
    one = record(traceback="x", expires_at=NOW)
    assert difference(one, one) == []
    assert difference(one, None) == ["missing"]
    changes = {"state": "FAILURE", "result": None, "traceback": "y", "done_at": None, "expires_at": None}
    classes = [difference(one, replace(one, **{name: value})) for name, value in changes.items()]
    assert classes == [["state"], ["value"], ["traceback"], ["times"], ["expiry"]]


def test_store_is_no_target_of_itself(urls: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="the target of the migration is the store of the results"):
        open_store(urls[0], StoreOptions(transport_options={"migrate_to": f"rootcellar+{urls[0]}"}))


def test_store_without_the_ability_is_refused(tmp_path: Any) -> None:
    class Unable(MemoryStore):
        def ability(self, protocol: Any) -> Any:
            return None

    with pytest.raises(MigrationRefused, match="neither the source nor the target"):
        Side(Unable("memory://unable"))
