"""Every store of ours keeps every promise of a store; see tests/conformance for how to add one."""

from __future__ import annotations

import pytest

from tests.conformance.leaders import TestLeaders  # noqa: F401
from tests.conformance.registered import STORES
from tests.conformance.stores import *  # noqa: F403
from tests.conformance.under_test import StoreUnderTest


@pytest.fixture(scope="module", params=STORES, ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    """The store that the suite runs over."""
    store: StoreUnderTest = request.param
    return store
