"""``rootcellar check rpc``: sends results as messages, first directly, then from a test worker."""

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
from rootcellar.checks.steps import Checks, Step, passed, problem
from rootcellar.checks.target import AMQP_SCHEMES, Target
from rootcellar.rpc import check_round_trip
from rootcellar.urls import redact

#: timeouts for a result, for the start of the worker, and for its stop
_RESULT_TIMEOUT_SECONDS, _START_TIMEOUT_SECONDS, _STOP_TIMEOUT_SECONDS = 3.0, 5.0, 3.0


class RPCChecks(Checks):
    """Checks results by RPC. The broker's own checks come first."""

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
        if scheme in AMQP_SCHEMES:
            yield passed("speaks AMQP")
        else:
            yield problem("rpc-no-amqp", f"the broker is {scheme}://" if scheme else "no broker is named")

    def _round_trip(self) -> Iterator[Finding]:
        app = self._target.app()
        try:
            yield passed(f"a result came back in {milliseconds(check_round_trip(app, _RESULT_TIMEOUT_SECONDS))}")
        except errors.StoreUnavailable as exc:
            yield problem("rpc-round-trip", exc.what, exc.remedy)
        finally:
            app.close()

    def _run_worker(self) -> Iterator[Finding]:
        app = self._target.app(**_WORKER_SETTINGS)
        self._worker = Worker(app)
        if not self._worker.start():
            yield problem(
                "rpc-worker", self._worker.failure or f"a worker did not start within {_START_TIMEOUT_SECONDS:g} s"
            )
            return
        try:
            span = seconds_of(self._worker.run_a_task)
        except CelerysTimeout:
            yield problem("rpc-worker", f"its task had no result within {_RESULT_TIMEOUT_SECONDS:g} s")
        else:
            yield passed(f"a test worker ran a task in {milliseconds(span)}")


#: settings for a worker that is invisible to others and leaves nothing behind
_WORKER_SETTINGS = {
    "worker_hijack_root_logger": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_redirect_stdouts": False,
    "worker_proc_alive_timeout": _START_TIMEOUT_SECONDS,
    "broker_connection_retry_on_startup": False,
    "beat_schedule": {},
    "imports": (),
    "include": (),
}


class Worker:
    """A worker in a thread of this process, with a queue and a task of its own.

    Args:
        app: the app that the worker runs; its settings are changed.
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
        # a worker forbids its whole process to wait for results; this is undone at the end
        self._cleanup = ExitStack()
        self.failure = ""

    def start(self) -> bool:
        """Start the worker. Return whether it was ready within the timeout."""
        self._cleanup.enter_context(allow_join_result())
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
        return ready.wait(_START_TIMEOUT_SECONDS) and not self.failure

    def run_a_task(self) -> None:
        """Send a task and wait for its result. Raises Celery's TimeoutError."""
        with allow_join_result():
            result = self._task.apply_async((21,), queue=self._name)
            try:
                if result.get(timeout=_RESULT_TIMEOUT_SECONDS) != 42:
                    raise CelerysTimeout("another result came")
            finally:
                # the server deletes the queue of results when its connection ends
                self._app.backend.result_consumer.stop()

    def stop(self) -> None:
        """Stop the worker. The server deletes its queues with the connection."""
        if self._controller is not None and self._thread is not None and self._thread.is_alive():
            self._controller.consumer.call_soon(_shut_down)
            self._thread.join(_STOP_TIMEOUT_SECONDS)
        self._cleanup.close()
        self._app.close()

    def _run(self) -> None:
        # the current app of this thread only: tasks find their app by it
        self._app.set_current()
        try:
            self._controller.start()
        except Exception as exc:  # the check reports any exception of the worker
            self.failure = redact(f"{type(exc).__name__}: {exc}")
            self._is_ready.set()


def _double(number: int) -> int:
    return 2 * number


def _shut_down() -> None:
    raise WorkerShutdown(0)


#: what :mod:`rootcellar.checks.choosing` calls
checks = RPCChecks
