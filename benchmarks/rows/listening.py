"""Store while a client waits for every result, and many other processes wait for theirs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import rootcellar
from benchmarks import processes
from benchmarks.app import make_app
from benchmarks.bed import Place
from benchmarks.contenders import POSTGRES, Contender
from benchmarks.processes import PATIENCE, Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id, value_of
from benchmarks.sizes import Sizes

#: seconds after which a waiter has certainly registered
REGISTERS = 0.5


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment(
            "listening",
            {
                "unawaited": "store, one process, nobody waits (results/s)",
                "awaited": "store, one process, every result awaited (results/s)",
                "awaited_in_crowd": f"the same while {sizes.listeners} other processes wait for theirs (results/s)",
            },
            (POSTGRES,),
            _listening,
        )
    ]


def _listening(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    def ids() -> list[str]:
        return [new_id() for _ in range(sizes.awaited)]

    url = contender.backend_url(place.url)
    processes.call(_rate, contender, place.url, ids()[:1])
    figures = {
        "unawaited": processes.call(_rate, contender, place.url, ids()),
        "awaited": _rate_while_awaited(place, contender, ids()),
    }
    with ExitStack() as crowd:
        others = [crowd.enter_context(processes.start(_wait, url, [new_id()])) for _ in range(sizes.listeners)]
        for other in others:
            other.next_line()
        _wait_for_connections(place, sizes.listeners)
        figures["awaited_in_crowd"] = _rate_while_awaited(place, contender, ids())
    return figures


def _rate_while_awaited(place: Place, contender: Contender, ids: list[str]) -> float:
    with processes.start(_wait, contender.backend_url(place.url), ids) as waiter:
        waiter.next_line()
        time.sleep(REGISTERS)
        rate = processes.call(_rate, contender, place.url, ids)
        check(waiter.next_line(), True, "the waiter has every result")
    return rate


def _rate(contender: Contender, url: str, ids: list[str]) -> float:
    """Return the number of results that a child of a worker stored per second."""
    results = contender.open(url)

    def store(parent: Other) -> float:
        results.store(new_id(), None)
        parent.tell()
        parent.next_line()
        started = time.perf_counter()
        for number, task_id in enumerate(ids):
            results.store(task_id, value_of(number))
        return len(ids) / (time.perf_counter() - started)

    return processes.in_forked_children(1, store)[0]


def _wait(parent: Other, backend: str, ids: list[str]) -> bool:
    app = make_app("memory://", backend)
    completed: Any = rootcellar.as_completed([app.AsyncResult(task_id) for task_id in ids], timeout=PATIENCE)
    parent.tell()
    found = dict(completed)
    return all(found[task_id] == value_of(number) for number, task_id in enumerate(ids))


def _wait_for_connections(place: Place, count: int) -> None:
    end = time.monotonic() + PATIENCE
    with place.connections() as connections:
        while connections() < count:
            if time.monotonic() > end:
                raise TimeoutError(f"fewer than {count} processes listen")
            time.sleep(REGISTERS)
    time.sleep(REGISTERS)
