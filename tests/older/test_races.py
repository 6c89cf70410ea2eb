"""A result is read, waited for, held, forgotten or stored again while it moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta

import psycopg
import pytest

from rootcellar.errors import StoreUnavailable
from rootcellar.maintenance.mover import Mover, MoverConfig
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.older import Older
from rootcellar.stores.postgres.older import OlderState
from rootcellar.stores.postgres.older_rows import DAYS_PREPARED, day_of
from rootcellar.testing.helpers import able, begun, json_payload, new_id, part
from rootcellar.waiting.blocking import Waiter
from tests.helpers import PATIENCE
from tests.older.tables import (
    WINDOW,
    disable,
    enable,
    finished,
    move_all,
    now,
    opened,
    put_all,
    query,
    rows_of_both,
)

OLD = timedelta(days=5)


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[Store, Older]]:
    """A store with an older table."""
    with opened(postgres_url) as (store, older):
        enable(store, older)
        yield store, older


@contextmanager
def moving_for_ever(older: Older, url: str) -> Iterator[Callable[[], int]]:
    """Move everything there and back in a thread for the ``with`` block; yield what returns how often that happened."""
    turns, problems, ended = [0], [], threading.Event()

    def work() -> None:
        try:
            while not ended.is_set():
                left = move_all(older, limit=3)
                # the older table itself stays: processes would not know at once that there is a new one
                while left:
                    left -= older.disable_step(3).count
                query(url, f"COMMENT ON TABLE celery_taskmeta_older IS '{OlderState(now(), WINDOW).to_text()}'")
                turns[0] += 1
        except Exception as exc:  # for the test, in its own thread
            problems.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: turns[0]
    finally:
        ended.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not problems, problems


def test_row_that_moves_is_never_missing_and_never_changes(both: tuple[Store, Older], postgres_url: str) -> None:
    _, older = both
    with opened(postgres_url) as (reader, _):
        reader.check()
        stored = {each.task_id: each for each in put_all(reader, [finished(OLD) for _ in range(10)])}
        ids = list(stored)
        with moving_for_ever(older, postgres_url) as turns:
            while turns() < 10:
                assert reader.get(ids[0]) == stored[ids[0]]
                assert reader.get_many(ids) == stored


def test_moved_row_is_never_missing_while_a_partition_beside_it_comes_and_goes(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    (stored,) = put_all(store, [finished(OLD)])
    assert move_all(older) == 1
    assert stored.expires_at is not None
    first = date.min + timedelta(days=(day_of(stored.expires_at) - date.min).days // DAYS_PREPARED * DAYS_PREPARED)
    taken = {each.until for each in older.partitions()}
    week = next(day for day in (first, first + timedelta(days=7)) if day + timedelta(days=7) not in taken)
    detach = "DETACH PARTITION beside"
    if query(postgres_url, "SHOW server_version_num") >= [("140000",)]:
        detach += " CONCURRENTLY"
    query(postgres_url, "CREATE TABLE beside (LIKE celery_taskmeta_older INCLUDING CONSTRAINTS INCLUDING INDEXES)")

    def come_and_go() -> None:
        for _ in range(40):
            bounds = f"FROM ('{week}') TO ('{week + timedelta(days=7)}')"
            query(postgres_url, f"ALTER TABLE celery_taskmeta_older ATTACH PARTITION beside FOR VALUES {bounds}")
            query(postgres_url, f"ALTER TABLE celery_taskmeta_older {detach}")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    reads = 0
    while thread.is_alive():
        assert store.get(stored.task_id) == stored
        reads += 1
    assert reads > 40


def test_row_is_never_missing_while_the_older_table_is_dropped(both: tuple[Store, Older], postgres_url: str) -> None:
    _, older = both
    with opened(postgres_url) as (reader, _):
        reader.check()
        stored = {each.task_id: each for each in put_all(reader, [finished(OLD) for _ in range(10)])}
        ids = list(stored)
        assert move_all(older) == 10
        thread = threading.Thread(target=disable, args=[older, 2])
        thread.start()
        while thread.is_alive():
            assert reader.get(ids[-1]) == stored[ids[-1]]
            assert reader.get_many(ids) == stored
        assert not older.status().is_enabled
        assert reader.get_many(ids) == stored


def test_waiter_gets_a_result_that_moves_or_is_replaced_meanwhile(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD, state="FAILURE")])
    move_all(older)
    with opened(postgres_url) as (client, _):
        waiter = Waiter(client)
        try:
            # it has moved before anybody waits
            assert list(waiter.wait_for([one.task_id], timeout=PATIENCE)) == [one]
            later = new_id()
            found: list[TaskRecord] = []
            thread = threading.Thread(target=lambda: found.extend(waiter.wait_for([later], timeout=PATIENCE)))
            thread.start()
            # it is stored as an old one, and moves at once
            ended = replace(one, task_id=later)
            store.put(ended)
            move_all(older)
            thread.join(PATIENCE)
            assert found == [ended]
        finally:
            waiter.close()


def test_process_that_only_waits_learns_of_a_new_older_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.postgres.older_rows.LOOK_SECONDS", 0.0)
    with opened(postgres_url) as (client, _), opened(postgres_url) as (store, older):
        client.check()
        enable(store, older)
        (one,) = put_all(store, [finished(OLD)])
        move_all(older)
        arrived = threading.Event()
        # no read before: only the listener can find it
        client.watcher().subscribe([one.task_id], lambda _: arrived.set())
        assert arrived.wait(PATIENCE)


def test_success_that_was_moved_is_not_overwritten_by_a_late_failure(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD)])
    move_all(older)
    late = replace(one, state="FAILURE", result=json_payload("late"), retries=1)
    assert not store.put(late).written
    assert store.get(one.task_id) == one
    move_all(older)
    disable(older)
    assert store.get(one.task_id) == one


def test_failure_that_was_moved_is_replaced_by_a_late_success(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD, state="FAILURE")])
    move_all(older)
    late = replace(one, state="SUCCESS", result=json_payload("late"), retries=1)
    assert store.put(late).written
    assert store.get(one.task_id) == late
    move_all(older)
    assert store.get(one.task_id) == late
    assert len(rows_of_both(postgres_url)) == 1


@pytest.mark.parametrize("is_committed", [True, False])
def test_row_that_a_store_changes_while_it_moves_stays_whole(
    both: tuple[Store, Older], postgres_url: str, is_committed: bool
) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD, state="FAILURE")])
    with psycopg.connect(postgres_url) as writer:
        writer.execute("UPDATE celery_taskmeta SET status = 'SUCCESS' WHERE task_id = %s", [one.task_id])
        # it is locked, so it is passed over
        assert move_all(older) == 0
        if not is_committed:
            writer.rollback()
    assert move_all(older) == 1
    found = store.get(one.task_id)
    assert found is not None
    assert found.state == ("SUCCESS" if is_committed else "FAILURE")


def test_store_of_a_row_that_is_just_being_moved_waits_only_for_this_batch(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD, state="FAILURE")])
    late = replace(one, state="SUCCESS", retries=1)
    with psycopg.connect(postgres_url) as gate:
        # the batch has deleted the row, and waits before it is committed
        gate.execute("LOCK TABLE celery_taskmeta_gone IN EXCLUSIVE MODE")
        mover = threading.Thread(target=_move_in_spite_of_locks, args=[older])
        mover.start()
        writer = threading.Thread(target=store.put, args=[late])
        writer.start()
    mover.join(PATIENCE)
    writer.join(PATIENCE)
    assert not mover.is_alive()
    assert not writer.is_alive()
    move_all(older)
    assert store.get(one.task_id) == late
    assert len(rows_of_both(postgres_url)) == 1


def _move_in_spite_of_locks(older: Older) -> None:
    while True:
        try:
            move_all(older)
        except StoreUnavailable:
            continue
        return


def test_forgotten_row_does_not_come_back(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    there, back = put_all(store, [finished(OLD), finished(OLD)])
    move_all(older)
    assert store.delete([there.task_id]) == 1
    assert store.get(there.task_id) is None
    disable(older)
    assert store.get(there.task_id) is None
    assert store.get(back.task_id) == back
    assert query(postgres_url, "SELECT count(*) FROM celery_taskmeta") == [(1,)]


def test_row_that_is_held_while_it_moves_survives_both_ways(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    (one,) = put_all(store, [finished(timedelta(days=65), expires_at=now() - timedelta(days=30))])
    able(store, Holding).place_hold(f"id:{one.task_id}", "an audit", "anna", now())
    move_all(older, now() - timedelta(days=60))
    assert Mover(store, older, MoverConfig(first_move_after=0), Spares(store, Codec())).run().kept == 1
    disable(older)
    assert store.get(one.task_id) == one


def test_chord_with_an_early_member_and_a_long_one_ends(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    group = begun(store, 2)
    early = finished(OLD, group_id=group, group_index=0, expires_at=now() + timedelta(days=9))
    store.put(early, part(group, early.task_id, 0, result=early.result))
    assert move_all(older) == 0
    late = finished(timedelta(0), group_id=group, group_index=1)
    stored = store.put(late, part(group, late.task_id, 1, result=late.result))
    assert stored.chord is not None
    assert stored.chord.claimed
    assert [each.task_id for each in store.chord_parts(group)] == [early.task_id, late.task_id]
    store.finish_chord(group)
    assert move_all(older) == 1
    assert store.get(early.task_id) == early
