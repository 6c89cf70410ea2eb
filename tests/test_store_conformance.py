"""Every store of ours keeps every promise of a store; see tests/conformance for how to add one."""

from __future__ import annotations

import pytest

from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import STORES


@pytest.fixture(scope="module", params=STORES, ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
