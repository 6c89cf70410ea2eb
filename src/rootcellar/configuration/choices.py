"""Finds the broker and the backend that the variables choose, by a name or a URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from kombu.transport import TRANSPORT_ALIASES
from pydantic import SecretStr

from rootcellar.configuration import urls
from rootcellar.configuration.urls import SecretUrl, reveal
from rootcellar.configuration.variables import Variables
from rootcellar.stores import ENTRY_POINTS

BACKENDS: Mapping[str, Callable[[Variables], SecretUrl]] = {
    "postgres": urls.postgres,
    "redis": urls.redis,
    "hybrid": lambda _: SecretUrl("hybrid://"),
    "mysql": urls.mysql,
    "sqlite": urls.sqlite,
    "mongodb": urls.mongodb,
    "rpc": lambda _: SecretUrl(urls.RPC_URL),
}
BROKERS: Mapping[str, Callable[[Variables], SecretUrl]] = {"redis": urls.redis_broker, "rabbitmq": urls.rabbitmq}
#: other names that people write
_NICKNAMES = {"pg": "postgres", "psql": "postgres", "pgsql": "postgres", "rabbit": "rabbitmq", "amqps": "rabbitmq"}
SYNONYMS = {"postgresql": "postgres", "mariadb": "mysql", "mongo": "mongodb", "amqp": "rabbitmq"}

#: the kind of store for the scheme of a URL
_KINDS = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "sentinel": "redis",
    "redis-cluster": "redis",
    "rediss-cluster": "redis",
    "mongodb": "mongodb",
    "hybrid": "hybrid",
    "rpc": "rpc",
    "rootcellar-rpc": "rpc",
    "pyamqp": "rabbitmq",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ESCAPE = "write special characters in a user or a password as %XX, or give the parts in variables of their own"


@dataclass(frozen=True, slots=True)
class Choice:
    """A broker or a backend.

    Attributes:
        kind: a name that can be chosen, or the scheme of a URL.
        url: its URL; of a backend without ``rootcellar+``.
        is_named: whether the URL was made of variables.
    """

    kind: str
    url: SecretUrl
    is_named: bool

    @property
    def scheme(self) -> str:
        """The scheme of the URL."""
        return self.url.partition("://")[0].lower()


class NoChoice(ValueError):
    """The value of a variable is not a valid choice. The message is without the variable's name and value."""


def choose_backend(found: Variables) -> Choice | None:
    """Return the backend, or ``None`` if the variables choose none.

    Raises:
        NoChoice: the variable does not name a backend.
    """
    text = reveal(found.celery_result_backend)
    if text is None:
        return None
    match = _URL.fullmatch(text.strip().removeprefix("rootcellar+"))
    if not match:
        return _named(text, BACKENDS, found, "a URL such as postgresql://user:password@host/database")
    scheme = match[1].lower()
    if scheme.partition("+")[0] == "db":
        raise NoChoice(f"is {scheme}://, Celery's own backend; write {scheme[3:].partition('+')[0]}://… for this one")
    kind = _KINDS.get(scheme.partition("+")[0])
    if kind in (None, "rabbitmq") and scheme not in {entry.name for entry in entry_points(group=ENTRY_POINTS)}:
        raise NoChoice(
            f"is {scheme}://, for which there is no store; it must be one of {', '.join(BACKENDS)}, or a store's URL"
        )
    _refuse_odd_logins(match[0], scheme)
    return Choice(kind or scheme, SecretUrl(match[0]), is_named=False)


def choose_broker(secret: SecretStr, found: Variables) -> Choice:
    """Return the broker that a variable chooses.

    Raises:
        NoChoice: the variable does not name a broker.
    """
    text = secret.get_secret_value().strip()
    match = _URL.fullmatch(text)
    if not match:
        return _named(text, BROKERS, found, "a URL such as redis://host:6379/0 or amqp://user:password@host//")
    scheme = match[1].lower()
    if scheme.partition("+")[0] not in TRANSPORT_ALIASES:
        raise NoChoice(f"is {scheme}://, which is unknown; it must be redis, rabbitmq, or a URL that Celery knows")
    _refuse_odd_logins(text, scheme)
    return Choice(_KINDS.get(scheme.partition("+")[0], scheme), SecretUrl(text), is_named=False)


def _named(text: str, known: Mapping[str, Callable[[Variables], SecretUrl]], found: Variables, url: str) -> Choice:
    name = text.strip().lower()
    name = SYNONYMS.get(name, name)
    if name in known:
        return Choice(name, known[name](found), is_named=True)
    # the message does not contain the text, which may be a part of a URL
    meant = [_NICKNAMES[name]] if _NICKNAMES.get(name) in known else difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {meant[0]}?" if meant else ""
    raise NoChoice(f"must be one of {', '.join(known)}, or {url}{hint}")


def _refuse_odd_logins(url: str, scheme: str) -> None:
    """Refuse a URL with characters in the login that would end it too early."""
    if scheme.startswith("sqlite"):
        return
    for part in url.split(";"):
        authority, _, rest = part.partition("://")[2].partition("/")
        if authority.count("@") > 1 or "@" in rest or "#" in authority or "?" in authority.partition("@")[0]:
            raise NoChoice(f"cannot be read as a URL: {_ESCAPE}")
