"""Servers and stores for the tests of write-behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from rootcellar.stores import Store, open_store
from rootcellar.stores.hybrid import WriteBehindStore
from tests.behind.helpers import open_behind
from tests.servers import RedisServer


@pytest.fixture
def front_url(kept_redis_server: RedisServer) -> str:
    """URL of an empty Redis that keeps what it acknowledges."""
    kept_redis_server.flush()
    return kept_redis_server.url


@pytest.fixture
def own_redis(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis that a test may kill; it keeps its data."""
    return new_redis(appendonly=True, appendfsync="always")


@pytest.fixture
def client(front_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(front_url) as found:
        yield found


@pytest.fixture
def durable(postgres_url: str) -> Iterator[Store]:
    """The store in PostgreSQL."""
    store = open_store(postgres_url)
    yield store
    store.close()


@pytest.fixture
def behind(postgres_url: str, front_url: str) -> Iterator[WriteBehindStore]:
    """A write-behind store without a drainer: the test moves the results."""
    store = open_behind(postgres_url, front_url)
    yield store
    store.close()
