"""The fixtures of the backend's suite: a running worker and a client's app, which the tests of a module share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness, open_harness
from rootcellar.testing.under_test import MEMORY_BROKER, StoreUnderTest, WorkerUnderTest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test with the workers that the test module names ``WORKERS``."""
    workers: list[WorkerUnderTest] = metafunc.module.WORKERS
    if "worker_under_test" in metafunc.fixturenames:
        runs_always = getattr(metafunc.cls, "for_every_worker", False)
        chosen = [one for one in workers if runs_always or not one.essentials_only]
        metafunc.parametrize("worker_under_test", chosen, ids=str, scope="module")
    if "small_worker" in metafunc.fixturenames:
        stores = dict.fromkeys(one.store for one in workers)
        small = [_small_worker(store, workers) for store in stores]
        metafunc.parametrize("small_worker", small, ids=lambda one: str(one.store), scope="module")


def _small_worker(store: StoreUnderTest, workers: Sequence[WorkerUnderTest]) -> WorkerUnderTest:
    """Return the worker that starts fastest: a process without children where the store and a broker allow it."""
    brokers = [one.broker for one in workers if one.store == store and not one.broker.in_process]
    if store.shared and brokers:
        return WorkerUnderTest(store, "solo", brokers[0])
    return WorkerUnderTest(store, "inside", MEMORY_BROKER)


@pytest.fixture(scope="module")
def harnesses(request: pytest.FixtureRequest) -> Iterator[Callable[[WorkerUnderTest], Harness]]:
    """Start a harness for a worker_under_test when it is first asked for; all end with the module."""
    started: dict[WorkerUnderTest, Harness] = {}
    with ExitStack() as stack:

        def harness_of(worker_under_test: WorkerUnderTest) -> Harness:
            if worker_under_test not in started:
                conf = {"task_default_queue": f"queue-{uuid.uuid4().hex[:8]}"}
                started[worker_under_test] = stack.enter_context(open_harness(request, worker_under_test, **conf))
            return started[worker_under_test]

        yield harness_of


@pytest.fixture
def harness(worker_under_test: WorkerUnderTest, harnesses: Callable[[WorkerUnderTest], Harness]) -> Harness:
    """A running worker, with default settings, and a client for it."""
    return harnesses(worker_under_test).activate()


@pytest.fixture
def start_harness(small_worker: WorkerUnderTest, request: pytest.FixtureRequest) -> Iterator[Callable[..., Harness]]:
    """Start a small worker and a client with the settings given: ``start_harness(result_extended=True)``."""
    with ExitStack() as stack:

        def start(**conf: Any) -> Harness:
            conf = {"task_default_queue": f"queue-{uuid.uuid4().hex[:8]}", **conf}
            return stack.enter_context(open_harness(request, small_worker, **conf))

        yield start


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as opened:
        yield opened
