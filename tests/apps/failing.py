"""Tasks that fail. The broker, the backend and settings are in the environment, as for the conformance app."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from celery import Celery, Task

app = Celery(
    "failing",
    broker=os.environ.get("TEST_BROKER"),
    backend=os.environ.get("TEST_BACKEND"),
    set_as_current=False,
)
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")), task_track_started=True)


def price_of(order: str) -> int:
    prices: dict[str, int] = {}
    return prices[order]


@app.task
def charge(order: str) -> int:
    return price_of(order)


@app.task
def refund(order: str) -> int:
    return -price_of(order)


@app.task(bind=True)
def send_again(self: Task[Any, Any], order: str) -> int:
    try:
        return price_of(order)
    except KeyError as exc:
        raise self.retry(exc=exc, countdown=0, max_retries=1) from None


@app.task(soft_time_limit=0.2)
def wait() -> None:
    time.sleep(30)


@app.task
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def collect(prices: list[int]) -> int:
    return sum(prices)


class Refused(Exception):
    failure_group = ("cards",)


@app.task
def refuse() -> None:
    raise Refused("no money")
