"""Notifications are few, reach only waiting clients, and leave no dead listeners behind."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import celery.exceptions
import psutil
import psycopg
import pytest

from rootcellar.errors import StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.postgres import notify
from rootcellar.stores.postgres.binary import TASK_FORMS, task_values
from rootcellar.stores.postgres.group_commit import Write
from rootcellar.stores.watching import NotifyOn
from rootcellar.waiting.blocking import Waiter
from tests.helpers import wait_until
from tests.servers import IN_URL
from tests.waiting.helpers import (
    PATIENCE,
    Database,
    Inbox,
    Other,
    no_safety_net,
    opened,
    opened_there,
    put_all,
    record,
    store_in_threads,
    subscribe,
    threads_now,
)
from tests.waiting.proxy import Proxy

#: counts every NOTIFY of a database, on every channel, and sends it
COUNTING = """
CREATE SEQUENCE notified;
CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM nextval('public.notified');
    PERFORM pg_catalog.pg_notify($1, $2);
END $$;
"""


class NotifyCounter:
    """Counts the notifications in a database; create it before any client connects."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        name = url.rpartition("/")[2]
        for statement in (COUNTING, f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog'):
            self._database.rows(statement)

    def count(self) -> int:
        called, value = self._database.rows("SELECT is_called, last_value FROM notified")[0]
        return int(value) if called else 0


@pytest.fixture
def counter(postgres_url: str) -> NotifyCounter:
    return NotifyCounter(postgres_url)


@pytest.fixture
def store(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with waiters that only a notification wakes."""
    no_safety_net(monkeypatch)
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def database(postgres_url: str) -> Database:
    return Database(postgres_url)


def waiting_there(url: str, ids: list[str]) -> Store:
    """A setup: a store that waits for tasks, and has registered them."""
    store = opened_there(url)
    subscribe(store.watcher(), [*ids, f"here {os.getpid()}"])
    inbox = subscribe(store.watcher(), [f"here {os.getpid()}"])
    store.put(record(f"here {os.getpid()}"))
    inbox.take(1)
    return store


# -- no more notifications than needed


def test_no_notification_is_sent_where_no_client_waits(counter: NotifyCounter, postgres_url: str) -> None:
    with opened(postgres_url) as store:
        put_all(store, [f"before {number}" for number in range(200)])
        assert counter.count() == 0
        inbox = subscribe(store.watcher(), ["awaited", "ended"])
        store.put(record("ended"))
        assert inbox.take(1) == ["ended"]
        before = counter.count()
        put_all(store, [f"after {number}" for number in range(200)])
        store.put(record("awaited", state="STARTED"))
        assert counter.count() == before, "the listener waits for the end of another task"
        store.put(record("awaited"))
        assert inbox.take(1) == ["awaited"]
        assert counter.count() == before + 1


def test_burst_takes_few_notifications_and_wakes_no_other_client(
    counter: NotifyCounter, store: Store, postgres_url: str
) -> None:
    ids = [f"task {number}" for number in range(2_000)]
    with ExitStack() as stack:
        other = stack.enter_context(Other(opened_there, postgres_url))
        stranger = stack.enter_context(psycopg.connect(postgres_url, autocommit=True))
        stranger.execute("LISTEN something_else")
        session = psutil.Process(stranger.info.backend_pid)
        inbox = subscribe(store.watcher(), [*ids, "warm"])
        other.do(put_all, ["warm"])
        inbox.take(1)
        before, woken = counter.count(), session.num_ctx_switches().voluntary
        other.do(store_in_threads, ids, 16)
        assert sorted(inbox.take(len(ids))) == sorted(ids)
        count = counter.count() - before
        assert 0 < count < len(ids) / 4
        assert session.num_ctx_switches().voluntary - woken < len(ids) / 3


# -- dead listeners


def test_killed_process_is_notified_once_and_then_forgotten(
    counter: NotifyCounter, store: Store, database: Database, postgres_url: str
) -> None:
    ids = [f"task {number}" for number in range(50)]
    with Other(waiting_there, postgres_url, ids) as other:
        (listener,) = database.listeners()
        other.kill()
    wait_until(lambda: not database.sessions(), "the end of the killed process's session")
    assert database.waiters() >= len(ids), "its registrations are still there"
    before = counter.count()
    with psycopg.connect(postgres_url, autocommit=True) as listening:
        listening.execute(f"LISTEN rootcellar_{listener}")
        for task_id in ids:
            store.put(record(task_id))
        first = list(listening.notifies(timeout=PATIENCE, stop_after=1))
        more = list(listening.notifies(timeout=0.5, stop_after=1))
    assert (len(first), more, counter.count() - before) == (1, [], 1)
    inbox = subscribe(store.watcher(), ["mine"])
    store.put(record("mine"))
    inbox.take(1)
    assert listener not in database.listeners()
    assert database.one("SELECT count(*) FROM celery_taskmeta_waiter WHERE listener = %s", listener) == 0


def test_killed_listeners_do_not_accumulate(store: Store, database: Database, postgres_url: str) -> None:
    for number in range(5):
        with Other(waiting_there, postgres_url, [f"task {number}"]) as other:
            # dead listeners are removed, living ones stay
            wait_until(lambda: len(database.listeners()) == 1, "only the newest listener")
            other.kill()
        wait_until(lambda: not database.sessions(), "the end of its session")
    with Other(waiting_there, postgres_url, ["a"]), Other(waiting_there, postgres_url, ["b"]):
        assert len(database.listeners()) == len(database.sessions()) == 2
        inbox = subscribe(store.watcher(), ["a", "b"])
        put_all(store, ["a", "b"])
        assert sorted(inbox.take(2)) == ["a", "b"]


def test_closed_store_leaves_no_registration(database: Database, postgres_url: str) -> None:
    with opened(postgres_url) as store:
        subscribe(store.watcher(), ["never"])
        wait_until(lambda: database.waiters() == 1, "its registration")
    wait_until(lambda: not database.listeners() and not database.waiters(), "no registration")


def test_task_without_waiters_is_not_registered(store: Store, database: Database) -> None:
    subscription = store.watcher().subscribe([f"task {number}" for number in range(100)], Inbox().deliver)
    wait_until(lambda: database.waiters() == 100, "all registrations")
    subscription.cancel()
    wait_until(lambda: database.waiters() == 0, "no registration")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let Python switch between threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_cancelled_waits_leave_no_registration(store: Store, database: Database) -> None:
    """Threads subscribe and cancel while the watcher registers: only the tasks that are waited for stay registered."""
    watcher = store.watcher()
    keep = watcher.subscribe(["kept"], Inbox().deliver)

    def come_and_go(name: int) -> None:
        for number in range(30_000):
            subscription = watcher.subscribe([f"{name} {number}"], Inbox().deliver)
            for _ in range(number % 40):
                pass
            subscription.cancel()

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inbox = subscribe(watcher, ["last"])
    store.put(record("last"))
    inbox.take(1)
    inbox = subscribe(watcher, ["very last"])
    wait_until(
        lambda: set(database.rows("SELECT task_id FROM celery_taskmeta_waiter")) == {("kept",), ("very last",)},
        "two registrations",
    )
    keep.cancel()


# -- the begin and the end of listening


def test_late_notification_does_not_block_the_next_one(store: Store, database: Database) -> None:
    """A notification for a cancelled wait may come after the last read, when the watcher no longer listens."""
    inbox = subscribe(store.watcher(), ["first"])
    store.put(record("first"))
    inbox.take(1)
    (session,) = database.sessions()
    wait_until(
        lambda: database.one("SELECT query FROM pg_stat_activity WHERE pid = %s", session).startswith("UNLISTEN"),
        "the end of listening",
    )
    database.rows("UPDATE celery_taskmeta_listener SET armed = false")
    inbox = subscribe(store.watcher(), ["second"])
    wait_until(lambda: database.waiters() == 1, "its registration")
    store.put(record("second"))
    assert inbox.take(1) == ["second"]
    assert database.sessions() == [session], "on the same connection"


def test_notification_of_a_cancelled_wait_takes_no_cpu_time(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LISTEN_LINGER", 1.5)
    subscription = store.watcher().subscribe(["cancelled", "cancelled too"], Inbox().deliver)
    wait_until(lambda: database.waiters() == 2, "its registration")
    process = psutil.Process()
    subscription.cancel()
    put_all(store, ["cancelled", "cancelled too"])
    spent = sum(process.cpu_times()[:2])
    wait_until(lambda: not database.waiters(), "the end of listening")
    assert sum(process.cpu_times()[:2]) - spent < 0.8


def test_listener_ends_when_no_client_waits(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "LISTEN_LINGER", 0.1)
    monkeypatch.setattr(notify, "LINGER", 0.5)
    before = threads_now()
    for task_id in ("one", "two"):
        inbox = subscribe(store.watcher(), [task_id])
        store.put(record(task_id))
        inbox.take(1)
        wait_until(lambda: not database.sessions() and threads_now() <= before, "the end of thread and session")
        assert database.listeners() == []


# -- a notification is not left to another writer


@pytest.mark.parametrize("count", [1, 2], ids=["one result", "two results in one commit"])
def test_waiter_is_notified_while_its_listener_is_locked(
    store: Store, database: Database, postgres_url: str, count: int
) -> None:
    """The other writer hangs before its commit, or its session ends: its notification is never sent."""
    ids = [f"task {number}" for number in range(count)]
    inbox = subscribe(store.watcher(), [*ids, "later"])
    wait_until(lambda: database.waiters() == count + 1, "their registrations")
    with closing(psycopg.connect(postgres_url)) as other:
        other.execute("UPDATE celery_taskmeta_listener SET armed = false")
        writes = [write_of(store, task_id) for task_id in ids]
        store._writer._write_together(writes)
        assert sorted(inbox.take(count)) == ids, "notified while the row is locked"
        database.rows("SELECT pg_terminate_backend(%s)", other.info.backend_pid)
    store.put(record("later"))
    assert inbox.take(1) == ["later"], "and notified after the other session has ended"


def test_result_of_a_dead_writer_is_read_soon(database: Database, postgres_url: str) -> None:
    with opened(postgres_url) as store:
        inbox = subscribe(store.watcher(), ["one"])
        wait_until(lambda: database.waiters() == 1, "its registration")
        database.rows(
            "INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES ('one', 'SUCCESS', '1', now())"
        )
        assert inbox.take(1) == ["one"]


def write_of(store: Store, task_id: str) -> Write:
    """Return the write that ``put`` passes to the group commit, for records that share a commit."""
    one = record(task_id)
    return Write(task_id, store._put, (task_values(one), TASK_FORMS), (task_id, ""), is_durable=True, is_ready=True)


# -- lost connections


def test_old_session_does_not_delay_waiters(store: Store, database: Database, postgres_url: str) -> None:
    """When a firewall drops a connection, only one end notices: the old session keeps its lock for hours."""
    with Proxy(postgres_url) as proxy, opened(proxy.url) as behind:
        inbox = subscribe(behind.watcher(), ["before", "after"])
        store.put(record("before"))
        inbox.take(1)
        old = database.sessions()
        proxy.cut_clients()
        wait_until(lambda: len(database.sessions()) == 2, "a new session that listens")
        assert set(old) < set(database.sessions()), "the old session is still there"
        store.put(record("after"))
        assert inbox.take(1) == ["after"]


def test_three_kinds_of_waiters_are_notified_after_a_lost_session(store: Store, database: Database) -> None:
    ways = [
        subscribe(store.watcher(), ["one", "two"], notify_on)
        for notify_on in (NotifyOn.RECORD, NotifyOn.ID, NotifyOn.CHANGES)
    ]
    records_and_ids = [subscribe(store.watcher(), ["three"], notify_on) for notify_on in (NotifyOn.RECORD, NotifyOn.ID)]
    wait_until(lambda: database.waiters() == 3, "all registrations")
    store.put(record("one"))
    for inbox in ways:
        assert inbox.take(1) == ["one"]
    (session,) = database.sessions()
    database.rows("SELECT pg_terminate_backend(%s)", session)
    wait_until(lambda: database.sessions() not in ([], [session]), "a new session that listens")
    put_all(store, ["two", "three"])
    for inbox in ways:
        assert inbox.take(1) == ["two"]
    for inbox in records_and_ids:
        assert inbox.take(1) == ["three"]


def test_lost_connection_is_not_restored_without_waiters(store: Store, database: Database, postgres_url: str) -> None:
    before = threads_now()
    inbox = subscribe(store.watcher(), ["one"])
    store.put(record("one"))
    inbox.take(1)
    (listener,) = threads_now() - before
    for session in database.sessions():
        database.rows("SELECT pg_terminate_backend(%s)", session)
    wait_until(lambda: not listener.is_alive(), "the thread ended")
    assert database.sessions() == []


# -- closed stores, missing tables, users without rights


def test_waiter_gets_an_error_when_the_store_is_closed(store: Store) -> None:
    watcher = store.watcher()
    failed: queue.Queue[BaseException] = queue.Queue()

    def wait() -> None:
        try:
            list(Waiter(store).wait_for(["never"], timeout=30))
        except StoreUnavailable as exc:
            failed.put(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(watcher.awaited_ids, "a waiting client")
    store.close()
    assert "closed" in str(failed.get(timeout=PATIENCE))
    late: queue.Queue[Any] = queue.Queue()
    watcher.subscribe(["never"], late.put)
    assert isinstance(late.get(timeout=PATIENCE), StoreUnavailable), "a later waiter gets the error too"
    inbox = subscribe(store.watcher(), ["again"])
    store.put(record("again"))
    assert inbox.take(1) == ["again"], "the next waiter opens it again"


def test_waiter_creates_the_tables_of_a_new_database(
    postgres_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_safety_net(monkeypatch)
    with ExitStack() as stack:
        waiting = stack.enter_context(closing(open_store(postgres_url)))
        inbox = subscribe(waiting.watcher(), ["first"])
        wait_until(database.sessions, "tables and a listening session")
        storing = stack.enter_context(opened(postgres_url))
        storing.put(record("first"))
        assert inbox.take(1) == ["first"]


def test_user_without_write_rights_polls(
    store: Store, database: Database, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(record("first"))
    reader = f"reader_{postgres_url.rpartition('_')[2]}"
    database.rows(f"CREATE ROLE {reader} LOGIN PASSWORD 'reader'")
    database.rows(f"GRANT SELECT ON celery_taskmeta, rootcellar_schema TO {reader}")
    with opened(postgres_url.replace(f"postgres:{IN_URL}@", f"{reader}:reader@"), create_tables=False) as reading:
        inbox = subscribe(reading.watcher(), ["stored"])
        store.put(record("stored"))
        assert inbox.take(1) == ["stored"]
    assert "permission denied" in caplog.text
    wait_until(
        lambda: not database.rows("SELECT 1 FROM pg_stat_activity WHERE usename = %s", reader), "no session of the user"
    )
    database.rows(f"DROP OWNED BY {reader}")
    database.rows(f"DROP ROLE {reader}")


def test_wait_with_timeout_0_does_not_listen(store: Store, database: Database) -> None:
    before = set(threading.enumerate())
    store.put(record("there"))
    found = list(Waiter(store).wait_for(["there"], timeout=0))
    assert [one.task_id for one in found if isinstance(one, TaskRecord)] == ["there"]
    with pytest.raises(celery.exceptions.TimeoutError):
        list(Waiter(store).wait_for(["not there"], timeout=0))
    assert database.sessions() == []
    # a thread of an earlier test may still be ending
    assert {thread for thread in threading.enumerate() if thread.name == "rootcellar-listen"} <= before
