"""The configured limit of retries, and the worker's main process, which must never wait for the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import chord
from celery.exceptions import ChordError

from rootcellar.testing.background import Background
from tests.faults.helpers import Cluster
from tests.servers import PostgresServer


def test_worker_logs_a_lost_result_at_the_limit_and_continues(
    new_postgres: Callable[..., PostgresServer], redis_url: str, tmp_path: Path
) -> None:
    server = new_postgres()
    cluster = Cluster(tmp_path, redis_url, server.create_database(), result_backend_max_retries=3)
    square = cluster.task("square")
    worker = cluster.worker(concurrency=1)
    with cluster.workers(worker):
        assert square.delay(1).get(timeout=20) == {"number": 1, "square": 1}
        children = worker.children()
        server.stop()
        lost = square.delay(2)
        worker.wait_for_log(rf"CRITICAL/.* The result of task {lost.id} \(SUCCESS\) is NOT stored: ")
        worker.wait_for_log("ResultNotStored")
        server.start()
        assert square.delay(4).get(timeout=20) == {"number": 4, "square": 16}
        assert worker.children() == children
    assert cluster.faults.notes() == ["square 1", "square 2", "square 4"]
    assert lost.state != "SUCCESS"


@pytest.mark.parametrize("outage", ["down", "frozen"])
def test_main_process_does_not_wait_during_an_outage(
    outage: str, new_postgres: Callable[..., PostgresServer], redis_url: str, tmp_path: Path
) -> None:
    server = new_postgres()
    cluster = Cluster(tmp_path, redis_url, server.create_database(), task_acks_late=False)
    cluster.create_tables()
    for name in ("doomed", "long", "part", "other"):
        cluster.faults.pipe(f"{name}-runs")
        cluster.faults.pipe(f"{name}-ends")
    wait = cluster.task("wait")
    worker = cluster.worker(concurrency=4)
    with cluster.workers(worker):
        doomed = wait.delay("doomed")
        cluster.faults.wait_for("doomed-runs")
        long = wait.apply_async(["long"], time_limit=2)
        cluster.faults.wait_for("long-runs")
        body = chord([wait.s("part").set(time_limit=2)], cluster.task("body").s(1), app=cluster.client).delay()
        cluster.faults.wait_for("part-runs")
        if outage == "down":
            server.kill()
        else:
            server.pause()
        over = threading.Event()
        answers = Background(lambda: slowest_answer(cluster, over))
        try:
            os.kill(int(cluster.faults.notes()[0].removeprefix("doomed ")), signal.SIGKILL)
            worker.wait_for_log("WorkerLostError")
            worker.wait_for_log(rf"Hard time limit \(2s\) exceeded for wait\[{long.id}\]")
            other = wait.apply_async(["other"], ignore_result=True)
            cluster.faults.wait_for("other-runs")
            cluster.faults.send("other-ends")
            worker.wait_for_log(rf"wait\[{other.id}\] succeeded")
            over.wait(4)
            over.set()
            # one that waits for the store answers after 30 s of silence, or not at all
            assert answers.result() < 8.0
        finally:
            if outage == "down":
                server.start()
            else:
                server.resume()
        with pytest.raises(WorkerLostError):
            doomed.get(timeout=20)
        with pytest.raises(TimeLimitExceeded):
            long.get(timeout=20)
        with pytest.raises(ChordError, match="TimeLimitExceeded"):
            cluster.client.AsyncResult(body.id).get(timeout=20)


def test_stopped_worker_logs_results_that_it_could_not_store(
    new_postgres: Callable[..., PostgresServer], redis_url: str, tmp_path: Path
) -> None:
    server = new_postgres()
    cluster = Cluster(tmp_path, redis_url, server.create_database())
    cluster.create_tables()
    cluster.faults.pipe("doomed-runs")
    worker = cluster.worker()
    with cluster.workers(worker):
        doomed = cluster.task("wait").delay("doomed")
        cluster.faults.wait_for("doomed-runs")
        server.stop()
        os.kill(int(cluster.faults.notes()[0].removeprefix("doomed ")), signal.SIGKILL)
        worker.wait_for_log("WorkerLostError")
        assert worker.stop() == 0
        worker.wait_for_log(rf"CRITICAL/.* Gave up, .*: could not store FAILURE of task {doomed.id}", timeout=0)


def slowest_answer(cluster: Cluster, over: threading.Event) -> float:
    """Ping the worker's main process repeatedly; return the longest time of a reply, in seconds."""
    slowest = 0.0
    while not over.wait(0.1):
        begun = time.monotonic()
        assert len(cluster.client.control.ping(timeout=20, limit=1)) == 1
        slowest = max(slowest, time.monotonic() - begun)
    return slowest
