"""A wait for an id that no server can store times out, and affects no other wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from celery import Celery
from celery.exceptions import TimeoutError
from celery.result import GroupResult

import rootcellar
from rootcellar.stores.redis.servers import Servers
from rootcellar.testing.background import Background
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import STORES
from tests.helpers import wait_until
from tests.waiting.helpers import make_app, no_safety_net, record

#: ids from a JSON body or a URL, and one that is too long for an index, even compressed
ODD = ["a lone \ud800 surrogate", "a \x00 NUL", "".join(random.Random(7).choices("0123456789abcdef", k=20_000))]
#: the timeout of a wait for one of them, in seconds
TIMEOUT = 0.1


@pytest.fixture(params=STORES, ids=lambda store: store.name)
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An app on each store; if the store notifies, only a notification wakes a waiter."""
    no_safety_net(monkeypatch)
    monkeypatch.setattr(Servers, "safety_read_seconds", 3600.0)
    under_test: StoreUnderTest = request.param
    with under_test.new_place(request) as url:
        app = make_app(url)
        app.backend.store.check()
        yield app
        app.backend.process_cleanup()
        app.backend.store.close()


def gets(app: Celery, odd: str) -> object:
    return app.AsyncResult(odd).get(timeout=TIMEOUT)


def joins(app: Celery, odd: str) -> object:
    return GroupResult(results=[app.AsyncResult(odd), app.AsyncResult("there")], app=app).join(timeout=TIMEOUT)


def joins_natively(app: Celery, odd: str) -> object:
    return GroupResult(results=[app.AsyncResult(odd), app.AsyncResult("there")], app=app).join_native(timeout=TIMEOUT)


def takes_as_completed(app: Celery, odd: str) -> object:
    return list(rootcellar.as_completed([app.AsyncResult(odd), app.AsyncResult("there")], timeout=TIMEOUT))


def awaits(app: Celery, odd: str) -> object:
    return asyncio.run(rootcellar.result(app.AsyncResult(odd), timeout=TIMEOUT))


def watches(app: Celery, odd: str) -> object:
    async def watch() -> object:
        return [change async for change in rootcellar.watch(app.AsyncResult(odd), timeout=TIMEOUT)]

    return asyncio.run(watch())


def takes_as_completed_on_a_loop(app: Celery, odd: str) -> object:
    async def take() -> object:
        results = [app.AsyncResult(odd), app.AsyncResult("there")]
        return [pair async for pair in rootcellar.as_completed(results, timeout=TIMEOUT)]

    return asyncio.run(take())


WAITS: list[Callable[[Celery, str], object]] = [
    gets,
    joins,
    joins_natively,
    takes_as_completed,
    awaits,
    watches,
    takes_as_completed_on_a_loop,
]


def test_wait_for_an_impossible_id_times_out_alone(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    store, watcher = app.backend.store, app.backend.waiter.watcher()
    store.put(record("there"))
    innocent = [Background(lambda: app.AsyncResult("innocent").get(timeout=60))]
    innocent.append(Background(lambda: asyncio.run(rootcellar.result(app.AsyncResult("innocent"), timeout=60))))
    wait_until(lambda: len(watcher._subscriptions.get("innocent", ())) == 2, "two waiting clients")
    for odd in ODD:
        for wait in WAITS:
            with pytest.raises(TimeoutError) as caught:
                wait(app, odd)
            assert caught.value.__cause__ is None, f"{wait.__name__}: {caught.value}"
        assert app.AsyncResult(odd).ready() is False
    store.put(record("innocent"))
    assert [one.result(10) for one in innocent] == ["innocent"] * 2
    # the warning about a pooler in transaction mode has another reason
    assert [line for line in caplog.messages if "through the connection pooler" not in line] == []
