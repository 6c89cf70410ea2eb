"""A store keeps its promises if every finished task is moved to the older table as soon as it is committed."""

from __future__ import annotations

from typing import Any

import pytest

from rootcellar.testing.suites import store as suite
from rootcellar.testing.suites.store import *  # noqa: F403
from rootcellar.testing.under_test import StoreUnderTest
from tests.older.at_once import OLDER


@pytest.fixture(scope="module")
def under_test() -> StoreUnderTest:
    """The store that the suite runs over."""
    return OLDER


#: these do not depend on where a finished task is kept
TestExpiry: Any = None
TestGroups: Any = None
TestLeaders: Any = None
TestOpening: Any = None
TestSharedValues: Any = None
TestTables: Any = None


class TestReplacing(suite.TestReplacing):
    #: a moved task is not deleted by the cleanup, but with its partition
    test_replaced_record_keeps_its_expiry: Any = None


class TestTasks(suite.TestTasks):
    #: a task that is stored twice at the moment in which it is moved has two rows, until the mover finds them
    test_success_wins_among_threads: Any = None
    test_two_processes_store_the_same_tasks: Any = None
