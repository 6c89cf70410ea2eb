"""An app whose task records its steps in Redis, and waits there for a signal."""

import os
from typing import Any

import redis
from celery import Celery

BROKER = os.environ.get("TEST_BROKER", "memory://")
#: seconds that a task waits for the signal
PATIENCE = 120

app = Celery("steps", broker=BROKER, backend=os.environ.get("TEST_BACKEND", "cache+memory://"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_track_started=True,
    result_backend_max_sleep_between_retries_ms=300,
)


@app.task(bind=True)  # type: ignore[untyped-decorator, unused-ignore]
def walk(self: Any, name: str) -> str:
    """Record the begin, store a state, record that, and end when the list ``go NAME`` has an item."""
    with redis.Redis.from_url(BROKER) as steps:
        steps.rpush(name, "began")
        self.update_state(state="WALKING", meta={"at": 1})
        steps.rpush(name, "went on")
        steps.blpop([f"go {name}"], PATIENCE)
    return name
