"""The disk is full, or the store is read-only: the worker logs it, and stores the results afterwards."""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.helpers import Cluster
from tests.servers import PostgresServer

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a file system of 32 MB."""
    folder = Path(tempfile.mkdtemp(prefix="rootcellar-disk-", dir="/tmp"))
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m,mode=777", "rootcellar-test", str(folder)],
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    # a process that is ending may have files there
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(folder: Path) -> Path:
    """Fill a file system to the last byte; return the file that fills it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = MEGABYTE
        while size:
            try:
                file.write(bytes(size))
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                size //= 2
    return ballast


def check_blob(value: dict[str, Any], size: int) -> None:
    assert len(value["text"]) == size
    assert value["digest"] == hashlib.sha256(value["text"].encode()).hexdigest()


def check_that_it_is_stored_later(cluster: Cluster, folder: Path, says: str) -> None:
    blob = cluster.task("blob")
    worker = cluster.worker()
    with cluster.workers(worker):
        check_blob(blob.delay(MEGABYTE).get(timeout=20), MEGABYTE)
        ballast = fill(folder)
        results = [blob.delay(MEGABYTE) for _ in range(4)]
        worker.wait_for_log(rf"Could not store SUCCESS of task .*: .*{says}.*Trying again until it works")
        ballast.unlink()
        for result in results:
            check_blob(result.get(timeout=30), MEGABYTE)


def test_results_are_stored_after_postgres_had_a_full_disk(
    small_disk: Path, new_postgres: Callable[..., PostgresServer], redis_url: str, tmp_path: Path
) -> None:
    server = new_postgres()
    space = small_disk / "space"
    space.mkdir()
    shutil.chown(space, server.data.owner())
    server.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    server.execute("CREATE DATABASE small TABLESPACE small")
    cluster = Cluster(tmp_path, redis_url, server.database_url("small"))
    cluster.create_tables()
    check_that_it_is_stored_later(cluster, small_disk, r"No space left on device \[.*\] -> give the server's disk room")


def test_results_are_stored_after_sqlite_had_a_full_disk(small_disk: Path, redis_url: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, redis_url, f"sqlite:///{small_disk}/results.sqlite3")
    cluster.create_tables()
    check_that_it_is_stored_later(cluster, small_disk, r"disk is full \[.*\] -> give the disk room")


def test_results_are_stored_after_postgres_was_read_only(
    postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    name = url.rpartition("/")[2]
    cluster = Cluster(tmp_path, redis_url, url)
    square = cluster.task("square")
    worker = cluster.worker()
    with cluster.workers(worker):
        assert square.delay(3).get(timeout=20)["square"] == 9
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        # the sessions end, as in a failover
        postgres_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'")
        result = square.delay(4)
        worker.wait_for_log(r"Could not store SUCCESS of task .*: .* read-only transaction \[.*\] -> connect to")
        postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        assert result.get(timeout=20)["square"] == 16
    postgres_server.drop_database(url)


def test_results_are_stored_after_sqlite_was_read_only(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "results.sqlite3"
    cluster = Cluster(tmp_path, redis_url, f"sqlite:///{file}")
    cluster.env["TEST_ORDINARY"] = "1"
    cluster.create_tables()
    file.chmod(0o444)
    worker = cluster.worker()
    with cluster.workers(worker):
        result = cluster.task("square").delay(4)
        worker.wait_for_log(
            r"Could not store SUCCESS of task .*: .* readonly database \[.*\] -> make the file, its -wal and -shm"
        )
        # SQLite's other files have the same mode
        for path in tmp_path.glob("results.sqlite3*"):
            path.chmod(0o644)
        assert result.get(timeout=20)["square"] == 16
