"""docs/archive.md runs as printed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from rootcellar.archive.places import open_place
from rootcellar.stores import open_store
from tests.archive.archives import put_file
from tests.helpers import record
from tests.history.pages import play
from tests.test_docs import Page


@pytest.mark.timeout(600)  # it starts about 25 processes, one after the other
def test_page_archive_works(tmp_path: Path) -> None:
    play("docs/archive.md", tmp_path)
    assert (tmp_path / "archived.csv").read_text().count("shop.pay") == 5
    with sqlite3.connect(tmp_path / "shop.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM celery_taskmeta").fetchone() == (1,)


def test_sql_of_the_page_archive_works(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    (statement,) = Page("docs/archive.md", {"archive/": f"{tmp_path}/archive/"}).of("sql")
    store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    ones = [record(value={"total": number}, name="shop.pay") for number in range(5)]
    put_file(store, open_place(str(tmp_path / "archive")), ones, "home/2026-11/a.parquet")
    store.close()
    (row,) = duckdb.sql(statement).fetchall()
    assert row[:4] == ("shop.pay", "SUCCESS", 5, 10)


def test_pandas_reads_the_files(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    put_file(store, open_place(str(tmp_path / "archive")), [record(value={"total": 7})], "home/2026-11/a.parquet")
    store.close()
    frame = pandas.concat(pandas.read_parquet(path) for path in (tmp_path / "archive").rglob("*.parquet"))
    assert [json.loads(text) for text in frame["result"]] == [{"total": 7}]
