"""The present of each test of this folder, and stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rootcellar.stores import Store, open_store
from tests.conformance.registered import MYSQL, POSTGRES, SQLITE
from tests.present import _present  # noqa: F401 - a fixture


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL], ids=str)
def sql_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty SQL store."""
    with request.param.new_place(request) as url:
        store = open_store(url)
        yield store
        store.close()
