"""Connects to a Redis server with redis-py, and converts the errors of both to errors of rootcellar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootcellar import errors
from rootcellar.stores import tls
from rootcellar.stores.passwords import current
from rootcellar.stores.redis.address import Address
from rootcellar.support.imports import import_failure
from rootcellar.support.interruptions import Moment, raise_interruption

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
except ImportError as exc:
    raise import_failure(
        exc,
        ["redis", "hiredis"],
        "the Redis driver (redis-py with hiredis)",
        where="result_backend",
        install="pip install 'rootcellar[redis]'",
    ) from exc

#: the driver; declared as Any, because only a part of it has types
_driver: Any = redis
#: seconds to wait for the TLS alert of a server that closed the connection
_ALERT_TIMEOUT_SECONDS = 2.0
#: the exceptions of the driver and of a broken connection
FAILURES = (OSError, redis.RedisError, ServerError)

_GIVE_PASSWORD = "give the password: in the URL, redis://user:password@host, or as REDIS_PASSWORD"
#: words of the server's error -> the error of rootcellar, and the remedy; the first words that are found count
_MEANINGS: tuple[tuple[str, type[errors.StoreError], str], ...] = (
    ("WRONGPASS", errors.AuthenticationFailed, "check the user and the password"),
    ("NOAUTH", errors.AuthenticationFailed, _GIVE_PASSWORD),
    ("invalid password", errors.AuthenticationFailed, "check the password"),
    ("invalid username-password", errors.AuthenticationFailed, "check the user and the password"),
    ("Authentication required", errors.AuthenticationFailed, _GIVE_PASSWORD),
    ("without any password", errors.AuthenticationFailed, "the server asks for no password: leave it out"),
    ("NOPERM", errors.PermissionDenied, "let the ACL allow it: docs/redis.md lists what rootcellar needs"),
    ("READONLY", errors.StoreReadOnly, "connect to the master, or wait until the failover ends"),
    ("OOM command", errors.DiskFull, "raise maxmemory, or let results expire earlier; they are retried meanwhile"),
    ("MISCONF", errors.DiskFull, "give the server's disk room, so that it can save; results are retried meanwhile"),
    ("LOADING", errors.StoreUnavailable, "wait until the server has read its data"),
    ("MASTERDOWN", errors.StoreUnavailable, "wait until the failover ends"),
    ("CLUSTERDOWN", errors.StoreUnavailable, "wait until the failover ends, and see `redis-cli cluster info`"),
    (
        "TRYAGAIN",
        errors.StoreUnavailable,
        "wait until the slot has moved; `redis-cli --cluster check` shows whether it does",
    ),
    # while a slot moves to another node, only one of two keys that a script uses has moved
    (
        "access a non local key",
        errors.StoreUnavailable,
        "wait until the slot has moved; `redis-cli --cluster check` shows whether it does",
    ),
    ("NOREPLICAS", errors.StoreUnavailable, "see why the master has too few replicas"),
    ("BUSY", errors.StoreUnavailable, "see which script keeps the server busy"),
    ("max number of clients", errors.StoreUnavailable, "raise maxclients, or lower redis_max_connections"),
    ("DB index is out of range", errors.DatabaseMissing, "use a number below the server's `databases`"),
    ("SELECT is not allowed in cluster", errors.DatabaseMissing, "use database 0"),
    ("unknown command", errors.ServerTooOld, "upgrade the server to 6.0 or later"),
    ("exceeds maximum allowed size", errors.RecordRefused, "store less in one result"),
    ("invalid bulk length", errors.RecordRefused, "store less in one result, or raise proto-max-bulk-len"),
    ("WRONGTYPE", errors.StoreError, "something else keeps another kind of value under this key: see global_keyprefix"),
)


class Redirected(errors.StoreUnavailable):
    """Another node of a Cluster has the key. Retryable.

    Attributes:
        host, port: the other node; an empty host means the host of this node.
        is_for_once: whether only this command goes there, because the key is being moved.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        kind, _, place = what.split(" ", 2)
        self.is_for_once = kind == "ASK"
        self.host, _, port = place.rpartition(":")
        self.port = int(port)


class _KeepsSocket:
    """Makes the socket of a connection of redis-py available, which is a private attribute there."""

    opened: Any = None

    def _connect(self) -> Any:
        self.opened = super()._connect()  # type: ignore[misc]
        return self.opened


class _TcpConnection(_KeepsSocket, _driver.Connection):  # type: ignore[misc]
    pass


class _TlsConnection(_KeepsSocket, _driver.SSLConnection):  # type: ignore[misc]
    pass


class _UnixConnection(_KeepsSocket, _driver.UnixDomainSocketConnection):  # type: ignore[misc]
    pass


def connect(address: Address, host: str = "", port: int = 0) -> RespConnection:
    """Open a connection to one server.

    Args:
        address: how to connect.
        host, port: the server, unless it is a Unix socket.

    Raises:
        StoreError: no connection is possible.
    """
    settings = {**address.connect, "db": address.db}
    return open_connection(settings, address.tls, host, port, address.path, address.where)


def open_connection(
    settings: Mapping[str, Any], tls_settings: Mapping[str, Any] | None, host: str, port: int, path: str, where: str
) -> RespConnection:
    """Open a connection with redis-py's arguments in ``settings``.

    Raises:
        StoreError: no connection is possible.
    """
    # one attempt only, because the backend retries; protocol 2, because every server supports it
    common = {**settings, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
    common["password"] = current(settings.get("password"))
    try:
        if path:
            connection = _UnixConnection(path=path, **common)
        elif tls_settings is not None:
            connection = _TlsConnection(host=host, port=port, **tls_settings, **common)
        else:
            connection = _TcpConnection(host=host, port=port, **common)
    except TypeError as exc:
        raise errors.ConfigurationError(
            f"redis-py cannot connect so: {exc}",
            where="result_backend_transport_options or redis_backend_use_ssl",
            remedy="remove it, or upgrade redis-py",
        ) from exc
    moment = Moment()
    try:
        connection.connect()
    except FAILURES as exc:
        raise_interruption(exc, moment)
        error = translate(exc, where, host)
        if tls_settings is not None and isinstance(error, errors.StoreUnavailable):
            if isinstance(exc, redis.TimeoutError):
                error.remedy = "see whether the server runs, and speaks TLS on this port"
            else:
                error = _refusal_after_the_handshake(host, port, tls_settings, where) or error
        raise error from exc
    return RespConnection(connection, connection.opened, path or address_of(host, port))


def address_of(host: str, port: int) -> str:
    """Return the address of a server in the form of :attr:`RespConnection.address`."""
    return f"{host}:{port}"


def _refusal_after_the_handshake(
    host: str, port: int, tls_settings: Mapping[str, Any], where: str
) -> errors.StoreError | None:
    """Return the error if a server closed the connection because of the client's certificate; ``None`` otherwise.

    With TLS 1.3 the server sends its alert after the client's handshake. Data that the client has sent before may hide
    the alert, so this function connects again and sends nothing.
    """

    def listen(connection: Any) -> None:
        connection.opened.settimeout(_ALERT_TIMEOUT_SECONDS)
        connection.opened.recv(1)

    connection = _TlsConnection(
        host=host,
        port=port,
        socket_connect_timeout=_ALERT_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=listen,
        **tls_settings,
    )
    try:
        connection.connect()
    except FAILURES as exc:
        found = tls.explain(exc, where, host)
        return found if isinstance(found, errors.CertificateRefused) else None
    finally:
        connection.disconnect()
    return None


def is_alive(connection: RespConnection) -> bool:
    """Return whether an idle connection still answers."""
    try:
        return bool(connection.call(pack(b"PING")) == b"PONG")
    except FAILURES as exc:
        raise_interruption(exc)
        return False


def translate(exc: BaseException, where: str, host: str = "") -> errors.StoreError:
    """Return the error of rootcellar for ``exc``; raise an interruption unchanged."""
    raise_interruption(exc)
    if isinstance(exc, errors.StoreError):
        return exc
    if explained := tls.explain(exc, where, host):
        return explained
    text = str(exc)
    if isinstance(exc, ServerError) and text.startswith(("MOVED ", "ASK ")):
        return Redirected(text, where=where, remedy="this is a node of a Redis Cluster: use redis-cluster://")
    for word, kind, remedy in _MEANINGS:
        if word in text:
            return kind(text, where=where, remedy=remedy)
    if isinstance(exc, (OSError, redis.ConnectionError, redis.TimeoutError)):
        return errors.StoreUnavailable(
            text or type(exc).__name__, where=where, remedy="see whether the server runs and can be reached"
        )
    return errors.StoreError(text, where=where, remedy="see the server's log")
