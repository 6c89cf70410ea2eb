"""Cleanups on real servers: what they delete, spare and put on record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import StoreError
from rootcellar.history.filters import Clock
from rootcellar.history.holds import place_hold
from rootcellar.maintenance.cleanup import (
    BATCH,
    BLOB_JOB,
    JOB,
    Cleanup,
    CleanupConfig,
    CleanupWork,
    overdue_since,
)
from rootcellar.maintenance.signals import Signal
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import Codec, codec_of
from rootcellar.payloads.blobs import references
from rootcellar.records import ChordRecord, GroupRecord, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.expiring import DeletionTooSlow, Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.search import OneOf
from rootcellar.testing.helpers import able, begun, json_payload, new_id, part, record, wait_until
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import HYBRID, MONGO, REDIS, WRITE_BEHIND
from tests.history.stores import SQL, opened

SMALL = CleanupConfig(batch=3, least_batch=1)


@pytest.fixture(params=[*SQL, HYBRID], ids=str)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as found:
        yield found


def now() -> datetime:
    return datetime.now(timezone.utc)


def codec() -> Codec:
    return codec_of({})


def put_due(store: Store, count: int, **given: Any) -> list[TaskRecord]:
    """Store records that have expired, one after the other; return them in this order."""
    found = [record(expires_at=now() - timedelta(hours=1, seconds=count - n), **given) for n in range(count)]
    for one in found:
        store.put(one)
    return found


def cleanup_of(store: Store, config: CleanupConfig = SMALL, **work: Any) -> Cleanup:
    return Cleanup(CleanupWork(store=store, spares=Spares(store, codec()), **work), config)


def hold(store: Store, text: str) -> None:
    place_hold(store, text, Clock(now(), timezone.utc), reason="audit", by="tests")


def left(store: Store) -> set[str]:
    return {one.task_id for one in store.scan()}


def test_all_that_has_expired_is_deleted_and_put_on_record(store: Store) -> None:
    put_due(store, 8)
    kept = [record(expires_at=now() + timedelta(hours=1)), record(expires_at=None)]
    for one in kept:
        store.put(one)
    old = GroupRecord(group_id=new_id(), result=json_payload([]), done_at=now(), expires_at=now() - timedelta(1))
    store.put_group(old)
    chord = ChordRecord(group_id=new_id(), body=json_payload(1), expires_at=now() - timedelta(1))
    store.begin_chord(chord)
    sweeps = iter([2])
    cleaned = cleanup_of(store, sweep_chords=lambda: next(sweeps), sweep_blobs=lambda go_on: 7).clean()
    assert (cleaned.tasks, cleaned.groups, cleaned.chords) == (8, 1, 1)
    assert (cleaned.orphans, cleaned.blobs, cleaned.is_complete) == (2, 7, True)
    assert left(store) == {one.task_id for one in kept}
    assert store.get_group(old.group_id) is None
    assert store.get_chord(chord.group_id) is None
    jobs = able(store, Jobs).jobs()
    assert (jobs[JOB].done, jobs[JOB].has_failed, jobs[BLOB_JOB].done) == (9, False, 7)
    assert str(jobs[JOB].note) == "Deleted 8 expired results, 1 group and 1 chord."
    assert "Deleted 8 expired results, 1 group, 1 chord and 7 blobs." in cleaned.sentence()


def test_chords_that_take_too_long_are_deleted_in_smaller_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord = ChordRecord(group_id=new_id(), body=json_payload(1), expires_at=now() - timedelta(1))
    store.begin_chord(chord)
    expiring = able(store, Expiring)
    delete, limits = expiring.delete_expired_chords, []

    def slow(moment: datetime, limit: int = BATCH) -> int:
        limits.append(limit)
        if limit > BATCH // 5:
            raise DeletionTooSlow("too many chords", where="the table", remedy="wait")
        return delete(moment, limit)

    monkeypatch.setattr(expiring, "delete_expired_chords", slow)
    monkeypatch.setattr(
        store, "ability", lambda kind: expiring if kind is Expiring else type(store).ability(store, kind)
    )
    cleanup = cleanup_of(store)
    cleanup._pause = lambda seconds: None  # type: ignore[method-assign]
    assert cleanup.clean().chords == 1
    assert limits[:3] == [BATCH, BATCH // 2, BATCH // 4]
    assert store.get_chord(chord.group_id) is None


def test_second_cleanup_deletes_nothing(store: Store) -> None:
    put_due(store, 4)
    assert cleanup_of(store).clean().deleted == 4
    again = cleanup_of(store).clean()
    assert (again.deleted, again.is_complete) == (0, True)
    assert again.sentence() == "Deleted 0 expired results."


def test_expected_is_what_is_then_deleted(store: Store) -> None:
    put_due(store, 5, name="kept")
    records = put_due(store, 7, name="gone")
    hold(store, "task:kept")
    store.begin_chord(ChordRecord(group_id=new_id(), body=json_payload(1), expires_at=now() - timedelta(1)))
    expected = cleanup_of(store).expected(samples=2)
    assert expected is not None
    assert (expected.cleaned.tasks, expected.cleaned.held, expected.cleaned.chords) == (7, 5, 1)
    assert [one.task_id for one in expected.samples] == [one.task_id for one in records[:2]]
    assert len(left(store)) == 12
    cleaned = cleanup_of(store).clean()
    assert (cleaned.tasks, cleaned.held, cleaned.chords) == (7, 5, 1)


# -- holds and the archive


def test_held_results_stay_until_the_hold_is_released(store: Store) -> None:
    kept = put_due(store, 7, name="billing.pay")
    put_due(store, 7, name="billing.check")
    hold(store, "task:billing.pay")
    cleaned = cleanup_of(store).clean()
    assert (cleaned.tasks, cleaned.held) == (7, 7)
    assert "7 expired results stay, because of holds." in cleaned.sentence()
    assert left(store) == {one.task_id for one in kept}
    able(store, Holding).release_hold(1, "tests", now())
    assert cleanup_of(store).clean().tasks == 7


def test_result_that_only_its_value_shows_as_not_held_is_deleted(store: Store) -> None:
    # the server cannot say of an encrypted or packed value whether it contains the text: the cleanup reads it
    packed = codec_of({"result_compression": "gzip"})

    def stored(order: str, hours: int) -> TaskRecord:
        one = record(expires_at=now() - timedelta(hours=hours))
        value = packed.encode({"order": order * 1_000}, task_id=one.task_id)
        one = replace(one, result=value)
        store.put(one)
        return one

    held = stored("tomato", 2)
    for _ in range(5):
        stored("potato", 1)
    hold(store, "result.order:tomato*")
    expected = cleanup_of(store).expected()
    assert expected is not None
    assert (expected.cleaned.tasks, expected.cleaned.held) == (5, 1)
    cleaned = cleanup_of(store).clean()
    assert (cleaned.tasks, cleaned.held) == (5, 1)
    assert left(store) == {held.task_id}


def put_packed(store: Store, order: str, count: int) -> list[TaskRecord]:
    """Store expired results whose values the server cannot search."""
    packed = codec_of({"result_compression": "gzip"})
    found = []
    for number in range(count):
        one = record(expires_at=now() - timedelta(hours=1, seconds=count - number))
        one = replace(one, result=packed.encode({"order": order * 1_000}, task_id=one.task_id))
        store.put(one)
        found.append(one)
    return found


def values_read_by(cleanup: Cleanup) -> list[int]:
    """Return a list that gets the number of results of each page that this cleanup reads with their values."""
    read: list[int] = []
    free = cleanup._work.spares.free

    def noting(records: Any) -> Any:
        read.append(len(records))
        return free(records)

    cleanup._work.spares.free = noting  # type: ignore[method-assign]
    return read


def test_held_results_are_not_read_again_by_the_next_run(store: Store) -> None:
    held = put_packed(store, "tomato", 5)
    hold(store, "result.order:tomato*")
    cleanup = cleanup_of(store)
    read = values_read_by(cleanup)
    for expected in (5, 0):
        cleaned = cleanup.clean()
        assert (cleaned.tasks, cleaned.held, sum(read)) == (0, 5, expected)
        read.clear()
    put_packed(store, "potato", 1)
    one = record(expires_at=now())
    store.put(one)
    # what has expired since is read, what was stored among the others is read after a day
    assert cleanup.clean().tasks == 1
    assert one.task_id not in left(store)
    cleanup.decided._began -= 100_000.0
    assert cleanup.clean().tasks == 1
    assert left(store) == {each.task_id for each in held}
    hold(store, "result.order:onion*")
    read.clear()
    assert cleanup.clean().held == 5
    assert sum(read) == 5, "other holds"


def test_run_that_reads_held_results_ends_if_another_process_leads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_packed(store, "tomato", 5)
    hold(store, "result.order:tomato*")
    monkeypatch.setattr("rootcellar.maintenance.cleanup._READ_AT_ONCE", 2)
    cleanup = cleanup_of(store, CleanupConfig())
    read = values_read_by(cleanup)
    monkeypatch.setattr(cleanup, "continue_run", lambda: not read)
    assert not cleanup.clean().is_complete
    assert read == [2]


def test_hold_that_is_placed_during_a_cleanup_stops_the_deletion_of_what_it_covers(store: Store) -> None:
    for _ in range(3):
        store.put(record(name="first", expires_at=now() - timedelta(days=1)))
    kept = put_due(store, 6, name="kept")
    cleanup = cleanup_of(store)
    spares = cleanup._work.spares
    read = spares.condition

    def condition() -> Any:
        found = read()
        if cleanup.cleaned.tasks == 3 and not able(store, Holding).holds():
            # after the holds were read, and before the batch that they are read for
            hold(store, "task:kept")
        return found

    spares.condition = condition  # type: ignore[method-assign]
    cleaned = cleanup.clean()
    assert (cleaned.tasks, cleaned.held, cleaned.is_complete) == (3, 6, True)
    assert left(store) == {one.task_id for one in kept}


def test_results_of_a_rule_that_archives_stay(store: Store) -> None:
    waiting = put_due(store, 4, name="reports.year")
    put_due(store, 4, name="reports.day")
    cleaned = cleanup_of(store, archiving=OneOf("name", ("reports.year",))).clean()
    assert (cleaned.tasks, cleaned.archiving, cleaned.held) == (4, 4, 0)
    assert "No archive is configured" in cleaned.sentence()
    assert left(store) == {one.task_id for one in waiting}
    with_archive = cleanup_of(store, archiving=OneOf("name", ("reports.year",)), has_archive=True).clean()
    assert with_archive.sentence() == "Deleted 0 expired results. 4 expired results stay until archived."


def test_result_that_is_held_and_waits_for_the_archive_is_counted_once(store: Store) -> None:
    put_due(store, 4, name="reports.year", queue="slow")
    put_due(store, 2, name="other", queue="slow")
    hold(store, "queue:slow")
    cleaned = cleanup_of(store, archiving=OneOf("name", ("reports.year",))).clean()
    assert (cleaned.tasks, cleaned.archiving, cleaned.held) == (0, 4, 2)


# -- as a service


def test_service_waits_until_an_interval_after_the_last_cleanup_of_any_process(store: Store) -> None:
    put_due(store, 4)
    first = cleanup_of(store, replace(SMALL, first_pause=0.0))
    first.start()
    first.signals.wait(Signal.RAN)
    assert first.stop(20)
    assert first.signals.done == 4
    assert first.pause_after(4) == 3_600
    put_due(store, 4)
    second = cleanup_of(store)
    assert second.run_once() == 0
    assert 3_500 < second.pause_after(0) <= 3_600
    assert len(left(store)) == 4
    due = cleanup_of(store, replace(SMALL, cleanup_interval=0.01))
    due.start()
    due.signals.wait_for_done(4)
    assert due.stop(20)
    assert not left(store)


def test_service_sweeps_blobs_once_a_day(store: Store) -> None:
    sweeps: list[int] = []
    config = replace(SMALL, cleanup_interval=0.01)

    def swept(go_on: object) -> int:
        sweeps.append(1)
        return 0

    for _ in range(3):
        cleanup_of(store, config, sweep_blobs=swept).run_once()
    assert sweeps == [1]
    cleanup_of(store, config, sweep_blobs=swept).clean()
    assert sweeps == [1, 1], "a command sweeps at once"


def test_failed_sweep_is_tried_again_by_the_next_cleanup_and_the_results_are_not(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put_due(store, 4)
    sweeps: list[int] = []

    def refused(go_on: object = None) -> int:
        sweeps.append(1)
        raise StoreError("access denied", where="the bucket", remedy="grant it")

    cleanup = cleanup_of(store, sweep_chords=refused, sweep_blobs=refused)
    assert cleanup.run_once() == 4
    assert sweeps == [1, 1]
    assert cleanup.pause_after(4) == 3_600
    assert caplog.text.count("access denied") == 2
    jobs = able(store, Jobs).jobs()
    assert (jobs[JOB].has_failed, jobs[JOB].done, jobs[BLOB_JOB].has_failed) == (False, 4, True)
    assert cleanup_of(store, sweep_blobs=refused).run_once() == 0
    assert not cleanup_of(store, sweep_blobs=refused)._is_time_for_blobs()
    later = cleanup_of(store, replace(SMALL, cleanup_interval=0.01))
    wait_until(later._is_time_for_blobs, "it is time for the blobs")
    with pytest.raises(StoreError, match="access denied"):
        cleanup_of(store, sweep_blobs=refused).clean()


def test_other_process_begins_no_second_sweep_while_one_runs(store: Store) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    config = replace(SMALL, cleanup_interval=0.01, first_pause=0.0)

    def slow(go_on: object) -> int:
        has_begun.set()
        assert may_end.wait(20)
        return 1

    first = cleanup_of(store, config, sweep_blobs=slow)
    first.run_in_thread()
    assert has_begun.wait(20)
    try:
        # its lease has ended, because the sweep takes so long
        second = cleanup_of(store, config, sweep_blobs=lambda go_on: pytest.fail("a second sweep"))
        wait_until(lambda: second.run_once() == 0 and second.cleaned.is_complete, "it has cleaned")
    finally:
        may_end.set()
    first.signals.wait(Signal.RAN)
    assert able(store, Jobs).jobs()[BLOB_JOB].done == 1


@pytest.mark.parametrize("place", [*SQL, HYBRID, WRITE_BEHIND, REDIS, MONGO], ids=str)
def test_chord_ends_with_its_values_although_the_records_of_its_parts_have_expired(
    place: StoreUnderTest, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A rule keeps them for a short time, and their blobs are older than the time for which a blob is kept."""
    codec = codec_of({"result_max_size": 10, "result_too_large": "spill", "result_blob_url": f"file://{tmp_path}"})
    spiller = codec.spiller
    assert spiller is not None
    with opened(place, request) as store:
        group = begun(store, 2)
        ids = [new_id(), new_id()]
        for index, task_id in enumerate(ids):
            spilled = spiller.spill(json_payload("a large result"), task_id)
            one = record(task_id=task_id, result=spilled, expires_at=now() - timedelta(hours=1))
            store.put(one, part(group, task_id, index, expires_at=now() + timedelta(days=1)))
        cleanup = cleanup_of(store, sweep_blobs=lambda go_on: spiller.sweep(store, -10.0, go_on))
        cleanup.clean()
        wait_until(lambda: not store.get_many(ids), "the expiry of the copies in Redis")
        assert cleanup.clean().blobs == 0
        parts = store.chord_parts(group)
        assert [spiller.fetch(each.result, each.task_id) for each in parts if each.result] == [
            json_payload("a large result")
        ] * 2
        store.finish_chord(group)
        assert cleanup.clean().blobs == 2


def test_sweep_of_blobs_stays_the_leader_and_ends_with_the_lead(store: Store, tmp_path: Path) -> None:
    spiller = codec_of({"result_blob_url": str(tmp_path / "blobs")}).spiller
    assert spiller is not None
    for number in range(3):
        spiller.blobs.put(f"00/{new_id()}.{number:016x}", b"x")
    held: list[int] = []

    class Leading:
        lease = 60.0

        def hold(self) -> bool:
            held.append(len(list(spiller.blobs.names(-10.0))))
            # another process leads after the first blob
            return held[-1] > 2

        def release(self) -> None: ...

    cleanup = cleanup_of(store, sweep_blobs=lambda go_on: spiller.sweep(store, -10.0, go_on))
    cleanup.leader = Leading()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(references, "_SWEEP_BATCH", 1)
        cleaned = cleanup.clean()
    assert held[-1] == 2
    assert len(list(spiller.blobs.names(-10.0))) == 2
    assert not cleaned.is_complete
    job = able(store, Jobs).jobs()[BLOB_JOB]
    assert job.has_failed
    assert "stopped before its end" in str(job.note)


def test_cleanup_pauses_as_its_rate_needs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Cleanup, "_pause", lambda cleanup, seconds: pauses.append(seconds))
    put_due(store, 6)
    assert cleanup_of(store, replace(SMALL, rate=1)).clean().tasks == 6
    # two batches of three rows, each with three seconds
    assert sum(pauses) == pytest.approx(6.0, abs=1.0)


def test_stop_ends_a_run_after_a_batch_and_the_next_run_goes_on(store: Store) -> None:
    put_due(store, 9)
    first_batch, may_go_on = threading.Event(), threading.Event()

    def on_batch(cleaned: Any) -> None:
        first_batch.set()
        assert may_go_on.wait(20)

    cleanup = Cleanup(
        CleanupWork(store=store, spares=Spares(store, codec())), replace(SMALL, first_pause=0.0), on_batch
    )
    cleanup.start()
    assert first_batch.wait(20)
    cleanup.ask_to_stop()
    may_go_on.set()
    assert cleanup.stop(20)
    assert (cleanup.cleaned.tasks, cleanup.cleaned.is_complete) == (3, False)
    job = able(store, Jobs).jobs()[JOB]
    assert (job.done, job.has_failed) == (3, True)
    assert "the next run goes on" in str(job.note)
    assert cleanup_of(store).run_once() == 6, "a stopped run is no reason to wait for an hour"


def test_missing_cleanup_is_found(store: Store) -> None:
    two_days = timedelta(days=2)
    put_due(store, 1)
    assert overdue_since(store, two_days) is None, "what expired an hour ago is not missing yet"
    old = record(expires_at=now() - timedelta(days=3))
    store.put(old)
    assert overdue_since(store, two_days) == old.expires_at
    cleanup_of(store).clean()
    store.put(old)
    assert overdue_since(store, two_days) is None, "it was cleaned lately"
    last = able(store, Jobs).jobs()[JOB].succeeded_at
    assert overdue_since(store, timedelta(0)) == last


def test_store_that_deletes_by_itself_is_cleaned_of_the_rest(request: pytest.FixtureRequest) -> None:
    with opened(REDIS, request) as store:
        sweeps = iter([1])
        cleanup = cleanup_of(store, sweep_blobs=lambda go_on: next(sweeps))
        assert cleanup.expected() is None
        cleaned = cleanup.clean()
        assert (cleaned.deleted, cleaned.blobs, cleaned.is_complete) == (0, 1, True)
        assert not cleanup._is_time_for_blobs()


def test_worker_logs_a_cleanup_that_did_something(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put_due(store, 2)
    caplog.set_level("INFO")
    service = cleanup_of(store, CleanupConfig(cleanup_interval=0.01))
    assert service.run_once() == 2
    assert "Cleanup: Deleted 2 expired results." in caplog.text
    caplog.clear()
    cleanup_of(store, CleanupConfig(cleanup_interval=0.01)).run_once()
    assert caplog.text == ""
