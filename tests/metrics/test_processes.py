"""What the processes of a worker count, compared with what is in the store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from celery import Celery

from tests.helpers import HEAVY, wait_until
from tests.metrics.scraping import Samples, scrape, total, value
from tests.servers import free_port
from tests.workers import Pool, Worker

CHILDREN = 8 if HEAVY else 5
TASKS = 1_200 if HEAVY else 90
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

        wait_until(all_stored, "all results are stored", timeout=200)

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
        # the children that were killed and those that ended have no connections any more
        assert 0 < total(now, "rootcellar_pool_connections") <= 2 * (CHILDREN + 1)
