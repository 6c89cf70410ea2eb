"""The Celery app that workers and clients share.

``BENCH_BROKER`` and ``BENCH_BACKEND`` are the URLs of a worker's broker and backend.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import redis
from celery import Celery
from celery.signals import after_setup_logger

#: seconds that a task waits at a closed gate
PATIENCE = 120


def nap(seconds: float) -> float:
    """Sleep, and return the moment at which the body ends."""
    time.sleep(seconds)
    return time.time()


def echo(value: Any) -> Any:
    """Do nothing: the rest is the cost of a result."""
    return value


def total(values: list[int]) -> int:
    """The body of a chord."""
    return sum(values)


def wait_at_gate(broker: str, gate: str) -> None:
    """Keep a worker's process busy until the client pushes something on the list ``gate``."""
    with redis.Redis.from_url(broker, socket_timeout=None) as client:
        client.blpop([gate], timeout=PATIENCE)


def mark(broker: str, name: str) -> None:
    """Send the client, on the list ``name``, the moment at which this task ran."""
    with redis.Redis.from_url(broker) as client:
        client.rpush(name, time.time())


TASKS = (nap, echo, total, wait_at_gate, mark)


def make_app(broker: str, backend: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return an app with the tasks, by the names of their functions."""
    app = Celery("benchmarks", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, **(settings or {}))
    for function in TASKS:
        app.task(function, name=function.__name__)
    return app


@after_setup_logger.connect  # type: ignore[untyped-decorator, unused-ignore]
def _log_no_tasks(**_: Any) -> None:
    """Log less: two log lines for a task cost more than some of the measured calls."""
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)


app = make_app(os.environ.get("BENCH_BROKER", "memory://"), os.environ.get("BENCH_BACKEND", "cache+memory://"))
