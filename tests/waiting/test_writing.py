"""Threads share commits: all records are stored, an error fails only its own call, and no thread waits for ever."""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from rootcellar.errors import RecordRefused, RootcellarError, StoreUnavailable
from rootcellar.records import ChordPart
from rootcellar.stores import Store
from rootcellar.testing.background import Background
from tests.helpers import wait_until
from tests.seeds import SEED
from tests.servers import PostgresServer
from tests.waiting.helpers import (
    Database,
    Other,
    Script,
    named,
    opened,
    opened_there,
    record,
    store_in_threads,
    value_of,
)

THREADS = 16


class Interrupted(BaseException):
    """An exception like a soft time limit's, at any line."""


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def database(postgres_url: str) -> Database:
    return Database(postgres_url)


@contextmanager
def busy_leader(store: Store, url: str) -> Iterator[Background]:
    """Let a thread lead a batch until the end of the block: another session holds the row that it stores."""
    with psycopg.connect(url) as blocker:
        blocker.execute("INSERT INTO celery_taskmeta (task_id, status) VALUES ('blocked', 'STARTED')")
        leader = Background(lambda: store.put(record("blocked")))
        wait_until(lambda: waits_for_a_lock(Database(url)), "a leader that waits for the row")
        yield leader
        blocker.rollback()


def waits_for_a_lock(database: Database) -> bool:
    return bool(database.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def queue_up(store: Store, *puts: Callable[[], Any]) -> list[Background]:
    """Begin calls one by one; each is in the queue before the next begins."""
    begun: list[Background] = []
    before = store._writer.waiting
    for put in puts:
        begun.append(Background(put))
        wait_until(lambda: store._writer.waiting == before + len(begun), "a call in the queue")
    return begun


def commits(database: Database) -> int:
    """Return the number of commits, after every other session has ended and reported its own."""
    wait_until(
        lambda: database.one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1,
        "no other session",
    )
    return int(database.one("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))


# -- shared commits


def test_threads_share_their_commits(store: Store, database: Database) -> None:
    store.close()
    before = commits(database)
    ids = [[f"task {thread}-{number}" for number in range(200)] for thread in range(32)]
    store_in_threads(store, [task_id for some in zip(*ids, strict=True) for task_id in some], 32)
    for some in ids:
        found = store.get_many(some)
        assert {task_id: value_of(one) for task_id, one in found.items()} == {task_id: task_id for task_id in some}
    store.close()
    assert 32 < commits(database) - before < 32 * 200 / 4, "each commit has several records"


def test_later_caller_is_stored_in_the_next_batch(store: Store, postgres_url: str) -> None:
    with busy_leader(store, postgres_url) as leader:
        late = queue_up(store, *(lambda number=number: store.put(record(f"late {number}")) for number in range(5)))
        assert all(one.is_alive() for one in late)
    for one in (leader, *late):
        assert one.result().written


def test_error_fails_only_its_own_call(store: Store, postgres_url: str) -> None:
    with busy_leader(store, postgres_url) as leader:
        good = queue_up(store, *(lambda number=number: store.put(record(f"good {number}")) for number in range(10)))
        bad = queue_up(
            store,
            lambda: store.put(record("bad", retries=2**40)),
            lambda: store.put(record("good 3", retries=2**40)),
        )
        good += queue_up(store, *(lambda number=number: store.put(record(f"more {number}")) for number in range(5)))
    for one in (leader, *good):
        assert one.result().written
    for one in bad:
        with pytest.raises(RecordRefused, match="out of range"):
            one.result()
    assert store.get("bad") is None
    assert store.put(record("afterwards")).written
    assert len(store.get_many([f"good {number}" for number in range(10)])) == 10


def test_good_records_are_stored_after_a_connection_is_lost(
    store: Store, database: Database, postgres_url: str
) -> None:
    """The error of the bad record must not fail the calls that were not retried yet."""
    database.rows("CREATE SEQUENCE shots")
    database.rows("""
        CREATE FUNCTION shoot() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('shots') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NEW;
        END $$
    """)
    database.rows("""
        CREATE TRIGGER shoot BEFORE INSERT ON celery_taskmeta
        FOR EACH ROW WHEN (NEW.task_id = 'its session ends') EXECUTE FUNCTION shoot()
    """)
    names = ["before", "its session ends", *(f"good {number}" for number in range(5))]
    with busy_leader(store, postgres_url):
        bad = queue_up(store, lambda: store.put(record("a bad one", retries=2**40)))
        good = queue_up(store, *(lambda name=name: store.put(record(name)) for name in names))
    for one in good:
        assert one.result().written
    with pytest.raises(RecordRefused):
        bad[0].result()
    assert len(store.get_many(names)) == len(names)


def test_failed_notification_is_logged_and_the_record_stored(
    store: Store, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.rows("ALTER TABLE celery_taskmeta_waiter RENAME TO gone")
    with caplog.at_level(logging.WARNING):
        assert store.put(record("stored")).written
    assert "could not be notified" in caplog.text


# -- with other processes


def put_in_order(store: Store, ids: list[str], turns: int) -> list[str]:
    """A job: store the same tasks repeatedly in many threads, each in this order; return the errors."""
    problems: list[str] = []

    def put(start: int) -> None:
        for task_id in (ids[start:] + ids[:start]) * turns:
            try:
                store.put(record(task_id, state="STARTED"))
            except RootcellarError as exc:
                problems.append(str(exc))

    run_threads([lambda number=number: put(number * len(ids) // THREADS) for number in range(THREADS)])
    return problems


def put_parts(store: Store, name: str, chords: list[str], count: int) -> list[str]:
    """A job: store parts of some chords in many threads, each part for the next chord; return the errors."""
    problems: list[str] = []

    def put(thread: int) -> None:
        for number in range(count):
            index = thread * count + number
            part = ChordPart(
                group_id=chords[index % len(chords)], task_id=f"{name} {index}", group_index=index, state="SUCCESS"
            )
            try:
                store.put(record(part.task_id), part)
            except RootcellarError as exc:
                problems.append(str(exc))

    run_threads([lambda number=number: put(number) for number in range(THREADS)])
    return problems


def run_threads(work: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_processes_never_deadlock(database: Database, postgres_url: str) -> None:
    ids = [f"task {number:02}" for number in range(48)]
    chords = [f"chord {number}" for number in range(7)]
    with opened(postgres_url), Other(opened_there, postgres_url) as one, Other(opened_there, postgres_url) as two:
        for job, ours, theirs in (
            (put_in_order, (ids, 4), (ids[::-1], 4)),
            (put_parts, ("a", chords, 40), ("b", chords[::-1], 40)),
        ):
            one.begin(job, *ours)
            two.begin(job, *theirs)
            assert (one.end(), two.end()) == ([], [])
    commits(database)
    assert database.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert database.one("SELECT sum(counted) FROM celery_taskmeta_chord") == 2 * THREADS * 40


def test_forked_children_store_at_once(postgres_url: str) -> None:
    with opened(postgres_url) as store, Script(FORKING, postgres_url) as script:
        script.wait_for("all stored")
        script.end()
        assert len(store.scan(limit=1_000)) == 1 + 20 * 4


FORKING = """
import os, sys, threading
from rootcellar.stores import open_store
from tests.waiting.helpers import record

store = open_store(sys.argv[1])
store.put(record("parent"))
for child in range(20):
    pid = os.fork()
    if pid == 0:
        start = threading.Barrier(4)
        def put(number):
            start.wait()
            store.put(record(f"{child} {number}"))
        threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print("all stored")
"""


# -- a killed server and lost connections


def put_patiently(store: Store, task_id: str) -> None:
    """Store like the backend: with retries after an outage."""
    for _ in range(1_000):
        try:
            store.put(record(task_id))
            return
        except RootcellarError as exc:
            if not exc.retryable:
                raise
    raise AssertionError(f"{task_id} was not stored")


def test_threads_store_while_connections_are_lost(database: Database, postgres_url: str) -> None:
    with opened(named(postgres_url, "unlucky")) as store:
        over = threading.Event()
        killer = Background(lambda: terminate_until(over, database))
        run_threads(
            [
                lambda thread=thread: [put_patiently(store, f"task {thread}-{number}") for number in range(100)]
                for thread in range(THREADS)
            ]
        )
        over.set()
        assert killer.result() > 5
        assert len(store.scan(limit=10_000)) == THREADS * 100


def terminate_until(over: threading.Event, database: Database) -> int:
    count = 0
    while not over.is_set():
        count += len(
            database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'unlucky'")
        )
        over.wait(0.02)
    return count


def test_acknowledged_results_survive_a_killed_server(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    acknowledged: list[str] = []
    with opened(server.create_database()) as store:

        def put(thread: int) -> None:
            number = 0
            try:
                while True:
                    store.put(record(f"task {thread}-{number}"))
                    acknowledged.append(f"task {thread}-{number}")
                    number += 1
            except StoreUnavailable:
                pass

        storing = [Background(lambda thread=thread: put(thread)) for thread in range(THREADS)]
        wait_until(lambda: len(acknowledged) > 1_000, "a thousand results")
        server.kill()
        for one in storing:
            one.result()
        server.start()
        found = store.get_many(acknowledged)
        assert [task_id for task_id in acknowledged if task_id not in found] == []


# -- interrupted


def interrupt(thread: threading.Thread) -> None:
    """Raise an exception in another thread, when it next runs Python."""
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted))
        == 1
    )


def test_interrupted_leader_hands_over(store: Store, postgres_url: str) -> None:
    with busy_leader(store, postgres_url) as leader:
        # this one leads next, and the others are in its batch
        next_leader, *others = queue_up(
            store,
            lambda: store.put(record("blocked", state="STARTED")),
            *(lambda number=number: store.put(record(f"task {number}")) for number in range(5)),
        )
        interrupt(leader)
        with pytest.raises(Interrupted):
            leader.result(10)
        wait_until(lambda: waits_for_a_lock(Database(postgres_url)), "the next leader")
        interrupt(next_leader)
        with pytest.raises(Interrupted):
            next_leader.result(10)
    for one in others:
        one.result(10)
    assert len(store.get_many([f"task {number}" for number in range(5)])) == 5
    assert store.put(record("afterwards")).written


def test_interrupted_follower_leaves_the_queue(store: Store, postgres_url: str) -> None:
    """A leader never hands over to a thread that has left."""

    def raise_interrupted(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, raise_interrupted)
    try:
        with busy_leader(store, postgres_url) as leader:
            main = threading.main_thread().ident
            assert main is not None

            def interrupt_main() -> list[Background]:
                wait_until(lambda: store._writer.waiting, "a call in the queue")
                signal.pthread_kill(main, signal.SIGUSR1)
                wait_until(lambda: not store._writer.waiting, "an empty queue")
                return queue_up(store, lambda: store.put(record("next")))

            interrupter = Background(interrupt_main)
            with pytest.raises(Interrupted):
                store.put(record("interrupted"))
            (last,) = interrupter.result()
        assert leader.result(10).written
        assert last.result(10).written
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_writer_survives_interruptions_at_any_moment(postgres_url: str) -> None:
    """Hundreds of times, at random; with others who store all the while, and never may be kept waiting."""
    with opened(postgres_url) as store, Script(INTERRUPTED, postgres_url, str(SEED)) as script:
        acknowledged, others = map(int, script.wait_for("stored", timeout=60).split())
        script.end()
        assert store.get("afterwards")
        assert len(store.scan(limit=100_000)) >= acknowledged + others


INTERRUPTED = """
import os, random, signal, sys, threading
from rootcellar.stores import StoreOptions, open_store
from tests.waiting.helpers import record

class Interrupted(BaseException):
    pass

def interrupt(_, frame):
    while frame:
        if os.path.basename(frame.f_code.co_filename) in ("pool.py", "contextlib.py"):
            # the pool's own locks and counts cannot be interrupted: try a moment later
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            return
        frame = frame.f_back
    raise Interrupted

url, seed = sys.argv[1:]
dice = random.Random(int(seed))
store = open_store(url, StoreOptions(pool_timeout=10))
store.put(record("first"))
over = threading.Event()
stored = []

def put_others(thread):
    number = 0
    while not over.is_set():
        store.put(record(f"other {thread}-{number}"))
        stored.append(number)
        number += 1

others = [threading.Thread(target=put_others, args=(thread,)) for thread in range(3)]
signal.signal(signal.SIGALRM, interrupt)
acknowledged = 0
for turn in range(600):
    if turn == 300:
        # in the first half it stores alone, and always leads
        [other.start() for other in others]
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0001, dice.choice((0.004, 0.02))))
        try:
            for number in range(20):
                store.put(record(f"task {turn}-{number}"))
                acknowledged += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        pass
over.set()
[other.join(20) for other in others]
assert not any(other.is_alive() for other in others), "no thread waits for ever"
store.put(record("afterwards"))
print("stored", acknowledged, len(stored), flush=True)
"""
