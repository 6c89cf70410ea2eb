"""What the processes of a worker count, compared with what is in the store."""

from __future__ import annotations

import fcntl
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from celery import VERSION, Celery

from tests.helpers import HEAVY, wait_until
from tests.metrics.scraping import Samples, scrape, total, value
from tests.servers import free_port
from tests.workers import Pool, Worker

CHILDREN = 8 if HEAVY else 4
TASKS = 300 if HEAVY else 45
COUNT = "rootcellar_store_duration_seconds_count"
#: a trigger before the insertion runs also if the stored row stays
ACCOUNT = """
CREATE TABLE account (status text, size integer);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account VALUES (new.status, octet_length(new.result::text));
    RETURN new;
END $$;
CREATE TRIGGER note BEFORE INSERT ON celery_taskmeta FOR EACH ROW EXECUTE FUNCTION note();
"""
PUT = {"operation": "put", "outcome": "ok"}


class Measured:
    """A running worker of tests/apps/measured.py, and the store of its results."""

    def __init__(self, database: str, broker: str, url: str, worker: Worker) -> None:
        self.database, self.url, self.worker = database, url, worker
        self.app = Celery("client", broker=broker, set_as_current=False)

    def send(self, count: int, is_last: bool = False) -> None:
        self.app.send_task("tests.apps.measured.store", (count, is_last))

    def account(self) -> None:
        """Let PostgreSQL itself write an account of each record that is stored from now on."""
        with psycopg.connect(self.database) as connection:
            connection.execute(ACCOUNT)

    def stored(self) -> dict[str, tuple[int, int]]:
        """Return, for each state, how many results were stored, and their size in bytes, by this account."""
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("SELECT status, count(*), sum(size) FROM account GROUP BY status")
            return {state: (count, size) for state, count, size in rows}

    def results(self) -> int:
        """Return how many results there are."""
        with psycopg.connect(self.database) as connection:
            ((count,),) = connection.execute("SELECT count(*) FROM celery_taskmeta WHERE date_done IS NOT NULL")
            return int(count)

    def connections(self) -> int:
        """Return how many connections to the database the processes of the worker have, by the operating system."""
        port = urlsplit(self.database).port
        processes = [psutil.Process(pid) for pid in (self.worker.pid, *self.worker.children())]
        own = {
            (each.laddr, process.pid)
            for process in processes
            for each in process.net_connections("tcp")
            if each.raddr and each.raddr.port == port
        }
        # a child that was forked has those of its parent too
        return len({local for local, _ in own})

    def scrape(self) -> Samples:
        return scrape(self.url)


@contextmanager
def measured(database: str, broker: str, pool: Pool = "prefork", **settings: Any) -> Iterator[Measured]:
    port = free_port()
    env = {"TEST_BACKEND": f"rootcellar+{database}", "TEST_BROKER": broker, "TEST_LISTEN": f"127.0.0.1:{port}"}
    env |= settings.pop("env", {})
    with Worker("tests.apps.measured", env=env, pool=pool, **settings) as worker:
        worker.wait_for_log("Metrics are served at")
        yield Measured(database, broker, f"http://127.0.0.1:{port}/metrics", worker)


def counters(samples: Samples) -> Samples:
    """Return the series that must never fall."""
    return {key: number for key, number in samples.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}


@pytest.mark.timeout(900 if HEAVY else 180)
def test_sums_equal_the_store_when_children_are_replaced_and_killed(postgres_url: str, redis_url: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    jobs = [(chance.randrange(4), chance.random() < 0.2) for _ in range(TASKS)]
    expected = sum(count for count, _ in jobs) + TASKS
    with measured(postgres_url, redis_url, concurrency=CHILDREN, args=["--max-tasks-per-child", "3"]) as worker:
        worker.account()
        before = worker.scrape()
        children = set(worker.worker.children())
        for count, is_last in jobs:
            worker.send(count, is_last)

        def all_stored() -> bool:
            nonlocal before
            now = worker.scrape()
            fallen = {key for key, number in counters(before).items() if now[key] < number}
            assert fallen == set()
            before = now
            children.update(worker.worker.children())
            return worker.results() == expected

        wait_until(all_stored, "all results are stored", timeout=800 if HEAVY else 150)

        def equal() -> bool:
            """Return whether the metrics are those of the account. A call is counted after its commit."""
            nonlocal now
            now = worker.scrape()
            return value(now, COUNT, PUT) >= sum(count for count, _ in worker.stored().values())

        now = before
        wait_until(equal, "every call is counted")
        stored = worker.stored()
        assert len(children) > 2 * CHILDREN, "children were replaced"
        assert value(now, COUNT, PUT) == sum(count for count, _ in stored.values()) >= expected
        for state, (count, size) in stored.items():
            labels = {"direction": "stored", "state": state}
            assert value(now, "rootcellar_payload_bytes_count", labels) == count
            assert value(now, "rootcellar_payload_bytes_sum", labels) == size
        assert total(now, "rootcellar_store_errors_total") == 0
        # those of the children that were killed or have ended are not counted any more
        wait_until(
            lambda: total(worker.scrape(), "rootcellar_pool_connections") == worker.connections(),
            "the connections of all processes are counted",
        )


@pytest.mark.parametrize("pool", ["threads", "gevent", *(["solo", "eventlet"] if HEAVY else [])])
def test_pool_without_children_is_counted(postgres_url: str, redis_url: str, pool: Pool) -> None:
    with measured(postgres_url, redis_url, pool=pool, concurrency=4) as worker:
        worker.account()
        for _ in range(20):
            worker.send(2)
        wait_until(lambda: worker.results() == 60, "all results are stored", timeout=60)
        wait_until(lambda: value(worker.scrape(), COUNT, PUT) >= 60, "every call is counted")
        assert value(worker.scrape(), COUNT, PUT) == 60
        assert value(worker.scrape(), "rootcellar_pool_connections", {"status": "idle"}) > 0


@pytest.mark.skipif(not HEAVY, reason="a long form: new programs take seconds to start")
def test_children_that_are_new_programs_are_counted(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    if VERSION < (5, 7):
        pytest.skip("Celery before 5.7 only forks")
    settings = {
        "concurrency": 2,
        "args": ["--max-tasks-per-child", "4"],
        "env": {"TEST_START": "spawn", "TMPDIR": str(tmp_path)},
    }
    # of a worker that was killed
    leftover = tmp_path / "rootcellar-metrics-4194305-x"
    leftover.touch()
    # of a living worker in another container, where the process ids are others
    other = tmp_path / "rootcellar-metrics-4194306-y"
    file = other.open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    with file, measured(postgres_url, redis_url, **settings) as worker:
        worker.account()
        for number in range(12):
            worker.send(1, is_last=number == 5)
        wait_until(lambda: worker.results() == 24, "all results are stored", timeout=100)
        stored = sum(count for count, _ in worker.stored().values())
        wait_until(lambda: value(worker.scrape(), COUNT, PUT) >= stored, "every call is counted")
        assert value(worker.scrape(), COUNT, PUT) == stored
        assert not leftover.exists()
        assert len(list(tmp_path.glob("rootcellar-metrics-*"))) == 2
        assert worker.worker.stop() == 0
    assert list(tmp_path.glob("rootcellar-metrics-*")) == [other]


def test_worker_runs_without_metrics_when_its_port_is_taken(postgres_url: str, redis_url: str) -> None:
    with measured(postgres_url, redis_url) as first:
        env = {"TEST_BACKEND": f"rootcellar+{postgres_url}", "TEST_BROKER": redis_url}
        env["TEST_LISTEN"] = first.url.removeprefix("http://").removesuffix("/metrics")
        with Worker("tests.apps.measured", env=env, pool="solo") as second:
            second.wait_for_log("metrics cannot be served at .*each worker needs a port of its own")
        first.send(0)
        wait_until(lambda: value(first.scrape(), COUNT, PUT) == 1, "the first worker goes on")


def test_child_does_not_keep_the_port(postgres_url: str, redis_url: str) -> None:
    with measured(postgres_url, redis_url) as worker:
        port = int(worker.url.rpartition(":")[2].partition("/")[0])
        before = worker.worker.children()
        worker.send(0, is_last=True)
        wait_until(lambda: set(worker.worker.children()) - set(before), "the killed child is replaced")
        worker.send(0)
        wait_until(lambda: worker.results() == 2, "the new child works")
        listening = {
            process.pid
            for process in [psutil.Process(pid) for pid in (worker.worker.pid, *worker.worker.children())]
            for connection in process.net_connections("tcp")
            if connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        }
        assert listening == {worker.worker.pid}
