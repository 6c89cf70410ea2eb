"""Celery's result API works over a store that is migrated, with real workers: in the long form in each phase."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from rootcellar.stores import open_store
from rootcellar.stores.dual import Phase
from rootcellar.stores.dual.phases import STATE_KEY
from rootcellar.stores.shared_values import SharesValues
from rootcellar.testing.harness import Harness, open_harness
from rootcellar.testing.helpers import able
from rootcellar.testing.suites.backend import (  # noqa: F401
    TestChains,
    TestChords,
    TestEssentials,
    TestGroups,
    TestResults,
    TestStates,
    gate,
    harness,
    pytest_generate_tests,
)
from rootcellar.testing.under_test import StoreUnderTest, WorkerUnderTest
from tests.conformance.registered import POSTGRES, REDIS, REDIS_BROKER
from tests.helpers import HEAVY

if not HEAVY:
    del TestChains, TestChords, TestGroups, TestResults, TestStates

#: the URL of the target, by the URL of the source
_targets: dict[str, str] = {}


@contextmanager
def _places(phase: Phase, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a source, whose results are migrated to a target, in a phase that does not change."""
    with REDIS.new_place(request) as source, POSTGRES.new_place(request) as target:
        # the source has a copy, for processes that get no answer of the target in time
        for url in (target, source):
            with closing(open_store(url)) as store:
                text = json.dumps({"phase": int(phase), "epoch": int(phase) + 1, "direction": "forth"})
                able(store, SharesValues).share(STATE_KEY, text)
        _targets[source] = target
        yield source


def _migrated(phase: Phase) -> StoreUnderTest:
    return StoreUnderTest(name=f"dual redis to postgres in {phase.name}", new_place=partial(_places, phase))


#: some clients of the suite know only the source, which gets no results in the later phases
PHASES = [phase for phase in Phase if phase <= Phase.TARGET_FIRST] if HEAVY else [Phase.SWITCHING]
WORKERS = [WorkerUnderTest(_migrated(phase), "prefork", REDIS_BROKER, essentials_only=not HEAVY) for phase in PHASES]


def _same_place(place: str) -> Callable[[pytest.FixtureRequest], AbstractContextManager[str]]:
    return lambda request: nullcontext(place)


@pytest.fixture(scope="module")
def harnesses(request: pytest.FixtureRequest) -> Iterator[Callable[[WorkerUnderTest], Harness]]:
    """Start a worker whose results are migrated, when it is first asked for."""
    started: dict[WorkerUnderTest, Harness] = {}
    with ExitStack() as stack:

        def harness_of(worker: WorkerUnderTest) -> Harness:
            if worker not in started:
                place = stack.enter_context(worker.store.new_place(request))
                conf: dict[str, Any] = {
                    "task_default_queue": f"queue-{uuid.uuid4().hex[:8]}",
                    "result_backend_transport_options": {"migrate_to": _targets[place]},
                }
                here = replace(worker, store=replace(worker.store, new_place=_same_place(place)))
                started[worker] = stack.enter_context(open_harness(request, here, **conf))
            return started[worker]

        yield harness_of
