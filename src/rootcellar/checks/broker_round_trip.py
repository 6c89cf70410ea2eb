"""Sends a message through a broker and receives it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from kombu.entity import Exchange, Queue

from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds
from rootcellar.checks.steps import passed, problem
from rootcellar.checks.target import AMQP_SCHEMES, Target

#: timeouts to connect, and for a message that was sent
_CONNECT_TIMEOUT_SECONDS, _ANSWER_TIMEOUT_SECONDS = 3.0, 2.0


class RoundTrip:
    """Sends a message through the broker as a client does, and receives it as a worker does.

    Args:
        target: the broker.
    """

    def __init__(self, target: Target) -> None:
        self._app = target.app()
        self.is_blocked = False

    def connect(self) -> Any:
        """Return a new connection. Raises the exceptions of kombu's transport."""
        options = {**(self._app.conf.broker_transport_options or {})}
        if str(self._app.conf.broker_url).partition("://")[0].lower() in AMQP_SCHEMES:
            options |= {
                "on_blocked": self._note_blocked,
                "read_timeout": _ANSWER_TIMEOUT_SECONDS,
                "write_timeout": _ANSWER_TIMEOUT_SECONDS,
            }
        connection = self._app.connection_for_write(transport_options=options, connect_timeout=_CONNECT_TIMEOUT_SECONDS)
        connection.connect()
        return connection

    def send_and_receive(self, connection: Any) -> Iterator[Finding]:
        """Send a message, receive it, and yield what was found."""
        name = f"{self._app.conf.task_default_queue}.check-{uuid4().hex[:12]}"
        channel = connection.channel()
        queue = Queue(name, Exchange(""), name, durable=False, exclusive=True, auto_delete=True)(channel)
        queue.declare()
        try:
            began = time.monotonic()
            connection.Producer(channel).publish({"checked": name}, routing_key=name, exchange="", retry=False)
            message = None
            while message is None and time.monotonic() - began < _ANSWER_TIMEOUT_SECONDS and not self.is_blocked:
                message = queue.get(no_ack=True)
                time.sleep(0 if message else 0.005)
            span = time.monotonic() - began
        finally:
            # a blocked connection gets no answer; the server deletes the queue when the connection ends
            if not self.is_blocked:
                queue.delete()
        if self.is_blocked:
            yield problem("broker-blocked", "RabbitMQ reports that senders are blocked")
        elif message is None or message.payload != {"checked": name}:
            yield problem("broker-round-trip", f"nothing came back within {_ANSWER_TIMEOUT_SECONDS:g} s")
        else:
            yield passed(f"a message came back in {milliseconds(span)}")

    def _note_blocked(self, *_: object) -> None:
        self.is_blocked = True
