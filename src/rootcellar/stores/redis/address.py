"""The address of a Redis, from its URL and Celery's settings."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.passwords import source_of
from rootcellar.stores.redis.options import RedisOptions, read_options
from rootcellar.stores.urls import (
    SETTING,
    UrlForm,
    misplaced_at,
    place,
    read_host,
    read_login,
    read_query,
    split_url,
)
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact

logger = visible_logs(logging.getLogger(__name__))

#: the default timeouts in seconds: to connect, and for an answer
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 15.0

Form = Literal["single", "sentinel", "cluster"]
_FORMS: dict[str, Form] = {"sentinel": "sentinel", "redis-cluster": "cluster", "rediss-cluster": "cluster"}
_SOCKETS = ("unix", "socket", "redis+socket")
_CERT_REQS = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
    "cert_required": ssl.CERT_REQUIRED,
    "cert_optional": ssl.CERT_OPTIONAL,
    "cert_none": ssl.CERT_NONE,
}
_TLS_NAMES = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
)
_QUERY_TLS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_QUERY = (
    *("db", "virtual_host", "socket_timeout", "socket_connect_timeout", "health_check_interval", "client_name"),
    # transport options of Celery, for callers that have only a URL, such as the command line
    *("master_name", "global_keyprefix"),
)
_EXAMPLES: dict[Form, str] = {
    "single": "rootcellar+redis://user:password@host:6379/0",
    "sentinel": "rootcellar+sentinel://:password@host1:26379;sentinel://host2:26379/0",
    "cluster": "rootcellar+redis-cluster://user:password@host1:6379,host2:6379",
}
_URL_FORMS = {
    form: UrlForm(example=example, secrets="redis_backend_use_ssl", options=(*_QUERY, *_QUERY_TLS))
    for form, example in _EXAMPLES.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A Redis, and how to connect to it.

    Attributes:
        form: a single server, Sentinels, or a Cluster.
        hosts: name and port of the server, of the Sentinels, or of some nodes of the Cluster; empty for a socket.
        path: the Unix socket; empty for hosts.
        db: the number of the database.
        connect: redis-py's arguments for a connection, without the host or the path. Contains the password.
        tls: its arguments for TLS; ``None`` for no TLS.
        master: the name of the master in the Sentinels' configuration.
        sentinel: arguments for the connections to the Sentinels.
        prefix: the prefix of all keys.
        idle_before_ping: seconds; a connection that was idle for longer is tested before it is used. ``None`` for the
            pool's default.
        where: the server, for messages, without secrets.
    """

    form: Form
    hosts: tuple[tuple[str, int], ...]
    path: str
    db: int
    connect: Mapping[str, Any] = field(repr=False)
    tls: Mapping[str, Any] | None = field(repr=False)
    master: str = ""
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)
    prefix: bytes = b""
    idle_before_ping: float | None = None
    where: str

    @property
    def answer_timeout(self) -> float:
        """Seconds in which a server must answer."""
        return float(self.connect["socket_timeout"])


def read_address(url: str, options: StoreOptions) -> Address:
    """Return the address in a URL and in Celery's settings.

    Raises:
        ConfigurationError: they cannot be used.
    """
    scheme, rest, query_text = split_url(url)
    form = _FORMS.get(scheme, "single")
    path, db = "", 0
    hosts: tuple[tuple[str, int], ...] = ()
    if scheme in _SOCKETS:
        user, password, path = _socket(rest)
    else:
        user, password, hosts, db = _hosts(rest, form)
    query = read_query(query_text, _URL_FORMS[form])
    if "db" in query or "virtual_host" in query:
        db = _number(query.get("db") or query.get("virtual_host"))
    if form == "cluster" and db:
        raise _wrong(f"Redis Cluster has only database 0, not {db}", form)
    own = read_options(options)
    tls = _tls(scheme, query, own, url)
    answer_timeout, connect_timeout = (
        options.answer_timeout or ANSWER_TIMEOUT,
        options.answer_timeout or CONNECT_TIMEOUT,
    )
    settings: dict[str, Any] = {
        "username": user or own.username or None,
        "password": source_of(options.password, "redis") or password or own.password or None,
        "socket_timeout": _timeout(query, own.socket_timeout, "socket_timeout", answer_timeout),
        "socket_connect_timeout": _timeout(
            query, own.socket_connect_timeout, "socket_connect_timeout", connect_timeout
        ),
        "client_name": query.get("client_name") or own.client_name or None,
    }
    if settings["username"] and not settings["password"]:
        raise _wrong("the URL names a user but no password", form)
    if not path:
        settings["socket_keepalive"] = bool(own.socket_keepalive)
    master = query.get("master_name") or str(own.master_name)
    if form == "sentinel" and not master:
        raise ConfigurationError(
            "the Sentinels do not know which master is meant",
            where="result_backend_transport_options",
            remedy="set master_name to what sentinel.conf calls it: {'master_name': 'mymaster'}",
        )
    return Address(
        form=form,
        hosts=hosts,
        path=path,
        db=db,
        connect=settings,
        tls=tls,
        master=master,
        sentinel=_sentinel(own.sentinel_kwargs, settings),
        prefix=_key_prefix(query.get("global_keyprefix") or str(own.global_keyprefix), form),
        idle_before_ping=_idle_before_ping(query, own),
        where=_where(form, hosts, path, db, master, settings["username"], tls is not None),
    )


def _key_prefix(prefix: str, form: Form) -> bytes:
    """Return the prefix of all keys, as Celery makes it."""
    _, brace, after = prefix.partition("{")
    if form == "cluster" and brace and after.find("}") < 1:
        # with such a prefix, the keys of a chord would be in different slots
        raise ConfigurationError(
            f"global_keyprefix is {prefix!r}, whose braces are not a hash tag of a Redis Cluster",
            where="result_backend_transport_options",
            remedy="leave out the braces, or write a whole tag: {name}",
        )
    if prefix and prefix[-1] not in ":_-.":
        prefix += "_"
    return prefix.encode()


def _socket(rest: str) -> tuple[str, str, str]:
    """Return the user, the password and the path of a socket."""
    authority, slash, path = rest.partition("/")
    user, password, host = read_login(authority, _URL_FORMS["single"])
    if host or not path:
        raise ConfigurationError(
            "the URL names no socket",
            where=SETTING,
            remedy="write rootcellar+redis+socket:///path/to/redis.sock?db=0",
        )
    return user, password, slash + unquote(path)


def _hosts(rest: str, form: Form) -> tuple[str, str, tuple[tuple[str, int], ...], int]:
    """Read one or several ``user:password@host:port``, and the database's number at the end."""
    separator = ";" if form == "sentinel" else ","
    default_port = 26379 if form == "sentinel" else 6379
    login = ("", "")
    hosts: list[tuple[str, int]] = []
    db = 0
    for piece in rest.split(separator) if form != "single" else [rest]:
        authority, _, database = piece.removeprefix("sentinel://").partition("/")
        user, password, place_text = read_login(authority, _URL_FORMS[form])
        if not any(login):
            login = (user, password)
        if "@" in database:
            raise misplaced_at(_URL_FORMS[form])
        db = _number(database) if database else db
        if place_text or form == "single":
            host, port = read_host(place_text, _URL_FORMS[form])
            hosts.append((host or "localhost", port or default_port))
    if not hosts:
        raise _wrong("the URL names no host", form)
    return *login, tuple(hosts), db


def _number(text: str | None) -> int:
    if not text:
        return 0
    number = text.removeprefix("/").removeprefix("db")
    if not number.isdecimal():
        raise ConfigurationError(
            "the number of the database is not a number",
            where=SETTING,
            remedy="write special characters in the password as %XX, and the number after the last slash: …/0",
        )
    return int(number)


def _timeout(query: Mapping[str, str], own: Any, name: str, default: float) -> float:
    given = query.get(name, own)
    seconds = default if given is None else _seconds(given, name)
    if seconds <= 0:
        raise ConfigurationError(f"{name} is {given}", where=SETTING, remedy="give more than 0 seconds")
    return seconds


def _idle_before_ping(query: Mapping[str, str], own: RedisOptions) -> float | None:
    """Return the seconds of ``health_check_interval``; 0 means never, as in redis-py."""
    given = query.get("health_check_interval") or own.backend_health_check_interval
    if given is None:
        return None
    return _seconds(given, "health_check_interval") or float("inf")


def _seconds(given: Any, name: str) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigurationError(f"{name} is not a number", where=SETTING, remedy="give seconds")
    return seconds


def _tls(scheme: str, query: Mapping[str, str], own: RedisOptions, url: str) -> dict[str, Any] | None:
    """Return redis-py's arguments for TLS. The certificate and the host name are verified unless that is turned off."""
    given = own.backend_use_ssl
    wanted: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    wanted.update({name: query[name] for name in _QUERY_TLS if name in query})
    is_tls = scheme in ("rediss", "rediss-cluster") or (scheme == "sentinel" and bool(given))
    if not is_tls:
        if wanted or given:
            raise ConfigurationError(
                "settings for TLS are given, but the URL is one without TLS",
                where=SETTING,
                remedy=f"write {'rediss-cluster' if 'cluster' in scheme else 'rediss'}://",
            )
        return None
    if unknown := set(wanted) - set(_TLS_NAMES):
        raise ConfigurationError(
            f"{', '.join(sorted(unknown))} is not a setting for TLS",
            where="redis_backend_use_ssl",
            remedy=f"use {', '.join(_TLS_NAMES)}",
        )
    reqs = _cert_reqs(wanted.get("ssl_cert_reqs", ssl.CERT_REQUIRED))
    check = str(wanted.get("ssl_check_hostname", True)).lower() not in ("false", "0", "no", "off")
    if reqs is not ssl.CERT_REQUIRED or not check:
        logger.warning(
            "The TLS certificate of %s is not fully verified (ssl_cert_reqs=%s, ssl_check_hostname=%s): anybody in "
            "between could read and change results.",
            redact(url),
            reqs.name,
            check,
        )
    wanted["ssl_cert_reqs"] = reqs
    wanted["ssl_check_hostname"] = check and reqs is not ssl.CERT_NONE
    return wanted


def _cert_reqs(value: Any) -> ssl.VerifyMode:
    if value is None:
        return ssl.CERT_NONE
    if isinstance(value, str):
        if value.lower() in _CERT_REQS:
            return _CERT_REQS[value.lower()]
    elif value in tuple(ssl.VerifyMode):
        return ssl.VerifyMode(value)
    raise ConfigurationError(
        f"ssl_cert_reqs is {value!r}", where="redis_backend_use_ssl", remedy="use required, optional or none"
    )


def _sentinel(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for connections to Sentinels: the timeouts of the master, with its own user and TLS."""
    timeouts = {name: settings[name] for name in ("socket_timeout", "socket_connect_timeout")}
    return {**timeouts, **given}


def _where(
    form: Form,
    hosts: tuple[tuple[str, int], ...],
    path: str,
    db: int,
    master: str,
    user: str | None,
    is_tls: bool,
) -> str:
    login = f"{user}@" if user else ""
    if path:
        return f"redis {login}{path} db {db}"
    places = ",".join(place(host, port) for host, port in hosts)
    tls = " with TLS" if is_tls else ""
    if form == "cluster":
        return f"redis cluster {login}{places}{tls}"
    if form == "sentinel":
        return f"redis {login}{master} at sentinels {places} db {db}{tls}"
    return f"redis {login}{places}/{db}{tls}"


def _wrong(what: str, form: Form) -> ConfigurationError:
    return ConfigurationError(
        what,
        where=SETTING,
        remedy=f"write {_URL_FORMS[form].example}, with special characters of the user and the password as %XX",
    )
