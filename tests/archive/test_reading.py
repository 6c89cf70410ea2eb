"""Archived results are read by their ids: through every SQL store, in few requests, and with clear errors."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TimeoutError as NotReady
from celery.result import GroupResult

import rootcellar
from rootcellar.archive import files
from rootcellar.archive.places import open_place
from rootcellar.archive.reading import OPEN_FILES, Archive
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, ConfigurationError, StoreUnavailable
from rootcellar.records import Payload
from rootcellar.stores import Store, open_store
from rootcellar.stores.archiving import Place, Restoring
from rootcellar.testing.helpers import full_record
from tests.archive.archives import app_of, archived, manifest_of, put_file
from tests.archive.object_store import ObjectStore, object_store
from tests.archive.runs import archive
from tests.conformance.registered import HYBRID, REDIS
from tests.helpers import PATIENCE, new_id, now, record, wait_until
from tests.history.stores import SQL, opened


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield found
    found.close()


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as found:
        yield found


class Counted:
    """A manifest that counts how often it is asked where results are."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.asked: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def places(self, task_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        self.asked.append(sorted(task_ids))
        return self._inner.places(task_ids)  # type: ignore[no-any-return]


def counting(app: Any) -> Counted:
    """Count how often the archive of an app asks its manifest."""
    archive: Archive = app.backend._archive
    counted = Counted(archive.manifest)
    archive.manifest = counted  # type: ignore[assignment]
    return counted


# -- through Celery


def test_archived_result_is_read_as_before(store: Store, tmp_path: Path) -> None:
    failure = {"exc_type": "KeyError", "exc_module": "builtins", "exc_message": ["k"]}
    ones = [
        record(value={"a": [1, "ü", None]}),
        record(state="FAILURE", value=failure, traceback="Traceback …"),
        full_record(state="SUCCESS"),
    ]
    archived(store, str(tmp_path), ones)
    app = app_of(store.url, str(tmp_path))
    first, second, _ = (app.AsyncResult(one.task_id) for one in ones)
    assert first.get(timeout=5) == {"a": [1, "ü", None]}
    assert (first.state, first.ready(), first.date_done) == ("SUCCESS", True, ones[0].done_at)
    assert second.state == "FAILURE"
    assert second.traceback == "Traceback …"
    with pytest.raises(KeyError, match="k"):
        second.get(timeout=5)
    assert app.backend.read_archived([one.task_id for one in ones]) == {
        one.task_id: replace(one, result=one.result) for one in ones
    }


def test_process_without_an_archive_does_not_find_it(store: Store, tmp_path: Path) -> None:
    archived(store, str(tmp_path), [one := record()])
    app = app_of(store.url)
    assert app.AsyncResult(one.task_id).state == "PENDING"
    assert app.backend.read_archived is None


def test_result_that_is_stored_again_wins(store: Store, tmp_path: Path) -> None:
    archived(store, str(tmp_path), [old := record(value="old")])
    store.put(replace(old, result=Payload(b'"new"')))
    app = app_of(store.url, str(tmp_path))
    assert app.AsyncResult(old.task_id).get(timeout=5) == "new"
    assert app.backend.waiter.fetch([old.task_id])[old.task_id].result == Payload(b'"new"')


def test_forgotten_archived_result_is_gone(store: Store, tmp_path: Path) -> None:
    first, second = record(), record()
    archived(store, str(tmp_path), [first, second])
    archived(store, str(tmp_path), [replace(first, worker="again")])
    app = app_of(store.url, str(tmp_path))
    app.AsyncResult(first.task_id).forget()
    app.AsyncResult(new_id()).forget()
    assert app.AsyncResult(first.task_id).state == "PENDING"
    assert app.AsyncResult(second.task_id).get(timeout=5) == 42
    assert sum(len(file.void) for file in manifest_of(store).files()) == 2


def test_group_of_live_and_archived_results_is_joined(store: Store, tmp_path: Path) -> None:
    ones = [record(value=number) for number in range(6)]
    archived(store, str(tmp_path), ones[:2])
    archived(store, str(tmp_path), ones[2:4])
    for one in ones[4:]:
        store.put(one)
    app = app_of(store.url, str(tmp_path))
    counted = counting(app)
    group = GroupResult(new_id(), [app.AsyncResult(one.task_id) for one in ones], app=app)
    assert group.join_native(timeout=5) == [0, 1, 2, 3, 4, 5]
    assert len(counted.asked) == 1
    group = GroupResult(new_id(), [app.AsyncResult(one.task_id) for one in ones], app=app)
    assert group.successful()
    assert app.backend.task_result_exists(ones[0].task_id)
    assert not app.backend.task_result_exists(new_id())


def test_waiting_client_asks_the_archive_once(store: Store, tmp_path: Path) -> None:
    archived(store, str(tmp_path), [record()])
    app = app_of(store.url, str(tmp_path))
    counted = counting(app)
    pending = new_id()
    with pytest.raises(NotReady):
        app.AsyncResult(pending).get(timeout=0.3)
    assert counted.asked == [[pending]]
    done = threading.Timer(0.1, lambda: store.put(record(pending, value="late")))
    done.start()
    assert app.AsyncResult(pending).get(timeout=PATIENCE) == "late"
    done.join()
    assert counted.asked == [[pending]] * 2


def test_archived_results_are_awaited_on_asyncio(store: Store, tmp_path: Path) -> None:
    ones = [record(value=number) for number in range(3)]
    archived(store, str(tmp_path), ones)
    store.put(live := record(value="live"))
    app = app_of(store.url, str(tmp_path))
    ids = [one.task_id for one in (*ones, live)]

    async def read() -> tuple[Any, list[Any], dict[str, Any], list[str]]:
        single = await rootcellar.result(ids[0], timeout=PATIENCE, app=app)
        group = GroupResult(new_id(), [app.AsyncResult(one) for one in ids], app=app)
        together = await rootcellar.result(group, timeout=PATIENCE)
        pairs = {pair[0]: pair[1] async for pair in rootcellar.as_completed(ids, PATIENCE, app=app)}
        states = [change.state async for change in rootcellar.watch(ids[1], PATIENCE, app=app)]
        return single, together, pairs, states

    single, together, pairs, states = asyncio.run(read())
    assert single == 0
    assert together == [0, 1, 2, "live"]
    assert pairs == dict(zip(ids, [0, 1, 2, "live"], strict=True))
    assert states == ["SUCCESS"]
    assert dict(rootcellar.as_completed(ids, PATIENCE, app=app)) == pairs


def test_missing_id_costs_one_look_into_the_index(sqlite: Store, tmp_path: Path, objects: ObjectStore) -> None:
    archived(sqlite, objects.url("missing"), [record()])
    app = app_of(sqlite.url, objects.url("missing"))
    counted = counting(app)
    missing = app.AsyncResult(new_id())
    with objects.counted() as requests:
        assert missing.state == "PENDING"
    assert counted.asked == [[missing.id]]
    assert requests == []


def test_store_without_a_manifest_refuses_an_archive(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with opened(REDIS, request) as store, pytest.raises(ConfigurationError, match="no manifest") as caught:
        app_of(store.url, str(tmp_path)).backend  # noqa: B018
    assert caught.value.where == "result_archive"
    assert "show ID --archive" in caught.value.remedy


def test_encrypted_result_is_decrypted(sqlite: Store, tmp_path: Path) -> None:
    key = rootcellar.payloads.make_key()
    app = app_of(sqlite.url, str(tmp_path), result_encryption_keys=f"k1:{key}" if ":" not in key else key)
    app.backend.store_result(task_id := new_id(), {"secret": "s3cret"}, "SUCCESS")
    found = sqlite.get(task_id)
    assert found is not None
    put_file(sqlite, open_place(str(tmp_path)), [found], "a.parquet", is_stored=True)
    assert sqlite.get(task_id) is None
    assert app.AsyncResult(task_id).get(timeout=5) == {"secret": "s3cret"}
    assert b"s3cret" not in (tmp_path / "a.parquet").read_bytes()


def test_values_of_every_kind_are_read_after_a_run(store: Store, tmp_path: Path) -> None:
    conf = {
        "result_blob_url": str(tmp_path / "blobs"),
        "result_max_size": 1_000,
        "result_too_large": "spill",
        "result_encryption_keys": rootcellar.payloads.make_key(),
        "result_compression": "zlib",
    }
    app = app_of(store.url, str(tmp_path / "files"), **conf)
    values = {"large": "x" * 5_000 + str(list(range(2_000))), "small": {"a": 1}, "none": None, "text": "ü\x00\ud800"}
    for task_id, value in values.items():
        app.backend.store_result(task_id, value, "SUCCESS")
    app.backend.store_result("failed", ValueError("no"), "FAILURE", traceback="Traceback …")
    before = app.backend.store.get_many(values)
    assert archive(app.backend.store, tmp_path / "files", codec=app.backend.codec).archived == 5
    # only a client of another process: the cache of a hybrid keeps copies
    direct = app_of(manifest_of(store).url, str(tmp_path / "files"), **conf)  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "blobs")
    assert {task_id: direct.AsyncResult(task_id).get(timeout=PATIENCE) for task_id in values} == values
    with pytest.raises(ValueError, match="no"):
        direct.AsyncResult("failed").get(timeout=PATIENCE)
    assert direct.backend.store.get_many(values) == {}
    assert len(before) == 4


# -- requests


@pytest.mark.parametrize("rows_in_a_group", [2, 200])
def test_archived_result_is_read_in_three_requests(
    sqlite: Store, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, rows_in_a_group: int
) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", rows_in_a_group)
    ones = [record(value=number) for number in range(400)]
    url = objects.url("requests")
    archived(sqlite, url, ones)
    app = app_of(sqlite.url, url)
    with objects.counted() as requests:
        assert app.AsyncResult(ones[123].task_id).get(timeout=PATIENCE) == 123
    assert [method for method, _, _ in requests] == ["GET"] * len(requests)
    assert all(name.endswith(".parquet") and reach for _, name, reach in requests)
    # the footer of a file with many row groups is more than one request
    assert len(requests) == (3 if rows_in_a_group == 2 else 2)
    with objects.counted() as again:
        assert app.AsyncResult(ones[399].task_id).state == "SUCCESS"
    assert len(again) == 1


def test_many_results_of_a_row_group_are_one_request(sqlite: Store, objects: ObjectStore) -> None:
    ones = [record(value=number) for number in range(50)]
    archived(sqlite, objects.url("many"), ones)
    app = app_of(sqlite.url, objects.url("many"))
    assert app.AsyncResult(ones[0].task_id).state == "SUCCESS"
    with objects.counted() as requests:
        group = GroupResult(new_id(), [app.AsyncResult(one.task_id) for one in ones], app=app)
        assert group.join_native(timeout=PATIENCE) == list(range(50))
    assert len(requests) == 1


def test_few_files_stay_open(sqlite: Store, tmp_path: Path) -> None:
    ones = [record(value=number) for number in range(OPEN_FILES + 4)]
    for one in ones:
        archived(sqlite, str(tmp_path), [one])
    archive = Archive(manifest_of(sqlite), open_place(str(tmp_path)))
    for one in ones:
        assert archive.read([one.task_id])[one.task_id] == one
    assert len(archive._files.get()._readers) == OPEN_FILES
    assert archive.read([one.task_id for one in ones]) == {one.task_id: one for one in ones}


# -- errors


def test_missing_file_names_the_task_and_the_file(sqlite: Store, tmp_path: Path) -> None:
    one = record()
    put_file(sqlite, open_place(str(tmp_path)), [one], "day/a.parquet")
    (tmp_path / "day" / "a.parquet").unlink()
    app = app_of(sqlite.url, str(tmp_path))
    with pytest.raises(ArchiveFileMissing, match=rf"{one.task_id}.*day/a\.parquet.*does not exist") as caught:
        app.AsyncResult(one.task_id).get(timeout=5)
    assert caught.value.what.count("the file") == 1
    assert caught.value.where == str(tmp_path)
    assert "backup" in caught.value.remedy
    assert not caught.value.retryable


def test_result_that_is_restored_between_the_two_looks_is_found(sqlite: Store, tmp_path: Path) -> None:
    one = record()
    put_file(sqlite, open_place(str(tmp_path)), [one], "a.parquet")
    app = app_of(sqlite.url, str(tmp_path))
    manifest = manifest_of(sqlite)
    places = manifest.places([one.task_id])[one.task_id]
    read = app.backend.read_archived

    def restored_before(task_ids: Any) -> Any:
        manifest.restore([Restoring(places[0], one)])
        return read(task_ids)

    app.backend.read_archived = restored_before
    assert app.AsyncResult(one.task_id).state == one.state
    sqlite.delete([one.task_id])
    assert not app.backend.task_result_exists(one.task_id)


def test_missing_file_is_an_error_of_its_tasks_only_if_many_are_read(sqlite: Store, tmp_path: Path) -> None:
    ones = [record(value=number) for number in range(3)]
    for one, name in zip(ones, "abc", strict=True):
        put_file(sqlite, open_place(str(tmp_path)), [one], f"{name}.parquet")
    (tmp_path / "b.parquet").unlink()
    (tmp_path / "c.parquet").chmod(0o600)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing PAR1")
    app = app_of(sqlite.url, str(tmp_path))
    ids = [one.task_id for one in ones]
    metas = dict(app.backend.get_many(ids, timeout=5))
    assert [metas[each]["status"] for each in ids] == ["SUCCESS", "FAILURE", "FAILURE"]
    assert [type(metas[each]["result"]) for each in ids] == [int, ArchiveFileMissing, ArchiveDamaged]
    assert "b.parquet" in str(metas[ids[1]]["result"])
    group = GroupResult("group", [app.AsyncResult(each) for each in ids], app=app)
    values = group.join_native(timeout=5, propagate=False)
    assert [type(value) for value in values] == [int, ArchiveFileMissing, ArchiveDamaged]


def test_file_at_another_place_is_named(sqlite: Store, tmp_path: Path) -> None:
    one = record()
    put_file(sqlite, open_place(str(tmp_path / "old")), [one], "a.parquet")
    app = app_of(sqlite.url, str(tmp_path / "new"))
    with pytest.raises(ArchiveFileMissing, match=f"it was written to {tmp_path}/old"):
        app.AsyncResult(one.task_id).get(timeout=5)


@pytest.mark.parametrize("damage", ["empty", "cut", "head", "noise", "footer"])
def test_damaged_file_is_an_error_of_its_tasks(sqlite: Store, tmp_path: Path, damage: str) -> None:
    ones, other = [record(value="x" * 50 + str(number)) for number in range(100)], record()
    put_file(sqlite, open_place(str(tmp_path)), ones, "a.parquet")
    put_file(sqlite, open_place(str(tmp_path)), [other], "b.parquet")
    path = tmp_path / "a.parquet"
    body = bytearray(path.read_bytes())
    if damage == "empty":
        body = bytearray()
    elif damage == "cut":
        body = body[: len(body) // 2]
    elif damage == "head":
        body[:2_000] = b"\xff" * 2_000
    elif damage == "noise":
        for place in range(5, len(body) - 500, 7):
            body[place] ^= 0x55
    else:
        body[-400:-20] = b"\x00" * 380
    path.chmod(0o600)
    path.write_bytes(bytes(body))
    app = app_of(sqlite.url, str(tmp_path))
    with pytest.raises(ArchiveDamaged, match=rf"{ones[7].task_id}.*a\.parquet"):
        app.AsyncResult(ones[7].task_id).get(timeout=5)
    assert app.AsyncResult(other.task_id).get(timeout=5) == 42


def test_object_store_that_is_down_is_retryable(sqlite: Store, objects: ObjectStore) -> None:
    archived(sqlite, objects.url("down"), [one := record()])
    archive = Archive(manifest_of(sqlite), open_place(objects.url("down")))
    objects.refuses = 503
    try:
        with pytest.raises(StoreUnavailable, match=one.task_id) as caught:
            archive.read([one.task_id])
    finally:
        objects.refuses = None
    assert caught.value.retryable
    assert archive.read([one.task_id]) == {one.task_id: one}


def test_client_waits_until_the_object_store_is_back(sqlite: Store, objects: ObjectStore) -> None:
    archived(sqlite, objects.url("back"), [one := record(value="kept")])
    result = app_of(sqlite.url, objects.url("back")).AsyncResult(one.task_id)
    assert result.backend is not None
    before = len(objects.requests)
    objects.refuses = 503

    def end_outage() -> None:
        wait_until(lambda: len(objects.requests) > before, "a request that is refused")
        objects.refuses = None

    ending = threading.Thread(target=end_outage)
    ending.start()
    try:
        assert result.get(timeout=PATIENCE) == "kept"
    finally:
        ending.join()
        objects.refuses = None


def test_archive_is_read_by_many_threads(sqlite: Store, tmp_path: Path) -> None:
    ones = [record(value=number) for number in range(40)]
    for start in range(0, 40, 10):
        archived(sqlite, str(tmp_path), ones[start : start + 10])
    archive = Archive(manifest_of(sqlite), open_place(str(tmp_path)))
    wrong: list[Any] = []

    def read(offset: int) -> None:
        for number in range(40):
            one = ones[(number + offset) % 40]
            if archive.read([one.task_id]) != {one.task_id: one}:
                wrong.append(one)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(0, 40, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_archive_that_was_read_is_read_after_a_fork(
    sqlite: Store, tmp_path: Path, objects: ObjectStore, kind: str
) -> None:
    url = str(tmp_path / "files") if kind == "folder" else objects.url("forked")
    archived(sqlite, url, ones := [record(value=number) for number in range(3)])
    archive = Archive(manifest_of(sqlite), open_place(url))
    assert set(archive.read([ones[0].task_id])) == {ones[0].task_id}
    child = os.fork()
    if child == 0:
        # a child that hangs is ended by the alarm
        signal.alarm(int(PATIENCE))
        is_right = archive.read([ones[1].task_id]) == {ones[1].task_id: ones[1]}
        os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert archive.read([ones[2].task_id]) == {ones[2].task_id: ones[2]}


def test_password_of_the_archive_is_hidden(sqlite: Store) -> None:
    app = app_of(sqlite.url, "memory://me:s3cret@bucket/archive")
    assert app.backend is not None
    assert "s3cret" not in json.dumps(app.conf.humanize()) + repr(app.conf.result_archive)
    assert str(app.conf.result_archive) == "memory://me:s3cret@bucket/archive"


def test_row_of_another_task_with_the_same_hash_is_not_returned(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rootcellar.stores.sql import archiving

    monkeypatch.setattr(archiving, "key_of_id", lambda task_id: 7)
    ones = [record(value=number) for number in range(3)]
    archived(sqlite, str(tmp_path), ones)
    archive = Archive(manifest_of(sqlite), open_place(str(tmp_path)))
    assert archive.read([one.task_id for one in ones]) == {one.task_id: one for one in ones}
    assert archive.read([new_id()]) == {}


def test_dates_before_the_epoch_and_long_ago_survive(sqlite: Store, tmp_path: Path) -> None:
    one = record(done_at=now() - timedelta(days=4_000), expires_at=now() + timedelta(days=40_000))
    archived(sqlite, str(tmp_path), [one])
    assert Archive(manifest_of(sqlite), open_place(str(tmp_path))).read([one.task_id]) == {one.task_id: one}
