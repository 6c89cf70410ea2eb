"""A store that is migrated keeps every promise of a store, in every phase."""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.migration.dual_stores import IN_MEMORY, ON_SERVERS


@pytest.fixture(scope="module", params=[*IN_MEMORY, *ON_SERVERS], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
