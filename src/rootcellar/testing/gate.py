"""A gate at which tasks wait until a test opens it: both sides wait for events, without sleeps."""

from __future__ import annotations

import contextlib
import socket

HOST = "127.0.0.1"
#: seconds that either side waits for the other
PATIENCE = 30.0


class Gate:
    """The test's side, a context manager. Tasks call :func:`wait_at` with its ``port``."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(PATIENCE)
        self._waiting: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def await_arrival(self) -> None:
        """Wait until one more task has come to the gate; raises TimeoutError."""
        self._waiting.append(self._listener.accept()[0])

    def let_through(self) -> None:
        """Let every task that has arrived continue."""
        for connection in self._waiting:
            # the task may have been killed
            with contextlib.suppress(OSError):
                connection.sendall(b"go")
            connection.close()
        self._waiting.clear()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._waiting:
            connection.close()


def wait_at(port: int) -> None:
    """Wait, in a task, until the test opens the gate; raises OSError if the test ends without opening it."""
    with socket.create_connection((HOST, port), PATIENCE) as connection:
        if connection.recv(2) != b"go":
            raise ConnectionAbortedError("the test ended without opening the gate")
