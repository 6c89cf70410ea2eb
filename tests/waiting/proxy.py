"""A TCP proxy in front of a server: a test can break connections in ways that a server cannot."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

from tests.servers import HOST


class Proxy:
    """Forwards connections to the server of a URL; a context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server = (HOST, parts.port)
        self._listener = socket.create_server((HOST, 0))
        self.url = url.replace(f":{parts.port}", f":{self._listener.getsockname()[1]}")
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        #: how many replies there are until the one that is lost; 0 for no loss
        self._answers_left = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_clients(self) -> None:
        """Close every connection for the client; the server does not notice it."""
        with self._lock:
            for client, _ in self._pairs:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def lose_next_answer(self, number: int = 1) -> None:
        """Close the connection of the server's next reply, without sending the reply: its statement was executed.

        Args:
            number: 1 for the next reply, 2 for the one after it.
        """
        self._answers_left = number

    @property
    def has_lost_the_answer(self) -> bool:
        """Whether the reply of :meth:`lose_next_answer` was lost."""
        return not self._answers_left

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._pairs.append((client, server))
                # the server does not notice that a client closes its side
                for source, sink in ((client, server), (server, client)):
                    is_answer = source is server
                    threading.Thread(target=self._pump, args=(source, sink, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self._answers_left:
                    self._answers_left -= 1
                    if not self._answers_left:
                        sink.shutdown(socket.SHUT_RDWR)
                        return
                sink.sendall(data)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for client, server in self._pairs:
                client.close()
                server.close()
