"""Sends tasks by their names, each message exactly as often as it is asked to: a failed send is never repeated."""

from __future__ import annotations

from inspect import signature
from types import TracebackType
from typing import Any

from kombu.exceptions import DecodeError, EncodeError, OperationalError
from kombu.messaging import Producer
from kombu.serialization import dumps, loads

from rootcellar.errors import BrokerRefused, BrokerUnavailable
from rootcellar.history.repeats import Refusal, Repeat
from rootcellar.payloads.pickles import PICKLE
from rootcellar.payloads.stamps import RETRY_OF
from rootcellar.urls import redact

#: seconds to connect to the broker
_CONNECT_TIMEOUT = 10.0
#: seconds for the broker to take a message
SEND_TIMEOUT = 30


#: kombu before 5.5 awaits the confirmation of a message for any time
_HAS_CONFIRM_TIMEOUT = "confirm_timeout" in signature(Producer.publish).parameters


class Sender:
    """A connection to the broker of an app. Use it as a context manager.

    RabbitMQ confirms each message, and refuses one that no queue would receive. Redis has nothing to confirm: it has
    stored the message when it answers.

    Args:
        app: the app; it need not know the tasks.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection = app.connection_for_write(connect_timeout=_CONNECT_TIMEOUT)
        self._producer: Any = None
        self.where = redact(self._connection.as_uri())

    def __enter__(self) -> Sender:
        """Connect.

        Raises:
            BrokerUnavailable: the broker cannot be reached.
        """
        if self._connection.transport.driver_type == "amqp":
            self._connection.transport_options["confirm_publish"] = True
            self._connection.transport_options.setdefault("write_timeout", SEND_TIMEOUT)
        if self._connection.transport.driver_type == "redis":
            self._connection.transport_options.setdefault("socket_timeout", SEND_TIMEOUT)
        try:
            self._connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=_CONNECT_TIMEOUT)
        except (OperationalError, *self._connection.connection_errors) as exc:
            self._connection.release()
            raise self._unavailable(exc) from exc
        self._open_channel()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self._connection.release()
        else:
            # release() waits for the answer of a broker that may not answer
            self._connection.collect(_CONNECT_TIMEOUT)

    def send(self, repeat: Repeat) -> None:
        """Send a task. If this raises :class:`BrokerUnavailable`, the broker may have the message or not.

        Raises:
            BrokerRefused: the broker has certainly not taken the message.
            BrokerUnavailable: the connection was lost, or the broker has not taken the message in time.
        """
        stamps = {**repeat.stamps, RETRY_OF: repeat.old_id}
        message = self._app.amqp.create_task_message(
            repeat.new_id, repeat.name, repeat.args, repeat.kwargs, stamped_headers=[*stamps], **stamps
        )
        options: dict[str, Any] = {} if repeat.priority is None else {"priority": repeat.priority}
        if _HAS_CONFIRM_TIMEOUT:
            options["confirm_timeout"] = SEND_TIMEOUT
        try:
            self._app.amqp.send_task_message(
                self._producer,
                repeat.name,
                message,
                exchange=repeat.exchange,
                routing_key=repeat.routing_key,
                # with the type of a direct exchange, Celery would replace the routing key by the name of a queue
                exchange_type="topic",
                headers=dict(repeat.headers),
                # nothing is declared: a queue has arguments that only the application knows
                declare=[],
                # a second try could send a second message
                retry=False,
                mandatory=True,
                **options,
            )
        except (OperationalError, *self._connection.connection_errors) as exc:
            raise self._unavailable(exc) from exc
        except self._connection.channel_errors as exc:
            # the answer to the returned message would count as that to the next one
            self._open_channel()
            raise BrokerRefused(
                f"the broker refused task {repeat.name}: {exc}",
                where=self.where,
                remedy=f"check that there is a queue for {repeat.routing_key!r}, or name another one with --queue",
            ) from exc

    def _open_channel(self) -> None:
        self._producer = self._app.amqp.Producer(self._connection.channel(), auto_declare=False)

    def _unavailable(self, exc: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            redact(f"the broker cannot be reached: {exc}"),
            where=self.where,
            remedy="check that it runs, and run the same command again: no task is sent twice",
        )


def why_not_encodable(app: Any, repeat: Repeat) -> Refusal | None:
    """Return why the app's serializer for messages cannot carry the arguments as they are; ``None`` if it can."""
    serializer = app.conf.task_serializer
    arguments = [repeat.args, repeat.kwargs]
    try:
        dumps(dict(repeat.headers), serializer=serializer)
        content_type, encoding, body = dumps(arguments, serializer=serializer)
    except EncodeError:
        return Refusal.NOT_ENCODABLE
    if content_type == PICKLE:
        return None
    try:
        is_same = _is_same(arguments, loads(body, content_type, encoding, accept={content_type}))
    except DecodeError:
        is_same = False
    return None if is_same else Refusal.NOT_PRESERVED


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two values are equal and of the same types. Not recursive, because values may be deep."""
    todo = [(first, second)]
    while todo:
        one, other = todo.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, dict):
            if {(type(key), key) for key in one} != {(type(key), key) for key in other}:
                return False
            todo.extend((value, other[key]) for key, value in one.items())
        elif isinstance(one, (list, tuple)):
            if len(one) != len(other):
                return False
            todo.extend(zip(one, other, strict=True))
        # NaN differs from itself
        elif one != other and not (one != one and other != other):
            return False
    return True
