"""PostgreSQL: its errors as rootcellar's, and which of them are retryable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import psycopg
import pytest

from rootcellar import errors
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import ChordRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.expiring import DeletionTooSlow, Due, Expiring
from rootcellar.stores.postgres import driver, tls
from rootcellar.stores.postgres.store import PostgresStore
from rootcellar.stores.search import SearchTooSlow
from rootcellar.testing.helpers import part
from tests.waiting.helpers import record


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = open_store(postgres_url)
    yield store
    store.close()


@pytest.mark.parametrize(("version", "name"), [(90_624, "9"), (120_022, "12")])
def test_server_that_is_too_old_is_refused(version: int, name: str) -> None:
    with pytest.raises(errors.ServerTooOld, match=f"PostgreSQL {name} is too old") as caught:
        driver.refuse_old(version, "here")
    assert "13 or later" in caught.value.remedy
    assert not caught.value.retryable
    driver.refuse_old(130_000, "here")


def test_version_of_the_server_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "OLDEST_SERVER", 99)
    with pytest.raises(errors.ServerTooOld):
        store.check()


def test_lock_timeout_is_retryable(postgres_url: str) -> None:
    store = open_store(f"{postgres_url}?options=-c%20lock_timeout%3D50")
    store.check()
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE celery_taskmeta")
        with pytest.raises(errors.StoreUnavailable, match="lock timeout"):
            store.put(record("task"))
    assert store.put(record("task")).written
    store.close()


def searched(store: Store) -> None:
    History(store, codec_of({})).tasks(budget=0.05).page()


def cleaned(store: Store) -> None:
    expiring = store.ability(Expiring)
    assert expiring is not None
    expiring.delete_expired_tasks(Due(now=datetime.now(timezone.utc), timeout=0.05))


@pytest.mark.parametrize(
    ("slow", "error"), [(searched, SearchTooSlow), (cleaned, DeletionTooSlow)], ids=["search", "cleanup"]
)
def test_statements_stay_prepared_after_one_was_too_slow(
    slow: Callable[[Store], None],
    error: type[errors.StoreError],
    store: Store,
    postgres_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is rolled back, and psycopg then deletes all prepared statements: that is not the work of a pooler."""
    store.put(record("before"))
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(error):
            slow(store)
    assert are_prepared(store)
    assert "pooler" not in caplog.text


def test_statements_stay_prepared_after_something_was_dropped(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put(record("before"))
    assert isinstance(store, PostgresStore)
    with store._pool.connection() as connection:
        connection.execute("CREATE TABLE short_lived ()")
        connection.execute("DROP TABLE short_lived")
    assert are_prepared(store)
    assert "pooler" not in caplog.text


def are_prepared(store: Store) -> bool:
    """Store and read a task; return whether the session of the store has prepared statements of its own."""
    store.put(record("after"))
    assert store.get("after") is not None
    assert isinstance(store, PostgresStore)
    with store._pool.connection() as connection:
        found = connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'rc%'").fetchall()
    return bool(found[0][0])


@pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["NUL", "lone surrogate"])
def test_impossible_id_has_no_chord(store: Store, odd: str) -> None:
    group = f"group {odd}"
    for verb in (
        lambda: store.begin_chord(ChordRecord(group_id=group)),
        lambda: store.size_chord(group, 1),
        lambda: store.size_chord(group, 1, relative=True, key="key"),
        lambda: store.count_part(part(group, "task")),
        lambda: store.claim_chord(group, "me"),
        lambda: store.get_chord(group),
        lambda: store.chord_parts(group),
        lambda: store.finish_chord(group),
    ):
        with pytest.raises(errors.RecordRefused) as caught:
            verb()
        assert caught.value.where


def test_unknown_option_of_the_driver_is_refused(postgres_url: str) -> None:
    store = open_store(postgres_url, StoreOptions(connect_args={"sslmod": "require"}))
    with pytest.raises(errors.ConfigurationError, match="sslmod") as caught:
        store.check()
    assert "connect_args" in caught.value.remedy


def test_user_without_a_home_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert tls.with_defaults({"sslmode": "verify-full"}, 170_000)["sslmode"] == "verify-full"
