"""Stores of every kind, empty, for tests of history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rootcellar.stores import Store, open_store
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import HYBRID, MONGO, MYSQL, POSTGRES, REDIS, SQLITE

#: stores that search by SQL
SQL = [SQLITE, POSTGRES, MYSQL]
ALL = [*SQL, REDIS, MONGO, HYBRID]


@contextmanager
def opened(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[Store]:
    with under_test.new_place(request) as url:
        store = open_store(url)
        try:
            yield store
        finally:
            store.close()
