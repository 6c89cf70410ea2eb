"""The backend conformance suite: all of Celery's result API, over a store, with real workers and brokers.

See :mod:`tests.conformance` for how to run a store of your own through it. A test gets ``bench``, a running worker and
a client's app that the tests of a module share; or it starts one with settings of its own by ``start_bench(...)``.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import chain, chord, group
from celery.canvas import StampingVisitor
from celery.exceptions import (
    ChordError,
    ImproperlyConfigured,
    IncompleteStream,
    Reject,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,
)
from celery.result import AsyncResult, EagerResult, GroupResult, ResultSet, result_from_tuple

import rootcellar
from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.payloads import NotEncodable, make_key
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store
from tests.apps.conformance import JSON_VALUES, Attributes, Outer, Own, OwnBase, Picky, Rewriting, large
from tests.background import Background
from tests.celery_versions import (
    CELERY,
    ERRBACKS_WITHOUT_AN_ID,
    FAILURE_OF_A_GROUP_AS_A_BODY,
    REVOKED_INSTEAD,
    REVOKES_AT_ONCE,
    SHORT_TIMEOUTS,
    exists,
    needs_chords_applied_twice,
    needs_groups_at_the_end_of_chains,
    needs_order_of_replacements,
    needs_revoke_at_once,
    or_revoked,
)
from tests.conformance.benches import Bench, open_bench
from tests.conformance.crew import Crew
from tests.conformance.gate import Gate
from tests.conformance.stores import crew, eventually, in_threads  # noqa: F401  crew is a fixture
from tests.conformance.under_test import Combination, StoreUnderTest
from tests.servers import RedisServer

#: seconds that a test waits for a result that should come at once
WAIT = 30.0


# -- fixtures ----------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test over the combinations that the test module names ``COMBINATIONS``."""
    combinations: list[Combination] = metafunc.module.COMBINATIONS
    if "combination" in metafunc.fixturenames:
        whole = [one for one in combinations if metafunc.cls is TestEssentials or not one.essentials_only]
        metafunc.parametrize("combination", whole, ids=str, scope="module")
    if "simple" in metafunc.fixturenames:
        stores = dict.fromkeys(one.store for one in combinations)
        simple = [
            Combination(store, *(("solo", "redis") if store.shared else ("inside", "memory"))) for store in stores
        ]
        metafunc.parametrize("simple", simple, ids=lambda one: str(one.store), scope="module")


@pytest.fixture(scope="module")
def benches(request: pytest.FixtureRequest) -> Iterator[Callable[[Combination], Bench]]:
    """Start a bench for a combination when it is first asked for; all end with the module."""
    started: dict[Combination, Bench] = {}
    with ExitStack() as stack:

        def bench_of(combination: Combination) -> Bench:
            if combination not in started:
                conf = {"task_default_queue": f"queue-{uuid.uuid4().hex[:8]}"}
                started[combination] = stack.enter_context(open_bench(request, combination, **conf))
            return started[combination]

        yield bench_of


@pytest.fixture
def bench(combination: Combination, benches: Callable[[Combination], Bench]) -> Bench:
    """A running worker, with default settings, and a client for it."""
    return benches(combination).activate()


@pytest.fixture
def start_bench(simple: Combination, request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Start a small worker and a client with the settings given: ``start_bench(result_extended=True)``."""
    with ExitStack() as stack:

        def start(**conf: Any) -> Bench:
            conf = {"task_default_queue": f"queue-{uuid.uuid4().hex[:8]}", **conf}
            return stack.enter_context(open_bench(request, simple, **conf))

        yield start


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as opened:
        yield opened


# -- helpers -----------------------------------------------------------------------------------------------------------


def new_id() -> str:
    return str(uuid.uuid4())


def stored(bench: Bench, task_id: str) -> TaskRecord | None:
    """Look into the store itself."""
    store: Store = bench.backend.store
    return store.get(task_id)


def alone(bench: Bench, result: AsyncResult) -> AsyncResult:
    """Return a result without its parents: getting it would raise their error, if that can be seen yet."""
    found: AsyncResult = bench.app.AsyncResult(result.id)
    return found


def until_idle(bench: Bench) -> None:
    """Wait until the worker has done with all that it was sent before: by keeping its whole pool busy for a moment."""
    with Gate() as gate:
        held = [bench.tasks.hold.delay(gate.port) for _ in range(bench.slots)]
        for _ in held:
            gate.await_arrival()
        gate.let_through()
        for result in held:
            result.get(timeout=WAIT)


def assert_same(found: Any, expected: Any) -> None:
    """Compare JSON values, in type, in the order of keys, and also where a value does not equal itself."""
    assert json.dumps(found) == json.dumps(expected)


class Timer:
    """Measures a ``with`` block, in seconds."""

    def __enter__(self) -> Timer:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start


# -- essentials, which run over every pool -----------------------------------------------------------------------------


class TestEssentials:
    def test_a_value(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT) == 5
        again = bench.app.AsyncResult(result.id)
        for one in (result, again):
            assert (one.state, one.status, one.result, one.info) == ("SUCCESS", "SUCCESS", 5, 5)
            assert (one.ready(), one.successful(), one.failed()) == (True, True, False)
            assert (one.traceback, one.children, one.name) == (None, [], "conformance.add")
            assert (one.retries, one.queue) == (0, bench.app.conf.task_default_queue)
            assert one.worker
            assert exists(one)
            assert abs(one.date_done - datetime.now(timezone.utc)) < timedelta(minutes=1)

    def test_a_failure(self, bench: Bench) -> None:
        result = bench.tasks.raise_.delay("own")
        with pytest.raises(Own) as caught:
            result.get(timeout=WAIT)
        assert caught.value.args == ("text", 2, {"key": [None, 1.5]})
        assert (result.state, result.failed(), result.ready(), result.successful()) == ("FAILURE", True, True, False)
        assert result.traceback.startswith("Traceback (most recent call last)")
        assert "in raise_" in result.traceback
        for found in (result.get(propagate=False), result.result, result.info):
            assert type(found) is Own
            assert found.args == caught.value.args
        with pytest.raises(Own):
            bench.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_a_task_that_is_not_known(self, bench: Bench) -> None:
        result = bench.app.AsyncResult(new_id())
        assert (result.state, result.result, result.ready(), exists(result)) == ("PENDING", None, False, False)
        assert (result.date_done, result.name, result.traceback) == (None, None, None)

    def test_timeouts(self, bench: Bench) -> None:
        result = bench.app.AsyncResult(new_id())
        for timeout in (0, 0.3):
            with Timer() as timer, pytest.raises(TimeoutError):
                result.get(timeout=timeout)
            assert timeout <= timer.seconds < timeout + 2

    def test_states_as_they_come(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.progress.delay(gate.port, 3)
        seen: list[tuple[str, Any]] = []
        news = threading.Semaphore(0)

        def note(meta: dict[str, Any]) -> None:
            seen.append((meta["status"], meta["result"]))
            news.release()

        def let_through_when_seen() -> None:
            for _ in range(3):
                gate.await_arrival()
                assert news.acquire(timeout=WAIT)
                gate.let_through()

        lets = threading.Thread(target=let_through_when_seen)
        lets.start()
        assert result.get(timeout=WAIT, on_message=note) == "done"
        lets.join(WAIT)
        assert seen == [*(("PROGRESS", {"done": n, "of": 3}) for n in range(3)), ("SUCCESS", "done")]

    def test_retries(self, bench: Bench) -> None:
        result = bench.tasks.retry_until.delay(3)
        assert result.get(timeout=WAIT) == 3
        assert result.retries == 3

    @pytest.mark.parametrize("task", ["retry_until", "retry_by_itself"])
    def test_a_retried_task_is_neither_its_own_child_nor_its_own_parent(self, bench: Bench, task: str) -> None:
        result = getattr(bench.tasks, task).delay(*((2,) if task == "retry_until" else ()))
        assert result.get(timeout=WAIT) == 2
        found = bench.app.AsyncResult(result.id)
        assert found.children == []
        assert [(node.id, value) for node, value in found.collect(timeout=WAIT)] == [(result.id, 2)]
        assert found.get_leaf() == 2
        record = stored(bench, result.id)
        assert record is not None
        assert (record.parent_id, record.root_id) == (None, result.id)

    def test_children(self, bench: Bench) -> None:
        result = bench.tasks.parent.delay(1)
        result.get(timeout=WAIT)
        assert [child.get(timeout=WAIT) for child in result.children] == ["leaf", "leaf"]

    def test_group(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(20))()
        assert result.get(timeout=WAIT) == [2 * n for n in range(20)]
        assert result.successful()
        assert result.completed_count() == 20

    def test_chain(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), bench.tasks.add.s(10), bench.tasks.add.s(100))()
        assert result.get(timeout=WAIT) == 112
        assert (result.parent.get(timeout=WAIT), result.parent.parent.get(timeout=WAIT)) == (12, 2)

    def test_chord(self, bench: Bench) -> None:
        result = chord((bench.tasks.add.s(n, n) for n in range(20)), bench.tasks.total.s())()
        assert result.get(timeout=WAIT) == sum(2 * n for n in range(20))

    def test_chord_ends_however_a_member_ends(self, bench: Bench) -> None:
        tasks = bench.tasks
        values = {
            "its result is ignored": (tasks.ignored.s(), "for nobody"),
            "it has stored a result and raises Ignore": (tasks.ignore.s("SUCCESS"), {"left": "alone"}),
            "it is replaced": (tasks.replace_by_task.s(1), 11),
            "it is replaced by a chord": (tasks.replace_by_chord.s(1), 6),
            "it is retried": (tasks.retry_until.s(1), 1),
            "it has stored SUCCESS and is retried": (tasks.report_and_retry.s("SUCCESS"), "returned"),
            "it has stored FAILURE and is retried": (tasks.report_and_retry.s("FAILURE"), "returned"),
        }
        errors = {
            "it fails": (tasks.fail.s(), "oops"),
            "it fails and its result is ignored": (tasks.fail.s().set(ignore_result=True), "oops"),
            "it raises Ignore": (tasks.ignore.s(), "Ignore"),
            "it has stored FAILURE and raises Ignore": (tasks.ignore.s("FAILURE"), "Dependency"),
            "it has stored REVOKED and raises Ignore": (tasks.ignore.s("REVOKED"), "Dependency"),
            "it has stored PROGRESS and raises Ignore": (tasks.ignore.s("PROGRESS"), "Ignore"),
            "it raises Ignore in a chain": (chain(tasks.ignore.s(), tasks.add.s(1), tasks.add.s(1)), "Ignore"),
            "it raises Ignore at the end of a chain": (chain(tasks.add.s(1, 1), tasks.ignore.si()), "Ignore"),
            "it is rejected": (tasks.reject.s(), "not for me"),
            "its task is not known to the worker": (bench.app.signature("conformance.unknown"), "never registered"),
            "its task is not known, in a chain": (
                chain(bench.app.signature("conformance.unknown"), tasks.add.s(1)),
                "never registered",
            ),
        }
        sent = {
            way: chord([member, tasks.add.s(1, 1)], tasks.echo.s())()
            for way, (member, _) in {**values, **errors}.items()
        }
        for way, (_, value) in values.items():
            assert alone(bench, sent[way]).get(timeout=WAIT) == [value, 2], way
        for way, (_, why) in errors.items():
            with pytest.raises(ChordError, match=why):
                alone(bench, sent[way]).get(timeout=WAIT)

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
    def test_member_is_counted_when_it_has_returned(self, bench: Bench, gate: Gate, state: str) -> None:
        result = chord([bench.tasks.add.s(1, 1), bench.tasks.report.s(gate.port, state)], bench.tasks.echo.s())()
        first, member = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        assert bench.app.AsyncResult(member.id).state == state
        assert member.id not in {part.task_id for part in bench.backend.store.chord_parts(result.parent.id)}
        gate.let_through()
        assert alone(bench, result).get(timeout=WAIT) == [2, "returned"]

    def test_member_stores_the_state_of_another_task(self, bench: Bench, gate: Gate) -> None:
        other = new_id()
        header = [bench.tasks.add.s(1, 1), bench.tasks.report.s(gate.port, "SUCCESS", other)]
        result = chord(header, bench.tasks.echo.s())()
        gate.await_arrival()
        first, _ = result.parent.results
        assert first.get(timeout=WAIT) == 2
        parts = bench.backend.store.chord_parts(result.parent.id)
        assert {part.task_id for part in parts} <= {first.id}, "neither the reporter nor the other task has ended"
        found = stored(bench, other)
        assert found is not None
        given = {name: value for name, value in asdict(found).items() if value not in (None, ())}
        assert given.keys() <= {"task_id", "state", "result", "done_at", "expires_at"}, "nothing of the reporter"
        gate.let_through()
        assert result.get(timeout=WAIT) == [2, "returned"]
        assert bench.app.AsyncResult(other).get(timeout=WAIT) == {"by": "hand"}

    def test_chord_needs_no_record_of_its_members(self, bench: Bench, gate: Gate) -> None:
        header = [bench.tasks.add.s(1, 1), bench.tasks.hold.s(gate.port, "last")]
        result = chord(header, bench.tasks.echo.s())()
        first, _ = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        first.forget()
        bench.backend.cleanup()
        assert stored(bench, first.id) is None
        gate.let_through()
        assert alone(bench, result).get(timeout=WAIT) == [2, "last"]

    def test_chord_of_chords(self, bench: Bench) -> None:
        inner = [chord([bench.tasks.add.s(n, m) for m in range(3)], bench.tasks.total.s()) for n in range(3)]
        assert chord(inner, bench.tasks.total.s())().get(timeout=WAIT) == sum(n + m for n in range(3) for m in range(3))

    def test_what_the_header_of_a_chord_raised_is_raised(self, bench: Bench) -> None:
        result = chord([bench.tasks.fail.s(message="header"), bench.tasks.add.s(1, 1)], bench.tasks.total.s())()
        with pytest.raises(ValueError, match="header"):
            result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "kind", "args"),
        [
            ("cancelled", asyncio.CancelledError, ("why",)),
            ("interrupted", KeyboardInterrupt, ("why",)),
            ("own base", OwnBase, ("why", 2)),
        ],
    )
    def test_an_end_in_what_is_no_exception(
        self, bench: Bench, name: str, kind: type[BaseException], args: tuple[Any, ...]
    ) -> None:
        if bench.combination.pool == "solo":
            pytest.skip("a worker of the pool solo ends with its task, by Celery's own error")
        result = bench.tasks.raise_.delay(name)
        with pytest.raises(kind) as caught:
            result.get(timeout=WAIT)
        assert type(caught.value) is kind
        assert caught.value.args == args
        assert (result.state, result.name) == ("FAILURE", "conformance.raise_")
        assert bench.tasks.add.delay(1, 1).get(timeout=WAIT) == 2, "the worker goes on"

    def test_a_chord_whose_header_ends_in_what_is_no_exception(self, bench: Bench) -> None:
        if bench.combination.pool == "solo":
            pytest.skip("a worker of the pool solo ends with its task, by Celery's own error")
        header = [bench.tasks.add.s(1, 1), bench.tasks.raise_.s("own base")]
        result = chord(header, bench.tasks.total.s().on_error(bench.tasks.errback.s()))()
        with pytest.raises(ChordError, match="OwnBase"):
            result.get(timeout=WAIT, follow_parents=False)
        with pytest.raises(OwnBase):
            result.get(timeout=WAIT)

    def test_chord_with_a_failing_header(self, bench: Bench) -> None:
        header = [bench.tasks.add.s(1, 1), bench.tasks.raise_.s("own"), bench.tasks.add.s(2, 2)]
        result = chord(header, bench.tasks.total.s())()
        with pytest.raises(ChordError, match=r"raised Own\('text', 2"):
            alone(bench, result).get(timeout=WAIT)

    @needs_order_of_replacements
    def test_replace_in_a_chord(self, bench: Bench) -> None:
        header = [bench.tasks.replace_by_group.s(10), bench.tasks.add.s(1, 1), bench.tasks.replace_by_chain.s(20)]
        assert chord(header, bench.tasks.echo.s())().get(timeout=WAIT) == [[10, 11, 12], 2, 23]

    def test_forget(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, 3)
        result.get(timeout=WAIT)
        result.forget()
        assert (result.state, exists(result)) == ("PENDING", False)

    def test_ignored(self, bench: Bench) -> None:
        result = bench.tasks.ignored.delay()
        assert result.get(timeout=WAIT) is None
        until_idle(bench)
        assert stored(bench, result.id) is None

    def test_two_hundred(self, bench: Bench) -> None:
        results = [bench.tasks.add.delay(n, 0) for n in range(200)]
        assert ResultSet(results).get(timeout=WAIT) == list(range(200))

    def test_a_large_value(self, bench: Bench) -> None:
        assert bench.tasks.large_text.delay(5).get(timeout=WAIT) == large(5)

    def test_sixteen_threads_wait_as_in_a_web_process(self, bench: Bench) -> None:
        def request(number: int) -> Any:
            return [bench.tasks.add.delay(number, turn).get(timeout=WAIT) - number for turn in range(5)]

        assert in_threads(16, request) == [[0, 1, 2, 3, 4]] * 16

    def test_sixteen_threads_wait_for_the_same(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.hold.delay(gate.port, "same")
        gate.await_arrival()
        waiting = threading.Semaphore(0)

        def wait(number: int) -> Any:
            waiting.release()
            return bench.app.AsyncResult(result.id).get(timeout=WAIT)

        def open_gate() -> None:
            for _ in range(16):
                assert waiting.acquire(timeout=WAIT)
            gate.let_through()

        opener = threading.Thread(target=open_gate)
        opener.start()
        assert in_threads(16, wait) == ["same"] * 16
        opener.join(WAIT)


def failing_chords(tasks: Any) -> dict[str, Callable[[], Any]]:
    """Return, by a name, what sends a chord whose header raises ``ValueError("header")``."""
    fail, ok, echo, body = tasks.fail.s(message="header"), tasks.add.s(1, 1), tasks.echo.s(), tasks.total.s()
    return {
        "two tasks": lambda: chord((fail, ok), body)(),
        "the last of two": lambda: chord((ok, fail), body)(),
        "one task": lambda: chord((fail,), body)(),
        "a chain in the header": lambda: chord((chain(ok, fail), ok), body)(),
        "a group in the header": lambda: chord((group(fail, ok), ok), body)(),
        "a group and a task": lambda: (group(fail, ok) | body)(),
        "a chord as the body": lambda: chord((fail, ok), chord((echo, echo), body))(),
        "a chain as the body": lambda: chord((fail, ok), chain(echo, echo))(),
        "an errback": lambda: chord((fail, ok), body.on_error(tasks.errback.s()))(),
        "behind a task": lambda: chain(ok, chord((tasks.fail.s(message="header"), echo), body))(),
        "before a task": lambda: chain(chord((fail, ok), body), echo)(),
    }


CHORDS = (
    *("two tasks", "the last of two", "one task", "a chain in the header", "a group in the header"),
    *("a group and a task", "a chord as the body", "a chain as the body", "an errback", "behind a task"),
    "before a task",
)


# -- the whole suite ---------------------------------------------------------------------------------------------------


class TestResults:
    def test_as_tuple_and_back(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), bench.tasks.add.s(10))()
        assert result.get(timeout=WAIT) == 12
        told = json.loads(json.dumps(result.as_tuple()))
        back = result_from_tuple(told, app=bench.app)
        assert (back.get(timeout=WAIT), back.parent.get(timeout=WAIT)) == (12, 2)
        assert result.as_list() == [result.id, result.parent.id]

    def test_the_tree_of_a_task(self, bench: Bench) -> None:
        result = bench.tasks.parent.delay(2)

        def leaves(node: AsyncResult) -> list[AsyncResult]:
            node.get(timeout=WAIT)
            return [leaf for child in node.children for leaf in leaves(child)] or [node]

        assert len(leaves(result)) == 4
        fresh = bench.app.AsyncResult(result.id)
        deps = list(fresh.iterdeps())
        assert len(deps) == 7
        assert [parent and parent.id for parent, _ in deps[:3]] == [None, result.id, result.id]
        assert [value for node, value in fresh.collect(timeout=WAIT) if not node.children] == ["leaf"] * 4
        assert fresh.get_leaf() == "leaf"
        graph = fresh.build_graph()
        assert sum(len(graph[node]) for node in graph) == 6
        assert {str(node) for node in graph} == {node.id for _, node in deps}

    def test_the_tree_of_a_task_that_runs(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.hold.delay(gate.port, 1)
        gate.await_arrival()
        with pytest.raises(IncompleteStream):
            list(result.iterdeps())
        assert [node.id for _, node in result.iterdeps(intermediate=True)] == [result.id]
        with pytest.raises(IncompleteStream):
            result.build_graph()
        gate.let_through()
        assert result.get(timeout=WAIT) == 1

    def test_a_group_among_the_children(self, bench: Bench) -> None:
        result = bench.tasks.parent_of_group.delay()
        result.get(timeout=WAIT)
        (child,) = bench.app.AsyncResult(result.id).children
        assert isinstance(child, GroupResult)
        assert child.get(timeout=WAIT) == [0, 2, 4]
        assert [value for _, value in result.collect()][1] == [0, 2, 4]

    def test_exists(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.hold_started.delay(gate.port)
        gate.await_arrival()
        assert exists(result)
        assert bench.backend.task_result_exists(result.id)
        assert not bench.backend.task_result_exists(new_id())
        gate.let_through()
        result.get(timeout=WAIT)
        assert exists(result)

    def test_forget_with_the_parents(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), bench.tasks.add.s(10))()
        assert result.get(timeout=WAIT) == 12
        parent = result.parent
        assert parent.get(timeout=WAIT) == 2  # which is stored only after the next task was sent
        result.forget()
        assert not exists(result)
        assert not exists(parent)
        with pytest.raises(TimeoutError):
            result.get(timeout=0)

    def test_a_forgotten_task_may_run_again(self, bench: Bench) -> None:
        task_id = new_id()
        assert bench.tasks.add.apply_async((1, 1), task_id=task_id).get(timeout=WAIT) == 2
        bench.app.AsyncResult(task_id).forget()
        assert bench.tasks.add.apply_async((2, 2), task_id=task_id).get(timeout=WAIT) == 4

    def test_a_success_is_not_overwritten(self, bench: Bench) -> None:
        task_id = new_id()
        assert bench.tasks.add.apply_async((1, 1), task_id=task_id).get(timeout=WAIT) == 2
        bench.tasks.add.apply_async((2, 2), task_id=task_id)
        bench.tasks.fail.apply_async(task_id=task_id)
        until_idle(bench)
        fresh = bench.client().app.AsyncResult(task_id)
        assert (fresh.state, fresh.get(timeout=WAIT)) == ("SUCCESS", 2)
        bench.backend.store_result(task_id, {}, "STARTED")
        bench.backend.mark_as_failure(task_id, ValueError("late"))
        bench.backend.mark_as_revoked(task_id)
        assert bench.client().app.AsyncResult(task_id).get(timeout=WAIT) == 2

    def test_then(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, 3)
        called: list[str] = []
        result.then(lambda ready: called.append(f"{ready.id} {ready.result}"))
        assert called == []
        result.get(timeout=WAIT)
        assert called == [f"{result.id} 5"]
        result.then(lambda ready: called.append("at once"))
        assert called[1:] == ["at once"]

    def test_then_of_a_failure(self, bench: Bench) -> None:
        result = bench.tasks.raise_.delay("own")
        called: list[str] = []
        result.then(lambda ready: called.append(ready.state))
        result.get(timeout=WAIT, propagate=False)
        assert called == ["FAILURE"]

    def test_then_of_a_group(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(3))()
        called: list[Any] = []
        result.then(lambda ready: called.append(ready.id))
        result.get(timeout=WAIT)
        assert called == [result.id]

    def test_callback(self, bench: Bench) -> None:
        called: list[Any] = []
        result = bench.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT, callback=lambda *told: called.append(told)) == 5
        assert called == [(result.id, 5)]

    def test_on_interval(self, bench: Bench, gate: Gate) -> None:
        held = bench.tasks.hold.delay(gate.port, 1)
        gate.await_arrival()
        calls: list[float] = []

        def look() -> None:
            calls.append(time.monotonic())
            if len(calls) == 3:
                gate.let_through()

        # of a set: Celery itself calls back only once for a single result
        assert ResultSet([held]).get(timeout=WAIT, interval=0.05, on_interval=look) == [1]
        assert len(calls) >= 3
        assert calls[2] - calls[0] < 5
        single = bench.tasks.hold.delay(gate.port, 2)
        gate.await_arrival()
        assert single.get(timeout=WAIT, interval=0.05, on_interval=gate.let_through) == 2

    def test_on_interval_may_raise(self, bench: Bench) -> None:
        def give_up() -> None:
            raise Own("enough")

        with pytest.raises(Own, match="enough"):
            bench.app.AsyncResult(new_id()).get(timeout=WAIT, interval=0.01, on_interval=give_up)

    def test_waiting_is_refused_in_a_task(self, bench: Bench) -> None:
        if bench.combination.pool == "inside":
            pytest.skip("the pool inside lets tasks wait: Celery keeps the refusal for the whole process")
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
            bench.tasks.blocks.delay().get(timeout=WAIT)

    def test_waiting_in_a_task_where_it_is_allowed(self, bench: Bench) -> None:
        assert bench.tasks.waits_for_child.delay(4).get(timeout=WAIT) == 5

    def test_a_result_that_is_known_is_not_read_again(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT) == 5
        bench.backend.store.delete([result.id])
        assert result.get(timeout=0) == 5
        assert (result.state, result.ready()) == ("SUCCESS", True)

    def test_cache_of_successes(self, bench: Bench) -> None:
        for size, is_kept in ((100, True), (1, False), (-1, False)):
            client = bench.client(result_cache_max=size)
            first, second = client.tasks.add.delay(1, 1), client.tasks.add.delay(2, 2)
            assert (first.get(timeout=WAIT), second.get(timeout=WAIT)) == (2, 4)
            for result in (first, second):
                assert client.app.AsyncResult(result.id).state == "SUCCESS"
            client.backend.store.delete([first.id, second.id])
            state = client.app.AsyncResult(first.id).state
            assert state == ("SUCCESS" if is_kept else "PENDING"), f"with result_cache_max {size}"
            client.backend.store.close()

    def test_the_cache_follows_what_this_process_stores_and_forgets(self, bench: Bench) -> None:
        task_id = new_id()
        bench.backend.store_result(task_id, 1, "SUCCESS")
        assert bench.backend.get_task_meta(task_id)["result"] == 1
        bench.backend.forget(task_id)
        bench.backend.store_result(task_id, 2, "SUCCESS")
        assert bench.backend.get_task_meta(task_id)["result"] == 2
        bench.backend.store.delete([task_id])
        bench.backend.reload_task_result(task_id)
        assert bench.backend.get_task_meta(task_id)["status"] == "PENDING"

    def test_backend_verbs(self, bench: Bench) -> None:
        result = bench.tasks.raise_.delay("builtin")
        result.get(timeout=WAIT, propagate=False)
        backend = bench.backend
        assert backend.get_state(result.id) == backend.get_status(result.id) == "FAILURE"
        assert isinstance(backend.get_result(result.id), ValueError)
        assert "ValueError" in backend.get_traceback(result.id)
        assert backend.get_children(result.id) == []
        assert backend.wait_for(result.id, timeout=WAIT)["status"] == "FAILURE"

    def test_times_and_relations(self, bench: Bench) -> None:
        before = datetime.now(timezone.utc)
        results = group(bench.tasks.add.s(n, n) for n in range(3))()
        results.get(timeout=WAIT)
        child = bench.tasks.parent.delay(1)
        child.get(timeout=WAIT)
        grandchild = child.children[0]
        grandchild.get(timeout=WAIT)
        after = datetime.now(timezone.utc)
        for index, result in enumerate(results):
            meta = bench.backend.get_task_meta(result.id)
            assert before <= meta["date_sent"] <= meta["date_started"] <= meta["date_done"] <= after
            assert (meta["group_id"], meta["root_id"], meta["parent_id"]) == (results.id, result.id, None)
            record = stored(bench, result.id)
            assert record is not None
            assert record.group_index == index
        meta = bench.backend.get_task_meta(grandchild.id)
        assert (meta["parent_id"], meta["root_id"]) == (child.id, child.id)

    def test_arguments_are_not_stored_unless_asked_for(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, y=3)
        assert result.get(timeout=WAIT) == 5
        assert (result.args, result.kwargs, result.name) == (None, None, "conformance.add")

    def test_sent_by_a_client_without_rootcellar(self, bench: Bench) -> None:
        if bench.combination.broker == "memory":
            pytest.skip("the broker is in this process, in which rootcellar is")
        program = (
            "import sys; from celery import Celery; app = Celery(broker=sys.argv[1]);"
            "print(app.send_task('conformance.add', (2, 3), queue=sys.argv[2]).id);"
            # kombu loads the entry point of the serializer wherever rootcellar is installed
            "assert {n for n in sys.modules if 'rootcellar' in n} <= {'rootcellar', 'rootcellar.serializer'}"
        )
        conf = bench.app.conf
        command = [sys.executable, "-c", program, conf.broker_url, conf.task_default_queue]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout.strip()
        result = bench.app.AsyncResult(sent)
        assert result.get(timeout=WAIT) == 5
        meta = bench.backend.get_task_meta(sent)
        assert meta["date_sent"] is None
        assert meta["date_started"] <= meta["date_done"]
        assert meta["name"] == "conformance.add"

    def test_eager_results(self, bench: Bench) -> None:
        result = bench.tasks.add.apply((2, 3))
        assert isinstance(result, EagerResult)
        assert (result.get(), result.state, result.ready(), result.successful()) == (5, "SUCCESS", True, True)
        assert stored(bench, result.id) is None
        failed = bench.tasks.raise_.apply(("own",))
        assert (failed.state, failed.failed()) == ("FAILURE", True)
        with pytest.raises(Own):
            failed.get()

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_eager_tasks(self, bench: Bench, is_kept: bool) -> None:
        eager = bench.client(task_always_eager=True, task_store_eager_result=is_kept)
        ok, failed = eager.tasks.add.delay(2, 3), eager.tasks.raise_.delay("own")
        assert (ok.get(), failed.state) == (5, "FAILURE")
        if not is_kept:
            assert (stored(bench, ok.id), stored(bench, failed.id)) == (None, None)
            with pytest.warns(RuntimeWarning, match="task_always_eager"):
                assert eager.app.backend.get_task_meta(ok.id)["status"] == "PENDING"
            return
        assert bench.app.AsyncResult(ok.id).get(timeout=0) == 5
        with pytest.raises(Own):
            bench.app.AsyncResult(failed.id).get(timeout=0)

    @needs_revoke_at_once
    def test_revoked_before_it_runs(self, bench: Bench) -> None:
        result = bench.tasks.add.apply_async((1, 1), countdown=86_400)
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT)
        assert (result.state, result.ready(), result.successful(), result.failed()) == ("REVOKED", True, False, False)

    @needs_revoke_at_once
    def test_a_revoked_group(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n).set(countdown=86_400) for n in range(3))()
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT)
        eventually(lambda: [one.state for one in result] == ["REVOKED"] * 3, "the state REVOKED of all")
        assert result.completed_count() == 0

    def test_terminated(self, bench: Bench, gate: Gate) -> None:
        if bench.combination.pool != "prefork":
            pytest.skip(f"the pool {bench.combination.pool} terminates no tasks")
        result = bench.tasks.hold.delay(gate.port)
        gate.await_arrival()
        result.revoke(terminate=True, signal="SIGKILL")
        with pytest.raises(TaskRevokedError, match=or_revoked("terminated")):
            result.get(timeout=WAIT)
        assert bench.tasks.add.delay(1, 1).get(timeout=WAIT) == 2

    def test_expired_before_it_runs(self, bench: Bench) -> None:
        result = bench.tasks.add.apply_async((1, 1), expires=-1)
        with pytest.raises(TaskRevokedError, match="expired"):
            result.get(timeout=WAIT)

    def test_beyond_its_time_limit(self, bench: Bench, gate: Gate) -> None:
        if bench.combination.pool != "prefork":
            pytest.skip(f"the pool {bench.combination.pool} has no time limits")
        result = bench.tasks.hold.apply_async((gate.port,), time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=WAIT)
        meta = bench.backend.get_task_meta(result.id)
        assert (meta["status"], meta["name"]) == ("FAILURE", "conformance.hold")


class TestStates:
    def test_started(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.hold_started.delay(gate.port, "over")
        gate.await_arrival()
        assert (result.state, result.ready(), result.date_done) == ("STARTED", False, None)
        info = result.info
        assert info["hostname"]
        if bench.worker is not None:
            assert info["pid"] in (bench.worker.pid, *bench.worker.children())
        meta = bench.backend.get_task_meta(result.id)
        assert meta["date_sent"] <= meta["date_started"] <= datetime.now(timezone.utc)
        gate.let_through()
        assert result.get(timeout=WAIT) == "over"
        assert bench.backend.get_task_meta(result.id)["date_started"] == meta["date_started"]

    def test_not_tracked(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.hold.delay(gate.port, "over")
        gate.await_arrival()
        assert result.state == "PENDING"
        gate.let_through()
        assert result.get(timeout=WAIT) == "over"

    def test_progress_is_there_to_be_looked_at(self, bench: Bench, gate: Gate) -> None:
        result = bench.tasks.progress.delay(gate.port, 2)
        for step in range(2):
            gate.await_arrival()
            assert (result.state, result.info) == ("PROGRESS", {"done": step, "of": 2})
            assert not result.ready()
            with pytest.raises(TimeoutError):
                result.get(timeout=0)
            gate.let_through()
        assert result.get(timeout=WAIT) == "done"

    def test_a_state_stored_from_outside(self, bench: Bench) -> None:
        task_id = new_id()
        bench.tasks.add.update_state(task_id=task_id, state="PAUSED", meta={"by": "hand", "n": 2**70})
        result = bench.app.AsyncResult(task_id)
        assert (result.state, result.info, result.ready()) == ("PAUSED", {"by": "hand", "n": 2**70}, False)

    def test_failure_stored_by_hand_is_not_the_end(self, bench: Bench) -> None:
        result = bench.tasks.settle.delay("FAILURE")
        until_idle(bench)
        assert bench.app.AsyncResult(result.id).get(timeout=WAIT) == "returned"

    def test_success_stored_by_hand_stays(self, bench: Bench) -> None:
        assert bench.tasks.settle.delay("SUCCESS").get(timeout=WAIT) == {"by": "hand"}

    def test_a_failure_without_exception_can_be_read(self, bench: Bench) -> None:
        for meta in ({"reason": "none"}, "text", 7, None, [], {}, ["a"], {"exc_type": 5}, {"exc_type": None}):
            task_id = new_id()
            bench.backend.store_result(task_id, meta, "FAILURE")
            result = bench.app.AsyncResult(task_id)
            assert result.state == "FAILURE"
            assert result.info is None or isinstance(result.info, Exception)

    def test_retry_is_seen_with_its_exception(self, bench: Bench) -> None:
        result = bench.tasks.retry_tomorrow.delay()
        eventually(lambda: result.state == "RETRY", "the state RETRY")
        assert isinstance(result.info, Own)
        assert result.info.args == ("tomorrow", 1)
        assert "Own" in result.traceback
        assert not result.ready()
        first = bench.backend.get_task_meta(result.id)
        assert first["date_sent"] <= first["date_started"]
        result.revoke()
        if CELERY >= (5, 6):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)

    def test_sent_is_when_it_was_sent_first(self, bench: Bench) -> None:
        before = datetime.now(timezone.utc)
        result = bench.tasks.retry_until.delay(3)
        sent = datetime.now(timezone.utc)
        assert result.get(timeout=WAIT) == 3
        meta = bench.backend.get_task_meta(result.id)
        assert before <= meta["date_sent"] <= sent
        assert meta["date_sent"] < meta["date_started"] <= meta["date_done"]

    def test_retried_in_vain(self, bench: Bench) -> None:
        result = bench.tasks.retry_in_vain.delay()
        with pytest.raises(Own) as caught:
            result.get(timeout=WAIT)
        assert caught.value.args == ("never", 1)
        assert (result.state, result.retries) == ("FAILURE", 1)

    def test_a_task_that_waits_for_its_retry_is_not_its_own_child(self, bench: Bench) -> None:
        result = bench.tasks.retry_tomorrow.delay()
        eventually(lambda: result.state == "RETRY", "the state RETRY")
        assert result.children == []
        result.revoke()
        if CELERY >= (5, 6):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)
        assert bench.app.AsyncResult(result.id).children == []

    @pytest.mark.parametrize("ends_with_child", [False, True])
    def test_children_of_a_retried_task_are_those_of_its_last_run(self, bench: Bench, ends_with_child: bool) -> None:
        result = bench.tasks.retry_with_children.delay(ends_with_child)
        last = result.get(timeout=WAIT)
        found = bench.app.AsyncResult(result.id)
        assert [child.id for child in found.children] == ([last] if ends_with_child else [])
        assert len([node.id for _, node in found.iterdeps(intermediate=True)]) == 1 + ends_with_child

    def test_a_record_that_names_its_task_among_its_relations_is_read_without_it(self, bench: Bench) -> None:
        task_id, child = new_id(), [["child", None], None]
        own: list[Any] = [[task_id, None], None]
        children = [own, child, [["a group", None], [own, child]]]
        bench.backend.store.put(
            TaskRecord(
                task_id=task_id,
                state="FAILURE",
                parent_id=task_id,
                result=Payload(b"null"),
                children=Payload(json.dumps(children).encode()),
                done_at=datetime.now(timezone.utc),
            )
        )
        found = bench.app.AsyncResult(task_id)
        assert [one.id for one in found.children] == ["child", "a group"]
        assert [one.id for one in found.children[1].results] == ["child"]
        assert bench.backend.get_task_meta(task_id)["parent_id"] is None

    def test_retried_by_itself(self, bench: Bench) -> None:
        assert bench.tasks.retry_by_itself.delay().get(timeout=WAIT) == 2

    def test_rejected(self, bench: Bench) -> None:
        result = bench.tasks.reject.delay()
        until_idle(bench)
        if celery.VERSION < (5, 7):
            assert (result.state, stored(bench, result.id)) == ("PENDING", None)
            return
        eventually(lambda: result.state == "FAILURE", "the end of a task that will never run again")
        with pytest.raises(Reject, match="not for me"):
            result.get(timeout=WAIT)

    def test_ignored_by_exception(self, bench: Bench) -> None:
        nothing, something = bench.tasks.ignore.delay(), bench.tasks.ignore.delay("LEFT")
        until_idle(bench)
        assert (nothing.state, stored(bench, nothing.id)) == ("PENDING", None)
        assert (something.state, something.info) == ("LEFT", {"left": "alone"})

    def test_ignored_by_the_call(self, bench: Bench) -> None:
        result = bench.tasks.add.apply_async((1, 1), ignore_result=True)
        assert result.get(timeout=WAIT) is None
        until_idle(bench)
        assert stored(bench, result.id) is None

    def test_ignored_but_for_errors(self, bench: Bench) -> None:
        result = bench.tasks.ignored_but_for_errors.delay()
        with pytest.raises(Own, match="kept"):
            bench.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_expected_failures_are_failures(self, bench: Bench) -> None:
        with pytest.raises(Own, match="expected"):
            bench.tasks.fail_as_expected.delay().get(timeout=WAIT)


class TestExceptions:
    @pytest.mark.parametrize(
        ("name", "kind", "args"),
        [
            ("builtin", ValueError, ("oh", 7)),
            ("without arguments", KeyError, ()),
            ("own", Own, ("text", 2, {"key": [None, 1.5]})),
            ("picky", Picky, ("code 404", {"detail": "gone"})),
            ("rewriting", Rewriting, ("rewritten: once",)),
            ("nested", Outer.Nested, ("deep",)),
            ("unencodable arguments", Own, ("text", "<class 'object'>")),
            ("text", Own, ("🧊 \x00 \ud800 قبو",)),
            ("os", FileNotFoundError, (2, "No such file")),
            ("group", Own, ("ValueError('inner')",)),
            ("unicode", UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "bad")),
        ],
    )
    def test_it_comes_back_as_itself(self, bench: Bench, name: str, kind: type, args: tuple[Any, ...]) -> None:
        result = bench.tasks.raise_.delay(name)
        found = result.get(timeout=WAIT, propagate=False)
        assert type(found) is kind
        assert found.args == args
        with pytest.raises(kind):
            result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("os", "[Errno 2] No such file: 'cellar.txt'"),
            ("attributes", "code 7"),
            ("group", "inner"),
            ("unencodable arguments", "('text', <class 'object'>)"),
        ],
    )
    def test_it_says_what_it_said(self, bench: Bench, name: str, text: str) -> None:
        result = bench.tasks.raise_.delay(name)
        found = result.get(timeout=WAIT, propagate=False)
        assert str(found) == text

    def test_attributes_causes_and_notes_come_back(self, bench: Bench) -> None:
        found = bench.tasks.raise_.delay("attributes").get(timeout=WAIT, propagate=False)
        assert (type(found), found.code, found.args) == (Attributes, 7, ("oh",))
        assert bench.tasks.raise_.delay("os").get(timeout=WAIT, propagate=False).filename == "cellar.txt"
        found = bench.tasks.raise_.delay("caused").get(timeout=WAIT, propagate=False)
        assert (repr(found.__cause__), found.__notes__) == ("ValueError('inner')", ["a note"])

    def test_an_exception_that_cannot_be_pickled_is_itself_while_its_task_is_retried(self, bench: Bench) -> None:
        result = bench.tasks.retry_for_attributes.delay()
        eventually(lambda: result.state == "RETRY", "the state RETRY")
        found = result.info
        assert (type(found), str(found), found.code) == (Attributes, "code 7", 7)
        result.revoke()
        if REVOKES_AT_ONCE:
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "shown", "args"),
        [("unimportable", "Local", ("somewhere", 3)), ("foreign", "Foreign", ("elsewhere", 4))],
    )
    def test_a_stand_in(self, bench: Bench, name: str, shown: str, args: tuple[Any, ...]) -> None:
        result = bench.tasks.raise_.delay(name)
        with pytest.raises(Exception, match=args[0]) as caught:
            result.get(timeout=WAIT)
        assert type(caught.value).__name__.endswith(shown)
        assert repr(caught.value).endswith(f"{shown}{args!r}")
        assert caught.value.args == args
        assert shown in result.traceback

    def test_what_is_stored_cannot_choose_what_is_called(self, bench: Bench, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.touch()
        rows: list[tuple[str, str, list[Any]]] = [
            ("os", "system", [f"rm {victim}"]),
            ("os", "remove", [str(victim)]),
            ("builtins", "eval", [f"__import__('os').remove({str(victim)!r})"]),
            ("builtins", "SystemExit", [3]),
            ("builtins", "GeneratorExit", []),
            ("celery.exceptions", "WorkerShutdown", [1]),
            ("subprocess", "Popen", [f"rm {victim}"]),
            ("subprocess", "Popen.__init__", ["x"]),
            ("antigravity", "geohash", [1, 2, b"x".decode()]),
            ("no.such.module", "Missing", ["x"]),
            ("celery.result", "AsyncResult", ["id"]),
        ]
        for module, name, args in rows:
            task_id = new_id()
            row = json.dumps({"exc_type": name, "exc_message": args, "exc_module": module}).encode()
            bench.backend.store.put(
                TaskRecord(task_id=task_id, state="FAILURE", result=Payload(row), done_at=datetime.now(timezone.utc))
            )
            with pytest.raises(Exception) as caught:  # noqa: PT011
                bench.app.AsyncResult(task_id).get(timeout=0)
            assert isinstance(caught.value, Exception), "nothing that ends a program"
            assert type(caught.value).__name__ == name
            assert caught.value.args == tuple(args)
        assert victim.exists()
        assert "antigravity" not in sys.modules, "reading a result imports nothing new"

    @pytest.mark.parametrize("task", ["unencodable", "too_deep"])
    def test_a_value_that_cannot_be_encoded(self, bench: Bench, task: str) -> None:
        result = getattr(bench.tasks, task).delay()
        with pytest.raises(NotEncodable, match="cannot be encoded as json"):
            result.get(timeout=WAIT)
        assert result.state == "FAILURE"


class TestValues:
    @pytest.mark.parametrize("name", JSON_VALUES)
    def test_every_json_value(self, bench: Bench, name: str) -> None:
        assert_same(bench.tasks.value.delay(name).get(timeout=WAIT), JSON_VALUES[name])

    def test_as_meta_and_in_a_chord(self, bench: Bench) -> None:
        names = list(JSON_VALUES)
        task_id = new_id()
        values = list(JSON_VALUES.values())
        bench.backend.store_result(task_id, values, "PROGRESS")
        assert_same(bench.app.AsyncResult(task_id).info, values)
        # as arguments of the body they go through a message, whose serializer is kombu's, and through the prefork
        # pool's pickle, which deep lists would end
        unfit = ("typed", "mark", "surrogates", "deep")
        plain = [name for name in names if not any(word in name for word in unfit)]
        result = chord((bench.tasks.value.s(name) for name in plain), bench.tasks.echo.s())()
        assert_same(result.get(timeout=WAIT), [JSON_VALUES[name] for name in plain])

    def test_fifty_megabytes(self, bench: Bench) -> None:
        result = bench.tasks.large_text.delay(50)
        if bench.combination.store.largest is not None and bench.combination.store.largest < 50 << 20:
            with pytest.raises(errors.RecordRefused):
                result.get(timeout=WAIT)
            return
        assert result.get(timeout=WAIT) == large(50)
        result.forget()


class TestGroups:
    def test_the_verbs_of_a_group(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(5))()
        assert result.get(timeout=WAIT) == result.join(timeout=WAIT) == result.join_native(timeout=WAIT)
        assert (result.ready(), result.successful(), result.failed(), result.waiting()) == (True, True, False, False)
        assert (result.completed_count(), len(result)) == (5, 5)
        assert [one.id for one in result] == [one.id for one in result.children] == [one.id for one in result.results]
        assert result[1].get(timeout=WAIT) == 2
        assert result.supports_native_join

    def test_a_group_that_runs(self, bench: Bench, gate: Gate) -> None:
        result = group([bench.tasks.hold.s(gate.port, "held"), bench.tasks.add.s(1, 1)])()
        gate.await_arrival()
        assert result[1].get(timeout=WAIT) == 2
        assert (result.ready(), result.successful(), result.failed(), result.waiting()) == (False, False, False, True)
        assert result.completed_count() == 1
        for join in (result.join, result.join_native, result.get):
            for timeout in SHORT_TIMEOUTS:
                with Timer() as timer, pytest.raises(TimeoutError):
                    join(timeout=timeout)
                assert timeout <= timer.seconds < timeout + 2
        gate.let_through()
        assert result.get(timeout=WAIT) == ["held", 2]

    def test_one_after_the_other_as_they_become_ready(self, bench: Bench) -> None:
        with Gate() as first, Gate() as second:
            result = group([bench.tasks.hold.s(gate.port, n) for n, gate in enumerate((first, second))])()
            first.await_arrival()
            second.await_arrival()
            second.let_through()
            coming = result.iter_native(timeout=WAIT)
            task_id, meta = next(coming)
            assert (task_id, meta["status"], meta["result"]) == (result[1].id, "SUCCESS", 1)
            first.let_through()
            assert [task_id for task_id, _ in coming] == [result[0].id]

    def test_with_failures(self, bench: Bench) -> None:
        result = group([bench.tasks.add.s(1, 1), bench.tasks.raise_.s("own"), bench.tasks.add.s(2, 2)])()
        for join in (result.get, result.join, result.join_native):
            with pytest.raises(Own):
                join(timeout=WAIT)
            one, failure, two = join(timeout=WAIT, propagate=False)
            assert (one, two) == (2, 4)
            assert isinstance(failure, Own)
        assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
        assert result.completed_count() == 2
        with pytest.raises(Own):
            result.maybe_throw()

    def test_a_failure_is_raised_before_the_others_are_over(self, bench: Bench, gate: Gate) -> None:
        result = group([bench.tasks.hold.s(gate.port), bench.tasks.raise_.s("own")])()
        gate.await_arrival()
        with pytest.raises(Own):
            result.join_native(timeout=WAIT)
        assert not result.ready()
        gate.let_through()
        result[0].get(timeout=WAIT)

    def test_saved_and_restored(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(3))()
        assert GroupResult.restore(result.id, app=bench.app) is None
        result.save()
        client = bench.client()
        restored = GroupResult.restore(result.id, app=client.app)
        assert restored == result
        assert restored.get(timeout=WAIT) == [0, 2, 4]
        result.save()
        assert bench.app.GroupResult.restore(result.id).get(timeout=WAIT) == [0, 2, 4]
        result.delete()
        client.backend.reload_group_result(result.id)
        assert GroupResult.restore(result.id, app=bench.client().app) is None
        assert result.get(timeout=WAIT) == [0, 2, 4], "the tasks' results are still there"

    def test_saved_with_its_parent(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), group(bench.tasks.add.s(n) for n in range(3)))()
        assert result.get(timeout=WAIT) == [2, 3, 4]
        result.save()
        restored = GroupResult.restore(result.id, app=bench.client().app)
        assert restored.parent.id == result.parent.id
        assert restored.parent.get(timeout=WAIT) == 2

    def test_forgotten(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(3))()
        result.get(timeout=WAIT)
        result.forget()
        assert [exists(one) for one in result] == [False] * 3

    def test_callback(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(3))()
        for join in (result.join, result.join_native):
            called: list[tuple[str, Any]] = []
            assert not join(timeout=WAIT, callback=lambda *told, called=called: called.append(told))
            assert sorted(called) == sorted((one.id, 2 * n) for n, one in enumerate(result))

    def test_on_message(self, bench: Bench) -> None:
        result = group(bench.tasks.add.s(n, n) for n in range(3))()
        seen: dict[str, Any] = {}
        result.get(timeout=WAIT, on_message=lambda meta: seen.update({meta["task_id"]: meta["result"]}))
        assert seen == {one.id: 2 * n for n, one in enumerate(result)}
        with pytest.raises(ImproperlyConfigured):
            result.join(on_message=seen.update)

    def test_empty(self, bench: Bench) -> None:
        empty = GroupResult(new_id(), [], app=bench.app)
        assert empty.get(timeout=0) == []
        assert list(empty.join_native(timeout=0)) == []
        assert list(empty.iter_native(timeout=0)) == []
        assert (empty.ready(), empty.successful(), empty.completed_count()) == (True, True, 0)
        assert group([], app=bench.app)().get(timeout=0) == []

    def test_groups_in_a_group(self, bench: Bench) -> None:
        inner = [group(bench.tasks.add.s(n, m) for m in range(2)).freeze() for n in range(2)]
        for one in inner:
            for leaf, total in zip(one, (inner.index(one), inner.index(one) + 1), strict=True):
                bench.tasks.add.apply_async((total, 0), task_id=leaf.id)
        single = bench.tasks.add.delay(7, 0)
        outer = GroupResult(new_id(), [inner[0], single, inner[1]], app=bench.app)
        assert outer.join_native(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert outer.get(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert outer.join(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert (outer.ready(), outer.completed_count()) == (True, 3)
        outer.save()
        restored = GroupResult.restore(outer.id, app=bench.client().app)
        assert restored.get(timeout=WAIT) == [[0, 1], 7, [1, 2]]

    def test_nested_signatures(self, bench: Bench) -> None:
        add = bench.tasks.add
        result = group(add.s(1, 1), group(add.s(2, 2), group(add.s(3, 3))))()
        assert result.get(timeout=WAIT) == [2, 4, 6]

    def test_the_verbs_of_a_set(self, bench: Bench) -> None:
        one, two, three = (bench.tasks.add.delay(n, n) for n in range(3))
        results = ResultSet([one], app=bench.app)
        results.add(two)
        results.add(two)
        results.update([two, three])
        assert results.get(timeout=WAIT) == [0, 2, 4]
        assert (len(results), results.completed_count()) == (3, 3)
        results.remove(one)
        results.discard(one.id)
        with pytest.raises(KeyError):
            results.remove(one)
        assert results.join(timeout=WAIT) == [2, 4]
        assert [meta["result"] for meta in sorted(results._iter_meta(), key=lambda meta: meta["result"])] == [2, 4]
        results.clear()
        assert results.get(timeout=0) == []

    def test_the_same_result_twice(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(1, 1)
        twice = ResultSet([result, bench.app.AsyncResult(result.id)], app=bench.app)
        assert twice.join(timeout=WAIT) == [2, 2]

    def test_many_states_at_a_glance(self, bench: Bench) -> None:
        ready, unready = bench.tasks.add.delay(1, 1), bench.app.AsyncResult(new_id())
        ready.get(timeout=WAIT)
        found = dict(bench.backend.get_many([ready.id, unready.id], max_iterations=1))
        assert {task_id: meta["result"] for task_id, meta in found.items()} == {ready.id: 2}
        assert dict(bench.backend.get_many([ready.id], timeout=WAIT))[ready.id]["status"] == "SUCCESS"
        assert dict(bench.backend.get_many([])) == {}


class TestChains:
    def test_it_fails_in_the_middle(self, bench: Bench) -> None:
        tasks = bench.tasks
        result = chain(tasks.add.s(1, 1), tasks.raise_.si("own"), tasks.add.s(1), tasks.add.s(2))()
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        last, third, second, first = result, result.parent, result.parent.parent, result.parent.parent.parent
        assert first.get(timeout=WAIT) == 2
        eventually(lambda: all(one.state == "FAILURE" for one in (second, third, last)), "FAILURE of all that follow")
        for one in (second, third, last):
            assert isinstance(one.result, Own)
        with pytest.raises(Own):
            bench.client().app.AsyncResult(last.id).get(timeout=WAIT)

    def test_names_and_places(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), bench.tasks.echo.s())()
        assert result.get(timeout=WAIT) == 2
        # a task sends the next one before its own result is stored
        assert result.parent.get(timeout=WAIT) == 2
        assert (result.name, result.parent.name) == ("conformance.echo", "conformance.add")
        meta = bench.backend.get_task_meta(result.id)
        assert (meta["parent_id"], meta["root_id"]) == (result.parent.id, result.parent.id)
        assert [child.id for child in bench.app.AsyncResult(result.parent.id).children] == [result.id]

    def test_of_immutable_signatures(self, bench: Bench) -> None:
        result = chain(bench.tasks.add.s(1, 1), bench.tasks.add.si(5, 5), bench.tasks.echo.s())()
        assert result.get(timeout=WAIT) == 10

    def test_link(self, bench: Bench) -> None:
        linked = new_id()
        result = bench.tasks.add.apply_async((1, 1), link=bench.tasks.add.s(40).set(task_id=linked))
        assert result.get(timeout=WAIT) == 2
        assert bench.app.AsyncResult(linked).get(timeout=WAIT) == 42
        assert [child.id for child in result.children] == [linked]

    def test_several_links(self, bench: Bench) -> None:
        ids = [new_id(), new_id()]
        links = [bench.tasks.add.s(n).set(task_id=task_id) for n, task_id in enumerate(ids)]
        bench.tasks.add.apply_async((1, 1), link=links)
        assert [bench.app.AsyncResult(task_id).get(timeout=WAIT) for task_id in ids] == [2, 3]

    def test_link_error(self, bench: Bench) -> None:
        linked, in_time = new_id(), new_id()
        result = bench.tasks.raise_.apply_async(
            ("own",), link=bench.tasks.echo.s().set(task_id=linked), link_error=bench.tasks.errback.s()
        )
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        task_id, shown = bench.app.AsyncResult(f"errback of {result.id}").get(timeout=WAIT)
        assert task_id == result.id
        assert shown.startswith("Own('text', 2")
        assert bench.tasks.add.apply_async((1, 1), task_id=in_time).get(timeout=WAIT) == 2
        until_idle(bench)
        assert stored(bench, linked) is None, "the link of a task that failed is not called"

    def test_link_error_that_is_a_task(self, bench: Bench) -> None:
        task_id = new_id()
        result = bench.tasks.raise_.apply_async(("own",), link_error=bench.tasks.old_errback.s().set(task_id=task_id))
        assert bench.app.AsyncResult(task_id).get(timeout=WAIT) == f"{result.id} failed"

    def test_link_error_of_a_chain(self, bench: Bench) -> None:
        work = chain(bench.tasks.add.s(1, 1), bench.tasks.raise_.si("own"), bench.tasks.add.s(1))
        result = work.apply_async(link_error=bench.tasks.errback.s())
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        task_id, _ = bench.app.AsyncResult(f"errback of {result.parent.id}").get(timeout=WAIT)
        assert task_id == result.parent.id

    def test_group_then_task(self, bench: Bench) -> None:
        work = chain(bench.tasks.add.s(1, 1), group(bench.tasks.add.s(n) for n in range(3)), bench.tasks.total.s())
        assert work().get(timeout=WAIT) == 2 + 3 + 4

    def test_group_then_group(self, bench: Bench) -> None:
        echo = bench.tasks.echo
        work = chain(group(bench.tasks.add.s(n, 0) for n in range(3)), group(echo.s(), echo.s()))
        assert work().get(timeout=WAIT) == [[0, 1, 2], [0, 1, 2]]


def _failing(tasks: Any, body: Any) -> Any:
    """Return a chord whose header fails."""
    return chord([tasks.add.s(1, 1), tasks.fail.s()], body)


def _around(tasks: Any, inner: Any) -> Any:
    """Return a chord with ``inner`` in its header."""
    return chord([inner, tasks.add.s(2, 2)], tasks.echo.s())


BODIES: dict[str, Callable[[Any], Any]] = {
    "a task": lambda tasks: tasks.total.s(),
    "a chain": lambda tasks: chain(tasks.total.s(), tasks.add.s(1)),
    "a chord": lambda tasks: chord([tasks.total.s(), tasks.total.s()], tasks.total.s()),
    "a group": lambda tasks: group(tasks.total.s(), tasks.echo.s()),
}

#: chords whose headers fail; Celery's own backends leave many of them waiting for ever
FAILING_CHORDS: dict[str, Callable[[Any], Any]] = {
    **{f"body is {name}": lambda t, body=body: _failing(t, body(t)) for name, body in BODIES.items()},
    **{
        f"in a header, body is {name}": lambda t, body=body: _around(t, _failing(t, body(t)))
        for name, body in BODIES.items()
    },
    "in a group in a header": lambda t: _around(t, group(_failing(t, t.total.s()), t.add.s(1, 1))),
    "in a chain in a header": lambda t: _around(t, chain(t.add.s(1, 1), chord([t.fail.s(), t.add.s(1)], t.total.s()))),
    "before a task in a header": lambda t: _around(t, chain(_failing(t, t.total.s()), t.add.s(1))),
    "two deep in a header": lambda t: _around(t, chord([_failing(t, t.total.s()), t.add.s(1, 1)], t.total.s())),
    "body fails in a header": lambda t: _around(t, chord([t.add.s(1, 1)], t.fail.s())),
    "replaced by one that fails": lambda t: _around(t, t.replace_by_failing_chord.s()),
}


class TestFailedParents:
    @pytest.mark.parametrize("shape", CHORDS)
    def test_what_a_header_raised_is_raised_however_one_waits(self, bench: Bench, shape: str) -> None:
        result = failing_chords(bench.tasks)[shape]()
        with pytest.raises(ValueError, match=r"^header$"):
            result.get(timeout=WAIT)
        again = result_from_tuple(result.as_tuple(), app=bench.app)
        with pytest.raises(ValueError, match=r"^header$"):
            asyncio.run(rootcellar.result(again, WAIT))
        again = result_from_tuple(result.as_tuple(), app=bench.app)
        with pytest.raises(ValueError, match=r"^header$"):
            ResultSet([again], app=bench.app).join(timeout=WAIT)
        again = result_from_tuple(result.as_tuple(), app=bench.app)
        with pytest.raises(ValueError, match=r"^header$"):
            list(rootcellar.as_completed([again], WAIT))

    @pytest.mark.parametrize("shape", CHORDS)
    def test_the_failure_of_a_chord_itself_is_raised_where_parents_are_not_followed(
        self, bench: Bench, shape: str
    ) -> None:
        result = failing_chords(bench.tasks)[shape]()
        with pytest.raises(ChordError, match="header"):
            result.get(timeout=WAIT, follow_parents=False)
        assert isinstance(result.get(timeout=WAIT, propagate=False), ChordError)
        again = result_from_tuple(result.as_tuple(), app=bench.app)
        with pytest.raises(ChordError, match="header"):
            asyncio.run(rootcellar.result(again, WAIT, follow_parents=False))
        assert isinstance(asyncio.run(rootcellar.result(again, WAIT, propagate=False)), ChordError)
        ((_, meta),) = ResultSet([again], app=bench.app).iter_native(timeout=WAIT)
        assert isinstance(meta["result"], ChordError), "the outcome of the chord itself"

    def test_what_a_header_raised_is_raised_for_a_group_as_the_body(self, bench: Bench) -> None:
        fail, ok, echo = bench.tasks.fail.s(message="header"), bench.tasks.add.s(1, 1), bench.tasks.echo.s()
        result = chord((fail, ok), group(echo, echo))()
        for join in (result.get, result.join, result.join_native):
            with pytest.raises(FAILURE_OF_A_GROUP_AS_A_BODY, match=or_revoked("header")):
                join(timeout=WAIT)
        with pytest.raises(ValueError, match=r"^header$"):
            asyncio.run(rootcellar.result(result, WAIT))

    def test_what_a_body_raised_is_raised(self, bench: Bench) -> None:
        result = chord((bench.tasks.add.s(1, 1), bench.tasks.add.s(2, 2)), bench.tasks.fail.s(message="body"))()
        with pytest.raises(ValueError, match=r"^body$"):
            result.get(timeout=WAIT)
        assert result.parent.get(timeout=WAIT) == [2, 4]

    def test_the_failure_of_a_parent_comes_first_however_late_it_is_looked_at(self, bench: Bench) -> None:
        header = GroupResult(new_id(), [bench.app.AsyncResult(new_id()) for _ in range(3)], app=bench.app)
        result = AsyncResult(new_id(), app=bench.app, parent=header)

        def wait() -> Any:
            # no look at the parents comes of the interval
            return result.get(timeout=WAIT, interval=10 * WAIT)

        def fail() -> None:
            bench.backend.mark_as_failure(header[2].id, ValueError("third"))
            bench.backend.mark_as_failure(header[1].id, ValueError("second"))
            bench.backend.mark_as_failure(result.id, ChordError("own"))

        waiting = Background(wait)
        eventually(lambda: result.id in bench.backend.waiter.watcher()._waited_for(), "somebody who waits")
        fail()
        with pytest.raises(ValueError, match=r"^second$"):
            waiting.result(WAIT)

    @pytest.mark.parametrize("is_group", [False, True])
    def test_a_parent_that_was_revoked_ends_the_wait_on_asyncio(self, bench: Bench, is_group: bool) -> None:
        parent = bench.app.AsyncResult(new_id())
        result: Any = AsyncResult(new_id(), app=bench.app, parent=parent)
        if is_group:
            result = GroupResult(new_id(), [bench.app.AsyncResult(new_id())], app=bench.app, parent=parent)

        async def wait() -> None:
            waiting = asyncio.ensure_future(rootcellar.result(result, WAIT))
            await asyncio.sleep(0)
            bench.backend.mark_as_revoked(parent.id, "revoked")
            await waiting

        with pytest.raises(TaskRevokedError):
            asyncio.run(wait())


class TestWatching:
    def test_task_of_which_nothing_is_stored_is_pending_first(self, bench: Bench) -> None:
        task_id = new_id()

        async def watch() -> list[tuple[str, Any]]:
            seen = []
            async for change in rootcellar.watch(task_id, WAIT, app=bench.app):
                seen.append((change.state, change.info))
                if change.state == "PENDING":
                    await asyncio.to_thread(bench.backend.store_result, task_id, {"done": 1}, "PROGRESS")
                if change.state == "PROGRESS":
                    await asyncio.to_thread(bench.backend.store_result, task_id, "done", "SUCCESS")
            return seen

        assert asyncio.run(watch()) == [("PENDING", None), ("PROGRESS", {"done": 1}), ("SUCCESS", "done")]
        assert asyncio.run(watch()) == [("SUCCESS", "done")]


def _chord(tasks: Any) -> Any:
    return chord([tasks.total.s(), tasks.total.s()], tasks.total.s())


#: chords that fail and have an errback
CHORDS_WITH_ERRBACKS: dict[str, Callable[[Any, Any], Any]] = {
    "its body is a task": lambda t, errback: _failing(t, t.total.s()).on_error(errback),
    "its body is a chord": lambda t, errback: _failing(t, _chord(t)).on_error(errback),
    "its body is a chord, the errback is that one's": lambda t, errback: _failing(t, _chord(t).on_error(errback)),
    "its body is a chord whose body is a chord": lambda t, errback: _failing(
        t, chord([t.total.s()], _chord(t))
    ).on_error(errback),
    "its body is a chord whose body is a chain": lambda t, errback: _failing(
        t, chord([t.total.s()], chain(t.total.s(), t.add.s(1)))
    ).on_error(errback),
    "its body is a chain": lambda t, errback: _failing(t, chain(t.total.s(), t.add.s(1))).on_error(errback),
    "a chord in its header": lambda t, errback: _around(t, _failing(t, t.total.s())).on_error(errback),
    "a chord in its header, the errback is that one's": lambda t, errback: _around(
        t, _failing(t, t.total.s()).on_error(errback)
    ),
    "a chord in its header, whose body is a chord": lambda t, errback: _around(t, _failing(t, _chord(t))).on_error(
        errback
    ),
    "a chord in its header, whose body is a group": lambda t, errback: _around(
        t, _failing(t, group(t.total.s(), t.echo.s()))
    ).on_error(errback),
    "a chord in the header of a chord in its header": lambda t, errback: _around(
        t, _around(t, _failing(t, t.total.s()))
    ).on_error(errback),
}


class TestChords:
    def test_the_order_is_that_of_the_header(self, bench: Bench) -> None:
        with Gate() as first, Gate() as last:
            header = [bench.tasks.hold.s(first.port, "a"), bench.tasks.hold.s(last.port, "b")]
            result = chord(header, bench.tasks.echo.s())()
            first.await_arrival()
            last.await_arrival()
            last.let_through()
            assert result.parent[1].get(timeout=WAIT) == "b"
            assert result.state == "PENDING"
            first.let_through()
            assert result.get(timeout=WAIT) == ["a", "b"]

    def test_parents(self, bench: Bench) -> None:
        result = chord([bench.tasks.add.s(n, n) for n in range(3)], bench.tasks.total.s())()
        assert result.get(timeout=WAIT) == 6
        assert isinstance(result.parent, GroupResult)
        assert result.parent.get(timeout=WAIT) == [0, 2, 4]

    def test_three_hundred_wide(self, bench: Bench) -> None:
        result = chord((bench.tasks.add.s(n, 1) for n in range(300)), bench.tasks.echo.s())()
        assert result.get(timeout=WAIT) == list(range(1, 301))

    def test_one_wide(self, bench: Bench) -> None:
        assert chord([bench.tasks.add.s(1, 1)], bench.tasks.echo.s())().get(timeout=WAIT) == [2]

    def test_empty(self, bench: Bench) -> None:
        assert chord([], bench.tasks.echo.s(), app=bench.app)().get(timeout=WAIT) == []

    def test_header_as_a_generator(self, bench: Bench) -> None:
        result = chord((bench.tasks.add.s(n, n) for n in range(4)), app=bench.app)(bench.tasks.total.s())
        assert result.get(timeout=WAIT) == 12

    def test_in_a_chain(self, bench: Bench) -> None:
        tasks = bench.tasks
        inner = chord([tasks.add.s(n) for n in range(3)], tasks.total.s())
        assert chain(tasks.add.s(1, 1), inner, tasks.add.s(100))().get(timeout=WAIT) == 109

    def test_two_in_a_chain(self, bench: Bench) -> None:
        tasks = bench.tasks
        one = chord([tasks.add.s(n, n) for n in range(3)], tasks.total.s())
        other = chord([tasks.add.s(n) for n in range(3)], tasks.total.s())
        assert chain(one, other)().get(timeout=WAIT) == 6 + 7 + 8

    def test_chains_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [chain(tasks.add.s(n, n), tasks.add.s(1)) for n in range(3)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [1, 3, 5]

    def test_groups_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [tasks.add.s(0, 0), group(tasks.add.s(n, n) for n in range(3)), tasks.add.s(9, 9)]
        # as deep as Celery's own backends make it: either is right, and all must agree
        result = chord(header, tasks.total.s())()
        assert result.get(timeout=WAIT) == 0 + 0 + 2 + 4 + 18

    @needs_groups_at_the_end_of_chains
    def test_chains_that_end_in_groups_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [chain(tasks.add.s(n, n), group(tasks.add.s(m) for m in range(2))) for n in range(2)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [[0, 1], [2, 3]]

    def test_three_deep(self, bench: Bench) -> None:
        tasks = bench.tasks

        def nest(depth: int) -> Any:
            if depth == 0:
                return tasks.add.s(1, 1)
            return chord([nest(depth - 1), nest(depth - 1)], tasks.total.s())

        assert nest(3)().get(timeout=WAIT) == 16

    def test_group_of_chords(self, bench: Bench) -> None:
        tasks = bench.tasks
        work = group(chord([tasks.add.s(n, m) for m in range(3)], tasks.total.s()) for n in range(3))
        assert work().get(timeout=WAIT) == [3, 6, 9]

    def test_chord_of_a_group_of_chords(self, bench: Bench) -> None:
        tasks = bench.tasks
        inner = group(chord([tasks.add.s(n, m) for m in range(2)], tasks.total.s()) for n in range(2))
        assert chord(inner, tasks.total.s())().get(timeout=WAIT) == 4

    def test_a_group_as_body(self, bench: Bench) -> None:
        tasks = bench.tasks
        result = chord([tasks.add.s(n, n) for n in range(3)], group(tasks.total.s(), tasks.echo.s()))()
        assert result.get(timeout=WAIT) == [6, [0, 2, 4]]

    def test_a_chain_as_body(self, bench: Bench) -> None:
        tasks = bench.tasks
        body = chain(tasks.total.s(), tasks.add.s(100), tasks.echo.s())
        assert chord([tasks.add.s(n, n) for n in range(3)], body)().get(timeout=WAIT) == 106

    def test_a_chord_as_body(self, bench: Bench) -> None:
        tasks = bench.tasks
        body = chord([tasks.total.s(), tasks.total.s()], tasks.total.s())
        assert chord([tasks.add.s(n, n) for n in range(3)], body)().get(timeout=WAIT) == 12

    def test_ignored_results_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [tasks.ignored.s(), tasks.add.s(1, 1), tasks.add.s(2, 2).set(ignore_result=True)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == ["for nobody", 2, 4]

    def test_the_same_signature_twice_in_the_header(self, bench: Bench) -> None:
        same = bench.tasks.add.s(1, 1)
        same.freeze(new_id())
        result = chord([same, bench.tasks.add.s(3, 3), same], bench.tasks.echo.s())()
        assert result.get(timeout=WAIT) == [2, 6, 2]

    @needs_chords_applied_twice
    def test_the_same_chord_twice(self, bench: Bench) -> None:
        work = chord([bench.tasks.add.s(n, n) for n in range(3)], bench.tasks.total.s())
        first = work.apply_async()
        assert first.get(timeout=WAIT) == 6
        second = work.apply_async()
        assert second.get(timeout=WAIT) == 6
        frozen = chord([bench.tasks.add.s(n, n) for n in range(3)], bench.tasks.total.s())
        frozen.freeze()
        assert [frozen.apply_async().get(timeout=WAIT) for _ in range(2)] == [6, 6]

    def test_retries_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [tasks.retry_until.s(2), tasks.add.s(1, 1), tasks.retry_by_itself.s()]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [2, 2, 2]

    def test_states_stored_by_hand_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [tasks.settle.s("FAILURE"), tasks.add.s(1, 1), tasks.settle.s("PROGRESS")]
        result = alone(bench, chord(header, tasks.echo.s())())
        assert result.get(timeout=WAIT) == ["returned", 2, "returned"]
        # the first SUCCESS stays, but the chord gets what the task returned
        result = chord([tasks.settle.s("SUCCESS")], tasks.echo.s())()
        assert result.get(timeout=WAIT) == ["returned"]
        assert result.parent[0].get(timeout=WAIT) == {"by": "hand"}

    def test_member_beyond_its_time_limit_ends_the_chord(self, bench: Bench, gate: Gate) -> None:
        if bench.combination.pool != "prefork":
            pytest.skip("only prefork has hard time limits")
        member = bench.tasks.hold.s(gate.port).set(time_limit=1)
        with pytest.raises(ChordError, match="TimeLimitExceeded"):
            alone(bench, chord([bench.tasks.add.s(1, 1), member], bench.tasks.echo.s())()).get(timeout=WAIT)

    def test_member_whose_process_is_killed_ends_the_chord(self, bench: Bench) -> None:
        if bench.combination.pool != "prefork":
            pytest.skip("only prefork has processes to lose")
        header = [bench.tasks.add.s(1, 1), bench.tasks.lose_worker.s()]
        with pytest.raises(ChordError, match="WorkerLostError"):
            alone(bench, chord(header, bench.tasks.echo.s())()).get(timeout=WAIT)

    def test_member_that_is_revoked_before_it_starts_ends_the_chord(self, bench: Bench, gate: Gate) -> None:
        if bench.combination.pool != "prefork":
            pytest.skip("only prefork leaves a task in the queue while all slots are busy")
        for _ in range(bench.slots):
            bench.tasks.hold.delay(gate.port)
            gate.await_arrival()
        result = chord([bench.tasks.add.s(1, 1), bench.tasks.add.s(2, 2)], bench.tasks.echo.s())()
        revoked = {"task_id": result.parent.results[1].id}
        assert bench.app.control.broadcast("revoke", arguments=revoked, reply=True, limit=1, timeout=WAIT)
        gate.let_through()
        with pytest.raises(ChordError, match="TaskRevokedError"):
            alone(bench, result).get(timeout=WAIT)

    @pytest.mark.parametrize("name", ["own", "unimportable", "picky", "text"])
    def test_a_failing_header(self, bench: Bench, name: str) -> None:
        result = chord([bench.tasks.add.s(1, 1), bench.tasks.raise_.s(name)], bench.tasks.echo.s())()
        with pytest.raises(ChordError) as caught:
            alone(bench, result).get(timeout=WAIT)
        failed = result.parent[1]
        assert str(caught.value).startswith(f"Dependency {failed.id} raised ")
        assert result.state == "FAILURE"
        assert result.parent[0].get(timeout=WAIT) == 2
        assert failed.state == "FAILURE"

    def test_a_header_that_fails_wholly(self, bench: Bench) -> None:
        result = chord([bench.tasks.fail.s(), bench.tasks.fail.s()], bench.tasks.echo.s())()
        with pytest.raises(ChordError, match="oops"):
            alone(bench, result).get(timeout=WAIT)

    def test_a_header_that_cannot_be_encoded(self, bench: Bench) -> None:
        result = chord([bench.tasks.add.s(1, 1), bench.tasks.unencodable.s()], bench.tasks.echo.s())()
        with pytest.raises(ChordError, match="cannot be encoded"):
            alone(bench, result).get(timeout=WAIT)

    def test_a_header_with_a_revoked_task(self, bench: Bench) -> None:
        header = [bench.tasks.add.s(1, 1), bench.tasks.add.s(2, 2).set(expires=-1)]
        result = chord(header, bench.tasks.echo.s())()
        with pytest.raises(ChordError, match="TaskRevokedError"):
            alone(bench, result).get(timeout=WAIT)

    def test_a_chain_that_fails_in_the_header(self, bench: Bench) -> None:
        tasks = bench.tasks
        header = [tasks.add.s(1, 1), chain(tasks.add.s(1, 1), tasks.raise_.si("own"), tasks.add.s(1), tasks.add.s(1))]
        with pytest.raises(ChordError, match="Own"):
            alone(bench, chord(header, tasks.echo.s())()).get(timeout=WAIT)

    @pytest.mark.parametrize("name", FAILING_CHORDS)
    def test_who_waits_for_a_failing_chord_hears_of_it(self, bench: Bench, name: str) -> None:
        result = FAILING_CHORDS[name](bench.tasks)()
        ends = result.results if isinstance(result, GroupResult) else [result]
        for end in ends:
            with pytest.raises((ChordError, ValueError, *REVOKED_INSTEAD), match=or_revoked("oops")):
                alone(bench, end).get(timeout=WAIT)

    def test_a_failing_body(self, bench: Bench) -> None:
        result = chord([bench.tasks.add.s(1, 1)], bench.tasks.raise_.si("own"))()
        with pytest.raises(Own):
            result.get(timeout=WAIT)

    def test_errbacks(self, bench: Bench) -> None:
        tasks = bench.tasks
        for header, body in (
            ([tasks.fail.s(), tasks.add.s(1, 1)], tasks.echo.s()),
            ([tasks.add.s(1, 1)], tasks.raise_.si("own")),
        ):
            result = chord(header, body.on_error(tasks.errback.s()))()
            with pytest.raises((ChordError, Own)):
                alone(bench, result).get(timeout=WAIT)
            task_id, _ = bench.app.AsyncResult(f"errback of {result.id}").get(timeout=WAIT)
            assert task_id == result.id

    @pytest.mark.parametrize("name", CHORDS_WITH_ERRBACKS)
    @pytest.mark.filterwarnings("ignore:task_allow_error_cb_on_chord_header")
    def test_errback_of_a_nested_chord_is_called_once(self, bench: Bench, redis_server: RedisServer, name: str) -> None:
        key = new_id()
        result = CHORDS_WITH_ERRBACKS[name](bench.tasks, bench.tasks.count_errback.s(redis_server.url, key))()
        with pytest.raises((ChordError, ValueError), match="oops"):
            alone(bench, result).get(timeout=WAIT)
        until_idle(bench)
        with redis_server.client() as client:
            called = [task_id.decode() for task_id in client.lrange(key, 0, -1)]
        assert len(called) == 1
        if name not in ("a chord in its header, the errback is that one's", *ERRBACKS_WITHOUT_AN_ID):
            assert called == [result.id]

    def test_what_follows_a_failing_chord_fails(self, bench: Bench) -> None:
        tasks = bench.tasks
        result = chain(chord([tasks.fail.s(), tasks.add.s(1, 1)], tasks.total.s()), tasks.add.s(1), tasks.add.s(2))()
        with pytest.raises(ChordError):
            alone(bench, result).get(timeout=WAIT)
        assert result.state == "FAILURE"

    def test_it_grows_while_it_runs(self, bench: Bench) -> None:
        tasks = bench.tasks
        result = chord([tasks.grow_chord.s(1), tasks.add.s(1, 1)], tasks.echo.s())()
        found = result.get(timeout=WAIT)
        assert sorted(found) == [1, 2, 101]

    def test_nothing_is_left_behind(self, bench: Bench) -> None:
        result = chord([bench.tasks.add.s(n, n) for n in range(3)], bench.tasks.total.s())()
        assert result.get(timeout=WAIT) == 6
        store = bench.backend.store
        eventually(lambda: store.get_chord(result.parent.id) is None, "the end of the chord")
        assert list(store.chord_parts(result.parent.id)) == []


class TestReplace:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("replace_by_task", 11),
            ("replace_by_group", [1, 2, 3]),
            ("replace_by_chain", 4),
            ("replace_by_chord", 6),
        ],
    )
    def test_it_keeps_the_id(self, bench: Bench, name: str, expected: Any) -> None:
        result = getattr(bench.tasks, name).delay(1)
        assert result.get(timeout=WAIT) == expected
        assert bench.app.AsyncResult(result.id).get(timeout=WAIT) == expected

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("replace_by_task", 12), ("replace_by_chain", 5), ("replace_by_chord", 9)],
    )
    def test_in_a_chain(self, bench: Bench, name: str, expected: Any) -> None:
        work = chain(bench.tasks.add.s(1, 1), getattr(bench.tasks, name).s(), bench.tasks.echo.s())
        assert work().get(timeout=WAIT) == expected

    def test_by_a_failure(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="oops"):
            bench.tasks.replace_by_failure.delay().get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("replace_by_task", 11),
            pytest.param("replace_by_group", [1, 2, 3], marks=needs_order_of_replacements),
            ("replace_by_chain", 4),
            ("replace_by_chord", 6),
        ],
    )
    def test_in_a_chord(self, bench: Bench, name: str, expected: Any) -> None:
        header = [bench.tasks.add.s(0, 0), getattr(bench.tasks, name).s(1)]
        assert chord(header, bench.tasks.echo.s())().get(timeout=WAIT) == [0, expected]

    def test_by_a_failure_in_a_chord(self, bench: Bench) -> None:
        header = [bench.tasks.add.s(0, 0), bench.tasks.replace_by_failure.s()]
        with pytest.raises(ChordError, match="oops"):
            alone(bench, chord(header, bench.tasks.echo.s())()).get(timeout=WAIT)


class Stamp(StampingVisitor):
    """Stamps every signature alike."""

    def __init__(self, **stamps: Any) -> None:
        self._stamps = stamps

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {**self._stamps, "stamped_headers": list(self._stamps)}


class TestStamps:
    def test_stamps_are_stored(self, bench: Bench) -> None:
        work = bench.tasks.add.s(1, 1)
        work.stamp(Stamp(customer="c-1", numbers=[1, 2]))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 2
        meta = bench.backend.get_task_meta(result.id)
        assert sorted(meta["stamped_headers"]) == ["customer", "numbers"]
        assert meta["customer"] in ("c-1", ["c-1"])
        assert sorted(meta["numbers"]) == [1, 2]

    def test_stamps_of_a_workflow(self, bench: Bench) -> None:
        tasks = bench.tasks
        work = chain(tasks.add.s(1, 1), group(tasks.add.s(n) for n in range(2)), tasks.total.s())
        work.stamp(Stamp(order="o-7"))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 5
        for one in (result, *result.parent, result.parent.parent):
            one.get(timeout=WAIT)
            assert "o-7" in bench.backend.get_task_meta(one.id)["order"], one

    def test_a_stamp_never_hides_the_result(self, bench: Bench) -> None:
        work = bench.tasks.add.s(1, 1)
        names = ("status", "result", "traceback", "children", "date_done", "date_sent", "worker")
        work.stamp(Stamp(**dict.fromkeys(names, "a stamp")))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 2
        again = bench.client().app.AsyncResult(result.id)
        assert (again.state, again.result, again.traceback, again.children) == ("SUCCESS", 2, None, [])
        assert again.worker != "a stamp"
        record = stored(bench, result.id)
        assert record is not None
        assert record.stamps is not None

    def test_without_stamps(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(1, 1)
        result.get(timeout=WAIT)
        assert "stamped_headers" not in bench.backend.get_task_meta(result.id)


class TestOneBackend:
    def test_one_for_eight_threads(self, bench: Bench) -> None:
        client = bench.client()
        in_threads(8, lambda _: client.backend)  # at first Celery may make several, and keeps one of them
        first = client.backend
        assert isinstance(first, ResultBackend)
        for _ in range(5):
            assert all(backend is first for backend in in_threads(8, lambda _: client.backend))

    def test_pickled_results_work_in_another_process(self, bench: Bench, crew: Crew) -> None:  # noqa: F811
        if not bench.combination.store.shared:
            pytest.skip(f"{bench.combination.store} is used by one process only")
        ok, failed = bench.tasks.add.delay(2, 3), bench.tasks.raise_.delay("own")
        members = group(bench.tasks.add.s(n, n) for n in range(3))()
        ok.get(timeout=WAIT)
        failed.get(timeout=WAIT, propagate=False)
        told = crew.run_alike(1, _use_pickled, pickle.dumps([ok, failed, members, bench.backend]), ok.id)
        assert told == [(5, "Own('text', 2, {'key': [None, 1.5]})", [0, 2, 4], 5, bench.backend.as_uri())]

    def test_pickled_here(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(2, 3)
        again = pickle.loads(pickle.dumps(result))  # noqa: S301
        assert again == result
        assert again.get(timeout=WAIT) == 5
        backend = pickle.loads(pickle.dumps(bench.backend))  # noqa: S301
        assert backend.as_uri(include_password=True) == bench.backend.as_uri(include_password=True)
        assert backend.expires == bench.backend.expires

    def test_the_password_is_hidden(self, bench: Bench) -> None:
        backend = bench.backend
        whole = f"rootcellar+{bench.place}"
        assert backend.as_uri(include_password=True) == whole
        password = bench.place.partition("://")[2].rpartition("@")[0].partition(":")[2]
        shown = [backend.as_uri(), repr(backend), str(backend), backend.store.where, bench.app.bugreport()]
        if bench.worker is not None:
            log = bench.worker.log.read_text()
            assert "results:" in log, "the worker's banner names the backend"
            shown.append(log)
        for text in shown:
            assert not password or f":{password}@" not in text
        assert backend.as_uri().startswith(f"rootcellar+{bench.place.partition('://')[0]}://")


def _use_pickled(pickled: bytes, task_id: str, _: int) -> tuple[Any, ...]:
    ok, failed, members, backend = pickle.loads(pickled)  # noqa: S301
    answer = (
        ok.get(timeout=WAIT),
        repr(failed.get(timeout=WAIT, propagate=False)),
        members.join(timeout=WAIT),  # not `get`, which asks the other process's own app
        backend.get_task_meta(task_id)["result"],
        backend.as_uri(),
    )
    for one in (ok.backend, failed.backend, backend):
        one.store.close()
    return answer


class TestClientsOfDifferentSettings:
    def test_expiry_as_a_timedelta(self, bench: Bench) -> None:
        client = bench.client(result_expires=timedelta(days=3), result_failure_expires=timedelta(hours=2))
        for state, given in (("SUCCESS", timedelta(days=3)), ("FAILURE", timedelta(hours=2))):
            task_id = new_id()
            client.backend.store_result(task_id, ValueError("x") if state == "FAILURE" else 1, state)
            record = stored(bench, task_id)
            assert record is not None
            assert record.expires_at is not None
            assert record.done_at is not None
            assert record.expires_at - record.done_at == given

    def test_a_day_by_default(self, bench: Bench) -> None:
        result = bench.tasks.add.delay(1, 1)
        result.get(timeout=WAIT)
        record = stored(bench, result.id)
        assert record is not None
        assert record.expires_at is not None
        assert record.done_at is not None
        assert record.expires_at - record.done_at == timedelta(days=1)

    def test_an_unknown_serializer(self, bench: Bench) -> None:
        with pytest.raises(errors.ConfigurationError, match="unknown serializer 'nonesuch'"):
            _ = bench.client(result_serializer="nonesuch").backend

    def test_no_result_goes_unread(self, bench: Bench) -> None:
        """A result that cannot be decoded is an error for who asks for it, and for nobody else."""
        good, bad = bench.tasks.add.delay(1, 1), new_id()
        damaged = Payload(b'{"half', compression="application/x-gzip")
        bench.backend.store.put(
            TaskRecord(task_id=bad, state="SUCCESS", result=damaged, done_at=datetime.now(timezone.utc))
        )

        def wait(number: int) -> Any:
            with suppress(errors.PayloadUnreadable):
                return bench.app.AsyncResult(good.id if number % 2 else bad).get(timeout=WAIT)
            return "unreadable"

        assert in_threads(8, wait) == ["unreadable", 2] * 4


# -- settings, each with a worker of its own ---------------------------------------------------------------------------


class TestSettings:
    def test_extended(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(result_extended=True)
        result = bench.tasks.add.delay([1], y=[2])
        assert result.get(timeout=WAIT) == [1, 2]
        assert (result.args, result.kwargs, result.name) == ([[1]], {"y": [2]}, "conformance.add")
        failed = bench.tasks.raise_.delay("own")
        failed.get(timeout=WAIT, propagate=False)
        assert (failed.args, failed.kwargs) == (["own"], {})

    def test_retries_and_states_keep_the_arguments(self, start_bench: Callable[..., Bench], gate: Gate) -> None:
        bench = start_bench(result_extended=True)
        result = bench.tasks.hold_started.delay(gate.port)
        gate.await_arrival()
        assert (result.state, result.args) == ("STARTED", [gate.port])
        bench.backend.store_result(result.id, {"by": "hand"}, "PROGRESS")
        assert (result.state, result.args) == ("PROGRESS", [gate.port])
        gate.let_through()
        result.get(timeout=WAIT)
        assert result.args == [gate.port]

    def test_track_started_everywhere(self, start_bench: Callable[..., Bench], gate: Gate) -> None:
        bench = start_bench(task_track_started=True)
        result = bench.tasks.hold.delay(gate.port)
        gate.await_arrival()
        assert result.state == "STARTED"
        gate.let_through()
        result.get(timeout=WAIT)

    def test_ignore_everything(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(task_ignore_result=True)
        header = [bench.tasks.add.s(n, n) for n in range(3)]
        kept = bench.tasks.total.s().set(ignore_result=False)
        result = chord(header, kept)()
        assert bench.app.AsyncResult(result.id).get(timeout=WAIT) == 6

    @pytest.mark.parametrize(
        ("serializer", "value"),
        [
            ("pickle", {1: (2, {3}), "when": datetime(2031, 5, 6, tzinfo=timezone.utc)}),
            ("yaml", {"text": "🧊 \u2028", "list": [1, 2.5, None], 7: True}),
            ("msgpack", {"bytes": b"\x00\xff", "list": [1, 2.5, None, "🧊"]}),
            ("json", {"when": datetime(2031, 5, 6, tzinfo=timezone.utc), "id": uuid.UUID(int=7), "bytes": b"\x00\xff"}),
        ],
    )
    def test_serializers(self, start_bench: Callable[..., Bench], serializer: str, value: Any) -> None:
        accepted = list({"json", serializer, "pickle"})
        bench = start_bench(
            result_serializer=serializer,
            result_accept_content=["json", serializer],
            accept_content=accepted,
            task_serializer="pickle",
            result_extended=True,
        )
        result = bench.tasks.echo.delay(value)
        assert result.get(timeout=WAIT) == value
        assert type(result.result) is type(value)
        assert result.args[0] == value
        record = stored(bench, result.id)
        assert record is not None
        assert record.result is not None
        assert serializer in record.result.content_type or serializer == "pickle"
        with pytest.raises(Own) as caught:
            bench.tasks.raise_.delay("own").get(timeout=WAIT)
        assert caught.value.args == ("text", 2, {"key": [None, 1.5]})
        members = group(bench.tasks.echo.s(value) for _ in range(2))()
        members.save()
        restored = GroupResult.restore(members.id, app=bench.client(**_accepts(serializer)).app)
        assert restored.get(timeout=WAIT) == [value, value]
        assert chord([bench.tasks.echo.s(value)], bench.tasks.echo.s())().get(timeout=WAIT) == [value]
        if serializer == "json":
            return
        stranger = bench.client(result_serializer="json", result_accept_content=["json"])
        with pytest.raises(errors.ContentRefused, match="not accepted"):
            stranger.app.AsyncResult(result.id).get(timeout=0)
        with pytest.raises(errors.ContentRefused):
            _ = stranger.app.AsyncResult(result.id).state

    def test_pickled_exceptions(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(
            result_serializer="pickle", result_accept_content=["pickle"], accept_content=["json", "pickle"]
        )
        for name, kind in (("nested", Outer.Nested), ("picky", Picky), ("builtin", ValueError)):
            found = bench.tasks.raise_.delay(name).get(timeout=WAIT, propagate=False)
            assert type(found).__name__ == kind.__name__
        result = chord([bench.tasks.add.s(1, 1), bench.tasks.raise_.s("builtin")], bench.tasks.echo.s())()
        with pytest.raises(ChordError, match="ValueError"):
            alone(bench, result).get(timeout=WAIT)

    def test_compression(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(result_compression="gzip", result_extended=True)
        text = "compressible " * 10_000
        result = bench.tasks.echo.delay(text)
        assert result.get(timeout=WAIT) == text
        assert result.args == [text]
        record = stored(bench, result.id)
        assert record is not None
        assert record.result is not None
        assert "gzip" in record.result.compression
        assert len(record.result.body) < 5_000
        plain = bench.client()
        assert plain.app.AsyncResult(result.id).get(timeout=0) == text, "who does not compress reads it all the same"
        assert chord([bench.tasks.echo.s(1), bench.tasks.ignored.s()], bench.tasks.echo.s())().get(timeout=WAIT)
        with pytest.raises(Own):
            bench.tasks.raise_.delay("own").get(timeout=WAIT)

    def test_encryption(self, start_bench: Callable[..., Bench]) -> None:
        keys = make_key("first")
        bench = start_bench(result_encryption_keys=keys, result_extended=True, result_compression="gzip")
        result = bench.tasks.echo.delay("what nobody else may read")
        assert result.get(timeout=WAIT) == "what nobody else may read"
        assert result.args == ["what nobody else may read"]
        failed = bench.tasks.fail.delay(message="what went wrong")
        with pytest.raises(ValueError, match="what went wrong"):
            failed.get(timeout=WAIT)
        assert "what went wrong" in failed.traceback
        body = chord([bench.tasks.echo.s(1), bench.tasks.ignored.s()], bench.tasks.echo.s())()
        assert body.get(timeout=WAIT) == [1, "for nobody"]
        record = stored(bench, result.id)
        kept = stored(bench, failed.id)
        assert record is not None
        assert kept is not None
        assert (record.state, record.name) == ("SUCCESS", "conformance.echo")
        for payload in (record.result, record.args, kept.result, kept.kwargs):
            assert payload is not None
            assert payload.key_id == "aes-256-gcm:first"
        assert "went wrong" not in str(kept)
        assert "nobody" not in str(record)
        bench.backend.store.put(replace(kept, task_id=(moved := new_id())))
        with pytest.raises(errors.SealBroken, match="altered, or stored for another task"):
            bench.app.AsyncResult(moved).get(timeout=WAIT)
        without = bench.client(result_encryption_keys=make_key("second"))
        with pytest.raises(errors.KeyMissing, match="under the key 'first', and here are second"):
            without.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_expiry(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(result_expires=1.5, result_failure_expires=3600)
        ok, failed = bench.tasks.add.delay(1, 1), bench.tasks.raise_.delay("own")
        members = ResultSet([ok, failed], app=bench.app)
        members.get(timeout=WAIT, propagate=False)
        saved = GroupResult(new_id(), [ok, failed], app=bench.app).save()
        kept = TaskRecord(task_id=new_id(), state="SUCCESS", result=Payload(b"1"), done_at=datetime.now(timezone.utc))
        bench.backend.store.put(kept)

        def is_gone_after_a_cleanup() -> bool:
            bench.app.send_task("celery.backend_cleanup").get(timeout=WAIT)
            return stored(bench, ok.id) is None and bench.backend.store.get_group(saved.id) is None

        eventually(is_gone_after_a_cleanup, "the cleanup of what expired")
        assert stored(bench, failed.id) is not None
        assert stored(bench, kept.task_id) == kept
        record = stored(bench, failed.id)
        assert record is not None
        assert record.expires_at is not None
        assert record.done_at is not None
        assert record.expires_at - record.done_at == timedelta(hours=1)

    @pytest.mark.parametrize("expires", [0, None])
    def test_never(self, start_bench: Callable[..., Bench], expires: Any) -> None:
        bench = start_bench(result_expires=expires)
        ok, failed = bench.tasks.add.delay(1, 1), bench.tasks.raise_.delay("own")
        for one in (ok, failed):
            one.get(timeout=WAIT, propagate=False)
        bench.app.send_task("celery.backend_cleanup").get(timeout=WAIT)
        far = datetime(9999, 1, 1, tzinfo=timezone.utc)
        assert bench.backend.store.delete_expired(far) == 0
        for one in (ok, failed):
            record = stored(bench, one.id)
            assert record is not None
            assert record.expires_at is None

    def test_chord_outlives_the_results_of_its_members(self, start_bench: Callable[..., Bench], gate: Gate) -> None:
        bench = start_bench(result_expires=3600)
        header = [bench.tasks.add.s(1, 1), bench.tasks.hold.s(gate.port, "last")]
        result = chord(header, bench.tasks.echo.s())()
        first, _ = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        while bench.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(hours=2)):
            pass
        # a copy in a cache expires by the clock, and an hour has not passed
        assert getattr(bench.backend.store, "durable", bench.backend.store).get(first.id) is None
        gate.let_through()
        assert alone(bench, result).get(timeout=WAIT) == [2, "last"]

    def test_only_failures_expire(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(result_expires=None, result_failure_expires=60)
        ok, failed = bench.tasks.add.delay(1, 1), bench.tasks.raise_.delay("own")
        revoked = bench.tasks.add.apply_async((1, 1), expires=-1)
        for one in (ok, failed, revoked):
            one.get(timeout=WAIT, propagate=False)
        assert bench.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(minutes=2)) == 2
        assert stored(bench, ok.id) is not None

    def test_failures_never_expire(self, start_bench: Callable[..., Bench]) -> None:
        bench = start_bench(result_expires=60, result_failure_expires=0)
        ok, failed = bench.tasks.add.delay(1, 1), bench.tasks.raise_.delay("own")
        for one in (ok, failed):
            one.get(timeout=WAIT, propagate=False)
        bench.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(minutes=2))
        # a copy in a cache goes by the clock, and a minute has not passed
        kept = getattr(bench.backend.store, "durable", bench.backend.store)
        assert kept.get(ok.id) is None
        assert kept.get(failed.id) is not None


def _accepts(serializer: str) -> dict[str, Any]:
    return {"result_serializer": serializer, "result_accept_content": ["json", serializer]}


def test_every_combination_has_its_place(request: pytest.FixtureRequest) -> None:
    """Every store, pool and broker that is named meets the whole suite or the essentials."""
    combinations: list[Combination] = request.module.COMBINATIONS
    assert len(set(map(str, combinations))) == len(combinations)
    stores: set[StoreUnderTest] = {one.store for one in combinations}
    # one that each process has for itself is of these tests, not of the package
    for store in (store for store in stores if store.shared):
        whole = [one for one in combinations if one.store == store and not one.essentials_only]
        assert whole, f"{store} is not run through the whole suite"
    assert replace(combinations[0]) == combinations[0]
