"""The app of the fault tests: its tasks record what they did, and its workers die or pause at planned points.

A test plans a fault as a file in the folder TEST_FAULTS: see `Faults`. Without that variable there are no faults.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from celery import Celery
from celery.result import allow_join_result
from celery.signals import task_postrun, worker_process_init

from rootcellar.backend.chords import Chords
from rootcellar.stores.hybrid import WriteBehindStore
from rootcellar.stores.mysql import MySQLStore
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.sqlite import SQLiteStore

Point = Literal["before_store", "within_store", "after_store", "before_body", "before_publish", "after_publish"]
Action = Literal["kill child", "kill worker", "wait"]

#: defaults of every app here; a test's settings override them
SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 4,
    "worker_lost_wait": 0.5,  # seconds before a task whose process was killed is given up
    "result_backend_max_sleep_between_retries_ms": 500,
    "result_backend_transport_options": {"chord_lease": 3, "chord_sweep_interval": 1},
}


class Faults:
    """Points at which a worker dies or pauses, once for each file `point@key` in a folder.

    The key is the id of the task whose result is stored, or of the body that is called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # -- in the test

    def plan(self, point: Point, key: str, action: Action = "kill child") -> None:
        """Plan an action for the first worker process that reaches the point with this key."""
        if action == "wait":
            self.pipe(f"reached-{point}-{key}")
            self.pipe(f"go-on-{point}-{key}")
        (self._folder / f"{point}@{key}").write_text(action)

    def pending(self) -> list[str]:
        """Return the planned points that no process has reached."""
        return sorted(path.name for path in self._folder.iterdir() if "@" in path.name)

    def wait_until_reached(self, point: Point, key: str) -> None:
        """Wait until a worker process waits at the point."""
        self.wait_for(f"reached-{point}-{key}")

    def resume(self, point: Point, key: str) -> None:
        """Let the process that waits at the point continue."""
        self.send(f"go-on-{point}-{key}")

    def notes(self) -> list[str]:
        """Return the lines that the tasks recorded."""
        journal = self._folder / "journal"
        return journal.read_text().splitlines() if journal.exists() else []

    # -- in both: a pipe; sender and receiver wait for each other

    def pipe(self, name: str) -> None:
        """Create the pipe, before it is used."""
        os.mkfifo(self._folder / name)

    def send(self, name: str) -> None:
        """Wait until the other side receives."""
        (self._folder / name).write_text("")

    def wait_for(self, name: str) -> None:
        """Wait until the other side sends."""
        (self._folder / name).read_text()

    def leave(self, name: str) -> None:
        """Create a file that one process can take."""
        (self._folder / name).write_text("")

    # -- in the worker

    def note(self, text: str) -> None:
        """Record a line; it stays even if the process is killed at once."""
        with (self._folder / "journal").open("ab", buffering=0) as journal:
            journal.write(f"{text}\n".encode())

    def take(self, name: str) -> str | None:
        """Remove a file and return its text; `None` if it does not exist or another process took it."""
        path = self._folder / name
        try:
            text = path.read_text()
            path.unlink()
        except FileNotFoundError:
            return None
        return text

    def reach(self, point: Point, key: str) -> None:
        """Die or wait, if this is planned for this point."""
        action = self.take(f"{point}@{key}")
        if action == "kill child":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "kill worker":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        elif action == "wait":
            self.send(f"reached-{point}-{key}")
            self.wait_for(f"go-on-{point}-{key}")

    def install(self) -> None:
        """Make this process check the points."""
        for store in (PostgresStore, SQLiteStore, MySQLStore, WriteBehindStore):
            self._before(store, "put", "before_store", lambda record, *_: record.task_id)
            self._after(store, "put", "after_store", lambda record, *_: record.task_id)
        # between the two parts of one transaction; PostgreSQL does both in one statement
        for store in (SQLiteStore, MySQLStore):
            self._before(store, "_count_part", "within_store", lambda _, part, *__: part.task_id)
        self._before(Chords, "_call_body", "before_body", lambda _, body: body.id)
        self._before(Chords, "_publish", "before_publish", lambda _, body, __: body.id)
        self._after(Chords, "_publish", "after_publish", lambda _, body, __: body.id)

    def _before(self, owner: type, name: str, point: Point, key: Callable[..., str]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(this: Any, *args: Any, **kwargs: Any) -> Any:
            self.reach(point, key(*args))
            return original(this, *args, **kwargs)

        setattr(owner, name, wrapped)

    def _after(self, owner: type, name: str, point: Point, key: Callable[..., str]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(this: Any, *args: Any, **kwargs: Any) -> Any:
            answer = original(this, *args, **kwargs)
            self.reach(point, key(*args))
            return answer

        setattr(owner, name, wrapped)


def faults_here() -> Faults:
    """Return the faults of this worker."""
    return Faults(Path(os.environ["TEST_FAULTS"]))


# -- the tasks, by the names of their functions ------------------------------------------------------------------------


def square(self: Any, number: int, seconds: float = 0.0) -> dict[str, int]:
    """Square a number; every third task stores its progress."""
    faults_here().note(f"square {number}")
    if number % 3 == 0:
        self.update_state(state="PROGRESS", meta={"number": number, "done": 0})
    time.sleep(seconds)
    if number % 3 == 0:
        self.update_state(state="PROGRESS", meta={"number": number, "done": 1})
    return {"number": number, "square": number * number}


def blob(self: Any, size: int) -> dict[str, str]:
    """Return a long text that can hardly be compressed, and its digest."""
    text = os.urandom(size // 2).hex()
    return {"text": text, "digest": hashlib.sha256(text.encode()).hexdigest()}


def part(self: Any, chord: int, index: int) -> list[int]:
    """A part of a chord."""
    return [chord, index]


def body(self: Any, values: list[Any], chord: int) -> dict[str, Any]:
    """The body of a chord."""
    faults_here().note(f"body {chord}")
    return {"chord": chord, "values": values}


def twin(self: Any, name: str, fails: bool) -> str:
    """Run twice at once: the first run succeeds when the test allows it; then the other fails or succeeds."""
    faults = faults_here()
    # each run has its own pipe: if two sent at the same moment in one pipe, one message could be lost
    if faults.take(f"{name}-first") is not None:
        faults.send(f"{name}-runs")
        faults.wait_for(f"{name}-ends")
        return f"{name} first"
    faults.send(f"{name}-runs-again")
    with allow_join_result():
        self.AsyncResult(self.request.id).get(timeout=30, interval=0.001)
    if fails:
        raise ValueError(name)
    return f"{name} second"


def wait(self: Any, name: str) -> str:
    """Send to the test that the task runs, and run until the test sends that it may end."""
    faults = faults_here()
    faults.note(f"{name} {os.getpid()}")
    faults.send(f"{name}-runs")
    faults.wait_for(f"{name}-ends")
    return name


TASKS = (square, blob, part, body, twin, wait)


def make_app(broker: str, backend: str, settings: Mapping[str, Any] | None = None) -> Celery:
    """Return an app with the tasks."""
    app = Celery("faults", broker=broker, backend=backend, set_as_current=False)
    app.conf.update({**SETTINGS, **(settings or {})})
    for function in TASKS:
        app.task(function, name=function.__name__, bind=True)
    return app


app = make_app(
    os.environ.get("TEST_BROKER", "memory://"),
    os.environ.get("TEST_BACKEND", "cache+memory://"),
    json.loads(os.environ.get("TEST_SETTINGS", "{}")),
)


@task_postrun.connect  # type: ignore[untyped-decorator, unused-ignore]
def _send_end(task_id: str, **_: Any) -> None:
    """Send to a waiting test that a run of a task has ended and is stored."""
    if "TEST_FAULTS" in os.environ and faults_here().take(f"{task_id}-awaited") is not None:
        faults_here().send(f"{task_id}-ended")


def drop_root_privilege() -> None:
    """Drop root's privilege to write to read-only files."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


if "TEST_ORDINARY" in os.environ:
    drop_root_privilege()


@worker_process_init.connect  # type: ignore[untyped-decorator, unused-ignore]
def _install_faults(**_: Any) -> None:
    """Faults are planned only for children of a pool."""
    if "TEST_FAULTS" in os.environ:
        faults_here().install()
