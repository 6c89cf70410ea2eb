"""``rootcellar check broker``: checks RabbitMQ or Redis through kombu."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import amqp
from kombu.exceptions import OperationalError

from rootcellar import errors
from rootcellar.checks.broker_round_trip import RoundTrip
from rootcellar.checks.findings import Finding
from rootcellar.checks.network import Host, ServerChecks, verify_peer
from rootcellar.checks.steps import Checks, Step, failed, passed, problem
from rootcellar.checks.target import AMQP_SCHEMES, Target
from rootcellar.urls import redact


def checks_of_broker(target: Target) -> Checks:
    """Return the checks of the broker that the settings name."""
    scheme = str(target.conf["broker_url"]).partition("://")[0].lower()
    if scheme in AMQP_SCHEMES:
        return RabbitChecks(target)
    if scheme.startswith(("redis", "sentinel")):
        # imported late: it needs the driver
        from rootcellar.checks.redis_broker import RedisBrokerChecks

        return RedisBrokerChecks(target)
    return OtherBrokerChecks(target)


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
            *self.connection_steps(),
            Step("server", self._server),
            Step("round trip", self._send_and_receive, stops_on_failure=True),
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

    def log_in(self) -> str:
        if self.wants_tls and self.is_verified:
            # the driver does not report what is wrong with a certificate
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
            yield problem("broker-vhost-missing", self._vhost_refusal)
        else:
            yield from super()._login()

    def _server(self) -> Iterator[Finding]:
        about = self._connection.connection.server_properties
        yield passed(
            f"{about.get('product', 'AMQP')} {about.get('version', '')}, virtual host {self._about['virtual_host']}"
        )

    def _send_and_receive(self) -> Iterator[Finding]:
        try:
            yield from self._round_trip.send_and_receive(self._connection)
        except amqp.AccessRefused as exc:
            yield problem("broker-no-rights", redact(str(exc.reply_text)))
        except (TimeoutError, amqp.AMQPError) as exc:
            if self._round_trip.is_blocked:
                yield problem("broker-blocked", "RabbitMQ reports that senders are blocked")
            else:
                yield failed(self.understand(exc) or errors.StoreUnavailable(str(exc)))


class OtherBrokerChecks(Checks):
    """A broker that only kombu supports."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Any = None

    @property
    def where(self) -> str:
        return redact(str(self._target.conf["broker_url"]))

    def steps(self) -> Sequence[Step]:
        return [Step("broker", self._send_and_receive, stops_on_failure=True)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.release()

    def _send_and_receive(self) -> Iterator[Finding]:
        round_trip = RoundTrip(self._target)
        try:
            self._connection = round_trip.connect()
            yield from round_trip.send_and_receive(self._connection)
        except Exception as exc:  # an unknown transport may raise any exception
            yield problem("broker-round-trip", redact(f"{type(exc).__name__}: {exc}"))
            return
        yield problem("broker-unknown", f"rootcellar has no further checks for {self.where.partition('://')[0]}://")
