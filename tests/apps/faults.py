"""The app of the fault tests: its tasks note what they did, and its workers die or wait where a test says so.

What a test wants is a file in the folder TEST_FAULTS: see `Faults`. Without that variable nothing is ever hurt.
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

#: for every app here; a test's own settings go over them
SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 4,
    "worker_lost_wait": 0.5,  # seconds before a task whose process was killed is given up
    "result_backend_max_sleep_between_retries_ms": 500,
    "result_backend_transport_options": {"chord_lease": 3, "chord_sweep_interval": 1},
}


class Faults:
    """Points in the work of a worker at which it is hurt, once for each file `point@key` in a folder.

    The key is the id of the task that is stored, or of the body that is called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # -- in the test

    def plan(self, point: Point, key: str, action: Action = "kill child") -> None:
        """Let the first worker process that reaches the point for this key suffer the action."""
        if action == "wait":
            self.pipe(f"reached-{point}-{key}")
            self.pipe(f"go-on-{point}-{key}")
        (self._folder / f"{point}@{key}").write_text(action)

    def pending(self) -> list[str]:
        """Return the points that nobody has reached."""
        return sorted(path.name for path in self._folder.iterdir() if "@" in path.name)

    def wait_until_reached(self, point: Point, key: str) -> None:
        """Wait until a worker process waits at the point."""
        self.hear(f"reached-{point}-{key}")

    def go_on(self, point: Point, key: str) -> None:
        """Let the process that waits at the point go on."""
        self.tell(f"go-on-{point}-{key}")

    def notes(self) -> list[str]:
        """Return what the tasks noted."""
        journal = self._folder / "journal"
        return journal.read_text().splitlines() if journal.exists() else []

    # -- in both: a pipe in which whoever tells waits for whoever hears, and the other way round

    def pipe(self, name: str) -> None:
        """Make the pipe, before anybody uses it."""
        os.mkfifo(self._folder / name)

    def tell(self, name: str) -> None:
        """Wait until somebody hears."""
        (self._folder / name).write_text("")

    def hear(self, name: str) -> None:
        """Wait until somebody tells."""
        (self._folder / name).read_text()

    def leave(self, name: str) -> None:
        """Leave a file for one process to take."""
        (self._folder / name).write_text("")

    # -- in the worker

    def note(self, text: str) -> None:
        """Note a line; it stays when the process is killed right after."""
        with (self._folder / "journal").open("ab", buffering=0) as journal:
            journal.write(f"{text}\n".encode())

    def take(self, name: str) -> str | None:
        """Return the text of a file of this name and remove it; `None` if there is none or another was quicker."""
        path = self._folder / name
        try:
            text = path.read_text()
            path.unlink()
        except FileNotFoundError:
            return None
        return text

    def reach(self, point: Point, key: str) -> None:
        """Die or wait if that was planned for this point."""
        action = self.take(f"{point}@{key}")
        if action == "kill child":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "kill worker":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        elif action == "wait":
            self.tell(f"reached-{point}-{key}")
            self.hear(f"go-on-{point}-{key}")

    def install(self) -> None:
        """Let this process reach the points."""
        for store in (PostgresStore, SQLiteStore, MySQLStore, WriteBehindStore):
            self._before(store, "put", "before_store", lambda record, *_: record.task_id)
            self._after(store, "put", "after_store", lambda record, *_: record.task_id)
        # between the two halves of one transaction; PostgreSQL does both in one statement
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
    """Square a number; every third tells its progress."""
    faults_here().note(f"square {number}")
    if number % 3 == 0:
        self.update_state(state="PROGRESS", meta={"number": number, "done": 0})
    time.sleep(seconds)
    if number % 3 == 0:
        self.update_state(state="PROGRESS", meta={"number": number, "done": 1})
    return {"number": number, "square": number * number}


def blob(self: Any, size: int) -> dict[str, str]:
    """Return a long text that cannot be compressed much, and its fingerprint."""
    text = os.urandom(size // 2).hex()
    return {"text": text, "digest": hashlib.sha256(text.encode()).hexdigest()}


def part(self: Any, chord: int, index: int) -> list[int]:
    """Be a part of a chord."""
    return [chord, index]


def body(self: Any, values: list[Any], chord: int) -> dict[str, Any]:
    """Be the body of a chord."""
    faults_here().note(f"body {chord}")
    return {"chord": chord, "values": values}


def twin(self: Any, name: str, fails: bool) -> str:
    """Run twice at the same moment: the first succeeds when it may, then the other fails, or succeeds too."""
    faults = faults_here()
    # each in a pipe of its own: of two that tell at the same moment in one, only one might be heard
    if faults.take(f"{name}-first") is not None:
        faults.tell(f"{name}-runs")
        faults.hear(f"{name}-ends")
        return f"{name} first"
    faults.tell(f"{name}-runs-again")
    with allow_join_result():
        self.AsyncResult(self.request.id).get(timeout=30, interval=0.001)
    if fails:
        raise ValueError(name)
    return f"{name} second"


def wait(self: Any, name: str) -> str:
    """Tell the test that it runs, and run until the test tells it to end."""
    faults = faults_here()
    faults.note(f"{name} {os.getpid()}")
    faults.tell(f"{name}-runs")
    faults.hear(f"{name}-ends")
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
def _tell_end(task_id: str, **_: Any) -> None:
    """Tell a test that waits for it that a run of a task has ended, and all that comes of it is stored."""
    if "TEST_FAULTS" in os.environ and faults_here().take(f"{task_id}-told") is not None:
        faults_here().tell(f"{task_id}-ended")


def be_an_ordinary_user() -> None:
    """Give up root's privilege to write to files that are read-only."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


if "TEST_ORDINARY" in os.environ:
    be_an_ordinary_user()


@worker_process_init.connect  # type: ignore[untyped-decorator, unused-ignore]
def _install_faults(**_: Any) -> None:
    """Only children of a pool are hurt, for it is they who are planned to be."""
    if "TEST_FAULTS" in os.environ:
        faults_here().install()
