"""An app that counts what it stores. Its tasks store results of other tasks too, so that a test knows their number."""

import os
import signal
from typing import Any

from celery import Celery

import rootcellar

app = Celery("measured", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, worker_pool_start_method=os.environ.get("TEST_START", "fork"))
instruments = rootcellar.instrument(app, listen=os.environ["TEST_LISTEN"])


@app.task(bind=True)  # type: ignore[untyped-decorator, unused-ignore]
def store(self: Any, count: int, is_last: bool = False) -> int:
    """Store this many results under other ids, and then kill the process if this is its last task."""
    for number in range(count):
        self.backend.store_result(f"{self.request.id}-{number}", "x" * number, "SUCCESS")
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)
    return count
