"""Store results: with one process, with four, with many threads, and without waiting for the disk."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
from benchmarks.processes import PATIENCE, Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id, value_of
from benchmarks.sizes import Sizes

#: results that are stored before the clock starts, and read back at the end, for each thread
WARM_UP = 5
READ_BACK = 10


def experiments(sizes: Sizes) -> list[Experiment]:
    pooled = (POSTGRES, SQLITE, REDIS, CELERY_REDIS, CELERY_DB)
    return [
        Experiment(
            "store_one",
            {"store_one": "store, one process (results/s)"},
            (*pooled, CELERY_DB_UNPOOLED, RAW_DRIVER),
            _one,
        ),
        Experiment(
            "store_four",
            {"store_four": f"store, {sizes.processes} processes (results/s)"},
            (*pooled, RAW_DRIVER),
            _four,
        ),
        Experiment(
            "store_threads",
            {"store_threads": f"store, {sizes.threads} threads in one process (results/s)"},
            (*pooled, CELERY_DB_UNPOOLED, RAW_DRIVER),
            _threads,
        ),
        Experiment(
            "store_relaxed",
            {"store_relaxed": "store, one process, synchronous_commit=off (results/s)"},
            (POSTGRES.relaxed(), CELERY_REDIS, RAW_DRIVER.relaxed()),
            _relaxed,
        ),
    ]


def _one(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"store_one": processes.call(_rate, contender, place.url, sizes.seconds, 1, 1)}


def _four(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"store_four": processes.call(_rate, contender, place.url, sizes.seconds, sizes.processes, 1)}


def _threads(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"store_threads": processes.call(_rate, contender, place.url, sizes.seconds, 1, sizes.threads)}


def _relaxed(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"store_relaxed": processes.call(_rate, contender, place.url, sizes.seconds, 1, 1)}


def _rate(contender: Contender, url: str, seconds: float, count: int, threads: int) -> float:
    """Return the number of results that all processes and threads stored per second."""
    results = contender.open(url)
    work = partial(_store_for, results=results, seconds=seconds, threads=threads)
    if contender.is_forked:
        return sum(processes.in_forked_children(count, work))
    return work(None)


def _store_for(parent: Other | None, results: Results, seconds: float, threads: int) -> float:
    gate = threading.Barrier(threads + 1)
    with ThreadPoolExecutor(threads) as pool:
        storing = [pool.submit(_store, results, gate, seconds) for _ in range(threads)]
        try:
            gate.wait(PATIENCE)
        except threading.BrokenBarrierError:
            for future in storing:
                future.result()
        if parent is not None:
            parent.tell()
            parent.next_line()
        started = time.perf_counter()
        gate.wait(PATIENCE)
        stored = [future.result() for future in storing]
        took = time.perf_counter() - started
    for ids in stored:
        for number in range(0, len(ids), max(1, len(ids) // READ_BACK)):
            check(results.read(ids[number]), value_of(number), f"result {number}")
    return sum(len(ids) for ids in stored) / took


def _store(results: Results, gate: threading.Barrier, seconds: float) -> list[str]:
    """Store results for some seconds after the gate opens for the second time; return the ids, in order."""
    try:
        for number in range(WARM_UP):
            results.store(new_id(), value_of(number))
    except Exception:
        gate.abort()
        raise
    gate.wait(PATIENCE)
    gate.wait(PATIENCE)
    ids: list[str] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        task_id = new_id()
        results.store(task_id, value_of(len(ids)))
        ids.append(task_id)
    return ids
