"""A migration of an application that works, and everything that a test does to it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psutil
import redis
from celery.result import AsyncResult

from rootcellar.migration.confirmations import processes_of, unconfirmed
from rootcellar.migration.coordinator import Coordinator, Options
from rootcellar.migration.pair import Pair
from rootcellar.migration.state import State, find_state
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store
from tests.helpers import HEAVY
from tests.migration.coordinating import record
from tests.migration.live import application
from tests.migration.live.application import (
    BEGUN,
    BODIES,
    EXPIRES,
    FORGOTTEN,
    PATIENCE,
    RETRIED,
    ROUNDS,
    SEEN,
    STOP,
    STORED,
    WRONG,
    Setup,
    chord_value,
    make_app,
    old_id,
    send_chord,
)

#: the long form has the lease and the pauses that applications have
LEASE = 10.0 if HEAVY else 2.0
PAUSE = 1.0 if HEAVY else 0.1
OPTIONS = Options() if HEAVY else Options(look_every=0.05, leave_out_from=0.2, left_out_after=5.0, renewal=0.1)
CLIENTS = 2
SECOND = timedelta(seconds=1)

#: forks the processes of the application from one that has imported everything
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.migration.live.application", "celery.bin.worker", "celery.concurrency.prefork"])


def old_record(number: int) -> TaskRecord:
    """Return a record of the time before the migration. Every third one expires, and every seventh one is a failure."""
    expires = timedelta(minutes=20 + number) if number % 3 == 0 else None
    about: dict[str, Any] = {"group_id": f"group-{number % 50}", "parent_id": "a-parent", "name": "shop.old"}
    minutes = 5.0 + number / 100
    if number % 7:
        made = record(old_id(number), value=number, minutes_ago=minutes, **about)
    else:
        error = {"exc_type": "ValueError", "exc_message": [str(number)], "exc_module": "builtins"}
        made = record(
            old_id(number), "FAILURE", error, minutes_ago=minutes, traceback=f"Traceback\nValueError: {number}", **about
        )
    assert made.done_at is not None
    return made if expires is None else replace(made, expires_at=made.done_at + timedelta(minutes=60) + expires)


def everything_in(store: Store) -> dict[str, TaskRecord]:
    """Return what a store holds."""
    return {each.task_id: each for each in itertools.chain.from_iterable(_pages(store))}


def _pages(store: Store) -> Iterator[Iterable[TaskRecord]]:
    after: str | None = None
    while page := store.scan(after, 5_000):
        yield page
        after = page[-1].task_id


class Scene:
    """An application with four worker processes and two clients, its old results, and a migration.

    Args:
        setup: what every process of the application is given.
        seed: decides which process is killed.
    """

    def __init__(self, setup: Setup, *, seed: int) -> None:
        self.setup = setup
        self.pair: Pair = setup.open_pair()
        self.notes = redis.Redis.from_url(setup.broker)
        old = setup.old
        for store in (self.pair.source.store, self.pair.target.store):
            store.check()
        for first in range(0, old, 2_000):
            self.pair.source.mirrored.copy([old_record(number) for number in range(first, min(old, first + 2_000))])
        self.old = everything_in(self.pair.source.store)
        assert len(self.old) == old
        self._dice = random.Random(seed)
        self._app = make_app(self.setup)
        self._worker = self._fork(application.work, self.setup)
        self._clients = [self._fork(application.be_client, self.setup, number) for number in range(CLIENTS)]
        self._chords: dict[str, list[tuple[str, AsyncResult]]] = {}
        #: the children that were killed
        self.killed = 0
        #: how often a command of the migration was killed, by the phase
        self.commands_killed: dict[str, int] = {}

    @staticmethod
    def _fork(function: Callable[..., None], *args: Any) -> Any:
        process = _forks.Process(target=function, args=args)
        process.start()
        return process

    def close(self) -> None:
        """Kill everything."""
        children = self.children()
        for process in (self._worker, *self._clients):
            process.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (self._worker, *self._clients):
            process.join()
            process.close()
        self._app.close()
        self._app.backend.store.close()
        self.notes.close()
        self.pair.close()

    # -- the migration

    def state(self) -> State | None:
        return find_state(self.pair.target)

    def coordinator(self, **options: Any) -> Coordinator:
        """Return what makes a step in this process."""
        return Coordinator(self.pair, replace(OPTIONS, **options))

    def fork_migrator(self, step: str, rate: float | None = None) -> Any:
        """Begin a step in another process."""
        return self._fork(application.migrate, self.setup, step, OPTIONS, rate)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, and fail at once when there is a wrong answer."""

        def is_met() -> bool:
            self.check_answers()
            return condition()

        deadline = time.monotonic() + PATIENCE
        while not is_met():
            assert time.monotonic() < deadline, f"{what}: {self.state()}\n{self.setup.log.read_text()[-3_000:]}"
            time.sleep(0.05)

    def silent(self) -> list[int | None]:
        """Return the numbers of the processes that have not confirmed the phase."""
        state = self.state()
        return [] if state is None else [each.pid for each in unconfirmed(state, processes_of(self.pair))]

    # -- the application

    def children(self) -> list[int]:
        """Return the worker's processes."""
        try:
            found = psutil.Process(self._worker.pid).children()
        except psutil.NoSuchProcess:
            return []
        return sorted(each.pid for each in found)

    def wait_for_traffic(self) -> None:
        """Wait until each client has begun and ended a round."""
        before = self._rounds()
        self.wait_until(
            lambda: all(
                self._rounds().get(f"client-{number}", 0) >= before.get(f"client-{number}", 0) + 2
                for number in range(CLIENTS)
            ),
            "clients get their results",
        )

    def _rounds(self) -> dict[str, int]:
        found: Any = self.notes.hgetall(ROUNDS)
        return {name.decode(): int(count) for name, count in found.items()}

    @contextmanager
    def one_frozen_and_one_killed(self) -> Iterator[int]:
        """Freeze a worker process for the length of the block, and kill another one."""
        self.wait_until(lambda: len(self.children()) == 4, "the worker has four processes")
        frozen, killed = self._dice.sample(self.children(), 2)
        os.kill(frozen, signal.SIGSTOP)
        while self._source_is_locked():
            os.kill(frozen, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(frozen, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        self.killed += 1
        try:
            yield frozen
        finally:
            os.kill(frozen, signal.SIGCONT)

    def _source_is_locked(self) -> bool:
        """Return whether the process that was frozen holds the lock of a file of SQLite: then nobody can write it."""
        scheme, _, path = self.setup.source.partition(":///")
        if scheme != "sqlite":
            return False
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

    def kill(self, migrator: Any) -> None:
        """Kill a command of the migration."""
        migrator.kill()
        migrator.join()
        assert migrator.exitcode == -signal.SIGKILL, "it had not ended by itself"
        migrator.close()
        state = self.state()
        assert state is not None
        name = state.phase.name
        self.commands_killed[name] = self.commands_killed.get(name, 0) + 1

    # -- chords that end in a later phase

    def begin_chords(self, visit: int, last: int) -> None:
        """Begin a chord for this visit of a phase and for each later one, which ends there."""
        for end in range(visit, last + 1):
            group, queue = f"from-{visit}-to-{end}", f"{application.QUEUE}-{end}"
            self._chords.setdefault(queue, []).append((group, send_chord(self._app, group, queue)))

    def end_chords(self, visit: int) -> None:
        """End the chords that are meant to end here, and check what their bodies got."""
        queue = f"{application.QUEUE}-{visit}"
        answer = self._app.control.add_consumer(queue, reply=True, timeout=20, limit=1)
        assert answer, "the worker reads one more queue"
        for group, result in self._chords.pop(queue):
            self.wait_until(lambda result=result: result.ready(), f"the chord {group} ends")  # type: ignore[misc]
            assert result.get(timeout=PATIENCE) == chord_value(group)

    # -- the checks

    def check_answers(self) -> None:
        """Check that no client got a wrong answer so far."""
        wrong: Any = self.notes.lrange(WRONG, 0, 10)
        assert wrong == []

    def stop(self) -> None:
        """Let the clients and the worker end by themselves."""
        self.notes.set(STOP, "1")
        for client in self._clients:
            client.join(PATIENCE)
            assert client.exitcode == 0
        self.check_answers()
        os.kill(self._worker.pid, signal.SIGTERM)
        self._worker.join(PATIENCE)

    def check_store(self, store: Store, old: Iterable[TaskRecord]) -> None:
        """Check that a store has every result that was stored, as it was seen, and every old one."""
        held = everything_in(store)
        for was in old:
            now = held.get(was.task_id)
            assert now is not None, f"{was.task_id} is lost"
            assert _without_expiry(now) == _without_expiry(was)
            assert (now.expires_at is None) == (was.expires_at is None), was.task_id
            if now.expires_at is not None and was.expires_at is not None:
                assert abs(now.expires_at - was.expires_at) <= SECOND, was.task_id
        forgotten = {each.decode() for each in self.notes.lrange(FORGOTTEN, 0, -1)}  # type: ignore[union-attr]
        stored: dict[str, list[Any]] = {}
        for line in self.notes.lrange(STORED, 0, -1):  # type: ignore[union-attr]
            task_id, value = json.loads(line)
            stored.setdefault(task_id, []).append(value)
        seen = {key.decode(): json.loads(value) for key, value in self.notes.hgetall(SEEN).items()}  # type: ignore[union-attr]
        for task_id, values in stored.items():
            if task_id in forgotten:
                continue
            one = held.get(task_id)
            assert one is not None, f"{task_id} is lost"
            assert one.state == "SUCCESS"
            assert one.done_at is not None
            assert one.expires_at is not None
            assert abs(one.expires_at - one.done_at - EXPIRES) <= SECOND
            value = _value(one)
            assert value == seen.get(task_id, value), f"{task_id} has changed after it was read"
            assert value in values or self.killed, f"{task_id} has a value that nobody stored"
        runs: Any = self.notes.hgetall(BEGUN)
        came_back = [each for each in forgotten if each in held and int(runs.get(each.encode(), 0)) < 2]
        assert came_back == []
        assert len(stored) > 20
        assert forgotten

    def check_bodies(self) -> None:
        """Check that each chord has sent its body once; a process that was killed cannot say that it has sent it."""
        bodies: Any = self.notes.hgetall(BODIES)
        again = sum(int(count) - 1 for count in bodies.values())
        assert bodies
        assert again <= self.killed

    def summary(self) -> str:
        """Return what happened, for people."""
        stored: Any = self.notes.llen(STORED)
        retried: Any = self.notes.llen(RETRIED)
        return (
            f"{len(self.old):,} old and {stored:,} new results, {self.notes.hlen(BODIES)} chords, "
            f"{self.notes.llen(FORGOTTEN)} forgotten, {self.killed} processes killed, commands killed: "
            f"{self.commands_killed}, reads repeated: {retried}"
        )

    def say(self) -> None:
        """Print what happened; pytest shows it on request."""
        print(self.summary(), file=sys.stderr)


def _without_expiry(one: TaskRecord) -> tuple[object, ...]:
    done = None if one.done_at is None else round(one.done_at.timestamp(), 3)
    value = None if one.result is None else json.loads(one.result.body)
    return (one.state, value, one.traceback, done, one.name, one.group_id, one.parent_id)


def _value(one: TaskRecord) -> Any:
    assert isinstance(one.result, Payload)
    return json.loads(one.result.body)
