"""Finds which kind of server answers on a port. It is used only after a failed login that a wrong port can explain."""

from __future__ import annotations

import socket
import struct

#: timeouts for a connection, for a server that sends first, and for an answer
_CONNECT_TIMEOUT_SECONDS, _GREETING_TIMEOUT_SECONDS, _ANSWER_TIMEOUT_SECONDS = 2.0, 0.4, 1.0
_HTTP = b"GET / HTTP/1.0\r\n\r\n"
#: PostgreSQL answers this request with one letter
_TLS_OF_POSTGRES = struct.pack("!ii", 8, 80877103)
_DOCUMENT = b"\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00"
#: a message of MongoDB's, OP_MSG, with {"hello": 1, "$db": "admin"}
_HELLO_OF_MONGODB = (
    struct.pack("<iiiii", 26 + len(_DOCUMENT), 1, 0, 2013, 0)
    + b"\x00"
    + struct.pack("<i", 5 + len(_DOCUMENT))
    + _DOCUMENT
    + b"\x00"
)
#: the first bytes of servers that send first
_GREETINGS = (
    (b"SSH-", "SSH"),
    (b"220", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
)
#: bytes in the answer to an HTTP request
_ANSWERS = (
    # MongoDB answers in HTTP that it is not an HTTP server
    (b"MongoDB", "MongoDB"),
    (b"HTTP/", "HTTP"),
    (b"AMQP", "AMQP (RabbitMQ)"),
    (b"-ERR", "Redis"),
    (b"-NOAUTH", "Redis"),
    (b"-DENIED", "Redis"),
)


def service_of(host: str, port: int) -> str | None:
    """Return the kind of a server, found by its answers, or ``None`` if unknown."""
    greeting = _first_bytes(host, port, b"", _GREETING_TIMEOUT_SECONDS)
    found = next((service for begin, service in _GREETINGS if greeting.startswith(begin)), None)
    if found is not None:
        return found
    if _is_mysql(greeting):
        return "MySQL"
    answer = _first_bytes(host, port, _HTTP, _ANSWER_TIMEOUT_SECONDS)
    found = next((service for words, service in _ANSWERS if words in answer), None)
    if found is not None:
        return found
    if _first_bytes(host, port, _TLS_OF_POSTGRES, _ANSWER_TIMEOUT_SECONDS) in (b"S", b"N"):
        return "PostgreSQL"
    # the answer has the same message type at the same position
    is_mongodb = _first_bytes(host, port, _HELLO_OF_MONGODB, _ANSWER_TIMEOUT_SECONDS)[12:16] == _HELLO_OF_MONGODB[12:16]
    return "MongoDB" if is_mongodb else None


def _is_mysql(greeting: bytes) -> bool:
    """Return True if a greeting is MySQL's: a packet with its version or with an error."""
    size = int.from_bytes(greeting[:3], "little")
    return len(greeting) > 5 and greeting[3] == 0 and greeting[4] in (10, 255) and size <= len(greeting)


def _first_bytes(host: str, port: int, sent: bytes, timeout: float) -> bytes:
    """Send ``sent`` and return the first bytes of the answer; empty if there is none within ``timeout`` seconds."""
    try:
        with socket.create_connection((host.strip("[]"), port), _CONNECT_TIMEOUT_SECONDS) as connection:
            connection.settimeout(timeout)
            if sent:
                connection.sendall(sent)
            return connection.recv(4096)
    except OSError:
        return b""
