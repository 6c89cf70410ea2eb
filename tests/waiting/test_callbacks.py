"""Callbacks that ``then`` was given: called while another result is waited for, in the thread that waits."""

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


class Bench:
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
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if request.param == "postgresql":
        no_safety_net(monkeypatch)
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(Bench(url)) as bench:
        yield bench


@pytest.fixture(autouse=True)
def nothing_noted() -> Iterator[None]:
    """Leave no callback to the next test, which is in the same thread."""
    yield
    callbacks._thread_results.clear()


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


def waits(bench: Bench, task_id: str) -> None:
    """Wait until somebody waits for a task."""
    wait_until(lambda: task_id in bench.backend.waiter.watcher()._awaited_ids(), "somebody who waits")


@pytest.mark.parametrize("way", WAYS)
def test_a_callback_is_called_while_another_result_is_waited_for(bench: Bench, way: str) -> None:
    one, other = bench.result(), bench.result()
    called: list[Any] = []
    is_called = threading.Event()

    def note(result: Any) -> None:
        called.append((result.id, result.result, threading.current_thread()))
        is_called.set()

    def wait() -> None:
        one.then(note)
        WAYS[way](other)

    waiting = Background(wait)
    waits(bench, other.id)
    bench.store(one.id)
    assert is_called.wait(PATIENCE), "while the other one is still waited for"
    assert waiting.is_alive()
    bench.store(other.id)
    waiting.result(PATIENCE)
    assert called == [(one.id, one.id, waiting)], "once, in the thread that waits"


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_group_s_callback_is_called_while_another_result_is_waited_for(bench: Bench, is_nested: bool) -> None:
    members, other = [bench.result(), bench.result()], bench.result()
    called: list[Any] = []
    is_called = threading.Event()

    def note(group: Any) -> None:
        called.append([one.result for one in members])
        is_called.set()

    def wait() -> None:
        group: Any = GroupResult("the group", members, app=bench.app)
        if is_nested:
            group = ResultSet([group], app=bench.app)
        group.then(note)
        other.get(timeout=PATIENCE)

    waiting = Background(wait)
    waits(bench, other.id)
    for member in members:
        bench.store(member.id)
    assert is_called.wait(PATIENCE)
    bench.store(other.id)
    waiting.result(PATIENCE)
    assert called == [[one.id for one in members]]


def test_a_callback_is_called_for_a_result_that_nobody_keeps(bench: Bench) -> None:
    called: list[Any] = []
    kept = bench.result()
    task_id = bench.app.AsyncResult("nobody's").then(lambda result: called.append(result.id)) and "nobody's"
    bench.result().then(called.append)
    gc.collect()
    bench.store(task_id)
    bench.store(kept.id)
    assert kept.get(timeout=PATIENCE) == kept.id
    assert called == [task_id], "it was over when somebody began to wait"


def test_a_callback_is_not_called_in_another_thread(bench: Bench) -> None:
    one, other = bench.result(), bench.result()
    called: list[Any] = []
    one.then(lambda result: called.append(threading.current_thread()))
    bench.store(one.id)
    bench.store(other.id)
    Background(lambda: other.get(timeout=PATIENCE)).result(PATIENCE)
    assert called == []
    assert one.get(timeout=PATIENCE) == one.id
    assert called == [threading.current_thread()]


def test_groups_without_callbacks_cost_the_store_nothing(bench: Bench) -> None:
    groups = [GroupResult(f"group {n}", [bench.result() for _ in range(50)], app=bench.app) for n in range(20)]
    assert callbacks.waiting() == {}
    groups[3].then(lambda _: None)
    assert {len(by_id) for by_id in callbacks.waiting().values()} == {50}
    del groups
    gc.collect()
    assert callbacks.waiting() == {}


def test_a_callback_that_waits_itself_is_called_once(bench: Bench) -> None:
    one, two, three = bench.result(), bench.result(), bench.result()
    called: list[Any] = []

    def wait_on(result: Any) -> None:
        called.append(result.id)
        called.append(two.get(timeout=PATIENCE))

    one.then(wait_on)
    for result in (one, two, three):
        bench.store(result.id)
    assert three.get(timeout=PATIENCE) == three.id
    assert called == [one.id, two.id]


def test_a_record_that_cannot_be_read_does_not_end_the_wait_of_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = bench.result(), bench.result()
    one.then(lambda _: None)
    bench.backend.store.put(replace(record(one.id), result=Payload(b"\x00", "application/x-unknown", "binary")))
    bench.store(other.id)
    assert other.get(timeout=PATIENCE) == other.id
    assert f"The callbacks of task {one.id} are not called" in caplog.text
    assert callbacks.waiting() == {}


@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["in Python", "in C"])
def test_child_of_a_fork_calls_no_callbacks_of_its_parent(bench: Bench, fork: Callable[[], int]) -> None:
    result = bench.result()
    result.then(lambda _: None)
    assert list(callbacks.waiting()[bench.backend]) == [result.id]
    child = fork()
    if not child:
        os._exit(len(callbacks.waiting()))
    assert os.waitpid(child, 0)[1] == 0
    assert list(callbacks.waiting()[bench.backend]) == [result.id]
