"""The commands `archive run`, `archive verify` and `restore`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.archive import remains, restoring
from rootcellar.archive.places import Folder, open_place
from rootcellar.archive.restoring import ArchivedTasks, RestoringRun
from rootcellar.archive.verifying import Verified, Verifying
from rootcellar.errors import StoreUnavailable
from rootcellar.history.filters import parse
from rootcellar.payloads import codec_of
from rootcellar.payloads.blobs.references import REFERENCE
from rootcellar.records import Payload, TaskRecord
from rootcellar.retention.policy import CALL, level_of
from rootcellar.stores import Store, open_store
from rootcellar.stores.archiving import VERIFIED, WRITTEN
from rootcellar.testing.helpers import full_record
from tests.archive.object_store import object_store
from tests.archive.runs import NOON, archive, archived, clock, durable, everything, fill, live, parquet
from tests.commands import run, run_here
from tests.conformance.registered import HYBRID, MYSQL, POSTGRES, REDIS, SQLITE
from tests.helpers import record
from tests.history.stores import opened

_SQL = [SQLITE, POSTGRES, MYSQL]


@pytest.fixture(params=[*_SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def sql(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(SQLITE, request) as found:
        yield found


def restore(
    store: Store,
    folder: Path,
    query: str,
    keep: timedelta = timedelta(days=7),
    archives: Callable[[TaskRecord], bool] = lambda record: True,
) -> Any:
    codec = codec_of({})
    found = RestoringRun(
        store,
        lambda: ArchivedTasks(store, Folder(folder), codec, parse(query), clock()),
        codec,
        keep,
        datetime.now(timezone.utc),
        archives,
    )
    return found.run()


def verify(store: Store, folder: Path, *, full: bool = False) -> Verified:
    return Verifying(durable(store), Folder(folder), is_full=full, now=datetime.now(timezone.utc)).run()


# -- restoring


def test_restored_rows_are_what_they_were(store: Any, tmp_path: Path) -> None:
    fill(store, 30)
    durable(store).put(full_record(state="SUCCESS", done_at=NOON, expires_at=None))
    before = live(store)
    archive(store, tmp_path)
    done = restore(store, tmp_path, "state:any")
    assert (done.restored, done.live) == (31, 0)
    now = datetime.now(timezone.utc)
    after = live(store)
    assert after.keys() == before.keys()
    for task_id, one in before.items():
        expires = after[task_id].expires_at
        assert replace(after[task_id], expires_at=one.expires_at) == one
        if one.expires_at is None:
            assert expires is None
        else:
            assert expires is not None
            assert expires >= max(one.expires_at, now + timedelta(days=6.9))
    assert not archived(store, tmp_path)


@pytest.mark.parametrize("sql", _SQL, indirect=True, ids=lambda one: one.name)
@pytest.mark.parametrize("days", [None, 1, 900])
def test_table_keeps_a_restored_result_that_no_rule_archives_as_long_as_the_archive_would(
    sql: Any, tmp_path: Path, days: int | None
) -> None:
    now = datetime.now(timezone.utc)
    one = record(done_at=NOON + timedelta(microseconds=123), expires_at=NOON)
    sql.put(one)
    until = None if days is None else now + timedelta(days=days)
    archive(sql, tmp_path, expiry=lambda record: until)
    assert restore(sql, tmp_path, "state:any", archives=lambda record: False).restored == 1
    found = sql.get(one.task_id)
    if until is None:
        assert found.expires_at is None
    else:
        assert found.expires_at >= max(until, now + timedelta(days=7))
        assert level_of(found) == CALL


def test_only_what_a_filter_finds_is_restored(store: Any, tmp_path: Path) -> None:
    records = fill(store, 24)
    before = live(store)
    archive(store, tmp_path)
    day = NOON.date() - timedelta(days=1)
    assert restore(store, tmp_path, f"task:shop.task1 done:{day} result.number:1").restored == 1
    assert live(store).keys() == {records[1].task_id}
    assert restore(store, tmp_path, f"id:{records[5].task_id} OR id:{records[6].task_id}").restored == 2
    assert restore(store, tmp_path, f"id:{records[7].task_id} state:failed").restored == 1
    assert restore(store, tmp_path, f"id:{records[8].task_id} state:failed").restored == 0
    assert everything(store, tmp_path).keys() == before.keys()


def test_files_outside_of_the_time_are_not_opened(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(sql, 9)
    archive(sql, tmp_path)
    opened_files: list[str] = []
    open_file = Folder.open

    def noted(self: Folder, name: str, size: int | None = None) -> Any:
        opened_files.append(name)
        return open_file(self, name, size)

    monkeypatch.setattr(Folder, "open", noted)
    day = NOON.date() - timedelta(days=1)
    restore(sql, tmp_path, f"done:{day}")
    assert len(opened_files) == 1
    assert day.isoformat() in opened_files[0]


def test_newer_live_row_wins(store: Any, tmp_path: Path) -> None:
    durable(store).put(old := record(state="FAILURE", done_at=NOON))
    archive(store, tmp_path)
    durable(store).put(new := replace(old, state="SUCCESS", result=Payload(b"2")))
    done = restore(store, tmp_path, "state:any")
    assert (done.restored, done.live) == (0, 1)
    assert durable(store).get(old.task_id) == new
    assert archived(store, tmp_path) == {old.task_id: old}


def test_result_of_a_blob_becomes_a_blob_again(sql: Any, tmp_path: Path) -> None:
    codec = codec_of(
        {"result_blob_url": str(tmp_path / "blobs"), "result_max_size": 1_000, "result_too_large": "spill"}
    )
    one = record(done_at=NOON)
    sql.put(replace(one, result=codec.encode("x" * 5_000, task_id=one.task_id)))
    archive(sql, tmp_path / "archive", codec=codec)
    assert codec.spiller is not None
    assert codec.spiller.sweep(sql, grace=-10.0) == 1
    restoring_run = RestoringRun(
        sql,
        lambda: ArchivedTasks(sql, Folder(tmp_path / "archive"), codec, parse("state:any"), clock()),
        codec,
        timedelta(days=1),
        datetime.now(timezone.utc),
        lambda record: True,
    )
    assert restoring_run.run().restored == 1
    assert codec.spiller.sweep(sql, grace=-10.0) == 0
    found = sql.get(one.task_id)
    assert found.result.content_type == REFERENCE
    assert codec.decode(found.result, task_id=one.task_id) == "x" * 5_000


def test_interrupted_restore_goes_on(sql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "BATCH", 4)
    fill(sql, 30)
    before = live(sql)
    archive(sql, tmp_path)
    manifest_restore, left = type(sql).restore, [3]

    def failing(self: Any, rows: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise SystemExit(1)
        return manifest_restore(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(type(sql), "restore", failing)
        with pytest.raises(SystemExit):
            restore(sql, tmp_path, "state:any")
    assert len(live(sql)) == 8
    assert everything(sql, tmp_path).keys() == before.keys()
    assert restore(sql, tmp_path, "state:any").restored == 22
    assert live(sql).keys() == before.keys()


def test_restored_rows_are_not_archived_again_at_once(sql: Any, tmp_path: Path) -> None:
    from rootcellar.retention.policy import Retention
    from rootcellar.retention.rules import read_rules

    retention = Retention(86_400.0, rules=read_rules([{"keep": "1d", "then": "archive"}]))
    fill(sql, 10)
    moved = archive(sql, tmp_path, retention=retention).archived
    assert moved
    assert restore(sql, tmp_path, "state:any").restored == moved
    assert archive(sql, tmp_path, retention=retention).archived == 0


# -- verifying


@pytest.mark.parametrize("full", [False, True])
def test_good_archive_is_verified(store: Any, tmp_path: Path, full: bool) -> None:
    fill(store, 30)
    archive(store, tmp_path)
    restore(store, tmp_path, "task:shop.task1")
    assert {file.state for file in durable(store).files()} == {WRITTEN}
    found = verify(store, tmp_path, full=full)
    assert (found.problems, found.files, found.rows, found.uncommitted) == ([], 3, 22, 0)
    assert {file.state for file in durable(store).files()} == {VERIFIED}


def test_damaged_missing_and_foreign_files_are_found(sql: Any, tmp_path: Path) -> None:
    fill(sql, 9)
    archive(sql, tmp_path)
    cut, changed, missing = parquet(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-1])
    body = bytearray(changed.read_bytes())
    body[200] ^= 1
    changed.write_bytes(bytes(body))
    missing.unlink()
    orphan, young = cut.with_name("orphan.parquet"), cut.with_name("young.parquet")
    for path in (orphan, young):
        path.write_bytes(b"PAR1")
    then = datetime.now(timezone.utc).timestamp() - remains.GRACE - 60
    os.utime(orphan, (then, then))
    found = verify(sql, tmp_path)
    problems = {Path(each.path).name: each.text for each in found.problems if "bytes" in each.text or each.text}
    assert problems.keys() == {cut.name, changed.name, missing.name, orphan.name}
    assert "SHA-256" in problems[changed.name]
    assert "does not exist" in problems[missing.name]
    assert "not in the manifest" in problems[orphan.name]
    assert found.uncommitted == 1
    assert {file.state for file in sql.files()} == {WRITTEN}


def test_full_verification_compares_rows_with_the_index(sql: Any, tmp_path: Path) -> None:
    fill(sql, 9, days=1)
    archive(sql, tmp_path)
    (file,) = sql.files()
    run_sql(sql, "DELETE FROM celery_taskmeta_archived WHERE place = 4")
    run_sql(sql, "UPDATE celery_taskmeta_archive SET void = NULL")
    assert verify(sql, tmp_path).problems == []
    (problem,) = verify(sql, tmp_path, full=True).problems
    assert problem.path == file.path
    assert "1 of its rows are not in the index" in problem.text


def test_row_that_does_not_count_and_is_in_the_index_is_found(sql: Any, tmp_path: Path) -> None:
    fill(sql, 9, days=1)
    archive(sql, tmp_path)
    from rootcellar.stores.archiving import packed

    with sql._pool.connection() as connection:
        connection.execute("UPDATE celery_taskmeta_archive SET void = ? WHERE n > 0", [packed({2, 3}, 9)])
    (problem,) = verify(sql, tmp_path, full=True).problems
    assert "2 rows that do not count are in the index" in problem.text


def test_files_at_another_place_are_said(sql: Any, tmp_path: Path) -> None:
    fill(sql, 3, days=1)
    archive(sql, tmp_path / "one")
    fill(sql, 3, days=1)
    archive(sql, tmp_path / "two")
    found = verify(sql, tmp_path / "two")
    assert (found.files, found.elsewhere, found.problems) == (1, 1, [])


def run_sql(store: Any, statement: str) -> None:
    with store._pool.connection() as connection:
        connection.execute(statement)


def test_run_verify_and_restore_at_an_object_store(sql: Any) -> None:
    fill(sql, 12)
    before = live(sql)
    with object_store() as objects:
        place = open_place(objects.url())
        assert archive(sql, place).files == 3
        assert sorted(path.rpartition(".")[2] for path in objects.objects) == 3 * ["json"] + 3 * ["parquet"]
        assert not live(sql)
        found = Verifying(sql, place, is_full=True, now=datetime.now(timezone.utc)).run()
        assert (found.files, found.rows, found.problems) == (3, 12, [])
        codec = codec_of({})
        tasks = ArchivedTasks(sql, place, codec, parse("state:any"), clock())
        back = RestoringRun(
            sql, lambda: tasks, codec, timedelta(days=7), datetime.now(timezone.utc), lambda record: True
        )
        assert back.run().restored == 12
    assert live(sql).keys() == before.keys()


def test_place_that_refuses_to_be_written_leaves_the_table_as_it_was(sql: Any) -> None:
    fill(sql, 12)
    before = live(sql)
    with object_store() as objects:
        place = open_place(objects.url())
        objects.refuses = 503
        with pytest.raises(StoreUnavailable):
            archive(sql, place)
        objects.refuses = None
        assert live(sql) == before
        assert not sql.files()
        assert archive(sql, place).archived == 12


# -- the commands


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.sqlite3"


@pytest.fixture
def filled(url: str) -> Iterator[Any]:
    store = open_store(url)
    fill(store, 12)
    yield store
    store.close()


def test_run_shows_what_it_would_do_and_changes_nothing(filled: Any, url: str, tmp_path: Path) -> None:
    ended = run_here("archive", "run", "--dry-run", "task:shop.task1", "--to", str(tmp_path / "a"), "-b", url)
    assert ended.status == 0, ended.err
    assert ended.out.startswith("3 tasks in ")
    assert "shop.task1" in ended.out
    assert not (tmp_path / "a").exists()
    assert len(live(filled)) == 12


def test_run_needs_yes_without_a_terminal(filled: Any, url: str, tmp_path: Path) -> None:
    ended = run_here("archive", "run", "state:any", "--to", str(tmp_path / "a"), "-b", url)
    assert ended.status == 2
    assert "--yes" in ended.err
    assert len(live(filled)) == 12


def test_run_verify_and_restore(filled: Any, url: str, tmp_path: Path) -> None:
    place = str(tmp_path / "a")
    ended = run_here("archive", "run", "--yes", "state:any", "--to", place, "-b", url)
    assert ended.status == 0, ended.err
    assert f"12 tasks archived in {place}: 3 files, " in ended.out
    assert not live(filled)
    ended = run_here("archive", "verify", "--full", "--at", place, "-b", url)
    assert ended.status == 0, ended.err
    assert "3 files in" in ended.out
    assert "no problem" in ended.out
    ended = run_here("restore", "--dry-run", "task:shop.task1", "--from", place, "-b", url)
    assert ended.out.startswith("3 tasks in ")
    assert not live(filled)
    ended = run_here("restore", "--yes", "task:shop.task1", "--from", place, "-b", url)
    assert ended.status == 0, ended.err
    assert "3 tasks restored." in ended.out
    assert len(live(filled)) == 3


def test_run_by_rule_is_on_record(filled: Any, url: str, tmp_path: Path) -> None:
    (tmp_path / "by_rule.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('by_rule', backend='rootcellar+{url}')\n"
        f"app.conf.update(result_archive='{tmp_path}/a', result_retention=["
        "{'task': 'shop.task1', 'keep': '1h', 'then': 'archive'}])\n"
    )
    ended = run("archive", "run", "--yes", "-A", "by_rule", cwd=tmp_path)
    assert ended.status == 0, ended.err
    moved = {one.name for one in archived(filled, tmp_path / "a").values()}
    assert moved == {"shop.task1"}
    assert filled.jobs()["archive"].done == len(archived(filled, tmp_path / "a"))


def test_commands_print_json(filled: Any, url: str, tmp_path: Path) -> None:
    place = str(tmp_path / "a")
    found = json.loads(run_here("archive", "run", "--yes", "--json", "state:any", "--to", place, "-b", url).out)
    assert (found["found"], found["archived"], found["files"], found["dry_run"]) == (12, 12, 3, False)
    assert found["left"] == dict.fromkeys(("held", "waiting", "changed", "waiting_for_older", "damaged", "unread"), 0)
    assert found["dropped"] == 0
    found = json.loads(run_here("archive", "verify", "--json", "--at", place, "-b", url).out)
    assert (found["files"], found["rows"], found["problems"]) == (3, 12, [])
    found = json.loads(run_here("restore", "--yes", "--json", "state:any", "--from", place, "-b", url).out)
    assert (found["found"], found["restored"], found["left"]) == (12, 12, 0)


def test_verify_fails_if_a_file_is_missing(filled: Any, url: str, tmp_path: Path) -> None:
    archive(filled, tmp_path / "a")
    parquet(tmp_path / "a")[0].unlink()
    ended = run_here("archive", "verify", "--at", str(tmp_path / "a"), "-b", url)
    assert ended.status == 1
    assert "does not exist" in ended.err
    assert "1 problem" in ended.out


def test_place_must_be_named(filled: Any, url: str) -> None:
    ended = run_here("archive", "run", "--yes", "state:any", "-b", url)
    assert ended.status == 2
    assert "--to" in ended.err
    assert "ROOTCELLAR_ARCHIVE" in ended.err


def test_place_that_does_not_exist_is_wrong_use(filled: Any, url: str) -> None:
    ended = run_here("archive", "run", "--yes", "state:any", "--to", "foo://bucket/x", "-b", url)
    assert ended.status == 2
    assert "--to: fsspec cannot open it" in " ".join(ended.err.split())
    assert "result_archive" not in ended.err


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_package_that_a_place_needs_is_named(scheme: str, filled: Any, url: str) -> None:
    ended = run_here("archive", "run", "--yes", "state:any", "--to", f"{scheme}://bucket/x", "-b", url)
    assert ended.status == 2
    assert re.search(r"pip install (s3fs|gcsfs)", ended.err)


def test_filter_or_rule_must_be_given(filled: Any, url: str, tmp_path: Path) -> None:
    ended = run_here("archive", "run", "--yes", "--to", str(tmp_path / "a"), "-b", url)
    assert ended.status == 2
    assert "no rule" in ended.err
    ended = run_here("restore", "--yes", "--from", str(tmp_path / "a"), "-b", url)
    assert ended.status == 2
    ended = run_here("archive", "run", "--yes", "sort:done", "--to", str(tmp_path / "a"), "-b", url)
    assert ended.status == 2
    assert "order" in ended.err


def test_redis_is_refused_with_what_to_do(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with REDIS.new_place(request) as url:
        ended = run_here("archive", "run", "--yes", "state:any", "--to", str(tmp_path / "a"), "-b", url)
        assert ended.status == 1
        assert "export" in ended.err
