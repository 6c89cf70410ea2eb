"""The smallest Celery app: one task, and no use of rootcellar."""

import os

from celery import Celery

app = Celery(
    "ping",
    broker=os.environ.get("TEST_BROKER", "memory://"),
    backend=os.environ.get("TEST_BACKEND", "cache+memory://"),
)
app.conf.broker_connection_retry_on_startup = True


@app.task  # type: ignore[untyped-decorator, unused-ignore]
def ping(word: str = "pong") -> str:
    return word
