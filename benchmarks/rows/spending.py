"""The CPU time that a client spends on a result, in its own process: user and system, without the server's."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from functools import partial

from benchmarks import processes
from benchmarks.bed import Place
from benchmarks.contenders import CELERY_DB, CELERY_REDIS, POSTGRES, REDIS, Contender, Results
from benchmarks.processes import Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id, value_of
from benchmarks.sizes import Sizes

#: results that are stored before the measurement, and read in turn; more than Celery caches
STORED = 200


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment(
            "cpu",
            {
                "store_cpu": "client CPU time of a store, user and system (µs)",
                "get_cpu": "client CPU time of a get, user and system (µs)",
            },
            (POSTGRES, REDIS, CELERY_REDIS, CELERY_DB),
            _cpu,
        )
    ]


def _cpu(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return processes.call(_spent, contender, place.url, sizes.seconds)


def _spent(contender: Contender, url: str, seconds: float) -> Figures:
    """Return the CPU times of a child of a worker."""
    work = partial(_spend, results=contender.open(url), seconds=seconds)
    return processes.in_forked_children(1, work)[0]


def _spend(parent: Other, results: Results, seconds: float) -> Figures:
    ids = [new_id() for _ in range(STORED)]
    for number, task_id in enumerate(ids):
        results.store(task_id, value_of(number))
        check(results.read(task_id), value_of(number), f"result {number}")
    parent.tell()
    parent.next_line()
    value, there = value_of(0), itertools.cycle(ids)
    return {
        "store_cpu": _microseconds(lambda: results.store(new_id(), value), seconds),
        "get_cpu": _microseconds(lambda: results.read(next(there)), seconds),
    }


def _microseconds(work: Callable[[], object], seconds: float) -> float:
    """Return the CPU time of one call of ``work``, which is repeated for ``seconds`` of wall-clock time."""
    count, end, before = 0, time.perf_counter() + seconds, os.times()
    while time.perf_counter() < end:
        work()
        count += 1
    after = os.times()
    return (after.user - before.user + after.system - before.system) / count * 1e6
