"""The stores and workers of the conformance suites. To add a store, add entries to ``STORES`` and ``WORKERS``."""

from __future__ import annotations

import itertools
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

import psycopg
import pymysql
import pytest
import redis
from pymysql.constants import CLIENT

from rootcellar.stores.mysql.url import connection_settings
from rootcellar.stores.sqlite.driver import database_path
from rootcellar.testing.memory import forget_place
from rootcellar.testing.under_test import MEMORY_BROKER, Broker, StoreUnderTest, WorkerUnderTest
from tests.servers import IN_URL, RedisServer


@contextmanager
def sqlite_file(request: pytest.FixtureRequest) -> Iterator[str]:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("sqlite")
    yield f"sqlite:///{folder}/results.sqlite3"


def run_on_sqlite(url: str, script: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database_path(url))) as connection:
        if ";" in script:
            connection.executescript(script)
            return []
        return connection.execute(script).fetchall()


@contextmanager
def postgres_database(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


@contextmanager
def postgres_database_through_pgbouncer(request: pytest.FixtureRequest) -> Iterator[str]:
    pooler = request.getfixturevalue("pgbouncer_server")
    with postgres_database(request) as url:
        yield pooler.through(url)


def run_on_postgres(url: str, script: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(script.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def redis_database(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from _database_of(request.getfixturevalue("redis_server"))


@contextmanager
def redis_over_tls(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with a client certificate, and a user of least privilege."""
    server = request.getfixturevalue("secure_redis_server")
    yield from _database_of(server, server.tls_url)


@contextmanager
def redis_over_socket(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("secure_redis_server")
    yield from _database_of(server, server.socket_url)


@contextmanager
def redis_sentinel(request: pytest.FixtureRequest) -> Iterator[str]:
    servers = request.getfixturevalue("sentinel_set")
    yield from _database_of(servers.servers[0], servers.database_url)


@contextmanager
def redis_cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """A part of a Cluster's only database, with its own prefix of keys."""
    cluster = request.getfixturevalue("redis_cluster")
    yield f"{cluster.url}?global_keyprefix=place{next(_database_numbers)}"


def _database_of(server: RedisServer, url_of: Callable[[int], str] | None = None) -> Iterator[str]:
    """Yield one of a server's many databases, and empty it at the end."""
    number = next(_database_numbers)
    yield (url_of or server.database_url)(number)
    with redis.Redis.from_url(server.database_url(number)) as client:
        client.flushdb()


_database_numbers = itertools.count(1)


@contextmanager
def mysql_database(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("mysql_server")
    before = server.databases()
    yield server.create_database()
    # a test may have created tables in other databases, which MySQL uses like schemas
    server.drop_databases(server.databases() - before)


def run_on_mysql(url: str, script: str) -> list[tuple[Any, ...]]:
    settings = connection_settings(url, {"client_flag": CLIENT.MULTI_STATEMENTS})
    connection = pymysql.connect(**settings, autocommit=True)
    with connection, connection.cursor() as cursor:
        cursor.execute(script)
        while cursor.nextset():
            pass
        return list(cursor.fetchall())


@contextmanager
def memory_place(request: pytest.FixtureRequest) -> Iterator[str]:
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    forget_place(url)


@contextmanager
def mongo_database(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("mongo_server")
    url = server.new_database()
    yield url
    server.drop_database(url)


@contextmanager
def hybrid_of_postgres_and_redis(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL database with a Redis database in front; the password is in a file, as a query has none."""
    with _postgres_and_redis(request, "redis_server") as settings:
        yield f"hybrid://?{urlencode(settings)}"


@contextmanager
def write_behind(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same in the mode write-behind; Redis has an append-only file."""
    with _postgres_and_redis(request, "kept_redis_server") as settings:
        yield f"hybrid://?{urlencode({**settings, 'mode': 'write-behind'})}"


@contextmanager
def _postgres_and_redis(request: pytest.FixtureRequest, redis_server: str) -> Iterator[dict[str, str]]:
    server = request.getfixturevalue("postgres_server")
    passwords = request.getfixturevalue("tmp_path_factory").mktemp("hybrid") / "pgpass"
    passwords.touch(0o600)
    escaped = server.password.replace("\\", r"\\").replace(":", r"\:")
    passwords.write_text(f"*:*:*:*:{escaped}\n")
    url = server.create_database()
    durable = f"{url.replace(f':{IN_URL}@', '@')}?passfile={passwords}"
    with contextmanager(_database_of)(request.getfixturevalue(redis_server)) as cache:
        yield {"durable_url": durable, "cache_url": cache}
    server.drop_database(url)


def run_on_hybrid(url: str, script: str) -> list[tuple[Any, ...]]:
    return run_on_postgres(dict(parse_qsl(url.partition("?")[2]))["durable_url"], script)


SQLITE = StoreUnderTest(name="sqlite", new_place=sqlite_file, run_sql=run_on_sqlite)
POSTGRES = StoreUnderTest(name="postgres", new_place=postgres_database, run_sql=run_on_postgres)
#: in transaction mode
PGBOUNCER = StoreUnderTest(name="pgbouncer", new_place=postgres_database_through_pgbouncer, run_sql=run_on_postgres)
MYSQL = StoreUnderTest(
    name="mysql",
    new_place=mysql_database,
    run_sql=run_on_mysql,
    text_type="char",
    odd_names_refused=("beyond unicode's first plane",),
)
MEMORY = StoreUnderTest(name="memory", new_place=memory_place, shared=False)
REDIS = StoreUnderTest(name="redis", new_place=redis_database)
HYBRID = StoreUnderTest(name="hybrid", new_place=hybrid_of_postgres_and_redis, run_sql=run_on_hybrid)
WRITE_BEHIND = StoreUnderTest(name="write-behind", new_place=write_behind, in_tables_later=True)
MONGO = StoreUnderTest(name="mongodb", new_place=mongo_database, largest=16 << 20)
REDIS_TLS = StoreUnderTest(name="redis-tls", new_place=redis_over_tls)
REDIS_SOCKET = StoreUnderTest(name="redis-socket", new_place=redis_over_socket)
REDIS_SENTINEL = StoreUnderTest(name="redis-sentinel", new_place=redis_sentinel)
REDIS_CLUSTER = StoreUnderTest(name="redis-cluster", new_place=redis_cluster)

STORES = [
    SQLITE,
    POSTGRES,
    PGBOUNCER,
    MYSQL,
    REDIS,
    REDIS_TLS,
    REDIS_SOCKET,
    REDIS_SENTINEL,
    REDIS_CLUSTER,
    MONGO,
    HYBRID,
    WRITE_BEHIND,
    MEMORY,
]


@contextmanager
def new_redis_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new Redis, so that one worker's messages do not slow another's."""
    with RedisServer() as server:
        yield server.url


@contextmanager
def new_rabbit_host(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("rabbit_server").create_vhost()


REDIS_BROKER = Broker("redis", new_redis_broker)
RABBIT_BROKER = Broker("rabbit", new_rabbit_host)

#: every store, pool and broker is combined with every other at least once; small workers use a store's first broker
WORKERS = [
    WorkerUnderTest(SQLITE, "prefork", REDIS_BROKER),
    WorkerUnderTest(SQLITE, "threads", RABBIT_BROKER, essentials_only=True),
    WorkerUnderTest(POSTGRES, "threads", REDIS_BROKER),
    WorkerUnderTest(POSTGRES, "prefork", RABBIT_BROKER),
    WorkerUnderTest(POSTGRES, "gevent", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(POSTGRES, "eventlet", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(POSTGRES, "solo", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(PGBOUNCER, "prefork", REDIS_BROKER),
    WorkerUnderTest(PGBOUNCER, "gevent", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(MYSQL, "prefork", REDIS_BROKER),
    WorkerUnderTest(MYSQL, "threads", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(MYSQL, "gevent", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(MYSQL, "eventlet", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(MYSQL, "inside", MEMORY_BROKER, essentials_only=True),
    WorkerUnderTest(SQLITE, "inside", MEMORY_BROKER, essentials_only=True),
    WorkerUnderTest(MEMORY, "inside", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(REDIS, "prefork", REDIS_BROKER),
    WorkerUnderTest(REDIS, "threads", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(REDIS, "inside", MEMORY_BROKER, essentials_only=True),
    WorkerUnderTest(REDIS, "gevent", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(REDIS, "eventlet", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(REDIS_SENTINEL, "inside", REDIS_BROKER),
    WorkerUnderTest(REDIS_CLUSTER, "threads", REDIS_BROKER),
    WorkerUnderTest(REDIS_CLUSTER, "prefork", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(MONGO, "prefork", REDIS_BROKER),
    WorkerUnderTest(HYBRID, "prefork", REDIS_BROKER),
    WorkerUnderTest(HYBRID, "threads", REDIS_BROKER, essentials_only=True),
    WorkerUnderTest(WRITE_BEHIND, "prefork", REDIS_BROKER),
]
