"""`rootcellar check` warns of what `rootcellar maintain` looks after."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rootcellar.stores import open_store
from rootcellar.stores.older import Older
from rootcellar.stores.sql.store import SqlStore
from rootcellar.testing.helpers import able
from tests.checks.helpers import check
from tests.helpers import now, record
from tests.maintenance.upkept import invalid_unique_index, on_server


@pytest.fixture
def url(postgres_url: str) -> str:
    with closing(open_store(postgres_url)) as store:
        store.check()
    return postgres_url


def note_sizes(url: str, *gigabytes: int) -> None:
    """Note the sizes of a table on the last days, the newest first."""
    with psycopg.connect(url, autocommit=True) as connection:
        for ago, size in enumerate(gigabytes):
            noted = (now().date() - timedelta(days=ago), size * 10**9)
            connection.execute("INSERT INTO celery_taskmeta_size (day, name, bytes) VALUES (%s, 'x', %s)", noted)


def test_tables_in_order_have_no_warning(url: str) -> None:
    seen = check(url)
    assert seen.warnings == []
    assert "nothing is due" in seen.line("upkeep").seen


def test_tables_that_do_not_exist_are_not_created_for_it(postgres_url: str) -> None:
    assert "nothing to look after yet" in check(postgres_url).line("upkeep").seen
    assert on_server(postgres_url, "SELECT to_regclass('celery_taskmeta')") == [(None,)]


def test_unused_slot_is_a_warning(url: str) -> None:
    on_server(url, "SELECT pg_create_physical_replication_slot('lost', true)")
    try:
        seen = check(url)
        assert seen.warnings == ["vacuum-held-back"]
        assert "replication slot lost" in seen.of("vacuum-held-back").seen
        assert "pg_drop_replication_slot('lost')" in seen.of("vacuum-held-back").advice
    finally:
        on_server(url, "SELECT pg_drop_replication_slot('lost')")


def test_autovacuum_that_is_off_is_a_warning(url: str) -> None:
    on_server(url, "ALTER TABLE celery_taskmeta SET (autovacuum_enabled = off)")
    seen = check(url)
    assert seen.warnings == ["autovacuum-off"]
    assert "celery_taskmeta" in seen.of("autovacuum-off").seen


def test_invalid_index_is_a_warning(url: str) -> None:
    with closing(open_store(url)) as store:
        invalid_unique_index(store, url)
    seen = check(url)
    assert seen.warnings == ["index-invalid"]
    assert "one_state" in seen.of("index-invalid").seen


def test_partition_that_nobody_drops_is_a_warning(url: str) -> None:
    with closing(open_store(url)) as store:
        older = able(store, Older)
        older.enable()
        # a week that has not passed for two days, and one that has
        older.ensure_partitions([now().date()])
        assert check(url).warnings == []
        (name,) = older.ensure_partitions([now().date() - timedelta(days=9)])
    seen = check(url)
    assert seen.warnings == ["partition-passed"]
    assert seen.of("partition-passed").seen == name


def test_disk_that_is_full_soon_is_a_warning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    note_sizes(url, 40, 30, 20, 10)
    assert check(url).warnings == []
    monkeypatch.setenv("ROOTCELLAR_DISK", "1TB")
    assert check(url).warnings == []
    monkeypatch.setenv("ROOTCELLAR_DISK", "100GB")
    seen = check(url)
    assert seen.warnings == ["disk-full-soon"]
    assert seen.of("disk-full-soon").seen == "40 GB of 100 GB, and 10 GB more a day: full in 6 days"
    monkeypatch.setenv("ROOTCELLAR_DISK", "a lot")
    assert check(url).failures == ["settings-wrong"]


def test_file_of_sqlite_that_fills_its_disk_is_a_warning(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(open_store(url)) as store:
        store.put(record())
        assert isinstance(store, SqlStore)
        assert check(url).warnings == []
        for ago, size in enumerate((900, 600, 300, 0)):
            day = (now().date() - timedelta(days=ago)).isoformat()
            noted = f"('{day}', 'the whole file', {size * 10**12})"
            statement = "INSERT INTO celery_taskmeta_size (day, name, bytes) VALUES " + noted  # noqa: S608
            store._run(lambda connection, statement=statement: connection.execute(statement))
    assert check(url).warnings == ["disk-full-soon"]
