"""Reads the URLs of servers, in one way and with the same errors for all stores.

A message never quotes a URL: in a wrong URL it is unknown where the password ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from rootcellar.errors import ConfigurationError
from rootcellar.urls import is_secret_name

#: the ``where`` of an error about a URL; a command replaces it by the option that contains the URL
SETTING = "result_backend"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlForm:
    """How the URLs of a store are written.

    Attributes:
        example: a correct URL, for messages.
        secrets: the setting for secrets that are not the user's password, for messages.
        options: the names that the query may have, in lower case; ``None`` if the driver checks them.
    """

    example: str
    secrets: str
    options: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrl:
    """The parts of a URL, decoded.

    Attributes:
        user, password: the login; empty if there is none.
        hosts: names and ports of the servers; the port is ``None`` if the URL has none.
        path: the text after the first slash, such as the name of a database; may be empty.
        query: the options of the query, by their names in lower case.
    """

    user: str
    password: str = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    query: Mapping[str, str]

    @property
    def places(self) -> str:
        """The hosts as text, for messages: ``db1:5432,[::1]``."""
        return ",".join(place(host, port) for host, port in self.hosts)


def read_url(url: str, form: UrlForm) -> ServerUrl:
    """Return the parts of ``scheme://user:password@host:port,host:port/path?option=value``.

    Raises:
        ConfigurationError: the URL is wrong, or has a secret in its query.
    """
    _, rest, query = split_url(url)
    authority, _, path = rest.partition("/")
    user, password, hosts = read_login(authority, form)
    # with a raw ? in the password, the apparent query begins before the @ of the login
    is_cut = "@" in query and ":" in rest and "@" not in rest and "/" not in rest
    if is_cut or "@" in path:
        raise misplaced_at(form)
    return ServerUrl(
        user=user,
        password=password,
        hosts=tuple(read_host(host, form) for host in hosts.split(",") if host),
        path=unquote(path),
        query=read_query(query, form),
    )


def split_url(url: str) -> tuple[str, str, str]:
    """Return the scheme in lower case, the text between ``://`` and the query, and the query without its ``?``."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    return scheme.lower(), rest, query


def read_login(authority: str, form: UrlForm) -> tuple[str, str, str]:
    """Return the user and the password, decoded, and the rest of ``user:password@rest``.

    Raises:
        ConfigurationError: there is a second ``@``.
    """
    login, _, rest = authority.rpartition("@")
    if "@" in login:
        raise misplaced_at(form)
    user, _, password = login.partition(":")
    return unquote(user), unquote(password), rest


def read_host(text: str, form: UrlForm) -> tuple[str, int | None]:
    """Return the host, decoded, and the port of ``host``, ``host:port`` or ``[IPv6 address]:port``.

    Raises:
        ConfigurationError: the port is not a number, or a bracket is missing.
    """
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        colon, port = after[:1], after[1:]
        is_wrong = not bracket or colon not in ("", ":")
    else:
        host, _, port = text.partition(":")
        is_wrong = False
    # isdecimal() also accepts the digits of other scripts, which a server's driver may refuse
    if is_wrong or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536)):
        raise ConfigurationError(
            "the URL has a port that is not a number from 1 to 65535",
            where=SETTING,
            remedy=f"write {form.example}, with special characters of the user and the password as %XX",
        )
    return unquote(host), int(port) if port else None


def read_query(text: str, form: UrlForm) -> dict[str, str]:
    """Return the options of a query, by their names in lower case.

    Raises:
        ConfigurationError: one is unknown, or a secret.
    """
    found = {name.lower(): value for name, value in parse_qsl(text, keep_blank_values=True)}
    for name in found:
        is_known = form.options is None or name in form.options
        if "@" in name or ("@" in text and not is_known):
            # after a raw ? in the password there is no query: the apparent name is a part of the password
            raise misplaced_at(form)
        if is_secret_name(name):
            raise ConfigurationError(
                f"the URL has {name}= in its query, where tools that hide passwords do not find it",
                where=SETTING,
                remedy=f"write it as user:password@host, or put it into {form.secrets}",
            )
        if not is_known:
            raise ConfigurationError(
                f"the URL has {name}=, which is not known",
                where=SETTING,
                remedy=f"use one of {', '.join(sorted(form.options or ()))}",
            )
    return found


def misplaced_at(form: UrlForm) -> ConfigurationError:
    """Return the error for an ``@`` that does not end the login."""
    return ConfigurationError(
        "the URL has an @ where none can be",
        where=SETTING,
        remedy=f"write {form.example}, with special characters of the user and the password as %XX",
    )


def place(host: str, port: int | None) -> str:
    """Return a host and a port as text, for messages."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"
