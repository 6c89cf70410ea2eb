"""What ``rootcellar check broker`` looks at: RabbitMQ or Redis, as kombu speaks to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import amqp
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds
from rootcellar.checks.network import Host, ServerChecks, verify_peer
from rootcellar.checks.steps import Checks, Step, failed, ok, wrong
from rootcellar.checks.target import Target
from rootcellar.urls import redact

#: seconds to connect, and until a message must have come back
_CONNECT_PATIENCE = 3.0
_PATIENCE = 2.0
_AMQP = ("amqp", "amqps", "pyamqp")
#: seconds that kombu's Redis transport waits for a task, where nobody says
_VISIBILITY_TIMEOUT = 3_600.0


def checks_of_broker(target: Target) -> Checks:
    """Return the checks of the broker that the settings name."""
    scheme = str(target.conf["broker_url"]).partition("://")[0].lower()
    if scheme in _AMQP:
        return RabbitChecks(target)
    if scheme.startswith(("redis", "sentinel")):
        # imported late: it needs the driver
        from rootcellar.checks.redis_broker import RedisBrokerChecks

        return RedisBrokerChecks(target)
    return OtherBrokerChecks(target)


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


class RabbitChecks(ServerChecks):
    """RabbitMQ."""

    def __init__(self, target: Target) -> None:
        self._app = target.app()
        self._round_trip = RoundTrip(target)
        self._about = self._app.connection_for_write().info()
        self._connection: Any = None
        self._vhost_refusal = ""

    @property
    def where(self) -> str:
        return redact(str(self._app.conf.broker_url))

    def steps(self) -> Sequence[Step]:
        return [
            *self.way_in(),
            Step("server", self._server),
            Step("round trip", self._send_and_receive, is_ground=True),
        ]

    def close(self) -> None:
        if self._connection is not None and self._round_trip.is_blocked:
            self._connection.connection.collect()
        elif self._connection is not None:
            self._connection.release()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        text = redact(str(exc))
        if isinstance(exc, amqp.AccessRefused):
            return errors.PermissionDenied(text, where=self.where)
        if isinstance(exc, (OperationalError, amqp.AMQPError, OSError)):
            return errors.StoreUnavailable(text or type(exc).__name__, where=self.where, remedy="see the broker's log")
        return None

    @property
    def service(self) -> str:
        return "AMQP (RabbitMQ)"

    @property
    def hosts(self) -> Sequence[Host]:
        return [(str(self._about["hostname"] or "localhost"), int(self._about["port"] or 5672))]

    @property
    def wants_tls(self) -> bool:
        return bool(self._app.conf.broker_use_ssl) or str(self._app.conf.broker_url).startswith("amqps:")

    @property
    def is_verified(self) -> bool:
        return bool(self._tls_settings.get("cert_reqs"))

    @property
    def _tls_settings(self) -> Mapping[str, Any]:
        given = self._app.conf.broker_use_ssl
        return given if isinstance(given, Mapping) else {}

    def client_certificate(self) -> tuple[str, str] | None:
        ours = self._tls_settings.get("certfile"), self._tls_settings.get("keyfile")
        return (str(ours[0]), str(ours[1])) if all(ours) else None

    def enter(self) -> str:
        if self.wants_tls and self.is_verified:
            # the driver does not say what was wrong with a certificate
            authority = self._tls_settings.get("ca_certs")
            verify_peer(*self.hosts[0], self.where, authority=authority, ours=self.client_certificate())
        user = str(self._about["userid"] or "guest")
        try:
            self._connection = self._round_trip.connect()
        except amqp.AccessRefused as exc:
            raise errors.AuthenticationFailed(
                f"the user {user} or the password was refused ({exc.reply_code})",
                where=self.where,
                remedy="check BROKER_USER and BROKER_PASSWORD; guest may come from the broker's own machine only",
            ) from None
        except amqp.NotAllowed as exc:
            self._vhost_refusal = redact(str(exc.reply_text))
            raise errors.DatabaseMissing(self._vhost_refusal, where=self.where) from None
        except (OperationalError, amqp.AMQPError, OSError) as exc:
            raise self.understand(exc) or exc from None
        return user

    def _login(self) -> Iterator[Finding]:
        if self._vhost_refusal:
            yield wrong("broker-vhost-missing", self._vhost_refusal)
        else:
            yield from super()._login()

    def _server(self) -> Iterator[Finding]:
        about = self._connection.connection.server_properties
        yield ok(
            f"{about.get('product', 'AMQP')} {about.get('version', '')}, virtual host {self._about['virtual_host']}"
        )

    def _send_and_receive(self) -> Iterator[Finding]:
        try:
            yield from self._round_trip.look(self._connection)
        except amqp.AccessRefused as exc:
            yield wrong("broker-no-rights", redact(str(exc.reply_text)))
        except (TimeoutError, amqp.AMQPError) as exc:
            if self._round_trip.is_blocked:
                yield wrong("broker-blocked", "it says that senders are blocked")
            else:
                yield failed(self.understand(exc) or errors.StoreUnavailable(str(exc)))


class OtherBrokerChecks(Checks):
    """A broker of which only kombu knows."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Any = None

    @property
    def where(self) -> str:
        return redact(str(self._target.conf["broker_url"]))

    def steps(self) -> Sequence[Step]:
        return [Step("broker", self._look, is_ground=True)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.release()

    def _look(self) -> Iterator[Finding]:
        round_trip = RoundTrip(self._target)
        try:
            self._connection = round_trip.connect()
            yield from round_trip.look(self._connection)
        except Exception as exc:  # a transport of which we know nothing, which may raise anything
            yield wrong("broker-round-trip", redact(f"{type(exc).__name__}: {exc}"))
            return
        yield wrong("broker-unknown", f"of {self.where.partition('://')[0]}:// no more is known")
