"""Fixtures of the tests of the Redis store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from rootcellar.stores.redis import RedisStore
from tests.redis.helpers import opened


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with opened(redis_url) as found:
        yield found


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as found:
        yield found
