"""A running worker and a client's app, on a store and a broker of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.thread_worker import worker_in_thread
from rootcellar.testing.under_test import WorkerUnderTest
from rootcellar.testing.workers import Worker

APP = "rootcellar.testing.conformance_app"
#: how many tasks each pool runs at a time; with few greenlets and Redis, Celery's event loop sleeps most of the time
SLOTS = {"prefork": 2, "threads": 2, "gevent": 20, "eventlet": 20, "solo": 1, "inside": 2}


class Harness:
    """What a test of the backend works with.

    Attributes:
        under_test: the store, the pool and the broker.
        place: the URL of the store.
        app: the client's app; the worker has its own, except with the pool ``inside``.
        tasks: the app's tasks by the names of their functions.
        worker: the worker's process; ``None`` for the pool ``inside``.
        slots: how many tasks the worker runs at a time.
    """

    def __init__(self, worker_under_test: WorkerUnderTest, place: str, app: Celery, worker: Worker | None) -> None:
        self.under_test = worker_under_test
        self.place = place
        self.app = app
        self.worker = worker
        self.slots = SLOTS[worker_under_test.pool]
        names = [name for name in app.tasks if name.startswith("conformance.")]
        self.tasks: Any = SimpleNamespace(**{name.partition(".")[2]: app.tasks[name] for name in names})

    @property
    def backend(self) -> Any:
        return self.app.backend

    def client(self, **conf: Any) -> Harness:
        """Return a harness with another client's app, with other settings, and the same worker."""
        known = self.app.conf
        app = make_app(
            known.broker_url, known.result_backend, **{"task_default_queue": known.task_default_queue, **conf}
        )
        return Harness(self.under_test, self.place, app, self.worker)

    def activate(self) -> Harness:
        """Make the app the current one, as in a program that has only one."""
        self.app.set_current()
        self.app.set_default()
        return self


@contextmanager
def open_harness(request: pytest.FixtureRequest, worker_under_test: WorkerUnderTest, **conf: Any) -> Iterator[Harness]:
    """Start a worker and a client, both with the settings ``conf``."""
    with ExitStack() as stack:
        place = stack.enter_context(worker_under_test.store.new_place(request))
        broker = stack.enter_context(worker_under_test.broker.new(request))
        backend = f"rootcellar+{place}"
        if worker_under_test.pool == "inside":
            # a worker stops when its last poll has ended
            conf = {"broker_transport_options": {"polling_interval": 0.1}, **conf}
        app = make_app(broker, backend, **conf)
        slots = SLOTS[worker_under_test.pool]
        worker = None
        if worker_under_test.pool == "inside":
            stack.enter_context(worker_in_thread(app, slots))
        else:
            env = {"TEST_BROKER": broker, "TEST_BACKEND": backend, "TEST_CONF": json.dumps(conf)}
            # in containers the tests run as root, and some of them accept pickles
            env["C_FORCE_ROOT"] = "yes"
            worker = stack.enter_context(Worker(APP, env=env, pool=worker_under_test.pool, concurrency=slots))
        stack.callback(app.close)
        stack.callback(app.backend.store.close)
        yield Harness(worker_under_test, place, app, worker).activate()
