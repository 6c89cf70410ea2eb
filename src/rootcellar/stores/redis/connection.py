"""Redis' protocol over a socket that redis-py opened: commands are packed here, and hiredis reads the replies.

redis-py connects and logs in (TLS, users, databases). Its client is not used for commands: its own work for each takes
longer than the server's reply, and its parser removes the code from an error.

hiredis does not pack the commands, for two reasons. It copies each value three times, which is slow for large values.
And it calls ``repr`` of numbers without checking for an error: an exception of a signal handler at this moment, such as
a soft time limit, crashes the process.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from typing import Any

import hiredis

#: a server's reply; an error is returned as a value, so that the replies after it can be read
Reply = Any

#: bytes to receive at a time, and the same for the rest of a large reply
_CHUNK = 65_536
_LARGE_CHUNK = 262_144
#: what hiredis returns while a reply is incomplete
_INCOMPLETE: Any = object()


class ServerError(Exception):
    """The server's reply is an error; the text begins with its code."""


class ConnectionLost(OSError):
    """The server closed the connection, or its reply does not follow Redis' protocol."""


def pack(*args: bytes | str | int) -> bytes:
    """Return a command as bytes to send."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else str(arg).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


def pack_get(key: bytes) -> bytes:
    """Return the command GET. Every read of a result sends it, so it is packed faster than others."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


class Script:
    """A Lua script: called by its hash, and by its text if the server does not have it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: tuple[bytes, ...], *args: bytes | int) -> Call:
        """Return a call of the script."""
        return Call(self, (len(keys), *keys, *args))


class Call:
    """A call of a script, by its hash (``packed``) or by its text (``in_full``)."""

    __slots__ = ("_arguments", "_script", "packed")

    def __init__(self, script: Script, arguments: tuple[bytes | int, ...]) -> None:
        self.packed = pack(b"EVALSHA", script.sha, *arguments)
        self._script = script
        self._arguments = arguments

    def in_full(self) -> bytes:
        return pack(b"EVAL", self._script.text, *self._arguments)


class RespConnection:
    """A connection to a server. Only one thread may use it at a time.

    Args:
        connection: redis-py's connection, connected and logged in.
        opened: the socket that redis-py opened.
        address: the server, for messages.
    """

    __slots__ = ("_connection", "_due", "_is_open", "_reader", "_socket", "address")

    def __init__(self, connection: Any, opened: Any, address: str) -> None:
        self._connection = connection
        self._socket = opened
        self._reader: Any = hiredis.Reader(
            protocolError=ConnectionLost, replyError=ServerError, notEnoughData=_INCOMPLETE
        )
        self._is_open = True
        #: replies that were not read yet
        self._due = 0
        self.address = address

    @property
    def is_clean(self) -> bool:
        """Whether every reply was read, so that the next one belongs to the next command."""
        return not self._due and self._is_open

    def call(self, packed: bytes) -> Reply:
        """Send one command and return the reply.

        Raises:
            OSError: the connection is lost.
            ServerError: the server refused the command.
        """
        self._due += 1
        self._socket.sendall(packed)
        # nothing can have arrived earlier, and most replies arrive whole
        size = self._receive(_CHUNK)
        reply = self._reader.gets()
        if reply is _INCOMPLETE:
            reply = self._read(_LARGE_CHUNK if size == _CHUNK else _CHUNK)
        self._due -= 1
        if type(reply) is ServerError:
            raise reply
        return reply

    def call_all(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together and return the replies. An error among them is returned, not raised."""
        self._due += len(commands)
        self._socket.sendall(b"".join(commands))
        replies = []
        for _ in commands:
            replies.append(self._read())
            self._due -= 1
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._is_open = False
        self._connection.disconnect()

    # -- for a subscriber: the server also sends it messages that are not replies

    def send(self, packed: bytes) -> None:
        """Send without waiting for a reply."""
        self._socket.sendall(packed)

    def receive(self) -> list[Reply]:
        """Return what has arrived, without waiting for more."""
        self._socket.settimeout(0)
        try:
            while True:
                self._receive(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(self._connection.socket_timeout)
        found = []
        while (reply := self._reader.gets()) is not _INCOMPLETE:
            found.append(reply)
        return found

    def fileno(self) -> int:
        return int(self._socket.fileno())

    # -- reading

    def _read(self, size: int = _CHUNK) -> Reply:
        """Return the next reply; receive ``size`` bytes at a time if it is incomplete."""
        while (reply := self._reader.gets()) is _INCOMPLETE:
            if self._receive(size) == size:
                size = _LARGE_CHUNK
        return reply

    def _receive(self, size: int) -> int:
        """Receive at most ``size`` bytes; return how many there were."""
        chunk = self._socket.recv(size)
        if not chunk:
            raise ConnectionLost("the server closed the connection")
        self._reader.feed(chunk)
        return len(chunk)
