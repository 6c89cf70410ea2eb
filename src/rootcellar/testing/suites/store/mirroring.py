"""Stores as the source and the target of a migration: mirrors, copies and burials, also in threads and processes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.records import NO_DATE, GroupRecord, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.mirroring import (
    MOST_FINGERPRINTS,
    Burial,
    CopyReport,
    Held,
    Mirrored,
    fingerprint,
)
from rootcellar.stores.streaming import Streamed
from rootcellar.stores.watching import NotifyOn
from rootcellar.testing.helpers import NOW, able, full_record, in_threads, json_payload, new_id, record, wait_until
from rootcellar.testing.memory import MemoryStore
from rootcellar.testing.suites.store.exactness import PAYLOADS
from rootcellar.testing.suites.store.waiting import Mailbox
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import Open, StoreUnderTest
from rootcellar.waiting.blocking import Waiter

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)

#: what a store may hold, and what may come from the other one
STATES: dict[str, dict[str, Any]] = {
    "sent": {"state": "SENT", "result": None, "done_at": None, "sent_at": NOW, "queue": "parcels"},
    "started": {"state": "STARTED", "result": None, "done_at": None, "started_at": NOW, "worker": "celery@host"},
    "retried": {"state": "RETRY", "done_at": None, "retries": 1, "traceback": "Traceback …"},
    "failed": {"state": "FAILURE", "result": json_payload({"exc_type": "ValueError"}), "name": "shop.pack"},
    "failed later": {"state": "FAILURE", "done_at": NOW + SECOND, "retries": 2, "expires_at": NOW + DAY},
    "revoked": {"state": "REVOKED", "result": None, "parent_id": "parent", "expires_at": NOW + 2 * DAY},
    "succeeded": {"result": json_payload("first"), "expires_at": NOW + DAY, "children": json_payload([])},
    "succeeded later": {"result": json_payload("second"), "done_at": NOW + SECOND, "group_id": "group", "retries": 3},
}

#: texts and dates that stores change when they keep them
ODD: dict[str, dict[str, Any]] = {
    "traceback with NUL": {"traceback": "before \x00 after"},
    "traceback with a lone surrogate": {"traceback": "before \ud800 after"},
    "traceback beyond the first plane": {"traceback": "🧊 \\x00"},
    "custom state": {"state": "PÄCKED \x00", "done_at": None},
    "no result": {"result": None},
    "no date": {"done_at": NO_DATE},
    "last microsecond": {"done_at": NOW.replace(microsecond=999_999)},
    "before 1970": {"done_at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)},
}


class TestMirroring:
    """Every store but a hybrid in the mode write-behind is Mirrored."""

    @pytest.fixture(autouse=True)
    def _only_if_able(self, store: Store) -> None:
        if store.ability(Mirrored) is None:
            pytest.skip("this store cannot be part of a migration")

    # -- mirror

    def test_mirror_has_every_field(self, store: Store) -> None:
        one = full_record()
        assert able(store, Mirrored).mirror(one) == Held(one)
        assert store.get(one.task_id) == one

    def test_mirror_does_what_put_does(self, store: Store) -> None:
        """The store ends with the record that two calls of put leave in memory, from each state to each state."""
        with _in_memory() as memory:
            for first, second in _pairs(STATES, STATES):
                assert first is not None
                memory.put(first)
                written = memory.put(second).written
                store.put(first)
                held = able(store, Mirrored).mirror(second)
                expected = memory.get(first.task_id)
                assert store.get(first.task_id) == expected, f"{second} over {first}"
                assert held.record is not None
                assert not held.buried
                if written:
                    assert fingerprint(held.record) == fingerprint(second)
                else:
                    assert held.record == first, "what stays is read"

    def test_mirror_that_comes_again_changes_nothing(self, store: Store) -> None:
        for name in ("started", "failed", "succeeded"):
            one = record(**STATES[name])
            for _ in range(2):
                assert able(store, Mirrored).mirror(one).record == one
                assert store.get(one.task_id) == one

    # -- settle

    def test_settled_record_is_stored_whole(self, store: Store) -> None:
        for first, _ in _pairs([None, *STATES], ["succeeded"]):
            if first is not None:
                store.put(first)
            task_id = new_id() if first is None else first.task_id
            last = record(task_id=task_id, result=json_payload("theirs"), expires_at=NOW + 3 * DAY)
            assert able(store, Mirrored).settle(last) == Held(last)
            assert store.get(task_id) == last, f"no field keeps its value: {first}"

    # -- copy

    @pytest.mark.parametrize("newer_wins", [False, True], ids=["live", "newer wins"])
    def test_copy_replaces_nothing_that_must_stay(self, store: Store, newer_wins: bool) -> None:
        pairs = _pairs([None, *STATES], STATES)
        for first, _ in pairs:
            if first is not None:
                store.put(first)
        expected, written = {}, set()
        for first, second in pairs:
            writes = first is None or (second.state == "SUCCESS" and first.state != "SUCCESS")
            if first is not None and first.done_at is None and second.done_at is not None:
                writes = writes or _made(second) >= _made(first)
            if newer_wins and first is not None:
                # a record without an end was made when it was started, or else when it was sent
                writes = _made(second) > _made(first)
            expected[second.task_id] = second if writes else first
            written |= {second.task_id} if writes else set()
        report = able(store, Mirrored).copy([second for _, second in pairs], newer_wins=newer_wins)
        assert store.get_many(expected) == expected
        kept = frozenset(expected.keys() - written)
        assert report == CopyReport(written=frozenset(written), kept=kept)

    def test_copied_failure_does_not_replace_the_state_of_a_later_run(self, store: Store) -> None:
        again = record(state="RETRY", result=None, done_at=None, started_at=NOW + SECOND, retries=1)
        store.put(again)
        failed = record(task_id=again.task_id, state="FAILURE", done_at=NOW)
        assert able(store, Mirrored).copy([failed]).kept == {again.task_id}
        assert store.get(again.task_id) == again

    def test_many_records_are_copied(self, store: Store) -> None:
        new = [full_record(state=random.Random(n).choice(["FAILURE", "SUCCESS", "STARTED"])) for n in range(700)]
        there = [record(task_id=one.task_id, result=json_payload("here")) for one in new[:50]]
        for one in there:
            store.put(one)
        report = able(store, Mirrored).copy(new)
        assert report.written == {one.task_id for one in new[50:]}
        assert report.kept == {one.task_id for one in there}
        expected = {one.task_id: one for one in [*there, *new[50:]]}
        assert store.get_many(expected) == expected
        assert able(store, Mirrored).copy(new).kept == {one.task_id for one in new}, "the same call again"

    def test_no_record_to_copy_is_no_error(self, store: Store) -> None:
        assert able(store, Mirrored).copy([]) == CopyReport()

    def test_refused_record_does_not_stop_the_copy_of_others(self, under_test: StoreUnderTest, store: Store) -> None:
        """A store may refuse ids that others accept; no record is lost silently."""
        odd, good = record(task_id="\x00" * 2_000), record()
        report = able(store, Mirrored).copy([odd, good])
        assert good.task_id in report.written
        assert store.get(good.task_id) == good
        if odd.task_id in report.refused:
            assert report.refused[odd.task_id]
        else:
            assert store.get(odd.task_id) == odd

    # -- burials

    def test_buried_record_is_gone_and_named(self, store: Store) -> None:
        one, unknown = record(), new_id()
        store.put(one)
        mirrored = able(store, Mirrored)
        assert mirrored.bury([one.task_id, unknown]) == {one.task_id: one}
        assert store.get_many([one.task_id, unknown]) == {}
        burials = mirrored.burials_of([one.task_id, unknown, new_id()])
        assert burials.keys() == {one.task_id, unknown}
        named = burials[one.task_id]
        assert (named.task_id, named.done_at) == (one.task_id, one.done_at)
        assert named.fingerprints == {fingerprint(one)}
        assert abs(named.buried_at - datetime.now(timezone.utc)) < DAY
        assert (burials[unknown].done_at, burials[unknown].fingerprints) == (None, frozenset())

    def test_burial_names_what_the_other_store_has(self, store: Store) -> None:
        one = record()
        theirs = [replace(one, done_at=NOW + SECOND), replace(one, state="STARTED", result=None, done_at=None)]
        store.put(one)
        assert able(store, Mirrored).bury([one.task_id], {one.task_id: theirs}) == {one.task_id: one}
        named = able(store, Mirrored).burials_of([one.task_id])[one.task_id]
        assert named.done_at == NOW + SECOND
        assert named.fingerprints == {fingerprint(each) for each in (one, *theirs)}

    def test_later_burial_adds_to_an_earlier_one(self, store: Store) -> None:
        mirrored = able(store, Mirrored)
        runs = [record(task_id="again " + new_id(), done_at=NOW + SECOND)]
        runs += [replace(runs[0], done_at=NOW, result=json_payload(n)) for n in range(2)]
        for run in runs:
            store.put(run)
            assert mirrored.bury([run.task_id]) == {run.task_id: run}
        named = mirrored.burials_of([runs[0].task_id])[runs[0].task_id]
        assert named.done_at == NOW + SECOND
        assert named.fingerprints == {fingerprint(run) for run in runs}

    def test_burial_names_only_the_last_of_many(self, store: Store) -> None:
        mirrored, task_id = able(store, Mirrored), new_id()
        known = [record(task_id=task_id, result=json_payload(n)) for n in range(MOST_FINGERPRINTS + 10)]
        for half in (known[:40], known[40:]):
            mirrored.bury([task_id], {task_id: half})
        named = mirrored.burials_of([task_id])[task_id].fingerprints
        assert named == {fingerprint(each) for each in known[10:]}

    def test_many_records_are_buried(self, store: Store) -> None:
        mirrored = able(store, Mirrored)
        records = [record() for _ in range(700)]
        mirrored.copy(records[:300])
        ids = [one.task_id for one in records]
        known = {one.task_id: [one] for one in records}
        assert mirrored.bury(ids, known) == {one.task_id: one for one in records[:300]}
        burials = mirrored.burials_of(ids)
        assert {key: burial.fingerprints for key, burial in burials.items()} == {
            one.task_id: {fingerprint(one)} for one in records
        }

    @pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
    def test_forgotten_result_does_not_come_back(self, store: Store, verb: str) -> None:
        here, theirs, earlier = (record(task_id="one", result=json_payload(n)) for n in range(3))
        task_id = new_id()
        here, theirs = replace(here, task_id=task_id), replace(theirs, task_id=task_id, done_at=NOW + SECOND)
        earlier = replace(earlier, task_id=task_id, done_at=NOW - SECOND)
        store.put(here)
        able(store, Mirrored).bury([task_id], {task_id: [theirs]})
        for one in (here, theirs, earlier):
            assert _refuses(store, verb, one)
            assert store.get(task_id) is None

    @pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
    def test_result_of_a_later_run_is_stored_in_spite_of_a_burial(self, store: Store, verb: str) -> None:
        one = record()
        able(store, Mirrored).bury([one.task_id], {one.task_id: [one]})
        later = replace(one, done_at=NOW + SECOND)
        assert not _refuses(store, verb, later)
        assert store.get(one.task_id) == later

    @pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
    def test_burial_stays_beside_a_newer_record(self, store: Store, verb: str) -> None:
        old = record()
        new = replace(old, result=json_payload("new"), done_at=NOW + SECOND)
        able(store, Mirrored).bury([old.task_id], {old.task_id: [old]})
        assert store.put(new).written, "put does not look at burials"
        assert store.get(old.task_id) == new
        assert _refuses(store, verb, old)
        assert store.get(old.task_id) == new
        assert able(store, Mirrored).mirror(old) == Held(new, buried=True), "what is there is read"
        assert able(store, Mirrored).burials_of([old.task_id]).keys() == {old.task_id}

    def test_forgotten_state_that_was_not_the_end_does_not_come_back(self, store: Store) -> None:
        started = record(**STATES["started"])
        able(store, Mirrored).bury([started.task_id], {started.task_id: [started]})
        assert able(store, Mirrored).mirror(started) == Held(None, buried=True)
        again = replace(started, state="PROGRESS")
        assert able(store, Mirrored).mirror(again) == Held(again), "only what is named is refused"

    def test_copy_that_is_older_than_a_burial_is_refused(self, store: Store) -> None:
        """The burial need not name it: who copies may have read it long before."""
        now = datetime.now(timezone.utc)
        ended, started, sent, unknown = (
            record(done_at=now - DAY),
            record(state="STARTED", done_at=None, started_at=now - DAY, sent_at=None),
            record(state="SENT", done_at=None, sent_at=now - DAY),
            record(state="STARTED", done_at=None),
        )
        young = record(done_at=now + DAY)
        ids = [one.task_id for one in (ended, started, sent, unknown, young)]
        able(store, Mirrored).bury(ids)
        report = able(store, Mirrored).copy([ended, started, sent, unknown, young])
        assert report == CopyReport(written=frozenset(ids[4:]), buried=frozenset(ids[:4]))
        assert store.get_many(ids) == {young.task_id: young}
        assert able(store, Mirrored).mirror(ended) == Held(ended), "a mirror was stored just now"

    def test_unchanged_record_is_buried(self, store: Store) -> None:
        same, changed, gone = record(), record(state="FAILURE"), record()
        store.put(same)
        store.put(replace(changed, result=json_payload("meanwhile")))
        mirrored = able(store, Mirrored)
        assert mirrored.bury_same([replace(same, queue="another", expires_at=NOW), changed, gone]) == 1
        assert store.get_many([same.task_id, changed.task_id]).keys() == {changed.task_id}
        burials = mirrored.burials_of([same.task_id, changed.task_id, gone.task_id])
        assert burials.keys() == {same.task_id}
        assert burials[same.task_id].fingerprints == {fingerprint(same)}
        assert mirrored.bury_same([]) == 0
        assert mirrored.bury([]) == {}

    def test_walk_over_burials_returns_all(self, new_store: Store) -> None:
        mirrored = able(new_store, Mirrored)
        assert mirrored.burials() == ([], None)
        records = [record() for _ in range(120)]
        mirrored.bury([one.task_id for one in records], {one.task_id: [one] for one in records})
        found = {burial.task_id: burial for burial in _walked_burials(mirrored, 17)}
        assert found == mirrored.burials_of([one.task_id for one in records])
        assert found.keys() == {one.task_id for one in records}

    def test_old_burials_are_forgotten(self, new_store: Store) -> None:
        mirrored, old, young = able(new_store, Mirrored), new_id(), new_id()
        mirrored.bury([old])
        between = mirrored.burials_of([old])[old].buried_at + timedelta(milliseconds=2)

        def is_later() -> bool:
            mirrored.bury([young])
            return mirrored.burials_of([young])[young].buried_at > between

        wait_until(is_later, "the clock of the store, which may show milliseconds, goes on")
        assert mirrored.forget_burials(between) == 1
        assert mirrored.burials_of([old, young]).keys() == {young}
        assert mirrored.forget_burials(None) == 1
        assert mirrored.burials_of([young]) == {}
        assert mirrored.forget_burials(None) == 0

    def test_fingerprint_of_a_stored_result_is_that_of_the_result(self, store: Store) -> None:
        """Also of texts and dates that a store changes when it keeps them."""
        records = [record(result=payload) for payload in PAYLOADS.values()] + [record(**odd) for odd in ODD.values()]
        for one in records:
            store.put(one)
        found = store.get_many(one.task_id for one in records)
        for one in records:
            assert fingerprint(found[one.task_id]) == fingerprint(one), one
        assert able(store, Mirrored).bury_same(records) == len(records)
        for one in records:
            store.put(one)
        assert able(store, Mirrored).bury_same(list(found.values())) == len(records)
        assert able(store, Mirrored).copy(records).buried == found.keys()
        for odd in records[-len(ODD) :]:
            assert able(store, Mirrored).mirror(odd) == Held(None, buried=True)

    # -- waiting clients

    @pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
    def test_waiting_client_is_notified(self, store: Store, verb: str) -> None:
        one = record()
        store.put(replace(one, state="STARTED", result=None, done_at=None))
        waiter = Waiter(store)
        notified = Mailbox()
        waiter.watcher().subscribe([one.task_id], notified.put)
        assert not _refuses(store, verb, one)
        assert notified.take() == [one]
        waiter.close()

    def test_client_that_watches_changes_is_notified_of_a_settled_result(self, store: Store) -> None:
        one = record()
        waiter = Waiter(store)
        notified = Mailbox()
        waiter.watcher().subscribe([one.task_id], notified.put, NotifyOn.CHANGES)
        states = [replace(one, state=f"STEP {number}", done_at=None) for number in range(3)]
        for state in states:
            able(store, Mirrored).mirror(state)
            assert notified.take() == [state]
        able(store, Mirrored).settle(one)
        assert notified.take() == [one]
        waiter.close()

    # -- at the same time

    def test_nothing_that_is_buried_at_the_same_time_stays(self, store: Store) -> None:
        records = [record(done_at=NOW + SECOND * number) for number in range(25)]
        in_threads(8, lambda number: _bring_or_bury(store, records, number))
        assert store.get_many(one.task_id for one in records) == {}
        assert able(store, Mirrored).burials_of(one.task_id for one in records).keys() == {
            one.task_id for one in records
        }

    def test_nothing_that_another_process_buries_stays(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, processes: SyncedProcesses
    ) -> None:
        records = [record(done_at=NOW + SECOND * number) for number in range(25)]
        processes.run_alike(4, _bring_or_bury_there, under_test.open, place, records)
        assert store.get_many(one.task_id for one in records) == {}

    def test_newer_record_survives_late_mirrors_and_burials(self, store: Store) -> None:
        old = [record() for _ in range(20)]
        new = [replace(one, result=json_payload("new"), done_at=NOW + SECOND) for one in old]
        able(store, Mirrored).bury([one.task_id for one in old], {one.task_id: [one] for one in old})

        def work(number: int) -> None:
            order = random.Random(number).sample(range(20), 20)
            for place in order:
                if number == 0:
                    store.put(new[place])
                elif number < 4:
                    _refuses(store, ("mirror", "settle", "copy")[number - 1], old[place], alone=False)
                else:
                    able(store, Mirrored).bury_same([old[place]])

        in_threads(6, work)
        assert store.get_many(one.task_id for one in new) == {one.task_id: one for one in new}

    def test_mirrors_at_the_same_time_agree_on_one_success(self, store: Store) -> None:
        ids = [new_id() for _ in range(15)]

        def work(number: int) -> dict[str, TaskRecord | None]:
            held: dict[str, TaskRecord | None] = {}
            for task_id in random.Random(number).sample(ids, len(ids)):
                one = record(task_id=task_id, result=json_payload(number))
                if number % 2:
                    store.put(one)
                    held[task_id] = store.get(task_id)
                else:
                    held[task_id] = able(store, Mirrored).mirror(one).record
            return held

        found = in_threads(6, work)
        stored = store.get_many(ids)
        for held in found:
            assert held == stored

    def test_settled_records_are_never_mixed(self, store: Store) -> None:
        ids = [new_id() for _ in range(12)]

        def version(task_id: str, number: int) -> TaskRecord:
            odd = {"queue": str(number), "traceback": None} if number % 2 else {"traceback": str(number)}
            return record(task_id=task_id, result=json_payload(number), **odd)

        def work(number: int) -> None:
            for task_id in random.Random(number).sample(ids, len(ids)):
                able(store, Mirrored).settle(version(task_id, number))

        in_threads(6, work)
        for task_id, found in store.get_many(ids).items():
            assert found in [version(task_id, number) for number in range(6)]

    # -- against another store

    def test_results_survive_the_way_to_another_store_and_back(self, new_store: Store) -> None:
        """Every payload, state and date goes from this store to one in memory, and into a place of its own again."""
        records = [full_record(state=each) for each in ("SUCCESS", "FAILURE", "STARTED", "PÄCKED")]
        records += [record(result=payload, args=payload, stamps=payload) for payload in PAYLOADS.values()]
        records += [record(**state) for state in STATES.values()]
        groups = [GroupRecord(group_id=new_id(), result=json_payload(n), done_at=NOW) for n in range(30)]
        for one in records:
            new_store.put(one)
        for group in groups:
            new_store.put_group(group)
        with _in_memory() as memory:
            _copy_all(new_store, memory)
            assert memory.get_many(one.task_id for one in records) == {one.task_id: one for one in records}
            assert [memory.get_group(group.group_id) for group in groups] == groups
            new_store.delete([one.task_id for one in records])
            for group in groups:
                new_store.delete_group(group.group_id)
            _copy_all(memory, new_store)
        assert new_store.get_many(one.task_id for one in records) == {one.task_id: one for one in records}
        assert [new_store.get_group(group.group_id) for group in groups] == groups

    def test_random_calls_leave_the_same_records_as_in_memory(self, store: Store) -> None:
        rng = random.Random(7)
        ids = [new_id() for _ in range(5)]
        with _in_memory() as memory:
            for step in range(60):
                task_id = rng.choice(ids)
                fields = {**STATES[rng.choice(list(STATES))], "result": json_payload(rng.randrange(3))}
                end = None if fields.get("done_at", NOW) is None else NOW + SECOND * rng.randrange(5)
                one = record(**{**fields, "task_id": task_id, "done_at": end})
                verb = rng.choice(["put", "mirror", "settle", "copy", "newer", "bury", "bury_same", "delete"])
                ours, theirs = (_call(each, verb, one) for each in (store, memory))
                label = f"step {step}: {verb} of {one}"
                if isinstance(ours, Held):
                    assert ours.buried == theirs.buried, label
                else:
                    assert ours == theirs, label
                assert store.get(task_id) == memory.get(task_id), label
            burials = (
                {key: (burial.done_at, burial.fingerprints) for key, burial in each.burials_of(ids).items()}
                for each in (able(store, Mirrored), memory)
            )
            assert next(burials) == next(burials)


def _pairs(early: Iterable[str | None], late: Iterable[str]) -> list[tuple[TaskRecord | None, TaskRecord]]:
    """Return each state before each other one, each pair with an id of its own. ``None`` is no record."""
    found = []
    for before, after in itertools.product(early, late):
        task_id = new_id()
        first = None if before is None else full_record(**{**STATES[before], "task_id": task_id})
        found.append((first, record(**{**STATES[after], "task_id": task_id})))
    return found


def _call(store: Store, verb: str, one: TaskRecord) -> Any:
    mirrored = able(store, Mirrored)
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: store.put(one),
        "mirror": lambda: mirrored.mirror(one),
        "settle": lambda: mirrored.settle(replace(one, state="SUCCESS", done_at=one.done_at or NOW)),
        "copy": lambda: mirrored.copy([one]),
        "newer": lambda: mirrored.copy([one], newer_wins=True),
        "bury": lambda: mirrored.bury([one.task_id], {one.task_id: [one]}),
        "bury_same": lambda: mirrored.bury_same([one]),
        "delete": lambda: store.delete([one.task_id]),
    }
    return calls[verb]()


def _made(one: TaskRecord) -> datetime:
    return one.done_at or one.started_at or one.sent_at or datetime.min.replace(tzinfo=timezone.utc)


def _refuses(store: Store, verb: str, one: TaskRecord, *, alone: bool = True) -> bool:
    """Mirror, settle or copy a record; return whether it was refused as buried.

    Args:
        store: the store.
        verb: the name of the method.
        one: the record.
        alone: whether nobody else changes the record at the same moment.
    """
    mirrored = able(store, Mirrored)
    if verb == "copy":
        report = mirrored.copy([one])
        assert not report.refused
        return one.task_id in report.buried
    held = mirrored.mirror(one) if verb == "mirror" else mirrored.settle(one)
    if held.buried and alone:
        assert held.record == store.get(one.task_id)
    return held.buried


def _bring_or_bury(store: Store, records: Sequence[TaskRecord], number: int) -> None:
    """Bury all records, as every fourth caller, or else bring them, in an order of one's own."""
    order = random.Random(number).sample(list(records), len(records))
    mirrored = able(store, Mirrored)
    for place, one in enumerate(order):
        some = order[place : place + 10]
        if number % 4 == 0:
            mirrored.bury([each.task_id for each in some], {each.task_id: [each] for each in some})
        elif number % 4 == 1:
            mirrored.copy(some)
        else:
            _refuses(store, "mirror" if number % 4 == 2 else "settle", one, alone=False)


def _bring_or_bury_there(open_store: Open, place: str, records: Sequence[TaskRecord], number: int) -> None:
    store = open_store(place, None)
    try:
        _bring_or_bury(store, records, number)
    finally:
        store.close()


def _walked_burials(mirrored: Mirrored, limit: int) -> Iterator[Burial]:
    cursor = None
    while True:
        found, cursor = mirrored.burials(cursor, limit)
        yield from found
        if cursor is None:
            return


def _copy_all(source: Store, target: Store) -> None:
    """Copy all records and groups, in small pieces."""
    cursor = None
    while True:
        records, cursor = able(source, Streamed).stream(cursor, 13)
        report = able(target, Mirrored).copy(records)
        assert not report.refused
        if cursor is None:
            break
    while True:
        groups, cursor = able(source, Streamed).stream_groups(cursor, 7)
        able(target, Streamed).copy_groups(groups)
        if cursor is None:
            break


@contextmanager
def _in_memory() -> Iterator[MemoryStore]:
    store = MemoryStore(f"memory://{new_id()}")
    yield store
    store.clear()
