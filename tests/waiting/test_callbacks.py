"""Callbacks of ``then`` are called during a wait for another result, in the waiting thread."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery.result import GroupResult, ResultSet

import rootcellar
from rootcellar.records import Payload
from rootcellar.testing.background import Background
from rootcellar.waiting import callbacks
from tests.helpers import fork_in_c, wait_until
from tests.waiting.helpers import PATIENCE, make_app, no_safety_net, record


class Setup:
    def __init__(self, url: str) -> None:
        self.app = make_app(url)
        self.backend: Any = self.app.backend
        self.backend.store.check()
        self._made = 0

    def result(self) -> Any:
        self._made += 1
        return self.app.AsyncResult(f"task {self._made}")

    def store(self, task_id: str) -> None:
        self.backend.store.put(record(task_id))

    def close(self) -> None:
        self.backend.waiter.close()
        self.backend.store.close()


@pytest.fixture(params=["postgresql", "sqlite"])
def setup(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    if request.param == "postgresql":
        no_safety_net(monkeypatch)
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(Setup(url)) as setup:
        yield setup


@pytest.fixture(autouse=True)
def forget_callbacks() -> Iterator[None]:
    """Remove callbacks before the next test, which runs in the same thread."""
    yield
    callbacks._local.renew()


async def _watched(result: Any) -> None:
    async for _ in rootcellar.watch(result, PATIENCE):
        pass


async def _as_completed(result: Any) -> None:
    async for _ in rootcellar.as_completed([result], PATIENCE):
        pass


WAYS: dict[str, Callable[[Any], Any]] = {
    "get": lambda result: result.get(timeout=PATIENCE),
    "a set's get": lambda result: ResultSet([result]).get(timeout=PATIENCE),
    "wait_for": lambda result: result.backend.wait_for(result.id, timeout=PATIENCE),
    "get_many": lambda result: list(result.backend.get_many([result.id], timeout=PATIENCE)),
    "as_completed": lambda result: list(rootcellar.as_completed([result], PATIENCE)),
    "await": lambda result: asyncio.run(rootcellar.result(result, PATIENCE)),
    "as_completed on asyncio": lambda result: asyncio.run(_as_completed(result)),
    "watch": lambda result: asyncio.run(_watched(result)),
}


def wait_until_waited_for(setup: Setup, task_id: str) -> None:
    """Wait until a client wait_until_waited_for for a task."""
    wait_until(lambda: task_id in setup.backend.waiter.watcher().awaited_ids(), "a waiting client")


@pytest.mark.parametrize("way", WAYS)
def test_callback_is_called_during_another_wait(setup: Setup, way: str) -> None:
    one, other = setup.result(), setup.result()
    called: list[Any] = []
    is_called = threading.Event()

    def note(result: Any) -> None:
        called.append((result.id, result.result, threading.current_thread()))
        is_called.set()

    def wait() -> None:
        one.then(note)
        WAYS[way](other)

    waiting = Background(wait)
    wait_until_waited_for(setup, other.id)
    setup.store(one.id)
    assert is_called.wait(PATIENCE), "during the wait for the other result"
    assert waiting.is_alive()
    setup.store(other.id)
    waiting.result(PATIENCE)
    assert called == [(one.id, one.id, waiting)], "once, in the waiting thread"


@pytest.mark.parametrize("is_nested", [False, True])
def test_callback_of_a_group_is_called_during_another_wait(setup: Setup, is_nested: bool) -> None:
    members, other = [setup.result(), setup.result()], setup.result()
    called: list[Any] = []
    is_called = threading.Event()

    def note(group: Any) -> None:
        called.append([one.result for one in members])
        is_called.set()

    def wait() -> None:
        group: Any = GroupResult("the group", members, app=setup.app)
        if is_nested:
            group = ResultSet([group], app=setup.app)
        group.then(note)
        other.get(timeout=PATIENCE)

    waiting = Background(wait)
    wait_until_waited_for(setup, other.id)
    for member in members:
        setup.store(member.id)
    assert is_called.wait(PATIENCE)
    setup.store(other.id)
    waiting.result(PATIENCE)
    assert called == [[one.id for one in members]]


def test_callback_is_called_for_a_result_without_references(setup: Setup) -> None:
    called: list[Any] = []
    kept = setup.result()
    task_id = setup.app.AsyncResult("unkept").then(lambda result: called.append(result.id)) and "unkept"
    setup.result().then(called.append)
    gc.collect()
    setup.store(task_id)
    setup.store(kept.id)
    assert kept.get(timeout=PATIENCE) == kept.id
    assert called == [task_id], "the task had ended before the wait"


def test_callback_is_not_called_in_another_thread(setup: Setup) -> None:
    one, other = setup.result(), setup.result()
    called: list[Any] = []
    one.then(lambda result: called.append(threading.current_thread()))
    setup.store(one.id)
    setup.store(other.id)
    Background(lambda: other.get(timeout=PATIENCE)).result(PATIENCE)
    assert called == []
    assert one.get(timeout=PATIENCE) == one.id
    assert called == [threading.current_thread()]


def test_group_without_callbacks_is_not_read(setup: Setup) -> None:
    groups = [GroupResult(f"group {n}", [setup.result() for _ in range(50)], app=setup.app) for n in range(20)]
    assert callbacks.waiting() == {}
    groups[3].then(lambda _: None)
    assert {len(by_id) for by_id in callbacks.waiting().values()} == {50}
    del groups
    gc.collect()
    assert callbacks.waiting() == {}


def test_callback_that_waits_is_called_once(setup: Setup) -> None:
    one, two, three = setup.result(), setup.result(), setup.result()
    called: list[Any] = []

    def wait_on(result: Any) -> None:
        called.append(result.id)
        called.append(two.get(timeout=PATIENCE))

    one.then(wait_on)
    for result in (one, two, three):
        setup.store(result.id)
    assert three.get(timeout=PATIENCE) == three.id
    assert called == [one.id, two.id]


def test_unreadable_record_does_not_end_other_waits(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    one, other = setup.result(), setup.result()
    one.then(lambda _: None)
    setup.backend.store.put(replace(record(one.id), result=Payload(b"\x00", "application/x-unknown", "binary")))
    setup.store(other.id)
    assert other.get(timeout=PATIENCE) == other.id
    assert f"The callbacks of task {one.id} are not called" in caplog.text
    assert callbacks.waiting() == {}


@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["in Python", "in C"])
def test_forked_child_has_no_callbacks_of_its_parent(setup: Setup, fork: Callable[[], int]) -> None:
    result = setup.result()
    result.then(lambda _: None)
    assert list(callbacks.waiting()[setup.backend]) == [result.id]
    child = fork()
    if not child:
        os._exit(len(callbacks.waiting()))
    assert os.waitpid(child, 0)[1] == 0
    assert list(callbacks.waiting()[setup.backend]) == [result.id]
