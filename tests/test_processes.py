"""Connections and processes: no connection crosses a fork or outlives its child, and a pool keeps its limits."""

from __future__ import annotations

import gc
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from celery import Celery

from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.postgres import PostgresStore
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.harness import APP
from rootcellar.testing.helpers import in_threads, record, wait_until
from rootcellar.testing.suites.store.fixtures import processes  # noqa: F401 - a fixture
from rootcellar.testing.synced_processes import SyncedProcesses
from tests.servers import die_with_parent
from tests.workers import ROOT, Worker

#: the other clients of this connection's database
SESSIONS = """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
              AND backend_type = 'client backend'"""


@pytest.fixture
def observer(postgres_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def sessions(observer: psycopg.Connection[tuple[Any, ...]]) -> set[int]:
    return {pid for (pid,) in observer.execute(SESSIONS).fetchall()}


# -- forks -------------------------------------------------------------------------------------------------------------


def test_forked_child_does_not_use_its_parents_connections(postgres_url: str, processes: SyncedProcesses) -> None:  # noqa: F811
    ((before, in_child, after),) = processes.run((_fork_once, (postgres_url,)))
    assert len(before) == 1
    assert len(in_child - before) == 1, "the child has its own connection"
    assert before <= in_child, "the parent's connection stays"
    assert after == before, "the parent keeps its connection, and the child's has ended"


def _fork_once(url: str) -> tuple[set[int], set[int], set[int]]:
    """Use a store in a parent and in a child that ends normally; return the sessions before, during and after."""
    with psycopg.connect(url, autocommit=True) as observer:
        store = open_store(url)
        store.put(record())
        before = sessions(observer)
        from_child, to_parent = os.pipe()
        from_parent, to_child = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert store.put(record()).written
                os.write(to_parent, b"x")
                os.read(from_parent, 1)
                store.close()
                del store
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        os.read(from_child, 1)
        in_child = sessions(observer)
        os.write(to_child, b"x")
        assert os.waitpid(child, 0)[1] == 0
        assert store.put(record()).written
        after = wait_until(lambda: len(found := sessions(observer)) == 1 and found, "the end of the child's session")
        store.close()
        return before, in_child, after


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_forked_children_and_storing_threads_work_together(
    kind: str,
    processes: SyncedProcesses,  # noqa: F811
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('forks')}/results.sqlite3"
    else:
        url = request.getfixturevalue("postgres_url")
    ((statuses, stored),) = processes.run((_fork_among_threads, (url,)))
    assert statuses == [0] * 10
    store = open_store(url)
    ids = {one.task_id for one in store.scan(limit=100_000)}
    store.close()
    assert {f"child {number}" for number in range(10)} <= ids
    assert len(ids) == 10 + stored, "the parent's threads lost nothing"


def _fork_among_threads(url: str) -> tuple[list[int], int]:
    """Fork ten children while four threads of the parent store; return their exit statuses, and the stored count."""
    store = open_store(url)
    store.check()
    stop, may_write = threading.Event(), threading.Event()
    counts = [0] * 4

    def work(number: int) -> None:
        while may_write.wait() and not stop.is_set():
            assert store.put(record()).written
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    statuses = []
    for number in range(10):
        done = sum(counts)
        may_write.set()
        wait_until(lambda done=done: sum(counts) > done, "threads at work")
        child = os.fork()
        may_write.clear()  # otherwise the child waits long for its turn
        if child == 0:
            status = 1
            try:
                assert store.put(record(task_id=f"child {number}")).written
                assert store.get(f"child {number}") is not None
                status = 0
            finally:
                os._exit(status)
        statuses.append(os.waitpid(child, 0)[1])
    stop.set()
    may_write.set()
    for thread in threads:
        thread.join()
    store.close()
    return statuses, sum(counts)


# -- workers -----------------------------------------------------------------------------------------------------------


def client(broker: str, backend: str) -> Celery:
    app = make_app(broker, f"rootcellar+{backend}")
    app.set_current()
    return app


def test_connections_end_with_the_pools_children(
    redis_url: str, postgres_url: str, observer: psycopg.Connection[tuple[Any, ...]]
) -> None:
    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": f"rootcellar+{postgres_url}"}
    app = client(redis_url, postgres_url)
    pids = set()
    with Worker(APP, env=env, concurrency=2, args=["--max-tasks-per-child=1"]) as worker:
        for _ in range(6):
            pids.add(app.tasks["conformance.where"].delay().get(timeout=30)["pid"])
            # two children; one that is ending and its successor; the worker's main process; the
            # client, with one connection to read and one to listen
            assert len(sessions(observer)) <= 8
        assert len(pids) == 6, "each task ran in another child"
        app.backend.waiter.close()
        app.backend.store.close()
        wait_until(lambda: len(sessions(observer)) <= 3, "the end of the sessions of children that are gone")
        assert worker.stop() == 0
    wait_until(lambda: not sessions(observer), "the end of all sessions of a worker that has stopped")


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_stopped_worker_leaves_no_session(
    redis_url: str, postgres_url: str, observer: psycopg.Connection[tuple[Any, ...]], pool: Any
) -> None:
    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": f"rootcellar+{postgres_url}"}
    app = client(redis_url, postgres_url)
    with Worker(APP, env=env, pool=pool, concurrency=4) as worker:
        results = [app.tasks["conformance.add"].delay(n, n) for n in range(20)]
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(20)]
        app.backend.waiter.close()
        app.backend.store.close()
        assert 1 <= len(sessions(observer)) <= 6
        assert worker.stop() == 0
    wait_until(lambda: not sessions(observer), "the end of all sessions")


# -- the settings of the pool ------------------------------------------------------------------------------------------


def test_pool_settings_reach_the_store(postgres_url: str) -> None:
    def options(**conf: Any) -> StoreOptions:
        found: StoreOptions = make_app("memory://", f"rootcellar+{postgres_url}", **conf).backend.store.options
        return found

    assert (options().pool_size, options().pool_recycle, options().pool_pre_ping) == (20, 3600.0, True)
    engine = {"pool_size": 3, "max_overflow": 2, "pool_timeout": 4, "pool_recycle": 60, "pool_pre_ping": False}
    found = options(database_engine_options=engine)
    assert (found.pool_size, found.pool_timeout, found.pool_recycle, found.pool_pre_ping) == (5, 4.0, 60.0, False)
    assert options(database_engine_options={"pool_size": 2, "max_overflow": -1}).pool_size == 2
    assert options(database_short_lived_sessions=True).pool_recycle == 0
    assert options(database_engine_options={"connect_args": {"application_name": "mine"}}).connect_args == {
        "application_name": "mine"
    }
    names = options(
        database_table_names={"task": "t", "group": "g"}, database_table_schemas={"task": "ts", "group": "gs"}
    )
    assert (names.task_table, names.group_table, names.task_schema, names.group_schema) == ("t", "g", "ts", "gs")
    assert options(database_create_tables_at_setup=False).create_tables is False


def test_pool_never_exceeds_its_limit(postgres_url: str, observer: psycopg.Connection[tuple[Any, ...]]) -> None:
    store = open_store(postgres_url, StoreOptions(pool_size=3))
    stop = threading.Event()
    most = [0]

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], len(sessions(observer)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        in_threads(12, lambda number: [(store.put(record()), store.get(str(n))) for n in range(20)])
    finally:
        stop.set()
        watching.join()
    assert 2 <= most[0] <= 3
    assert len(store.scan()) == 240
    store.close()
    wait_until(lambda: not sessions(observer), "the end of the sessions of a closed store")


def test_pool_recycles_connections(postgres_url: str, observer: psycopg.Connection[tuple[Any, ...]]) -> None:
    def used(store: PostgresStore) -> set[int]:
        assert store.put(record()).written
        return sessions(observer)

    with ExitStack() as stack:
        for seconds, same in ((-1.0, True), (3600.0, True), (0.001, False)):
            store = PostgresStore(postgres_url, StoreOptions(pool_recycle=seconds))
            stack.callback(store.close)
            first = used(store)
            assert len(first) == 1
            if same:
                assert [used(store) for _ in range(5)] == [first] * 5
            else:
                wait_until(lambda store=store, first=first: not used(store) & first, "another connection")
            store.close()
            wait_until(lambda: not sessions(observer), "the end of the session")
        short = PostgresStore(postgres_url, StoreOptions(pool_recycle=0))
        stack.callback(short.close)
        short.put(record())
        wait_until(lambda: not sessions(observer), "the end of a session that is not kept")


@pytest.mark.parametrize("ping", [True, False])
def test_pool_replaces_a_lost_idle_connection(
    postgres_url: str, observer: psycopg.Connection[tuple[Any, ...]], ping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.pool.IDLE_BEFORE_PING", 0.0)
    store = open_store(postgres_url, StoreOptions(pool_pre_ping=ping))
    for work in (lambda: store.put(record()).written, lambda: store.get("x") is None, lambda: store.get_many([]) == {}):
        store.put(record())
        for pid in sessions(observer):
            observer.execute("SELECT pg_terminate_backend(%s)", [pid])
        wait_until(lambda: not sessions(observer), "the end of the session")
        assert work()
    store.close()


# -- greenlets ---------------------------------------------------------------------------------------------------------

GREENLETS = {
    "gevent": "from gevent import monkey; monkey.patch_all(); from gevent import spawn, sleep",
    "eventlet": "import eventlet; eventlet.monkey_patch(); from eventlet import spawn, sleep",
}
TICKING = """
import sys
from rootcellar.stores import open_store
from rootcellar.testing.helpers import record

store = open_store(sys.argv[1])
store.check()

def work(what):
    what()
    print("done", flush=True)

spawn(work, lambda: store.put(record(task_id="locked", state="FAILURE")))
spawn(work, lambda: store.delete(["locked"]))
while True:
    print("tick", flush=True)
    sleep(0.01)
"""


@pytest.mark.parametrize("kind", GREENLETS)
def test_waiting_greenlet_does_not_block_others(kind: str, postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.put(record(task_id="locked", state="FAILURE"))
    store.close()
    with psycopg.connect(postgres_url) as locker:
        locker.execute("SELECT 1 FROM celery_taskmeta FOR UPDATE")
        command = die_with_parent([sys.executable, "-c", f"{GREENLETS[kind]}\n{TICKING}", postgres_url])
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
            try:
                assert [line_of(program) for _ in range(20)] == ["tick"] * 20, "while both wait for the lock"
                locker.rollback()
                seen: list[str] = []
                wait_until(lambda: seen.append(line_of(program)) or seen.count("done") == 2, "both are done")
            finally:
                program.kill()


def line_of(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        assert selector.select(20), "the program is blocked"
    return program.stdout.readline().strip()
