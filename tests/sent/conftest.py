"""A client and a worker for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rootcellar.testing.harness import Harness, open_harness
from rootcellar.testing.suites.backend.fixtures import gate  # noqa: F401 - a fixture
from rootcellar.testing.under_test import WorkerUnderTest
from tests.conformance.registered import POSTGRES, REDIS_BROKER, SQLITE
from tests.present import _present  # noqa: F401 - a fixture


@pytest.fixture(
    scope="package",
    params=[WorkerUnderTest(POSTGRES, "prefork", REDIS_BROKER), WorkerUnderTest(SQLITE, "threads", REDIS_BROKER)],
    ids=str,
)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """A client and a worker that record what they send, and keep the ends of tasks with ignored results."""
    conf = {"result_track_sent": True, "result_history": "ignored too", "result_extended": True}
    with open_harness(request, request.param, **conf) as harness:
        yield harness
