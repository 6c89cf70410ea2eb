"""A server of another kind on the port is named; every remedy says what to do."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rootcellar.checks.services import service_of
from tests.checks.helpers import Seen, check, check_broker
from tests.mariadb_server import MariaDBServer
from tests.messages import all_messages
from tests.servers import HOST, MongoServer, PostgresServer, RabbitServer, RedisServer

#: a URL of each system, for a port
URLS = {
    "PostgreSQL": "postgresql://me:pw@{}:{}/db",
    "Redis": "redis://:pw@{}:{}/0",
    "MySQL": "mysql://me:pw@{}:{}/db",
    "MongoDB": "mongodb://me:pw@{}:{}/db",
}


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Do not log."""


@pytest.fixture(scope="module")
def web_port() -> Iterator[int]:
    """The port of a web server."""
    server = ThreadingHTTPServer((HOST, 0), _Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def greeting(text: bytes) -> Iterator[int]:
    """Serve on a port a protocol in which the server speaks first: send a text, and answer nothing."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    line.sendall(text)
                    line.settimeout(5)
                    with suppress(OSError):
                        line.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def assert_named(seen: Seen, service: str, expected: str) -> None:
    assert seen.failures == ["wrong-service"], seen
    assert seen.first == "wrong-service"
    assert f"is a server of {service}, not of {expected}" in seen.of("wrong-service").seen


@pytest.mark.parametrize("expected", URLS)
def test_web_server_on_the_port_is_named(web_port: int, expected: str) -> None:
    assert_named(check(URLS[expected].format(HOST, web_port)), "HTTP", expected)


@pytest.mark.parametrize("expected", URLS)
def test_ssh_on_the_port_is_named(expected: str) -> None:
    with greeting(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n") as port:
        assert_named(check(URLS[expected].format(HOST, port)), "SSH", expected)


def test_web_server_on_a_tls_port_is_named(web_port: int) -> None:
    assert_named(check(f"rediss://:pw@{HOST}:{web_port}/0"), "HTTP", "Redis")
    assert_named(check(f"postgresql://me:pw@{HOST}:{web_port}/db?sslmode=require"), "HTTP", "PostgreSQL")


def test_web_server_in_place_of_a_broker_is_named(web_port: int) -> None:
    assert_named(check_broker(f"amqp://guest:guest@{HOST}:{web_port}//"), "HTTP", "AMQP (RabbitMQ)")


@pytest.fixture
def ports(
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    mysql_server: MariaDBServer,
    mongo_server: MongoServer,
    rabbit_server: RabbitServer,
) -> dict[str, int]:
    """The port of a server of each kind."""
    return {
        "PostgreSQL": postgres_server.port,
        "Redis": redis_server.port,
        "MySQL": mysql_server.port,
        "MongoDB": mongo_server.port,
        "AMQP (RabbitMQ)": rabbit_server.port,
    }


def test_each_kind_of_server_is_recognised(ports: dict[str, int]) -> None:
    assert {service: service_of(HOST, port) for service, port in ports.items()} == {each: each for each in ports}


@pytest.mark.parametrize(
    ("expected", "service"),
    [
        ("PostgreSQL", "MySQL"),
        ("PostgreSQL", "Redis"),
        ("Redis", "PostgreSQL"),
        ("Redis", "AMQP (RabbitMQ)"),
        ("MySQL", "PostgreSQL"),
        ("MongoDB", "Redis"),
    ],
)
def test_another_database_on_the_port_is_named(ports: dict[str, int], expected: str, service: str) -> None:
    assert_named(check(URLS[expected].format(HOST, ports[service])), service, expected)


def test_silent_server_is_not_named() -> None:
    with greeting(b"\x00\x01\x02") as port:
        assert service_of(HOST, port) is None
        assert check(URLS["Redis"].format(HOST, port)).failures != ["wrong-service"]
    assert service_of(HOST, port) is None, "the server has stopped"


def test_every_advice_names_an_action() -> None:
    """`Fix this first: … -> nothing` would not help."""
    for message in all_messages():
        assert not re.match(r"(?i)nothing\b(?! need be made| was changed)", message.remedy), message
