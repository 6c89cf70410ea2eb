"""Helpers of the tests of waiting: records, other processes, and an inbox for a watcher's notifications."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery

from rootcellar.records import TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.postgres import pacing
from rootcellar.stores.watching import Notification, Watcher
from tests import helpers
from tests.servers import die_with_parent

#: seconds after which a notification counts as lost
PATIENCE = 30.0

ROOT = Path(__file__).resolve().parent.parent.parent


def record(task_id: str, value: Any = None, state: str = "SUCCESS", **fields: Any) -> TaskRecord:
    """Return a record with the task's id as its value, unless another is given."""
    return helpers.record(task_id, task_id if value is None else value, state, **fields)


def value_of(found: TaskRecord) -> Any:
    assert found.result is not None
    return json.loads(found.result.body)


def make_app(store_url: str, **conf: Any) -> Celery:
    """Return an app whose results are in the store."""
    app = Celery("waiting", broker="memory://", backend=f"rootcellar+{store_url}", set_as_current=False)
    app.conf.update(conf)
    return app


def named(url: str, application_name: str) -> str:
    """Return a PostgreSQL URL that names the client to the server."""
    return f"{url}?application_name={application_name}"


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Store]:
    """Open a store, create its tables, and close it at the end."""
    store = open_store(url, StoreOptions(**options))
    try:
        store.check()
        yield store
    finally:
        store.close()


def no_safety_net(monkeypatch: Any) -> None:
    """Only a notification wakes a listening watcher."""
    monkeypatch.setattr(pacing, "SAFETY_READ_SECONDS", 3600.0)


def threads_now() -> set[threading.Thread]:
    """Return the threads of this process, without idle threads that wait for more work and end by themselves."""
    return {thread for thread in threading.enumerate() if thread.name != "rootcellar-executor"}


class Inbox:
    """Receives a watcher's notifications."""

    def __init__(self) -> None:
        self._notifications: queue.SimpleQueue[Notification] = queue.SimpleQueue()
        self.deliver = self._notifications.put

    def take(self, count: int, timeout: float = PATIENCE) -> list[str]:
        """Wait for ``count`` records or ids; return the ids in the order in which they came."""
        deadline = time.monotonic() + timeout
        ids: list[str] = []
        while len(ids) < count:
            try:
                notification = self._notifications.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{count - len(ids)} of {count} did not come within {timeout:g} s") from None
            if isinstance(notification, Exception):
                raise notification
            ids.extend(one.task_id if isinstance(one, TaskRecord) else one for one in notification)
        return ids

    def take_one(self, timeout: float = PATIENCE) -> TaskRecord | str:
        """Wait for one record or id, and return it."""
        try:
            notification = self._notifications.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no notification within {timeout:g} s") from None
        if isinstance(notification, Exception):
            raise notification
        (one,) = notification
        return one

    def is_empty(self) -> bool:
        return self._notifications.empty()


def subscribe(watcher: Watcher, ids: Iterable[str], *args: Any) -> Inbox:
    inbox = Inbox()
    watcher.subscribe(ids, inbox.deliver, *args)
    return inbox


class Other:
    """Another process, spawned, that runs functions; a context manager.

    Args:
        setup: a function that can be imported, called there with ``args``; its result is each job's first argument.
    """

    def __init__(self, setup: Callable[..., Any], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, setup, args), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def begin(self, job: Callable[..., Any], *args: Any) -> None:
        """Start ``job``, a function that can be imported."""
        self._pipe.send((job, args))

    def end(self) -> Any:
        """Wait for the job that began; return its result."""
        return self._receive()

    def do(self, job: Callable[..., Any], *args: Any) -> Any:
        """Run ``job`` and wait for its result."""
        self.begin(job, *args)
        return self.end()

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is dead."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        if not self._pipe.poll(PATIENCE * 2):
            raise AssertionError("the other process did not answer")
        error, value = self._pipe.recv()
        if error is not None:
            raise AssertionError(f"in the other process: {error}")
        return value

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(5)
        self.kill()


def _work(pipe: Connection, setup: Callable[..., Any], args: tuple[Any, ...]) -> None:
    tool = None
    job: Callable[..., Any] = setup
    while True:
        try:
            value = job(*args)
            answer = (None, None if tool is None else value)
            tool = value if tool is None else tool
        except Exception as exc:
            answer = (f"{type(exc).__name__}: {exc}", None)
        pipe.send(answer)
        try:
            job, args = pipe.recv()
        except EOFError:
            return
        args = (tool, *args)


def put_all(store: Store, ids: Sequence[str]) -> None:
    """A job: store a result for each of these ids."""
    for task_id in ids:
        store.put(record(task_id))


def put_at(store: Store, task_id: str, moment: float) -> tuple[float, float]:
    """A job: store a result at a moment of the machine's monotonic clock; return when the call began and ended."""
    spin_until(moment)
    began = time.monotonic()
    store.put(record(task_id))
    return began, time.monotonic()


def opened_there(url: str) -> Store:
    """A setup: open a store for the life of the process."""
    store = open_store(url)
    store.check()
    return store


def spin_until(moment: float) -> None:
    """Wait for an exact moment; a sleep is not exact enough."""
    while time.monotonic() < moment:
        pass


def store_in_threads(store: Store, ids: Sequence[str], threads: int) -> None:
    """A job: store results in threads, like a threaded worker."""
    workers = [threading.Thread(target=put_all, args=(store, ids[number::threads])) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class Script:
    """Python in another process, which prints its progress; a context manager."""

    def __init__(self, text: str, *args: str) -> None:
        self._process = subprocess.Popen(
            die_with_parent([sys.executable, "-u", "-c", text, *args]),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._printed: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, word: str, timeout: float = PATIENCE) -> str:
        """Wait for a line that begins with ``word``; return the rest of it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no line {word!r}, but: {''.join(self._printed)}"
            if line.startswith(word):
                return line.removeprefix(word).strip()

    def end(self, timeout: float = PATIENCE) -> None:
        """Wait until it ends, without an error."""
        status = self._process.wait(timeout)
        assert status == 0, f"status {status}: {''.join(self._printed)}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._printed.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Database:
    """Queries to the server itself, without rootcellar."""

    def __init__(self, url: str) -> None:
        self._url = url

    def rows(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *params: Any) -> Any:
        return self.rows(statement, *params)[0][0]

    def waiters(self, ids: Sequence[str] | None = None) -> int:
        """Return the number of registrations, of all tasks or of these."""
        if ids is None:
            return int(self.one("SELECT count(*) FROM celery_taskmeta_waiter"))
        return int(self.one("SELECT count(*) FROM celery_taskmeta_waiter WHERE task_id = ANY(%s)", list(ids)))

    def listeners(self) -> list[int]:
        """Return the ids of the listeners."""
        return [row[0] for row in self.rows("SELECT id FROM celery_taskmeta_listener ORDER BY id")]

    def sessions(self) -> list[int]:
        """Return the server's process ids of the listening sessions: those that hold a listener's lock."""
        return [
            row[0]
            for row in self.rows(
                "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 7247034 AND granted"
            )
        ]
