"""Fixtures of real servers (see tests/servers.py), each started when a test first asks for it.

There are two kinds: a server that all tests share, and a function that starts servers for one test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from tests import reports, seeds, worker_logs
from tests.conformance import systems
from tests.conformance.systems import pytest_addoption  # noqa: F401 - hook
from tests.leaks import pytest_runtest_makereport, pytest_sessionfinish, pytest_testnodedown  # noqa: F401 - hooks
from tests.mariadb_server import MariaDBServer
from tests.redis_servers import RedisCluster, SecureRedisServer, SentinelSet
from tests.servers import (
    BuiltWithoutTls,
    MissingServer,
    MongoServer,
    PgBouncerServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
)

S = TypeVar("S", bound=AbstractContextManager[Any])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    systems.pytest_configure(config)
    config.pluginmanager.register(reports, "plain-reports")
    config.pluginmanager.register(seeds, "seeds")
    config.pluginmanager.register(worker_logs, "worker_logs")


@contextmanager
def _skipping_what_has_no_tls() -> Iterator[None]:
    try:
        yield
    except BuiltWithoutTls as missing:
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Skip a test whose fixture needs TLS, if the chosen server has none."""
    with _skipping_what_has_no_tls():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that itself needs TLS, if the chosen server has none."""
    with _skipping_what_has_no_tls():
        return (yield)


def _start(stack: ExitStack, kind: Callable[..., S], *args: Any, **settings: Any) -> S:
    try:
        server = kind(*args, **settings)
    except MissingServer as missing:
        problem = str(missing)
    else:
        stack.enter_context(server)
        return server
    pytest.fail(problem, pytrace=False)  # fail, not skip: a test that did not run proves nothing


def shared(kind: Callable[..., S], about: str, *needs: str, **settings: Any) -> Any:
    """Return a fixture: a server that all tests share; no test may stop or configure it.

    Args:
        kind: its class.
        about: the description of the fixture.
        needs: the names of the fixtures that the class is called with.
        settings: the settings of the server.
    """

    def fixture(request: pytest.FixtureRequest) -> Iterator[S]:
        with ExitStack() as stack:
            yield _start(stack, kind, *map(request.getfixturevalue, needs), **settings)

    fixture.__doc__ = f"{about}, which all tests share: do not stop or configure it."
    return pytest.fixture(scope="session")(fixture)


def private(kind: Callable[..., S], about: str) -> Any:
    """Return a fixture: a function that starts servers for one test; it takes what the class ``kind`` takes."""

    def fixture() -> Iterator[Callable[..., S]]:
        with ExitStack() as stack:
            yield partial(_start, stack, kind)

    fixture.__doc__ = f"Start {about}; closed after the test."
    return pytest.fixture(fixture)


postgres_server = shared(PostgresServer, "The PostgreSQL server")
pgbouncer_server = shared(
    PgBouncerServer,
    "A PgBouncer in transaction mode before the shared PostgreSQL, with fewer sessions than there are clients",
    "postgres_server",
    default_pool_size=4,
)
mysql_server = shared(MariaDBServer, "The MariaDB server")
redis_server = shared(RedisServer, "The Redis server")
kept_redis_server = shared(
    RedisServer, "The Redis server with an append-only file", appendonly=True, appendfsync="everysec"
)
secure_redis_server = shared(SecureRedisServer, "The Redis with TLS, a Unix socket and a user of least privilege")
sentinel_set = shared(SentinelSet, "The master, replica and Sentinels")
redis_cluster = shared(RedisCluster, "The Redis Cluster")
mongo_server = shared(MongoServer, "The MongoDB server")
rabbit_server = shared(RabbitServer, "The RabbitMQ server")

new_postgres = private(PostgresServer, 'a PostgreSQL, `new_postgres(auth="trust", max_connections=20)`')
new_pgbouncer = private(PgBouncerServer, 'a PgBouncer, `new_pgbouncer(postgres_server, pool_mode="session")`')
new_mysql = private(MariaDBServer, 'a MariaDB (about 2 s), `new_mysql(max_allowed_packet="1M")`')
new_redis = private(RedisServer, "a Redis, `new_redis(appendonly=True)`")
new_mongo = private(MongoServer, "a MongoDB, `new_mongo(auth=True)`")
new_rabbit = private(RabbitServer, "a RabbitMQ (about 5 s), `new_rabbit()`")


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database, removed after the test: postgresql://user:password@127.0.0.1:port/name."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def mysql_url(mysql_server: MariaDBServer) -> Iterator[str]:
    """URL of an empty database, removed after the test: mysql://user:password@127.0.0.1:port/name."""
    url = mysql_server.create_database()
    yield url
    mysql_server.drop_databases([url.rpartition("/")[2]])


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the shared Redis, emptied: redis://127.0.0.1:port/0."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def rabbit_url(rabbit_server: RabbitServer) -> str:
    """URL of an empty virtual host of the shared RabbitMQ: amqp://guest:guest@127.0.0.1:port/name."""
    return rabbit_server.create_vhost()
