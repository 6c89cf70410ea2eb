"""The application of the live scenarios: tasks, a worker, and clients that check every answer.

Each process is a fork of a process that has imported everything, so it starts at once. All of them write what they see
into lists of the broker's Redis, which is never stopped.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import redis
from celery import Celery, chord
from celery.exceptions import TimeoutError
from celery.result import AsyncResult
from celery.signals import before_task_publish, task_success

from rootcellar.errors import RootcellarError
from rootcellar.migration.coordinator import Coordinator, Options, set_rate
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.dual import following, verbs
from rootcellar.stores.dual.phases import Phase

T = TypeVar("T")

#: the lists and the hashes of the notes
WRONG, ROUNDS, STORED, SEEN, FORGOTTEN, BEGUN, BODIES, RETRIED, STOP = (
    f"live:{name}" for name in ("wrong", "rounds", "stored", "seen", "forgotten", "begun", "bodies", "retried", "stop")
)
QUEUE = "live"
#: seconds that a client waits for a result, also for the one of a worker that is frozen
PATIENCE = 120.0
#: tasks of one round of a client, and seconds between two rounds
TASKS, REST = 4, 0.1
PARTS = 3
EXPIRES = timedelta(hours=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every process of the application is given.

    Attributes:
        broker, source, target: URLs.
        options: the transport options of the source.
        log: the file of the worker's output.
        old: how many old results there are.
        lease: seconds for which a process knows the phase, and for which a verb may call stores.
        pause: seconds between two reads of the phase.
    """

    broker: str
    source: str
    options: Mapping[str, str]
    target: str
    log: Path
    old: int
    lease: float
    pause: float

    def open_pair(self) -> Pair:
        """Open both stores."""
        source = open_store(f"rootcellar+{self.source}", StoreOptions(transport_options=self.options))
        return pair_of(source, open_store(self.target))


def old_id(number: int) -> str:
    return f"old-{number:05}"


def make_app(setup: Setup) -> Celery:
    """Return the application of this process, which follows the migration."""
    following.LEASE_SECONDS = verbs.DEADLINE_SECONDS = setup.lease
    following.PAUSE_SECONDS = setup.pause
    notes = redis.Redis.from_url(setup.broker)
    app = Celery("live", broker=setup.broker, backend=f"rootcellar+{setup.source}", set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_lost_wait=0.2,
        result_extended=True,
        result_expires=EXPIRES,
        result_backend_max_sleep_between_retries_ms=200,
        result_backend_transport_options={
            **setup.options,
            "migrate_to": setup.target,
            "chord_lease": 3,
            "chord_sweep_interval": 1,
        },
    )

    @app.task(bind=True, shared=False, name="value")
    def value(self: Any, number: int) -> dict[str, Any]:
        """Return a value that no other run of the same task returns."""
        run = notes.hincrby(BEGUN, self.request.id, 1)
        return {"number": number, "run": run}

    @app.task(bind=True, shared=False, name="fail")
    def fail(self: Any, number: int) -> None:
        raise ValueError(number)

    @app.task(bind=True, shared=False, name="part")
    def part(self: Any, group: str, index: int) -> list[Any]:
        return [group, index]

    @app.task(bind=True, shared=False, name="body")
    def body(self: Any, values: list[Any], group: str) -> dict[str, Any]:
        return {"group": group, "values": values}

    def note_success(sender: Any = None, result: Any = None, **_: Any) -> None:
        """Called in the child after its result was stored."""
        notes.rpush(STORED, json.dumps([sender.request.id, result]))

    def note_body(sender: str = "", headers: Mapping[str, Any] | None = None, **_: Any) -> None:
        if sender == "body" and headers is not None:
            notes.hincrby(BODIES, headers["id"], 1)

    task_success.connect(note_success, weak=False)
    before_task_publish.connect(note_body, weak=False)
    return app


def work(setup: Setup) -> None:
    """Be a worker with four processes."""
    with setup.log.open("ab", buffering=0) as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    app = make_app(setup)
    argv = ["worker", "-c", "4", "-l", "INFO", "-n", "live@%h", "--without-gossip", "--without-mingle"]
    app.worker_main([*argv, "--without-heartbeat"])


def be_client(setup: Setup, number: int) -> None:
    """Be a client: send tasks and chords, wait for them, read them again, and forget some, until the end."""
    Client(setup, number).run()


def store_results(setup: Setup, number: int) -> None:
    """Be a process that stores results and reads each one again, until the end; note their ids and the seconds."""
    backend = make_app(setup).backend
    notes = redis.Redis.from_url(setup.broker)
    count = 0
    while not notes.exists(STOP):
        task_id = f"new-{number}-{count}"
        began = time.monotonic()
        backend.mark_as_done(task_id, count)
        seconds = time.monotonic() - began
        if (found := backend.get_result(task_id)) != count:
            notes.rpush(WRONG, f"{task_id}: {found}")
        notes.rpush(STORED, json.dumps([task_id, seconds]))
        count += 1
        notes.hset(ROUNDS, f"client-{number}", count)
        time.sleep(REST / 4)
    backend.store.close()


class Client:
    """A client that compares every answer with what it must be."""

    def __init__(self, setup: Setup, number: int) -> None:
        self._app = make_app(setup)
        self._notes = redis.Redis.from_url(setup.broker)
        self._old = setup.old
        self._name = f"client-{number}"
        self._dice = random.Random(number)
        self._seen: dict[str, Any] = {}
        self._round = 0

    def run(self) -> None:
        try:
            while not self._notes.exists(STOP):
                self._round += 1
                self._work()
                self._notes.hset(ROUNDS, self._name, self._round)
                time.sleep(REST)
            self._notes.hset(SEEN, mapping={key: json.dumps(value) for key, value in self._seen.items()})
        except BaseException as exc:
            self._wrong(f"{self._name}: {exc!r}")
            raise

    def _work(self) -> None:
        sent = [self._send(index) for index in range(TASKS)]
        failing = self._app.tasks["fail"].apply_async((self._round,))
        group = f"{self._name}-{self._round}"
        called = send_chord(self._app, group, None)
        for index, result in enumerate(sent):
            found = result.get(timeout=PATIENCE)
            self._check(result.id, found["number"] == index, found)
            self._see(result.id, found)
        error = failing.get(timeout=PATIENCE, propagate=False)
        self._check(failing.id, isinstance(error, ValueError) and error.args == (self._round,), error)
        self._check(group, called.get(timeout=PATIENCE) == chord_value(group), "the chord")
        self._read_again()
        if self._round % 3 == 0:
            self._forget(sent[-1].id)

    def _send(self, index: int) -> AsyncResult:
        """Send a task; the first one of a round is sent twice, as a broker does after an outage."""
        task = self._app.tasks["value"]
        result = task.apply_async((index,))
        if index == 0:
            task.apply_async((index,), task_id=result.id)
        return result

    def _read_again(self) -> None:
        for task_id in self._dice.sample(sorted(self._seen), min(6, len(self._seen))):
            found = persistent(self._notes, lambda task_id=task_id: self._app.AsyncResult(task_id)._get_task_meta())  # type: ignore[misc]
            self._see(task_id, found["result"] if found["status"] == "SUCCESS" else found["status"])
        for _ in range(3):
            number = self._dice.randrange(self._old)
            found = persistent(
                self._notes,
                lambda number=number: self._app.AsyncResult(old_id(number))._get_task_meta(),  # type: ignore[misc]
            )
            right = found["status"] == "FAILURE" if number % 7 == 0 else found["result"] == number
            self._check(old_id(number), right, found)

    def _forget(self, task_id: str) -> None:
        del self._seen[task_id]
        persistent(self._notes, lambda: self._app.AsyncResult(task_id).forget())
        state = persistent(self._notes, lambda: self._app.AsyncResult(task_id).state)
        self._check(task_id, state == "PENDING" or self._ran_again(task_id), f"{state} after it was forgotten")
        self._notes.rpush(FORGOTTEN, task_id)

    def _ran_again(self, task_id: str) -> bool:
        """Whether a worker was killed after it had stored the result, so that another one ran the task again."""
        return int(self._notes.hget(BEGUN, task_id) or 0) > 1  # type: ignore[arg-type]

    def _see(self, task_id: str, value: Any) -> None:
        first = self._seen.setdefault(task_id, value)
        self._check(task_id, first == value, f"{value} after {first}")

    def _check(self, task_id: str, is_right: bool, about: object) -> None:
        if not is_right:
            self._wrong(f"{self._name}: {task_id}: {about}")

    def _wrong(self, text: str) -> None:
        self._notes.rpush(WRONG, text)


def send_chord(app: Celery, group: str, last_queue: str | None) -> AsyncResult:
    """Send a chord.

    Args:
        app: the application.
        group: its name.
        last_queue: the queue of its last part; ``None`` for that of the others.
    """
    header = [app.tasks["part"].s(group, index) for index in range(PARTS)]
    if last_queue is not None:
        header[-1].set(queue=last_queue)
    return chord(header, app.tasks["body"].s(group), app=app).apply_async()


def chord_value(group: str) -> dict[str, Any]:
    """Return the result of a chord."""
    return {"group": group, "values": [[group, index] for index in range(PARTS)]}


def persistent(notes: redis.Redis, call: Callable[[], T]) -> T:
    """Call again after an error that says that this helps."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (RootcellarError, TimeoutError) as exc:
            if not getattr(exc, "retryable", False) or time.monotonic() > deadline:
                raise
            notes.rpush(RETRIED, str(exc))
            time.sleep(0.05)


STEPS: Mapping[str, Callable[[Coordinator], object]] = {
    "start": Coordinator.start,
    "advance": Coordinator.advance,
    "back": lambda coordinator: coordinator.rollback(Phase.DUAL),
    "back to prepared": Coordinator.rollback,
    "retire": Coordinator.retire,
}


def migrate(setup: Setup, step: str, options: Options, rate: float | None) -> None:
    """Be the command that makes a step of the migration.

    Args:
        setup: the application.
        step: one of ``STEPS``.
        options: what the operator says.
        rate: how many rows a second a pass reads.
    """
    pair = setup.open_pair()
    coordinator = Coordinator(pair, options)
    coordinator.prepare()
    set_rate(coordinator.book, rate)
    STEPS[step](coordinator)
    pair.close()
