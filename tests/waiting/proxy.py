"""A TCP proxy in front of a server, with which a test can lose a connection in ways that a server cannot be told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

from tests.servers import HOST


class Proxy:
    """Passes connections on to the server of a URL; a context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server = (HOST, parts.port)
        self._listener = socket.create_server((HOST, 0))
        self.url = url.replace(f":{parts.port}", f":{self._listener.getsockname()[1]}")
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_clients(self) -> None:
        """End every connection for the client, and leave the server in the belief that it goes on."""
        with self._lock:
            for client, _ in self._pairs:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._pairs.append((client, server))
                # whichever side of the client ends, the server hears nothing of it
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for client, server in self._pairs:
                client.close()
                server.close()
