"""Chords: each part is counted once, and one process at a time holds the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import pytest

from rootcellar.records import (
    ChordProgress,
    ChordRecord,
    PartResult,
    Payload,
    Stored,
)
from rootcellar.stores.base import KnowsParts, Store
from rootcellar.testing.helpers import (
    NOW,
    begun,
    completed,
    each_in_a_thread,
    in_threads,
    json_payload,
    new_id,
    part,
    record,
    wait_until,
)
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import Open, StoreUnderTest


class TestChords:
    def test_last_part_claims_its_chord(self, store: Store) -> None:
        group = begun(store, 3)
        progress = [store.count_part(part(group, index=index)) for index in range(3)]
        assert progress == [
            ChordProgress(size=3, counted=1, claimed=False, finished=False),
            ChordProgress(size=3, counted=2, claimed=False, finished=False),
            ChordProgress(size=3, counted=3, claimed=True, finished=False),
        ]

    def test_part_is_counted_together_with_its_result(self, store: Store) -> None:
        group = begun(store, 2)
        one, two = record(result=json_payload(1)), record(state="FAILURE", result=json_payload(2))
        first = store.put(one, part(group, one.task_id, 0))
        assert first == Stored(written=True, chord=ChordProgress(size=2, counted=1, claimed=False, finished=False))
        second = store.put(two, part(group, two.task_id, 1, state="FAILURE", result=two.result))
        assert second == Stored(written=True, chord=ChordProgress(size=2, counted=2, claimed=True, finished=False))
        assert store.get_many([one.task_id, two.task_id]) == {one.task_id: one, two.task_id: two}

    def test_result_of_a_part_is_needed_until_its_chord_is_finished(self, store: Store) -> None:
        able = store.ability(KnowsParts)
        if able is None:
            pytest.skip("the store cannot say it")
        group, other = begun(store, 2), begun(store, 1)
        one, two, alone = record(result=json_payload(1)), new_id(), record()
        store.put(one, part(group, one.task_id, 0))
        store.count_part(part(group, two, 1))
        store.count_part(part(other, "of another chord", 0))
        store.size_chord(group, 1, relative=True, key="a key")
        store.put(alone)
        store.delete([one.task_id])
        asked = [one.task_id, two, alone.task_id, "a key", new_id()]
        assert able.living_parts(asked) == {one.task_id, two}
        store.finish_chord(group)
        assert able.living_parts(asked) == set()

    def test_part_counts_once(self, store: Store) -> None:
        group = begun(store, 3)
        one = record()
        counts = [
            store.count_part(part(group, one.task_id, 0)).counted,
            store.count_part(part(group, one.task_id, 0)).counted,
            store.count_part(part(group, one.task_id, 0, state="FAILURE", result=json_payload("late"))).counted,
        ]
        for _ in range(2):
            stored = store.put(one, part(group, one.task_id, 0))
            assert stored.chord is not None
            counts.append(stored.chord.counted)
        assert counts == [1] * 5
        assert [(one.state, one.group_index) for one in store.chord_parts(group)] == [("SUCCESS", 0)]

    def test_task_at_two_places_counts_twice(self, store: Store) -> None:
        group = begun(store, 3)
        task_id = new_id()
        assert store.count_part(part(group, task_id, 0)).counted == 1
        assert store.count_part(part(group, task_id, 1)).counted == 2
        assert store.count_part(part(group, task_id, None)).claimed

    def test_task_without_a_place_counts_once(self, store: Store) -> None:
        group = begun(store, 2)
        task_id = new_id()
        assert [store.count_part(part(group, task_id, None)).counted for _ in range(2)] == [1, 1]

    def test_chord_counts_only_its_own_parts(self, store: Store) -> None:
        one, other = begun(store, 1), begun(store, 2)
        assert not store.count_part(part(other, "shared", 0)).claimed
        assert store.count_part(part(one, "shared", 0)).claimed
        store.finish_chord(one)
        assert store.count_part(part(other, "second", 1)) == ChordProgress(
            size=2, counted=2, claimed=True, finished=False
        )

    def test_part_is_counted_before_the_size_is_known(self, store: Store) -> None:
        group = begun(store)
        assert [store.count_part(part(group, index=index)) for index in range(2)] == [
            ChordProgress(size=None, counted=1, claimed=False, finished=False),
            ChordProgress(size=None, counted=2, claimed=False, finished=False),
        ]
        store.size_chord(group, 3)
        assert store.count_part(part(group, index=2)) == ChordProgress(size=3, counted=3, claimed=True, finished=False)

    def test_part_is_counted_before_its_chord_begins(self, store: Store) -> None:
        group = new_id()
        assert store.count_part(part(group, "early", 0)).counted == 1
        store.size_chord(group, 2)
        assert store.count_part(part(group, "last", 1)).claimed
        assert [one.task_id for one in store.chord_parts(group)] == ["early", "last"]

    def test_chord_is_orphaned_if_its_size_comes_last(self, store: Store) -> None:
        owner, group = new_id(), begun(store)
        assert not store.count_part(part(group, owner=owner)).claimed
        assert list(store.orphaned_chords(owner)) == []
        store.size_chord(group, 1)
        assert list(store.orphaned_chords(owner)) == [group]
        assert store.claim_chord(group, "sweep")

    def test_chord_grows_by_a_relative_size(self, store: Store) -> None:
        group = begun(store, 1)
        store.size_chord(group, 1, relative=True)
        assert store.count_part(part(group, index=0)) == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        store.size_chord(group, 2, relative=True)
        assert store.count_part(part(group, index=1)) == ChordProgress(size=4, counted=2, claimed=False, finished=False)
        assert not store.count_part(part(group, index=2)).claimed
        assert store.count_part(part(group, index=3)).claimed

    def test_growth_with_the_same_key_counts_once(self, store: Store) -> None:
        group = begun(store, 1)
        for key in ("one", "two", "one", "two"):
            store.size_chord(group, 2, relative=True, key=key)
        assert store.count_part(part(group, "one", 0)).size == 5
        assert [one.task_id for one in store.chord_parts(group)] == ["one"]
        store.begin_chord(ChordRecord(group_id=group))
        store.size_chord(group, 1)
        store.size_chord(group, 1, relative=True, key="one")
        assert store.count_part(part(group, index=0)).size == 2, "a chord that begins again has forgotten it"

    def test_chord_grows_before_its_size_is_known(self, store: Store) -> None:
        group = begun(store)
        store.size_chord(group, 1, relative=True)
        assert store.count_part(part(group, index=0)).size is None
        store.size_chord(group, 1)
        assert store.count_part(part(group, index=1)) == ChordProgress(size=2, counted=2, claimed=True, finished=False)

    def test_chord_grows_before_it_is_begun(self, store: Store) -> None:
        group = new_id()
        store.size_chord(group, 1, relative=True)
        store.size_chord(group, 1)
        assert store.count_part(part(group, index=0)) == ChordProgress(size=2, counted=1, claimed=False, finished=False)

    def test_chord_grows_in_eight_threads_at_once(self, store: Store) -> None:
        group = begun(store, 1)
        in_threads(8, lambda _: store.size_chord(group, 1, relative=True))
        assert store.count_part(part(group)).size == 9

    def test_chord_that_begins_again_forgets_its_parts(self, store: Store) -> None:
        group = completed(store, 2)
        store.size_chord(group, 5, relative=True)
        again = ChordRecord(group_id=group, body=json_payload("again"), header=json_payload("header"))
        store.begin_chord(again)
        assert store.get_chord(group) == again
        assert list(store.chord_parts(group)) == []
        store.size_chord(group, 2)
        assert store.count_part(part(group, "last", 1)) == ChordProgress(
            size=2, counted=1, claimed=False, finished=False
        )
        assert store.count_part(part(group, "first", 0)).claimed

    def test_chord_begins_again_after_it_was_finished(self, store: Store) -> None:
        group = completed(store, 1)
        store.finish_chord(group)
        store.begin_chord(ChordRecord(group_id=group))
        store.size_chord(group, 1)
        assert store.count_part(part(group, "last", 0)) == ChordProgress(
            size=1, counted=1, claimed=True, finished=False
        )

    def test_chord_has_one_claimant_at_a_time(self, store: Store) -> None:
        group = completed(store, 2)
        assert not store.claim_chord(group, "sweep")
        assert not store.count_part(part(group, "another", 7)).claimed

    def test_same_delivery_claims_its_chord_again(self, store: Store) -> None:
        group = completed(store, 2)
        assert store.count_part(part(group, "last", 1)) == ChordProgress(
            size=2, counted=2, claimed=True, finished=False
        )
        assert not store.count_part(part(group, "last", 0)).claimed, "the same task at another place is another part"
        assert not store.count_part(part(group, "last", 1, delivery="another")).claimed, "another run is another one"
        stored = store.put(record(task_id="last"), part(group, "last", 1))
        assert stored.chord == ChordProgress(size=2, counted=3, claimed=True, finished=False)

    def test_claim_is_taken_over_after_its_lease(self, store: Store) -> None:
        group = completed(store, 2, lease=0.001)
        wait_until(lambda: store.claim_chord(group, "sweep 1"), "the end of the lease")
        assert not store.claim_chord(group, "sweep 2")
        assert not store.count_part(part(group, "last", 1)).claimed, "the first claimant lost its claim"

    def test_redelivered_part_claims_an_orphaned_chord(self, store: Store) -> None:
        group = begun(store, 2)
        store.count_part(part(group, "first", 0))
        assert store.count_part(part(group, "last", 1), lease=0.001).claimed
        wait_until(lambda: store.count_part(part(group, "first", 0)).claimed, "the end of the lease")
        assert not store.claim_chord(group, "sweep")

    def test_incomplete_chord_cannot_be_claimed(self, store: Store) -> None:
        incomplete, unsized, finished = begun(store, 2), begun(store), completed(store, 1)
        store.count_part(part(incomplete))
        store.count_part(part(unsized))
        store.finish_chord(finished)
        assert [store.claim_chord(group, "sweep") for group in (incomplete, unsized, finished, new_id())] == [False] * 4

    def test_orphaned_chords_are_complete_and_not_claimed(self, store: Store) -> None:
        mine, yours = new_id(), new_id()
        held = completed(store, 2, owner=mine)
        finished = completed(store, 1, lease=0.001, owner=mine)
        store.finish_chord(finished)
        incomplete = begun(store, 2)
        store.count_part(part(incomplete, owner=mine))
        orphans = {completed(store, 2, lease=0.001, owner=mine) for _ in range(3)}
        other = completed(store, 1, lease=0.001, owner=yours)

        wait_until(lambda: len(store.orphaned_chords(mine)) >= 3, "the end of the leases")
        assert set(store.orphaned_chords(mine)) == orphans
        assert len(store.orphaned_chords(mine, limit=2)) == 2
        wait_until(lambda: list(store.orphaned_chords(yours)) == [other], "the end of the lease")
        assert list(store.orphaned_chords(new_id())) == []

        for group in orphans:
            assert store.claim_chord(group, "sweep")
        assert list(store.orphaned_chords(mine)) == []
        assert not store.claim_chord(held, "sweep")

    def test_finished_chord_refuses_parts(self, store: Store) -> None:
        group = completed(store, 2)
        store.finish_chord(group)
        for late in (part(group, "last", 1), part(group, "late", 5)):
            assert store.count_part(late) == ChordProgress(size=2, counted=2, claimed=False, finished=True)
        one = record()
        stored = store.put(one, part(group, one.task_id, 6))
        assert stored == Stored(written=True, chord=ChordProgress(size=2, counted=2, claimed=False, finished=True))
        assert store.get(one.task_id) == one
        assert list(store.chord_parts(group)) == []

    def test_finished_chord_has_no_body_and_no_parts(self, store: Store) -> None:
        group = completed(store, 2)
        assert store.get_chord(group) is not None
        store.finish_chord(group)
        assert store.get_chord(group) is None
        assert list(store.chord_parts(group)) == []
        store.finish_chord(group)
        store.finish_chord(new_id())

    def test_chord_keeps_its_body_and_header(self, store: Store) -> None:
        chord = ChordRecord(
            group_id=new_id(),
            body=json_payload({"task": "body"}),
            header=json_payload([["g", None], []]),
            expires_at=NOW,
        )
        assert store.get_chord(chord.group_id) is None
        store.begin_chord(chord)
        store.size_chord(chord.group_id, 2)
        store.count_part(part(chord.group_id))
        assert store.get_chord(chord.group_id) == chord

    def test_chord_parts_have_the_order_of_the_header(self, store: Store) -> None:
        group = begun(store, 12)
        places: list[int | None] = [10, 2, None, 0, 11, 9, 1]
        for index in places:
            store.count_part(part(group, f"task {index}", index, result=json_payload(index)))
        assert [one.group_index for one in store.chord_parts(group)] == [0, 1, 2, 9, 10, 11, None]
        assert list(store.chord_parts(new_id())) == []

    def test_chord_part_has_its_own_result_or_its_records(self, store: Store) -> None:
        group = begun(store, 5)
        ok, failed = record(result=json_payload("ok")), record(state="FAILURE")
        store.put(ok, part(group, ok.task_id, 0))
        store.put(failed, part(group, failed.task_id, 1, state="FAILURE", result=json_payload("own")))
        store.count_part(part(group, "ignored", 2, result=json_payload(None)))
        alone = record(result=json_payload("stored alone"))
        store.put(alone)
        store.count_part(part(group, alone.task_id, 3))
        assert list(store.chord_parts(group)) == [
            PartResult(task_id=ok.task_id, group_index=0, state="SUCCESS", result=json_payload("ok")),
            PartResult(task_id=failed.task_id, group_index=1, state="FAILURE", result=json_payload("own")),
            PartResult(task_id="ignored", group_index=2, state="SUCCESS", result=json_payload(None)),
            PartResult(task_id=alone.task_id, group_index=3, state="SUCCESS", result=json_payload("stored alone")),
        ]

    def test_chord_keeps_results_whose_records_change_or_go(self, store: Store) -> None:
        group = begun(store, 6)
        payloads = [json_payload(None), Payload(b"\x80\x05\x00\xff", "application/x-python-serialize", "binary")]
        records = [
            *(record(result=payload) for payload in payloads),
            record(state="FAILURE", result=json_payload("why"), retries=1),
            record(state="REVOKED", result=json_payload("who"), expires_at=datetime.now(timezone.utc)),
            record(result=json_payload("soon gone"), expires_at=datetime.now(timezone.utc)),
            record(result=None),
        ]
        for index, one in enumerate(records):
            assert store.put(one, part(group, one.task_id, index, state=one.state)).written
        expected = [
            PartResult(task_id=one.task_id, group_index=index, state=one.state, result=one.result)
            for index, one in enumerate(records)
        ]
        store.put(replace(records[2], state="SUCCESS", result=json_payload("another run"), retries=2))
        assert list(store.chord_parts(group)) == expected
        store.delete([one.task_id for one in records])
        store.delete_expired(datetime.now(timezone.utc))
        assert list(store.chord_parts(group)) == expected
        store.put(replace(records[0], result=json_payload("yet another run")))
        assert list(store.chord_parts(group)) == expected

    def test_part_keeps_its_result_beside_an_earlier_success(self, store: Store) -> None:
        group = begun(store, 2)
        one = record(result=json_payload("stored by hand"))
        store.put(one)
        stored = store.put(replace(one, result=json_payload("returned")), part(group, one.task_id, 0))
        assert not stored.written
        again = store.put(replace(one, result=json_payload("of another run")), part(group, one.task_id, 0))
        assert again.chord == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        assert [found.result for found in store.chord_parts(group)] == [json_payload("returned")]
        assert store.get(one.task_id) == one

    def test_sixteen_threads_claim_a_chord_once(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store, 32)

            def count(number: int, group: str = group) -> list[bool]:
                one = record(task_id=f"{group}/{number}")
                stored = store.put(one, part(group, one.task_id, 2 * number))
                assert stored.chord is not None
                return [stored.chord.claimed, store.count_part(part(group, "other", 2 * number + 1)).claimed]

            claims = [claimed for both in in_threads(16, count) for claimed in both]
            assert claims.count(True) == 1
            assert len(store.chord_parts(group)) == 32

    def test_sixteen_threads_claim_an_orphan_once(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store)
            store.count_part(part(group))
            store.size_chord(group, 1)
            claims = each_in_a_thread(partial(store.claim_chord, group), [f"sweep {number}" for number in range(16)])
            assert claims.count(True) == 1

    def test_duplicates_in_sixteen_threads_count_once(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store, 2)
            same = part(group, "same", 0)
            each_in_a_thread(store.count_part, [same] * 16)
            assert store.count_part(part(group, "last", 1)) == ChordProgress(
                size=2, counted=2, claimed=True, finished=False
            )

    def test_four_processes_claim_each_chord_once(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, processes: SyncedProcesses
    ) -> None:
        groups = [begun(store, 16) for _ in range(10)]
        answers = processes.run_alike(4, _complete_all, under_test.open, place, groups)
        for group, claims in zip(groups, zip(*answers, strict=True), strict=True):
            assert sum(claims) == 1, f"chord {group} was claimed by {claims}"
            assert len(store.chord_parts(group)) == 16


def _complete_all(open_store: Open, url: str, groups: Sequence[str], number: int) -> list[int]:
    """Count every fourth part of each chord, with a result or without; return how often each was claimed."""
    store = open_store(url, None)
    claims = []
    for group in groups:
        claimed = 0
        for index in range(number, 16, 4):
            one = part(group, f"{group}/{index}", index, result=json_payload(index))
            if index % 8 < 4:
                progress = store.count_part(one)
            else:
                stored = store.put(record(task_id=one.task_id), one)
                assert stored.chord is not None
                progress = stored.chord
            claimed += progress.claimed
        claims.append(claimed)
    store.close()
    return claims
