"""All processes of a worker are killed while they write to a SQLite file: it keeps every acknowledged result."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from celery import chord

from rootcellar.testing.background import Background
from tests.faults.helpers import Cluster
from tests.helpers import HEAVY
from tests.servers import wait_gone

ROUNDS = 30 if HEAVY else 4
TASKS = 200


@pytest.mark.timeout(900 if HEAVY else 180)
def test_sqlite_keeps_results_when_all_writers_are_killed(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "results.sqlite3"
    cluster = Cluster(tmp_path, redis_url, f"sqlite:///{file}")
    cluster.create_tables()
    square, part = cluster.task("square"), cluster.task("part")
    worker = cluster.worker(concurrency=4)
    numbers: dict[str, int] = {}
    acknowledged: set[str] = set()
    with cluster.workers(worker):
        for round_ in range(ROUNDS):
            main = psutil.Process(worker.pid)
            doomed = f"part-of-round-{round_}"
            cluster.faults.plan("within_store", doomed, "kill worker")
            sent = {square.delay(number).id: number for number in range(TASKS)}
            seen = Background(lambda sent=sent: collect(cluster, sent))
            chord(
                [part.s(round_, 0).set(task_id=doomed), part.s(round_, 1)],
                cluster.task("body").s(0),
                app=cluster.client,
            )()
            more = {square.delay(number).id: number for number in range(TASKS)}
            assert wait_gone([main], 60)
            assert worker.kill() == -9
            numbers |= sent | more
            acknowledged |= set(re.findall(r"Task square\[(.+?)\] succeeded", worker.log.read_text())) | seen.result()
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            backend = cluster.client.backend
            found = {key: backend.meta_of(it)["result"] for key, it in backend.store.get_many(acknowledged).items()}
            assert found == {key: {"number": numbers[key], "square": numbers[key] ** 2} for key in acknowledged}
            assert cluster.client.AsyncResult(doomed).state == "PENDING", "the transaction was rolled back"
            worker.start()
    assert len(acknowledged) > ROUNDS * TASKS // 2


def collect(cluster: Cluster, sent: dict[str, int]) -> set[str]:
    """Return the ids of the results that a client has received, when more than half of them have come."""
    seen = set()
    for task_id, _ in cluster.client.backend.get_many(sent, timeout=30):
        seen.add(task_id)
        if len(seen) > len(sent) // 2:
            break
    return seen
