"""The options that only a Redis store has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import TRANSPORT_SETTING, StoreOptions

#: the options that are among the transport options in Celery
_TRANSPORT_NAMES = ("global_keyprefix", "master_name", "sentinel_kwargs", "wait_replicas", "wait_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """The options of a Redis store, in addition to those of every store.

    Attributes:
        backend_use_ssl: redis-py's arguments for TLS, or whether to use TLS.
        backend_health_check_interval: seconds; a connection that was idle for longer is tested before it is used.
        client_name: the name of the connections in CLIENT LIST.
        max_connections: the most connections of one process.
        username, password: the login, if the URL has none.
        socket_connect_timeout, socket_timeout: seconds to connect, and to wait for a reply.
        socket_keepalive: whether to use TCP keepalive.
        global_keyprefix: the prefix of all keys.
        master_name: the name of the master in the Sentinels' configuration.
        sentinel_kwargs: redis-py's arguments for connections to Sentinels.
        wait_replicas: how many replicas must have a change before it is acknowledged.
        wait_timeout: seconds to wait for the replicas.
    """

    backend_use_ssl: Any = field(default=None, repr=False)
    backend_health_check_interval: Any = None
    client_name: str | None = None
    max_connections: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    socket_connect_timeout: Any = None
    socket_timeout: Any = None
    socket_keepalive: bool = True
    global_keyprefix: str = ""
    master_name: str = ""
    sentinel_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    wait_replicas: int | None = None
    wait_timeout: float | None = None


def read_options(options: StoreOptions) -> RedisOptions:
    """Return the options of a Redis store from its section and the transport options.

    Raises:
        ConfigurationError: they cannot be used.
    """
    transport = options.transport_options
    given = {
        **{name: value for name, value in options.section("redis").items() if value is not None},
        **{name: transport[name] for name in _TRANSPORT_NAMES if transport.get(name) is not None},
    }
    known = {each.name for each in fields(RedisOptions)}
    if unknown := sorted(set(given) - known):
        raise ConfigurationError(
            f"a Redis store has no option {unknown[0]}",
            where=TRANSPORT_SETTING,
            remedy=f"use one of {', '.join(sorted(known))}",
        )
    for name, number in (("wait_replicas", int), ("wait_timeout", float), ("max_connections", int)):
        if name in given:
            given[name] = _number(number, given[name], name)
    return RedisOptions(**given)


def _number(kind: type[int] | type[float], value: Any, name: str) -> float:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} is not a number",
            where=TRANSPORT_SETTING if name in _TRANSPORT_NAMES else f"redis_{name}",
            remedy="give a number of replicas or connections, or seconds",
        ) from None


def pool_size(options: StoreOptions) -> int:
    """Return the most connections that one process may open to a server."""
    return read_options(options).max_connections or options.pool_size
