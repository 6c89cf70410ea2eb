"""Fixtures that hand out real servers (see tests/servers.py), each started when a test first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import pytest

from tests import reports
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
    Server,
)

S = TypeVar("S", bound=Server)


def pytest_configure(config: pytest.Config) -> None:
    systems.pytest_configure(config)
    config.pluginmanager.register(reports, "plain-reports")


@contextmanager
def _skipping_what_has_no_tls() -> Iterator[None]:
    try:
        yield
    except BuiltWithoutTls as missing:
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Skip a test whose fixture needs TLS of a chosen server that has none."""
    with _skipping_what_has_no_tls():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that itself needs TLS of a chosen server that has none."""
    with _skipping_what_has_no_tls():
        return (yield)


def _make(kind: Callable[..., S], *args: Any, **settings: Any) -> S:
    try:
        return kind(*args, **settings)
    except MissingServer as missing:
        problem = str(missing)
    pytest.fail(problem, pytrace=False)  # fails, never skips: a test that did not run proves nothing


@contextmanager
def _started(kind: Callable[[], Any]) -> Iterator[Any]:
    """Start several servers that belong together."""
    try:
        servers = kind()
    except MissingServer as missing:
        pytest.fail(str(missing), pytrace=False)
    with servers:
        yield servers


@contextmanager
def _factory(kind: Callable[..., S]) -> Iterator[Callable[..., S]]:
    with ExitStack() as stack:

        def new(*args: Any, **settings: Any) -> S:
            server = _make(kind, *args, **settings)
            stack.enter_context(server)
            return server

        yield new


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL server all tests share: do not stop or configure it, ask for `new_postgres` instead."""
    with _make(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: PostgresServer) -> Iterator[PgBouncerServer]:
    """A PgBouncer in transaction mode before the shared PostgreSQL, with fewer sessions than there are clients."""
    with _make(PgBouncerServer, postgres_server, default_pool_size=4) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MariaDBServer]:
    """The MariaDB server all tests share: do not stop or configure it, ask for `new_mysql` instead."""
    with _make(MariaDBServer) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis server all tests share: do not stop or configure it, ask for `new_redis` instead."""
    with _make(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def kept_redis_server() -> Iterator[RedisServer]:
    """The Redis with an append-only file that all tests share: do not stop or configure it."""
    with _make(RedisServer, appendonly=True, appendfsync="everysec") as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[MongoServer]:
    """The MongoDB server all tests share: do not stop or configure it, ask for `new_mongo` instead."""
    with _make(MongoServer) as server:
        yield server


@pytest.fixture(scope="session")
def secure_redis_server() -> Iterator[SecureRedisServer]:
    """The Redis with TLS, a Unix socket and a user of least privilege that all tests share."""
    with _make(SecureRedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def sentinel_set() -> Iterator[SentinelSet]:
    """The master, replica and Sentinels that all tests share: do not stop any of them."""
    with _started(SentinelSet) as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """The Redis Cluster that all tests share: do not stop any of its nodes."""
    with _started(RedisCluster) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """The RabbitMQ server all tests share: do not stop or configure it, ask for `new_rabbit` instead."""
    with _make(RabbitServer) as server:
        yield server


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


@pytest.fixture
def new_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Start a private PostgreSQL, `new_postgres(auth="trust", max_connections=20)`; closed after the test."""
    with _factory(PostgresServer) as factory:
        yield factory


@pytest.fixture
def new_mysql() -> Iterator[Callable[..., MariaDBServer]]:
    """Start a private MariaDB (about 2 s), `new_mysql(max_allowed_packet="1M")`; closed after the test."""
    with _factory(MariaDBServer) as factory:
        yield factory


@pytest.fixture
def new_pgbouncer() -> Iterator[Callable[..., PgBouncerServer]]:
    """Start a PgBouncer before a PostgreSQL, `new_pgbouncer(server, pool_mode="session")`; closed after the test."""
    with _factory(PgBouncerServer) as factory:
        yield factory


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start a private Redis, `new_redis(appendonly=True)`; closed after the test."""
    with _factory(RedisServer) as factory:
        yield factory


@pytest.fixture
def new_rabbit() -> Iterator[Callable[..., RabbitServer]]:
    """Start a private RabbitMQ (about 5 s), `new_rabbit()`; closed after the test."""
    with _factory(RabbitServer) as factory:
        yield factory


@pytest.fixture
def new_mongo() -> Iterator[Callable[..., MongoServer]]:
    """Start a private MongoDB server, `new_mongo(auth=True)`; closed after the test."""
    with _factory(MongoServer) as factory:
        yield factory
