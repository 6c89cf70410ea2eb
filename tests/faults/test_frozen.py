"""The server is frozen: it runs and does not reply. A call with a timeout ends in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, GroupResult

import rootcellar
from rootcellar.errors import RootcellarError
from rootcellar.stores.postgres import driver
from rootcellar.support import executor
from rootcellar.testing.helpers import in_threads
from rootcellar.waiting import blocking
from tests.helpers import wait_until
from tests.servers import PostgresServer, RedisServer, Server
from tests.waiting.helpers import make_app, record

TIMEOUT = 1.0
#: extra seconds for a busy machine; less than the time after which a driver gives up
SLACK = 20.0


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def times_out(since: float | None = None, timeout: float = TIMEOUT) -> Iterator[pytest.ExceptionInfo[TimeoutError]]:
    began = since or time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        yield caught
    assert timeout * 0.9 < time.monotonic() - began < timeout + SLACK


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that these tests may freeze."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.create_database()


@pytest.mark.parametrize("has_connections", [True, False])
def test_get_times_out_while_the_server_is_frozen(server: PostgresServer, url: str, has_connections: bool) -> None:
    app = make_app(url)
    store = app.backend.store
    store.put(record("there"))
    results: list[Any] = [app.AsyncResult(f"task {number}") for number in range(3)]
    if not has_connections:
        app.backend.process_cleanup()
        store.close()
    with frozen(server):
        with times_out():
            results[0].get(timeout=TIMEOUT)
        with times_out():
            GroupResult(results=results, app=app).join(timeout=TIMEOUT)
        with ThreadPoolExecutor(10) as threads:
            began = time.monotonic()
            errors = list(threads.map(lambda _: outcome(lambda: results[1].get(timeout=TIMEOUT)), range(10)))
            assert {type(error) for error in errors} == {TimeoutError}
            assert time.monotonic() - began < TIMEOUT + SLACK
    assert app.AsyncResult("there").get(timeout=20) == "there"
    store.put(record("task 0"))
    assert results[0].get(timeout=20) == "task 0"


def test_get_with_timeout_0_times_out_while_frozen(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "READ_TIMEOUT_SECONDS", TIMEOUT)
    app = make_app(url)
    app.backend.store.put(record("there"))
    with frozen(server), times_out() as caught:
        app.AsyncResult("task").get(timeout=0)
    assert "no answer within 1 s" in str(caught.value)
    assert app.AsyncResult("there").get(timeout=0) == "there"
    app.backend.store.close()


def test_other_calls_time_out_while_the_server_is_frozen(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls without a timeout have the store's: reading a chain's parents, and every method of a store."""
    monkeypatch.setattr(driver, "SILENCE", TIMEOUT)
    app = make_app(url, result_backend_max_retries=0)
    store = app.backend.store
    in_threads(5, lambda number: store.put(record(f"there {number}")))
    chain = AsyncResult("child", app=app, parent=AsyncResult("parent", app=app))
    with frozen(server):
        began = time.monotonic()
        with pytest.raises(RootcellarError, match="silent for 1 s") as caught:
            chain.get(timeout=TIMEOUT)
        assert caught.value.retryable
        assert time.monotonic() - began < TIMEOUT + SLACK
        assert not store._pool.idle, "the other connections are not tried one by one"
    assert store.put(record("later")).written
    assert store.get("there 3") is not None
    store.close()


def outcome(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except BaseException as exc:
        return exc
    return None


def test_asyncio_result_times_out_while_the_server_is_frozen(server: PostgresServer, url: str) -> None:
    app = make_app(url)
    app.backend.store.put(record("there"))

    async def wait() -> None:
        with times_out():
            await rootcellar.result(app.AsyncResult("task"), timeout=TIMEOUT)
        with times_out():
            async for _ in rootcellar.as_completed([app.AsyncResult("task")], timeout=TIMEOUT):
                pass

    with frozen(server):
        began = time.monotonic()
        asyncio.run(wait())
        assert time.monotonic() - began < 2 * (TIMEOUT + SLACK), "the loop ends although a read is still running"
    app.backend.store.close()


def test_as_completed_times_out_if_the_server_freezes_later(server: PostgresServer, url: str) -> None:
    """``as_completed`` gets ids and reads the records afterwards: the timeout includes this."""
    app = make_app(url)
    store = app.backend.store
    store.put(record("first"))
    results = [app.AsyncResult(task_id) for task_id in ("first", "second")]
    began = time.monotonic()
    # long enough for the first result on a busy machine
    timeout = 5 * TIMEOUT
    completed = iter(rootcellar.as_completed(results, timeout=timeout))
    assert next(completed) == ("first", "first")
    with frozen(server), times_out(since=began, timeout=timeout):
        next(completed)


#: a timeout in seconds that passes many times while the server is frozen
SHORT = 0.05


@pytest.fixture(params=["postgres", "redis"])
def freezable(request: pytest.FixtureRequest, server: PostgresServer) -> tuple[Server, str]:
    """A server that the test may freeze, and the URL of a store on it."""
    if request.param == "postgres":
        return server, server.create_database()
    redis: RedisServer = request.getfixturevalue("new_redis")()
    # longer than the test takes on a busy machine
    return redis, f"{redis.url}?socket_timeout=60"


def test_abandoned_reads_are_not_done_after_a_freeze(
    freezable: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, and coroutines that read after a notification, time out hundreds of times."""
    monkeypatch.setattr(executor, "IDLE_SECONDS", 0.5)
    server, url = freezable
    app = make_app(url)
    store, readers = app.backend.store, app.backend.waiter.executor
    store.put(record("there"))
    begun: list[Any] = []
    read, read_many = store.get, store.get_many

    def count(ids: Any, work: Callable[[Any], Any]) -> Any:
        begun.append(ids)
        return work(ids)

    monkeypatch.setattr(store, "get", lambda task_id: count(task_id, read))
    monkeypatch.setattr(store, "get_many", lambda ids: count(ids, read_many))

    def give_up_often(number: int) -> set[type[BaseException] | None]:
        return {type(outcome(lambda: app.AsyncResult("task").get(timeout=SHORT))) for _ in range(10)}

    async def give_up_reading() -> list[BaseException | None]:
        ready = rootcellar.as_completed([app.AsyncResult("there")])
        return await asyncio.gather(
            *(ready._read_in_thread(app.backend, ["there"], time.monotonic() + SHORT) for _ in range(40)),
            return_exceptions=True,
        )

    with frozen(server):
        with ThreadPoolExecutor(40) as threads:
            errors = list(threads.map(give_up_often, range(40)))
        assert errors == [{TimeoutError}] * 40
        assert {type(error) for error in asyncio.run(give_up_reading())} == {TimeoutError}
        assert len(begun) == executor.MAX_THREADS, "the others found no free thread"
        assert readers.waiting == 0, "no read is kept for a caller that timed out"
    assert app.AsyncResult("there").get(timeout=20) == "there"
    wait_until(lambda: "rootcellar-executor" not in [one.name for one in threading.enumerate()], "no thread reads")
    assert len(begun) == executor.MAX_THREADS + 1, "after the freeze only the last caller reads"
    store.close()
