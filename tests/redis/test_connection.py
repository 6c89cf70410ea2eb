"""Replies that arrive in parts, errors among other replies, and replies of other protocols."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rootcellar.stores.base import StoreOptions
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.address import read_address
from rootcellar.stores.redis.connection import ConnectionLost, RespConnection, Script, ServerError, pack

LARGE = bytes(range(256)) * 20_000


class Opened:
    """Stands for redis-py's connection. Only its timeout and ``disconnect`` are used."""

    socket_timeout = 5.0

    def disconnect(self) -> None:
        """Leave the socket to the fixture."""


@pytest.fixture
def ends() -> Iterator[tuple[RespConnection, socket.socket]]:
    """Return a connection, and the server's end of its socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(Opened.socket_timeout)
    with ours, theirs:
        yield RespConnection(Opened(), ours, "server"), theirs


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", -7),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (bulk(b"\x00\r\n\xff"), b"\x00\r\n\xff"),
        (b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n", [1, [b"a"], None]),
    ],
)
def test_reply_of_each_kind_is_read(ends: tuple[RespConnection, socket.socket], sent: bytes, reply: Any) -> None:
    line, server = ends
    server.sendall(sent)
    assert line.call(pack(b"GET", "näme", 3)) == reply
    assert server.recv(100) == "*3\r\n$3\r\nGET\r\n$5\r\nnäme\r\n$1\r\n3\r\n".encode()
    assert line.is_clean


def test_error_among_replies_is_returned_and_the_others_are_read(ends: tuple[RespConnection, socket.socket]) -> None:
    line, server = ends
    server.sendall(b":1\r\n-MOVED 7 \xff:1\r\n*2\r\n-NOPERM x\r\n:3\r\n")
    one, error, inner = line.call_all([pack(b"A"), pack(b"B"), pack(b"C")])
    assert (one, type(error), str(error)) == (1, ServerError, "MOVED 7 \N{REPLACEMENT CHARACTER}:1")
    assert (type(inner[0]), inner[1]) == (ServerError, 3)
    assert line.is_clean


def test_error_alone_is_raised_and_leaves_the_connection_usable(ends: tuple[RespConnection, socket.socket]) -> None:
    line, server = ends
    server.sendall(b"-NOSCRIPT No matching script\r\n")
    with pytest.raises(ServerError, match=r"^NOSCRIPT No matching script$"):
        line.call(pack(b"EVALSHA"))
    assert line.is_clean


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"", b"$9\r\nhalf"])
def test_connection_with_no_complete_reply_is_lost(ends: tuple[RespConnection, socket.socket], sent: bytes) -> None:
    line, server = ends
    server.sendall(sent)
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLost):
        line.call(pack(b"PING"))
    assert not line.is_clean


def test_connection_without_a_reply_in_time_is_not_used_again(ends: tuple[RespConnection, socket.socket]) -> None:
    line, server = ends
    line._socket.settimeout(0.01)
    server.sendall(b"$3\r\nab")
    with pytest.raises(TimeoutError):
        line.call(pack(b"PING"))
    assert not line.is_clean


def test_messages_are_received_as_they_arrive(ends: tuple[RespConnection, socket.socket]) -> None:
    line, server = ends
    sent = b"*3\r\n" + bulk(b"message") + bulk(b"channel") + bulk(LARGE[:3_000])
    assert line.receive() == []
    server.sendall(sent + sent[:100])
    assert line.receive() == [[b"message", b"channel", LARGE[:3_000]]]
    server.sendall(sent[100:] + b"+PONG\r\n")
    assert line.receive() == [[b"message", b"channel", LARGE[:3_000]], b"PONG"]
    assert line._socket.gettimeout() == Opened.socket_timeout
    server.close()
    with pytest.raises(ConnectionLost):
        line.receive()


def test_large_value_of_a_real_server_is_read_whole(redis_url: str) -> None:
    address = read_address(redis_url, StoreOptions())
    line = driver.connect(address, *address.hosts[0])
    try:
        assert line.call_all([pack(b"SET", b"large", LARGE), pack(b"GET", b"large")]) == [b"OK", LARGE]
    finally:
        line.close()
    assert not line.is_clean


def test_script_is_called_by_its_hash_or_by_its_text() -> None:
    script = Script("one", "return 1")
    call = script.call((b"k",), 5, b"\xff")
    assert call.packed == pack(b"EVALSHA", script.sha, 1, b"k", 5, b"\xff")
    assert call.in_full() == pack(b"EVAL", b"return 1", 1, b"k", 5, b"\xff")
