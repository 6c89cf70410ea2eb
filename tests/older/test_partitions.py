"""Partitions whose days have passed are dropped, without a wait for a lock, and never with a row that must be kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.expiring import NewExpiry, Postponable
from rootcellar.stores.older import NEVER, Older
from rootcellar.stores.postgres import partitions
from rootcellar.stores.search import OneOf
from rootcellar.testing.helpers import able
from tests.history.counted import Account, assert_right, roll_all
from tests.older.tables import disable, enable, finished, listed, move_all, now, opened, put_all, query, rows_in

#: when the rows of these tests were moved
THEN = timedelta(days=60)


@pytest.fixture
def both(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Older]]:
    """A store with an older table. Locks are tried often enough in a short time."""
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "10ms")
    monkeypatch.setattr(partitions, "PAUSE", 0.0)
    with opened(postgres_url) as (store, older):
        enable(store, older)
        yield store, older


def passed_rows(store: Store, older: Older, count: int = 20, **given: object) -> list[TaskRecord]:
    """Move rows to the older table that expired long ago; return them."""
    expired = now() - timedelta(days=30)
    stored = put_all(
        store, [finished(THEN + timedelta(days=5), **{"expires_at": expired, **given}) for _ in range(count)]
    )
    assert move_all(older, now() - THEN) == count
    return stored


def passed(older: Older) -> list[str]:
    """Return the names of the partitions whose days have passed."""
    return [each.name for each in older.partitions() if each.until is not None and each.until <= now().date()]


def forget_ids(older: Older) -> int:
    total, after = older.forget_dropped_ids()
    while after is not None:
        count, after = older.forget_dropped_ids(after)
        total += count
    return total


def test_passed_partition_is_dropped_with_its_ids_and_still_counted(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    account = Account()
    for each in (*passed_rows(store, older), *put_all(store, [finished(timedelta(days=5))])):
        account.put(each)
    move_all(older)
    (name,) = passed(older)
    assert older.drop_partition(name, None).is_done
    assert len(rows_in(postgres_url, "celery_taskmeta_older")) == 1
    assert forget_ids(older) == 20
    assert listed(postgres_url) == 1
    assert older.forget_dropped_ids() == (0, None)
    roll_all(store)  # type: ignore[arg-type]
    assert_right(store, account)  # type: ignore[arg-type]
    assert older.finish_interrupted() == []


def test_partition_whose_days_have_not_passed_is_refused(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    put_all(store, [finished(timedelta(days=5)), finished(timedelta(days=5), expires_at=None)])
    move_all(older)
    for partition in older.partitions():
        with pytest.raises(errors.StoreError, match="no partition whose days have passed"):
            older.drop_partition(partition.name, None)
    assert len(rows_in(postgres_url, "celery_taskmeta_older")) == 2


def test_held_row_of_a_dropped_partition_is_kept_until_it_is_free(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    stored = passed_rows(store, older)
    held = OneOf("task_id", (stored[3].task_id,))
    (name,) = passed(older)
    dropped = older.drop_partition(name, held)
    assert (dropped.is_done, dropped.kept) == (True, 1)
    forget_ids(older)
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {stored[3].task_id}
    assert query(postgres_url, "SELECT drop_after FROM celery_taskmeta_moved") == [(NEVER,)]
    assert store.get(stored[3].task_id) == stored[3]

    (kept,) = older.expired_kept(now(), "", 10)
    assert kept == stored[3]
    assert older.expired_kept(now(), "", 10, held) == []
    assert older.delete_kept([kept.task_id], now(), held) == 0
    assert older.delete_kept([kept.task_id], now()) == 1
    assert listed(postgres_url) == 0
    assert store.get(kept.task_id) is None


@pytest.mark.parametrize("is_older_server", [False, True])
def test_drop_never_waits_behind_an_open_transaction_and_happens_after_it(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch, is_older_server: bool
) -> None:
    if is_older_server:
        # as on PostgreSQL 13, and through a pooler
        monkeypatch.setattr(partitions, "DETACHES_CONCURRENTLY", 10**9)
    store, older = both
    stored = passed_rows(store, older)
    recent = put_all(store, [finished(timedelta(days=5))])
    move_all(older)
    (name,) = passed(older)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT count(*) FROM celery_taskmeta_older")
        assert not older.drop_partition(name, None).is_done
        # nothing is queued behind the transaction: others read, store and move
        assert store.get(recent[0].task_id) == recent[0]
        put_all(store, [finished(timedelta(days=5))])
        assert move_all(older) == 1
        assert older.finish_interrupted() == []
        held = holder.execute("SELECT count(*) FROM celery_taskmeta_older").fetchone()
        assert held in ((22,), (2,))
    if is_older_server:
        assert older.drop_partition(name, None).is_done
    else:
        # the transaction is over, so what is pending is finished
        assert older.finish_interrupted() == [f"detached {name}", f"dropped {name}"]
    assert store.get(stored[0].task_id) is None
    assert query(postgres_url, f"SELECT to_regclass('{name}')") == [(None,)]
    assert len(rows_in(postgres_url, "celery_taskmeta_older")) == 2


def test_detached_partition_of_a_killed_run_is_dropped_and_that_of_a_person_is_not(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    passed_rows(store, older)
    (name,) = passed(older)
    query(postgres_url, f"ALTER TABLE celery_taskmeta_older DETACH PARTITION {name}")
    assert older.finish_interrupted() == []
    assert len(rows_in(postgres_url, name)) == 20
    query(postgres_url, f"COMMENT ON TABLE {name} IS '{partitions.TO_BE_DROPPED} celery_taskmeta_older'")
    assert [each.name for each in older.partitions()] == [name]
    assert older.finish_interrupted() == [f"dropped {name}"]
    assert older.partitions() == []


def test_detached_partition_of_a_killed_run_is_found_by_a_long_name_of_the_table(postgres_url: str) -> None:
    table = "t" * 50
    with opened(postgres_url, task_table=table) as (store, older), opened(postgres_url) as (_, other):
        store.check()
        older.enable()
        assert len(older.ensure_partitions([now().date()])) == 1
        (partition,) = older.partitions()
        mark = f"{partitions.TO_BE_DROPPED} {table}_older"
        query(postgres_url, f"ALTER TABLE {table}_older DETACH PARTITION {partition.name}")
        query(postgres_url, f"COMMENT ON TABLE {partition.name} IS '{mark}'")
        # other results in the same database are not concerned
        assert other.finish_interrupted() == []
        assert older.finish_interrupted() == [f"dropped {partition.name}"]


def test_partition_that_a_person_detached_is_left_and_another_one_has_its_days(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    put_all(store, [finished(timedelta(days=5))])
    move_all(older)
    (partition,) = older.partitions()
    query(postgres_url, f"ALTER TABLE celery_taskmeta_older DETACH PARTITION {partition.name}")
    (one,) = put_all(store, [finished(timedelta(days=5))])
    assert move_all(older) == 1
    assert [each.name for each in older.partitions()] == [f"{partition.name}_2"]
    assert store.get(one.task_id) == one
    assert len(rows_in(postgres_url, partition.name)) == 1


def test_id_that_is_listed_while_those_of_dropped_rows_are_deleted_stays(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    passed_rows(store, older, 3)
    (one,) = put_all(store, [finished(timedelta(days=5))])
    move_all(older)
    (name,) = passed(older)
    assert older.drop_partition(name, None).is_done
    rows = older._rows  # type: ignore[attr-defined]

    def later(connection: object, statement: str, params: object) -> object:
        if statement == "unlist":
            with monkeypatch.context() as patch, opened(postgres_url) as (other, _):
                patch.setattr(older, "_rows", rows)
                # as `retention apply` with a shorter rule: its partition is of a day that has passed
                assert able(other, Postponable).set_expiries([NewExpiry(one, now() - timedelta(days=90))]) == 1
        return rows(connection, statement, params)

    monkeypatch.setattr(older, "_rows", later)
    assert older.forget_dropped_ids()[0] == 3
    found = store.get(one.task_id)
    assert found is not None
    assert found.result == one.result


def test_partitions_are_made_beside_a_pending_one(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    passed_rows(store, older)
    (name,) = passed(older)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT count(*) FROM celery_taskmeta_older")
        assert not older.drop_partition(name, None).is_done
        days = [now().date() + timedelta(days=10), NEVER]
        assert len(older.ensure_partitions(days)) == 2
        assert older.ensure_partitions(days) == []
    disable(older)
    assert query(postgres_url, "SELECT relname FROM pg_class WHERE relname ~ 'older|moved|_all$'") == []


def test_prepared_statements_survive_what_the_mover_does(
    both: tuple[Store, Older], caplog: pytest.LogCaptureFixture
) -> None:
    store, older = both
    for _ in range(3):
        (one,) = put_all(store, [finished(timedelta(days=5))])
        assert store.get(one.task_id) == one
        move_all(older)
        disable(older)
        assert store.get(one.task_id) == one
        enable(store, older)
    assert "pooler" not in caplog.text
