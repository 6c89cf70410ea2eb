"""Whoever is killed, and whenever: the body of a chord gets every result once, and one result of it is recorded."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import chord

from rootcellar.testing.background import Background
from tests.apps.faults import Point
from tests.faults.bed import HEAVY, Audit, Bed
from tests.servers import RedisServer, wait_gone
from tests.workers import Worker

PARTS = 200
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
MOMENTS: list[Point] = ["before_store", "after_store", "before_body", "before_publish", "after_publish"]
#: chords for each of these moments, and twice as many more whose workers are killed at random
CHORDS = 50 if HEAVY else 10


def send(bed: Bed, number: int, parts: int = PARTS) -> Any:
    """Send a chord whose ids are known; return its body's result."""
    header = [bed.task("part").s(number, index).set(task_id=part_id(number, index)) for index in range(parts)]
    return chord(header, bed.task("body").s(number), app=bed.client).apply_async(task_id=body_id(number))


def part_id(number: int, index: int) -> str:
    return f"chord-{number}-part-{index}"


def body_id(number: int) -> str:
    return f"chord-{number}-body"


def check(result: Any, number: int, parts: int = PARTS, timeout: float = 1200.0 if HEAVY else 120.0) -> None:
    """Wait for a body; see that it got the result of each part once."""
    assert result.get(timeout=timeout) == {"chord": number, "values": [[number, index] for index in range(parts)]}


def never_sweeping(lease: float = 3.0) -> dict[str, Any]:
    """Return settings of a worker or a client that leaves orphaned chords to others."""
    return {"result_backend_transport_options": {"chord_lease": lease, "chord_sweep_interval": 3600}}


#: what is left to chance; a failed test prints the seed
SEED = int(os.environ.get("ROOTCELLAR_TEST_SEED") or random.randrange(10**9))
DICE = random.Random(SEED)


@pytest.fixture(autouse=True)
def seed() -> None:
    print(f"ROOTCELLAR_TEST_SEED={SEED}")


@pytest.fixture
def bed(postgres_url: str, redis_url: str, tmp_path: Path) -> Bed:
    bed = Bed(tmp_path, redis_url, postgres_url, **LATE)
    bed.create_tables()
    return bed


@pytest.mark.timeout(1800 if HEAVY else 180)
def test_children_are_killed_at_exact_moments(bed: Bed, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    moments = dict(enumerate(MOMENTS * CHORDS))
    for number, moment in moments.items():
        is_amid = moment in ("before_store", "after_store")
        bed.faults.plan(moment, part_id(number, DICE.randrange(PARTS)) if is_amid else body_id(number))
    with bed.workers(bed.worker(concurrency=3), bed.worker(concurrency=3)):
        results = {number: send(bed, number) for number in moments}
        for number, result in results.items():
            check(result, number)
    assert bed.faults.pending() == [], "every moment came"
    check_audit(audit, len(moments))
    bodies = Counter(bed.faults.notes())
    called = {number: bodies[f"body {number}"] for number in moments}
    # nobody can know that the body was sent, when who sent it is dead: then it may be sent again
    again = {number for number, count in called.items() if count > 1}
    assert {moments[number] for number in again} <= {"after_publish"}
    assert set(called.values()) <= {1, 2}


@pytest.mark.timeout(1800 if HEAVY else 180)
def test_children_are_killed_at_random_moments(bed: Bed, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    workers = [bed.worker(concurrency=3), bed.worker(concurrency=3)]
    ended = threading.Event()
    with bed.workers(*workers):
        killer = Background(lambda: kill_children(workers, ended))
        results = {number: send(bed, number) for number in range(2 * CHORDS)}
        for number, result in results.items():
            check(result, number)
        ended.set()
        assert killer.result() >= CHORDS // 2
    check_audit(audit, len(results))


def check_audit(audit: Audit, chords: int, parts: int = PARTS) -> None:
    """See that each part and each body recorded one result."""
    assert audit.overwritten() == []
    successes = {task_id: count for task_id, count in audit.successes().items() if task_id.startswith("chord-")}
    assert set(successes.values()) == {1}
    assert len(successes) == chords * (parts + 1)


def kill_children(workers: Sequence[Worker], ended: threading.Event) -> int:
    """Kill a child now and then until the end; return how many."""
    count = 0
    while not ended.wait(DICE.uniform(0.1, 0.7)):
        worker = DICE.choice(workers)
        children = worker.children()
        # one that has just ended by itself will do no harm
        with suppress(IndexError, ProcessLookupError):
            os.kill(DICE.choice(children), signal.SIGKILL)
            count += 1
    return count


@pytest.mark.parametrize("finisher", ["a worker", "a client", "backend_cleanup"])
def test_a_whole_worker_is_killed_as_it_calls_the_body(finisher: str, bed: Bed, postgres_url: str) -> None:
    audit = Audit(postgres_url)
    bed.client.conf.task_routes = {"part": {"queue": "parts"}}
    if finisher != "a client":
        bed.client.conf.update(never_sweeping())
    bed.faults.plan("before_body", body_id(1), "kill worker")
    doomed = bed.worker(args=["-Q", "parts"], **never_sweeping(lease=0.1))
    other = bed.worker(**({} if finisher == "a worker" else never_sweeping()))
    with bed.workers(doomed, other):
        main = psutil.Process(doomed.pid)
        result = send(bed, 1)
        assert wait_gone([main], 30)
        if finisher == "backend_cleanup":
            # not before the claim of the dead has run out, and nothing tells when that is
            while not result.ready():
                bed.client.tasks["celery.backend_cleanup"].delay().get(timeout=20)
        check(result, 1, timeout=20)
    assert bed.faults.pending() == []
    check_audit(audit, 1)
    assert bed.faults.notes() == ["body 1"]


def test_a_whole_worker_is_killed_amid_a_chord(postgres_url: str, rabbit_url: str, tmp_path: Path) -> None:
    bed = Bed(tmp_path, rabbit_url, postgres_url, **LATE)
    bed.create_tables()
    audit = Audit(postgres_url)
    doomed, other = bed.worker(), bed.worker()
    with bed.workers(doomed, other):
        result = send(bed, 1)
        done = bed.client.backend.get_many([part_id(1, index) for index in range(PARTS)], timeout=30)
        for _ in range(PARTS // 4):
            next(done)
        assert doomed.kill() == -9
        check(result, 1, timeout=30)
    check_audit(audit, 1)


def test_children_are_killed_within_a_transaction(redis_url: str, tmp_path: Path) -> None:
    """SQLite's store of a result with its part takes several statements: half of it must not stay."""
    bed = Bed(tmp_path, redis_url, f"sqlite:///{tmp_path}/results.sqlite3", **LATE)
    bed.create_tables()
    parts = 20
    for number in range(CHORDS):
        bed.faults.plan("within_store", part_id(number, DICE.randrange(parts)))
    with bed.workers(bed.worker(concurrency=4)):
        results = {number: send(bed, number, parts) for number in range(CHORDS)}
        for number, result in results.items():
            check(result, number, parts)
    assert bed.faults.pending() == []
    assert Counter(bed.faults.notes()) == {f"body {number}": 1 for number in range(CHORDS)}


def test_the_broker_is_away_when_the_body_is_to_be_sent(
    new_redis: Callable[..., RedisServer], postgres_url: str, tmp_path: Path
) -> None:
    broker = new_redis(appendonly=True)
    # early, for kombu cannot restore what is not acknowledged when Redis is away, and the worker ends
    bed = Bed(tmp_path, broker.url, postgres_url, task_acks_late=False, task_publish_retry=False)
    bed.create_tables()
    bed.client.conf.update(never_sweeping())
    audit = Audit(postgres_url)
    bed.faults.plan("before_publish", body_id(1), "wait")
    # one try to reach the broker takes 6 s
    worker = bed.worker(result_backend_transport_options={"chord_lease": 9, "chord_sweep_interval": 1})
    with bed.workers(worker):
        result = send(bed, 1)
        bed.faults.wait_until_reached("before_publish", body_id(1))
        broker.kill()
        bed.faults.go_on("before_publish", body_id(1))
        worker.wait_for_log("The body of chord .* could not be sent: .* A sweep will send it")
        broker.start()
        check(result, 1, timeout=60)
    check_audit(audit, 1)
    assert bed.faults.notes() == ["body 1"]
