"""A worker whose store cannot work does not start, and logs the reason and the remedy in one line."""

from __future__ import annotations

import re
import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from rootcellar.testing.background import Background
from tests.faults.helpers import Cluster
from tests.servers import IN_URL, PostgresServer
from tests.workers import Worker, WorkerError

FOREIGN = "CREATE TABLE celery_taskmeta (id integer PRIMARY KEY, task_id varchar(155), status varchar(50))"


def wrong_password(server: PostgresServer) -> str:
    return server.url.replace(f":{IN_URL}@", ":sesame@")


def missing_database(server: PostgresServer) -> str:
    return server.database_url("nowhere")


def foreign_tables(server: PostgresServer) -> str:
    url = server.create_database()
    server.execute(FOREIGN, url.rpartition("/")[2])
    return url


def no_permission(server: PostgresServer) -> str:
    url = server.create_database()
    name = url.rpartition("/")[2]
    server.execute("DROP ROLE IF EXISTS reader")
    password = server.password.replace("'", "''")
    server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{password}'")
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    return url.replace("//postgres:", "//reader:")


def test_worker_names_the_reason_of_a_postgres_refusal(
    postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    check_refusals(
        {
            Cluster(tmp_path, redis_url, wrong(postgres_server), **settings): says
            for wrong, settings, says in (
                (
                    wrong_password,
                    {},
                    r'authentication failed for user "postgres" \[.*\] -> check the user and the passw',
                ),
                (missing_database, {}, r'database "nowhere" does not exist \[.*\] -> CREATE DATABASE'),
                (foreign_tables, {}, r"celery_taskmeta.* is not rootcellar's .* -> run `rootcellar schema adopt`"),
                (no_permission, {}, r"permission denied for schema public \[.*\] -> let a DBA run"),
                (
                    PostgresServer.create_database,
                    {"database_create_tables_at_setup": False},
                    r"is missing and database_create_tables_at_setup is False .* `rootcellar schema sql`",
                ),
            )
        }
    )


def test_worker_names_the_reason_of_a_sqlite_refusal(redis_url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "celery.sqlite3") as connection:
        connection.execute(FOREIGN)
    connection.close()
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)
    check_refusals(
        {
            Cluster(tmp_path, redis_url, f"sqlite:///{tmp_path}/{file}"): says
            for file, says in (
                ("celery.sqlite3", r"celery_taskmeta.* is not rootcellar's .* -> run `rootcellar schema adopt`"),
                ("letter.txt", r"file is not a database \[sqlite .*letter.txt\] -> name another file"),
                ("no/such/folder.sqlite3", r"unable to open database file \[.*\] -> make the folder"),
            )
        }
    )


def check_refusals(expected: dict[Cluster, str]) -> None:
    """Check that a worker of each cluster refuses to start, all at the same time."""
    checks = [Background(partial(check_refusal, cluster.worker(), says)) for cluster, says in expected.items()]
    for check in checks:
        check.result()


def check_refusal(worker: Worker, says: str) -> None:
    """Check that a worker refuses to start, in one line and without a password."""
    with pytest.raises(WorkerError, match="ended without logging"):
        worker.start()
    assert worker.kill() == 1, "the worker has ended by itself"
    log = worker.log.read_text()
    assert re.search(rf"CRITICAL/MainProcess\] No result could be stored, so this worker stops: .*{says}", log), log
    assert log.count("CRITICAL") == 1
    assert not re.search(r"Traceback|ERROR|sesame", log), log
    shutil.rmtree(worker.folder)
