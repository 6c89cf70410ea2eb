"""Finished rows move into the older table and back, byte for byte, and are counted once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import pairwise

import psycopg
import pytest

from rootcellar import errors
from rootcellar.records import Payload
from rootcellar.stores import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.older import NEVER, Older
from rootcellar.stores.postgres import partitions
from rootcellar.stores.postgres.older_rows import day_of
from rootcellar.stores.postgres.partitions import range_for
from rootcellar.testing.helpers import able, begun, full_record, part
from tests.helpers import wait_until
from tests.history.counted import Actor, assert_right, roll_all
from tests.older.tables import (
    WINDOW,
    disable,
    enable,
    finished,
    listed,
    move_all,
    now,
    opened,
    payload,
    put_all,
    query,
    rows_in,
    rows_of_both,
)

OLD = timedelta(days=5)


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[Store, Older]]:
    """A store with an older table."""
    with opened(postgres_url) as (store, older):
        enable(store, older)
        yield store, older


def test_finished_rows_move_and_come_back_byte_for_byte(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    expiries = (None, now() + timedelta(days=9), now() + timedelta(days=80), now() + timedelta(days=900))
    put_all(store, [finished(OLD, result=payload(n), expires_at=expiries[n % 4]) for n in range(200)])
    put_all(store, [full_record(state=s, done_at=now() - OLD, expires_at=expiries[1]) for s in ("FAILURE", "SUCCESS")])
    store.put(finished(OLD, result=Payload(b"\x80\x04N.", "application/x-python-serialize", "binary")))
    before = rows_in(postgres_url, "celery_taskmeta")

    assert move_all(older) == 203
    assert not rows_in(postgres_url, "celery_taskmeta")
    assert rows_in(postgres_url, "celery_taskmeta_older") == before
    assert listed(postgres_url) == 203
    assert disable(older) == 203
    assert rows_in(postgres_url, "celery_taskmeta") == before
    assert query(postgres_url, "SELECT relname FROM pg_class WHERE relname ~ 'older|moved|_all$'") == []


def test_rows_that_are_unfinished_recent_or_expire_soon_stay(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    staying = put_all(
        store,
        [
            finished(OLD, done_at=None, state="STARTED"),
            finished(WINDOW - timedelta(minutes=1)),
            finished(OLD, expires_at=now() + WINDOW - timedelta(minutes=1)),
            finished(OLD, expires_at=now() - timedelta(hours=1)),
        ],
    )
    moving = put_all(store, [finished(OLD), finished(OLD, expires_at=now() + WINDOW + timedelta(minutes=1))])
    move_all(older)
    assert rows_in(postgres_url, "celery_taskmeta").keys() == {each.task_id for each in staying}
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {each.task_id for each in moving}


def test_rows_of_an_open_chord_stay_until_it_is_finished(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    group = begun(store, 2)
    first = finished(OLD, group_id=group, group_index=0)
    store.put(first, part(group, first.task_id))
    assert move_all(older) == 0
    store.finish_chord(group)
    assert move_all(older) == 1
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {first.task_id}


def test_row_that_somebody_has_locked_is_moved_by_a_later_pass(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    one, other = put_all(store, [finished(OLD), finished(OLD)])
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT FROM celery_taskmeta WHERE task_id = %s FOR UPDATE", [one.task_id])
        assert move_all(older) == 1
        assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {other.task_id}
    assert move_all(older) == 1
    assert not rows_in(postgres_url, "celery_taskmeta")


def test_older_success_stays_and_a_late_failure_is_not_counted(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    one = finished(OLD, expires_at=now() + timedelta(days=9))
    store.put(one)
    move_all(older)
    # as a process would that does not know of the older table yet
    _insert_beside(postgres_url, one.task_id, "FAILURE")
    move_all(older)
    assert rows_in(postgres_url, "celery_taskmeta") == {}
    assert rows_in(postgres_url, "celery_taskmeta_older")[one.task_id][1] == "SUCCESS"
    assert listed(postgres_url) == 1


def test_late_success_replaces_an_older_failure(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    one = finished(OLD, state="FAILURE", expires_at=now() + timedelta(days=9))
    store.put(one)
    move_all(older)
    _insert_beside(postgres_url, one.task_id, "SUCCESS")
    move_all(older)
    assert rows_of_both(postgres_url).keys() == {one.task_id}
    assert rows_in(postgres_url, "celery_taskmeta_older")[one.task_id][1] == "SUCCESS"
    assert listed(postgres_url) == 1


@pytest.mark.parametrize(
    ("moved", "live", "stays"), [("SUCCESS", "FAILURE", "SUCCESS"), ("FAILURE", "REVOKED", "REVOKED")]
)
def test_moving_back_keeps_the_row_that_counts(
    both: tuple[Store, Older], postgres_url: str, moved: str, live: str, stays: str
) -> None:
    store, older = both
    one = finished(OLD, state=moved)
    store.put(one)
    move_all(older)
    _insert_beside(postgres_url, one.task_id, live)
    disable(older)
    assert rows_in(postgres_url, "celery_taskmeta")[one.task_id][1] == stays


def _insert_beside(url: str, task_id: str, state: str) -> None:
    values = f"('{task_id}', '{state}', now() - interval '4 days', now() + interval '40 days')"
    query(url, f"INSERT INTO celery_taskmeta (task_id, status, date_done, expires_at) VALUES {values}")  # noqa: S608 - ids of ours


@pytest.mark.parametrize("seed", range(3))
def test_counts_do_not_change_when_rows_move_are_dropped_or_come_back(
    both: tuple[Store, Older], postgres_url: str, seed: int
) -> None:
    store, older = both
    actor = Actor(store, seed, now(), oldest=timedelta(days=9))
    ahead = timedelta(hours=4)
    for _ in range(3):
        for _ in range(60):
            actor.act()
        roll_all(store)  # type: ignore[arg-type]
        assert_right(store, actor.account)  # type: ignore[arg-type]
        # every row that has ended
        assert move_all(older, now() + ahead, window=timedelta(0), limit=7)
        assert_right(store, actor.account)  # type: ignore[arg-type]
        roll_all(store)  # type: ignore[arg-type]
        assert_right(store, actor.account)  # type: ignore[arg-type]
        disable(older, limit=7)
        assert_right(store, actor.account)  # type: ignore[arg-type]
        roll_all(store)  # type: ignore[arg-type]
        assert_right(store, actor.account)  # type: ignore[arg-type]
        enable(store, older)
    move_all(older, now() + ahead, window=timedelta(0), limit=7)
    roll_all(store)  # type: ignore[arg-type]
    query(postgres_url, "TRUNCATE celery_taskmeta_older")
    assert_right(store, actor.account)  # type: ignore[arg-type]


def test_ranges_are_weeks_for_a_year_then_months_and_never_overlap() -> None:
    today = date(2026, 11, 28)
    assert range_for(date(2026, 12, 3), today, []) == (date(2026, 11, 30), date(2026, 12, 7))
    assert range_for(date(2028, 2, 29), today, []) == (date(2028, 2, 1), date(2028, 3, 1))
    assert range_for(NEVER, today, []) == (NEVER, None)
    assert range_for(date(9998, 12, 31), today, []) == (date(9998, 12, 1), NEVER)
    ranges: list[tuple[date, date | None]] = []
    # days come in any order, and the present moves on
    for later in (0, 200, 400, 700):
        present = today + timedelta(days=later)
        for ahead in range(1, 1_200, 5):
            day = present + timedelta(days=ahead * 7 % 1_201)
            if not any(start <= day and (until is None or day < until) for start, until in ranges):
                found = range_for(day, present, ranges)
                assert found[0] <= day < (found[1] or date.max)
                ranges.append(found)
    ranges.sort()
    assert all(until is not None and until <= begin for (_, until), (begin, _) in pairwise(ranges))


def test_rows_move_again_after_the_older_table_was_dropped_and_created(both: tuple[Store, Older]) -> None:
    store, older = both
    (one,) = put_all(store, [finished(OLD)])
    with opened(store.url) as (_, other):
        assert move_all(other) == 1
        disable(older)
        enable(store, older)
        # this process believes that there is a partition
        assert move_all(other) == 1
    assert store.get(one.task_id) == one


def test_nothing_moves_after_somebody_has_begun_to_move_back(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    put_all(store, [finished(OLD) for _ in range(9)])
    assert older.move(now(), WINDOW, 5, None).count == 5
    with opened(postgres_url) as (_, mover):
        older.disable_step(1)
        # the mover has read the state before
        assert mover.move(now(), WINDOW, 5, None).last is None
    disable(older)
    assert len(rows_in(postgres_url, "celery_taskmeta")) == 9


def test_rows_that_move_at_the_moment_of_the_drop_are_not_lost(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    put_all(store, [finished(OLD) for _ in range(9)])
    drop = older._drop_all  # type: ignore[attr-defined]
    moved = []

    def later(connection: object) -> object:
        if not moved:
            # as a mover whose batch began before anybody moved rows back
            with monkeypatch.context() as patch, opened(postgres_url) as (_, mover):
                patch.setattr(mover, "_may_move", lambda _: True)
                moved.append(move_all(mover))
        return drop(connection)

    monkeypatch.setattr(older, "_drop_all", later)
    assert disable(older) == 9
    assert moved == [9]
    assert len(rows_in(postgres_url, "celery_taskmeta")) == 9


def test_moving_back_waits_for_a_batch_that_is_being_moved(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    put_all(store, [finished(OLD) for _ in range(9)])
    older.ensure_partitions([day_of(now() + timedelta(days=60))])
    monkeypatch.setattr(partitions, "TRIES", 1)
    with opened(postgres_url) as (_, mover), ThreadPoolExecutor() as threads:
        with psycopg.connect(postgres_url) as gate, monkeypatch.context() as patch:
            patch.setattr(partitions, "LOCK_TIMEOUT", "10s")
            gate.execute("LOCK TABLE celery_taskmeta_gone IN EXCLUSIVE MODE")
            batch = threads.submit(mover.move, now(), WINDOW, 50, None)
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: query(postgres_url, waits) == [(1,)], "the batch waits")
            patch.undo()
            with pytest.raises(errors.StoreUnavailable, match="results are just being moved"):
                older.disable_step(50)
        assert batch.result().count == 9
    assert disable(older) == 9


def test_held_row_of_a_partition_that_waits_to_be_dropped_moves_back(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    (one,) = put_all(store, [finished(timedelta(days=65), expires_at=now() - timedelta(days=30))])
    move_all(older, now() - timedelta(days=60))
    (partition,) = older.partitions()
    # as a killed run leaves it
    query(postgres_url, f"COMMENT ON TABLE {partition.name} IS '{partitions.TO_BE_DROPPED} celery_taskmeta_older'")
    query(postgres_url, f"ALTER TABLE celery_taskmeta_older DETACH PARTITION {partition.name}")
    able(store, Holding).place_hold(f"id:{one.task_id}", "an audit", "anna", now())
    assert disable(older) == 1
    assert store.get(one.task_id) == one


@pytest.mark.parametrize(
    ("moved", "again", "stays"), [("SUCCESS", "FAILURE", "SUCCESS"), ("FAILURE", "SUCCESS", "SUCCESS")]
)
def test_row_moves_although_the_index_lacks_an_older_one(
    both: tuple[Store, Older], postgres_url: str, moved: str, again: str, stays: str
) -> None:
    store, older = both
    one, _ = put_all(store, [finished(OLD, state=moved), finished(OLD)])
    assert move_all(older) == 2
    query(postgres_url, "DELETE FROM celery_taskmeta_moved")
    put_all(store, [finished(OLD, task_id=one.task_id, state=again, expires_at=one.expires_at), finished(OLD)])
    assert move_all(older) == 2
    assert rows_in(postgres_url, "celery_taskmeta") == {}
    assert rows_in(postgres_url, "celery_taskmeta_older")[one.task_id][1] == stays
    assert listed(postgres_url) == 2
