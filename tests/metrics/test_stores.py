"""The figures of each kind of store, compared with what was stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest

from rootcellar.history.history import History
from rootcellar.metrics.collector import StoreCollector
from rootcellar.metrics.families import exposition
from rootcellar.opening import must_exist
from rootcellar.payloads import Codec
from rootcellar.records import ChordPart, ChordRecord, Payload
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.jobs import recorded
from rootcellar.stores.measures import InMemory
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import (
    HYBRID,
    MONGO,
    MYSQL,
    POSTGRES,
    REDIS,
    REDIS_CLUSTER,
    SQLITE,
    WRITE_BEHIND,
)
from tests.helpers import new_id, now, record, wait_until
from tests.history.stores import opened
from tests.metrics.scraping import Samples, parsed, total, value
from tests.servers import RedisServer

TABLES = [SQLITE, POSTGRES, MYSQL, MONGO, HYBRID]
OLDEST = now() - timedelta(hours=3)


def collected(store: Store) -> Samples:
    return parsed(exposition(StoreCollector(History(store, Codec()), must_exist).families())[0].decode())


@pytest.fixture
def filled(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with 3 results, 2 unfinished tasks of Celery's states and one of another, and 2 chords, one complete."""
    with opened(under_test, request) as store:
        store.put(record(done_at=OLDEST))
        for _ in range(2):
            store.put(record())
            store.put(record(state="STARTED"))
        store.put(record(state="BREWING"))
        for size in (1, 2):
            group = new_id()
            store.begin_chord(ChordRecord(group_id=group, body=Payload(b"{}"), header=Payload(b"[]"), expires_at=None))
            store.size_chord(group, size)
            part = ChordPart(group_id=group, task_id=new_id(), group_index=0, state="SUCCESS", owner="me")
            store.count_part(part, lease=0.0)
        yield store


@pytest.mark.parametrize("under_test", TABLES, ids=lambda each: each.name)
def test_unfinished_tasks_and_chords_are_counted(filled: Store) -> None:
    found = collected(filled)
    assert value(found, "rootcellar_up") == 1
    assert value(found, "rootcellar_unfinished", {"state": "STARTED"}) == 2
    assert value(found, "rootcellar_unfinished", {"state": "other"}) == 1
    assert value(found, "rootcellar_unfinished", {"state": "RETRY"}) == 0
    assert total(found, "rootcellar_unfinished") == 3
    assert value(found, "rootcellar_oldest_result_timestamp_seconds") == pytest.approx(OLDEST.timestamp(), abs=0.002)
    assert value(found, "rootcellar_chords_open") == 2


@pytest.mark.parametrize("under_test", [SQLITE, POSTGRES, MYSQL], ids=lambda each: each.name)
def test_complete_chord_that_nobody_sends_is_counted_as_orphan(filled: Store) -> None:
    assert value(collected(filled), "rootcellar_chords_orphaned") == 1


@pytest.mark.parametrize("under_test", TABLES, ids=lambda each: each.name)
def test_sizes_of_tables_are_read(filled: Store) -> None:
    found = collected(filled)
    tables = {dict(labels)["table"] for name, labels in found if name == "rootcellar_table_rows"}
    assert tables >= {"celery_taskmeta", "celery_groupmeta"} or tables >= {"celery_taskmeta", "celery_taskmeta_chords"}
    assert total(found, "rootcellar_table_bytes") >= 1_000


def test_rows_and_dead_rows_are_those_of_the_catalog(postgres_url: str) -> None:
    store = open_store(postgres_url)
    records = [record() for _ in range(40)]
    for each in records:
        store.put(each)
    with psycopg.connect(postgres_url) as reader, psycopg.connect(postgres_url, autocommit=True) as connection:
        # as long as this transaction may read the deleted rows, their place is not free
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM celery_taskmeta")
        store.delete(each.task_id for each in records[:30])
        # a session reports what it has changed at its end at the latest
        store.close()
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        wait_until(lambda: connection.execute(sessions).fetchone() == (2,), "the sessions of the store have ended")
        connection.execute("ANALYZE celery_taskmeta")
        found = collected(store)
    table = {"table": "celery_taskmeta"}
    assert value(found, "rootcellar_table_rows", table) == 10
    assert value(found, "rootcellar_table_dead_rows", table) == 30
    assert value(found, "rootcellar_table_index_bytes", table) > 0
    store.close()


@pytest.mark.parametrize("under_test", [REDIS, REDIS_CLUSTER], ids=lambda each: each.name)
def test_keys_and_memory_of_redis_are_read(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        for _ in range(25):
            store.put(record())
        found = collected(store)
        assert value(found, "rootcellar_result_keys") == 25
        assert value(found, "rootcellar_memory_bytes") > 100_000
        assert value(found, "rootcellar_memory_limit_bytes") == 0
        assert value(found, "rootcellar_evicted_keys_total") == 0
        assert ("rootcellar_table_rows", ()) not in found


def test_evictions_of_redis_are_counted(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(maxmemory="8mb", maxmemory_policy="allkeys-random")
    store = open_store(server.url, StoreOptions(holds_copies=True))
    store.put(record(value="x"))
    while not value(collected(store), "rootcellar_evicted_keys_total"):
        store.put(record(value="x" * 100_000))
    assert value(collected(store), "rootcellar_memory_limit_bytes") == 8 << 20
    store.close()


def test_keys_are_estimated_when_they_are_too_many_to_count(redis_url: str) -> None:

    store = open_store(redis_url)
    for _ in range(3_000):
        store.put(record())
    in_memory = store.ability(InMemory)
    assert in_memory is not None
    assert 1_500 <= (in_memory.memory_use(budget=0.0).result_keys or 0) <= 6_000
    assert in_memory.memory_use(budget=60.0).result_keys == 3_000
    store.close()


def test_journal_of_write_behind_is_read(request: pytest.FixtureRequest) -> None:
    with opened(WRITE_BEHIND, request) as store:
        store.check()
        for _ in range(3):
            store.put(record())
        found = collected(store)
        assert value(found, "rootcellar_journal_entries", {"status": "waiting"}) == 3
        assert value(found, "rootcellar_journal_entries", {"status": "refused"}) == 0
        assert value(found, "rootcellar_journal_lag_seconds") > 0
        assert value(found, "rootcellar_result_keys") == 3
        assert ("rootcellar_table_rows", (("table", "celery_taskmeta"),)) in found


@pytest.mark.parametrize("under_test", [SQLITE, POSTGRES, MYSQL, HYBRID], ids=lambda each: each.name)
def test_jobs_and_expired_results_are_read(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        for _ in range(3):
            store.put(record(expires_at=OLDEST))
        with recorded(store, "cleanup") as run:
            run.done = 3
        with recorded(store, "move") as run:
            run.ok = False
        found = collected(store)
        assert value(found, "rootcellar_up") == 1
        assert value(found, "rootcellar_job_success_timestamp_seconds", {"name": "cleanup"}) > OLDEST.timestamp()
        assert ("rootcellar_job_success_timestamp_seconds", (("name", "move"),)) not in found
        assert value(found, "rootcellar_job_duration_seconds", {"name": "cleanup"}) >= 0
        assert value(found, "rootcellar_job_failed", {"name": "cleanup"}) == 0
        assert value(found, "rootcellar_job_failed", {"name": "move"}) == 1
        assert value(found, "rootcellar_expired_due") == 3
        assert value(found, "rootcellar_holds") == 0
        assert value(found, "rootcellar_archive_files") == 0
        if under_test is POSTGRES:
            assert value(found, "rootcellar_older_partitions") == 0


def test_forecast_is_exported_if_there_is_a_limit(postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.check()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for ago, size in enumerate((40, 30, 20, 10)):
            noted = (now().date() - timedelta(days=ago), size)
            connection.execute("INSERT INTO celery_taskmeta_size (day, name, bytes) VALUES (%s, 'x', %s)", noted)
    assert ("rootcellar_forecast_days", ()) not in collected(store)
    limited = StoreCollector(History(store, Codec()), must_exist, table_limit=100)
    assert value(parsed(exposition(limited.families())[0].decode()), "rootcellar_forecast_days") == 6
    store.close()
