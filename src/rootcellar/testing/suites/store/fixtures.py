"""The fixtures of the store's suite. A test gets a store in a place that its module shares, or its own place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rootcellar.stores.base import Store, StoreOptions
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import StoreUnderTest


@pytest.fixture(scope="session")
def processes() -> Iterator[SyncedProcesses]:
    with SyncedProcesses() as found:
        yield found


@pytest.fixture(scope="module")
def place(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the place that the tests of a module share."""
    with under_test.new_place(request) as url:
        yield url


@pytest.fixture(scope="module")
def store(under_test: StoreUnderTest, place: str) -> Iterator[Store]:
    """A store in the shared place: use new ids, and change nothing else."""
    found = under_test.open(place, None)
    yield found
    found.close()


@pytest.fixture
def new_place(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a place that only this test uses."""
    with under_test.new_place(request) as url:
        yield url


@pytest.fixture
def open_new(under_test: StoreUnderTest, new_place: str) -> Iterator[Callable[..., Store]]:
    """Open a store in the new place, ``open_new(create_tables=False)``."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> Store:
            found = under_test.open(new_place, StoreOptions(**options))
            stack.callback(found.close)
            return found

        yield open_one


@pytest.fixture
def new_store(open_new: Callable[..., Store]) -> Store:
    """A store in a place that only this test uses."""
    return open_new()


@pytest.fixture
def shared(under_test: StoreUnderTest) -> None:
    """The test needs a place that several processes can use."""
    if not under_test.shared:
        pytest.skip(f"{under_test} is used by one process only")
