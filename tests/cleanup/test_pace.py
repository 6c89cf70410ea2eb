"""The pauses of a cleanup: for a slow server, and for replicas that are behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from rootcellar.errors import ConfigurationError, PermissionDenied
from rootcellar.maintenance.cleanup import CleanupConfig
from rootcellar.maintenance.pace import FIRST_SHARE, LARGEST_SHARE, LONGEST_PAUSE, SLOW, Pace
from rootcellar.stores import Store, open_store
from rootcellar.stores.expiring import Replicated
from rootcellar.testing.helpers import able, wait_until
from tests.cleanup.test_cleanup import cleanup_of, left, put_due
from tests.servers import HOST, PostgresServer, die_with_parent


def test_pause_is_a_part_of_the_time_of_a_batch() -> None:
    pace = Pace()
    assert pace.pause() == 0
    pace.note(1_000, 2.0)
    assert pace.pause() == pytest.approx(2.0 * FIRST_SHARE)


def test_pause_grows_while_the_server_is_slow_and_shrinks_again() -> None:
    pace = Pace()
    pace.note(1_000, 0.1)
    slow = 0.1 * SLOW * 1.1
    pauses = []
    for _ in range(8):
        pace.note(1_000, slow)
        pauses.append(pace.pause() / slow)
    assert pauses[0] == pytest.approx(FIRST_SHARE * 2)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LARGEST_SHARE)
    for _ in range(8):
        pace.note(1_000, 0.1)
    assert pace.pause() == pytest.approx(0.1 * FIRST_SHARE)


def test_pause_is_as_long_as_the_rate_needs() -> None:
    pace = Pace(rate=1_000)
    pace.note(500, 0.1)
    assert pace.pause() == pytest.approx(0.4)
    late = Pace(rate=1_000)
    late.note(500, 0.49)
    assert late.pause() == pytest.approx(0.49 * FIRST_SHARE), "the least pause is longer than the rest of its time"
    slow = Pace(lambda: 600.0, rate=1)
    slow.note(500, 0.1)
    assert slow.pause() == pytest.approx(499.9), "longer than the longest pause for replicas"


@pytest.mark.parametrize("rate", [0, -1])
def test_cleanup_refuses_a_rate_at_which_it_would_never_end(rate: int) -> None:
    with pytest.raises(ConfigurationError, match="rows a second"):
        CleanupConfig(rate=rate)


def test_small_batch_says_nothing_about_the_speed() -> None:
    pace = Pace()
    pace.note(1_000, 0.1)
    pace.note(3, 0.1)
    assert pace.pause() == pytest.approx(0.1 * FIRST_SHARE)


@pytest.mark.parametrize(("lag", "pause"), [(None, 0.015), (0.9, 0.015), (3.0, 3.0), (600.0, LONGEST_PAUSE)])
def test_replica_that_is_behind_makes_the_pause_longer(lag: float | None, pause: float) -> None:
    pace = Pace(lambda: lag)
    pace.note(1_000, 0.1)
    assert pace.pause() == pytest.approx(pause)


class Standby(PostgresServer):
    """A replica of another server."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__()

    def _initdb(self) -> None:
        command = [str(self._bin / "pg_basebackup"), "--pgdata", str(self.data), "--write-recovery-conf"]
        command += ["--checkpoint=fast", "--no-sync", "--dbname", self._primary.url]
        done = subprocess.run(
            die_with_parent(command, user=self._user), cwd=Path(self.folder), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_cleanup_sees_a_replica_that_stands_still(new_postgres: Callable[..., PostgresServer]) -> None:
    primary = new_postgres()
    store: Store = open_store(primary.create_database())
    replicated = able(store, Replicated)
    put_due(store, 3)
    assert replicated.replica_lag() is None
    with Standby(primary) as standby, psycopg.connect(standby.url, autocommit=True) as replica:
        wait_until(lambda: replicated.replica_lag() is not None, "the replica")
        replica.execute("SELECT pg_wal_replay_pause()")
        with psycopg.connect(store.url, autocommit=True) as writing:
            writing.execute("CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 60000)")
        # a replica that has sent nothing since it paused has an old time
        wait_until(lambda: (replicated.replica_lag() or 0) > 1, "the lag")
        replica.execute("SELECT pg_wal_replay_resume()")
        wait_until(lambda: (replicated.replica_lag() or 0) < 1, "the end of the lag")
        assert cleanup_of(store).clean().tasks == 3
    store.close()


def test_user_with_few_rights_cleans_up_without_the_lag_and_without_a_record(postgres_server: PostgresServer) -> None:
    assert HOST in postgres_server.url
    store = open_store(postgres_server.create_database())
    put_due(store, 3)
    with psycopg.connect(store.url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS cleaner")
        admin.execute("CREATE ROLE cleaner LOGIN PASSWORD 'secret'")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO cleaner")
        admin.execute("REVOKE INSERT, UPDATE ON celery_taskmeta_job FROM cleaner")
    place = store.url.partition("@")[2]
    cleaner = open_store(f"postgresql://cleaner:secret@{place}")
    assert able(cleaner, Replicated).replica_lag() is None
    assert cleanup_of(cleaner).run_once() == 3
    put_due(store, 2)
    with psycopg.connect(store.url, autocommit=True) as admin:
        # as if rights had been granted before there was this table: nobody can say what other processes archive
        admin.execute("REVOKE SELECT ON celery_taskmeta_job FROM cleaner")
    with pytest.raises(PermissionDenied):
        cleanup_of(cleaner).run_once()
    assert len(left(store)) == 2
    cleaner.close()
    with psycopg.connect(store.url, autocommit=True) as admin:
        admin.execute("DROP OWNED BY cleaner")
        admin.execute("DROP ROLE cleaner")
    store.close()
