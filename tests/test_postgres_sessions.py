"""PostgreSQL: settings of the role, the database or the environment for encodings and formats change no result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone

import psycopg
import pytest

from rootcellar import errors
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import TaskQuery
from tests.checks.helpers import check
from tests.servers import HOST, PostgresServer

TEXT = "café 🍅 \\ ' ключ"
ODD = {
    "client_encoding": "LATIN1",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-10",
    "array_nulls": "off",
    "transform_null_equals": "on",
}


def record(text: str = TEXT, task_id: str = "täsk") -> TaskRecord:
    moment = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=timezone.utc)
    return TaskRecord(
        task_id=task_id,
        state="SUCCESS",
        name=f"shop.{text}",
        result=Payload(json.dumps(text, ensure_ascii=False).encode()),
        # NUL lies in bytes, with a rendition that LATIN1 lacks
        args=Payload(b'[1.2345678901234567, "\\u0000"]' if text == TEXT else b"[1.2345678901234567]"),
        traceback=f"Traceback: {text}",
        started_at=moment,
        done_at=moment,
    )


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def is_kept(url: str) -> None:
    """Fail unless every way to read, also SQL, returns the stored values."""
    with opened(url) as store:
        one = record()
        store.put(one)
        assert store.get(one.task_id) == one
        assert store.get_many([one.task_id, "none"]) == {one.task_id: one}
        assert list(store.scan()) == [one]
        assert list(store.query(TaskQuery(names=("shop.*",), since=one.done_at))) == [one]
        assert store.delete_expired(datetime.now(timezone.utc)) == 0


def seen_by_sql(server: PostgresServer, url: str) -> tuple[str, str]:
    ((name, task_id),) = server.execute(
        "SELECT name, task_id FROM celery_taskmeta", url.rpartition("/")[2].partition("?")[0]
    )
    return name, task_id


@pytest.fixture
def odd_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with a role for which every setting differs."""
    database = postgres_server.create_database().rpartition("/")[2]
    with suppress(psycopg.errors.DuplicateObject):
        postgres_server.execute("CREATE ROLE odd LOGIN PASSWORD 'odd'")
    postgres_server.execute("GRANT ALL ON SCHEMA public TO odd", database)
    for name, value in ODD.items():
        postgres_server.execute(f"ALTER ROLE odd SET {name} = '{value}'")
    yield f"postgresql://odd:odd@{HOST}:{postgres_server.port}/{database}"
    postgres_server.execute("ALTER ROLE odd RESET ALL")


def test_role_settings_change_no_result(postgres_server: PostgresServer, odd_url: str) -> None:
    is_kept(odd_url)
    assert seen_by_sql(postgres_server, odd_url) == (f"shop.{TEXT}", "täsk")


def test_environment_and_url_change_no_result(
    postgres_server: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    is_kept(postgres_url)
    is_kept(f"{postgres_url}?client_encoding=latin1")
    monkeypatch.delenv("PGCLIENTENCODING")
    assert seen_by_sql(postgres_server, postgres_url) == (f"shop.{TEXT}", "täsk")


def test_check_names_settings_that_sessions_override(odd_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Europe/Paris")
    (seen,) = [each.seen for each in check(odd_url).findings if "sessions override settings" in each.seen]
    for setting in ("client_encoding=LATIN1", "timezone=Europe/Paris", "datestyle=German"):
        assert setting in seen


def test_database_in_latin1_refuses_other_characters(postgres_server: PostgresServer) -> None:
    name = "latin1_results"
    with suppress(psycopg.errors.InvalidCatalogName):
        postgres_server.execute(f"DROP DATABASE {name}")
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    url = postgres_server.database_url(name)
    with opened(url) as store:
        fits = record("café")
        store.put(fits)
        assert store.get(fits.task_id) == fits
        assert seen_by_sql(postgres_server, url) == ("shop.café", "täsk")
        with pytest.raises(errors.RecordRefused, match="LATIN1") as caught:
            store.put(record("🍅", "other"))
        assert not caught.value.retryable
        assert "range(256)" not in str(caught.value)
        assert store.get("other") is None
