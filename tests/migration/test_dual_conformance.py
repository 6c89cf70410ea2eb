"""A store that is migrated keeps every promise of a store, in every phase.

Its tables are those of its two stores. The long form runs over real servers, too, and in the phases with one store.
"""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.helpers import HEAVY
from tests.migration.dual_stores import IN_MEMORY, ON_SERVERS, WITH_TWO_STORES

# each of the two stores runs these
del TestTables, TestMirroring, TestStreaming, TestSharedValues  # noqa: F821


@pytest.fixture(scope="module", params=[*IN_MEMORY, *ON_SERVERS] if HEAVY else WITH_TWO_STORES[1:], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
