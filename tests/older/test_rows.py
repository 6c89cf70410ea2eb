"""A result that was moved is read, stored again, replaced, forgotten and kept like any other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

import psycopg
import pytest
import redis

from rootcellar.errors import PermissionDenied, ResultsInTheWay
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import ChordRecord, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import Queryable, RecordsSent, Replaceable, TaskQuery
from rootcellar.stores.counting import Counted, Question
from rootcellar.stores.expiring import NewExpiry, Postponable
from rootcellar.stores.journal import TakesBatches
from rootcellar.stores.older import Older
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.older_rows import day_of
from rootcellar.testing.helpers import able, json_payload, new_id, part
from tests.behind.helpers import open_behind
from tests.commands import run_here
from tests.conformance.registered import hybrid_of_postgres_and_redis
from tests.helpers import PATIENCE
from tests.older.tables import (
    disable,
    enable,
    finished,
    listed,
    move_all,
    now,
    opened,
    put_all,
    query,
    rows_in,
    rows_of_both,
)
from tests.servers import PgBouncerServer, PostgresServer, RedisServer

OLD = timedelta(days=5)
LIVE = "celery_taskmeta"


@pytest.fixture(params=["direct", "pgbouncer"])
def url(request: pytest.FixtureRequest, postgres_url: str) -> str:
    """The URL of an empty database, also through PgBouncer in transaction mode."""
    if request.param == "direct":
        return postgres_url
    pooler: PgBouncerServer = request.getfixturevalue("pgbouncer_server")
    return pooler.through(postgres_url)


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


def test_moved_task_is_read_by_every_call(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    records = moved(store, older, 5)
    live = put_all(store, [finished(timedelta(hours=1))])[0]
    everything = {each.task_id: each for each in (*records, live)}
    assert [store.get(each.task_id) for each in records] == records
    assert store.get_many([*everything, "missing"]) == everything
    assert store.get("missing") is None
    assert [each.task_id for each in store.scan()] == sorted(everything)
    assert [each.task_id for each in store.scan(sorted(everything)[2], 2)] == sorted(everything)[3:5]
    found = able(store, Queryable).query(TaskQuery(names=("shop.*",)))
    assert found[0].task_id == live.task_id
    assert {each.task_id: each for each in found} == everything
    assert len(query(url, "SELECT task_id, result, date_done FROM celery_taskmeta_all")) == 6


def test_moved_tasks_of_every_week_are_read_again_and_again(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    records = put_all(store, [finished(OLD, expires_at=now() + timedelta(days=20 * number)) for number in range(1, 20)])
    records += put_all(store, [finished(OLD, expires_at=None), finished(OLD, expires_at=now() + timedelta(days=5_000))])
    assert move_all(older) == len(records)
    for _ in range(12):
        # the statement is prepared after a few reads, and the server keeps a plan after five executions
        assert [store.get(each.task_id) for each in records] == records
    later = now() + timedelta(days=300)
    assert able(store, Postponable).set_expiries([NewExpiry(each, later) for each in records]) == len(records)
    assert [store.get(each.task_id) for each in records] == [replace(each, expires_at=later) for each in records]
    assert store.delete([each.task_id for each in records]) == len(records)
    assert [store.get(each.task_id) for each in records] == [None] * len(records)


def test_plan_that_the_server_keeps_for_moved_tasks_locks_only_the_partitions_of_some_weeks(postgres_url: str) -> None:
    with opened(postgres_url, pool_size=1) as (store, older):
        enable(store, older)
        records = put_all(store, [finished(OLD, expires_at=now() + timedelta(weeks=weeks)) for weeks in range(1, 40)])
        assert move_all(older) == len(records)
        for _ in range(12):
            assert store.get(records[20].task_id) == records[20]

        def locks_of_a_read(connection: Connection) -> list[tuple[str, str]]:
            with connection.transaction():
                (name,) = (name for name in connection.prepared if name.startswith(b"rc_get_older_task"))
                day = day_of(records[20].expires_at).isoformat()
                (plan,) = connection.execute(
                    b"EXPLAIN (FORMAT JSON) EXECUTE %b('%b', '%b')"
                    % (name, records[20].task_id.encode(), day.encode()),
                    prepare=False,
                ).fetchall()
                assert plan[0][0]["Plan"]["Subplans Removed"] > 1, "the plan is for several days, and kept"
                return connection.execute(
                    "SELECT relation::regclass::text, mode FROM pg_locks "
                    "WHERE pid = pg_backend_pid() AND relation::regclass::text LIKE 'celery_taskmeta_older%'",
                    prepare=False,
                ).fetchall()

        locks = store._run(locks_of_a_read)  # type: ignore[attr-defined]
    # eight weeks may begin within a week of their own, and there are the older table and an index
    assert len(locks) <= 11
    assert {mode for _, mode in locks} == {"AccessShareLock"}


@pytest.mark.parametrize(
    "given", [{"retries": 1}, {"sent_at": None}, {}], ids=["tried again", "unknown", "sent long ago"]
)
def test_success_that_was_moved_stays_if_its_task_is_stored_again(
    both: tuple[Store, Older], url: str, given: dict[str, Any]
) -> None:
    store, older = both
    (success,) = moved(store, older)
    for state in ("FAILURE", "SUCCESS", "STARTED"):
        done = None if state == "STARTED" else now()
        again = replace(success, state=state, result=json_payload("again"), done_at=done, **given)
        stored = store.put(again)
        assert (stored.written, stored.inserted) == (False, False)
    assert store.get(success.task_id) == success
    assert rows_in(url, LIVE) == {}


def test_failure_of_an_id_that_was_sent_again_is_not_written_beside_a_moved_success(
    both: tuple[Store, Older], url: str
) -> None:
    store, older = both
    (success,) = moved(store, older)
    assert not store.put(replace(success, state="FAILURE", sent_at=now(), done_at=now())).written
    assert store.get(success.task_id) == success
    assert rows_in(url, LIVE) == {}


def test_every_reader_and_the_mover_keep_the_success_of_an_id_that_was_sent_again(
    both: tuple[Store, Older], url: str
) -> None:
    store, older = both
    records = sorted(moved(store, older, 3), key=lambda record: record.task_id)
    for one in records:
        store.put(replace(one, result=json_payload("again"), sent_at=now(), done_at=now() - OLD))
    assert len(rows_in(url, LIVE)) == 3, "the second rows"
    ids = [one.task_id for one in records]
    arrived: list[Any] = []
    is_complete = threading.Event()

    def deliver(notifications: Any) -> None:
        arrived.extend(notifications)
        if len(arrived) == len(ids):
            is_complete.set()

    def read() -> None:
        assert [store.get(each) for each in ids] == records
        assert store.get_many(ids) == dict(zip(ids, records, strict=True))
        for limit in (1, 2, 3, 4):
            # a page has fewer tasks only if there are no more
            assert store.scan(None, limit) == records[:limit]
        assert store.scan(ids[0], 2) == records[1:]

    read()
    store.watcher().subscribe(ids, deliver)
    assert is_complete.wait(PATIENCE)
    assert sorted(arrived, key=lambda record: record.task_id) == records
    move_all(older)
    assert rows_in(url, LIVE) == {}
    read()


def test_failure_that_was_moved_is_replaced_and_keeps_its_other_fields(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    counted = able(store, Counted)
    counted.roll()
    (failure,) = moved(store, older, state="FAILURE", args=json_payload([1]))
    counted.roll()
    again = replace(failure, state="SUCCESS", result=json_payload("better"), args=None, retries=1, done_at=now())
    assert store.put(again).written
    assert store.get(failure.task_id) == replace(again, args=failure.args)
    assert (len(rows_of_both(url)), listed(url)) == (1, 0)
    for _ in range(2):
        cells = counted.counts(Question(by_state=True)).cells
        assert [(cell.state, cell.tally.count) for cell in cells] == [("SUCCESS", 1)]
        counted.roll()


def test_part_of_a_chord_is_counted_if_its_task_was_moved(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (success,) = moved(store, older)
    (failure,) = moved(store, older, state="FAILURE")
    group = new_id()
    store.begin_chord(ChordRecord(group_id=group, body=json_payload({}), header=None, expires_at=None))
    store.size_chord(group, 2)
    kept = store.put(replace(success, state="FAILURE", retries=1), part(group, success.task_id, 0))
    assert not kept.written
    assert kept.chord is not None
    assert kept.chord.counted == 1
    replaced = store.put(replace(failure, state="SUCCESS", retries=1), part(group, failure.task_id, 1))
    assert replaced.written
    assert replaced.chord is not None
    assert (replaced.chord.counted, replaced.chord.claimed) == (2, True)
    assert {state for (state,) in query(url, "SELECT status FROM celery_taskmeta_all")} == {"SUCCESS"}


def test_part_without_a_result_has_that_of_its_moved_task(both: tuple[Store, Older]) -> None:
    store, older = both
    (success,) = moved(store, older, result=json_payload("early"))
    group = new_id()
    store.begin_chord(ChordRecord(group_id=group, body=json_payload({}), header=None, expires_at=None))
    store.count_part(part(group, success.task_id, 0))
    (found,) = store.chord_parts(group)
    assert found.result == json_payload("early")


def test_sent_record_makes_no_second_row_of_a_moved_task(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (success,) = moved(store, older)
    other = replace(success, task_id=new_id(), state="SENT", done_at=None)
    able(store, RecordsSent).put_sent([replace(success, state="SENT", done_at=None), other])
    assert set(rows_in(url, LIVE)) == {other.task_id}
    assert store.get(success.task_id) == success


def test_values_of_a_moved_task_are_replaced_only_if_it_has_not_changed(both: tuple[Store, Older]) -> None:
    store, older = both
    (old,) = moved(store, older)
    new = replace(old, result=json_payload("other"), traceback="new")
    assert not able(store, Replaceable).replace(replace(old, traceback="another"), new)
    assert able(store, Replaceable).replace(old, new)
    assert store.get(old.task_id) == new


def test_moved_task_is_forgotten_with_its_entry(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    first, second, third = moved(store, older, 3)
    with able(store, TakesBatches).exclusive_batch() as batch:
        assert batch is not None
        batch.delete([first.task_id])
        assert set(batch.get_many([first.task_id, second.task_id])) == {second.task_id}
    assert store.delete([second.task_id, "missing"]) == 1
    assert (list(rows_of_both(url)), listed(url)) == ([third.task_id], 1)


def test_new_expiry_moves_a_row_to_another_partition(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    kept, never, other = moved(store, older, 3)
    later = now() + timedelta(days=200)
    changes = [NewExpiry(kept, later), NewExpiry(never, None), NewExpiry(replace(other, state="FAILURE"), None)]
    assert able(store, Postponable).set_expiries(changes) == 2
    days = dict(query(url, "SELECT task_id, drop_after FROM celery_taskmeta_older"))
    assert days == {
        each.task_id: day_of(expires) for each, expires in ((kept, later), (never, None), (other, other.expires_at))
    }
    assert listed(url) == 3
    found = store.get_many(days)
    assert (found[kept.task_id].expires_at, found[never.task_id].expires_at) == (later, None)
    assert store.delete(days) == 3
    assert listed(url) == 0


def test_new_expiry_of_a_moved_task_needs_one_connection_only(postgres_url: str) -> None:
    with opened(postgres_url, pool_size=1, pool_timeout=1.0) as (store, older):
        enable(store, older)
        (record,) = moved(store, older)
        later = now() + timedelta(days=300)
        assert able(store, Postponable).set_expiries([NewExpiry(record, later)]) == 1
        assert store.get(record.task_id) == replace(record, expires_at=later)


_LATER = timedelta(days=90)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda store, record: store.delete([record.task_id]), 1),
        (lambda store, record: store.put(replace(record, done_at=now(), retries=1)).written, True),
        (lambda store, record: able(store, Replaceable).replace(record, replace(record, worker="other")), True),
    ],
    ids=["forget", "put", "replace"],
)
def test_row_that_moves_to_another_partition_meanwhile_is_changed_all_the_same(
    postgres_url: str, change: Callable[[Store, TaskRecord], Any], expected: Any
) -> None:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        (record,) = moved(store, older, state="FAILURE")
        day = day_of(now() + _LATER)
        older.ensure_partitions([day])
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(change(store, record)))
        with psycopg.connect(postgres_url) as other:
            # as `retention apply` does it, which would be too fast
            for table in ("celery_taskmeta_older", "celery_taskmeta_moved"):
                other.execute(f"UPDATE {table} SET drop_after = %s", [day])  # type: ignore[arg-type]  # noqa: S608
            thread.start()
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
            while query(postgres_url, waits) != [(1,)]:
                assert thread.is_alive()
            other.commit()
            thread.join(PATIENCE)
        assert answers == [expected]


def test_batch_keeps_a_moved_success_and_replaces_a_moved_failure(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (success,), (failure,) = moved(store, older), moved(store, older, state="FAILURE")
    new = finished(timedelta(seconds=1))
    with able(store, TakesBatches).exclusive_batch() as batch:
        assert batch is not None
        answers = batch.put([replace(success, state="FAILURE"), replace(failure, state="SUCCESS"), new])
    assert [(each.written, each.inserted) for each in answers] == [  # type: ignore[union-attr]
        (False, False),
        (True, False),
        (True, True),
    ]
    assert {each.state for each in store.scan()} == {"SUCCESS"}
    assert len(rows_of_both(url)) == 3


def test_process_learns_of_a_new_older_table_when_it_finds_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.postgres.older_rows.LOOK_SECONDS", 0.0)
    with opened(postgres_url) as (early, _), opened(postgres_url) as (store, older):
        early.check()
        enable(store, older)
        success, failure = moved(store, older), moved(store, older, state="FAILURE")
        assert early.get(success[0].task_id) == success[0]
    with opened(postgres_url) as (store, older):
        assert store.put(replace(failure[0], state="SUCCESS", retries=1)).written
    assert len(rows_of_both(postgres_url)) == 2


def test_worker_that_only_stores_learns_of_a_new_older_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.postgres.older_rows.LOOK_SECONDS", 0.0)
    with opened(postgres_url) as (worker, _), opened(postgres_url) as (store, older):
        worker.check()
        enable(store, older)
        (success,) = moved(store, older)
        assert not worker.put(replace(success, state="FAILURE", retries=1)).written
    assert list(rows_in(postgres_url, LIVE)) == []


def test_worker_learns_of_a_shorter_window_of_a_new_older_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.postgres.older_rows.LOOK_SECONDS", 0.0)
    window = timedelta(hours=1)
    with opened(postgres_url) as (worker, _), opened(postgres_url) as (store, older):
        enable(store, older)
        worker.check()
        disable(older)
        older.enable(window)
        store.put(success := finished(timedelta(hours=3)))
        assert move_all(older, window=window) == 1
        # a task without a failure, which would ask the index in any case
        assert not worker.put(replace(success, result=json_payload("late"), done_at=now())).written
    assert list(rows_in(postgres_url, LIVE)) == []


def test_process_goes_on_when_the_older_table_is_dropped(both: tuple[Store, Older], url: str) -> None:
    store, older = both
    (success,) = moved(store, older)
    with opened(url) as (other, _):
        assert other.get(success.task_id) == success
        assert disable(older) == 1
        assert other.get(success.task_id) == success
        assert other.get("missing") is None
        assert other.put(replace(success, state="FAILURE", retries=1)).written is False
        assert other.get_many([success.task_id]) == {success.task_id: success}
        assert other.delete([success.task_id]) == 1


def test_statements_without_an_older_table_name_nothing_of_it(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(fsync=False, log_statement="all")
    database = server.create_database()
    with closing(open_store(database)) as store:
        store.check()
        query(database, "SELECT 'the store knows its tables'")
        record = finished(timedelta(seconds=5), state="FAILURE")
        store.put(record)
        store.put(replace(record, retries=1))
        store.get("missing")
        store.get_many([record.task_id, "missing"])
        able(store, Replaceable).replace(record, record)
        able(store, RecordsSent).put_sent([replace(record, state="SENT", done_at=None)])
        list(store.scan())
        store.delete([record.task_id])
    text = server.log.read_text().partition("the store knows its tables")[2]
    assert 'INSERT INTO "celery_taskmeta"' in text
    looks = [line for line in text.splitlines() if "_older" in line or "_moved" in line]
    assert len(looks) <= 1, "one look for the table when a process has found nothing"


def test_fifty_clients_ask_at_once_for_missing_ids_over_365_partitions(
    new_postgres: Callable[..., PostgresServer],
) -> None:
    database = new_postgres(max_connections=100, fsync=False).create_database()
    with opened(database) as (store, older):
        enable(store, older)
        (record,) = moved(store, older)
        made = older.partitions()
        first = max(each.until for each in made if each.until is not None)
        days = (first + timedelta(days=number) for number in range(366 - len(made)))
        query(
            database,
            ";".join(
                f"CREATE TABLE more_{day:%Y%m%d} PARTITION OF celery_taskmeta_older "
                f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
                for day in days
            ),
        )
        assert len(older.partitions()) == 366
    start = threading.Barrier(50)
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            with opened(database, pool_size=1) as (one, _):
                one.check()
                start.wait(PATIENCE)
                for _ in range(20):
                    assert one.get(new_id()) is None
                    assert one.get_many([new_id() for _ in range(10)]) == {}
                for _ in range(12):
                    assert one.get(record.task_id) == record
        except BaseException as exc:  # for the test, in its own thread
            problems.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not problems, problems[0]
    with psycopg.connect(database) as connection:
        # prepared or not, the statement of a missing id locks only the live table and the index of moved ids
        text = "SELECT 1 FROM celery_taskmeta WHERE task_id = 'x' UNION ALL "
        text += "SELECT 1 FROM celery_taskmeta_moved WHERE id = 5"
        connection.execute(text.encode())
        ((locks,),) = connection.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()").fetchall()
    assert locks <= 20


def test_write_through_caches_nothing_of_a_task_that_was_moved(request: pytest.FixtureRequest) -> None:
    with (
        hybrid_of_postgres_and_redis(request) as hybrid_url,
        closing(open_store(hybrid_url)) as hybrid,
        closing(open_store(hybrid_url)) as other,
    ):
        hybrid.check()
        able(hybrid, Older).enable()
        hybrid.check()
        success = finished(OLD)
        hybrid.put(success)
        assert move_all(able(hybrid, Older)) == 1
        with redis.Redis.from_url(dict(parse_qsl(hybrid_url.partition("?")[2]))["cache_url"]) as cache:
            cache.flushdb()
        false = replace(success, result=json_payload("false"), done_at=now(), retries=1)
        assert not hybrid.put(false).written
        assert other.get(success.task_id) == success
        assert hybrid.get(success.task_id) == success


@pytest.mark.parametrize("state", ["FAILURE", "SUCCESS"])
def test_late_record_of_write_behind_does_not_replace_a_moved_success(
    postgres_url: str, kept_redis_server: RedisServer, state: str
) -> None:
    kept_redis_server.flush()
    with opened(postgres_url) as (store, older), closing(open_behind(postgres_url, kept_redis_server.url)) as behind:
        enable(store, older)
        (success,) = moved(store, older)
        behind.put(replace(success, state=state, result=json_payload("late"), done_at=now(), retries=1))
        assert behind.drain_all() == 1
        assert store.get(success.task_id) == success
        assert list(rows_in(postgres_url, LIVE)) == []
        behind.delete([success.task_id])
        behind.drain_all()
        assert store.get(success.task_id) is None
        assert (rows_of_both(postgres_url), listed(postgres_url)) == ({}, 0)


def test_reader_sees_moved_results_and_may_not_change_them(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(fsync=False)
    database = server.create_database()
    server.execute("CREATE ROLE reader LOGIN PASSWORD 'pw'; CREATE ROLE second LOGIN PASSWORD 'pw'")
    with opened(database) as (store, older):
        store.check()
        query(database, store.schema.grants("reader", "reader"))
        # those who have rights on the live table get them on the new one
        enable(store, older)
        query(database, store.schema.grants("reader", "second"))
        (success,) = moved(store, older)
    for user in ("reader", "second"):
        rest = database.partition("@")[2]
        with closing(open_store(f"postgresql://{user}:pw@{rest}", StoreOptions(create_tables=False))) as reader:
            assert reader.get(success.task_id) == success
            assert [each.task_id for each in reader.scan()] == [success.task_id]
            with pytest.raises(PermissionDenied):
                reader.delete([success.task_id])


def test_schema_knows_the_older_table(postgres_url: str) -> None:
    def printed(*arguments: str) -> str:
        return run_here("schema", *arguments, "-b", postgres_url).out

    with opened(postgres_url) as (store, older):
        store.check()
        assert "older" not in printed("status")
        query(postgres_url, printed("sql", "--older"))
        assert not older.enable(), "the script has created it"
        status = older.status()
        assert status.enabled_at is not None
        assert status.now is not None
        # so the mover waits for the first minute
        assert timedelta(0) <= status.now - status.enabled_at < timedelta(hours=1)
        assert status.window == timedelta(days=2)
        store.check()
        assert 'moved to "celery_taskmeta_older"' in printed("status")
        moved(store, older)
        query(postgres_url, 'DROP TABLE "celery_taskmeta_moved"')
        assert 'the table "celery_taskmeta_moved" is missing' in printed("status")


def test_tables_are_dropped_with_the_older_one(postgres_url: str) -> None:
    query(postgres_url, "CREATE TABLE celery_taskmeta (id integer PRIMARY KEY, task_id text, date_done timestamp)")
    with opened(postgres_url) as (store, older):
        store.schema.adopt(None)
        enable(store, older)
        moved(store, older)
        with pytest.raises(ResultsInTheWay, match="1 results"):
            store.schema.unadopt()
        store.schema.unadopt(drop_results=True)
    left = query(
        postgres_url, "SELECT relname FROM pg_class WHERE relname LIKE 'celery%' AND relkind IN ('r', 'p', 'v')"
    )
    assert left == [("celery_taskmeta",)]


def test_lists_go_on_over_the_older_table_by_its_indexes(url: str) -> None:
    with opened(url) as (store, older):
        enable(store, older)
        for days in range(3, 40):
            put_all(
                store,
                [
                    finished(timedelta(days=days), name=name, expires_at=now() + timedelta(days=days * 9))
                    for name in ("shop.pay", "shop.ship")
                ],
            )
        put_all(store, [finished(timedelta(days=10), name="shop.rare", state="FAILURE")])
        put_all(store, [finished(timedelta(hours=1), name="shop.pay")])
        everything = [each.task_id for each in able(store, Queryable).query(TaskQuery(limit=1_000))]
        assert move_all(older) == 75
        assert len(older.partitions()) > 20
        history = History(store, codec_of({}), zone=timezone.utc)
        for text in ("", "task:shop.pay", "task:shop.*", "state:failed", "task:shop.rare state:failed", "queue:celery"):
            tasks = [each.task_id for each in history.tasks(text, size=7)]
            wanted = [each for each in everything if each in tasks]
            assert tasks == wanted, text
            assert len(tasks) == {"": 76, "task:shop.pay": 38, "task:shop.*": 76, "queue:celery": 76}.get(text, 1)
        oldest_first = history.tasks("since:90d sort:done", size=3).page().records
        assert [each.task_id for each in oldest_first] == everything[:-4:-1]
        for text in ("", "since:20d", "task:shop.pay since:100d"):
            assert history.count(text).value == len(list(history.tasks(text))), text


@pytest.mark.parametrize(
    ("older_state", "live_state", "counted"),
    [("SUCCESS", "FAILURE", "SUCCESS"), ("FAILURE", "SUCCESS", "SUCCESS"), ("SUCCESS", "STARTED", "SUCCESS")],
)
def test_lists_have_one_row_of_a_task_that_is_in_both_tables(
    both: tuple[Store, Older], url: str, older_state: str, live_state: str, counted: str
) -> None:
    store, older = both
    ids = {each.task_id for each in moved(store, older, 3, state=older_state)}
    done = "NULL" if live_state == "STARTED" else "now()"
    # as a process stores it that does not know of the older table yet
    query(
        url,
        "INSERT INTO celery_taskmeta (task_id, status, name, date_sent, date_done, expires_at) "  # noqa: S608 - ours
        f"SELECT task_id, '{live_state}', name, date_sent, {done}, expires_at FROM celery_taskmeta_older",
    )
    assert query(url, "SELECT count(*) FROM celery_taskmeta_all") == [(6,)]
    history = History(store, codec_of({}), zone=timezone.utc)
    for limit in (2, 3, 100):
        found = able(store, Queryable).query(TaskQuery(limit=limit))
        assert [each.state for each in found] == [counted] * min(limit, 3)
        assert len({each.task_id for each in found}) == len(found)
    for text in ("", "sort:done since:90d", "task:shop.pay"):
        tasks = list(history.tasks(text, size=2))
        assert {each.task_id for each in tasks} == ids, text
        assert [each.state for each in tasks] == [counted] * 3, text
    assert not list(history.tasks("state:failed"))


@pytest.mark.parametrize("where", ["date_done < now()", "name = 'shop.pay' AND date_done < now()"])
def test_each_partition_is_read_by_its_index(postgres_url: str, where: str) -> None:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        put_all(store, [finished(OLD, expires_at=now() + timedelta(days=10 * number)) for number in range(1, 9)])
        assert move_all(older) == 8
        partitions = older.partitions()
    text = f"SELECT * FROM celery_taskmeta_older WHERE {where} ORDER BY date_done DESC LIMIT 5"  # noqa: S608 - ours
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {text}".encode()))
    assert "Seq Scan" not in plan
    assert "Sort" not in plan.replace("Sort Key", ""), plan
    assert plan.count("Index Scan") == len(partitions), plan
