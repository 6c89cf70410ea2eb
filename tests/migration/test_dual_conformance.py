"""A store that is migrated keeps every promise of a store, in every phase.

Its tables are those of its two stores. The short form runs in the phase in which both stores are read; the long form in
every phase, and over real servers.
"""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.helpers import HEAVY
from tests.migration.dual_stores import IN_MEMORY, ON_SERVERS, WITH_TWO_STORES

# each of the two stores runs these
del TestTables, TestMirroring, TestStreaming, TestSharedValues  # noqa: F821


@pytest.fixture(scope="module", params=[*IN_MEMORY, *ON_SERVERS] if HEAVY else WITH_TWO_STORES[1:2], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
