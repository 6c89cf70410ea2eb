"""Processes are killed at every moment of a chord: its body still gets each result once, and is recorded once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import chord

from tests.apps.faults import Point
from tests.faults.helpers import Audit, Cluster
from tests.helpers import HEAVY
from tests.seeds import new_random
from tests.servers import RedisServer, wait_gone
from tests.workers import Worker

PARTS = 200 if HEAVY else 100
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
MOMENTS: list[Point] = ["before_store", "after_store", "before_body", "before_publish", "after_publish"]
#: chords for each of these moments
CHORDS = 50 if HEAVY else 5
#: chords whose workers are killed at random
RANDOM_CHORDS = 100 if HEAVY else 20


def send(cluster: Cluster, number: int, parts: int = PARTS) -> Any:
    """Send a chord with known ids; return its body's result."""
    header = [cluster.task("part").s(number, index).set(task_id=part_id(number, index)) for index in range(parts)]
    return chord(header, cluster.task("body").s(number), app=cluster.client).apply_async(task_id=body_id(number))


def part_id(number: int, index: int) -> str:
    return f"chord-{number}-part-{index}"


def body_id(number: int) -> str:
    return f"chord-{number}-body"


def check(result: Any, number: int, parts: int = PARTS, timeout: float = 1200.0 if HEAVY else 120.0) -> None:
    """Wait for a body; check that it got the result of each part once."""
    assert result.get(timeout=timeout) == {"chord": number, "values": [[number, index] for index in range(parts)]}


def never_sweeping(lease: float = 3.0) -> dict[str, Any]:
    """Return settings for a worker or a client that never finishes orphaned chords."""
    return {"result_backend_transport_options": {"chord_lease": lease, "chord_sweep_interval": 3600}}


DICE = new_random("chords")


@pytest.fixture
def cluster(postgres_url: str, redis_url: str, tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path, redis_url, postgres_url, **LATE)
    cluster.create_tables()
    return cluster


@pytest.mark.timeout(1800 if HEAVY else 180)
def test_chord_ends_while_children_are_killed_at_exact_moments(cluster: Cluster, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    moments = dict(enumerate(MOMENTS * CHORDS))
    for number, moment in moments.items():
        is_of_a_part = moment in ("before_store", "after_store")
        cluster.faults.plan(moment, part_id(number, DICE.randrange(PARTS)) if is_of_a_part else body_id(number))
    with cluster.workers(cluster.worker(concurrency=3), cluster.worker(concurrency=3)):
        results = {number: send(cluster, number) for number in moments}
        for number, result in results.items():
            check(result, number)
    assert cluster.faults.pending() == [], "every planned moment was reached"
    check_audit(audit, len(moments))
    bodies = Counter(cluster.faults.notes())
    called = {number: bodies[f"body {number}"] for number in moments}
    # a worker that dies after sending the body cannot record that, so the body may be sent again
    again = {number for number, count in called.items() if count > 1}
    assert {moments[number] for number in again} <= {"after_publish"}
    assert set(called.values()) <= {1, 2}


@pytest.mark.timeout(1800 if HEAVY else 180)
def test_chord_ends_while_children_are_killed_at_random(cluster: Cluster, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    workers = [cluster.worker(concurrency=3), cluster.worker(concurrency=3)]
    parts = PARTS // 2
    ids = [part_id(number, index) for number in range(RANDOM_CHORDS) for index in range(parts)]
    with cluster.workers(*workers):
        results = {number: send(cluster, number, parts) for number in range(RANDOM_CHORDS)}
        kill_children(workers, cluster.client.backend.get_many(ids, timeout=1200.0 if HEAVY else 120.0))
        for number, result in results.items():
            check(result, number, parts)
    check_audit(audit, len(results), parts)


def check_audit(audit: Audit, chords: int, parts: int = PARTS) -> None:
    """Check that each part and each body has one recorded result."""
    assert audit.overwritten() == []
    successes = {task_id: count for task_id, count in audit.successes().items() if task_id.startswith("chord-")}
    assert set(successes.values()) == {1}
    assert len(successes) == chords * (parts + 1)


def kill_children(workers: Sequence[Worker], parts: Iterable[object]) -> None:
    """Kill a child each time that some more parts have ended."""
    left = 0
    for _ in parts:
        left -= 1
        if left < 0:
            left = DICE.randrange(20, 120)
            children = DICE.choice(workers).children()
            # a child may just have ended by itself
            with suppress(IndexError, ProcessLookupError):
                os.kill(DICE.choice(children), signal.SIGKILL)


@pytest.mark.parametrize("finisher", ["a worker", "a client", "backend_cleanup"])
def test_chord_ends_after_the_worker_dies_calling_the_body(finisher: str, cluster: Cluster, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    cluster.client.conf.task_routes = {"part": {"queue": "parts"}}
    if finisher != "a client":
        cluster.client.conf.update(never_sweeping())
    cluster.faults.plan("before_body", body_id(1), "kill worker")
    doomed = cluster.worker(args=["-Q", "parts"], **never_sweeping(lease=0.1))
    other = cluster.worker(**({} if finisher == "a worker" else never_sweeping()))
    with cluster.workers(doomed, other):
        main = psutil.Process(doomed.pid)
        result = send(cluster, 1)
        assert wait_gone([main], 30)
        if finisher == "backend_cleanup":
            # the dead worker's claim must run out first, and nothing notifies of that
            while not result.ready():
                cluster.client.tasks["celery.backend_cleanup"].delay().get(timeout=20)
        check(result, 1, timeout=20)
    assert cluster.faults.pending() == []
    check_audit(audit, 1)
    assert cluster.faults.notes() == ["body 1"]


def test_chord_ends_after_a_worker_dies(postgres_url: str, rabbit_url: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, rabbit_url, postgres_url, **LATE)
    cluster.create_tables()
    audit = Audit(postgres_url)
    doomed, other = cluster.worker(), cluster.worker()
    with cluster.workers(doomed, other):
        result = send(cluster, 1)
        done = cluster.client.backend.get_many([part_id(1, index) for index in range(PARTS)], timeout=30)
        for _ in range(PARTS // 4):
            next(done)
        assert doomed.kill() == -9
        check(result, 1, timeout=30)
    check_audit(audit, 1)


def test_chord_ends_after_children_die_within_a_transaction(redis_url: str, tmp_path: Path) -> None:
    """SQLite stores a result and its part by several statements: no half of them may remain."""
    cluster = Cluster(tmp_path, redis_url, f"sqlite:///{tmp_path}/results.sqlite3", **LATE)
    cluster.create_tables()
    parts = 20
    for number in range(CHORDS):
        cluster.faults.plan("within_store", part_id(number, DICE.randrange(parts)))
    with cluster.workers(cluster.worker(concurrency=4)):
        results = {number: send(cluster, number, parts) for number in range(CHORDS)}
        for number, result in results.items():
            check(result, number, parts)
    assert cluster.faults.pending() == []
    assert Counter(cluster.faults.notes()) == {f"body {number}": 1 for number in range(CHORDS)}


def test_chord_ends_after_an_outage_of_the_broker(
    new_redis: Callable[..., RedisServer], postgres_url: str, tmp_path: Path
) -> None:
    broker = new_redis(appendonly=True)
    # acknowledge early: kombu cannot restore unacknowledged messages while Redis is down, and the worker ends
    cluster = Cluster(tmp_path, broker.url, postgres_url, task_acks_late=False, task_publish_retry=False)
    cluster.create_tables()
    cluster.client.conf.update(never_sweeping())
    audit = Audit(postgres_url)
    cluster.faults.plan("before_publish", body_id(1), "wait")
    # one try to reach the broker takes 6 s
    worker = cluster.worker(result_backend_transport_options={"chord_lease": 9, "chord_sweep_interval": 1})
    with cluster.workers(worker):
        result = send(cluster, 1)
        cluster.faults.wait_until_reached("before_publish", body_id(1))
        broker.kill()
        cluster.faults.resume("before_publish", body_id(1))
        worker.wait_for_log("The body of chord .* could not be sent: .* A sweep will send it")
        broker.start()
        check(result, 1, timeout=60)
    check_audit(audit, 1)
    assert cluster.faults.notes() == ["body 1"]
