"""Every store of ours keeps every promise of a store; see tests/conformance for how to add one."""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import REDIS_SENTINEL, REDIS_SOCKET, REDIS_TLS, STORES
from tests.helpers import HEAVY

#: stores that differ from Redis only in how they connect: migrations are tested over them only in long runs
LIKE_REDIS = (REDIS_TLS, REDIS_SOCKET, REDIS_SENTINEL)
MIGRATION = ("TestMirroring", "TestStreaming", "TestSharedValues")
#: by these two, short runs have only the groups in which much depends on the connection
BY_ANOTHER_CONNECTION = (REDIS_TLS, REDIS_SOCKET)
CONNECTED = ("TestOpening", "TestTasks", "TestWatching", "TestChords")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "under_test" not in metafunc.fixturenames:
        return
    is_short = not HEAVY and not metafunc.config.getoption("--write-systems")
    group = "" if metafunc.cls is None else metafunc.cls.__name__
    left_out = LIKE_REDIS if group in MIGRATION else () if group in CONNECTED else BY_ANOTHER_CONNECTION
    stores = [one for one in STORES if not (is_short and one in left_out)]
    metafunc.parametrize("under_test", stores, ids=str, scope="module", indirect=True)


@pytest.fixture(scope="module")
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
