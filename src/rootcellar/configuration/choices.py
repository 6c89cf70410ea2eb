"""Finds the broker and the backend that the variables choose, by a name or a URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kombu.transport import TRANSPORT_ALIASES
from pydantic import SecretStr

from rootcellar.configuration import urls
from rootcellar.configuration.urls import SecretUrl, reveal
from rootcellar.configuration.variables import Variables
from rootcellar.descriptions import (
    BackendDescription,
    backend_names,
    backend_of_name,
    backend_of_scheme,
    backends,
    resolve,
)
from rootcellar.stores import schemes

BROKERS: Mapping[str, Callable[[Variables], SecretUrl]] = {"redis": urls.redis_broker, "rabbitmq": urls.rabbitmq}
#: the schemes of RabbitMQ's URLs
AMQP_SCHEMES = ("pyamqp", "amqp", "amqps")
#: names that do not choose a broker, and the one that is suggested
_BROKER_NICKNAMES = {"rabbit": "rabbitmq", "amqps": "rabbitmq"}
_BROKER_SYNONYMS = {"amqp": "rabbitmq"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ESCAPE = "write special characters in a user or a password as %XX, or give the parts in variables of their own"


@dataclass(frozen=True, slots=True)
class Choice:
    """A broker or a backend.

    Attributes:
        kind: a name that can be chosen, or the scheme of a URL for which there is no description.
        url: its URL; of a backend without ``rootcellar+``.
        is_named: whether the URL was made of variables.
    """

    kind: str
    url: SecretUrl
    is_named: bool

    @property
    def description(self) -> BackendDescription | None:
        """The description of a backend; ``None`` for a broker, and for a store without a description."""
        return backend_of_name(self.kind)

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
    return _backend_of_url(match) if match else _named_backend(text, found)


def choose_target(found: Variables) -> Choice | None:
    """Return the store to which results are migrated, or ``None`` if the variables name none.

    Raises:
        NoChoice: the variable does not name a store.
    """
    text = reveal(found.rootcellar_migration)
    if text is None:
        return None
    match = _URL.fullmatch(text.strip().removeprefix("rootcellar+"))
    if not match:
        raise NoChoice("must be a whole URL such as postgresql://user:password@host/database")
    choice = _backend_of_url(match)
    if choice.description is not None and not choice.description.keeps_results:
        raise NoChoice("must be a store that keeps results")
    return choice


def _backend_of_url(match: re.Match[str]) -> Choice:
    scheme = match[1].lower()
    if scheme.partition("+")[0] == "db":
        raise NoChoice(f"is {scheme}://, Celery's own backend; write {scheme[3:].partition('+')[0]}://… for this one")
    description = backend_of_scheme(scheme)
    if description is None and scheme not in schemes():
        known = ", ".join(backend_names())
        raise NoChoice(f"is {scheme}://, for which there is no store; it must be one of {known}, or a store's URL")
    _refuse_odd_logins(match[0], scheme)
    return Choice(description.name if description else scheme, SecretUrl(match[0]), is_named=False)


def choose_broker(secret: SecretStr, found: Variables) -> Choice:
    """Return the broker that a variable chooses.

    Raises:
        NoChoice: the variable does not name a broker.
    """
    text = secret.get_secret_value().strip()
    match = _URL.fullmatch(text)
    if not match:
        return _named_broker(text, found)
    scheme = match[1].lower()
    if scheme.partition("+")[0] not in TRANSPORT_ALIASES:
        raise NoChoice(f"is {scheme}://, which is unknown; it must be redis, rabbitmq, or a URL that Celery knows")
    _refuse_odd_logins(text, scheme)
    return Choice(_kind_of_broker(scheme), SecretUrl(text), is_named=False)


def broker_name(name: str) -> str:
    """Return the usual name of a broker."""
    return _BROKER_SYNONYMS.get(name, name)


def _kind_of_broker(scheme: str) -> str:
    first = scheme.partition("+")[0]
    description = backend_of_scheme(first)
    return "rabbitmq" if first in AMQP_SCHEMES else description.name if description else scheme


def _named_backend(text: str, found: Variables) -> Choice:
    name = text.strip().lower()
    description = backend_of_name(name)
    if description is not None:
        return Choice(description.name, resolve(description.url)(found), is_named=True)
    meant = next((each.name for each in backends() if name in each.nicknames), None)
    raise _unknown(name, backend_names(), meant, "a URL such as postgresql://user:password@host/database")


def _named_broker(text: str, found: Variables) -> Choice:
    name = broker_name(text.strip().lower())
    if name in BROKERS:
        return Choice(name, BROKERS[name](found), is_named=True)
    url = "a URL such as redis://host:6379/0 or amqp://user:password@host//"
    raise _unknown(name, tuple(BROKERS), _BROKER_NICKNAMES.get(name), url)


def _unknown(name: str, known: Sequence[str], meant: str | None, url: str) -> NoChoice:
    """Return the error for a name that is not known. It does not contain the name, which may be a part of a URL."""
    guesses = [meant] if meant else difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {guesses[0]}?" if guesses else ""
    return NoChoice(f"must be one of {', '.join(known)}, or {url}{hint}")


def _refuse_odd_logins(url: str, scheme: str) -> None:
    """Refuse a URL with characters in the login that would end it too early."""
    if scheme.startswith("sqlite"):
        return
    for part in url.split(";"):
        authority, _, rest = part.partition("://")[2].partition("/")
        if authority.count("@") > 1 or "@" in rest or "#" in authority or "?" in authority.partition("@")[0]:
            raise NoChoice(f"cannot be read as a URL: {_ESCAPE}")
