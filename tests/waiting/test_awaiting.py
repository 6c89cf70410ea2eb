"""Results on asyncio: awaited, timed out, cancelled, by the thousand; and iterated in batches as they end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import celery
import celery.exceptions
import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult, ResultSet

import rootcellar
from rootcellar import StateChange
from rootcellar.backend import ResultBackend
from rootcellar.errors import ConfigurationError, NotAResult
from rootcellar.testing.background import Background
from tests.helpers import wait_until
from tests.servers import PostgresServer
from tests.waiting.helpers import (
    PATIENCE,
    Database,
    Other,
    make_app,
    named,
    no_safety_net,
    opened_there,
    record,
    store_in_threads,
    threads_now,
)
from tests.workers import Worker

AT_ONCE = 10_000


class Setup:
    """An app over a store, with results that are not stored yet, and a method to store them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.app: Celery = make_app(url)
        self.backend: ResultBackend = self.app.backend
        self.backend.store.check()
        self._made = 0

    def results(self, count: int) -> list[AsyncResult]:
        self._made += 1
        return [self.app.AsyncResult(f"task {self._made}-{number}") for number in range(count)]

    def store(self, results: list[AsyncResult], value: Any = None) -> None:
        for result in results:
            self.backend.store.put(record(result.id, value))

    def wait_until_idle(self) -> None:
        """Wait until the watcher of this process has no subscription."""
        watcher = self.backend.waiter.watcher()
        wait_until(lambda: not watcher.awaited_ids(), "no subscription")

    def close(self) -> None:
        self.backend.waiter.close()
        self.backend.store.close()


@pytest.fixture(params=["postgresql", "sqlite"])
def setup(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """A setup over a store that notifies, and over a store that is polled."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/results.sqlite3"
    else:
        url = request.getfixturevalue("postgres_url")
        no_safety_net(monkeypatch)
    with closing(Setup(url)) as setup:
        yield setup


@pytest.fixture
def on_postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    no_safety_net(monkeypatch)
    with closing(Setup(postgres_url)) as setup:
        yield setup


def in_background(work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.to_thread(work, *args))


async def collected(pairs: Any) -> list[tuple[str, Any]]:
    return [pair async for pair in pairs]


# -- one result


def test_result_returns_values_and_raises_exceptions(setup: Setup) -> None:
    ready, later, failed, wrong = setup.results(4)
    setup.store([ready], {"answer": 42})

    async def scenario() -> None:
        assert await rootcellar.result(ready) == {"answer": 42}
        waiting = [asyncio.ensure_future(rootcellar.result(one, timeout=PATIENCE)) for one in (later, failed)]
        await asyncio.sleep(0)
        await in_background(setup.backend.store_result, later.id, [1, "two", None], "SUCCESS")
        await in_background(setup.backend.store_result, failed.id, ValueError("no", 1), "FAILURE")
        assert await waiting[0] == [1, "two", None]
        with pytest.raises(ValueError, match="no") as caught:
            await waiting[1]
        assert caught.value.args == ("no", 1)
        returned = await rootcellar.result(failed, propagate=False)
        assert isinstance(returned, ValueError)
        with pytest.raises(celery.exceptions.TimeoutError):
            await rootcellar.result(wrong, timeout=0.1)

    asyncio.run(scenario())
    setup.wait_until_idle()


def test_result_of_a_group_is_a_list(setup: Setup) -> None:
    results = setup.results(5)
    group = GroupResult("g", [results[0], GroupResult("inner", results[1:3]), results[3]])
    failing = GroupResult("failing", [results[0], results[4], AsyncResult("never", app=setup.app)])

    async def scenario() -> None:
        waiting = asyncio.ensure_future(rootcellar.result(group, timeout=PATIENCE))
        await asyncio.sleep(0)
        await in_background(setup.store, results[:4])
        first, second, third, fourth = (one.id for one in results[:4])
        assert await waiting == [first, [second, third], fourth]
        # a failure ends the wait, also for results that never come
        waiting = asyncio.ensure_future(rootcellar.result(failing, timeout=PATIENCE))
        await in_background(setup.backend.store_result, results[4].id, ValueError("no", 1), "FAILURE")
        with pytest.raises(ValueError, match="no"):
            await waiting
        with pytest.raises(celery.exceptions.TimeoutError):
            await rootcellar.result(failing, timeout=0.2, propagate=False)
        with pytest.raises(TypeError, match="as_completed"):
            await collected(rootcellar.watch(group))

    asyncio.run(scenario())
    setup.wait_until_idle()


def test_other_backend_is_refused(tmp_path: Path) -> None:
    other = Celery("other", backend="cache+memory://", set_as_current=False)
    with pytest.raises(ConfigurationError, match="result_backend"):
        asyncio.run(rootcellar.result(other.AsyncResult("x")))
    with pytest.raises(ConfigurationError, match="result_backend"):
        rootcellar.as_completed([other.AsyncResult("x")])


def test_cancelled_wait_leaves_nothing_behind(on_postgres: Setup) -> None:
    setup, database = on_postgres, Database(on_postgres.url)
    results = setup.results(1_000)

    endless = [one.id for one in results[::2]]

    async def give_up(waiting: list[asyncio.Future[Any]]) -> Counter[type]:
        await asyncio.to_thread(wait_until, lambda: database.waiters(endless) == len(endless), "half of the waits")
        for one in waiting[::2]:
            one.cancel()
        return Counter(type(error) for error in await asyncio.gather(*waiting, return_exceptions=True))

    async def scenario() -> None:
        # on a busy machine a timeout may pass before all are registered
        timeouts = [None, 2.0] * (len(results) // 2)
        waiting = [
            asyncio.ensure_future(rootcellar.result(one, timeout=timeout))
            for one, timeout in zip(results, timeouts, strict=True)
        ]
        ended = await give_up(waiting)
        assert ended == {asyncio.CancelledError: 500, celery.exceptions.TimeoutError: 500}
        setup.wait_until_idle()
        wait_until(lambda: database.waiters() == 0, "no registration")

        async def follow(one: AsyncResult) -> None:
            async for _ in rootcellar.watch(one):
                pass

        waiting = [asyncio.ensure_future(follow(one)) for one in results[:500]]
        waiting.append(asyncio.ensure_future(collected(rootcellar.as_completed(results[500:]))))
        await asyncio.to_thread(wait_until, lambda: database.waiters() == len(results), "all registrations")
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        setup.wait_until_idle()
        wait_until(lambda: database.waiters() == 0, "no registration")

    asyncio.run(scenario())


def test_ten_thousand_waits_take_one_connection(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need one thread and one connection."""
    no_safety_net(monkeypatch)
    database = Database(postgres_url)
    threads = threads_now()
    with closing(Setup(named(postgres_url, "waiting"))) as setup, Other(opened_there, postgres_url) as other:
        results = setup.results(AT_ONCE)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiting'"
        before = database.one(sessions)

        async def scenario() -> list[Any]:
            waiting = [asyncio.ensure_future(rootcellar.result(one, timeout=PATIENCE * 2)) for one in results]
            while database.waiters() < AT_ONCE:
                await asyncio.sleep(0.05)
            assert len(threads_now() - threads) == 1
            assert database.one(sessions) == before + 1
            other.begin(store_in_threads, [one.id for one in results], 16)
            values = await asyncio.gather(*waiting)
            assert database.one(sessions) == before + 1
            other.end()
            assert len(threads_now() - threads) == 1
            return list(values)

        assert asyncio.run(scenario()) == [one.id for one in results]


def test_two_thousand_waits_for_one_result_end(setup: Setup) -> None:
    (one,) = setup.results(1)

    async def scenario() -> set[str]:
        waiting = asyncio.gather(*(rootcellar.result(one, timeout=PATIENCE) for _ in range(2_000)))
        await in_background(setup.store, [one])
        return set(await waiting)

    assert asyncio.run(scenario()) == {one.id}


def test_five_loops_in_five_threads_get_their_results(setup: Setup) -> None:
    results = [setup.results(200) for _ in range(5)]

    async def wait_for(some: list[AsyncResult]) -> list[Any]:
        return list(await asyncio.gather(*(rootcellar.result(one, timeout=PATIENCE) for one in some)))

    loops = [Background(lambda some=some: asyncio.run(wait_for(some))) for some in results]
    for some in zip(*results, strict=True):
        setup.store(list(some))
    for some, loop in zip(results, loops, strict=True):
        assert loop.result() == [one.id for one in some]
    setup.wait_until_idle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_closed_loop_does_not_affect_other_waits(on_postgres: Setup) -> None:
    """Event loops are closed while their results arrive."""
    results = on_postgres.results(400)
    steady = Background(lambda: sorted(task_id for task_id, _ in rootcellar.as_completed(results, timeout=PATIENCE)))
    over = threading.Event()

    def run_loops() -> int:
        count = 0
        while not over.is_set():
            loop = asyncio.new_event_loop()
            waiting = [loop.create_task(rootcellar.result(one)) for one in results[::20]]
            loop.run_until_complete(asyncio.wait(waiting, timeout=0.002))
            loop.close()
            count += 1
        return count

    closing_loops = Background(run_loops)
    on_postgres.store(results)
    assert steady.result() == sorted(one.id for one in results)
    over.set()
    assert closing_loops.result() > 3


def test_web_handler_awaits_a_result(postgres_url: str, redis_url: str) -> None:
    """As in a web application: one event loop, a task for each request, and a worker in another process."""
    app = make_app(postgres_url, broker_url=redis_url)

    async def handle(word: str) -> dict[str, Any]:
        result = app.send_task("tests.apps.ping.ping", [word])
        return {"word": await rootcellar.result(result, timeout=PATIENCE)}

    async def serve() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(handle(f"word {number}") for number in range(50))))

    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": f"rootcellar+{postgres_url}"}
    with Worker("tests.apps.ping", env=env, pool="threads", concurrency=2):
        assert asyncio.run(serve()) == [{"word": f"word {number}"} for number in range(50)]
    app.backend.store.close()


# -- as results end


def test_as_completed_yields_results_as_they_end(setup: Setup) -> None:
    results = setup.results(30)
    group = GroupResult("g", [results[0], GroupResult("inner", results[1:3]), *results[3:]])

    async def scenario() -> None:
        setup.store(results[:10])
        seen = []
        async for task_id, value in rootcellar.as_completed(group, timeout=PATIENCE):
            assert value == task_id
            seen.append(task_id)
            if len(seen) % 10 == 0:
                # the next results are stored when these were seen, so no other can come
                assert set(seen) == {one.id for one in results[: len(seen)]}
                await in_background(setup.store, results[len(seen) : len(seen) + 10])
        assert len(seen) == len(results)

    asyncio.run(scenario())
    assert dict(rootcellar.as_completed(results)) == {one.id: one.id for one in results}
    assert list(rootcellar.as_completed([])) == []
    assert asyncio.run(collected(rootcellar.as_completed([]))) == []
    setup.wait_until_idle()


@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_as_completed_raises_a_failure_in_order(on_postgres: Setup, is_async: bool) -> None:
    """Results before it in the same batch are returned."""
    results = on_postgres.results(3)
    on_postgres.store(results[:1])
    on_postgres.backend.store_result(results[1].id, KeyError("lost"), "FAILURE")
    on_postgres.store(results[2:])

    def take(**options: Any) -> tuple[list[str], BaseException | None]:
        seen: list[str] = []

        async def take_async() -> None:
            async for task_id, _ in rootcellar.as_completed(results, timeout=PATIENCE, **options):
                seen.append(task_id)

        try:
            if is_async:
                asyncio.run(take_async())
            else:
                seen.extend(task_id for task_id, _ in rootcellar.as_completed(results, timeout=PATIENCE, **options))
        except KeyError as exc:
            return seen, exc
        return seen, None

    seen, error = take()
    assert isinstance(error, KeyError)
    assert error.args == ("lost",)
    all_seen, error = take(propagate=False)
    assert (sorted(all_seen), error) == ([one.id for one in results], None)
    assert len(seen) == all_seen.index(results[1].id), "all results before it"
    on_postgres.wait_until_idle()


@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_stopped_iteration_leaves_no_subscription(setup: Setup, is_async: bool) -> None:
    results = setup.results(3)
    setup.store(results[:1])

    def first() -> str:
        async def first_async() -> str:
            pairs = rootcellar.as_completed(results).__aiter__()
            task_id, _ = await pairs.__anext__()
            await pairs.aclose()
            return task_id

        if is_async:
            return asyncio.run(first_async())
        for task_id, _ in rootcellar.as_completed(results):
            return task_id
        raise AssertionError("nothing came")

    def all_of_them() -> list[tuple[str, Any]]:
        pairs = rootcellar.as_completed(results, timeout=0.2)
        return asyncio.run(collected(pairs)) if is_async else list(pairs)

    assert first() == results[0].id
    gc.collect()
    setup.wait_until_idle()
    with pytest.raises(celery.exceptions.TimeoutError):
        all_of_them()
    setup.wait_until_idle()


@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_as_completed_keeps_one_batch_in_memory(setup: Setup, is_async: bool) -> None:
    """All results are ready at once, but few are in memory at a time."""
    results = setup.results(3_000)
    body = "x" * 20_000
    setup.store(results, body)

    async def count_async() -> int:
        count = 0
        async for _ in rootcellar.as_completed(results):
            count += 1
        return count

    gc.collect()
    tracemalloc.start()
    count = asyncio.run(count_async()) if is_async else sum(1 for _ in rootcellar.as_completed(results))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(results)
    assert most < len(results) * len(body) * 0.6


@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_as_completed_survives_an_outage(new_postgres: Callable[..., PostgresServer], is_async: bool) -> None:
    """The server is killed between the notification and the reading of the records, and restarts later."""
    server, over = new_postgres(), threading.Event()
    with closing(Setup(server.create_database())) as setup:
        results = setup.results(1_200)
        setup.store(results)

        def interrupt(taken: list[str]) -> list[Background]:
            server.kill()
            # longer than a few retries; the server runs as long as the thread that starts it
            return [Background(lambda: (time.sleep(1.0), server.start(), over.wait()))]

        async def take_async() -> list[str]:
            taken: list[str] = []
            async for task_id, _ in rootcellar.as_completed(results, timeout=PATIENCE):
                taken.append(task_id)
                if len(taken) == 1:
                    restarting.extend(interrupt(taken))
            return taken

        def take() -> list[str]:
            taken: list[str] = []
            for task_id, _ in rootcellar.as_completed(results, timeout=PATIENCE):
                taken.append(task_id)
                if len(taken) == 1:
                    restarting.extend(interrupt(taken))
            return taken

        restarting: list[Background] = []
        taken = asyncio.run(take_async()) if is_async else take()
        assert sorted(taken) == sorted(one.id for one in results)
        over.set()
        restarting[0].result()


# -- state by state


def test_watch_yields_every_state(setup: Setup) -> None:
    (one,) = setup.results(1)
    put = setup.backend.store_result
    states = [("STARTED", {"pid": 1}), *(("PROGRESS", {"done": percent}) for percent in range(0, 100, 10))]

    async def scenario() -> None:
        seen: list[tuple[str, Any]] = []
        ahead = iter(states)
        await in_background(put, one.id, *reversed(next(ahead)))
        async for change in rootcellar.watch(one, timeout=PATIENCE):
            assert (change.task_id, change.is_ready) == (one.id, change.state == "SUCCESS")
            seen.append((change.state, change.info))
            if change.is_ready:
                assert change.done_at is not None
                continue
            # the next state is stored when this one was seen, so no state may be missing
            state, info = next(ahead, ("SUCCESS", "done"))
            await in_background(put, one.id, info, state)
        assert seen == [*states, ("SUCCESS", "done")]
        again = [change.state async for change in rootcellar.watch(one)]
        assert again == ["SUCCESS"], "of an ended task, only the last state"

    asyncio.run(scenario())
    setup.wait_until_idle()


def test_watch_always_yields_the_last_state(setup: Setup) -> None:
    results = setup.results(50)

    async def follow(one: AsyncResult) -> list[str]:
        return [change.state async for change in rootcellar.watch(one, timeout=PATIENCE)]

    def hurry() -> None:
        for one in results:
            for state in ("STARTED", "RETRY", "PROGRESS"):
                setup.backend.store.put(record(one.id, state=state))
            setup.backend.store_result(one.id, OSError("end"), "FAILURE")

    async def scenario() -> None:
        following = asyncio.gather(*(follow(one) for one in results))
        await in_background(hurry)
        for seen in await following:
            assert seen[-1] == "FAILURE"
            assert len(seen) == len(set(seen)), "no state comes twice"

    asyncio.run(scenario())


def test_watch_accepts_an_id(on_postgres: Setup) -> None:
    on_postgres.app.set_current()
    (one,) = on_postgres.results(1)
    on_postgres.backend.store_result(one.id, {"done": 1}, "PROGRESS")

    async def scenario() -> Any:
        changes = rootcellar.watch(one.id, timeout=0.3)
        first = await changes.__anext__()
        with pytest.raises(celery.exceptions.TimeoutError):
            await changes.__anext__()
        return first.info

    assert asyncio.run(scenario()) == {"done": 1}
    on_postgres.wait_until_idle()


def test_watch_begins_with_pending_if_nothing_is_stored(setup: Setup) -> None:
    (one,) = setup.results(1)

    async def scenario() -> None:
        changes = rootcellar.watch(one, timeout=PATIENCE)
        assert await changes.__anext__() == StateChange(one.id, "PENDING", None, False, None)
        await in_background(setup.backend.store_result, one.id, {"done": 1}, "PROGRESS")
        progress = await changes.__anext__()
        assert (progress.state, progress.info, progress.is_ready) == ("PROGRESS", {"done": 1}, False)
        await in_background(setup.store, [one])
        assert [change.state async for change in changes] == ["SUCCESS"], "PENDING comes once"

    asyncio.run(scenario())
    setup.wait_until_idle()


def test_watching_thousands_takes_two_connections(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection to be notified, and one to read whether anything is stored."""
    no_safety_net(monkeypatch)
    database = Database(postgres_url)
    with closing(Setup(named(postgres_url, "watching"))) as setup:
        results = setup.results(2_000)

        async def first(one: AsyncResult) -> str:
            changes = rootcellar.watch(one, timeout=PATIENCE)
            state: str = (await changes.__anext__()).state
            await changes.aclose()
            return state

        async def scenario() -> set[str]:
            return set(await asyncio.gather(*(first(one) for one in results)))

        assert asyncio.run(scenario()) == {"PENDING"}
        sessions = database.one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'watching'")
        assert sessions <= 2
        setup.wait_until_idle()


def test_watch_yields_pending_after_an_outage(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    with closing(Setup(server.create_database())) as setup:
        (one,) = setup.results(1)
        server.kill()

        async def scenario() -> list[str]:
            changes = rootcellar.watch(one, timeout=PATIENCE * 2)
            first = asyncio.ensure_future(changes.__anext__())
            watcher = setup.backend.waiter.watcher()
            await asyncio.to_thread(wait_until, lambda: watcher.outage is not None, "the outage")
            server.start()
            assert (await first).state == "PENDING"
            await in_background(setup.store, [one])
            return [change.state async for change in changes]

        assert asyncio.run(scenario()) == ["SUCCESS"]


# -- eager results, groups, sets and ids


@pytest.fixture
def eager_app(tmp_path: Path) -> Iterator[Celery]:
    """An app that runs tasks eagerly."""
    app = make_app(f"sqlite:///{tmp_path}/results.sqlite3", task_always_eager=True)

    @app.task(name="double", shared=False)
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="fail", shared=False)
    def fail() -> None:
        raise KeyError("lost")

    @app.task(name="ignore", shared=False)
    def ignore() -> None:
        raise celery.exceptions.Ignore

    yield app
    app.backend.store.close()


def taken(results: Any, *, is_async: bool, **options: Any) -> list[tuple[str, Any]]:
    pairs = rootcellar.as_completed(results, PATIENCE, **options)
    return asyncio.run(collected(pairs)) if is_async else list(pairs)


def test_eager_result_is_awaited(eager_app: Celery) -> None:
    double, fail, ignore = (eager_app.tasks[name] for name in ("double", "fail", "ignore"))
    sums = celery.group(double.s(number) for number in range(3))
    cases = [
        (double.delay(21), 42),
        (double.apply((4,)), 8),
        (celery.chain(double.s(1), double.s(), double.s()).delay(), 8),
        (sums.delay(), [0, 2, 4]),
        (ignore.delay(), None),
    ]
    for given, value in cases:
        assert asyncio.run(rootcellar.result(given, PATIENCE)) == value
    with pytest.raises(KeyError, match="lost"):
        asyncio.run(rootcellar.result(fail.delay()))
    returned = asyncio.run(rootcellar.result(fail.delay(), propagate=False))
    assert isinstance(returned, KeyError)


def test_watch_of_an_eager_result_yields_its_last_state(eager_app: Celery) -> None:
    one, failed = eager_app.tasks["double"].delay(21), eager_app.tasks["fail"].delay()
    assert asyncio.run(collected(rootcellar.watch(one))) == [StateChange(one.id, "SUCCESS", 42, True, None)]
    (change,) = asyncio.run(collected(rootcellar.watch(failed)))
    assert (change.state, change.is_ready) == ("FAILURE", True)
    assert isinstance(change.info, KeyError)


@pytest.mark.parametrize("is_async", [False, True], ids=["for", "async for"])
def test_as_completed_yields_eager_results(eager_app: Celery, is_async: bool) -> None:
    double, fail = eager_app.tasks["double"], eager_app.tasks["fail"]
    group = celery.group(double.s(number) for number in range(3)).delay()
    assert taken(group, is_async=is_async) == [(one.id, 2 * number) for number, one in enumerate(group.results)]
    failed = fail.delay()
    with pytest.raises(KeyError, match="lost"):
        taken([*group.results, failed], is_async=is_async)
    ((task_id, value),) = taken([failed], is_async=is_async, propagate=False)
    assert task_id == failed.id
    assert isinstance(value, KeyError)


def test_ids_are_accepted_as_results(setup: Setup) -> None:
    """The results belong to the given app, or to the current app."""
    one, two, three = setup.results(3)
    number = uuid.uuid4()
    four = setup.app.AsyncResult(str(number))
    setup.store([one, two, three, four])

    async def scenario(**app: Celery) -> None:
        assert await rootcellar.result(one.id, PATIENCE, **app) == one.id
        assert await rootcellar.result(number, PATIENCE, **app) == str(number)
        assert [change.info async for change in rootcellar.watch(one.id, PATIENCE, **app)] == [one.id]

    asyncio.run(scenario(app=setup.app))
    mixed = [one.id, number, GroupResult("g", [two, three])]
    for is_async in (False, True):
        found = dict(taken((each for each in mixed), is_async=is_async, app=setup.app))
        assert found == {each.id: each.id for each in (one, two, three, four)}
        for single in (one, one.id, ResultSet([one])):
            assert taken(single, is_async=is_async, app=setup.app) == [(one.id, one.id)]
    setup.app.set_current()
    asyncio.run(scenario())
    assert taken([one.id], is_async=True) == [(one.id, one.id)]
    setup.wait_until_idle()


def test_result_set_is_awaited(setup: Setup) -> None:
    results = setup.results(3)
    setup.store(results)
    assert asyncio.run(rootcellar.result(ResultSet(results), PATIENCE)) == [one.id for one in results]


def test_ignored_result_is_none_at_once(setup: Setup) -> None:
    """As with Celery's ``get``: waiting for an ignored result would never end."""
    ignored, stored = setup.results(2)
    ignored.ignored = True
    setup.store([stored])
    assert ignored.get() is None
    assert asyncio.run(rootcellar.result(ignored, PATIENCE)) is None
    assert asyncio.run(rootcellar.result(GroupResult("g", [stored, ignored]), PATIENCE)) == [stored.id, None]
    for is_async in (False, True):
        assert taken([stored, ignored], is_async=is_async) == [(ignored.id, None), (stored.id, stored.id)]


def test_other_object_is_refused(setup: Setup) -> None:
    signature = setup.app.signature("add", args=["secret"])
    for wrong in (None, 5, b"id", {"id": 1}, signature):
        calls: list[Callable[[], object]] = [
            lambda wrong=wrong: asyncio.run(rootcellar.result(wrong)),
            lambda wrong=wrong: asyncio.run(collected(rootcellar.watch(wrong))),
            lambda wrong=wrong: rootcellar.as_completed([wrong]),
        ]
        for call in calls:
            with pytest.raises(NotAResult, match="type " + type(wrong).__name__) as caught:
                call()
            assert isinstance(caught.value, TypeError)
            assert not caught.value.retryable
            assert "secret" not in str(caught.value)
    for wrong in (None, signature):
        with pytest.raises(NotAResult):
            rootcellar.as_completed(wrong)


def test_id_of_an_app_without_rootcellar_is_refused() -> None:
    other = Celery("other", backend="cache+memory://", set_as_current=False)
    with pytest.raises(ConfigurationError, match=r"'other'.*app="):
        asyncio.run(rootcellar.result("some id", app=other))


def test_package_lists_its_public_names() -> None:
    assert {"result", "watch", "as_completed", "StateChange", "settings", "register_type"} <= set(dir(rootcellar))
    for name in rootcellar.__all__:
        assert getattr(rootcellar, name) is not None


# -- without notifications


def test_five_thousand_waits_share_one_poll(tmp_path: Path) -> None:
    threads = threads_now()
    with closing(Setup(f"sqlite:///{tmp_path}/results.sqlite3")) as setup:
        results = setup.results(5_000)

        async def scenario() -> list[Any]:
            waiting = [asyncio.ensure_future(rootcellar.result(one, timeout=PATIENCE * 2)) for one in results]
            await asyncio.sleep(0.05)
            assert len(threads_now() - threads) == 1
            stored = Background(lambda: setup.store(results))
            values = await asyncio.gather(*waiting)
            stored.result()
            return list(values)

        assert asyncio.run(scenario()) == [one.id for one in results]
