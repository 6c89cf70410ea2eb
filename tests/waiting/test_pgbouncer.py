"""Waiting through PgBouncer: by notification with session pooling, by polling with transaction pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.notify import ListeningWatcher
from rootcellar.stores.postgres.pgbouncer import PoolerPolicy
from rootcellar.stores.watching import Watcher
from tests.helpers import wait_until
from tests.servers import PgBouncerServer, PostgresServer
from tests.waiting.helpers import Database, no_safety_net, opened, put_all, record, subscribe

NewPooler = Callable[..., PgBouncerServer]


@pytest.fixture(autouse=True)
def only_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    no_safety_net(monkeypatch)


def test_session_pooler_forwards_notifications(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pooler = new_pgbouncer(postgres_server, pool_mode="session")
    with opened(postgres_url) as storing, opened(pooler.through(postgres_url)) as waiting:
        inbox = subscribe(waiting.watcher(), ["here", "elsewhere"])
        wait_until(lambda: Database(postgres_url).waiters() == 2, "two registrations")
        waiting.put(record("here"))
        put_all(storing, ["elsewhere"])
        assert sorted(inbox.take(2)) == ["elsewhere", "here"]
    assert "Polling" not in caplog.text


def test_watcher_leaves_no_lock_in_a_session_pooler(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str
) -> None:
    pooler = new_pgbouncer(postgres_server, pool_mode="session", default_pool_size=8)
    for number in range(5):
        with opened(pooler.through(postgres_url)) as store:
            inbox = subscribe(store.watcher(), [f"task {number}"])
            wait_until(lambda: Database(postgres_url).waiters() == 1, "its registration")
            store.put(record(f"task {number}"))
            inbox.take(1)
        wait_until(lambda: Database(postgres_url).sessions() == [], "no listening session")
    assert Database(postgres_url).listeners() == []


def test_waiter_gets_results_from_a_full_session_pooler(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """A waiting client never hangs: the watcher does not rely on notifications that it cannot test."""
    pooler = new_pgbouncer(postgres_server, pool_mode="session", default_pool_size=2)
    with opened(postgres_url) as storing, opened(pooler.through(postgres_url)) as waiting:
        inbox = subscribe(waiting.watcher(), ["later"])
        assert waiting.get("later") is None, "this uses the other session"
        put_all(storing, ["later"])
        assert inbox.take(1) == ["later"]


def test_watcher_listens_at_listen_url(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pooler = new_pgbouncer(postgres_server)
    with opened(pooler.through(postgres_url), transport_options={"listen_url": postgres_url}) as store:
        inbox = subscribe(store.watcher(), ["task"])
        wait_until(lambda: Database(postgres_url).waiters() == 1, "its registration")
        store.put(record("task"))
        assert inbox.take(1) == ["task"]
    assert "Polling" not in caplog.text


@pytest.mark.parametrize("in_turn", [False, True])
def test_watcher_polls_through_a_transaction_pooler(
    in_turn: bool,
    new_pgbouncer: NewPooler,
    postgres_server: PostgresServer,
    postgres_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pooler = new_pgbouncer(postgres_server, default_pool_size=2, server_round_robin=in_turn)
    url = pooler.through(postgres_url)
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        # so that the pooler has two sessions
        one.execute("SELECT 1")
        two.execute("SELECT 1")
    with opened(postgres_url) as storing, opened(url) as waiting:
        for number in range(3):
            inbox = subscribe(waiting.watcher(), [f"task {number}"])
            put_all(storing, [f"task {number}"])
            assert inbox.take(1) == [f"task {number}"]
        wait_until(lambda: "Polling instead; to be notified, set listen_url" in caplog.text, "the warning")
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        channels = [s.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() for s in (one, two)]
        assert channels == [(0,), (0,)], "no shared session listens"
    assert Database(postgres_url).listeners() == []
    assert Database(postgres_url).sessions() == []


@pytest.fixture
def pooled_watcher(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str
) -> Iterator[tuple[Watcher, str]]:
    """A watcher that listens through a transaction pooler, and the pooler's URL."""
    url = new_pgbouncer(postgres_server, default_pool_size=3).through(postgres_url)
    with opened(postgres_url) as direct:
        watcher = ListeningWatcher(
            lambda: PoolerPolicy("auto", "here").configure(driver.connect({"conninfo": url}, "here")),
            direct.get_many,
            {},
        )
        with closing(watcher):
            yield watcher, url


def test_watcher_detects_a_transaction_pooler(
    pooled_watcher: tuple[Watcher, str], postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The pooler forwards notifications of the session's own statements, and none that come during a wait."""
    watcher, url = pooled_watcher
    with opened(postgres_url) as storing:
        inbox = subscribe(watcher, ["at once"])
        put_all(storing, ["at once"])
        assert inbox.take(1, timeout=2) == ["at once"], "the waiter does not wait for the end of the test"
        inbox = subscribe(watcher, ["later"])
        wait_until(lambda: "Polling instead" in caplog.text, "the warning")
        put_all(storing, ["later"])
        assert inbox.take(1) == ["later"]
    # a setting in a shared session would make the results of others less durable
    with psycopg.connect(url) as one, psycopg.connect(url) as two, psycopg.connect(url) as three:
        shown = {session.execute("SHOW synchronous_commit").fetchone() for session in (one, two, three)}
    assert shown == {("on",)}
    assert Database(postgres_url).listeners() == []
