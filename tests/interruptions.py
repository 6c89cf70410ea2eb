"""Raises exceptions at random moments of a store's calls: ``python -m tests.interruptions --store postgres``.

Two threads are interrupted: the main thread, by a signal handler, like a soft time limit; and another one, in which a
third thread raises an exception. In every round one call of one of them (``put``, ``get``, waiting, what a migration
does, the pool) is interrupted at a random moment. Eight other threads use the same store and are not interrupted. It
fails if a thread hangs, an exception is swallowed, the pool loses a connection, a call gets another call's reply, or an
acknowledged result is missing. It prints a summary.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.exceptions import TimeoutError as NotInTime

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.mirroring import Mirrored
from rootcellar.testing.helpers import able
from rootcellar.waiting.blocking import Waiter
from tests.mariadb_server import MariaDBServer
from tests.servers import PostgresServer, RedisServer

#: connections of the pool, fewer than there are threads
POOL = 4
#: threads that are not interrupted
OTHERS = 8
#: the longest pause between two calls of one of them, in seconds
PAUSE = 0.04
#: seconds without a round after which the process prints the stacks of its threads, and ends
HANGS = 120.0


class Struck(BaseException):
    """An exception like that of Ctrl-C or of a greenlet's timeout: not an ``Exception``."""


KINDS: tuple[type[BaseException], ...] = (Struck, SoftTimeLimitExceeded)


def record(task_id: str) -> TaskRecord:
    """Return a result whose value is the task's id."""
    return TaskRecord(
        task_id=task_id,
        state="SUCCESS",
        result=Payload(json.dumps(task_id).encode()),
        done_at=datetime.now(timezone.utc),
    )


def check(found: TaskRecord | None, task_id: str) -> None:
    """Fail if a reply belongs to another call."""
    assert found is not None, f"{task_id} was acknowledged and is missing"
    assert found.result is not None
    assert (found.task_id, json.loads(found.result.body)) == (task_id, task_id), f"asked for {task_id}, got {found}"


# -- a query on a connection of the pool, with one right reply


def ask_postgres(connection: Any, number: int) -> None:
    (answer,) = connection.execute("SELECT %s::bigint", [number]).fetchone()
    assert answer == number, f"asked for {number}, got {answer}"


def ask_mysql(connection: Any, number: int) -> None:
    ((answer,),) = connection.rows("SELECT %(number)s", {"number": number})
    assert answer == number, f"asked for {number}, got {answer}"


def ask_redis(line: Any, number: int) -> None:
    from rootcellar.stores.redis.connection import pack

    answer = line.call(pack(b"ECHO", number))
    assert answer == b"%d" % number, f"asked for {number}, got {answer}"


def ask_sqlite(connection: Any, number: int) -> None:
    (answer,) = connection.execute("SELECT ?", [number]).fetchone()
    assert answer == number, f"asked for {number}, got {answer}"


ASK: dict[str, Callable[[Any, int], None]] = {
    "postgres": ask_postgres,
    "mysql": ask_mysql,
    "redis": ask_redis,
    "sqlite": ask_sqlite,
}


class Target:
    """A store, its acknowledged results, and the calls.

    Args:
        kind: the store's name.
        url: the store's URL.
    """

    def __init__(self, kind: str, url: str) -> None:
        self.store: Store = open_store(
            url, StoreOptions(pool_size=POOL, pool_timeout=60.0, sections={"redis": {"max_connections": POOL}})
        )
        self.store.check()
        self.waiter = Waiter(self.store)
        self.pool = self.store._servers._pool if kind == "redis" else self.store._pool  # type: ignore[attr-defined]
        self._kind = kind
        self._ask = ASK[kind]
        # imports what a migration needs, as a worker does long before
        self._mirrored = able(self.store, Mirrored)
        self.over = threading.Event()
        self.failures: list[str] = []
        #: for each other thread, the number of results that it has stored: ``other 3-0`` to ``other 3-…``
        self.stored = [0] * OTHERS
        self.calls = [0] * OTHERS

    # -- the calls

    def put(self, user: User) -> None:
        task_id = user.new_id()
        self.store.put(record(task_id))
        user.acknowledged.append(task_id)

    def mirror(self, user: User) -> None:
        task_id = user.new_id()
        self._mirrored.mirror(record(task_id))
        user.acknowledged.append(task_id)

    def copy(self, user: User) -> None:
        ids = [user.new_id() for _ in range(3)]
        report = self._mirrored.copy([record(task_id) for task_id in ids])
        assert report.written == {*ids}, report
        user.acknowledged += ids

    def bury(self, user: User) -> None:
        """Forget a result: nothing brings it back."""
        one = record(user.new_id())
        self.store.put(one)
        assert self._mirrored.bury([one.task_id]).keys() == {one.task_id}
        assert self._mirrored.mirror(one).buried
        assert self.store.get(one.task_id) is None

    def get(self, user: User) -> None:
        task_id = user.some_id()
        check(self.store.get(task_id), task_id)

    def get_many(self, user: User) -> None:
        ids = {user.some_id() for _ in range(5)}
        found = self.store.get_many(ids)
        assert found.keys() == ids, f"asked for {ids}, got {found.keys()}"
        for task_id in ids:
            check(found[task_id], task_id)

    def wait_for_old(self, user: User) -> None:
        task_id = user.some_id()
        (found,) = self.waiter.wait_for([task_id])
        check(found, task_id)

    def wait_for_new(self, user: User) -> None:
        """Wait for the next result of one of the other threads."""
        other = user.dice.randrange(OTHERS)
        task_id = f"other {other}-{self.stored[other] + 1}"
        for found in self.waiter.wait_for([task_id], timeout=30.0):
            check(found, task_id)

    def wait_in_vain(self, user: User) -> None:
        try:
            list(self.waiter.wait_for([f"nobody {user.dice.random()}"], timeout=0.002))
        except NotInTime:
            return
        raise AssertionError("the result was not stored")

    def ask(self, user: User) -> None:
        with self.pool.connection() as connection:
            self._ask(connection, user.dice.randrange(10**12))

    def ask_anew(self, user: User) -> None:
        with self.pool.connection(fresh=True) as connection:
            self._ask(connection, user.dice.randrange(10**12))

    @property
    def all_calls(self) -> tuple[Callable[[User], None], ...]:
        common = (self.put, self.get, self.get_many, self.ask)
        waiting = (self.wait_for_old, self.wait_for_new, self.wait_in_vain)
        # SQLite would report an exception in one of our functions, which count what is deleted, as an error of its own
        migrating = (self.mirror, self.copy) if self._kind == "sqlite" else (self.mirror, self.copy, self.bury)
        return (*common, *common, *waiting, *migrating, self.ask_anew)

    # -- threads that are not interrupted

    def work_in_peace(self, number: int) -> None:
        user = User(f"other {number}", number, acknowledged=[f"other {number}-0"])
        waiting = (self.wait_for_old, self.ask, self.get, self.get_many)
        try:
            while not self.over.is_set():
                task_id = f"other {number}-{self.stored[number] + 1}"
                self.store.put(record(task_id))
                self.stored[number] += 1
                user.acknowledged.append(task_id)
                check(self.store.get(task_id), task_id)
                user.dice.choice(waiting)(user)
                self.calls[number] += 3
                self.over.wait(user.dice.uniform(0, PAUSE))
        except BaseException as exc:
            self.failures.append(f"{user.name}: {type(exc).__name__}: {exc}")
            raise


class User:
    """A thread that uses the store."""

    def __init__(self, name: str, seed: int, acknowledged: list[str] | None = None) -> None:
        self.name = name
        self.dice = random.Random(seed)
        self.acknowledged = acknowledged or []
        self._numbers = 0

    def new_id(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    def some_id(self) -> str:
        return self.dice.choice(self.acknowledged)


class Victim(User):
    """A thread whose calls are interrupted."""

    def __init__(self, target: Target, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self._bed = target
        self.struck: Counter[str] = Counter()
        self.spared = 0
        #: the usual duration of each call, in seconds
        self._durations: dict[str, float] = {}

    def prepare(self) -> None:
        for _ in range(20):
            self._bed.put(self)

    def round(self, strike: Callable[[type[BaseException], float], Any]) -> None:
        """Make one call, in which ``strike``, a context manager, raises an exception after a random time."""
        call = self.dice.choice(self._bed.all_calls)
        kind = self.dice.choice(KINDS)
        usual = self._durations.get(call.__name__, 0.002)
        began = time.monotonic()
        try:
            with strike(kind, self.dice.uniform(0.0, 1.2 * usual)):
                call(self)
        except kind:
            self.struck[call.__name__] += 1
            return
        self.spared += 1
        self._durations[call.__name__] = 0.8 * usual + 0.2 * min(0.1, time.monotonic() - began)


@contextmanager
def signals() -> Iterator[Callable[[type[BaseException], float], Any]]:
    """Interrupt the main thread, by a timer's signal."""
    wanted: list[type[BaseException]] = []

    def handle(*_: Any) -> None:
        if wanted:
            raise wanted.pop()

    class Strike:
        def __init__(self, kind: type[BaseException], seconds: float) -> None:
            self._kind = kind
            self._seconds = max(1e-6, seconds)

        def __enter__(self) -> None:
            wanted.append(self._kind)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

        def __exit__(self, *_: Any) -> None:
            wanted.clear()
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield Strike
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Striker(threading.Thread):
    """Raises exceptions in another thread."""

    def __init__(self) -> None:
        super().__init__(name="striker", daemon=True)
        self._lock = threading.Lock()
        self._work = threading.Semaphore(0)
        self._next: tuple[type[BaseException], float, int] | None = None
        self._victim = 0
        #: the number of the round in which an exception may be raised; 0 between two rounds
        self._round = 0
        self._rounds = 0
        self.is_over = False

    def run(self) -> None:
        while True:
            self._work.acquire()
            if self.is_over:
                return
            assert self._next is not None
            kind, seconds, number = self._next
            time.sleep(seconds)
            with self._lock:
                if self._round == number:
                    self._round = 0
                    throw(self._victim, kind)

    @contextmanager
    def strike(self, kind: type[BaseException], seconds: float) -> Iterator[None]:
        self._victim = threading.get_ident()
        self._rounds += 1
        self._next = (kind, seconds, self._rounds)
        self._round = self._rounds
        self._work.release()
        try:
            yield
        finally:
            self.spare()

    def spare(self) -> None:
        """Stop raising exceptions; a pending one is raised before this returns."""
        with self._lock:
            self._round = 0
        for _ in range(3):
            time.sleep(0)


def throw(thread: int, kind: type[BaseException]) -> None:
    """Raise an exception in another thread, when it next runs Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def suffer_in_thread(target: Target, victim: Victim, rounds: int) -> None:
    striker = Striker()
    striker.start()
    try:
        victim.prepare()
        for _ in range(rounds):
            if target.failures:
                break
            victim.round(striker.strike)
    except BaseException as exc:
        target.failures.append(f"{victim.name}: {type(exc).__name__}: {exc}")
        raise
    finally:
        striker.is_over = True
        striker._work.release()


def suffer(kind: str, url: str, rounds: int, seed: int, say: Callable[[str], object]) -> str:
    """Interrupt ``rounds`` calls, and check that nothing is broken; return the summary."""
    sys.setswitchinterval(0.0002)
    target = Target(kind, url)
    for number in range(OTHERS):
        target.store.put(record(f"other {number}-0"))
    others = [
        threading.Thread(target=target.work_in_peace, args=(n,), name=f"other {n}", daemon=True) for n in range(OTHERS)
    ]
    main, beside = Victim(target, "main", seed), Victim(target, "thread", seed + 1)
    main.prepare()
    sufferer = threading.Thread(target=suffer_in_thread, args=(target, beside, rounds // 4), name="victim", daemon=True)
    began = time.monotonic()
    for thread in (*others, sufferer):
        thread.start()
    with signals() as strike:
        for number in range(rounds - rounds // 4):
            if number % 500 == 0:
                faulthandler.dump_traceback_later(HANGS, exit=True)
            if number % 5_000 == 4_999:
                say(f"{number + 1:,} rounds in the main thread, {time.monotonic() - began:.0f} s")
            if target.failures:
                break
            main.round(strike)
    while sufferer.is_alive():
        before = sum(beside.struck.values()) + beside.spared
        faulthandler.dump_traceback_later(3 * HANGS, exit=True)
        sufferer.join(HANGS)
        after = sum(beside.struck.values()) + beside.spared
        assert not sufferer.is_alive() or after > before, "the interrupted thread hangs"
    target.over.set()
    faulthandler.dump_traceback_later(HANGS, exit=True)
    for thread in others:
        thread.join()
    assert not target.failures, target.failures
    took = time.monotonic() - began
    look_that_nothing_is_broken(target, [main, beside])
    faulthandler.cancel_dump_traceback_later()
    struck = main.struck + beside.struck
    kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(struck.items()))
    stored = len(main.acknowledged) + len(beside.acknowledged) + sum(target.stored)
    return (
        f"{rounds:,} rounds on {kind} in {took:.0f} s ({rounds / took:.0f}/s, seed {seed}): {sum(struck.values()):,} "
        f"calls were interrupted ({kinds}), {main.spared + beside.spared:,} ended before; {OTHERS} other threads made "
        f"{sum(target.calls):,} calls. No thread hung, no call failed, every reply belonged to its call, all "
        f"{stored:,} acknowledged results are stored, and the pool hands out all {POOL} connections."
    )


def look_that_nothing_is_broken(target: Target, victims: list[Victim]) -> None:
    gc.collect()
    with ExitStack() as loans:
        for number in range(POOL):
            # each thread would wait for a minute for a lost connection
            before = time.monotonic()
            target._ask(loans.enter_context(target.pool.connection()), number)
            assert time.monotonic() - before < 30, "the pool has lost a connection"
    acknowledged = [task_id for victim in victims for task_id in victim.acknowledged]
    acknowledged += [f"other {n}-{number}" for n in range(OTHERS) for number in range(target.stored[n] + 1)]
    for start in range(0, len(acknowledged), 1_000):
        some = acknowledged[start : start + 1_000]
        found = target.store.get_many(some)
        for task_id in some:
            check(found.get(task_id), task_id)
    watcher = target.waiter.watcher()
    deadline = time.monotonic() + 30
    while watcher.awaited_ids():
        assert time.monotonic() < deadline, f"subscriptions without a waiter: {watcher.awaited_ids()}"
        time.sleep(0.01)
    target.waiter.close()
    target.store.close()


@contextmanager
def server_of(kind: str) -> Iterator[str]:
    """Start a server; yield the URL of an empty store on it."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{Path(folder)}/results.sqlite3"
    elif kind == "redis":
        with RedisServer() as redis:
            yield redis.url
    else:
        with PostgresServer() if kind == "postgres" else MariaDBServer() as server:
            yield server.create_database()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", choices=sorted(ASK), default="postgres")
    parser.add_argument("--url", help="the URL of a store; otherwise a server is started")
    parser.add_argument("--rounds", type=lambda text: int(text.replace("_", "").replace(",", "")), default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbits(32) if given.seed is None else given.seed

    def say(text: str) -> None:
        print(text, flush=True)

    with server_of(given.store) if given.url is None else ExitStack() as url:
        print(suffer(given.store, given.url or url, given.rounds, seed, say), flush=True)


if __name__ == "__main__":
    main()
