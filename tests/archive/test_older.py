"""Results in the older table of PostgreSQL are archived and restored like those in the live table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rootcellar.archive import writing
from rootcellar.records import Payload
from rootcellar.stores.archiving import Place, Restoring
from rootcellar.stores.counting import Question
from rootcellar.stores.older import Older
from tests.archive.runs import archive, archived, everything, live
from tests.conformance.registered import POSTGRES
from tests.history.counted import roll_all
from tests.older import tables


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Older, str]]:
    with POSTGRES.new_place(request) as url, tables.opened(url) as (store, older):
        tables.enable(store, older)
        yield store, older, url


def fill(store: Any) -> None:
    """Store tasks. Half of them ended long enough ago to be moved."""
    ages = (timedelta(hours=3), timedelta(days=9), timedelta(days=10), timedelta(hours=30))
    ends = ("SUCCESS", "FAILURE", "SUCCESS")
    tables.put_all(store, [tables.finished(ages[number % 4], state=ends[number % 3]) for number in range(32)])


def counted(store: Any) -> dict[str, int]:
    roll_all(store)
    return {cell.state: cell.tally.count for cell in store.counts(Question()).cells}


def test_rows_of_both_tables_are_archived_and_restored(opened: tuple[Any, Older, str], tmp_path: Path) -> None:
    store, older, url = opened
    fill(store)
    assert tables.move_all(older) == 16
    before, counts = live(store), counted(store)
    done = archive(store, tmp_path)
    assert (done.archived, done.left) == (32, 0)
    assert not tables.rows_of_both(url)
    assert not tables.listed(url)
    assert archived(store, tmp_path) == before
    assert counted(store) == counts
    (first, *_) = store.files()
    rows = {each.row: task_id for task_id, (each,) in store.places(list(before)).items() if each.file == first.id}
    back = [Restoring(Place(first.id, row), before[task_id]) for row, task_id in rows.items()]
    assert store.restore(back) == set(rows.values())
    assert everything(store, tmp_path) == before
    assert counted(store) == counts


def test_row_that_is_moved_while_a_file_is_written_is_archived_once(
    opened: tuple[Any, Older, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older, url = opened
    fill(store)
    before = live(store)
    commit = writing.Archiving._commit
    moved: list[int] = []

    def moved_first(self: Any, *args: Any) -> Any:
        moved.append(tables.move_all(older))
        return commit(self, *args)

    monkeypatch.setattr(writing.Archiving, "_commit", moved_first)
    archive(store, tmp_path)
    assert sum(moved) == 16
    assert everything(store, tmp_path) == before
    assert not tables.rows_of_both(url)
    assert not tables.listed(url)


def test_row_in_the_older_table_wins_over_an_archived_one(opened: tuple[Any, Older, str], tmp_path: Path) -> None:
    store, older, _ = opened
    store.put(old := tables.finished(timedelta(days=9), state="FAILURE"))
    archive(store, tmp_path)
    store.put(new := replace(old, state="SUCCESS", result=Payload(b"2")))
    assert tables.move_all(older) == 1
    (place,) = store.places([old.task_id])[old.task_id]
    assert store.restore([Restoring(place, old)]) == set()
    assert store.get(old.task_id) == new
