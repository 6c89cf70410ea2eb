"""PostgreSQL in a migration: locks between copies and burials, the older table, round trips, and large results."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.counting import Counted, Question
from rootcellar.stores.mirroring import CopyReport, Held, Mirrored
from rootcellar.stores.older import Older
from rootcellar.stores.postgres import PostgresStore, older_rows
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.guarding import groups_of
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import able, json_payload, new_id, record, wait_until
from tests.older.tables import enable, finished, listed, move_all, now, opened, put_all, rows_in, rows_of_both
from tests.servers import PgBouncerServer

OLD = timedelta(days=5)
#: what brings a record of the other store
VERBS = ("mirror", "settle", "copy")


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    with closing(open_store(postgres_url)) as found:
        assert isinstance(found, PostgresStore)
        found.check()
        yield found


# -- locks between copies and burials


def bring(store: Store, verb: str, one: TaskRecord) -> bool:
    """Bring a record of the other store; return whether it was refused because of a burial."""
    mirrored = able(store, Mirrored)
    if verb == "copy":
        return one.task_id in mirrored.copy([one]).buried
    return (mirrored.mirror(one) if verb == "mirror" else mirrored.settle(one)).buried


def waits_for_a_guard(url: str) -> bool:
    """Return whether somebody waits for an advisory lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        (waiting,) = connection.execute(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
            "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted"
        ).fetchone() or (0,)
        return bool(waiting)


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(work)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_record_that_is_buried_while_it_is_brought_is_refused(postgres_url: str, isolation: str) -> None:
    """The burial is stored after the call begins and committed before it looks, also if it had to wait for it."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'".encode())
    with closing(open_store(postgres_url)) as store, psycopg.connect(postgres_url) as other:
        store.check()
        for verb in VERBS:
            one = record()
            (group,) = groups_of([one.task_id])
            other.execute("SELECT pg_advisory_xact_lock(7247036, %s::integer)", [group])
            with in_thread(partial(bring, store, verb, one)) as answer:
                wait_until(lambda: waits_for_a_guard(postgres_url), f"{verb} waits for the burial")
                other.execute(
                    "INSERT INTO celery_taskmeta_buried VALUES (%s, clock_timestamp(), %s, '')",
                    [one.task_id, one.done_at],
                )
                other.commit()
                assert answer.result(timeout=30), verb
            assert store.get(one.task_id) is None, verb


def test_burial_waits_for_a_record_that_is_being_brought(store: PostgresStore, postgres_url: str) -> None:
    for by in ("bury", "bury_same"):
        one = record()
        with psycopg.connect(postgres_url) as other:
            (group,) = groups_of([one.task_id])
            other.execute("SELECT pg_advisory_xact_lock_shared(7247036, %s::integer)", [group])
            other.execute(
                "INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES (%s, 'SUCCESS', %s, %s)",
                [one.task_id, (one.result or json_payload(None)).body.decode(), one.done_at],
            )
            with in_thread(partial(bury, store, by, one)) as answer:
                wait_until(lambda: waits_for_a_guard(postgres_url), f"{by} waits")
                other.commit()
                assert answer.result(timeout=30) == 1, by
        assert store.get(one.task_id) is None
        assert store.mirror(one) == Held(None, buried=True)


def bury(store: PostgresStore, by: str, one: TaskRecord) -> int:
    """Bury a record; return how many were deleted."""
    return len(store.bury([one.task_id])) if by == "bury" else store.bury_same([one])


def test_records_that_are_brought_do_not_wait_for_each_other(store: PostgresStore, postgres_url: str) -> None:
    one = record()
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_advisory_xact_lock_shared(7247036, n) FROM generate_series(0, 127) AS n")
        assert store.mirror(one) == Held(one)
        assert store.copy([one]).kept == {one.task_id}
        assert store.put(replace(one, state="FAILURE")).written is False
        other.rollback()


def test_burial_is_repeated_if_it_waits_for_a_transaction_that_waits_for_it(
    store: PostgresStore, postgres_url: str
) -> None:
    first, second = (record(task_id=f"{place} {new_id()}") for place in "ab")
    store.copy([first, second])
    with ThreadPoolExecutor(1) as executor, psycopg.connect(postgres_url) as other:
        # the server ends the burial, and not this transaction
        other.execute("SET LOCAL deadlock_timeout = '1h'")
        lock = "SELECT FROM celery_taskmeta WHERE task_id = %s FOR UPDATE"
        other.execute(lock, [second.task_id])
        answer = executor.submit(store.bury, [first.task_id, second.task_id])
        wait_until(lambda: waits_for_a_row(postgres_url), "the burial waits for a row")
        other.execute(lock, [first.task_id])
        other.commit()
        assert answer.result(timeout=60) == {first.task_id: first, second.task_id: second}


def waits_for_a_row(url: str) -> bool:
    """Return whether somebody waits for the end of a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')"
        ).fetchone()
        return bool(found and found[0])


# -- round trips


@contextmanager
def counted_round_trips() -> Iterator[list[int]]:
    """Count how often a connection waits for answers."""
    trips = [0]
    before = Connection.wait

    def wait(self: Connection, *args: Any, **kwargs: Any) -> Any:
        trips[0] += 1
        return before(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "wait", wait)
        yield trips


def test_mirror_takes_as_many_round_trips_as_a_put(store: PostgresStore) -> None:
    records = [record() for _ in range(4)]
    store.put(record())
    with counted_round_trips() as trips:
        store.put(records[0])
        of_put = trips[0]
        store.mirror(records[1])
        store.settle(records[2])
        store.settle(records[2])
        assert trips[0] == 4 * of_put == 4
    with counted_round_trips() as trips:
        store.bury([records[0].task_id])
        assert trips[0] == 2, "the burial names what was deleted"
    with counted_round_trips() as trips:
        store.copy([records[3], *(record() for _ in range(500))])
        assert trips[0] == 2


def test_mirrors_of_threads_share_commits(store: PostgresStore, postgres_url: str) -> None:
    """While one thread commits, the records of the others wait and are written together."""
    records = [record() for _ in range(40)]
    held = record()
    with psycopg.connect(postgres_url) as other:
        (group,) = groups_of([held.task_id])
        other.execute("SELECT pg_advisory_xact_lock(7247036, %s::integer)", [group])
        with ThreadPoolExecutor(len(records) + 1) as executor:
            first = executor.submit(store.mirror, held)
            wait_until(lambda: waits_for_a_guard(postgres_url), "the first one waits for a burial")
            rest = [executor.submit(store.mirror, one) for one in records]
            wait_until(lambda: store._writer.waiting == len(records), "the others wait for the first one")
            with counted_round_trips() as trips:
                other.commit()
                assert first.result(timeout=30) == Held(held)
                assert [each.result(timeout=30) for each in rest] == [Held(one) for one in records]
    assert trips[0] <= 3
    assert store.get_many([one.task_id for one in records]).keys() == {one.task_id for one in records}


# -- what the server refuses


def test_record_that_the_server_refuses_does_not_stop_a_copy(store: PostgresStore) -> None:
    good = [record() for _ in range(20)]
    odd = [
        record(retries=2**40),
        # too long for the index
        record(task_id="".join(new_id() for _ in range(400))),
        record(task_id="\x00"),
    ]
    report = store.copy([*good[:10], *odd, *good[10:]])
    assert report.written == {one.task_id for one in good}
    assert report.refused.keys() == {one.task_id for one in odd}
    assert "out of range" in report.refused[odd[0].task_id]
    assert "maximum" in report.refused[odd[1].task_id]


def test_same_task_twice_in_a_copy_is_copied_once(store: PostgresStore) -> None:
    """A walk may return a record twice."""
    one = record()
    assert store.copy([one, one]) == CopyReport(written=frozenset([one.task_id]))


def test_large_results_are_copied_and_streamed_in_small_pieces(store: PostgresStore) -> None:
    records = [record(result=_incompressible(number)) for number in range(5)]
    assert store.copy(records).written == {one.task_id for one in records}
    found, cursor = store.stream(None, 1_000)
    assert 1 <= len(found) < len(records), "a page ends early"
    everything = list(found)
    while cursor is not None:
        found, cursor = store.stream(cursor, 1_000)
        everything += found
    assert {one.task_id: one for one in everything} == {one.task_id: one for one in records}
    assert len(everything) == len(records)


def _incompressible(number: int) -> Payload:
    return Payload(random.Random(number).randbytes(3_000_000), "application/data", "binary")


def test_migration_works_with_tables_of_odd_names(postgres_url: str) -> None:
    options = StoreOptions(
        task_table="{task} %s \"'; {limit} ü", task_schema="{older} %(after)s", group_table="{group}"
    )
    one, other = record(), record()
    with closing(open_store(postgres_url, options)) as store:
        mirrored, streamed, values = able(store, Mirrored), able(store, Streamed), able(store, SharesValues)
        assert mirrored.mirror(one) == mirrored.settle(one) == Held(one)
        assert mirrored.copy([one, other]) == CopyReport(
            written=frozenset([other.task_id]), kept=frozenset([one.task_id])
        )
        assert len(streamed.stream()[0]) == streamed.count_roughly() == 2
        assert mirrored.bury_same([one]) == 1
        assert mirrored.bury([other.task_id]) == {other.task_id: other}
        assert len(mirrored.burials()[0]) == mirrored.forget_burials(None) == 2
        assert values.share("a", "1") == 1
        assert values.shared("").keys() == {"a"}


# -- the older table


@pytest.fixture
def url(request: pytest.FixtureRequest, postgres_url: str) -> str:
    """The URL of an empty database; through PgBouncer in transaction mode, if a test asks for it."""
    if getattr(request, "param", "direct") == "direct":
        return postgres_url
    pooler: PgBouncerServer = request.getfixturevalue("pgbouncer_server")
    return pooler.through(postgres_url)


through_a_pooler_too = pytest.mark.parametrize("url", ["direct", "pgbouncer"], indirect=True)


@pytest.fixture
def both(url: str) -> Iterator[tuple[Store, Older]]:
    """A store with an older table."""
    with opened(url) as (store, older):
        enable(store, older)
        yield store, older


def moved(store: Store, older: Older, count: int = 1, **given: Any) -> list[TaskRecord]:
    """Return the records of so many tasks that were moved."""
    records = put_all(store, [finished(OLD, **given) for _ in range(count)])
    assert move_all(older) == count
    return records


def total(store: Store) -> int:
    """Return how many finished tasks are counted, with those that were deleted."""
    counted = able(store, Counted)
    counted.roll(budget=30)
    return sum(cell.tally.count for cell in counted.counts(Question()).cells)


def test_moved_success_stays_when_another_one_is_mirrored_or_copied(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (one,) = moved(store, older)
    later = replace(one, result=json_payload("later"), done_at=now())
    assert able(store, Mirrored).mirror(later) == Held(one)
    assert able(store, Mirrored).copy([later]) == CopyReport(kept=frozenset([one.task_id]))
    assert store.get(one.task_id) == one
    assert rows_in(url, "celery_taskmeta") == {}


@through_a_pooler_too
def test_moved_failure_is_replaced_by_a_success_of_the_other_store(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    *failed, other = moved(store, older, len(VERBS) + 1, state="FAILURE")
    for verb, earlier in zip(VERBS, failed, strict=True):
        one = replace(earlier, state="SUCCESS", result=json_payload("theirs"), done_at=now())
        assert not bring(store, verb, one)
        assert store.get(one.task_id) == one
    assert rows_of_both(url).keys() == {one.task_id for one in (*failed, other)}
    assert listed(url) == 1


def test_settled_record_replaces_a_moved_success(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (one,) = moved(store, older)
    theirs = replace(one, result=json_payload("theirs"), traceback="odd", queue=None)
    assert able(store, Mirrored).settle(theirs) == Held(theirs)
    assert store.get(one.task_id) == theirs
    assert listed(url) == 0
    assert rows_of_both(url).keys() == {one.task_id}


def test_newer_record_of_a_copy_replaces_a_moved_one(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    first, second = moved(store, older, 2)
    newer, earlier = replace(first, done_at=now()), replace(second, done_at=(second.done_at or now()) - OLD)
    report = able(store, Mirrored).copy([newer, earlier], newer_wins=True)
    assert report == CopyReport(written=frozenset([newer.task_id]), kept=frozenset([earlier.task_id]))
    assert store.get_many([first.task_id, second.task_id]) == {first.task_id: newer, second.task_id: second}
    assert rows_of_both(url).keys() == {first.task_id, second.task_id}


def test_moved_record_is_not_replaced_by_a_buried_one(both: tuple[Store, Older]) -> None:
    store, older = both
    buried = finished(OLD)
    able(store, Mirrored).bury([buried.task_id], {buried.task_id: [buried]})
    (one,) = moved(store, older, state="FAILURE", task_id=buried.task_id)
    for verb in VERBS:
        assert bring(store, verb, buried)
        assert store.get(one.task_id) == one


@through_a_pooler_too
def test_moved_records_are_buried(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    records = moved(store, older, 6)
    live = put_all(store, [finished(timedelta(hours=1))])[0]
    mirrored = able(store, Mirrored)
    some = [one.task_id for one in (*records[:3], live)]
    assert mirrored.bury(some) == {one.task_id: one for one in (*records[:3], live)}
    changed = replace(records[5], result=json_payload("another"))
    assert mirrored.bury_same([*records[3:5], changed]) == 2
    assert store.get_many([one.task_id for one in records]) == {records[5].task_id: records[5]}
    assert rows_of_both(url).keys() == {records[5].task_id}
    for one in (*records[:5], live):
        assert mirrored.mirror(one) == Held(None, buried=True)


def add_live_row(url: str, task_id: str) -> None:
    """Add a live row of a moved task, which a program that uses an id again leaves for a while."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO celery_taskmeta (task_id, status, date_done) VALUES (%s, 'FAILURE', now())", [task_id]
        )


def test_moved_success_stays_if_a_burial_of_another_result_finds_two_rows(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (one,) = moved(store, older)
    add_live_row(url, one.task_id)
    assert able(store, Mirrored).bury_same([replace(one, result=json_payload("another"))]) == 0
    assert store.get(one.task_id) == one
    assert able(store, Mirrored).bury_same([one]) == 1
    assert store.get(one.task_id) is None


@through_a_pooler_too
def test_walk_returns_moved_records_and_the_one_that_counts_of_two(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    records = moved(store, older, 5)
    live = put_all(store, [finished(timedelta(hours=1)) for _ in range(5)])
    for one in records[:2]:
        add_live_row(url, one.task_id)
    for limit in (1, 2, 1_000):
        found: dict[str, TaskRecord] = {}
        cursor: str | None = None
        while True:
            page, cursor = able(store, Streamed).stream(cursor, limit)
            found.update({one.task_id: one for one in page})
            if cursor is None:
                break
        assert found == {one.task_id: one for one in (*records, *live)}
    assert 10 <= able(store, Streamed).count_roughly() <= 12


def test_counts_stay_right_when_moved_results_are_replaced_and_buried(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    failed = moved(store, older, 3, state="FAILURE")
    good = moved(store, older, 3)
    assert total(store) == 6
    for verb, one in zip(("mirror", "settle", "copy"), failed, strict=True):
        assert not bring(store, verb, replace(one, state="SUCCESS", done_at=now()))
    able(store, Mirrored).settle(replace(good[0], result=json_payload("theirs")))
    assert total(store) == 6, "what is replaced counts once"
    able(store, Mirrored).bury([good[1].task_id, failed[0].task_id])
    able(store, Mirrored).bury_same([good[2]])
    assert total(store) == 6, "what is deleted stays counted"


def test_process_that_does_not_know_of_the_older_table_learns_of_it(
    both: tuple[Store, Older], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    with closing(open_store(url)) as other:
        other.check()
        (one,) = moved(store, older)
        monkeypatch.setattr(older_rows, "LOOK_SECONDS", 0.0)
        other._older._look_at = 0.0  # type: ignore[attr-defined]
        later = replace(one, result=json_payload("later"))
        assert able(other, Mirrored).mirror(later) == Held(one)
        assert able(other, Mirrored).bury([one.task_id]) == {one.task_id: one}


@pytest.mark.parametrize("verb", ["mirror", "settle"])
def test_task_that_is_moved_while_a_record_is_brought_has_one_result(
    both: tuple[Store, Older], postgres_url: str, verb: str
) -> None:
    """The call looks for the task before the move is committed, and stores the record after it."""
    store, older = both
    moved(store, older)
    one = put_all(store, [finished(OLD)])[0]
    theirs = replace(one, result=json_payload("theirs"))
    with psycopg.connect(postgres_url) as other, ThreadPoolExecutor(1) as executor:
        other.execute("DELETE FROM celery_taskmeta WHERE task_id = %s", [one.task_id])
        answer = executor.submit(getattr(able(store, Mirrored), verb), theirs)
        wait_until(lambda: waits_for_a_row(postgres_url), "the call waits for the move")
        other.execute(
            "INSERT INTO celery_taskmeta_older (task_id, status, result, date_done, drop_after) "
            "SELECT %s, 'SUCCESS', '\"moved\"', date_done, drop_after FROM celery_taskmeta_older",
            [one.task_id],
        )
        other.execute(
            "INSERT INTO celery_taskmeta_moved SELECT hashtextextended(task_id, 0), drop_after "
            "FROM celery_taskmeta_older WHERE task_id = %s",
            [one.task_id],
        )
        other.commit()
        held = answer.result(timeout=60)
    assert held == Held(store.get(one.task_id))
    assert held.record is not None
    assert held.record.result == json_payload("moved" if verb == "mirror" else "theirs")


def test_burials_and_moves_at_the_same_time_lose_nothing(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    records = put_all(store, [finished(OLD) for _ in range(60)])
    ended = threading.Event()

    def move() -> None:
        while not ended.is_set():
            move_all(older, limit=7)

    with in_thread(move) as moving:
        buried = {}
        for one in records:
            buried.update(able(store, Mirrored).bury([one.task_id]))
        ended.set()
        moving.result(timeout=60)
    assert buried == {one.task_id: one for one in records}
    assert rows_of_both(url) == {}
