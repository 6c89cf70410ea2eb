"""Thousands of clients wait while the server is killed, ends their session, fails over, or is down.

Each client gets its result, also one that is stored while no client can be notified.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from celery.exceptions import TimeoutError

import rootcellar
from rootcellar.errors import StoreUnavailable
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.postgres import PostgresStore, driver, notify
from rootcellar.stores.watching import NotifyOn
from rootcellar.testing.background import Background
from rootcellar.waiting.blocking import Waiter
from tests.helpers import wait_until
from tests.servers import PostgresServer, Setting, die_with_parent
from tests.waiting.helpers import PATIENCE, Database, make_app, no_safety_net, opened, put_all, subscribe, value_of

MANY = 3_000


class StandbyServer(PostgresServer):
    """A standby of a running server, until it is promoted."""

    def __init__(self, primary: PostgresServer, **settings: Setting) -> None:
        self._primary = primary
        super().__init__(**settings)

    def promote(self) -> None:
        """Promote it, and wait until it is a primary."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def _initdb(self) -> None:
        command = [str(self._bin / "pg_basebackup"), "--pgdata", str(self.data), "--dbname", self._primary.url]
        command += ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        done = subprocess.run(
            die_with_parent(command, user=self._user), cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


class Crowd:
    """Threads, tasks of an event loop, and a subscription for each task; all wait for the same tasks."""

    def __init__(self, url: str, count: int = MANY, **options: Any) -> None:
        self.ids = [f"task {number}" for number in range(count)]
        self.store = open_store(url, StoreOptions(**options))
        self.inboxes = [subscribe(self.store.watcher(), [task_id]) for task_id in self.ids]
        self.counted = subscribe(self.store.watcher(), self.ids, NotifyOn.ID)
        some = self.ids[:: count // 10]
        self.threads = [Background(lambda task_id=task_id: self._wait(task_id)) for task_id in some]
        self.app = make_app(url)
        self.awaiting = Background(lambda: asyncio.run(self._await_all()))

    def check(self) -> None:
        """Wait until every waiter has its result."""
        assert [inbox.take(1) for inbox in self.inboxes] == [[task_id] for task_id in self.ids]
        assert sorted(self.counted.take(len(self.ids))) == sorted(self.ids)
        for thread in self.threads:
            assert thread.result(PATIENCE)
        assert self.awaiting.result(PATIENCE) == self.ids

    def close(self) -> None:
        self.store.close()
        self.app.backend.store.close()

    def _wait(self, task_id: str) -> bool:
        (found,) = Waiter(self.store).wait_for([task_id], timeout=PATIENCE * 2)
        return bool(value_of(found) == task_id)

    async def _await_all(self) -> list[Any]:
        waiting = (rootcellar.result(self.app.AsyncResult(task_id), timeout=PATIENCE * 2) for task_id in self.ids)
        return list(await asyncio.gather(*waiting))


@pytest.fixture(autouse=True)
def only_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    no_safety_net(monkeypatch)


def test_waiters_get_results_after_a_restart(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    url = server.create_database()
    database = Database(url)
    with opened(url) as storing, closing(Crowd(url)) as crowd:
        wait_until(lambda: database.waiters() == 2 * MANY, "all registrations")
        put_all(storing, crowd.ids[: MANY // 3])
        server.kill()
        server.start()
        # some are stored before the watcher listens again
        put_all(storing, crowd.ids[MANY // 3 : 2 * MANY // 3])
        rest = crowd.ids[2 * MANY // 3 :]
        wait_until(lambda: database.waiters(rest) == 2 * len(rest), "new registrations of the rest")
        assert len(database.listeners()) == 2, "the crash emptied the tables"
        put_all(storing, rest)
        crowd.check()


def test_waiters_get_results_while_sessions_are_terminated(postgres_url: str) -> None:
    database = Database(postgres_url)
    with opened(postgres_url) as storing, closing(Crowd(postgres_url)) as crowd:
        wait_until(lambda: database.waiters() == 2 * MANY, "all registrations")
        done = threading.Event()
        killed = Background(lambda: terminate_until(done, database))
        put_all(storing, crowd.ids)
        done.set()
        assert killed.result() > 5
        crowd.check()


def terminate_until(done: threading.Event, database: Database) -> int:
    count = 0
    while not done.is_set():
        for session in database.sessions():
            count += database.one("SELECT pg_terminate_backend(%s)::integer", session)
        done.wait(0.02)
    return count


def test_waiters_get_results_after_a_promotion(new_postgres: Callable[..., PostgresServer]) -> None:
    primary = new_postgres()
    url = primary.create_database()
    with opened(url):
        pass  # creates the tables
    with StandbyServer(primary) as standby:
        both = url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
        # synchronous, because the test reads the last writes of the primary on the standby
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
            "a standby that follows",
        )
        old, new = Database(url), Database(url.replace(f":{primary.port}/", f":{standby.port}/"))
        with opened(both) as storing, closing(Crowd(both)) as crowd:
            wait_until(lambda: old.waiters() == 2 * MANY, "all registrations")
            put_all(storing, crowd.ids[: MANY // 3])
            primary.kill()
            late = Background(lambda: put_patiently(storing, crowd.ids[MANY // 3 : 2 * MANY // 3]))
            standby.promote()
            late.result()
            rest = crowd.ids[2 * MANY // 3 :]
            wait_until(lambda: new.waiters(rest) == 2 * len(rest), "registrations of the rest at the new primary")
            put_all(storing, rest)
            crowd.check()


def put_patiently(store: Store, ids: list[str]) -> None:
    """Store results like a worker, with retries."""
    for task_id in ids:
        wait_until(lambda task_id=task_id: stores(store, task_id), f"{task_id} is stored")


def stores(store: Store, task_id: str) -> bool:
    try:
        put_all(store, [task_id])
    except rootcellar.errors.RootcellarError as exc:
        if not exc.retryable:
            raise
        return False
    return True


@pytest.fixture
def replicated(new_postgres: Callable[..., PostgresServer]) -> Iterator[tuple[PostgresServer, StandbyServer, str]]:
    """A primary, its standby, and a URL that names both, of a database with tables."""
    primary = new_postgres()
    url = primary.create_database()
    with opened(url):
        pass
    with StandbyServer(primary) as standby:
        wait_until(
            lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"),
            "a standby that follows",
        )
        both = url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
        yield primary, standby, f"{both}?connect_timeout=2"
        primary.resume()


@pytest.mark.parametrize("observer", ["the waiter itself", "another store of the process"])
def test_waiter_leaves_a_frozen_and_replaced_primary(
    replicated: tuple[PostgresServer, StandbyServer, str], monkeypatch: pytest.MonkeyPatch, observer: str
) -> None:
    """A frozen server is silent, and its kernel keeps the connection: nothing notifies a client that listens there."""
    primary, standby, url = replicated
    is_alone = observer == "the waiter itself"
    if is_alone:
        monkeypatch.setattr(notify, "HEALTH_CHECK_SECONDS", 0.2)
        monkeypatch.setattr(notify, "ANSWER_SECONDS", 1.0)
    else:
        # the other way to notice it is switched off
        monkeypatch.setattr(notify, "HEALTH_CHECK_SECONDS", 3600.0)
    new = Database(url.replace(f":{primary.port},127.0.0.1:{standby.port}/", f":{standby.port}/").partition("?")[0])
    with closing(open_store(url)) as waiting, closing(open_store(url)) as storing:
        put_all(storing, ["before"])
        inbox = subscribe(waiting.watcher(), ["one"])
        wait_until(
            lambda: primary.execute("SELECT 1 FROM pg_locks WHERE classid = 7247034 AND granted"),
            "a session that listens",
        )
        wait_until(lambda: waiting.watcher().has_read, "the first read")
        primary.pause()
        standby.promote()
        if not is_alone:
            monkeypatch.setattr(driver, "SILENCE", 1.0)
            for connection in connections_of(storing):
                connection.silence = 1.0
            put_patiently(storing, ["another"])
        wait_until(lambda: new.waiters(["one"]) == 1, "its registration at the new primary", 20)
        put_patiently(storing, ["one"])
        assert inbox.take(1) == ["one"]


def connections_of(store: Store) -> list[driver.Connection]:
    """Return the connections of a store's pool."""
    assert isinstance(store, PostgresStore)
    return [slot.connection for slot in store._pool._state.get().slots if slot.connection is not None]


def test_waiter_that_cannot_read_logs_it_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It can connect and not read: each retry waits longer, and only a complete read counts as a recovery."""
    database = Database(postgres_url)
    begun: list[float] = []
    with opened(postgres_url) as storing, closing(open_store(postgres_url)) as waiting:
        watcher = waiting.watcher()
        begin = watcher._prepare

        def count_tries(connection: driver.Connection) -> bool:
            begun.append(time.monotonic())
            return begin(connection)

        monkeypatch.setattr(watcher, "_prepare", count_tries)
        # creating a listener works, registering a task does not
        database.rows(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'away' USING ERRCODE = '57P03'; END $$"
        )
        database.rows(
            "CREATE TRIGGER refuse BEFORE INSERT ON celery_taskmeta_waiter FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        inbox = subscribe(watcher, ["one"])
        wait_until(lambda: len(begun) >= 6, "six tries")
        assert begun[5] - begun[0] > 0.05 + 0.1 + 0.2 + 0.4 + 0.8, "each pause is longer than the one before"
        ours = [one.message for one in caplog.records if one.name == "rootcellar.stores.watching"]
        assert len(ours) == 1, ours
        database.rows("DROP TRIGGER refuse ON celery_taskmeta_waiter")
        put_all(storing, ["one"])
        assert inbox.take(1) == ["one"]
        wait_until(lambda: "can be waited for again" in caplog.text, "the recovery")


def test_wait_can_begin_while_the_server_is_down(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    url = server.create_database()
    with opened(url) as storing:
        server.kill()
        with closing(Crowd(url, 500)) as crowd:
            wait_until(lambda: crowd.store.watcher().awaited_ids(), "a waiting client")
            server.start()
            put_all(storing, crowd.ids)
            crowd.check()


def test_waiter_polls_a_standby(new_postgres: Callable[..., PostgresServer]) -> None:
    """A client that is connected to a standby cannot register there, and still gets its results."""
    primary = new_postgres()
    url = primary.create_database()
    with opened(url) as storing, StandbyServer(primary) as standby:
        waiting = open_store(url.replace(f":{primary.port}/", f":{standby.port}/"))
        inbox = subscribe(waiting.watcher(), ["one"])
        # while the standby starts, it may refuse for other reasons
        wait_until(lambda: "recovery" in str(waiting.watcher().outage), "a refusal to register")
        put_all(storing, ["one"])
        assert inbox.take(1) == ["one"]
        waiting.close()


def test_timeout_names_the_outage(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    app = make_app(server.create_database())
    app.backend.store.check()
    server.kill()
    with pytest.raises(TimeoutError, match=r"timed out\. Meanwhile: .*refused") as caught:
        app.AsyncResult("anything").get(timeout=1)
    assert isinstance(caught.value.__cause__, StoreUnavailable)
    app.backend.process_cleanup()
    app.backend.store.close()
