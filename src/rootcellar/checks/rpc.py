"""What ``rootcellar check rpc`` looks at: a result as a message, from a hand-made worker and from a real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.exceptions import TimeoutError as CelerysTimeout
from celery.exceptions import WorkerShutdown
from celery.result import allow_join_result
from kombu.entity import Exchange, Queue

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds, seconds_of
from rootcellar.checks.steps import Checks, Step, ok, wrong
from rootcellar.checks.target import Target
from rootcellar.rpc import check_round_trip
from rootcellar.urls import redact

#: seconds for a result to come back, for a worker to start, and for it to stop
_PATIENCE, _START, _STOP = 3.0, 5.0, 3.0


class RPCChecks(Checks):
    """Results by RPC. The broker has its own checks, which come first."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._worker: Worker | None = None

    @property
    def where(self) -> str:
        return f"rpc through {redact(str(self._target.conf.get('broker_url', 'no broker')))}"

    def steps(self) -> Sequence[Step]:
        return [
            Step("broker", self._broker, stops_on_failure=True),
            Step("round trip", self._round_trip, stops_on_failure=True),
            Step("worker", self._run_worker),
        ]

    def close(self) -> None:
        if self._worker is not None:
            self._worker.stop()

    def _broker(self) -> Iterator[Finding]:
        scheme = str(self._target.conf.get("broker_url") or "").partition("://")[0].lower()
        if scheme in ("amqp", "amqps", "pyamqp"):
            yield ok("speaks AMQP")
        else:
            yield wrong("rpc-no-amqp", f"the broker is {scheme}://" if scheme else "no broker is named")

    def _round_trip(self) -> Iterator[Finding]:
        app = self._target.app()
        try:
            yield ok(f"a result came back in {milliseconds(check_round_trip(app, _PATIENCE))}")
        except errors.StoreUnavailable as exc:
            yield wrong("rpc-round-trip", exc.what, exc.remedy)
        finally:
            app.close()

    def _run_worker(self) -> Iterator[Finding]:
        app = self._target.app(**_QUIETLY)
        self._worker = Worker(app)
        if not self._worker.start():
            yield wrong("rpc-worker", self._worker.failure or f"a worker did not start within {_START:g} s")
            return
        try:
            span = seconds_of(self._worker.run_a_task)
        except CelerysTimeout:
            yield wrong("rpc-worker", f"its task had no result within {_PATIENCE:g} s")
        else:
            yield ok(f"a throw-away worker ran a task in {milliseconds(span)}")


#: a worker that nobody hears of, and that leaves nothing
_QUIETLY = {
    "worker_hijack_root_logger": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_redirect_stdouts": False,
    "worker_proc_alive_timeout": _START,
    "broker_connection_retry_on_startup": False,
    "beat_schedule": {},
    "imports": (),
    "include": (),
}


class Worker:
    """A worker in a thread of this process, with a queue and a task of its own.

    Args:
        app: what it runs; it is changed for that.
    """

    def __init__(self, app: Celery) -> None:
        name = f"{app.conf.task_default_queue}.check-{uuid4().hex[:12]}"
        queue = Queue(name, Exchange(""), name, durable=False, auto_delete=True, expires=60)
        app.conf.update(task_queues=[queue], task_default_queue=name, task_create_missing_queues=True)
        app.conf.update(task_default_exchange="", task_default_routing_key=name)
        self._app = app
        self._name = name
        self._task = app.task(name="rootcellar.check", ignore_result=False, shared=False)(_double)
        self._is_ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._controller: Any = None
        # a worker says of its whole process that nobody in it may wait for a result
        self._undone = ExitStack()
        self.failure = ""

    def start(self) -> bool:
        """Start it; return whether it did within time."""
        self._undone.enter_context(allow_join_result())
        self._app.finalize()
        ready = self._is_ready

        class Controller(self._app.WorkController):  # type: ignore[misc, name-defined]
            def on_consumer_ready(self, consumer: Any) -> None:
                ready.set()

        self._controller = Controller(
            app=self._app,
            hostname=f"check-{uuid4().hex[:8]}@rootcellar",
            pool="solo",
            use_eventloop=False,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._thread = threading.Thread(target=self._run, name="rootcellar-check-worker", daemon=True)
        self._thread.start()
        return ready.wait(_START) and not self.failure

    def run_a_task(self) -> None:
        """Send a task and wait for its result. Raises Celery's TimeoutError."""
        with allow_join_result():
            result = self._task.apply_async((21,), queue=self._name)
            try:
                if result.get(timeout=_PATIENCE) != 42:
                    raise CelerysTimeout("another result came")
            finally:
                # the queue of results goes with its connection
                self._app.backend.result_consumer.stop()

    def stop(self) -> None:
        """Stop it; what it declared goes with it."""
        if self._controller is not None and self._thread is not None and self._thread.is_alive():
            self._controller.consumer.call_soon(_shut_down)
            self._thread.join(_STOP)
        self._undone.close()
        self._app.close()

    def _run(self) -> None:
        # of this thread only: tasks look for their app there
        self._app.set_current()
        try:
            self._controller.start()
        except Exception as exc:  # whatever it is, the check tells of it
            self.failure = redact(f"{type(exc).__name__}: {exc}")
            self._is_ready.set()


def _double(number: int) -> int:
    return 2 * number


def _shut_down() -> None:
    raise WorkerShutdown(0)


#: what :mod:`rootcellar.checks.choosing` calls
checks = RPCChecks
