"""A store that is migrated from one server to another: waiting, chords and groups."""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import (  # noqa: F401
    TestChords,
    TestGroups,
    TestWatching,
    new_place,
    new_store,
    open_new,
    place,
    processes,
    shared,
    store,
)
from rootcellar.testing.under_test import StoreUnderTest
from tests.migration.dual_stores import ON_SERVERS


@pytest.fixture(scope="module", params=ON_SERVERS[2:], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    found: StoreUnderTest = request.param
    return found
