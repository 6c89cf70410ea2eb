"""Tasks from end to end: the number that a worker runs per second, with results and without."""

from __future__ import annotations

import time
from typing import Any

import redis

from benchmarks import processes
from benchmarks.app import make_app
from benchmarks.bed import WORKER_PROCESSES, Place
from benchmarks.contenders import CELERY_DB, CELERY_REDIS, POSTGRES, SQLITE, Contender
from benchmarks.processes import PATIENCE
from benchmarks.rows.experiment import Experiment, Figures, WrongResult, check, new_id
from benchmarks.sizes import Sizes

#: one of so many results is read back
READ_BACK = 100


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment(
            "throughput",
            {
                "throughput": f"tasks through a prefork worker of {WORKER_PROCESSES} (tasks/s)",
                "throughput_ignored": "the same with ignore_result=True (tasks/s)",
            },
            (POSTGRES, SQLITE, CELERY_REDIS, CELERY_DB),
            _throughput,
            has_worker=True,
        )
    ]


def _throughput(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    figures = {"throughput": processes.call(_work, contender, place, sizes.tasks, False)}
    if contender in (POSTGRES, CELERY_REDIS):
        figures["throughput_ignored"] = processes.call(_work, contender, place, sizes.tasks, True)
    return figures


def _work(contender: Contender, place: Place, count: int, ignore_result: bool) -> float:
    """Return the number of tasks per second that the worker runs when all of them are in the queue."""
    app = make_app(place.broker, contender.backend_url(place.url))
    gate, end = new_id(), new_id()
    for _ in range(WORKER_PROCESSES):
        app.tasks["wait_at_gate"].apply_async((place.broker, gate), ignore_result=True)
    results = [app.tasks["echo"].apply_async((number,), ignore_result=ignore_result) for number in range(count)]
    app.tasks["mark"].apply_async((place.broker, end), ignore_result=True)
    with redis.Redis.from_url(place.broker, socket_timeout=None) as client:
        opened_at = time.time()
        client.rpush(gate, *range(WORKER_PROCESSES))
        found: Any = client.blpop([end], timeout=PATIENCE)
        if found is None:
            raise WrongResult(f"{count} tasks were not done within {PATIENCE} s")
        ended_at = float(found[1])
    if not ignore_result:
        for number in range(0, count, READ_BACK):
            check(results[number].get(timeout=PATIENCE), number, f"result {number}")
    return count / (ended_at - opened_at)
