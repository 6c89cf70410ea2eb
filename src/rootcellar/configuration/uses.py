"""Finds the variables that the chosen broker and backend use. All others may belong to another program."""

from __future__ import annotations

from rootcellar.configuration.choices import Choice, broker_name
from rootcellar.configuration.urls import reveal
from rootcellar.configuration.variables import (
    BrokerVariables,
    CeleryVariables,
    Group,
    MigrationVariables,
    PayloadVariables,
    RedisVariables,
    Variables,
    all_variables,
    groups_of,
)
from rootcellar.descriptions import backend_names, backends

#: all variables that may give a broker
_BROKER_NAMES = (
    "celery_broker",
    "celery_broker_url",
    "broker_url",
    "celery_broker_read_url",
    "celery_broker_write_url",
)
#: the variables for the parts of a broker's URL; a whole URL replaces them
_BROKER_PARTS = frozenset(
    {
        "BROKER_HOST",
        "BROKER_PORT",
        "BROKER_USER",
        "BROKER_PASSWORD",
        "BROKER_VHOST",
        "BROKER_DB",
        "BROKER_SSL",
        "BROKER_SSL_CA_CERTS",
        "BROKER_SSL_CERTFILE",
        "BROKER_SSL_KEYFILE",
    }
)
#: the beginnings of what a whole URL of sentinels cannot contain
_NOT_IN_SENTINEL_URL = ("REDIS_SENTINEL_", "REDIS_SSL")


def used_names(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names of the variables that a backend and a broker use."""
    groups: list[type[Group]] = [CeleryVariables]
    if backend is not None:
        described = backend.description
        groups += groups_of(described) if described else ()
        groups += [PayloadVariables, MigrationVariables] if described is None or described.keeps_results else []
    if broker is not None:
        groups += [BrokerVariables]
    if "redis" in _named_brokers(found):
        groups += [RedisVariables]
    used = _names_of(groups) - replaced_names(found, backend, broker)
    return used | _sentinel_names() if broker is not None and broker.scheme == "sentinel" else used


def concerned_names(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names of the variables whose problems are errors.

    A wrong value that is not used is only a warning: the variable may belong to another program.
    """
    if backend is None:
        return frozenset(name.upper() for name in all_variables().model_fields)
    return used_names(found, backend, broker) | _names_of([PayloadVariables, MigrationVariables])


def without_replaced(found: Variables, backend: Choice | None, broker: Choice | None) -> Variables:
    """Return the variables without those that a whole URL or a file replaces."""
    names = {name.lower() for name in replaced_names(found, backend, broker)} & found.model_fields_set
    return found.model_copy(update=dict.fromkeys(names))


def replaced_names(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names that are not used, because a whole URL or a file replaces them."""
    named_brokers = _named_brokers(found)
    needed: frozenset[str] = frozenset()
    if backend is not None and backend.description is not None:
        parts = backend.description.combines
        if backend.is_named or parts:
            # a URL such as hybrid:// has no parts: its servers are always given by variables
            needed |= _url_variables(backend.kind, *parts)
        if backend.kind == "postgres" and _listen_parts(found):
            # the URL for notifications that bypass a pooler is made of these parts, too
            needed |= _url_variables("postgres")
    if "redis" in named_brokers:
        needed |= _url_variables("redis")
    if any(choice is not None and choice.scheme == "sentinel" for choice in (backend, broker)):
        needed |= _sentinel_names()
    replaced = _url_variables(*backend_names()) - needed
    return replaced if named_brokers else replaced | _BROKER_PARTS


def _url_variables(*names: str) -> frozenset[str]:
    """Return the variables that the URLs of some backends are made of."""
    return frozenset().union(*(each.url_variables for each in backends() if each.name in names))


def _sentinel_names() -> frozenset[str]:
    """Return the variables that complete a whole URL of sentinels."""
    return frozenset(name for name in _url_variables("redis") if name.startswith(_NOT_IN_SENTINEL_URL))


def _listen_parts(found: Variables) -> set[str]:
    return found.model_fields_set & {"db_listen_host", "db_listen_port"}


def _named_brokers(found: Variables) -> set[str]:
    """Return the names of the brokers whose URL is made of variables."""
    texts = (reveal(getattr(found, name)) for name in _BROKER_NAMES)
    return {broker_name(text.strip().lower()) for text in texts if text and "://" not in text}


def _names_of(groups: list[type[Group]]) -> frozenset[str]:
    return frozenset(name.upper() for group in groups for name in group.model_fields)
