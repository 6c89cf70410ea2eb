"""The app of the tests of soft time limits: values that take for ever to encode or to decode."""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult, allow_join_result

import rootcellar

app = Celery("interrupted", broker=os.environ.get("TEST_BROKER"), backend=os.environ.get("TEST_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_serializer="rootcellar-json",
    result_accept_content=["json", "rootcellar-json"],
)


class Endless:
    """A value whose encoding, or decoding, never ends.

    Args:
        step: ``encode`` or ``decode``.
    """

    def __init__(self, step: str) -> None:
        self.step = step


def _encode(value: Endless) -> str:
    return _block(value.step, "encode")


def _decode(step: str) -> Endless:
    return Endless(_block(step, "decode"))


def _block(step: str, here: str) -> str:
    if step == here:
        threading.Event().wait()
    return step


rootcellar.register_type(Endless, "tests.endless", _encode, _decode)


@app.task(bind=True, soft_time_limit=1)
def store_progress(self: Any) -> str:
    try:
        self.update_state(state="PROGRESS", meta={"value": Endless("encode")})
    except SoftTimeLimitExceeded:
        return "the task noticed"
    return "not stopped"


@app.task(soft_time_limit=1)
def read_another(task_id: str) -> str:
    try:
        with allow_join_result():
            AsyncResult(task_id, app=app).get(timeout=60)
    except SoftTimeLimitExceeded:
        return "the task noticed"
    return "not stopped"
