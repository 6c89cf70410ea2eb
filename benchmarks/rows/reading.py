"""Read results by their ids, like a web process."""

from __future__ import annotations

import itertools
import time
from functools import partial

from benchmarks import processes
from benchmarks.bed import Place
from benchmarks.contenders import (
    CELERY_DB,
    CELERY_DB_UNPOOLED,
    CELERY_REDIS,
    POSTGRES,
    RAW_DRIVER,
    REDIS,
    SQLITE,
    Contender,
    Results,
)
from benchmarks.processes import Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id, value_of
from benchmarks.sizes import Sizes

#: the number of stored results; more than Celery caches
STORED = 200


def experiments(sizes: Sizes) -> list[Experiment]:
    in_web = [contender.in_web_process() for contender in (POSTGRES, SQLITE, REDIS, CELERY_REDIS, RAW_DRIVER)]
    return [
        Experiment(
            "get",
            {"get": "get by id, web process (results/s)"},
            (*in_web, CELERY_DB, CELERY_DB_UNPOOLED),
            _get,
        )
    ]


def _get(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"get": processes.call(_rate, contender, place.url, sizes.seconds)}


def _rate(contender: Contender, url: str, seconds: float) -> float:
    """Return the number of results that were read per second."""
    results = contender.open(url)
    work = partial(_read_for, results=results, seconds=seconds)
    return processes.in_forked_children(1, work)[0] if contender.is_forked else work(None)


def _read_for(parent: Other | None, results: Results, seconds: float) -> float:
    ids = [new_id() for _ in range(STORED)]
    for number, task_id in enumerate(ids):
        results.store(task_id, value_of(number))
        check(results.read(task_id), value_of(number), f"result {number}")
    if parent is not None:
        parent.tell()
        parent.next_line()
    count = 0
    started = time.perf_counter()
    for task_id in itertools.cycle(ids):
        results.read(task_id)
        count += 1
        took = time.perf_counter() - started
        if took >= seconds:
            break
    return count / took
