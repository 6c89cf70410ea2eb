"""Two workers get the same task: the first SUCCESS stays; a chord counts one part and calls its body once."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import redis
from celery import chord

from tests.faults.helpers import Audit, Cluster

TWIN, BODY = "the-twin", "the-body"


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "succeeds"])
@pytest.mark.parametrize("last", [True, False], ids=["last", "not last"])
def test_part_run_by_two_workers_counts_once(
    last: bool, fails: bool, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    audit = check_twins(postgres_url, last, fails, redis_url, tmp_path)
    assert audit is not None
    assert audit.overwritten() == []
    assert set(audit.successes().values()) == {1}


@pytest.mark.parametrize(("last", "fails"), [(True, False), (False, True)], ids=["last succeeds", "not last fails"])
def test_part_run_by_two_workers_counts_once_on_mysql(
    last: bool, fails: bool, mysql_url: str, redis_url: str, tmp_path: Path
) -> None:
    check_twins(mysql_url, last, fails, redis_url, tmp_path)


def check_twins(store: str, last: bool, fails: bool, redis_url: str, tmp_path: Path) -> Audit | None:
    """Run one part of a chord in two workers; return the audit of PostgreSQL."""
    # one task at a time for each worker, so that the two runs are in two workers
    cluster = Cluster(tmp_path, redis_url, store, task_acks_late=True, worker_prefetch_multiplier=1)
    cluster.create_tables()
    audit, faults = Audit(store) if store.startswith("postgresql") else None, cluster.faults
    for pipe in ("twin-runs", "twin-runs-again", "twin-ends", f"{TWIN}-ended"):
        faults.pipe(pipe)
    faults.leave("twin-first")
    # the first run pauses after it has stored, or before it calls the body, until the second run has stored
    moment, key = ("before_body", BODY) if last else ("after_store", TWIN)
    faults.plan(moment, key, "wait")
    header = [cluster.task("part").s(1, 0), cluster.task("twin").s("twin", fails).set(task_id=TWIN)]
    if not last:
        header.append(cluster.task("part").s(1, 2))
    result = chord(header, cluster.task("body").s(1), app=cluster.client).apply_async(task_id=BODY)
    deliver_twice(redis_url, TWIN)
    with cluster.workers(cluster.worker(concurrency=1), cluster.worker(concurrency=1)):
        faults.wait_for("twin-runs")
        faults.wait_for("twin-runs-again")
        faults.leave(f"{TWIN}-awaited")
        faults.send("twin-ends")
        faults.wait_until_reached(moment, key)
        faults.wait_for(f"{TWIN}-ended")
        assert cluster.client.AsyncResult(TWIN).get(timeout=30) == "twin first"
        faults.resume(moment, key)
        right = [[1, 0], "twin first"] if last else [[1, 0], "twin first", [1, 2]]
        assert result.get(timeout=20) == {"chord": 1, "values": right}
        # all other messages are before this one in the queue
        cluster.task("square").delay(1).get(timeout=20)
    assert cluster.client.AsyncResult(TWIN).state == "SUCCESS"
    assert faults.notes() == ["body 1", "square 1"]
    return audit


def deliver_twice(broker: str, task_id: str) -> None:
    """Add a second copy of a task's message behind it, like a broker that considers a slow worker dead."""
    with redis.Redis.from_url(broker) as client:
        for message in client.lrange("celery", 0, -1):
            copy = json.loads(message)
            if copy["headers"]["id"] == task_id:
                copy["properties"]["delivery_tag"] = str(uuid.uuid4())
                assert client.linsert("celery", "BEFORE", message, json.dumps(copy)) > 0
                return
    raise AssertionError(f"no message for task {task_id}")
