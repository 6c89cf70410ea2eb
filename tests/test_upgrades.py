"""Tables of an older release: the first use or `schema upgrade` brings them up to date, and old workers go on."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.base import Replaceable
from rootcellar.stores.mysql.url import connection_settings
from rootcellar.stores.postgres import schema as postgres_schema
from rootcellar.stores.sql.store import SqlStore
from rootcellar.testing.helpers import PATIENCE, able, json_payload, new_id, record, wait_until
from tests.commands import run_here

#: what a worker of the release before history runs, in the SQL of each server
OLD_UPSERTS = {
    "postgresql": """
        INSERT INTO celery_taskmeta AS t (task_id, status, result, date_done, retries)
        VALUES ('{id}', '{state}', '42', '2026-11-01 12:00:00+00', 0)
        ON CONFLICT (task_id) DO UPDATE SET status = excluded.status, result = excluded.result,
            date_done = excluded.date_done, retries = excluded.retries
        WHERE t.status <> 'SUCCESS'""",
    "mysql": """
        INSERT INTO celery_taskmeta (task_id, status, result, date_done, retries, put_id)
        VALUES ('{id}', '{state}', '42', '2026-11-01 12:00:00', 0, 7)
        ON DUPLICATE KEY UPDATE status = VALUES(status), result = VALUES(result), date_done = VALUES(date_done)""",
    "sqlite": """
        INSERT INTO celery_taskmeta AS t (task_id, status, result, date_done, retries)
        VALUES ('{id}', '{state}', '42', '2026-11-01 12:00:00', 0)
        ON CONFLICT (task_id) DO UPDATE SET status = excluded.status, result = excluded.result,
            date_done = excluded.date_done WHERE t.status <> 'SUCCESS'""",
}
#: when these records ended
OLD_DATE = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
#: the versions of the tables before history
OLD_VERSIONS = {"postgresql": 3, "mysql": 2, "sqlite": 2}


@dataclass(frozen=True)
class OldTables:
    """A database with the tables of the release before history.

    Attributes:
        url: the database.
        kind: its server.
        run: runs statements in it.
    """

    url: str
    kind: str
    run: Callable[[str], list[tuple[Any, ...]]]

    def store_as_before(self, state: str, task_id: str = "") -> TaskRecord:
        """Store a record as a worker of the old release does; return it."""
        one = record(task_id=task_id or new_id(), state=state, result=json_payload(42), done_at=OLD_DATE)
        self.run(OLD_UPSERTS[self.kind].format(id=one.task_id, state=state))
        return one

    def open(self) -> SqlStore[Any]:
        store = open_store(self.url)
        assert isinstance(store, SqlStore)
        return store


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> OldTables:
    if request.param == "sqlite":
        return made(f"sqlite:///{tmp_path}/results.sqlite3", in_sqlite)
    if request.param == "mysql":
        return made(request.getfixturevalue("mysql_url"), in_mysql)
    old: OldTables = request.getfixturevalue("old_postgres")
    return old


@pytest.fixture
def old_postgres(postgres_url: str) -> OldTables:
    return made(postgres_url, in_postgres)


def made(url: str, run: Callable[[str, str], list[tuple[Any, ...]]], options: StoreOptions | None = None) -> OldTables:
    """Create the tables as the release before history created them."""
    old = OldTables(url, url.partition(":")[0], lambda script: run(url, script))
    with closing(open_store(url, options)) as store:
        assert isinstance(store, SqlStore)
        store.schema._migrations = store.schema._migrations[: OLD_VERSIONS[old.kind]]
        store.schema.create()
        assert store.schema.status().version == OLD_VERSIONS[old.kind]
    return old


def in_postgres(url: str, script: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(script.encode())
        return cursor.fetchall() if cursor.description else []


def in_mysql(url: str, script: str) -> list[tuple[Any, ...]]:
    with pymysql.connect(**connection_settings(url, {"autocommit": True})) as connection:
        cursor = connection.cursor()
        cursor.execute(script)
        return list(cursor.fetchall())


def in_sqlite(url: str, script: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        return connection.execute(script).fetchall()


@pytest.mark.parametrize("by", ["command", "first use"])
def test_old_tables_keep_their_records_when_they_are_upgraded(old: OldTables, by: str) -> None:
    kept, retried = old.store_as_before("SUCCESS"), old.store_as_before("FAILURE")
    if by == "command":
        upgraded = run_here("schema", "upgrade", "-b", old.url)
        assert (upgraded.status, upgraded.err) == (0, "")
        assert f"Upgraded from version {OLD_VERSIONS[old.kind]}." in upgraded.out
    with closing(old.open()) as store:
        assert store.get(kept.task_id) == kept
        assert store.schema.status().is_complete
        failed = replace(retried, failure_group=-5, done_at=OLD_DATE)
        assert store.put(failed).written
        assert store.get(failed.task_id) == failed
        succeeded = replace(retried, state="SUCCESS")
        assert store.put(succeeded).written
        assert store.get_many([kept.task_id, succeeded.task_id]) == {
            kept.task_id: kept,
            succeeded.task_id: succeeded,
        }


def test_worker_of_the_old_release_stores_into_upgraded_tables(old: OldTables) -> None:
    with closing(old.open()) as store:
        store.check()
        inserted = old.store_as_before("SUCCESS")
        mine = record(state="STARTED", done_at=None, failure_group=3)
        store.put(mine)
        updated = old.store_as_before("SUCCESS", mine.task_id)
        assert store.get(inserted.task_id) == inserted
        found = store.get(mine.task_id)
        assert found is not None
        assert replace(found, failure_group=None) == updated, "the old release leaves the new column as it is"
        assert store.put(record()).written


def test_upgrade_continues_after_a_process_died_in_it(old: OldTables) -> None:
    with closing(old.open()) as store:
        store.check()
        if old.kind == "mysql":
            # only there is a step no transaction
            old.run("UPDATE rootcellar_schema SET version = 2")
        store.schema.create()
        assert store.schema.status().is_complete


def test_upgrade_does_not_rewrite_a_postgres_table(old_postgres: OldTables) -> None:
    old_postgres.store_as_before("SUCCESS")
    file = "SELECT pg_relation_filenode('celery_taskmeta')"
    before = old_postgres.run(file)
    assert run_here("schema", "upgrade", "-b", old_postgres.url).status == 0
    assert old_postgres.run(file) == before
    assert old_postgres.run("SELECT changed FROM celery_taskmeta") == [(None,)]


def test_upgrade_behind_a_long_reader_is_an_outage_that_ends(
    old_postgres: OldTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_schema, "LOCK_TIMEOUT", 0.1)
    with closing(old_postgres.open()) as store, psycopg.connect(old_postgres.url) as reader:
        reader.execute("SELECT count(*) FROM celery_taskmeta")
        one = record()
        with pytest.raises(errors.StoreUnavailable, match="lock timeout") as caught:
            store.put(one)
        assert caught.value.retryable
        reader.rollback()
        assert store.put(one).written
        assert store.schema.status().is_complete


class TestLargeTable:
    """A table of PostgreSQL whose indexes take long: workers must not wait for them."""

    @pytest.fixture
    def large(self, old_postgres: OldTables, monkeypatch: pytest.MonkeyPatch) -> OldTables:
        monkeypatch.setattr(postgres_schema, "LARGEST_TO_INDEX_AT_ONCE", 0)
        old_postgres.store_as_before("SUCCESS")
        return old_postgres

    def test_first_use_leaves_the_indexes_to_the_command(
        self, large: OldTables, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(large.open()) as store, caplog.at_level(logging.WARNING, "rootcellar"):
            store.put(record())
        assert [one.getMessage() for one in caplog.records if "rootcellar schema upgrade" in one.getMessage()]
        status = run_here("schema", "status", "-b", large.url)
        assert (status.status, "lack 3 indexes" in status.out) == (1, True)
        upgraded = run_here("schema", "upgrade", "-b", large.url)
        assert (upgraded.status, "up to date" in upgraded.out) == (0, True)
        assert run_here("schema", "status", "-b", large.url).status == 0

    def test_results_are_stored_while_the_indexes_are_created(self, large: OldTables) -> None:
        with closing(large.open()) as store, psycopg.connect(large.url) as writer:
            store.check()
            # the creation waits for the end of this transaction
            writer.execute(OLD_UPSERTS["postgresql"].format(id=new_id(), state="FAILURE").encode())
            creation = threading.Thread(target=store.schema.create)
            creation.start()
            try:
                wait_until(
                    lambda: large.run("SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"),
                    "the creation of an index waits for a writer",
                )
                one = record()
                assert store.put(one).written
                assert store.get(one.task_id) == one
                store.schema.create()
                assert len(store.schema.status().missing_indexes) == 3, "only one process creates them"
            finally:
                writer.commit()
                creation.join(PATIENCE)
            assert store.schema.status().is_complete

    def test_interrupted_creation_of_an_index_is_repeated(self, large: OldTables) -> None:
        with closing(large.open()) as store:
            store.schema.create()
            large.run(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'celery_taskmeta_changed_idx'::regclass"
            )
            (missing,) = store.schema.status().missing_indexes
            assert missing.startswith("CREATE INDEX CONCURRENTLY")
            store.schema.create()
            assert store.schema.status().is_complete

    def test_indexes_are_created_in_another_schema(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres_schema, "LARGEST_TO_INDEX_AT_ONCE", 0)
        in_jobs = StoreOptions(task_schema="Jobs", group_schema="Jobs")
        old = made(postgres_url, in_postgres, in_jobs)
        old.run('SET search_path = "Jobs";' + OLD_UPSERTS["postgresql"].format(id=new_id(), state="SUCCESS"))
        with closing(open_store(postgres_url, in_jobs)) as store:
            assert isinstance(store, SqlStore)
            store.check()
            assert len(store.schema.status().missing_indexes) == 3
            store.schema.create()
            assert store.schema.status().is_complete
            old.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE '%unfinished%'")
            store.schema.create()
            assert store.schema.status().is_complete


class TestChanged:
    """The marker of a row of PostgreSQL that says since which transaction it must be counted again."""

    def test_marker_is_at_least_the_transaction_of_the_last_end(self, postgres_url: str) -> None:
        def marker(task_id: str) -> Any:
            with psycopg.connect(postgres_url) as connection:
                found = connection.execute("SELECT changed FROM celery_taskmeta WHERE task_id = %s", [task_id])
                return found.fetchall()[0][0]

        def now() -> int:
            number: int = in_postgres(postgres_url, "SELECT txid_current()")[0][0]
            return number

        with closing(open_store(postgres_url)) as store:
            one = record(state="STARTED", done_at=None)
            store.put(one)
            assert marker(one.task_id) is None, "a row that was never finished is not counted"
            store.put(replace(one, state="PROGRESS"))
            assert marker(one.task_id) is None
            ends = [("FAILURE", OLD_DATE), ("RETRY", None), ("FAILURE", OLD_DATE), ("SUCCESS", OLD_DATE)]
            for state, done_at in ends:
                in_postgres(postgres_url, "UPDATE celery_taskmeta SET changed = 1 WHERE changed IS NOT NULL")
                before = now()
                store.put(replace(one, state=state, done_at=done_at))
                assert before < marker(one.task_id) <= now() | 63, state
            last = marker(one.task_id)
            done = replace(one, state="SUCCESS", done_at=OLD_DATE)
            assert able(store, Replaceable).replace(done, replace(done, result=json_payload("sealed")))
            assert marker(one.task_id) == last, "a rekeyed row has the same result"
