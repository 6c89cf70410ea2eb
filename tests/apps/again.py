"""Tasks that fail until a key of the broker's Redis says that the bug is repaired. Each run is noted there."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

BROKER = os.environ["TEST_BROKER"]
#: the list of runs, and the key that says that the bug is repaired
RUNS, REPAIRED = "again:runs", "again:repaired"

app = Celery("again", broker=BROKER, backend=f"rootcellar+{os.environ['TEST_BACKEND']}")
app.conf.result_extended = True
app.conf.task_track_started = True
notes = redis.Redis.from_url(os.environ.get("TEST_NOTES", BROKER))


def run(task: Any) -> None:
    notes.rpush(RUNS, task.request.id)
    if not notes.exists(REPAIRED):
        raise ValueError(f"task {task.name} is broken")


@app.task(bind=True)
def charge(self: Any, order: int, *, currency: str = "EUR") -> str:
    run(self)
    return f"{order} {currency}"


@app.task(bind=True)
def ship(self: Any, order: int) -> int:
    run(self)
    return order


@app.task(bind=True)
def login(self: Any, user: str, password: str) -> str:
    run(self)
    return user


@app.task(bind=True)
def what_arrived(self: Any, *args: Any) -> dict[str, Any]:
    """Return how this task was sent."""
    run(self)
    request = self.request
    return {
        "headers": request.headers,
        "priority": request.delivery_info.get("priority"),
        "queue": request.delivery_info.get("routing_key"),
        "stamps": request.stamps,
        "args": list(args),
    }


@app.task
def total(values: list[Any]) -> int:
    return len(values)
