"""Results of several backends in one set: each backend is waited for, with one timeout for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import celery.exceptions
import pytest
from celery import Celery, group
from celery.app.backends import by_url
from celery.backends.cache import CacheBackend
from celery.result import AsyncResult, EagerResult, ResultSet

import rootcellar
from rootcellar.backend import ResultBackend
from rootcellar.testing.background import Background
from rootcellar.testing.conformance_app import make_app as make_conformance_app
from rootcellar.testing.thread_worker import worker_in_thread
from tests.helpers import wait_until
from tests.waiting.helpers import PATIENCE, make_app


class Setup:
    """An app with a backend, and another backend."""

    def __init__(self, first: str, second: str) -> None:
        self.app: Celery = make_app(first)
        self.first: ResultBackend = self.app.backend
        self.second: ResultBackend = ResultBackend(self.app, url=second)

    def pair(self) -> list[AsyncResult]:
        """Return a result of each backend."""
        return [AsyncResult(f"task {time.monotonic_ns()}", backend=one, app=self.app) for one in self.backends]

    @property
    def backends(self) -> list[ResultBackend]:
        return [self.first, self.second]

    def close(self) -> None:
        for backend in self.backends:
            backend.waiter.close()
            backend.store.close()


def done(results: list[AsyncResult]) -> None:
    for number, result in enumerate(results):
        result.backend.store_result(result.id, number, "SUCCESS")


def result_set(results: list[AsyncResult]) -> ResultSet:
    return ResultSet(results, app=results[0].app)


async def as_completed_on_asyncio(results: list[AsyncResult]) -> list[Any]:
    return [value async for _, value in rootcellar.as_completed(results, PATIENCE)]


WAYS: dict[str, Callable[[list[AsyncResult]], list[Any]]] = {
    "get": lambda results: result_set(results).get(timeout=PATIENCE),
    "join": lambda results: result_set(results).join(timeout=PATIENCE),
    "join_native": lambda results: result_set(results).join_native(timeout=PATIENCE),
    "iter_native": lambda results: [meta["result"] for _, meta in result_set(results).iter_native(timeout=PATIENCE)],
    "await": lambda results: asyncio.run(rootcellar.result(result_set(results), PATIENCE)),
    "as_completed": lambda results: [value for _, value in rootcellar.as_completed(results, PATIENCE)],
    "as_completed on asyncio": lambda results: asyncio.run(as_completed_on_asyncio(results)),
}


@pytest.fixture(params=["postgresql and sqlite", "sqlite and postgresql", "two of sqlite"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    def url(name: str, number: int) -> str:
        if name == "postgresql":
            return str(request.getfixturevalue("postgres_url"))
        return f"sqlite:///{tmp_path}/{number}.sqlite3"

    names = request.param.split(" and ") if " and " in request.param else ["sqlite", "sqlite"]
    with closing(Setup(*(url(name, number) for number, name in enumerate(names)))) as setup:
        yield setup


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_over_before", [True, False])
def test_result_is_waited_for_in_its_own_backend(setup: Setup, way: str, is_over_before: bool) -> None:
    results = setup.pair()
    if is_over_before:
        done(results)
        assert sorted(WAYS[way](results)) == [0, 1]
        return
    waiting = Background(lambda: WAYS[way](results))
    wait_until(lambda: any(one.waiter.watcher().awaited_ids() for one in setup.backends), "a waiting client")
    done(results)
    assert sorted(waiting.result(PATIENCE)) == [0, 1]


@pytest.mark.parametrize("way", ["iter_native", "as_completed"])
@pytest.mark.parametrize("late", [0, 1])
def test_two_backends_are_waited_for_at_once(setup: Setup, way: str, late: int) -> None:
    results = setup.pair()
    early = results[1 - late]
    early.backend.store_result(early.id, "early", "SUCCESS")
    coming = (
        result_set(results).iter_native(timeout=PATIENCE)
        if way == "iter_native"
        else iter(rootcellar.as_completed(results, PATIENCE))
    )
    assert next(coming)[0] == early.id
    results[late].backend.store_result(results[late].id, "late", "SUCCESS")
    assert [task_id for task_id, _ in coming] == [results[late].id]


def test_failure_in_one_backend_ends_the_wait_for_another(setup: Setup) -> None:
    results = setup.pair()
    setup.second.mark_as_failure(results[1].id, ValueError("second"))
    with pytest.raises(ValueError, match="second"):
        result_set(results).get(timeout=PATIENCE)


@pytest.mark.parametrize("timeout", [0, 0.5])
def test_one_timeout_holds_for_all_backends(setup: Setup, timeout: float) -> None:
    results = setup.pair()
    begun = time.monotonic()
    with pytest.raises(celery.exceptions.TimeoutError):
        result_set(results).get(timeout=timeout)
    # the rest is for a busy machine
    assert timeout <= time.monotonic() - begun < timeout + PATIENCE
    done(results)
    assert result_set(results).get(timeout=timeout + PATIENCE if timeout else 0) == [0, 1]


def test_one_id_in_two_backends_is_two_results(setup: Setup) -> None:
    results = [AsyncResult("the same", backend=one, app=setup.app) for one in setup.backends]
    setup.first.store_result("the same", "one", "SUCCESS")
    coming = result_set(results).iter_native(timeout=PATIENCE)
    assert next(coming)[1]["result"] == "one"
    setup.second.store_result("the same", "two", "SUCCESS")
    assert next(coming)[1]["result"] == "two"
    assert [result.result for result in results] == ["one", "two"]


def test_nested_set_of_two_backends_is_joined(setup: Setup) -> None:
    results = setup.pair()
    outer = ResultSet([setup.app.GroupResult("inner", results), *setup.pair()], app=setup.app)
    done(results)
    done(outer.results[1:])
    assert outer.get(timeout=PATIENCE) == [[0, 1], 0, 1]
    assert asyncio.run(rootcellar.result(outer, PATIENCE)) == [[0, 1], 0, 1]


def test_result_of_a_stock_backend_is_waited_for(tmp_path: Path) -> None:
    with closing(Setup(f"sqlite:///{tmp_path}/1.sqlite3", f"sqlite:///{tmp_path}/2.sqlite3")) as setup:
        kind, url = by_url(f"db+sqlite:///{tmp_path}/stock.sqlite3", setup.app.loader)
        stock = kind(app=setup.app, url=url)
        results = [*setup.pair(), AsyncResult("stock", backend=stock, app=setup.app)]
        done(results)
        assert result_set(results).get(timeout=PATIENCE) == [0, 1, 2]
        assert not isinstance(stock, (ResultBackend, CacheBackend))
        late = AsyncResult("never", backend=stock, app=setup.app)
        with pytest.raises(celery.exceptions.TimeoutError):
            result_set([*setup.pair(), late]).get(timeout=0.3)


def test_eager_result_in_a_set_has_ended(setup: Setup) -> None:
    results = setup.pair()
    done(results)
    eager = EagerResult("eager", "value", "SUCCESS")
    assert result_set([*results, eager]).get(timeout=PATIENCE) == [0, 1, "value"]


def test_group_of_tasks_with_own_backends_is_joined(tmp_path: Path) -> None:
    app = make_conformance_app("memory://own-backends", f"rootcellar+sqlite:///{tmp_path}/1.sqlite3")
    app.conf.broker_transport_options = {"polling_interval": 0.1}
    second = ResultBackend(app, url=f"sqlite:///{tmp_path}/2.sqlite3")

    @app.task(backend=second, name="own.backend")
    def own(number: int) -> int:
        return number

    app.set_current()
    with worker_in_thread(app, 2):
        result = group(app.tasks["conformance.add"].s(1, 1), own.s(3))()
        assert result.get(timeout=PATIENCE) == [2, 3]
        assert [one.backend.store.where for one in result] == [app.backend.store.where, second.store.where]
    second.store.close()
    app.backend.store.close()
