"""A run of the archive: what it moves, what it leaves, and that nothing is ever lost or there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.archive import files, remains, selecting, writing
from rootcellar.archive.files import FileWriter
from rootcellar.archive.places import Folder
from rootcellar.archive.reading import Archive
from rootcellar.archive.writing import Progress
from rootcellar.errors import AbilityMissing, ArchiveDamaged, ArchiveFileMissing
from rootcellar.history.holds import place_hold
from rootcellar.payloads import codec_of
from rootcellar.payloads.blobs.references import REFERENCE
from rootcellar.records import NO_DATE, ChordRecord, Payload
from rootcellar.retention.policy import Retention
from rootcellar.retention.rules import read_rules
from rootcellar.stores import Store, open_store
from rootcellar.stores import archiving as sql_manifest
from rootcellar.stores.archiving import Manifest, Moved, NewFile, Place
from rootcellar.stores.search import SearchTooSlow
from rootcellar.stores.sql import archiving as sql_archiving
from rootcellar.testing.helpers import full_record, part
from rootcellar.testing.suites.store.exactness import JSON_TEXTS, OTHER_PAYLOADS
from rootcellar.testing.under_test import StoreUnderTest
from tests.archive.runs import (
    NOON,
    archive,
    archived,
    archiving,
    clock,
    durable,
    everything,
    fill,
    live,
    parquet,
    paths,
)
from tests.conformance.registered import HYBRID, MONGO, MYSQL, POSTGRES, REDIS, SQLITE, WRITE_BEHIND
from tests.helpers import record
from tests.history.stores import opened

_SQL = [SQLITE, POSTGRES, MYSQL]


@pytest.fixture(params=[*_SQL, HYBRID, WRITE_BEHIND], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def sql(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(getattr(request, "param", SQLITE), request) as found:
        yield found


# -- what is moved


def test_progress_is_known_while_a_file_is_written(sql: Any, tmp_path: Path) -> None:
    for _ in range(3):
        sql.put(record(done_at=NOON))
    seen: list[str] = []
    archive(sql, tmp_path, on_row=lambda: seen.append("row"), on_progress=lambda count: seen.append(f"{count} done"))
    assert seen == ["row", "row", "row", "3 done"]


def test_finished_tasks_move_into_a_file_for_each_day(store: Any, tmp_path: Path) -> None:
    records = fill(store, 30)
    store.put(running := record(state="STARTED"))
    before = live(store) | {running.task_id: running}
    done = archive(store, tmp_path)
    assert (done.archived, done.files, done.left) == (30, 3, 0)
    assert {one.task_id for one in live(store).values()} <= {running.task_id}
    assert {**everything(store, tmp_path), running.task_id: running} == before
    assert sorted(file.day for file in durable(store).files()) == sorted({one.done_at.date() for one in records})
    assert archive(store, tmp_path).archived == 0


def test_results_of_write_behind_are_archived_when_they_are_drained(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with opened(WRITE_BEHIND, request) as store:
        ones = [record(done_at=NOON) for _ in range(5)]
        for one in ones:
            store.put(one)
        assert archive(store, tmp_path).archived == 5
        assert archived(store, tmp_path).keys() == {one.task_id for one in ones}


def test_every_payload_is_archived_exactly(store: Any, tmp_path: Path) -> None:
    payloads = [*OTHER_PAYLOADS.values(), *(Payload(text.encode()) for text in JSON_TEXTS.values())]
    for one in (full_record(state="SUCCESS", done_at=NOON), *(record(result=each, done_at=NOON) for each in payloads)):
        durable(store).put(one)
    before = live(store)
    assert archive(store, tmp_path).archived == len(payloads) + 1
    assert archived(store, tmp_path) == before


def test_only_what_a_filter_finds_is_archived(sql: Any, tmp_path: Path) -> None:
    fill(sql, 24)
    day = NOON.date() - timedelta(days=1)
    done = archive(sql, tmp_path, f"state:failed task:*task1 done:{day}")
    expected = {
        one.task_id
        for one in everything(sql, tmp_path).values()
        if one.state == "FAILURE" and one.name == "shop.task1" and one.done_at and one.done_at.date() == day
    }
    assert expected
    assert archived(sql, tmp_path).keys() == expected
    assert done.archived == len(expected)


def test_filter_by_a_value_is_decided_by_the_value(sql: Any, tmp_path: Path) -> None:
    fill(sql, 12)
    archive(sql, tmp_path, "result.number:7")
    assert [json.loads(one.result.body) for one in archived(sql, tmp_path).values() if one.result] == [{"number": 7}]


@pytest.mark.parametrize("sql", _SQL, indirect=True, ids=lambda one: one.name)
def test_rule_archives_what_has_expired_and_says_for_how_long(sql: Any, tmp_path: Path) -> None:
    retention = Retention(
        86_400.0, rules=read_rules([{"task": "shop.task1", "keep": "1d", "then": "archive", "archive_for": "10d"}])
    )
    fill(sql, 20)
    sql.put(later := record(name="shop.task1", expires_at=datetime.now(timezone.utc) + timedelta(days=9)))
    done = archive(sql, tmp_path, retention=retention)
    found = archived(sql, tmp_path)
    assert done.archived == len(found) > 0
    now = datetime.now(timezone.utc)
    assert {one.name for one in found.values()} == {"shop.task1"}
    assert all(one.expires_at is not None and one.expires_at < now for one in found.values())
    assert sql.get(later.task_id) is not None
    latest = max(one.expires_at for one in found.values() if one.expires_at)
    assert max(file.expires_at for file in sql.files()) == latest + timedelta(days=10)


def test_filter_run_without_a_rule_keeps_results_for_ever(sql: Any, tmp_path: Path) -> None:
    fill(sql, 3)
    archive(sql, tmp_path)
    assert {file.expires_at for file in sql.files()} == {None}


def test_task_that_ended_at_an_unknown_time_is_archived(sql: Any, tmp_path: Path) -> None:
    sql.put(one := record(done_at=NO_DATE))
    assert archive(sql, tmp_path).archived == 1
    assert archived(sql, tmp_path) == {one.task_id: one}


def test_day_that_is_too_large_gets_several_files(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sql), "rows_in_one_file", 7)
    monkeypatch.setattr(selecting, "PAGE", 3)
    fill(sql, 30, days=1)
    before = live(sql)
    assert archive(sql, tmp_path).files == 5
    assert everything(sql, tmp_path) == before


def test_pages_have_few_bytes(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "PAGE_BYTES", 10_000)
    sizes: list[int] = []
    search = sql.search

    def noted(given: Any) -> Any:
        found = search(given)
        sizes.append(sum(len(each.record.result.body) for each in found if each.record.result))
        return found

    monkeypatch.setattr(sql, "search", noted)
    for _ in range(40):
        sql.put(record(value="x" * 3_000, done_at=NOON))
    assert archive(sql, tmp_path).archived == 40
    # the first page has a fixed number of rows, whatever their size
    monkeypatch.setattr(selecting, "_FIRST_PAGE", 2)
    sizes.clear()
    for _ in range(40):
        sql.put(record(value="x" * 3_000, done_at=NOON))
    assert archive(sql, tmp_path).archived == 40
    assert max(sizes) < 10_000


def test_few_bytes_are_compared_at_a_time(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_manifest, "BATCH_BYTES", 10_000)
    batches: list[int] = []
    delete = type(sql)._delete_live

    def noted(self: Any, connection: Any, ids: Any) -> None:
        batches.append(len(ids))
        delete(self, connection, ids)

    monkeypatch.setattr(type(sql), "_delete_live", noted)
    for _ in range(9):
        sql.put(record(value="x" * 4_000, done_at=NOON))
    assert archive(sql, tmp_path).archived == 9
    assert batches == [3, 3, 3]


def test_slow_search_is_asked_again_for_less_time(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "PAGE", 2)
    monkeypatch.setattr(selecting, "_FIRST_PAGE", 2)
    fill(sql, 40, days=2)
    search, refused = sql.search, []

    def slow(given: Any) -> Any:
        if given.since is not None and given.until - given.since > timedelta(hours=2):
            refused.append(given)
            raise SearchTooSlow("too slow")
        return search(given)

    monkeypatch.setattr(sql, "search", slow)
    before = live(sql)
    assert archive(sql, tmp_path).archived == 40
    assert refused
    assert everything(sql, tmp_path) == before


# -- what stays


def test_held_results_stay(store: Any, tmp_path: Path) -> None:
    fill(store, 12)
    place_hold(durable(store), "task:shop.task1", clock(), reason="audit", by="ann")
    done = archive(store, tmp_path)
    assert (done.held, done.archived) == (3, 9)
    assert {one.name for one in live(store).values()} == {"shop.task1"}


def test_hold_that_is_placed_while_a_file_is_written_counts(sql: Any, tmp_path: Path) -> None:
    fill(sql, 12, days=1)
    with _before_commit(lambda: place_hold(sql, "task:shop.task1", clock(), reason="audit", by="ann")):
        done = archive(sql, tmp_path)
    assert (done.held, done.archived, done.changed) == (3, 9, 0)
    assert {one.name for one in live(sql).values()} == {"shop.task1"}
    everything(sql, tmp_path)


@pytest.mark.parametrize("sql", _SQL, indirect=True, ids=lambda one: one.name)
def test_rows_that_change_while_a_file_is_written_stay(sql: Any, tmp_path: Path) -> None:
    again, rekeyed, forgotten, *others = [record(state="FAILURE", done_at=NOON) for _ in range(6)]
    for one in (again, rekeyed, forgotten, *others):
        sql.put(one)
    newer = replace(again, state="SUCCESS", result=Payload(b"2"))
    sealed = replace(rekeyed, result=Payload(b"sealed", key_id="aes-256-gcm:k"))

    def change() -> None:
        sql.put(newer)
        assert sql.replace(rekeyed, sealed)
        sql.delete([forgotten.task_id])

    with _before_commit(change):
        done = archive(sql, tmp_path)
    assert (done.archived, done.changed) == (3, 3)
    assert everything(sql, tmp_path) == {one.task_id: one for one in (newer, sealed, *others)}
    assert live(sql) == {one.task_id: one for one in (newer, sealed)}


def test_result_that_is_waited_for_arrives_during_a_run(sql: Any, tmp_path: Path) -> None:
    sql.put(one := record(state="FAILURE", done_at=NOON))
    with _before_commit(lambda: sql.put(replace(one, state="SUCCESS"))):
        archive(sql, tmp_path)
    found = sql.get(one.task_id)
    assert found is not None
    assert found.state == "SUCCESS"


def test_members_of_a_chord_stay_until_it_ends(store: Any, tmp_path: Path) -> None:
    store.begin_chord(ChordRecord(group_id="chord", body=Payload(b"{}")))
    store.size_chord("chord", 2)
    early = record(value="early", group_id="chord", group_index=0, done_at=NOON)
    store.put(early, part("chord", early.task_id, 0))
    other = record(group_id="no-chord", done_at=NOON)
    store.put(other)
    done = archive(store, tmp_path)
    assert (done.waiting, done.archived) == (1, 1)
    late = record(value="late", group_id="chord", group_index=1, done_at=NOON)
    assert store.put(late, part("chord", late.task_id, 1)).chord.claimed
    assert [json.loads(each.result.body) for each in store.chord_parts("chord")] == ["early", "late"]
    store.finish_chord("chord")
    assert archive(store, tmp_path).archived == 2


def test_chord_ends_although_a_member_was_archived_early(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a run may look before the chord begins; the part keeps its result, so it does not matter where the record is
    monkeypatch.setattr(writing.Archiving, "_is_open", lambda self, group_id: False)
    store.begin_chord(ChordRecord(group_id="chord", body=Payload(b"{}")))
    store.size_chord("chord", 2)
    early = record(value="early", group_id="chord", group_index=0, done_at=NOON)
    store.put(early, part("chord", early.task_id, 0))
    assert archive(store, tmp_path).archived == 1
    late = record(value="late", group_id="chord", group_index=1, done_at=NOON)
    assert store.put(late, part("chord", late.task_id, 1)).chord.claimed
    assert [json.loads(each.result.body) for each in store.chord_parts("chord")] == ["early", "late"]


def test_damaged_row_stays(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with SQLITE.new_place(request) as url, _store(url) as store:
        fill(store, 4, days=1)
        broken = record(name="broken", done_at=NOON)
        store.put(broken)
        assert SQLITE.run_sql is not None
        SQLITE.run_sql(url, "UPDATE celery_taskmeta SET queue = x'ff' WHERE name = 'broken';")
        done = archive(store, tmp_path)
        assert (done.damaged, done.archived) == (1, 4)
        assert live(store).keys() == {broken.task_id}


# -- blobs


def test_result_in_a_blob_goes_into_the_file_and_survives_a_sweep(store: Any, tmp_path: Path) -> None:
    codec = codec_of(
        {"result_blob_url": str(tmp_path / "blobs"), "result_max_size": 1_000, "result_too_large": "spill"}
    )
    assert codec.spiller is not None
    value = "x" * 5_000
    one = record(done_at=NOON)
    reference = codec.encode(value, task_id=one.task_id)
    assert reference.content_type == REFERENCE
    durable(store).put(replace(one, result=reference))
    assert archive(store, tmp_path / "archive", codec=codec).archived == 1
    assert codec.spiller.sweep(store, grace=-10.0) == 1
    assert not paths(tmp_path / "blobs")
    (file,) = durable(store).files()
    with Folder(tmp_path / "archive").open(file.path) as source:
        (row,) = files.FileReader(source, "").read()
    assert codec.decode(row.record.result, task_id=one.task_id) == value
    assert row.as_stored == replace(one, result=reference)


def test_result_whose_blob_is_missing_stays(sql: Any, tmp_path: Path) -> None:
    codec = codec_of(
        {"result_blob_url": str(tmp_path / "blobs"), "result_max_size": 1_000, "result_too_large": "spill"}
    )
    one = record(done_at=NOON)
    sql.put(replace(one, result=codec.encode("x" * 5_000, task_id=one.task_id)))
    sql.put(record(done_at=NOON))
    for path in (tmp_path / "blobs").rglob("*.*"):
        path.unlink()
    done = archive(sql, tmp_path / "archive", codec=codec)
    assert (done.unread, done.archived) == (1, 1)
    assert "is not in" in str(done.problem)
    done = archive(sql, tmp_path / "archive")
    assert "no blob store is named" in str(done.problem)
    assert live(sql).keys() == {one.task_id}


# -- the same task twice


@pytest.mark.parametrize(
    ("first", "second", "kept"), [("FAILURE", "FAILURE", 1), ("FAILURE", "SUCCESS", 1), ("SUCCESS", "FAILURE", 0)]
)
def test_task_that_ended_again_is_archived_once(sql: Any, tmp_path: Path, first: str, second: str, kept: int) -> None:
    one = record(value=0, state=first, done_at=NOON)
    two = replace(one, state=second, result=Payload(b"1"), done_at=NOON + timedelta(minutes=1))
    for each in (one, two):
        sql.put(each)
        assert archive(sql, tmp_path).changed == 0
    assert not live(sql)
    assert archived(sql, tmp_path) == {one.task_id: (one, two)[kept]}


def _archive_meanwhile(
    store: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]
) -> Progress:
    """Archive everything; do something else after the first file is written and before it is committed."""
    write = writing.Archiving._write

    def writing_first(self: Any, *args: Any) -> Any:
        draft = write(self, *args)
        meanwhile()
        return draft

    with monkeypatch.context() as patch:
        patch.setattr(writing.Archiving, "_write", writing_first)
        return archive(store, folder)


@pytest.mark.parametrize("sql", _SQL, indirect=True, ids=lambda one: one.name)
@pytest.mark.parametrize("step", ["expires", "is forgotten", "moves"])
@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_live_row_stays_if_its_older_copy_changes_before_the_commit(
    sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, state: str
) -> None:
    first = record(value=0, state="SUCCESS", done_at=NOON)
    sql.put(first)
    archive(sql, tmp_path)
    (old,) = sql.files()
    second = replace(first, state=state, result=Payload(b"1"), done_at=NOON + timedelta(minutes=1))
    sql.put(second)
    other = record(done_at=NOON)
    sql.put(other)
    here = Archive(sql, Folder(tmp_path))
    moved: list[Any] = [Moved(0, first.task_id, Place(old.id, 0))]
    steps: dict[str, Callable[[], object]] = {
        "expires": lambda: sql.mark_file(old.id, sql_manifest.DELETED, clock().now),
        "is forgotten": lambda: here.forget([first.task_id]),
        "moves": lambda: sql.merge_files(replace(_new(old), path="new.parquet"), [old.id], lambda: moved),
    }
    done = _archive_meanwhile(sql, tmp_path, monkeypatch, steps[step])
    assert (done.archived, done.dropped, done.changed) == (1, 0, 1)
    assert live(sql) == {second.task_id: second}
    assert len(sql.places([first.task_id]).get(first.task_id, ())) == (step == "moves")


def _new(file: Any) -> NewFile:
    return NewFile(**{each.name: getattr(file, each.name) for each in fields(NewFile)})


def test_failure_stays_if_the_archived_success_expires_earlier(sql: Any, tmp_path: Path) -> None:
    one = record(value=0, state="SUCCESS", done_at=NOON, expires_at=NOON)
    sql.put(one)
    archive(sql, tmp_path, expiry=lambda record: NOON + timedelta(days=9))
    two = replace(one, state="FAILURE", done_at=NOON + timedelta(minutes=1))
    sql.put(two)
    done = archive(sql, tmp_path, expiry=lambda record: NOON + timedelta(days=10))
    assert (done.archived, done.dropped, done.waiting_for_older, done.left) == (0, 0, 1, 1)
    assert live(sql) == {two.task_id: two}
    done = archive(sql, tmp_path, expiry=lambda record: NOON + timedelta(days=9))
    assert (done.archived, done.dropped, done.left) == (0, 1, 0)
    assert "1 that did not succeed were deleted" in done.sentence()
    assert archived(sql, tmp_path) == {one.task_id: one}


def test_commit_locks_the_files_of_older_copies_before_live_rows(
    sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = record(value=0, done_at=NOON)
    sql.put(one)
    archive(sql, tmp_path)
    sql.put(replace(one, result=Payload(b"1"), done_at=NOON + timedelta(minutes=1)))
    ran: list[str] = []
    rows_of = type(sql)._rows_of

    def noted(self: Any, connection: Any, statement: str, params: Any) -> Any:
        ran.append(statement)
        return rows_of(self, connection, statement, params)

    monkeypatch.setattr(type(sql), "_rows_of", noted)
    assert archive(sql, tmp_path).archived == 1
    assert ran.index("lock_file") < ran.index("lock_tasks")


def test_two_runs_at_once_archive_each_row_once(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with opened(POSTGRES, request) as store:
        fill(store, 600)
        before = live(store)
        barrier, totals = threading.Barrier(2), []

        def run() -> None:
            barrier.wait()
            totals.append(archive(store, tmp_path).archived)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(totals) == 600
        assert everything(store, tmp_path) == before


# -- killed runs


_STEPS: dict[str, Callable[[], Any]] = {}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(owner: Any, name: str, times: int = 1) -> None:
    """Kill this process when a function has returned for the ``times``-th time."""
    function, left = getattr(owner, name), [times]

    def killing(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            _kill()
        return found

    setattr(owner, name, killing)


_AT = {
    "row added to the file": lambda store: _after(FileWriter, "add", 40),
    "file written": lambda store: _after(writing.Archiving, "_write", 2),
    "file in the manifest": lambda store: _after(store, "_count_of", 1),
    "live rows deleted": lambda store: _after(store, "_delete_live", 2),
    "ids in the index": lambda store: _after(store, "_add_entries", 2),
    "everything done but the commit": lambda store: _after(sql_archiving.SqlManifest, "_commit", 2),
    "committed": lambda store: _after(sql_archiving.SqlManifest, "commit_file", 2),
    "copy of the manifest written": lambda store: _after(writing, "write_copy", 2),
}


def _killed_run(url: str, folder: Path, prepare: Callable[[Any], Any]) -> bool:
    """Run in a forked process, which kills itself; return whether it did."""
    child = os.fork()
    if not child:
        try:
            store = open_store(url)
            run = archiving(store, folder)
            durable(store).homes()
            prepare(durable(store))
            run.run()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _check_and_finish(store: Store, folder: Path, before: Any) -> None:
    """Check that nothing is lost or there twice, and that the next run finishes and leaves nothing behind."""
    assert everything(store, folder) == before
    archive(store, folder)
    assert not live(store)
    assert archived(store, folder) == before
    manifest = durable(store)
    place = Folder(folder)
    later = datetime.now(timezone.utc).timestamp() + remains.GRACE + 60
    remains.clear_up(manifest, place, now=later)
    known = {file.path for file in manifest.files()}
    assert set(paths(folder)) == known | {remains.copy_name(path) for path in known}


@pytest.mark.parametrize("step", _AT)
@pytest.mark.parametrize("under_test", _SQL, ids=lambda one: one.name)
def test_nothing_is_lost_if_a_run_is_killed_when(
    under_test: StoreUnderTest, step: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with under_test.new_place(request) as url, _store(url) as store:
        fill(store, 90)
        before = live(store)
        store.close()
        assert _killed_run(url, tmp_path, _AT[step])
        _check_and_finish(store, tmp_path, before)


def test_nothing_is_lost_if_a_run_is_killed_at_ten_moments(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = random.Random(12)
    with POSTGRES.new_place(request) as url, _store(url) as store:
        fill(store, 60)
        store.close()
        calls = _calls_of_a_run(url, tmp_path)
        assert calls > 500
        killed = 0
        for _ in range(10):
            fill(store, 60)
            before = everything(store, tmp_path)
            store.close()
            at = source.randint(1, calls)
            killed += _killed_run(url, tmp_path, lambda store, at=at: _kill_after_calls(at))  # type: ignore[misc]
            assert everything(store, tmp_path) == before
        assert killed > 5
        _check_and_finish(store, tmp_path, before)


def _calls_of_a_run(url: str, folder: Path) -> int:
    reading, writing_end = os.pipe()

    def count(store: Any) -> None:
        calls = [0]

        def counting(frame: Any, event: str, arg: Any) -> None:
            calls[0] += event == "call" and _is_ours(frame)

        sys.setprofile(counting)
        run = store.commit_file

        def noted(*args: Any, **options: Any) -> Any:
            found = run(*args, **options)
            os.write(writing_end, b"%d\n" % calls[0])
            return found

        store.commit_file = noted

    assert not _killed_run(url, folder, count)
    os.close(writing_end)
    with os.fdopen(reading) as lines:
        return int(lines.read().split()[-1])


def _kill_after_calls(at: int) -> None:
    left = [at]

    def counting(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and _is_ours(frame):
            left[0] -= 1
            if not left[0]:
                _kill()

    sys.setprofile(counting)


def _is_ours(frame: Any) -> bool:
    name = frame.f_code.co_filename
    return "rootcellar/archive" in name or "rootcellar/stores" in name


# -- remains


def test_orphan_is_deleted_after_the_grace_time_and_never_before(sql: Any, tmp_path: Path) -> None:
    fill(sql, 3, days=1)
    archive(sql, tmp_path)
    (path,) = parquet(tmp_path)
    home = path.relative_to(tmp_path).parts[0]
    old, young, other = (
        tmp_path / home / "2026-01" / "old.parquet",
        tmp_path / home / "2026-01" / "young.parquet",
        tmp_path / "0123456789abcdef" / "2026-01" / "of-another-database.parquet",
    )
    for each, age in ((old, remains.GRACE + 60), (young, remains.GRACE - 60), (other, remains.GRACE + 60)):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_bytes(b"PAR1")
        then = datetime.now(timezone.utc).timestamp() - age
        os.utime(each, (then, then))
    os.utime(path, (0, 0))
    archive(sql, tmp_path)
    assert not old.exists()
    assert young.exists()
    assert other.exists()
    assert path.exists()
    assert archived(sql, tmp_path)


def test_file_that_took_so_long_that_it_may_be_deleted_as_an_orphan_is_not_committed(
    sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sql, 3, days=1)
    before = live(sql)
    write = writing.Archiving._write

    def suspended(self: Any, *args: Any) -> Any:
        draft = write(self, *args)
        return replace(draft, begun=draft.begun - timedelta(seconds=remains.GRACE / 2 + 60))

    monkeypatch.setattr(writing.Archiving, "_write", suspended)
    with pytest.raises(ArchiveFileMissing, match="begun more than 12 hours ago"):
        archive(sql, tmp_path)
    assert live(sql) == before
    assert not sql.files()


def test_file_that_was_deleted_after_it_was_read_is_not_committed(
    sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sql, 3, days=1)
    before = live(sql)
    rows_of = writing.Archiving._rows_of

    def deleting(self: Any, draft: Any) -> Any:
        yield from rows_of(self, draft)
        (tmp_path / draft.name).unlink()

    monkeypatch.setattr(writing.Archiving, "_rows_of", deleting)
    with pytest.raises(ArchiveFileMissing):
        archive(sql, tmp_path)
    assert live(sql) == before
    assert not sql.files()


def test_copy_of_the_manifest_is_beside_each_file(sql: Any, tmp_path: Path) -> None:
    fill(sql, 9)
    archive(sql, tmp_path)
    for path in parquet(tmp_path):
        entry = json.loads(path.with_suffix(".json").read_text())
        assert entry["path"] == str(path.relative_to(tmp_path))
        assert entry["rows"] == 3
        path.with_suffix(".json").unlink()
    archive(sql, tmp_path)
    assert len(paths(tmp_path)) == 6


def test_file_that_cannot_be_read_again_is_not_committed(
    sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sql, 30, days=1)
    before = live(sql)
    write = writing.Archiving._write

    def damaging(self: Any, *args: Any) -> Any:
        draft = write(self, *args)
        path = tmp_path / draft.name
        body = bytearray(path.read_bytes())
        body[300:308] = bytes(8)
        path.write_bytes(bytes(body))
        return draft

    monkeypatch.setattr(writing.Archiving, "_write", damaging)
    with pytest.raises(ArchiveDamaged):
        archive(sql, tmp_path)
    assert live(sql) == before
    assert not sql.files()
    assert not parquet(tmp_path)


def test_run_stops_when_it_is_asked_to(sql: Any, tmp_path: Path) -> None:
    fill(sql, 30)
    before = live(sql)
    asked = iter([True] * 4)
    done = archive(sql, tmp_path, go_on=lambda: next(asked, False))
    assert 0 < done.archived < 30
    assert everything(sql, tmp_path) == before


@pytest.mark.parametrize("under_test", [REDIS, MONGO], ids=lambda one: one.name)
def test_store_without_tables_is_refused(
    under_test: StoreUnderTest, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with opened(under_test, request) as store, pytest.raises(AbilityMissing, match="archive"):
        archive(store, tmp_path)


class _before_commit:
    """Calls a function after a file was written and before it is committed."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change = change
        self._commit = writing.Archiving._commit

    def __enter__(self) -> None:
        def changed(archiving: Any, *args: Any) -> Any:
            self._change()
            return self._commit(archiving, *args)

        writing.Archiving._commit = changed  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        writing.Archiving._commit = self._commit  # type: ignore[method-assign]


class _store:
    """A store that is open within a ``with`` block."""

    def __init__(self, url: str) -> None:
        self._store = open_store(url)

    def __enter__(self) -> Any:
        assert self._store.ability(Manifest) is not None
        return self._store

    def __exit__(self, *exc: object) -> None:
        self._store.close()
