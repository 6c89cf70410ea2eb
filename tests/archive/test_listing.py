"""Lists of archived tasks: the same filters as a store's, in the same order, with few row groups read."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

import rootcellar
from rootcellar.archive import files
from rootcellar.archive.files import FileReader
from rootcellar.archive.listing import ArchivedResults, ArchivedTasks, StoreSource, in_order
from rootcellar.archive.masks import Masks
from rootcellar.archive.places import open_place
from rootcellar.archive.reading import Archive
from rootcellar.archive.scanning import find_in_files
from rootcellar.errors import ArchiveDamaged, ArchiveFileMissing, ConfigurationError
from rootcellar.history.cursors import CursorWrong
from rootcellar.history.filters import Clock, Filter, FilterWrong, parse
from rootcellar.history.history import History
from rootcellar.history.streaming import pages
from rootcellar.payloads import codec_of
from rootcellar.records import NO_DATE, Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.search import Always
from rootcellar.testing.helpers import new_id
from tests.archive.archives import app_of, archived, manifest_of, put_file
from tests.archive.object_store import ObjectStore, object_store
from tests.commands import run_here
from tests.conformance.registered import HYBRID
from tests.helpers import HEAVY, record
from tests.history.filter_trees import NOW, Fact, facts, filters
from tests.history.oracle import holds
from tests.history.stores import SQL, opened
from tests.seeds import SEED

CLOCK = Clock(NOW, timezone.utc)
DAY = datetime(2026, 11, 3, tzinfo=timezone.utc)
often = settings(
    max_examples=1_000 if HEAVY else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


def overlapping(store: Any, place: Path, count: int, rows: int) -> StoreSource:
    """Archive files whose tasks ended in the same time, each a second before those of the file before it."""
    for number in range(count):
        ones = [
            record(f"{number}-{row:05}", done_at=DAY + timedelta(minutes=row, seconds=-number)) for row in range(rows)
        ]
        put_file(store, open_place(str(place)), ones, f"{number}.parquet")
    return StoreSource(Archive(manifest_of(store), open_place(str(place))), store)


def test_files_of_the_same_time_are_not_in_memory_as_rows(sqlite: Any, tmp_path: Path) -> None:
    source = overlapping(sqlite, tmp_path / "archive", 3, 1_000)
    found = in_order(source, source.files(None, None), Masks(Always(True)), lambda record: True)
    while next(found)[2].number < 0:
        pass
    gc.collect()
    assert sum(isinstance(each, files.Row) for each in gc.get_objects()) <= 600


@pytest.mark.parametrize("held", [0, 2**30])
def test_files_of_the_same_time_are_listed_in_order(
    sqlite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr("rootcellar.archive.listing._HELD_BYTES", held)
    source = overlapping(sqlite, tmp_path / "archive", 3, 400)
    found = in_order(source, source.files(None, None), Masks(Always(True)), lambda record: True)
    ids = [row.record.task_id for _, _, row in found if row.number >= 0]
    assert ids == [f"{number}-{row:05}" for row in reversed(range(400)) for number in range(3)]


def test_files_of_the_same_time_do_not_exceed_the_budget(sqlite: Any, tmp_path: Path) -> None:
    source = overlapping(sqlite, tmp_path / "archive", 4, 5)
    query = parse("state:any")
    first = ArchivedTasks(source, sqlite, codec_of({}), query, CLOCK, budget=0.0).page()
    assert len(first.records) < 20
    assert first.searched_back_to is not None
    ids = [each.task_id for each in first.records]
    after = first.cursor
    while after is not None:
        page = ArchivedTasks(source, sqlite, codec_of({}), query, CLOCK, budget=0.0, after=after).page()
        ids += [each.task_id for each in page.records]
        after = page.cursor
    assert ids == [f"{number}-{row:05}" for row in reversed(range(5)) for number in range(4)]


def test_file_that_cannot_be_read_is_left_out_and_named(
    sqlite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [record(f"task-{name}", done_at=DAY + timedelta(minutes=place)) for place, name in enumerate("abc")]
    place = tmp_path / "archive"
    for one in ones:
        put_file(sqlite, open_place(str(place)), [one], f"{one.task_id}.parquet")
    (place / "task-b.parquet").unlink()
    (place / "task-c.parquet").chmod(0o600)
    (place / "task-c.parquet").write_bytes(b"PAR1 nothing PAR1")
    source = StoreSource(Archive(manifest_of(sqlite), open_place(str(place))), sqlite)
    listed = list(ArchivedTasks(source, sqlite, codec_of({}), parse("state:any"), CLOCK).pages())
    assert [each.task_id for page in listed for each in page.records] == ["task-a"]
    assert [type(problem) for problem in listed[-1].problems] == [ArchiveDamaged, ArchiveFileMissing]
    (tmp_path / ".env").write_text(f"ROOTCELLAR_ARCHIVE={place}\n")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "tasks.jsonl"
    restored = ("restore", "--yes", "state:any", "--from", str(place))
    for command in (("history", "--archive"), ("export", "--archive", "-o", str(output)), restored):
        ended = run_here(*command, "-b", sqlite.url)
        assert ended.status == 1
        assert ended.err.count("left out: ") == 2
        assert "task-b.parquet" in ended.err
        assert "task-c.parquet" in ended.err
    assert json.loads(output.read_text())["task_id"] == "task-a"
    assert sqlite.get("task-a") == ones[0]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield found
    found.close()


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", 5)


def history_of(store: Store, place: str) -> History:
    archive = ArchivedResults(Archive(manifest_of(store), open_place(place)), store)
    return History(store, codec_of({}), zone=timezone.utc, owns_store=False, open_archive=lambda: archive)


def listed(history: History, query: str = "", **options: Any) -> list[str]:
    return [each.task_id for each in history.tasks(query, archive=True, **options)]


def ended(minute: int, **given: Any) -> TaskRecord:
    moment = DAY + timedelta(minutes=minute)
    values = {"name": "shop.pay", "sent_at": moment, "started_at": moment, "done_at": moment, **given}
    return record(f"task-{minute:04}", **values)


# -- filters


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Fact], Store, Archive]]:
    """Generated tasks in an archive of several files with small row groups."""
    folder = tmp_path_factory.mktemp("archive")
    store = open_store(f"sqlite:///{folder}/results.sqlite3")
    known = [fact for fact in facts(SEED, 600 if HEAVY else 160) if fact.record.done_at is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "GROUP_ROWS", 7)
        for start in range(3):
            # their times overlap
            put_file(store, open_place(str(folder / "files")), [fact.record for fact in known[start::3]])
    yield (
        {fact.record.task_id: fact for fact in known},
        store,
        Archive(manifest_of(store), open_place(str(folder / "files"))),
    )
    store.close()


@often
@given(query=filters)
def test_archive_finds_what_brute_force_finds(
    everything: tuple[dict[str, Fact], Store, Archive], query: Filter
) -> None:
    known, store, archive = everything
    if query.sort not in ("", "done") or (query.sort == "done" and not query.is_descending):
        query = replace(query, sort="", is_descending=False)
    expected = {task_id for task_id, fact in known.items() if holds(query.condition, fact, CLOCK)}
    event(f"{min(len(expected), 5)} found")
    tasks = ArchivedTasks(StoreSource(archive, store), store, codec_of({}), query, CLOCK, size=20)
    found = list(tasks)
    assert {each.task_id for each in found} == expected, str(query)
    assert len(found) == len(expected), str(query)
    order = [(each.done_at or NO_DATE, each.task_id) for each in found]
    assert order == sorted(order, reverse=True), str(query)


# -- lists


def test_archived_tasks_are_listed_in_the_order_of_a_store(store: Store, tmp_path: Path, small_groups: None) -> None:
    ones = [ended(minute, state="FAILURE" if minute % 4 == 0 else "SUCCESS") for minute in range(40)]
    for one in ones:
        store.put(one)
    history = history_of(store, str(tmp_path))
    questions = ["", "state:failed", "task:shop.*", "since:2026-11-03T00:10Z until:2026-11-03T00:20Z", "id:task-0007"]
    expected = {query: [each.task_id for each in history.tasks(query)] for query in questions}
    assert listed(history) == []
    place = open_place(str(tmp_path))
    put_file(store, place, ones[:20:2], is_stored=True)
    put_file(store, place, ones[1:20:2], is_stored=True)
    put_file(store, place, ones[20:], is_stored=True)
    assert {query: listed(history, query) for query in questions} == expected
    assert [len(page.records) for page in pages(history, "state:failed", archive=True, first=4)] == [4, 4, 2]
    # not those in the store
    store.put(ended(100))
    assert len(listed(history)) == 40


def test_pages_continue_where_the_last_one_ended(sqlite: Store, tmp_path: Path, small_groups: None) -> None:
    ones = _with_equal_times()
    archived(sqlite, str(tmp_path), ones[:31])
    archived(sqlite, str(tmp_path), ones[31:])
    history = history_of(sqlite, str(tmp_path))
    whole = listed(history)
    for size in (1, 7, 59, 60, 61):
        found: list[str] = []
        after = None
        while True:
            page = history.tasks("", size=size, after=after, archive=True).page()
            assert len(page.records) <= size
            found += [each.task_id for each in page.records]
            after = page.cursor
            if after is None:
                break
        assert found == whole, size
    with pytest.raises(CursorWrong, match="another list"):
        history.tasks("state:failed", after=history.tasks("", size=5, archive=True).page().cursor, archive=True)


def _with_equal_times() -> list[TaskRecord]:
    return [replace(ended(number // 3), task_id=f"t{number:03}") for number in range(60)]


def test_search_that_takes_too_long_says_how_far_it_is(sqlite: Store, tmp_path: Path, small_groups: None) -> None:
    ones = [ended(minute) for minute in range(60)]
    archived(sqlite, str(tmp_path), ones)
    history = history_of(sqlite, str(tmp_path))
    after, reached, rounds = None, [], 0
    found: list[str] = []
    while True:
        page = history.tasks("result.nothing:1 OR id:task-0003", after=after, budget=0.0, archive=True).page()
        found += [each.task_id for each in page.records]
        rounds += 1
        if page.cursor is None:
            break
        if page.searched_back_to is not None:
            reached.append(page.searched_back_to)
        after = page.cursor
    assert found == ["task-0003"]
    assert rounds > 3
    assert reached == sorted(set(reached), reverse=True)


def test_row_groups_that_cannot_match_are_not_read(
    sqlite: Store, tmp_path: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [ended(minute, name="shop.pay" if minute < 30 else "shop.ship") for minute in range(60)]
    archived(sqlite, str(tmp_path), ones[:30])
    archived(sqlite, str(tmp_path), ones[30:])
    archived(sqlite, str(tmp_path), [replace(ended(5), task_id="earlier", done_at=DAY - timedelta(days=3))])
    history = history_of(sqlite, str(tmp_path))
    read: list[tuple[int, int]] = []
    original = FileReader.table

    def noted(self: FileReader, group: int) -> Any:
        read.append((id(self), group))
        return original(self, group)

    monkeypatch.setattr(FileReader, "table", noted)
    assert listed(history, "since:2026-11-03T00:12Z until:2026-11-03T00:14Z") == ["task-0013", "task-0012"]
    assert len(read) == 1
    read.clear()
    assert len(listed(history, "task:shop.ship")) == 30
    assert len(read) == 6
    read.clear()
    # the index says in which file an id is, and the footer in which row groups it may be
    assert listed(history, "id:task-0031") == ["task-0031"]
    assert len(read) == 1
    read.clear()
    # a page reads the groups that it needs
    assert len(history.tasks("", size=4, archive=True).page().records) == 4
    assert len(read) <= 2


def test_void_rows_and_those_stored_again_are_left_out(store: Store, tmp_path: Path) -> None:
    ones = [ended(minute) for minute in range(4)]
    archived(store, str(tmp_path), ones)
    archive = Archive(manifest_of(store), open_place(str(tmp_path)))
    archive.forget([ones[0].task_id])
    store.put(replace(ones[1], result=Payload(b'"again"')))
    history = history_of(store, str(tmp_path))
    assert listed(history) == ["task-0003", "task-0002"]
    assert "task-0001" in [each.task_id for each in history.tasks()]


def test_order_by_another_value_is_refused(sqlite: Store, tmp_path: Path) -> None:
    history = history_of(sqlite, str(tmp_path))
    with pytest.raises(FilterWrong, match="sort:runtime"):
        history.tasks("since:24h sort:runtime", archive=True)
    assert listed(history, "sort:-done") == []
    assert listed(history, "is:stuck") == []


def test_history_without_an_archive_says_what_to_name(sqlite: Store) -> None:
    with History(sqlite, codec_of({}), owns_store=False) as history:
        with pytest.raises(ConfigurationError, match="no archive is named") as caught:
            history.tasks(archive=True)
        assert "ROOTCELLAR_ARCHIVE" in caught.value.remedy


def test_open_history_finds_the_archive_of_an_app_and_of_the_environment(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(sqlite, str(tmp_path), [one := ended(1)])
    with rootcellar.open_history(app=app_of(sqlite.url, str(tmp_path))) as history:
        assert listed(history) == [one.task_id]
    with rootcellar.open_history(sqlite.url) as history:
        assert history.archive is None
    monkeypatch.setenv("ROOTCELLAR_ARCHIVE", str(tmp_path))
    with rootcellar.open_history(sqlite.url) as history:
        assert listed(history) == [one.task_id]
    monkeypatch.delenv("ROOTCELLAR_ARCHIVE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"ROOTCELLAR_ARCHIVE={tmp_path}\n")
    with rootcellar.open_history(sqlite.url) as history:
        assert listed(history) == [one.task_id]


def test_encrypted_values_are_searched_with_their_key(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(sqlite.url, str(tmp_path), result_encryption_keys=rootcellar.payloads.make_key())
    app.backend.store_result(task_id := new_id(), {"customer": "Ada"}, "SUCCESS")
    found = sqlite.get(task_id)
    assert found is not None
    put_file(sqlite, open_place(str(tmp_path)), [found], is_stored=True)
    with rootcellar.open_history(app=app) as history:
        assert listed(history, "result.customer:Ada") == [task_id]
        assert listed(history, "result.customer:Bob") == []
    without = history_of(sqlite, str(tmp_path)).tasks("result.customer:Ada", archive=True).page()
    assert (without.records, without.unread) == ([], 1)


# -- commands


def name_archive(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name an archive for commands, in the file .env of their working directory."""
    monkeypatch.chdir(folder)
    (folder / ".env").write_text(f"ROOTCELLAR_ARCHIVE={url}\n")


def test_show_finds_an_archived_result_and_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ended(7, value={"total": 12})
    put_file(store, open_place(str(tmp_path)), [one], "2026-11/a.parquet")
    missing = run_here("show", one.task_id, "-b", store.url)
    assert missing.status == 1
    name_archive(str(tmp_path), tmp_path, monkeypatch)
    shown = run_here("show", one.task_id, "-b", store.url)
    assert shown.status == 0, shown.err
    assert f"archived  2026-11/a.parquet, in {tmp_path}" in shown.out
    assert '"total": 12' in shown.out
    assert "kept until" not in shown.out
    found = json.loads(run_here("show", one.task_id, "-b", store.url, "--json").out)
    assert (found["task_id"], found["archived_in"]) == (one.task_id, "2026-11/a.parquet")
    assert found["result"] == {"total": 12}
    assert run_here("show", "unknown", "-b", store.url).status == 1


def test_show_searches_files_without_a_database(sqlite: Store, tmp_path: Path, small_groups: None) -> None:
    ones = [ended(minute) for minute in range(30)]
    place = open_place(str(tmp_path))
    put_file(sqlite, place, ones[:12], "2026-11/a.parquet")
    put_file(sqlite, place, ones[12:], "2026-11/b.parquet")
    sqlite.close()
    (tmp_path / "results.sqlite3").unlink()
    shown = run_here("show", "task-0003", "--archive", str(tmp_path))
    assert shown.status == 0, shown.err
    assert f"2026-11/a.parquet, in {tmp_path}" in shown.out
    gone = run_here("show", "task-9999", "--archive", str(tmp_path))
    assert gone.status == 1
    assert "no file of the archive has task task-9999" in gone.err


def test_search_without_a_database_leaves_out_a_part_of_a_file(sqlite: Store, tmp_path: Path) -> None:
    put_file(sqlite, open_place(str(tmp_path)), [ended(1)], "2026-11/a.parquet")
    (tmp_path / "2026-11" / "z.parquet").write_bytes(b"PAR1" + b"x" * 500)
    shown = run_here("show", "task-0001", "--archive", str(tmp_path))
    assert shown.status == 0, shown.err
    assert "2026-11/a.parquet" in shown.out
    assert "left out: " in shown.err
    assert "z.parquet" in shown.err


def test_search_without_a_database_finds_an_id_that_is_no_text(sqlite: Store, tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    with place.write("a.parquet") as sink:
        writer = files.FileWriter(sink)
        writer.add(replace(ended(1), task_id="a\udc80b"))
        writer.close()
    found = find_in_files(place, "a\udc80b")
    assert found is not None
    assert found[0].task_id == "a\udc80b"


def test_search_without_a_database_reads_few_ranges(sqlite: Store, small_groups: None) -> None:
    with object_store() as objects:
        archived(sqlite, objects.url("alone"), [ended(minute) for minute in range(200)])
        with objects.counted() as requests:
            shown = run_here("show", "task-0150", "--archive", objects.url("alone"))
        assert shown.status == 0, shown.err
        # the list of the files, the footer, the bloom filters, the ids of a row group, and the row group
        assert len(requests) <= 7
        with objects.counted() as requests:
            assert run_here("show", "other", "--archive", objects.url("alone")).status == 1
        assert len(requests) <= 6


def test_history_and_export_list_the_archive(sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archived(sqlite, str(tmp_path / "files"), [ended(minute) for minute in range(30)])
    sqlite.put(ended(50))
    name_archive(str(tmp_path / "files"), tmp_path, monkeypatch)
    query = ("--archive", "--json", "-b", sqlite.url, "until:2026-11-03T00:20Z")
    shown = run_here("history", *query, "--limit", "3")
    assert shown.status == 0, shown.err
    assert [each["task_id"] for each in json.loads(shown.out)] == ["task-0019", "task-0018", "task-0017"]
    more = run_here("history", *query, "--limit", "1", "--after", shown.err.split("--after ")[1].strip())
    assert [each["task_id"] for each in json.loads(more.out)] == ["task-0016"]
    written = run_here("export", "--archive", "-o", str(tmp_path / "a.jsonl"), "-b", sqlite.url)
    assert written.status == 0, written.err
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == [f"task-{minute:04}" for minute in reversed(range(30))]
    (tmp_path / ".env").unlink()
    for words in (("history",), ("export", "--format", "jsonl")):
        without = run_here(*words, "--archive", "-b", sqlite.url)
        assert without.status == 2
        assert "no archive is named" in without.err


def test_object_store_is_listed(sqlite: Store) -> None:
    with object_store() as objects:
        objects_: ObjectStore = objects
        archived(sqlite, objects_.url("list"), [ended(minute) for minute in range(3)])
        assert listed(history_of(sqlite, objects_.url("list"))) == ["task-0002", "task-0001", "task-0000"]
