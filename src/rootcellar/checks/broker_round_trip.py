"""A message that is sent through a broker and received again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from kombu.entity import Exchange, Queue

from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds
from rootcellar.checks.steps import ok, wrong
from rootcellar.checks.target import Target

#: seconds to connect, and until a message must have come back
_CONNECT_PATIENCE = 3.0


_PATIENCE = 2.0


_AMQP = ("amqp", "amqps", "pyamqp")


class RoundTrip:
    """Sends a message through the broker as a client would, and takes it as a worker would.

    Args:
        target: which broker.
    """

    def __init__(self, target: Target) -> None:
        self._app = target.app()
        self.is_blocked = False

    def connect(self) -> Any:
        """Return a new connection. Raises what kombu's transport raises."""
        options = {**(self._app.conf.broker_transport_options or {})}
        if str(self._app.conf.broker_url).partition("://")[0].lower() in _AMQP:
            options |= {"on_blocked": self._note_blocked, "read_timeout": _PATIENCE, "write_timeout": _PATIENCE}
        connection = self._app.connection_for_write(transport_options=options, connect_timeout=_CONNECT_PATIENCE)
        connection.connect()
        return connection

    def look(self, connection: Any) -> Iterator[Finding]:
        """Say whether a message came back."""
        name = f"{self._app.conf.task_default_queue}.check-{uuid4().hex[:12]}"
        channel = connection.channel()
        queue = Queue(name, Exchange(""), name, durable=False, exclusive=True, auto_delete=True)(channel)
        queue.declare()
        try:
            began = time.monotonic()
            connection.Producer(channel).publish({"checked": name}, routing_key=name, exchange="", retry=False)
            message = None
            while message is None and time.monotonic() - began < _PATIENCE and not self.is_blocked:
                message = queue.get(no_ack=True)
                time.sleep(0 if message else 0.005)
            span = time.monotonic() - began
        finally:
            # who is blocked is not answered any more; the queue goes with the connection
            if not self.is_blocked:
                queue.delete()
        if self.is_blocked:
            yield wrong("broker-blocked", "it says that senders are blocked")
        elif message is None or message.payload != {"checked": name}:
            yield wrong("broker-round-trip", f"nothing came back within {_PATIENCE:g} s")
        else:
            yield ok(f"a message came back in {milliseconds(span)}")

    def _note_blocked(self, *_: object) -> None:
        self.is_blocked = True
