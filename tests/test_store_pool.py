"""The connection pool keeps its limits and hands out only usable connections."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import StoreUnavailable
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores import pool as pool_module
from rootcellar.stores.pool import ConnectionPool
from rootcellar.testing.background import Background
from rootcellar.testing.helpers import in_threads, record, wait_until


class RespConnection:
    """A fake connection that records what happened to it."""

    def __init__(self) -> None:
        self.is_open = True
        self.is_clean = True
        self.answers = True
        self.pings = 0

    def ping(self) -> bool:
        self.pings += 1
        return self.answers


class Exchange:
    """Makes connections, and keeps a list of them."""

    def __init__(self) -> None:
        self.lines: list[RespConnection] = []
        self.error: Exception | None = None

    def connect(self) -> RespConnection:
        if self.error:
            raise self.error
        self.lines.append(RespConnection())
        return self.lines[-1]

    @property
    def open(self) -> list[RespConnection]:
        return [line for line in self.lines if line.is_open]

    def pool(self, **options: Any) -> ConnectionPool[RespConnection]:
        def close(line: RespConnection) -> None:
            assert line.is_open, "closed once"
            line.is_open = False

        defaults = {"size": 2, "timeout": 5.0, "recycle": -1.0, "ping": False, "where": "the exchange"}
        return ConnectionPool(
            self.connect,
            close=close,
            alive=RespConnection.ping,
            usable=lambda line: line.is_open and line.is_clean,
            **{**defaults, **options},
        )


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def test_pool_reuses_a_connection(exchange: Exchange) -> None:
    pool = exchange.pool()
    for _ in range(5):
        with pool.connection() as line:
            assert line.is_open
    assert len(exchange.lines) == 1


def test_pool_hands_out_the_most_recently_used_first(exchange: Exchange) -> None:
    pool = exchange.pool()
    with pool.connection() as first, pool.connection() as second:
        assert first is not second
    with pool.connection() as again:
        assert again is first, "it was returned last"


def test_pool_never_exceeds_its_size(exchange: Exchange) -> None:
    pool = exchange.pool(size=3)
    busy = [0]
    most = [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        for _ in range(200):
            with pool.connection():
                with lock:
                    busy[0] += 1
                    most[0] = max(most[0], busy[0])
                with lock:
                    busy[0] -= 1

    in_threads(12, work)
    assert most[0] <= 3
    assert len(exchange.lines) <= 3
    assert exchange.pool(size=0).connection().__enter__().is_open, "there is always one connection"


def test_pool_times_out_if_no_connection_is_free(exchange: Exchange) -> None:
    pool = exchange.pool(size=1, timeout=0.01)
    with pool.connection():
        with pytest.raises(
            StoreUnavailable, match=r"all 1 connections were in use for 0.01 s \[the exchange\]"
        ) as caught:
            pool.connection().__enter__()
        assert caught.value.retryable
        assert "pool_size" in caught.value.remedy
    with pool.connection() as line:
        assert line.is_open


def test_failed_connect_takes_no_slot(exchange: Exchange) -> None:
    pool = exchange.pool(size=1, timeout=0.01)
    exchange.error = StoreUnavailable("gone")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="gone"):
            pool.connection().__enter__()
    exchange.error = None
    with pool.connection() as line:
        assert line.is_open


def test_unusable_connection_is_replaced(exchange: Exchange) -> None:
    pool = exchange.pool(size=1)
    with suppress(ValueError), pool.connection() as line:
        line.is_clean = False
        raise ValueError
    assert exchange.open == []
    with pool.connection() as line:
        assert line.is_clean
    line.is_clean = False  # while it is idle
    with pool.connection() as another:
        assert another is not line


def test_pool_pings_idle_connections(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = exchange.pool(ping=True)
    for _ in range(3):
        with pool.connection() as line:
            pass
    assert line.pings == 0, "it was used just now"
    monkeypatch.setattr(pool_module, "IDLE_BEFORE_PING", 0.0)
    with pool.connection() as same:
        assert same is line
    assert line.pings == 1
    line.answers = False
    with pool.connection() as another:
        assert another is not line
    assert not line.is_open
    with pool.connection() as one, pool.connection() as two:
        one.answers = False
    with pool.connection():
        pass
    assert not two.is_open, "it was idle for longer than the one that did not answer"
    silent = exchange.pool(ping=False)
    for _ in range(2):
        with silent.connection() as line:
            assert line.pings == 0


def test_pool_recycles_old_connections(exchange: Exchange) -> None:
    always = exchange.pool(recycle=0.0)
    for _ in range(3):
        with always.connection():
            pass
        assert exchange.open == []
    soon = exchange.pool(recycle=0.001)

    def used() -> RespConnection:
        with soon.connection() as line:
            return line

    first = used()
    wait_until(lambda: used() is not first, "another connection")
    assert not first.is_open


def test_pool_opens_a_fresh_connection_on_request(exchange: Exchange) -> None:
    pool = exchange.pool()
    with pool.connection(), pool.connection():
        pass
    assert len(exchange.open) == 2
    with pool.connection(fresh=True) as line:
        assert exchange.open == [line]


def test_pool_closes_idle_connections(exchange: Exchange) -> None:
    pool = exchange.pool()
    with pool.connection() as line:
        with pool.connection():
            pass
        pool.drop_idle()
        assert exchange.open == [line]
    pool.drop_idle()
    pool.drop_idle()
    assert exchange.open == []
    with pool.connection() as line:
        assert line.is_open


def test_interruption_loses_no_slot(exchange: Exchange) -> None:
    """A time limit may come while an idle connection is tested, or is closed."""

    def interrupted(line: RespConnection) -> bool:
        raise KeyboardInterrupt

    pool = exchange.pool(size=1, timeout=0.2, ping=True, idle_before_ping=0.0)
    pool._alive = interrupted
    for _ in range(3):
        with pool.connection() as line:
            assert line.is_open
        with pytest.raises(KeyboardInterrupt), pool.connection():
            pass
    assert not exchange.open


def test_connection_that_cannot_be_closed_loses_no_slot(exchange: Exchange) -> None:
    pool = exchange.pool(size=1, timeout=0.2)
    for _ in range(2):
        with pytest.raises(AssertionError, match="closed once"), pool.connection() as line:
            line.is_open = False


# -- first come, first served


def waiting_in(pool: ConnectionPool[RespConnection]) -> int:
    return len(pool._state.get().queue)


def test_threads_are_served_in_order_of_arrival(exchange: Exchange) -> None:
    pool = exchange.pool(size=1)
    served: list[int] = []

    def use(number: int) -> None:
        with pool.connection():
            served.append(number)

    with pool.connection():
        threads = []
        for number in range(30):
            threads.append(Background(lambda number=number: use(number)))
            wait_until(lambda number=number: waiting_in(pool) == number + 1, "it waits")
    for thread in threads:
        thread.result()
    assert served == list(range(30))


def test_returning_thread_is_served_after_waiting_threads(exchange: Exchange) -> None:
    pool = exchange.pool(size=1)
    served: list[str] = []

    def use() -> None:
        with pool.connection():
            served.append("the one that waited")

    with pool.connection():
        waiting = Background(use)
        wait_until(lambda: waiting_in(pool) == 1, "it waits")
    with pool.connection():
        served.append("the one that had it before")
    waiting.result()
    assert served == ["the one that waited", "the one that had it before"]


# the group commit of PostgreSQL and PyMongo's own pool keep the same promise
@pytest.mark.parametrize("kind", ["postgres", "mysql", "redis", "sqlite", "mongodb"])
def test_sixty_busy_threads_share_two_connections(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path}/results.sqlite3"
        elif kind == "mongodb":
            url = request.getfixturevalue("mongo_server").new_database()
        else:
            url = request.getfixturevalue(f"{kind}_url")
        options = StoreOptions(pool_size=2, pool_timeout=10.0, sections={"redis": {"max_connections": 2}})
        store = open_store(url, options)
        stack.callback(store.close)
        store.put(record(task_id="a task"))
        counts = [0] * 60
        over = threading.Event()

        def work(number: int) -> None:
            try:
                while not over.is_set():
                    assert store.get("a task") is not None
                    if number % 3 == 0 and counts[number] == 0:
                        store.put(record(task_id=f"task {number}"), durable=False)
                    counts[number] += 1
                    if min(counts) >= 20:
                        break
            finally:
                over.set()

        in_threads(60, work)
    assert min(counts) >= 20
    # not exactly equal, because some also store something once
    assert max(counts) < 20 * 5, f"some were served much more often than others: {sorted(counts)}"
