"""Real workers over write-behind: they move results, log what a crash can lose, and finish their chords."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.behind.helpers import open_behind
from tests.faults.helpers import Audit, Cluster
from tests.faults.test_chords import MOMENTS, body_id, check, part_id, send
from tests.faults.test_refusals import check_refusal
from tests.helpers import wait_until
from tests.servers import PostgresServer, RedisServer

CHORDS, PARTS = 10, 20


def cluster_on(folder: Path, broker: str, durable_url: str, cache_url: str, **settings: Any) -> Cluster:
    options = {
        "durable_url": durable_url,
        "cache_url": cache_url,
        "mode": "write-behind",
        "chord_lease": 3,
        "chord_sweep_interval": 1,
    }
    return Cluster(folder, broker, "hybrid://", result_backend_transport_options=options, **settings)


def test_worker_moves_results_and_logs_what_a_crash_loses(
    postgres_url: str, front_url: str, redis_url: str, tmp_path: Path
) -> None:
    cluster = cluster_on(tmp_path, redis_url, postgres_url, front_url)
    store = open_behind(postgres_url, front_url)
    worker = cluster.worker(concurrency=1)
    with cluster.workers(worker):
        results = [cluster.task("square").delay(number) for number in range(10)]
        assert [result.get(timeout=20)["square"] for result in results] == [number**2 for number in range(10)]
        worker.wait_for_log("may lose the results of about the last second.*appendfsync is everysec")
        wait_until(lambda: store.lag().waiting == 0, "an empty journal")
        assert worker.log.read_text().count("appendfsync is everysec") == 1
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT task_id FROM celery_taskmeta WHERE status = 'SUCCESS'").fetchall()
    assert {task_id for (task_id,) in found} == {result.id for result in results}
    store.close()


def test_worker_refuses_redis_without_an_append_only_file(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    cluster = cluster_on(tmp_path, redis_url, postgres_url, redis_url)
    check_refusal(cluster.worker(), "no append-only file, .* -> set `appendonly yes`")


@pytest.mark.timeout(180)
def test_chords_end_while_every_part_is_killed(
    new_postgres: Callable[..., PostgresServer], own_redis: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    postgres = new_postgres(auth="trust")
    url = postgres.create_database()
    cluster = cluster_on(tmp_path, redis_url, url, own_redis.url, task_acks_late=True, task_reject_on_worker_lost=True)
    store = open_behind(url, own_redis.url)
    store.check()
    audit = Audit(url)
    moments = dict(enumerate((MOMENTS * CHORDS)[:CHORDS]))
    for number, moment in moments.items():
        is_of_a_part = moment in ("before_store", "after_store")
        cluster.faults.plan(moment, part_id(number, 7) if is_of_a_part else body_id(number))
    with cluster.workers(cluster.worker(concurrency=2)):
        results = {number: send(cluster, number, PARTS) for number in moments}
        for kill in (own_redis, postgres, own_redis):
            kill.kill()
            time.sleep(0.2)
            kill.start()
        for number, result in results.items():
            check(result, number, PARTS, timeout=60)
        wait_until(lambda: store.lag().waiting == 0, "an empty journal")
    assert cluster.faults.pending() == []
    bodies = Counter(cluster.faults.notes())
    assert {bodies[f"body {number}"] for number in moments} <= {1, 2}
    again = {moments[number] for number in moments if bodies[f"body {number}"] == 2}
    assert again <= {"after_publish"}
    assert audit.overwritten() == []
    successes = audit.successes()
    assert set(successes.values()) == {1}
    assert len(successes) == CHORDS * (PARTS + 1)
    store.close()
