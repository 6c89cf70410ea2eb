"""Redis's protocol over a connection that redis-py opened and introduced: packing and parsing, and nothing more.

redis-py knows how to connect (TLS, users, databases). What it does around each command costs more than the server's
whole answer, so the commands themselves go out and come back here.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from typing import Any

#: what the server answers; an error of the server's is a value, so that the answers after it can be read
Reply = Any

_CHUNK = 65_536
#: from this size on a value is received into its own place
_LARGE = 262_144


class ServerError(Exception):
    """The server answered with an error; the text begins with its code."""


class ConnectionLost(OSError):
    """The server closed the connection."""


def pack(*args: bytes | str | int) -> bytes:
    """Return a command as it goes over the wire."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Script:
    """A Lua script: called by its hash, and by its text where the server does not have it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text.encode()
        sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()
        self._by_sha = b"$7\r\nEVALSHA\r\n$40\r\n" + sha.encode() + b"\r\n"
        self._by_text = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(self._text), self._text)

    def call(self, keys: tuple[bytes, ...], *args: bytes | int) -> Call:
        """Return a call of the script."""
        parts = [b"$%d\r\n%d\r\n" % (len(str(len(keys))), len(keys))]
        for key in keys:
            parts.append(b"$%d\r\n%b\r\n" % (len(key), key))
        for arg in args:
            data = arg if isinstance(arg, bytes) else b"%d" % arg
            parts += (b"$%d\r\n" % len(data), data, b"\r\n")
        size = b"*%d\r\n" % (3 + len(keys) + len(args))
        tail = b"".join(parts)
        return Call(size, self._by_sha, self._by_text, tail)


class Call:
    """A call of a script, by its hash (``packed``) or by its text (``in_full``)."""

    __slots__ = ("_by_text", "_size", "_tail", "packed")

    def __init__(self, size: bytes, by_sha: bytes, by_text: bytes, tail: bytes) -> None:
        self.packed = b"".join((size, by_sha, tail))
        self._size = size
        self._by_text = by_text
        self._tail = tail

    def in_full(self) -> bytes:
        return b"".join((self._size, self._by_text, self._tail))


class RespConnection:
    """A connection to a server. Not for two threads at a time.

    Args:
        connection: redis-py's, connected.
        address: whom it leads to, for people.
    """

    __slots__ = ("_at", "_connection", "_data", "_due", "_socket", "address")

    def __init__(self, connection: Any, address: str) -> None:
        self._connection = connection
        self._socket: Any = connection._sock
        self._data = b""
        self._at = 0
        self._due = 0
        self.address = address

    @property
    def is_clean(self) -> bool:
        """Whether every answer was read, so that the next one belongs to the next command."""
        return not self._due and self._connection._sock is not None

    def call(self, packed: bytes) -> Reply:
        """Send one command and return the answer.

        Raises:
            OSError: the connection is gone.
            ServerError: the server refused it.
        """
        self._due += 1
        self._socket.sendall(packed)
        reply = self._reply()
        self._due -= 1
        if type(reply) is ServerError:
            raise reply
        return reply

    def call_all(self, commands: Iterable[bytes]) -> list[Reply]:
        """Send commands together and return the answers; one that is an error is returned as such."""
        whole = list(commands)
        self._due += len(whole)
        self._socket.sendall(b"".join(whole))
        replies = []
        for _ in whole:
            replies.append(self._reply())
            self._due -= 1
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    # -- for one that listens: what comes is not an answer to what was sent

    def send(self, packed: bytes) -> None:
        """Send without waiting for an answer."""
        self._socket.sendall(packed)

    def receive(self) -> list[Reply]:
        """Return what has come, without waiting for more."""
        came = [self._data[self._at :]]
        self._socket.settimeout(0)
        try:
            while chunk := self._socket.recv(_CHUNK):
                came.append(chunk)
            raise ConnectionLost("the server closed the connection")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(self._connection.socket_timeout)
        self._data, self._at = b"".join(came), 0
        found = []
        while _whole(self._data, self._at) is not None:
            found.append(self._reply())
        return found

    def fileno(self) -> int:
        return int(self._socket.fileno())

    # -- reading

    def _reply(self) -> Reply:
        try:
            return self._parsed(self._line())
        except ValueError as exc:
            raise ConnectionLost("the answer is not Redis's protocol") from exc

    def _parsed(self, line: bytes) -> Reply:
        kind = line[:1]
        if kind == b":":
            return int(line[1:])
        if kind == b"$":
            size = int(line[1:])
            return None if size < 0 else self._bulk(size)
        if kind == b"*":
            count = int(line[1:])
            return None if count < 0 else [self._reply() for _ in range(count)]
        if kind == b"+":
            return line[1:]
        if kind == b"-":
            return ServerError(line[1:].decode("utf-8", "replace"))
        raise ConnectionLost("the answer is not Redis's protocol")

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        while end < 0:
            self._fill()
            end = self._data.find(b"\r\n", self._at)
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _bulk(self, size: int) -> bytes:
        if size >= _LARGE:
            return self._large(size)
        while len(self._data) - self._at < size + 2:
            self._fill()
        bulk = self._data[self._at : self._at + size]
        self._at += size + 2
        return bulk

    def _large(self, size: int) -> bytes:
        here = self._data[self._at : self._at + size + 2]
        self._at += len(here)
        place = bytearray(size + 2)
        place[: len(here)] = here
        with memoryview(place) as view:
            filled = len(here)
            while filled < size + 2:
                count = self._socket.recv_into(view[filled:])
                if not count:
                    raise ConnectionLost("the server closed the connection")
                filled += count
        del place[size:]
        return bytes(place)

    def _fill(self) -> bool:
        chunk = self._socket.recv(_CHUNK)
        if not chunk:
            raise ConnectionLost("the server closed the connection")
        self._data = self._data[self._at :] + chunk if self._at < len(self._data) else chunk
        self._at = 0
        return True


def _whole(data: bytes, at: int) -> int | None:
    """Return where the answer that begins at ``at`` ends, ``None`` if it is not whole yet."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind = data[at : at + 1]
    if kind == b"$":
        end += int(data[at + 1 : end]) + 2 if data[at + 1 : at + 2] != b"-" else 0
        return end + 2 if len(data) >= end + 2 else None
    if kind == b"*":
        following: int | None = end + 2
        for _ in range(int(data[at + 1 : end])):
            if following is None or (following := _whole(data, following)) is None:
                return None
        return following
    return end + 2
