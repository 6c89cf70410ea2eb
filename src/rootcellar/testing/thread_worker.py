"""A worker in a thread of the test process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from celery.contrib.testing.worker import TestWorkController, setup_app_for_worker
from celery.exceptions import WorkerShutdown
from celery.result import allow_join_result
from celery.utils.nodenames import anon_nodename

#: seconds in which a worker starts and stops
STARTUP = SHUTDOWN = 30.0


@contextmanager
def worker_in_thread(app: Celery, concurrency: int = 2) -> Iterator[None]:
    """Run a worker of ``concurrency`` threads in this process, until the ``with`` block ends.

    Several can run at a time. (With Celery's ``start_worker``, they share one event loop, the end of one ends the
    others, and a worker that fails to start is waited for without end.)
    """
    with _logging_kept(), allow_join_result():
        setup_app_for_worker(app, "CRITICAL", None)
        worker = TestWorkController(
            app=app,
            hostname=anon_nodename(),
            pool="threads",
            concurrency=concurrency,
            use_eventloop=False,
            ready_callback=None,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        thread = threading.Thread(target=worker.start, name=f"worker {worker.hostname}", daemon=True)
        thread.start()
        assert worker._on_started.wait(STARTUP), "the worker inside the test process did not start"
        with allow_join_result():  # the worker's pool forbids it when it starts
            yield
        worker.consumer.call_soon(_shut_down)
        thread.join(SHUTDOWN)
        assert not thread.is_alive(), "the worker inside the test process did not stop"


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Restore the root logger: a worker replaces the handlers and the level of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)


def _shut_down() -> None:
    raise WorkerShutdown(0)
