"""`rootcellar.settings()` on real servers: odd passwords, TLS, and the demo on every backend."""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import chord

import rootcellar
from rootcellar.errors import CertificateRefused
from tests.certificates import Authority
from tests.commands import execute, run
from tests.configuration.helpers import ODD, app_of, settings
from tests.redis_servers import RedisCluster, SecureRedisServer, SentinelSet
from tests.servers import HOST, PostgresServer, RabbitServer, RedisServer, free_port
from tests.workers import ROOT, Worker


@pytest.fixture
def odd_postgres(postgres_server: PostgresServer) -> Iterator[dict[str, str]]:
    """A database whose owner has an odd name and an odd password."""
    name = "odd@user:%/"
    quoted = ODD.replace("'", "''")
    postgres_server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{quoted}'")
    postgres_server.execute(f'CREATE DATABASE "odd db/?#" OWNER "{name}"')
    yield {
        "DB_USER": name,
        "DB_PASSWORD": ODD,
        "DB_HOST": HOST,
        "DB_PORT": str(postgres_server.port),
        "DB_NAME": "odd db/?#",
    }
    postgres_server.execute('DROP DATABASE "odd db/?#" WITH (FORCE)')
    postgres_server.execute(f'DROP ROLE "{name}"')


@pytest.fixture
def odd_redis(new_redis: Callable[..., RedisServer]) -> dict[str, str]:
    """A Redis with an odd password."""
    server = new_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", ODD)
    return {"REDIS_HOST": HOST, "REDIS_PORT": str(server.port), "REDIS_PASSWORD": ODD}


def test_odd_passwords_work_and_workers_find_the_backend(
    odd_postgres: dict[str, str], odd_redis: dict[str, str]
) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **odd_postgres, **odd_redis}
    os.environ.update(env)
    app = app_of(rootcellar.settings())
    with Worker("tests.apps.configured", env=env, concurrency=2) as worker:
        assert app.send_task("tests.apps.configured.add", (2, 3)).get(timeout=20) == 5
        header = [app.signature("tests.apps.configured.add", (i, i)) for i in range(4)]
        assert chord(header, app=app)(app.signature("tests.apps.configured.total")).get(timeout=20) == 12
        here = app.send_task("tests.apps.configured.backend_here").get(timeout=60)
        log = worker.tail(1000)
    # the worker's child, and the process that it starts
    assert here.split()[0] == "rootcellar+postgresql:"
    assert here.split()[1] == app.backend.as_uri()
    assert ODD not in log
    history = run("history", "--json", env=env)
    assert "tests.apps.configured.add" in {record["name"] for record in json.loads(history.out)}


@pytest.fixture
def server_of(request: pytest.FixtureRequest, odd_redis: dict[str, str]) -> Callable[[str], dict[str, str]]:
    """Start the servers of a backend, and return the variables for them; the broker is Redis."""

    def start(name: str) -> dict[str, str]:
        if name in ("postgres", "hybrid"):
            return {**odd_redis, **request.getfixturevalue("odd_postgres")}
        if name == "mysql":
            server = request.getfixturevalue("mysql_server")
            url = urlsplit(request.getfixturevalue("mysql_url"))
            login = {"DB_USER": server.user, "DB_PASSWORD": server.password, "DB_NAME": url.path[1:]}
            return {**odd_redis, **login, "DB_HOST": HOST, "DB_PORT": str(url.port)}
        if name == "mongodb":
            url = urlsplit(request.getfixturevalue("mongo_server").new_database())
            return {**odd_redis, "MONGODB_HOST": f"{HOST}:{url.port}", "MONGODB_DB": url.path[1:]}
        return odd_redis

    return start


def test_redis_with_tls_is_configured_by_variables(secure_redis_server: SecureRedisServer) -> None:
    server = secure_redis_server
    found = settings(
        CELERY_RESULT_BACKEND="redis",
        REDIS_HOST=HOST,
        REDIS_PORT=str(server.tls_port),
        REDIS_USERNAME=server.user,
        REDIS_PASSWORD=server.password,
        REDIS_SSL="true",
        REDIS_SSL_CA_CERTS=str(server.authority.certificate),
        REDIS_SSL_CERTFILE=str(server.certificate.certificate),
        REDIS_SSL_KEYFILE=str(server.certificate.key),
    )
    app = app_of(found)
    app.backend.store_result("by-tls", {"kept": True}, "SUCCESS")
    assert app.AsyncResult("by-tls").get(timeout=30) == {"kept": True}
    # the broker has the same certificates, but this user of least privilege may not use it
    with pytest.raises(Exception, match=r"(?i)permission") as refused, app.connection_for_write() as connection:
        connection.default_channel.client.execute_command("CONFIG", "GET", "port")
    assert "certificate" not in str(refused.value)


def test_redis_socket_is_configured_by_variables(secure_redis_server: SecureRedisServer) -> None:
    server = secure_redis_server
    found = settings(
        CELERY_RESULT_BACKEND="redis",
        REDIS_SOCKET=str(server.socket),
        REDIS_USERNAME=server.user,
        REDIS_PASSWORD=server.password,
        REDIS_DB="3",
    )
    app = app_of(found)
    app.backend.store_result("by-socket", 1, "SUCCESS")
    assert app.AsyncResult("by-socket").get(timeout=30) == 1
    with pytest.raises(Exception, match=r"(?i)permission"), app.connection_for_write() as connection:
        connection.default_channel.client.execute_command("CONFIG", "GET", "port")


def test_rabbitmq_with_tls_is_configured_by_variables(new_rabbit: Callable[..., RabbitServer], tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Another CA")
    issued = authority.server("rabbit", "127.0.0.1")
    port, elsewhere = free_port(), "127.0.0.2"  # the certificate is not valid for this address
    new_rabbit(
        **{
            "listeners.ssl.1": f"{HOST}:{port}",
            "listeners.ssl.2": f"{elsewhere}:{port}",
            "ssl_options.cacertfile": str(authority.certificate),
            "ssl_options.certfile": str(issued.certificate),
            "ssl_options.keyfile": str(issued.key),
        }
    )

    def connect(**variables: str) -> None:
        tls = {"BROKER_SSL": "true", "BROKER_PORT": str(port), "BROKER_SSL_CA_CERTS": str(authority.certificate)}
        found = settings(**{"CELERY_BROKER": "rabbitmq", "BROKER_HOST": HOST, **tls, **variables})
        with app_of(found).connection_for_write() as connection:
            connection.connect()

    connect()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|verify failed"):
        connect(BROKER_SSL_CA_CERTS=str(other.certificate))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        connect(BROKER_HOST=elsewhere)


def test_postgres_with_tls_is_configured_by_variables(
    new_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    server = new_postgres()
    issued = authority.server()
    server.serve_tls(issued.certificate, issued.key)
    server.restart()
    login = {"DB_USER": server.user, "DB_PASSWORD": server.password, "DB_HOST": HOST, "DB_PORT": str(server.port)}
    tls = {"DB_NAME": "postgres", "DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": str(authority.certificate)}
    app = app_of(settings(**login, **tls))
    app.backend.store_result("by-tls", 1, "SUCCESS")
    assert server.execute(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rootcellar'"
    ) == [(True,)]
    wrong = Authority(tmp_path / "other", "Another CA")
    with pytest.raises(CertificateRefused, match="wrong CA"):
        app_of(settings(DB_SSLROOTCERT=str(wrong.certificate))).backend.store.check()


@pytest.mark.parametrize("form", ["sentinel", "cluster"])
def test_demo_runs_on_sentinels_and_a_cluster(form: str, redis_server: RedisServer) -> None:
    if form == "sentinel":
        with SentinelSet() as found:
            nodes = ",".join(f"{HOST}:{sentinel.port}" for sentinel in found.sentinels)
            # the broker is the same master
            run_demo({"REDIS_SENTINELS": nodes, "REDIS_SENTINEL_MASTER": found.master_name})
    else:
        with RedisCluster() as cluster:
            nodes = ",".join(f"{HOST}:{node.port}" for node in cluster.nodes[:2])
            run_demo({"REDIS_CLUSTER_NODES": nodes, "BROKER_HOST": HOST, "BROKER_PORT": str(redis_server.port)})


def run_demo(variables: dict[str, str]) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "redis", **variables}
    ended = run("demo", "--once", "-n", "13", env=env, cwd=Path.cwd())
    assert (ended.status, ended.err) == (0, ""), ended
    assert "All are as expected" in ended.out


@pytest.mark.parametrize("name", ["postgres", "redis", "hybrid", "mysql", "sqlite", "mongodb"])
def test_demo_runs_on_each_backend_by_its_name(name: str, server_of: Callable[[str], dict[str, str]]) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": name, **server_of(name)}
    ended = run("demo", "--once", "-n", "13", "--keep", env=env, cwd=Path.cwd())
    assert (ended.status, ended.err) == (0, ""), ended
    assert "All are as expected" in ended.out
    assert "(CELERY_RESULT_BACKEND, from: environment)" in ended.out
    assert ODD not in ended.out
    suggested = re.search("rootcellar (show .*)", ended.out)
    assert suggested
    shown = run(*suggested[1].split(), env=env, cwd=Path.cwd())
    assert (shown.status, shown.err) == (0, ""), shown
    assert "FAILURE" in shown.out
    report = execute([*celery("report")], env={**env, "PYTHONPATH": str(ROOT)})
    assert (report.status, "rootcellar+" in report.out) == (0, True), report


def celery(*args: str) -> list[str]:
    """Return a command line of Celery's, for the app that the environment configures."""
    return [sys.executable, "-m", "celery", "-A", "tests.apps.configured", *args]
