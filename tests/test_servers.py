"""The servers of the tests do what the other tests need."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import psutil
import psycopg
import pytest
import redis

from tests import servers
from tests.certificates import Authority
from tests.helpers import HEAVY
from tests.redis_servers import SecureRedisServer, TlsSentinelSet
from tests.servers import (
    HOST,
    IN_URL,
    BuiltWithoutTls,
    MissingServer,
    PgBouncerServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    ServerError,
    die_with_parent,
    wait_gone,
)

Connection: Any = amqp.Connection  # a package without types
Message: Any = amqp.Message
ROOT = Path(__file__).resolve().parent.parent


def family(pid: int) -> list[psutil.Process]:
    main = psutil.Process(pid)
    return [main, *main.children(recursive=True)]


def test_postgres_keeps_committed_rows_over_kill(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    port, processes = server.port, family(server.pid)
    assert len(processes) > 3, "the postmaster has children"
    server.execute("CREATE TABLE kept (n int)")
    server.execute("INSERT INTO kept VALUES (1)")
    with psycopg.connect(server.url) as connection:
        connection.execute("INSERT INTO kept VALUES (2)")  # not committed
        server.kill()
        assert wait_gone(processes, 0)
        assert not server.running
        assert (server.data / "postmaster.pid").exists(), "no clean-up, as after a power cut"
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.start()
    assert server.port == port
    assert server.execute("SELECT n FROM kept") == [(1,)]
    assert "automatic recovery in progress" in server.log.read_text()


def test_postgres_is_durable_and_takes_settings(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(application_name="it's")
    show = {name: server.execute(f"SHOW {name}") for name in ("fsync", "max_connections", "application_name")}
    assert show == {"fsync": [("on",)], "max_connections": [("200",)], "application_name": [("it's",)]}
    server.configure(max_connections=17, fsync=False)
    assert server.execute("SHOW max_connections") == [("200",)], "settings wait for a restart"
    server.restart()
    assert server.execute("SHOW max_connections") == [("17",)]
    assert server.execute("SHOW fsync") == [("off",)]


def test_postgres_requires_the_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_server.url.replace(f":{IN_URL}@", ":wrong@"))
    assert postgres_server.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(True,)]


def test_postgres_with_trust_needs_no_password(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(auth="trust")
    assert IN_URL not in server.url
    assert server.execute("SELECT 1") == [(1,)]


def test_paused_postgres_does_not_reply(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    with psycopg.connect(server.url) as connection:
        server.pause()
        assert {process.status() for process in family(server.pid)} == {psutil.STATUS_STOPPED}
        with socket.create_connection((HOST, server.port), timeout=5) as newcomer:  # the kernel still accepts
            newcomer.settimeout(0.2)
            newcomer.sendall(bytes.fromhex("00000008 04d2162f"))  # asks for encryption
            with pytest.raises(TimeoutError):
                newcomer.recv(1)
            server.resume()
            newcomer.settimeout(10)
            assert newcomer.recv(1) == b"N"
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.pause()
    server.stop()  # also a paused server can be stopped
    assert not server.running


def test_pgbouncer_shares_sessions(
    new_pgbouncer: Callable[..., PgBouncerServer], postgres_server: PostgresServer, postgres_url: str
) -> None:
    pooler = new_pgbouncer(postgres_server)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(pooler.through(postgres_url).replace(f":{IN_URL}@", ":wrong@"))
    sessions = set()
    for _ in range(3):
        with psycopg.connect(pooler.through(postgres_url), autocommit=True) as connection:
            sessions.add(connection.execute("SELECT pg_backend_pid(), current_database()").fetchone())
    assert [name for _, name in sessions] == [postgres_url.rpartition("/")[2]], "one session for three clients"
    pooler.restart()
    with psycopg.connect(pooler.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("turn", [1, 2])
def test_postgres_url_is_an_empty_database(postgres_url: str, turn: int) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE only_here (n int)")


def test_postgres_emptied_database_is_like_a_new_one(postgres_server: PostgresServer) -> None:
    """A database that a test has used is emptied for the next one."""

    def all_of(name: str) -> list[Any]:
        schemas = postgres_server.execute("SELECT nspname, nspowner, nspacl::text FROM pg_namespace ORDER BY 1", name)
        kinds = ("pg_class", "pg_proc", "pg_type", "pg_rewrite", "pg_constraint", "pg_depend")
        counts = [postgres_server.execute(f"SELECT count(*) FROM {kind}", name) for kind in kinds]  # noqa: S608
        return [schemas, counts]

    used = postgres_server.create_database()
    with psycopg.connect(used, autocommit=True) as connection:
        connection.execute(
            'CREATE TABLE cellar (n serial PRIMARY KEY); CREATE SCHEMA "o\'d"; CREATE TYPE "o\'d".t AS ()'
        )
        postgres_server.drop_database(used)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(used)
    emptied = postgres_server.create_database()
    new = postgres_server.create_database("never_used")
    assert all_of(emptied.rpartition("/")[2]) == all_of("never_used")
    for url in (emptied, new):
        postgres_server.drop_database(url)


@pytest.mark.parametrize(
    "statement",
    ["ALTER DATABASE {} SET work_mem = '1MB'", "REVOKE CONNECT ON DATABASE {} FROM public", "SELECT lo_create(0)"],
)
def test_postgres_changed_database_is_removed(postgres_server: PostgresServer, statement: str) -> None:
    url = postgres_server.create_database()
    before = databases(postgres_server)
    name = url.rpartition("/")[2]
    postgres_server.execute(statement.format(name), name)
    postgres_server.drop_database(url)
    assert databases(postgres_server) == before - {name}


def databases(server: PostgresServer) -> set[str]:
    return {name for (name,) in server.execute("SELECT datname FROM pg_database")}


def test_postgres_killed_server_leaves_no_shared_memory() -> None:
    with PostgresServer() as server:
        segment = (server.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        server.kill()
        assert segment in shared_memory()
    assert segment not in shared_memory()
    assert not server.folder.exists()


def shared_memory() -> list[str]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line.split()[1] for line in lines]


def test_redis_keeps_nothing_by_default(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None


def test_redis_appendonly_keeps_keys_over_kill(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    server.configure(appendonly=True, maxmemory_policy="allkeys-lru")
    server.restart()
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        client.set("key", "value")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        server.start()
        assert client.get("key") == b"value"
        server.flush()
        assert client.get("key") is None


def test_paused_redis_does_not_reply(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()
    server.pause()
    server.kill()
    assert not server.running


def test_redis_that_cannot_start_is_an_error_with_its_log(new_redis: Callable[..., RedisServer]) -> None:
    with pytest.raises(ServerError, match=r"(?s)ended with status 1 .*no-such-setting"):
        new_redis(no_such_setting=1)


def test_rabbit_restarts_and_keeps_durable_messages(
    new_rabbit: Callable[..., RabbitServer],
) -> None:
    server = new_rabbit(heartbeat=77)
    processes = family(server.pid)
    with Connection(f"127.0.0.1:{server.port}") as connection:
        assert connection.server_heartbeat == 77
        server.pause()
        server.resume()
        channel = connection.channel()
        channel.confirm_select()
        channel.queue_declare("kept", durable=True, auto_delete=False)
        message = Message("hello", delivery_mode=2)
        channel.basic_publish_confirm(message, routing_key="kept")
    addresses = {found.laddr.ip for process in processes for found in process.net_connections("inet")}
    assert addresses == {"127.0.0.1"}
    server.stop()
    assert wait_gone(processes, 0)
    server.start()
    with Connection(f"127.0.0.1:{server.port}") as connection:
        assert connection.channel().basic_get("kept").body == "hello"
    if HEAVY:
        # a queue that was just declared may be lost by a kill: the node writes its tables a little later
        processes = family(server.pid)
        server.kill()
        assert wait_gone(processes, 0)
        server.start()
        with Connection(f"127.0.0.1:{server.port}") as connection:
            assert connection.channel().is_open
    epmd = server._epmd_process
    assert epmd is not None
    server.stop()
    assert epmd.poll() is not None, "the name server ends with the node"


def test_rabbit_url_is_an_empty_virtual_host(rabbit_url: str, rabbit_server: RabbitServer) -> None:
    other = rabbit_server.create_vhost()
    assert other != rabbit_url
    for url, found in ((rabbit_url, 1), (other, 0)):
        with Connection(f"127.0.0.1:{rabbit_server.port}", virtual_host=url.rpartition("/")[2]) as connection:
            channel = connection.channel()
            if url == rabbit_url:
                channel.confirm_select()
                channel.queue_declare("here", auto_delete=False)
                channel.basic_publish_confirm(Message("hello"), routing_key="here")
            assert channel.queue_declare("here", auto_delete=False).message_count == found
    with pytest.raises(ValueError, match="simple name"):
        rabbit_server.create_vhost('"')


def test_servers_end_with_a_killed_test_run() -> None:
    program = (
        "import time; from tests.servers import *; servers = [RedisServer(), PostgresServer()];"
        "[server.start() for server in servers];"
        "print(*[server.pid for server in servers], *[server.folder for server in servers], flush=True);"
        "time.sleep(60)"
    )
    run = subprocess.Popen(die_with_parent([sys.executable, "-c", program]), cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        first, second, *folders = run.stdout.readline().decode().split()
        processes = family(int(first)) + family(int(second))
        run.kill()
        run.wait()
        assert wait_gone(processes, 10)
    assert len(processes) > 4
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("kind", "package"),
    [(PostgresServer, "postgresql"), (RedisServer, "redis-server"), (RabbitServer, "rabbitmq-server")],
)
def test_missing_server_names_the_package(
    kind: type[PostgresServer | RedisServer | RabbitServer], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CHOSEN_POSTGRES", "/nowhere")
    monkeypatch.setattr("tests.servers.find_program", lambda program: None)
    with pytest.raises(MissingServer, match=rf"^[^\n]*apt-get install {package}$"):
        kind()


def test_missing_pgbouncer_names_the_package(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.find_program", lambda program: None)
    with pytest.raises(MissingServer, match=r"^[^\n]*apt-get install pgbouncer$"):
        PgBouncerServer(postgres_server)


@pytest.fixture
def redis_without_tls(tmp_path: Path) -> Path:
    """A folder with a Redis that behaves like one without TLS."""
    program = tmp_path / "redis-server"
    refusal = 'echo "Bad directive or wrong number of arguments"; exit 1'
    real = shutil.which("redis-server")
    program.write_text(f'#!/bin/sh\ncase "$*" in *tls-port*) {refusal};; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    return tmp_path


def test_chosen_redis_without_tls_names_the_missing_tls(
    redis_without_tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CHOSEN_REDIS", str(redis_without_tls))
    with SecureRedisServer() as server:
        with redis.Redis(unix_socket_path=str(server.socket), username=server.user, password=server.password) as client:
            assert client.ping()
        with pytest.raises(BuiltWithoutTls, match=r"^this Redis is built without TLS$"):
            server.tls_url()
    with pytest.raises(BuiltWithoutTls):
        TlsSentinelSet()


def test_installed_redis_without_tls_fails(redis_without_tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "CHOSEN_REDIS", None)
    monkeypatch.setenv("PATH", str(redis_without_tls), prepend=os.pathsep)
    with pytest.raises(MissingServer, match=r"built without TLS: on Debian, apt-get install redis-server$"):
        RedisServer(tls_port=1)


@pytest.mark.skipif(bool(servers.CHOSEN_REDIS), reason="a Redis was chosen, which may be without TLS")
def test_installed_redis_has_tls(new_redis: Callable[..., RedisServer]) -> None:
    assert new_redis().has_tls


@pytest.mark.skipif(bool(servers.CHOSEN_POSTGRES), reason="a PostgreSQL was chosen, which may be without TLS")
def test_installed_postgres_has_tls(new_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    issued = Authority(tmp_path).server()
    new_postgres().serve_tls(issued.certificate, issued.key)


def test_crash_of_a_server_is_not_hidden(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    os.kill(server.pid, signal.SIGKILL)
    assert wait_gone([psutil.Process(server.pid)], 5)
    assert not server.running
    server.restart()
    assert server.running
