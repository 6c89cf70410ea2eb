"""The files of an archive: the list, those that have expired, and small ones that become one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.archive import files, remains
from rootcellar.archive.compacting import compact, small_files
from rootcellar.archive.expiring import delete_remains, expire
from rootcellar.archive.places import open_place
from rootcellar.archive.reading import Archive
from rootcellar.archive.remains import clear_up
from rootcellar.archive.verifying import Verifying
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing
from rootcellar.history.filters import Clock
from rootcellar.history.holds import Holds, place_hold
from rootcellar.maintenance.archive_expiry import ArchiveExpiry
from rootcellar.payloads import codec_of
from rootcellar.payloads.blobs.references import REFERENCE
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.archiving import Moved, NewFile, Place
from rootcellar.stores.holding import Holding
from tests.archive.archives import app_of, manifest_of, put_file
from tests.commands import run_here
from tests.conformance.registered import HYBRID, SQLITE
from tests.helpers import HEAVY, record
from tests.history.stores import SQL, opened

NOW = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
DAY = datetime(2026, 11, 3, tzinfo=timezone.utc)
LATER = timedelta(hours=2)


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield found
    found.close()


def ended(number: int, **given: Any) -> TaskRecord:
    return record(f"task-{number:04}", **{"name": "shop.pay", "done_at": DAY + timedelta(minutes=number), **given})


def archive_of(store: Store, folder: Path) -> Archive:
    return Archive(manifest_of(store), open_place(str(folder)))


def put(store: Store, folder: Path, ones: list[TaskRecord], name: str) -> int:
    """Archive some tasks in a file with the name of a file of this database."""
    path = f"{manifest_of(store).homes()[0]}/2026-11/{name}.parquet"
    return put_file(store, open_place(str(folder)), ones, path)


def there(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.parquet"))


def expire_now(store: Store, folder: Path, **options: Any) -> Any:
    holds = Holds(store, codec_of({}))
    return expire(archive_of(store, folder), holds, store.ability(Holding), NOW, **options)


def read(store: Store, folder: Path, ones: list[TaskRecord]) -> dict[str, TaskRecord]:
    return archive_of(store, folder).read([one.task_id for one in ones])


# -- expired files


def test_file_is_deleted_when_its_last_result_has_expired(store: Store, tmp_path: Path) -> None:
    past, future = NOW - timedelta(days=1), NOW + timedelta(days=1)
    put(store, tmp_path, [ended(1, expires_at=past), ended(2, expires_at=NOW)], "past")
    mixed = [ended(3, expires_at=past), ended(4, expires_at=future)]
    put(store, tmp_path, mixed, "mixed")
    put(store, tmp_path, [ended(5, expires_at=None), ended(6, expires_at=past)], "for-ever")
    dry = expire_now(store, tmp_path, is_dry=True)
    assert (dry.files, dry.rows) == (1, 2)
    assert there(tmp_path) == ["for-ever", "mixed", "past"]
    done = expire_now(store, tmp_path)
    assert (done.files, done.rows, done.held) == (1, 2, 0)
    assert there(tmp_path) == ["for-ever", "mixed"]
    assert read(store, tmp_path, [ended(1), ended(2)]) == {}
    assert set(read(store, tmp_path, mixed)) == {"task-0003", "task-0004"}
    assert expire_now(store, tmp_path).files == 0


def test_file_with_a_held_result_stays_until_the_hold_is_released(store: Store, tmp_path: Path) -> None:
    past = NOW - timedelta(days=1)
    put(store, tmp_path, [ended(number, expires_at=past) for number in range(3)], "held")
    put(store, tmp_path, [ended(9, expires_at=past, name="shop.ship")], "free")
    hold = place_hold(store, "id:task-0001", Clock(NOW, timezone.utc), reason="audit", by="me")
    done = expire_now(store, tmp_path)
    assert (done.files, done.held) == (1, 1)
    assert there(tmp_path) == ["held"]
    holding: Any = store.ability(Holding)
    holding.release_hold(hold.id, "me", NOW)
    assert expire_now(store, tmp_path).files == 1
    assert there(tmp_path) == []


class HoldsWhenMarking:
    """A manifest in which a hold is placed after it was decided that a file is deleted, and before it is marked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(manifest_of(self._store), name)

    def mark_file(self, *given: Any, **named: Any) -> bool:
        place_hold(self._store, "task:shop.*", Clock(NOW, timezone.utc), reason="audit", by="me")
        return manifest_of(self._store).mark_file(*given, **named)


def test_hold_that_is_placed_after_a_file_was_looked_at_keeps_it(store: Store, tmp_path: Path) -> None:
    one = ended(1, expires_at=NOW - timedelta(days=1))
    put(store, tmp_path, [one], "held")
    archive = archive_of(store, tmp_path)
    archive.manifest = HoldsWhenMarking(store)
    done = expire(archive, Holds(store, codec_of({})), store.ability(Holding), NOW)
    assert (done.files, done.held) == (0, 1)
    assert there(tmp_path) == ["held"]
    assert set(archive.read([one.task_id])) == {one.task_id}


def test_hold_on_a_value_does_not_keep_a_file_whose_result_was_in_a_blob(sqlite: Store, tmp_path: Path) -> None:
    path = f"{manifest_of(sqlite).homes()[0]}/2026-11/blob.parquet"
    past = NOW - timedelta(days=1)
    small = replace(ended(1, expires_at=past), result=codec_of({}).encode({"total": 4}, task_id="task-0001"))
    reference = Payload(b"blob", REFERENCE)
    place = open_place(str(tmp_path))
    put_file(sqlite, place, [small], path, references={small.task_id: reference})
    place_hold(sqlite, "result.total:>5", Clock(NOW, timezone.utc), reason="audit", by="me")
    assert expire_now(sqlite, tmp_path).files == 1


def test_hold_on_a_forgotten_result_does_not_keep_its_file(sqlite: Store, tmp_path: Path) -> None:
    past = NOW - timedelta(days=1)
    put(sqlite, tmp_path, [ended(number, expires_at=past) for number in range(2)], "held")
    archive_of(sqlite, tmp_path).forget(["task-0001"])
    place_hold(sqlite, "id:task-0001", Clock(NOW, timezone.utc), reason="audit", by="me")
    assert expire_now(sqlite, tmp_path).files == 1


def test_file_that_cannot_be_read_stays_if_there_are_holds(sqlite: Store, tmp_path: Path) -> None:
    put(sqlite, tmp_path, [ended(1, expires_at=NOW - timedelta(days=1))], "damaged")
    (path,) = tmp_path.rglob("*.parquet")
    path.write_bytes(b"PAR1 nothing PAR1")
    place_hold(sqlite, "id:other", Clock(NOW, timezone.utc), reason="audit", by="me")
    done = expire_now(sqlite, tmp_path)
    assert (done.files, done.unread) == (0, 1)
    assert isinstance(done.problem, ArchiveDamaged)
    assert path.exists()


def test_file_without_a_result_that_counts_is_deleted(sqlite: Store, tmp_path: Path) -> None:
    put(sqlite, tmp_path, [ended(1)], "void")
    archive_of(sqlite, tmp_path).forget(["task-0001"])
    assert expire_now(sqlite, tmp_path).files == 1
    assert there(tmp_path) == []


def test_deleted_file_that_a_killed_run_left_is_deleted_later(sqlite: Store, tmp_path: Path) -> None:
    number = put(sqlite, tmp_path, [ended(1, expires_at=NOW)], "left")
    manifest = manifest_of(sqlite)
    manifest.mark_file(number, "deleted", NOW)
    place = open_place(str(tmp_path))
    assert delete_remains(manifest, place, NOW + timedelta(minutes=59)) == 0
    assert delete_remains(manifest, place, NOW + LATER) == 1
    assert there(tmp_path) == []
    assert delete_remains(manifest, place, NOW + LATER) == 0


def test_file_at_another_place_stays(sqlite: Store, tmp_path: Path) -> None:
    put(sqlite, tmp_path / "one", [ended(1, expires_at=NOW)], "past")
    done = expire_now(sqlite, tmp_path / "two")
    assert (done.files, done.elsewhere) == (0, 1)


def test_worker_deletes_expired_files(sqlite: Store, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    put(sqlite, folder, [ended(1, expires_at=NOW - timedelta(days=900))], "past")
    number = put(sqlite, folder, [ended(2)], "replaced")
    manifest_of(sqlite).mark_file(number, "deleted", NOW - timedelta(days=900))
    app = app_of(sqlite.url, str(folder))
    (service,) = (each for each in app.backend._services.services if isinstance(each, ArchiveExpiry))
    assert service.run_once() == 1
    assert there(folder) == []
    jobs: Any = sqlite
    assert jobs.jobs()["archive expiry"].note == "Deleted 1 files with 1 results."
    assert not any(isinstance(each, ArchiveExpiry) for each in app_of(sqlite.url).backend._services.services)


# -- small files


def fill(store: Store, folder: Path, count: int = 6) -> list[TaskRecord]:
    """Archive tasks of one day in several files whose times overlap."""
    ones = [ended(number, value={"number": number}) for number in range(10 * count)]
    for start in range(count):
        put(store, folder, ones[start::count], f"small-{start}")
    return ones


def test_small_files_of_a_day_become_one(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", 7)
    ones = fill(store, tmp_path)
    put(store, tmp_path, [other := ended(5_000)], "other-day")
    archive = archive_of(store, tmp_path)
    archive.forget([ones[3].task_id])
    before = archive.read([one.task_id for one in ones])
    dry = compact(archive, store, is_dry=True)
    assert (dry.files, dry.into, dry.rows) == (6, 1, 59)
    done = compact(archive, store)
    assert (done.files, done.into, done.rows) == (6, 1, 59)
    assert archive.read([one.task_id for one in ones]) == before
    assert archive_of(store, tmp_path).read([one.task_id for one in (*ones, other)]) == {**before, other.task_id: other}
    found = {file.path.rpartition("/")[2]: file for file in manifest_of(store).files()}
    assert len(found) == 2
    (merged,) = [file for name, file in found.items() if name != "other-day.parquet"]
    assert (merged.rows, merged.valid, merged.void) == (59, 59, frozenset())
    assert (merged.first_done, merged.last_done) == (ones[0].done_at, ones[-1].done_at)
    # clients may still read the small ones
    assert len(there(tmp_path)) == 8
    now = datetime.now(timezone.utc)
    assert delete_remains(manifest_of(store), archive.place, now + LATER) == 6
    assert len(there(tmp_path)) == 2
    assert compact(archive, store).files == 0
    app = app_of(store.url, str(tmp_path))
    assert app.AsyncResult(ones[17].task_id).get(timeout=5) == {"number": 17}


def test_few_files_and_files_that_expire_at_other_times_stay(sqlite: Store, tmp_path: Path) -> None:
    for number in range(4):
        put(sqlite, tmp_path, [ended(number)], f"for-ever-{number}")
    for number in range(6):
        put(sqlite, tmp_path, [ended(10 + number, expires_at=NOW + timedelta(days=30 * number))], f"until-{number}")
    archive = archive_of(sqlite, tmp_path)
    assert small_files(archive) == []
    put(sqlite, tmp_path, [ended(5)], "for-ever-5")
    assert [len(group) for group in small_files(archive)] == [5]
    assert compact(archive, sqlite).files == 5
    assert [file.expires_at for file in manifest_of(sqlite).files()].count(None) == 1


def test_references_to_blobs_survive(sqlite: Store, tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    reference = Payload(b'{"blob":"x"}', "application/vnd.rootcellar.blob")
    for number in range(5):
        sqlite.put(ended(number, result=reference))
        path = f"{manifest_of(sqlite).homes()[0]}/2026-11/{number}.parquet"
        with place.write(path) as sink:
            writer = files.FileWriter(sink)
            writer.add(ended(number), reference, expires_at=NOW)
            written = writer.close()
        file = NewFile(
            location=place.where,
            path=path,
            day=DAY.date(),
            **{name: getattr(written, name) for name in ("rows", "bytes", "sha256", "first_done", "last_done")},
            expires_at=NOW,
        )
        from rootcellar.stores.archiving import Copy

        manifest_of(sqlite).commit_file(file, lambda number=number: [Copy(0, ended(number, result=reference))])
    archive = archive_of(sqlite, tmp_path)
    assert compact(archive, sqlite).files == 5
    (merged,) = manifest_of(sqlite).files()
    with archive.opened(merged) as reader:
        rows = list(reader.read())
    assert [row.reference for row in rows] == [reference] * 5
    assert {row.record.task_id: row.record for row in rows} == {f"task-{n:04}": ended(n) for n in range(5)}
    assert merged.expires_at == NOW


def test_result_that_is_forgotten_meanwhile_is_void_in_the_new_file(store: Store, tmp_path: Path) -> None:
    ones = fill(store, tmp_path, 5)
    archive = archive_of(store, tmp_path)
    manifest: Any = manifest_of(store)
    merge = manifest.merge_files

    def forget_first(*args: Any) -> Any:
        archive_of(store, tmp_path).forget([ones[7].task_id, ones[8].task_id])
        return merge(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "merge_files", forget_first)
        compact(Archive(manifest, archive.place), store)
    (merged,) = manifest_of(store).files()
    assert (merged.rows, merged.valid) == (50, 48)
    assert set(archive_of(store, tmp_path).read([one.task_id for one in ones])) == {
        one.task_id for one in ones if one not in ones[7:9]
    }


def test_merge_is_repeated_and_raced_without_harm(store: Store, tmp_path: Path) -> None:
    ones = fill(store, tmp_path, 5)
    manifest = manifest_of(store)
    sources = manifest.files()
    moved = [Moved(row, one.task_id, manifest.places([one.task_id])[one.task_id][0]) for row, one in enumerate(ones)]
    new = NewFile(
        location=str(tmp_path),
        path="new.parquet",
        day=DAY.date(),
        rows=50,
        bytes=1,
        sha256="0" * 64,
        first_done=None,
        last_done=None,
        expires_at=None,
    )
    numbers = [file.id for file in sources]
    first = manifest.merge_files(new, numbers, lambda: moved)
    assert (first.removed, first.void) == (0, 0)
    assert manifest.merge_files(new, numbers, lambda: moved) == first
    # another run, which was slower
    late = manifest.merge_files(replace(new, path="late.parquet"), numbers, lambda: moved)
    assert (late.file, late.void) == (None, 50)
    assert [file.path for file in manifest.files()] == ["new.parquet"]
    assert manifest.places([ones[4].task_id]) == {ones[4].task_id: [Place(first.file or 0, 4)]}


def test_results_are_read_while_files_are_joined_and_expire(store: Store, tmp_path: Path) -> None:
    ones = fill(store, tmp_path, 5)
    gone = [ended(1_000 + number, expires_at=NOW - timedelta(days=1)) for number in range(5)]
    put(store, tmp_path, gone, "gone")
    archive = archive_of(store, tmp_path)
    wrong: list[Any] = []
    is_over = threading.Event()

    def read_all() -> None:
        own = archive_of(store, tmp_path)
        while not is_over.is_set():
            for one in ones[::7]:
                if own.read([one.task_id]).get(one.task_id) != one:
                    wrong.append(one.task_id)
            # an expired one is there or not, and is never an error
            if own.read([gone[0].task_id]).get(gone[0].task_id, gone[0]) != gone[0]:
                wrong.append("expired")

    reader = threading.Thread(target=read_all)
    reader.start()
    try:
        assert compact(archive, store).files == 5
        assert expire_now(store, tmp_path).files == 1
        delete_remains(manifest_of(store), archive.place, datetime.now(timezone.utc) + LATER)
    finally:
        is_over.set()
        reader.join()
    assert wrong == []


class Moving:
    """A manifest whose answer is outdated when it arrives."""

    def __init__(self, inner: Any, change: Callable[[], object]) -> None:
        self._inner = inner
        self._change: Callable[[], object] | None = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def places(self, task_ids: Any) -> Any:
        found = self._inner.places(task_ids)
        if (change := self._change) is not None:
            self._change = None
            change()
        return found


def test_file_that_is_replaced_while_it_is_looked_up_is_looked_up_again(store: Store, tmp_path: Path) -> None:
    ones = fill(store, tmp_path, 5)
    other = archive_of(store, tmp_path)

    def replace_files() -> None:
        compact(other, store)
        delete_remains(other.manifest, other.place, datetime.now(timezone.utc) + LATER)

    manifest: Any = Moving(manifest_of(store), replace_files)
    assert Archive(manifest, other.place).read([ones[3].task_id]) == {ones[3].task_id: ones[3]}
    put(store, tmp_path, [gone := ended(900, expires_at=NOW)], "gone")
    manifest = Moving(manifest_of(store), lambda: expire_now(store, tmp_path))
    assert Archive(manifest, other.place).read([gone.task_id]) == {}


#: compacts, and is killed at a step
KILLED = """
import os, signal, sys
from rootcellar.archive import compacting
from rootcellar.archive.places import open_place
from rootcellar.archive.reading import Archive
from rootcellar.stores import open_store
from rootcellar.stores.archiving import Manifest

url, folder, step = sys.argv[1:]
store = open_store(url)
manifest = store.ability(Manifest)

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

if step == "while it is written":
    compacting.FileWriter.close = die
elif step == "written":
    type(manifest).merge_files = die
elif step == "in the transaction":
    type(manifest)._add_entries = die
elif step == "before the commit":
    count, original = [0], type(manifest)._count_of
    def counted(self, connection, statement, params):
        if statement == "drop_entries_of_file":
            count[0] += 1
            if count[0] == 5:
                die()
        return original(self, connection, statement, params)
    type(manifest)._count_of = counted
else:
    compacting.write_copy = die
compacting.compact(Archive(manifest, open_place(folder)), store)
"""


STEPS = ["while it is written", "written", "in the transaction", "before the commit", "committed"]
#: the transaction is that of the server
KILLS = [(SQLITE, step) for step in STEPS] + [
    (one, step) for one in SQL for step in (STEPS if HEAVY else STEPS[3:4]) if one is not SQLITE
]


@pytest.mark.parametrize(("store", "step"), KILLS, indirect=["store"], ids=lambda one: getattr(one, "name", one))
def test_killed_compaction_loses_nothing_and_leaves_nothing(store: Store, tmp_path: Path, step: str) -> None:
    ones = fill(store, tmp_path, 5)
    url = store.url
    ended_run = subprocess.run(
        [sys.executable, "-c", KILLED, url, str(tmp_path), step], cwd=os.getcwd(), capture_output=True, check=False
    )
    assert ended_run.returncode == -signal.SIGKILL, ended_run.stderr.decode()
    archive = archive_of(store, tmp_path)
    assert archive.read([one.task_id for one in ones]) == {one.task_id: one for one in ones}
    assert len(manifest_of(store).files()) == (1 if step == "committed" else 5)
    compact(archive, store)
    assert archive_of(store, tmp_path).read([one.task_id for one in ones]) == {one.task_id: one for one in ones}
    later = datetime.now(timezone.utc) + timedelta(days=2)
    delete_remains(manifest_of(store), archive.place, later)
    clear_up(manifest_of(store), archive.place, now=later.timestamp())
    assert len(there(tmp_path)) == len(manifest_of(store).files()) == 1
    assert archive_of(store, tmp_path).read([one.task_id for one in ones]) == {one.task_id: one for one in ones}


# -- commands


def test_commands_list_expire_and_compact(sqlite: Store, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    sqlite.put(ended(8_000))
    assert "is archived yet" in run_here("archive", "list", "-b", sqlite.url).out
    fill(sqlite, folder)
    put(sqlite, folder, [ended(9_000, expires_at=NOW - timedelta(days=1))], "past")
    shown = run_here("archive", "list", "-b", sqlite.url)
    assert shown.status == 0, shown.err
    assert "7 files, 61 results" in shown.out
    found = json.loads(run_here("archive", "list", "--json", "-b", sqlite.url).out)
    assert [each["results"] for each in found] == [10] * 6 + [1]
    assert found[-1]["expires_at"] == "2026-11-19T12:00:00+00:00"
    place = ("--at", str(folder), "-b", sqlite.url)
    dry = run_here("archive", "expire", "--dry-run", "--json", *place)
    assert json.loads(dry.out)["files"] == 1
    assert "past" in there(folder)
    done = run_here("archive", "expire", "--yes", *place)
    assert (done.status, "1 file deleted" in done.out) == (0, True)
    assert "past" not in there(folder)
    assert "6 files would be joined into 1" in run_here("archive", "compact", "--dry-run", *place).out
    assert run_here("archive", "compact", *place).status == 2
    assert "6 files joined into 1: 60 results" in run_here("archive", "compact", "--yes", *place).out
    assert "more than four small files" in run_here("archive", "compact", "--yes", *place).out


def test_file_that_is_replaced_while_it_is_verified_stays_deleted(sqlite: Store, tmp_path: Path) -> None:
    ones = fill(sqlite, tmp_path, 5)
    archive = archive_of(sqlite, tmp_path)
    # after the list of files was read, and the first of them
    verifying = Verifying(
        archive.manifest, archive.place, is_full=True, now=NOW, on_file=lambda rows: compact(archive, sqlite)
    )
    found = verifying.run()
    assert (found.problems, found.files) == ([], 1)
    assert sorted(file.state for file in archive.manifest.files(with_deleted=True)) == ["deleted"] * 5 + ["written"]
    assert set(read(sqlite, tmp_path, ones)) == {one.task_id for one in ones}


def test_joined_file_that_another_run_may_delete_is_not_committed(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = fill(sqlite, tmp_path, 5)
    before = there(tmp_path)
    monkeypatch.setattr(remains, "GRACE", -1.0)
    with pytest.raises(ArchiveFileMissing, match="nothing was changed"):
        compact(archive_of(sqlite, tmp_path), sqlite)
    assert there(tmp_path) == before
    assert set(read(sqlite, tmp_path, ones)) == {one.task_id for one in ones}
