"""`rootcellar export --exact` and `rootcellar import`: results travel in files of Parquet, byte for byte."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery

from rootcellar.migration import parquet
from rootcellar.migration.parquet import ParquetSource, parquet_endpoint
from rootcellar.migration.walking import walk_tasks
from rootcellar.records import TYPED_JSON, GroupRecord, Payload
from rootcellar.testing.memory import MemoryStore, forget_place
from tests.commands import run_here
from tests.helpers import new_id, now, record
from tests.migration.test_verify import whole

pytest.importorskip("pyarrow")


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


def fill(store: MemoryStore, count: int = 300) -> None:
    for number in range(count):
        store.put(whole(f"id-{number}", value=number))
    store.put(record("bytes", result=Payload(b"\x00\xff", "application/x-python-serialize", "binary", "zstd", "k1")))
    store.put(record("typed", result=Payload(b'{"a": 1}', TYPED_JSON)))
    store.put(record("odd \ud800", traceback="a\0b", state="FAILURE"))
    store.put(record("started", state="STARTED"))
    for number in range(3):
        store.put_group(GroupRecord(group_id=f"g{number}", result=Payload(b"[1]"), done_at=now()))


def test_exported_folder_is_imported_byte_for_byte(source: MemoryStore, target: MemoryStore, tmp_path: Path) -> None:
    fill(source)
    folder = str(tmp_path / "results")
    ended = run_here("export", "--exact", "-b", source.url, "-o", folder)
    assert ended.status == 0, ended.err
    assert sorted(each.name for each in (tmp_path / "results").iterdir()) == [
        "groups-000001.parquet",
        "results-000001.parquet",
    ]
    ended = run_here("import", folder, target.url)
    assert ended.status == 0, ended.err
    assert target.scan(limit=1_000) == source.scan(limit=1_000)
    assert target.get_group("g1") == source.get_group("g1")
    assert "304 tasks copied" in ended.out
    assert run_here("verify", source.url, target.url).status == 0
    # the folder is the same as the store that it was made of
    assert run_here("verify", folder, target.url).status == 0
    target.put(record("more"))
    target.delete(["id-7"])
    found = json.loads(run_here("verify", folder, target.url, "--json").out)
    assert {kind: each["ids"] for kind, each in found["differences"].items()} == {
        "missing": ["id-7"],
        "only in target": ["more"],
    }


def test_file_has_the_tasks_that_the_filter_finds(source: MemoryStore, target: MemoryStore, tmp_path: Path) -> None:
    fill(source)
    file = str(tmp_path / "some.parquet")
    ended = run_here("export", "--exact", "task:shop.pay result:<10", "-b", source.url, "-o", file)
    assert ended.status == 0, ended.err
    assert "A single file has no saved groups" in ended.err
    assert run_here("import", file, target.url, "result:<5", "task:shop.pay").status == 0
    assert {one.task_id for one in target.scan()} == {f"id-{number}" for number in range(5)}


def test_empty_export_can_be_imported(source: MemoryStore, target: MemoryStore, tmp_path: Path) -> None:
    for name in ("none.parquet", "none"):
        assert run_here("export", "--exact", "-b", source.url, "-o", str(tmp_path / name)).status == 0
        assert run_here("import", str(tmp_path / name), target.url).status == 0


def test_walk_goes_on_after_any_row_of_any_file(
    source: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.archive.files.GROUP_ROWS", 10)
    monkeypatch.setattr("rootcellar.archive.files.FILE_ROWS", 45)
    ones = [record(new_id(), value=number) for number in range(100)]
    end = parquet_endpoint(tmp_path / "many")
    for one in ones:
        end.to_write.copy([one])
    end.finish()
    assert len(list((tmp_path / "many").iterdir())) == 3
    read = ParquetSource(tmp_path / "many")
    assert read.count_roughly() == 100
    for limit in (1, 7, 100, 1_000):
        seen = []
        cursor: str | None = None
        while True:
            # a new reader each time, as after a kill
            rows, cursor = ParquetSource(tmp_path / "many").stream(cursor, limit)
            seen += rows
            if cursor is None:
                break
        assert seen == ones
    assert [one for batch in walk_tasks(read.stream) for one in batch.rows] == ones
    wanted = [ones[3].task_id, ones[77].task_id]
    assert dict(read.get_many([*wanted, "none"])) == {each.task_id: each for each in (ones[3], ones[77])}


def test_failed_export_leaves_nothing(source: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source)

    class Broken(Exception):
        pass

    def fail(self: object) -> None:
        raise Broken

    monkeypatch.setattr(parquet.ParquetTarget, "finish", fail)
    for name in ("results", "results.parquet"):
        with pytest.raises(Broken):
            run_here("export", "--exact", "-b", source.url, "-o", str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_refused(source: MemoryStore, target: MemoryStore, tmp_path: Path) -> None:
    fill(source, 1)
    readable = str(tmp_path / "readable.parquet")
    assert run_here("export", "-b", source.url, "-o", readable).status == 0
    exact = ["export", "--exact", "-b", source.url]
    for args, status, text in (
        (exact, 2, "give --output"),
        ([*exact, "-o", str(tmp_path)], 2, "exists"),
        ([*exact, "-o", str(tmp_path / "x"), "--format", "csv"], 2, "leave out --format"),
        (["import", readable, target.url], 1, "rootcellar export --exact"),
        (["import", str(tmp_path / "nothing"), target.url], 2, "does not exist"),
        (["import", str(Path(__file__).parent), target.url], 1, "no file of Parquet"),
    ):
        ended = run_here(*args)
        assert (ended.status, text in ended.err) == (status, True), ended


def test_expired_result_is_not_imported(source: MemoryStore, target: MemoryStore, tmp_path: Path) -> None:
    end = parquet_endpoint(tmp_path / "old.parquet")
    end.to_write.copy([record("gone", expires_at=now() - timedelta(days=1)), record("kept")])
    end.finish()
    assert run_here("import", str(tmp_path / "old.parquet"), target.url).status == 0
    assert {one.task_id for one in target.scan()} == {"kept"}


def test_result_in_a_blob_is_written_itself(
    target: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # results are stored as a worker does, so that a large one goes into a blob
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    app = Celery("shop", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(result_max_size=1_000, result_too_large="spill", result_blob_url=str(tmp_path / "blobs"))
    app.backend.store_result("large", "x" * 5_000, "SUCCESS")
    monkeypatch.setattr("tests.commands._IGNORED", re.compile("CELERY_.*"))
    monkeypatch.setenv("ROOTCELLAR_BLOB_URL", str(tmp_path / "blobs"))
    for command in (["export", "--exact", "-b", url, "-o"], ["copy", url]):
        folder = str(tmp_path / command[0])
        ended = run_here(*command, folder)
        assert ended.status == 0, ended.err
        assert run_here("import", folder, target.url).status == 0
        copied = target.get("large")
        assert copied is not None
        assert copied.result == Payload(json.dumps("x" * 5_000).encode())
        target.clear()
    # without the place of the blobs, the export says what is missing, and leaves nothing
    monkeypatch.delenv("ROOTCELLAR_BLOB_URL")
    ended = run_here("copy", url, str(tmp_path / "without"))
    assert ended.status == 1
    assert "ROOTCELLAR_BLOB_URL" in ended.err
    assert not list(tmp_path.glob("*without*"))


def test_copy_into_a_folder_that_exists_is_refused(source: MemoryStore, tmp_path: Path) -> None:
    fill(source, 1)
    assert run_here("copy", source.url, str(tmp_path / "a")).status == 0
    ended = run_here("copy", source.url, str(tmp_path / "a"))
    assert ended.status == 2
    assert "does not exist yet" in ended.err
