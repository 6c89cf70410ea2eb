"""Cleanups that are killed or slowed down, two at a time, and results that change while they expire."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pymysql
import pytest
from celery import Celery

from benchmarks.retention.cleanup import ExplainedStore
from rootcellar.errors import StoreUnavailable
from rootcellar.maintenance.cleanup import JOB, Cleanup, CleanupConfig
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.counting import Counted, Question
from rootcellar.stores.expiring import DeletionTooSlow, Due, Expiring
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.mysql import driver
from rootcellar.stores.mysql.url import connection_settings
from rootcellar.testing.helpers import able, json_payload, record, wait_until
from rootcellar.testing.under_test import StoreUnderTest
from tests.cleanup.test_cleanup import SMALL, cleanup_of, hold, left, now, put_due
from tests.history.stores import SQL
from tests.servers import RedisServer
from tests.workers import ROOT, Pool, Worker

#: after so many batches a cleanup is killed
MOMENTS = (1, 3, 8)


@pytest.fixture(params=SQL, ids=str)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    under_test: StoreUnderTest = request.param
    with under_test.new_place(request) as found:
        yield found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = open_store(url)
    yield found
    found.close()


def counted(store: Store) -> int:
    """Return how many finished tasks the statistics count, deleted ones included."""
    ability = able(store, Counted)
    while not ability.roll().is_done:
        pass
    return sum(cell.tally.count for cell in ability.counts(Question()).cells)


def test_cleanup_that_is_killed_is_finished_by_the_next_one(url: str, store: Store) -> None:
    put_due(store, 150, done_at=now() - timedelta(days=2))
    others = [record(expires_at=now() + timedelta(days=1)) for _ in range(5)]
    for one in others:
        store.put(one)
    kept = {one.task_id for one in others}
    assert counted(store) == 155
    for moment in MOMENTS:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.apps.cleaning", url, "7"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = list(itertools.islice(process.stdout, moment))
        assert lines[-1] == f"{7 * moment}\n"
        # in the middle of the next batch, or of what follows it
        process.kill()
        process.wait()
        process.stdout.close()
        assert kept <= left(store)
        assert able(store, Jobs).jobs()[JOB].is_open
    cleaned = cleanup_of(store).clean()
    assert 0 < cleaned.tasks <= 150 - 7 * sum(MOMENTS)
    assert left(store) == kept
    assert counted(store) == 155, "every deleted row is counted once"
    job = able(store, Jobs).jobs()[JOB]
    assert not job.is_open
    assert not job.has_failed


def test_two_cleanups_share_the_work(url: str, store: Store) -> None:
    put_due(store, 60, done_at=now() - timedelta(days=2))
    kept = record(expires_at=None)
    store.put(kept)
    other = open_store(url)
    cleanups = [cleanup_of(each) for each in (store, other)]
    with ThreadPoolExecutor(2) as pool:
        cleaned = list(pool.map(lambda cleanup: cleanup.clean(), cleanups))
    other.close()
    # a row that one of them has locked is left to it
    assert sum(each.tasks for each in cleaned) == 60
    assert all(each.is_complete for each in cleaned)
    assert left(store) == {kept.task_id}
    assert counted(store) == 61


def test_result_that_is_stored_again_while_it_expires_stays(url: str, store: Store) -> None:
    records = put_due(store, 80, state="FAILURE", result=json_payload("first"))
    again = [
        replace(one, state="SUCCESS", result=json_payload("again"), expires_at=now() + timedelta(days=1))
        for one in records
    ]
    other = open_store(url)
    with ThreadPoolExecutor(2) as pool:
        storing = pool.submit(lambda: [other.put(one) for one in again])
        # from the other end, so that the two meet
        cleaning = pool.submit(lambda: cleanup_of(store, replace(SMALL, batch=2)).clean())
        reading = [other.get(one.task_id) for one in records]
        assert all(storing.result())
        assert cleaning.result().is_complete
    other.close()
    assert all(one is None or one.result in (json_payload("first"), json_payload("again")) for one in reading)
    found = store.get_many(one.task_id for one in records)
    assert {one.result for one in found.values()} == {json_payload("again")}
    assert len(found) == 80, "a result that was stored again was deleted"


def test_client_that_waits_gets_its_result_although_an_earlier_state_expires(url: str, store: Store) -> None:
    app = Celery("waiting", backend=f"rootcellar+{url}", broker="memory://", set_as_current=False)
    started = record(state="STARTED", done_at=None, result=None, expires_at=now() - timedelta(hours=1))
    store.put(started)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.AsyncResult(started.task_id).get, timeout=30)
        assert cleanup_of(store).clean().tasks == 1
        assert store.get(started.task_id) is None
        app.backend.store_result(started.task_id, 42, "SUCCESS")
        assert waiting.result() == 42
    app.backend.store.close()


def test_row_that_another_transaction_has_locked_is_left_for_the_next_run(postgres_url: str) -> None:
    store = open_store(postgres_url)
    records = put_due(store, 5)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT FROM celery_taskmeta WHERE task_id = %s FOR UPDATE", [records[2].task_id])
        # without waiting for the lock
        assert cleanup_of(store).clean().tasks == 4
        assert left(store) == {records[2].task_id}
    assert cleanup_of(store).clean().tasks == 1
    store.close()


# -- time-outs


def locked_postgres(url: str) -> Callable[[], object]:
    connection = psycopg.connect(url)
    connection.execute("LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE")
    return connection.close


def locked_mysql(url: str) -> Callable[[], object]:
    connection = pymysql.connect(**connection_settings(url, {}))
    connection.cursor().execute("LOCK TABLES celery_taskmeta WRITE")
    return connection.close


@pytest.mark.parametrize(("server", "lock"), [("postgres_url", locked_postgres), ("mysql_url", locked_mysql)])
def test_time_outs_shrink_the_batch_until_the_lock_is_gone(
    server: str, lock: Callable[[str], Callable[[], object]], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    store = open_store(url)
    put_due(store, 20)
    expiring = able(store, Expiring)
    release = lock(url)
    with pytest.raises(DeletionTooSlow, match=r"not read or deleted within 0\.1 s"):
        expiring.delete_expired_tasks(Due(now=now(), timeout=0.1))
    sizes: list[int] = []
    config = CleanupConfig(batch=16, least_batch=1, timeout=0.1, longest_timeout=0.1)
    cleanup = Cleanup(
        cleanup_of(store)._work, config, lambda cleaned: sizes.append(cleaned.tasks) if cleaned.tasks < 20 else None
    )
    read, tries = cleanup._work.spares.condition, itertools.count(1)

    def condition() -> Any:
        if next(tries) == 4:
            release()
        return read()

    cleanup._work.spares.condition = condition  # type: ignore[method-assign]
    cleaned = cleanup.clean()
    assert (cleaned.tasks, cleaned.is_complete) == (20, True)
    assert sizes[:3] == [1, 2, 3], "after three time-outs in a row, a batch has the smallest size"
    store.close()


def test_cleanup_fails_after_five_time_outs_and_says_so(postgres_url: str) -> None:
    store = open_store(postgres_url)
    put_due(store, 3)
    release = locked_postgres(postgres_url)
    config = CleanupConfig(batch=8, least_batch=1, timeout=0.01, longest_timeout=0.01)
    cleanup = cleanup_of(store, config)
    with pytest.raises(DeletionTooSlow):
        cleanup.clean()
    assert not cleanup.cleaned.is_complete
    release()
    job = able(store, Jobs).jobs()[JOB]
    assert job.has_failed
    assert "a batch of expired results was not" in str(job.note)
    assert cleanup_of(store).run_once() == 3, "a failed run is no reason to wait for an hour"
    store.close()


# -- counts of a batch that fails


def test_batch_that_fails_in_its_middle_counts_what_was_deleted(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL deletes a batch in several transactions."""
    monkeypatch.setattr(driver, "SESSION", (*driver.SESSION, "SET SESSION innodb_lock_wait_timeout = 1"))
    monkeypatch.setattr("rootcellar.stores.mysql.store._CONFLICT_TRIES", 1)
    store = open_store(mysql_url)
    store.MANY = 10  # type: ignore[attr-defined]
    # of a few rows, the server would read and lock all
    records = put_due(store, 200)
    with closing(pymysql.connect(**connection_settings(mysql_url, {}))) as other:
        other.cursor().execute("SELECT 1 FROM celery_taskmeta WHERE task_id = %s FOR UPDATE", [records[25].task_id])
        cleanup = cleanup_of(store, CleanupConfig())
        monkeypatch.setattr("rootcellar.maintenance.cleanup.TRIES", 1)
        with pytest.raises(StoreUnavailable):
            cleanup.clean()
        assert (cleanup.cleaned.tasks, len(left(store))) == (20, 180)
    assert cleanup_of(store, CleanupConfig()).clean().tasks == 180
    store.close()


def test_doubtful_results_are_counted_if_a_later_page_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server does not test their hold exactly, so each is read and decided here."""
    monkeypatch.setattr("rootcellar.maintenance.cleanup._READ_AT_ONCE", 2)
    put_due(store, 6, result=json_payload("free"))
    hold(store, "result:zzzz*")
    cleanup = cleanup_of(store, CleanupConfig())
    read, tries = cleanup._work.spares.free, itertools.count(1)

    def free(records: Any) -> Any:
        if next(tries) == 2:
            raise StoreUnavailable("it cannot be reached", where="here")
        return read(records)

    cleanup._work.spares.free = free  # type: ignore[method-assign]
    assert cleanup.clean().tasks == 6
    assert next(tries) > 3
    assert not left(store)


# -- real workers


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_worker_cleans_up_without_beat(pool: Pool, redis_server: RedisServer, postgres_url: str) -> None:
    store = open_store(postgres_url)
    first = put_due(store, 12)
    kept = record(expires_at=now() + timedelta(hours=1))
    store.put(kept)
    conf = json.dumps({"result_backend_transport_options": {"cleanup_interval": 0.05}})
    env = {"TEST_BROKER": redis_server.url, "TEST_BACKEND": f"rootcellar+{postgres_url}", "TEST_CONF": conf}
    with Worker("tests.apps.failing", env=env, pool=pool):
        wait_for(store, first)
        wait_for(store, put_due(store, 3))
    assert left(store) == {kept.task_id}
    store.close()


def wait_for(store: Store, gone: list[TaskRecord]) -> None:
    wait_until(lambda: not store.get_many(one.task_id for one in gone), "the worker's cleanup")


# -- an old snapshot


def test_late_batch_reads_as_many_pages_as_the_first_while_an_old_snapshot_is_open(postgres_url: str) -> None:
    store = ExplainedStore(postgres_url)
    store.check()
    with psycopg.connect(postgres_url) as filling:
        filling.execute(
            "INSERT INTO celery_taskmeta (task_id, status, date_done, expires_at, traceback) "
            "SELECT 'task-' || n, 'SUCCESS', now() - interval '2 days', now() - n * interval '1 second', "
            "repeat('x', 1500) "
            "FROM generate_series(1, 12000) AS n"
        )
        filling.commit()
        filling.execute("ANALYZE celery_taskmeta")
    with psycopg.connect(postgres_url) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM celery_taskmeta")
        due = Due(now=now(), limit=100)
        first = store.pages(due)
        for _ in range(99):
            due = replace(due, after=store.delete_expired_tasks(due).last)
        late, from_the_beginning = store.pages(due), store.pages(replace(due, after=None))
    assert late <= 1.5 * first
    assert from_the_beginning > 3 * first, "the test would not see it"
    store.close()
