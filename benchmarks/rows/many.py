"""The connections and the memory of a process that waits for very many results."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil
from celery.result import AsyncResult, GroupResult

import rootcellar
from benchmarks import processes
from benchmarks.app import make_app
from benchmarks.bed import Place
from benchmarks.contenders import CELERY_DB_UNPOOLED, CELERY_REDIS, POSTGRES, SQLITE, Contender
from benchmarks.processes import PATIENCE, Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id
from benchmarks.sizes import Sizes

#: characters of each result
SIZE = 1_000
#: seconds in which a waiter gets all its connections, and between two counts of them
SETTLES = 1.0
LOOK = 0.005
MEGABYTE = 1e6


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment(
            "many",
            {
                "connections": f"connections of a process that waits for {sizes.waiting:,} results",
                "memory": f"its memory for {sizes.waiting:,} results of 1 kB, GroupResult.get (MB)",
                "memory_completed": "the same, rootcellar.as_completed (MB)",
            },
            (POSTGRES, SQLITE, CELERY_REDIS, CELERY_DB_UNPOOLED),
            _many,
            most_rounds=2,
            rounds_of={CELERY_DB_UNPOOLED.column: 1},
        )
    ]


def _many(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    def ids(count: int) -> list[str]:
        return [new_id() for _ in range(count)]

    if contender is CELERY_DB_UNPOOLED:
        connections, _ = _wait_while_stored(place, contender, ids(sizes.waiting_slowly), _get_group)
        return {"connections": connections}
    connections, memory = _wait_while_stored(place, contender, ids(sizes.waiting), _get_group)
    figures = {"memory": memory}
    if contender.storage != "sqlite":
        figures["connections"] = connections
    if contender in (POSTGRES, SQLITE):
        _, figures["memory_completed"] = _wait_while_stored(place, contender, ids(sizes.waiting), _as_completed)
    return figures


def _wait_while_stored(
    place: Place, contender: Contender, ids: list[str], wait: Callable[[Any, list[str]], Iterator[tuple[str, Any]]]
) -> tuple[int, float]:
    """Return the maximum of the waiter's connections, and the maximum growth of its memory, in MB."""
    with ExitStack() as stack:
        connections = stack.enter_context(place.connections())
        most = before = connections()
        waiter = stack.enter_context(processes.start(_wait, contender, place.url, ids, wait))
        waiter.next_line()
        end = time.monotonic() + SETTLES
        while time.monotonic() < end:
            most = max(most, connections())
            time.sleep(LOOK)
        processes.call(_store, contender, place.url, ids)
        memory: float = waiter.next_line()
    return most - before, memory


def _wait(
    parent: Other,
    contender: Contender,
    url: str,
    ids: list[str],
    wait: Callable[[Any, list[str]], Iterator[tuple[str, Any]]],
) -> float:
    app = make_app("memory://", contender.backend_url(url))
    # the backend and its imports are not part of the cost of waiting
    app.AsyncResult(new_id()).state  # noqa: B018
    before = psutil.Process().memory_info().rss
    parent.tell()
    places = {task_id: number for number, task_id in enumerate(ids)}
    for task_id, value in wait(app, ids):
        check(value, _text(places.pop(task_id)), f"result {task_id}")
    check(len(places), 0, "results that are missing")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MEGABYTE


def _get_group(app: Any, ids: list[str]) -> Iterator[tuple[str, Any]]:
    group = GroupResult(new_id(), [app.AsyncResult(task_id) for task_id in ids], app=app)
    yield from zip(ids, group.get(timeout=PATIENCE), strict=True)


def _as_completed(app: Any, ids: list[str]) -> Iterator[tuple[str, Any]]:
    results: Iterator[AsyncResult] = (app.AsyncResult(task_id) for task_id in ids)
    yield from rootcellar.as_completed(results, timeout=PATIENCE)


def _store(contender: Contender, url: str, ids: list[str]) -> None:
    results = contender.open(url)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(results.store, ids, map(_text, range(len(ids)))))


def _text(number: int) -> str:
    return f"{number:0{SIZE}}"
