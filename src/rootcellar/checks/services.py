"""Which kind of server answers on a port: it is asked only where a login failed for a reason that may be the port."""

from __future__ import annotations

import socket
import struct

#: seconds to wait for a connection, for a server that speaks first, and for an answer
_CONNECT, _GREETING, _ANSWER = 2.0, 0.4, 1.0
_HTTP = b"GET / HTTP/1.0\r\n\r\n"
#: PostgreSQL answers it with one letter
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
#: how servers begin that speak first
_GREETINGS = (
    (b"SSH-", "SSH"),
    (b"220", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
)
#: what is in the answer to a request of HTTP
_ANSWERS = (
    # MongoDB says in HTTP that it is none
    (b"MongoDB", "MongoDB"),
    (b"HTTP/", "HTTP"),
    (b"AMQP", "AMQP (RabbitMQ)"),
    (b"-ERR", "Redis"),
    (b"-NOAUTH", "Redis"),
    (b"-DENIED", "Redis"),
)


def service_of(host: str, port: int) -> str | None:
    """Return what a server is by how it answers; ``None`` for one that is not known."""
    greeting = _heard(host, port, b"", _GREETING)
    found = next((service for begin, service in _GREETINGS if greeting.startswith(begin)), None)
    if found is not None:
        return found
    if _is_mysql(greeting):
        return "MySQL"
    answer = _heard(host, port, _HTTP, _ANSWER)
    found = next((service for words, service in _ANSWERS if words in answer), None)
    if found is not None:
        return found
    if _heard(host, port, _TLS_OF_POSTGRES, _ANSWER) in (b"S", b"N"):
        return "PostgreSQL"
    # the answer has the number of the same kind of message at the same place
    is_mongodb = _heard(host, port, _HELLO_OF_MONGODB, _ANSWER)[12:16] == _HELLO_OF_MONGODB[12:16]
    return "MongoDB" if is_mongodb else None


def _is_mysql(greeting: bytes) -> bool:
    """Tell whether a server began as MySQL does: a packet with its version, or with an error."""
    size = int.from_bytes(greeting[:3], "little")
    return len(greeting) > 5 and greeting[3] == 0 and greeting[4] in (10, 255) and size <= len(greeting)


def _heard(host: str, port: int, sent: bytes, patience: float) -> bytes:
    """Return the first bytes that a server sends, after what is sent to it; none where it says nothing."""
    try:
        with socket.create_connection((host.strip("[]"), port), _CONNECT) as line:
            line.settimeout(patience)
            if sent:
                line.sendall(sent)
            return line.recv(4096)
    except OSError:
        return b""
