"""Which records expire, and which stay."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from rootcellar.records import (
    ChordRecord,
    GroupRecord,
)
from rootcellar.stores.base import Store
from rootcellar.testing.helpers import NOW, begun, completed, in_threads, json_payload, new_id, part, record


class TestExpiry:
    def test_expired_records_are_deleted(self, new_store: Store) -> None:
        second = timedelta(seconds=1)
        gone = [record(expires_at=NOW - second), record(state="STARTED", done_at=None, expires_at=NOW - 400 * second)]
        kept = [record(expires_at=NOW + second), record(expires_at=NOW), record(expires_at=None)]
        for one in (*gone, *kept):
            new_store.put(one)
        old = GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW, expires_at=NOW - second)
        groups = [replace(old, group_id=new_id(), expires_at=when) for when in (NOW + second, None)]
        for group in (old, *groups):
            new_store.put_group(group)

        assert new_store.delete_expired(NOW) == 3
        assert new_store.delete_expired(NOW) == 0
        assert {one.task_id for one in new_store.scan()} == {one.task_id for one in kept}
        assert new_store.get_group(old.group_id) is None
        assert [new_store.get_group(group.group_id) for group in groups] == groups

    def test_record_without_expiry_is_never_deleted(self, new_store: Store) -> None:
        one, group = record(), GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        chord = ChordRecord(group_id=new_id(), body=json_payload(1))
        new_store.put(one)
        new_store.put_group(group)
        new_store.begin_chord(chord)
        new_store.count_part(part(chord.group_id))
        assert new_store.delete_expired(datetime(9999, 1, 1, tzinfo=timezone.utc)) == 0
        assert new_store.get(one.task_id) == one
        assert new_store.get_group(group.group_id) == group
        assert new_store.get_chord(chord.group_id) == chord
        assert len(new_store.chord_parts(chord.group_id)) == 1

    def test_last_state_decides_the_expiry(self, new_store: Store) -> None:
        longer = record(state="STARTED", expires_at=NOW - timedelta(1))
        never = record(state="STARTED", expires_at=NOW - timedelta(1))
        for one in (longer, never):
            new_store.put(one)
        new_store.put(replace(longer, state="SUCCESS", expires_at=NOW + timedelta(1)))
        new_store.put(replace(never, state="SUCCESS", expires_at=None))
        assert new_store.delete_expired(NOW) == 0
        assert new_store.delete_expired(NOW + timedelta(2)) == 1
        assert new_store.get(never.task_id) is not None

    def test_expired_records_are_deleted_in_batches(self, new_store: Store) -> None:
        def fill(number: int) -> None:
            for _ in range(30):
                new_store.put(record(expires_at=NOW - timedelta(1)))

        in_threads(4, fill)
        new_store.put(record())
        counts = []
        while count := new_store.delete_expired(NOW, limit=50):
            counts.append(count)
        assert sum(counts) == 120
        assert len(counts) > 1, "each call deletes about as many as its limit"
        assert max(counts) <= 60
        assert len(new_store.scan()) == 1

    def test_four_threads_delete_expired_records_once(self, new_store: Store) -> None:
        in_threads(4, lambda _: [new_store.put(record(expires_at=NOW - timedelta(1))) for _ in range(25)])

        def delete(_: int) -> int:
            total = 0
            while count := new_store.delete_expired(NOW, limit=10):
                total += count
            return total

        assert sum(in_threads(4, delete)) == 100, "each record is counted by the thread that deleted it"
        while new_store.delete_expired(NOW):
            pass
        assert list(new_store.scan()) == []

    def test_expired_chords_are_deleted(self, new_store: Store) -> None:
        old, young = NOW - timedelta(1), NOW + timedelta(1)
        gone, kept = begun(new_store, 2, expires_at=old), begun(new_store, 2, expires_at=young)
        for group in (gone, kept):
            new_store.count_part(part(group, "first", 0, expires_at=old))
        unbegun = new_id()
        new_store.count_part(part(unbegun, "first", 0, expires_at=old))
        new_store.delete_expired(NOW)
        assert new_store.get_chord(gone) is None
        assert list(new_store.chord_parts(gone)) == []
        assert list(new_store.chord_parts(unbegun)) == []
        assert new_store.get_chord(kept) is not None
        assert len(new_store.chord_parts(kept)) == 1, "the chord's own time counts, not its parts'"
        assert new_store.count_part(part(gone, "first", 0)).counted == 1

    def test_record_that_expires_before_its_chord_leaves_its_part(self, new_store: Store) -> None:
        group = begun(new_store, 2, expires_at=NOW + timedelta(1))
        short = record(result=json_payload("kept"), expires_at=NOW - timedelta(1))
        new_store.put(short, part(group, short.task_id, 0, expires_at=NOW + timedelta(1)))
        new_store.delete_expired(NOW)
        assert new_store.get(short.task_id) is None
        assert [found.result for found in new_store.chord_parts(group)] == [short.result]
        assert new_store.count_part(part(group, "last", 1)).claimed

    def test_parts_postpone_the_expiry_of_their_chord(self, new_store: Store) -> None:
        now = datetime.now(timezone.utc)
        soon, later = now + timedelta(hours=1), now + timedelta(hours=10)
        known, stored = (begun(new_store, 4, expires_at=soon) for _ in range(2))
        unbegun = new_id()
        for group in (known, unbegun):
            new_store.count_part(part(group, "first", 0, expires_at=soon))
            new_store.count_part(part(group, "second", 1, expires_at=later))
            new_store.count_part(part(group, "third", 2, expires_at=soon))
        one = record()
        new_store.put(one, part(stored, one.task_id, 0, expires_at=later))
        new_store.delete_expired(now + timedelta(hours=2))
        assert [len(new_store.chord_parts(group)) for group in (known, unbegun, stored)] == [3, 3, 1]
        assert new_store.count_part(part(known, "last", 3)).claimed
        new_store.delete_expired(now + timedelta(hours=11))
        assert new_store.get_chord(known) is None
        assert [len(new_store.chord_parts(group)) for group in (known, unbegun, stored)] == [0, 0, 0]

    def test_part_does_not_make_its_chord_expire(self, new_store: Store) -> None:
        never = begun(new_store, 3)
        new_store.count_part(part(never, "first", 0, expires_at=NOW))
        new_store.count_part(part(never, "second", 1))
        new_store.delete_expired(NOW + timedelta(days=400))
        assert len(new_store.chord_parts(never)) == 2
        chord = new_store.get_chord(never)
        assert chord is not None
        assert chord.expires_at is None

    def test_finished_chord_refuses_parts_after_a_cleanup(self, new_store: Store) -> None:
        group = completed(new_store, 2)
        new_store.finish_chord(group)
        new_store.delete_expired(datetime.now(timezone.utc))
        assert new_store.count_part(part(group, "late", 5)).finished

    def test_cleanup_deletes_nothing_that_others_store(self, new_store: Store) -> None:
        stop = threading.Event()

        def clean() -> None:
            while not stop.is_set():
                new_store.delete_expired(NOW, limit=5)

        with ThreadPoolExecutor(1) as pool:
            cleaning = pool.submit(clean)
            try:
                records = [record(expires_at=NOW + timedelta(days=n % 2 * 2 - 1)) for n in range(100)]
                for one in records:
                    assert new_store.put(one).written
            finally:
                stop.set()
            cleaning.result()
        new_store.delete_expired(NOW)
        kept = {one.task_id for one in records if one.expires_at is not None and one.expires_at > NOW}
        assert {one.task_id for one in new_store.scan()} == kept
