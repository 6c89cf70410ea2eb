"""Jobs and sizes are kept beside the results, on every SQL store and on a hybrid before one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.errors import StoreUnavailable
from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.payloads import Codec
from rootcellar.stores import Store, open_store
from rootcellar.stores.jobs import Jobs, note_sizes, recorded
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import HYBRID, MONGO, REDIS, run_on_postgres
from tests.helpers import new_id, record
from tests.history.stores import SQL, opened


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def jobs(store: Store) -> Jobs:
    found = store.ability(Jobs)
    assert found is not None
    return found


def test_run_is_open_until_it_ends(jobs: Jobs) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    jobs.begin_job("cleanup")
    (job,) = jobs.jobs().values()
    assert job.name == "cleanup"
    assert job.is_open
    assert not job.has_failed
    assert before < job.started_at < before + timedelta(minutes=5)
    jobs.end_job("cleanup", 12, "12 rows")
    job = jobs.jobs()["cleanup"]
    assert not job.is_open
    assert (job.done, job.note, job.has_failed) == (12, "12 rows", False)
    assert job.succeeded_at == job.ended_at
    assert job.seconds is not None
    assert 0 <= job.seconds < 300


def test_failed_run_leaves_when_the_last_one_succeeded(jobs: Jobs) -> None:
    jobs.begin_job("cleanup")
    jobs.end_job("cleanup", 12)
    succeeded_at = jobs.jobs()["cleanup"].succeeded_at
    jobs.begin_job("cleanup")
    jobs.end_job("cleanup", 1, "x" * 5_000 + "\0", ok=False)
    job = jobs.jobs()["cleanup"]
    assert job.has_failed
    assert job.succeeded_at == succeeded_at
    assert job.note == "x" * 1_000


def test_run_that_began_again_keeps_what_the_last_one_did(jobs: Jobs) -> None:
    jobs.begin_job("move")
    jobs.end_job("move", 7, "7 rows")
    jobs.begin_job("move")
    job = jobs.jobs()["move"]
    assert job.is_open
    assert (job.done, job.note) == (7, "7 rows")


def test_error_is_recorded_and_raised(store: Store, jobs: Jobs) -> None:
    def fail() -> None:
        with recorded(store, "cleanup") as run:
            run.done = 3
            raise StoreUnavailable("the server is gone", where="here", remedy="start it")

    with pytest.raises(StoreUnavailable):
        fail()
    job = jobs.jobs()["cleanup"]
    assert job.has_failed
    assert job.done == 3
    assert "the server is gone" in (job.note or "")


def test_interruption_is_recorded_and_raised(store: Store, jobs: Jobs) -> None:
    with pytest.raises(KeyboardInterrupt), recorded(store, "cleanup"):
        raise KeyboardInterrupt
    assert jobs.jobs()["cleanup"].note == "interrupted"


def test_size_is_noted_once_a_day(store: Store, jobs: Jobs) -> None:
    for _ in range(50):
        store.put(record(value="x" * 1_000))
    jobs.note_sizes()
    jobs.note_sizes()
    today = datetime.now(timezone.utc).date()
    found = jobs.sizes(today - timedelta(days=1))
    assert len({size.name for size in found}) == len(found)
    assert sum(size.bytes for size in found) > 50_000
    assert jobs.sizes(today + timedelta(days=2)) == []


@pytest.mark.parametrize("under_test", SQL, ids=lambda under_test: under_test.name)
def test_old_sizes_are_forgotten(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    assert under_test.run_sql is not None
    with under_test.new_place(request) as url, closing(open_store(url)) as store:
        jobs = store.ability(Jobs)
        assert jobs is not None
        jobs.note_sizes()
        today = datetime.now(timezone.utc).date()
        for days in (399, 500):
            values = f"('{today - timedelta(days=days)}', 'x', 1);"
            under_test.run_sql(url, "INSERT INTO celery_taskmeta_size (day, name, bytes) VALUES " + values)  # noqa: S608
        jobs.note_sizes()
        assert min(size.day for size in jobs.sizes(today - timedelta(days=1_000))) == today - timedelta(days=399)


def test_cleanup_notes_the_sizes(store: Store, jobs: Jobs) -> None:
    cleanup = Cleanup(CleanupWork.of(store, Codec(), {}))
    assert cleanup.clean().is_complete
    assert jobs.sizes(datetime.now(timezone.utc).date() - timedelta(days=1)) != []


def test_cleanup_goes_on_if_it_cannot_note_the_sizes(postgres_url: str) -> None:
    with closing(open_store(postgres_url)) as store:
        store.put(record(expires_at=datetime(2020, 1, 1, tzinfo=timezone.utc)))
        run_on_postgres(postgres_url, "DROP TABLE celery_taskmeta_size")
        cleaned = Cleanup(CleanupWork.of(store, Codec(), {})).clean()
        assert (cleaned.tasks, cleaned.is_complete) == (1, True)


def test_missing_right_is_logged_once(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    user = f"without_{new_id()[:8]}"
    with closing(open_store(postgres_url)) as store:
        store.put(record())
    run_on_postgres(postgres_url, f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    run_on_postgres(postgres_url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON celery_taskmeta TO {user}")
    run_on_postgres(postgres_url, f"GRANT SELECT ON rootcellar_schema TO {user}")
    with closing(open_store(f"postgresql://{user}:x@{postgres_url.partition('@')[2]}")) as store:
        for _ in range(3):
            with recorded(store, "cleanup"):
                pass
            note_sizes(store)
    run_on_postgres(postgres_url, f"DROP OWNED BY {user}; DROP ROLE {user}")
    messages = [found.getMessage() for found in caplog.records if found.levelname == "WARNING"]
    assert len(messages) == 2, messages
    assert "the end of the job" not in str(messages)
    assert "Could not record that the job cleanup begins" in messages[0]


@pytest.mark.parametrize("under_test", [REDIS, MONGO], ids=lambda under_test: under_test.name)
def test_store_without_tables_keeps_no_jobs(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        assert store.ability(Jobs) is None
        with recorded(store, "cleanup") as run:
            run.done = 1
