"""Serves metrics by HTTP: only the path /metrics, only to be read."""

from __future__ import annotations

import logging
import re
import socket
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.metrics.families import Family, exposition
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

PATH = "/metrics"
#: seconds in which a client must send its request and take the answer
CLIENT_SECONDS = 10.0
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


def parse_address(text: str, where: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``. The host may be an IPv6 address in brackets.

    Raises:
        ConfigurationError: it is not an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigurationError(
            f"not an address: {text!r}", where=where, remedy="write HOST:PORT, such as 127.0.0.1:9871"
        )
    host = match["ipv6"] or match["host"]
    if not host:
        raise ConfigurationError(
            f"the address {text!r} has no host",
            where=where,
            remedy="write 127.0.0.1:PORT for this machine only, or 0.0.0.0:PORT for every network of the machine",
        )
    return host, int(match["port"])


class MetricsServer(ThreadingHTTPServer):
    """A server of metrics, which is bound but does not answer yet.

    Args:
        address: the host and the port; port 0 for any free port.
        collect: returns the metrics, for each request.
        where: what gives the address, for messages.

    Raises:
        ConfigurationError: the address cannot be used, for example because another program has it.
    """

    daemon_threads = True
    #: unlike in the base class: a request that is being answered does not delay the end of the program
    block_on_close = False

    def __init__(self, address: tuple[str, int], collect: Callable[[], Iterable[Family]], where: str) -> None:
        self.collect = collect
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            super().__init__(address, _Handler)
        except (OSError, UnicodeError) as exc:
            raise ConfigurationError(
                f"metrics cannot be served at {address[0]}:{address[1]}: {exc}",
                where=where,
                remedy="give a free port, and an address of this machine; each worker needs a port of its own",
            ) from exc

    def server_bind(self) -> None:
        """Bind the address. Unlike the base class, do not ask the name service for the host's name: it may be slow."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        name = self.server_name
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}{PATH}"

    def start(self) -> None:
        """Answer requests in a thread of its own."""
        start_thread(self.serve_forever, "rootcellar-metrics")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the failure of one request: usually the client is gone."""
        level = logging.INFO if isinstance(sys.exc_info()[1], OSError) else logging.WARNING
        logger.log(level, "A request for metrics from %s failed.", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = CLIENT_SECONDS
    #: not the version of Python
    server_version, sys_version = "rootcellar", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"Metrics are at {PATH}.")
            return
        body, content_type = exposition(self.server.collect(), self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
