"""The demo's worker: in this process with the in-process broker, else in other processes. Times are in seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol

from celery import signals
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker import WorkController
from celery.worker import state as worker_state

from rootcellar.errors import DemoFailed
from rootcellar.onboarding.demo.app import app

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_THREADS = 4
_THREAD_WORKER = "demo@localhost"
_PROCESSES = 2


class DemoWorker(Protocol):
    """A worker that runs during a ``with`` block."""

    log: Path

    def __enter__(self) -> DemoWorker: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def check(self) -> None:
        """Raise DemoFailed if the worker has ended."""


class ThreadWorker:
    """A worker in a thread of this process, with a pool of threads, for the in-process broker.

    Args:
        log: the file for its log.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._ready = threading.Event()
        self._handler = logging.FileHandler(log)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._thread = threading.Thread(target=self._run, name="rootcellar-demo-worker", daemon=True)

    def __enter__(self) -> ThreadWorker:
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            raise _not_ready(self.log)
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worker_state.should_stop = os.EX_OK
        _send_shutdown()
        self._thread.join(_STOP_SECONDS)
        worker_state.should_stop = None
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()

    def check(self) -> None:
        if not self._thread.is_alive():
            raise _ended(self.log)

    def _run(self) -> None:
        # like Celery's command line: it sets the app and the worker's name for the pool's threads
        setup_worker_optimizations(app, _THREAD_WORKER)
        worker = WorkController(
            app=app,
            pool="threads",
            concurrency=_THREADS,
            hostname=_THREAD_WORKER,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
            ready_callback=self._on_ready,
        )
        try:
            worker.start()
        finally:
            reset_worker_optimizations(app)
            # ends the wait for the start; the waiting thread checks whether the worker has started
            self._ready.set()

    def _on_ready(self, consumer: object) -> None:
        # like Celery's command line: the backend starts its services on this signal
        signals.worker_ready.send(sender=consumer)
        self._ready.set()


class ProcessWorker:
    """A worker of ``celery worker``, with a pool of processes. Its URLs are only in its environment.

    Args:
        log: the file for its log.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ProcessWorker:
        name = f"rootcellar-demo-{secrets.token_hex(4)}@%h"
        command = [sys.executable, "-m", "celery", "-A", "rootcellar.onboarding.demo.app", "worker", "-l", "INFO"]
        command += ["-P", "prefork", "-c", str(_PROCESSES), "-n", name]
        command += ["--without-heartbeat", "--without-mingle", "--without-gossip"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which then stops the worker
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if kind is None:
            _send_shutdown()
        else:
            # the broker itself may be down
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        # also its children, if they still run
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise _ended(self.log)


def _send_shutdown() -> None:
    """Send the worker a message to stop: it reads a message at once, but notices a signal only seconds later."""
    # if the message fails, the worker is stopped in another way
    with contextlib.suppress(Exception):
        app.control.shutdown()


def _not_ready(log: Path) -> DemoFailed:
    return DemoFailed(f"the worker did not start within {_START_SECONDS:g} s", where=str(log), remedy="see its log")


def _ended(log: Path) -> DemoFailed:
    return DemoFailed("the worker ended before its work was done", where=str(log), remedy="see its log")
