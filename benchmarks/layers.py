"""``python -m benchmarks.layers``: what one result costs on PostgreSQL, layer by layer, in one process."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

from celery.app.task import Context

from benchmarks.contenders import POSTGRES, CeleryResults
from benchmarks.rows.experiment import value_of
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.postgres import PostgresStore, binary
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.pipeline import Statement, run
from tests.servers import MissingServer, PostgresServer

#: how often each layer is timed in a round, and the rounds
TIMES = 400
ROUNDS = 7

_NOTHING = Statement("nothing", "SELECT 1")

#: a layer's name, and what is timed, which takes the id of a task
Layers = Mapping[str, Callable[[str], object]]


def main() -> int:
    """Print the layers; return the exit status."""
    try:
        with PostgresServer() as server:
            print("\n".join(table(measure(server.create_database()))))
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def table(found: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| layer | µs |"
    yield "|---|---|"
    for name, microseconds in found.items():
        yield f"| {name} | {microseconds:.0f} |" if microseconds >= 10 else f"| {name} | {microseconds:.1f} |"


def measure(url: str) -> dict[str, float]:
    """Return the microseconds that each layer takes, medians of interleaved rounds."""
    with _layers(url) as layers:
        found: dict[str, list[float]] = {name: [] for name in layers}
        for _ in range(ROUNDS):
            for name, work in layers.items():
                found[name].append(_time(work))
    return {name: median(times) for name, times in found.items()}


def _time(work: Callable[[str], object]) -> float:
    ids = [str(uuid.uuid4()) for _ in range(TIMES)]
    work(ids[0])
    started = time.perf_counter()
    for task_id in ids:
        work(task_id)
    return (time.perf_counter() - started) / TIMES * 1e6


@contextmanager
def _layers(url: str) -> Iterator[Layers]:
    backend = CeleryResults(POSTGRES.backend_url(url), {})._backend
    about = {"task": "benchmarks.bake", "hostname": "worker1@kitchen", "delivery_info": {"routing_key": "celery"}}
    request, relaxed = partial(Context, about), partial(Context, about, result_synchronous_commit=False)
    value = value_of(0)
    there = str(uuid.uuid4())
    backend.store_result(there, value, "SUCCESS", request=request(id=there))
    store: Any = open_store(url)
    assert isinstance(store, PostgresStore)
    record = store.get(there)
    assert record is not None

    def new(task_id: str) -> TaskRecord:
        return TaskRecord(**{**_fields(record), "task_id": task_id})

    with store._pool.connection() as connection:
        run(connection, Statement("relax", "SELECT set_config('synchronous_commit', 'off', false)"))
        yield {
            "make a record of the value and the request": lambda task_id: backend._record(
                task_id, value, "SUCCESS", None, request(id=task_id)
            ),
            "make parameters of the record": lambda task_id: binary.task_values(record),
            "a round trip: `SELECT 1`": lambda task_id: run(connection, _NOTHING),
            "the statement alone, not waiting for the disk": lambda task_id: _put(connection, store, new(task_id)),
            "`Store.put`, not waiting for the disk": lambda task_id: store.put(new(task_id), durable=False),
            "`Store.put`": lambda task_id: store.put(new(task_id)),
            "`ResultBackend.store_result`, not waiting for the disk": lambda task_id: backend.store_result(
                task_id, value, "SUCCESS", request=relaxed(id=task_id)
            ),
            "`ResultBackend.store_result`": lambda task_id: backend.store_result(
                task_id, value, "SUCCESS", request=request(id=task_id)
            ),
            "`Store.get`": lambda task_id: store.get(there),
            "`ResultBackend.get_task_meta`": lambda task_id: backend.get_task_meta(there, cache=False),
        }
    store.close()


def _put(connection: Connection, store: PostgresStore, record: TaskRecord) -> None:
    run(connection, store._put, (binary.task_values(record), binary.TASK_FORMS))


def _fields(record: TaskRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


if __name__ == "__main__":
    sys.exit(main())
