"""Finds the variables that the chosen broker and backend use. All others may belong to another program."""

from __future__ import annotations

from rootcellar.configuration.choices import SYNONYMS, Choice
from rootcellar.configuration.urls import reveal
from rootcellar.configuration.variables import GROUPS, Variables

#: groups of variables that a kind of backend uses, besides Celery's
_GROUPS = {
    "postgres": ("DatabaseVariables",),
    "mysql": ("DatabaseVariables",),
    "sqlite": ("DatabaseVariables",),
    "redis": ("RedisVariables",),
    "hybrid": ("HybridVariables", "DatabaseVariables", "RedisVariables"),
    "mongodb": ("MongoVariables",),
}
#: all variables that may give a broker
_BROKER_NAMES = (
    "celery_broker",
    "celery_broker_url",
    "broker_url",
    "celery_broker_read_url",
    "celery_broker_write_url",
)
#: the variables for the parts of a URL; a whole URL replaces them
_DATABASE_PARTS = frozenset(
    {
        "DB_USER",
        "DB_PASSWORD",
        "DB_HOST",
        "DB_PORT",
        "DB_NAME",
        "DB_CONNECT_TIMEOUT",
        "DB_KEEPALIVES_IDLE",
        "DB_KEEPALIVES_INTERVAL",
        "DB_KEEPALIVES_COUNT",
        "DB_SSLMODE",
        "DB_SSLROOTCERT",
        "DB_SSLCERT",
        "DB_SSLKEY",
    }
)
_REDIS_PARTS = frozenset(
    {
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_SOCKET",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_DB",
        "REDIS_SENTINELS",
        "REDIS_CLUSTER_NODES",
    }
)
_SENTINEL_OPTIONS = frozenset(
    {"REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD", "REDIS_SENTINEL_SSL"}
)
_MONGODB_PARTS = frozenset(
    {
        "MONGODB_HOST",
        "MONGODB_PORT",
        "MONGODB_USER",
        "MONGODB_PASSWORD",
        "MONGODB_DB",
        "MONGODB_REPLICA_SET",
        "MONGODB_AUTH_SOURCE",
        "MONGODB_TLS",
        "MONGODB_TLS_CA_CERTS",
        "MONGODB_TLS_CERTKEY",
    }
)
_BROKER_PARTS = frozenset({"BROKER_HOST", "BROKER_PORT", "BROKER_USER", "BROKER_PASSWORD", "BROKER_VHOST", "BROKER_DB"})


def used_names(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names of the variables that a backend and a broker use."""
    groups = ["CeleryVariables"]
    if backend is not None:
        groups += _GROUPS.get(backend.kind, ())
        groups += ["PayloadVariables"] if backend.kind != "rpc" else []
    if broker is not None:
        groups += ["BrokerVariables"]
    if "redis" in _named_brokers(found):
        groups += ["RedisVariables"]
    return _names_of(groups) - _replaced(found, backend, broker)


def concerned_names(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names of the variables whose problems are errors.

    A wrong value that is not used is only a warning: the variable may belong to another program.
    """
    if backend is None:
        return frozenset(name.upper() for name in Variables.model_fields)
    groups = ["PayloadVariables"]
    if broker is not None and broker.kind == "redis":
        # a broker that is given by its URL uses these certificates, too
        groups += ["RedisVariables"]
    return used_names(found, backend, broker) | _names_of(groups) - _replaced(found, backend, broker)


def _replaced(found: Variables, backend: Choice | None, broker: Choice | None) -> frozenset[str]:
    """Return the names that are not used, because a whole URL or a file replaces them."""
    named_brokers = _named_brokers(found)
    # hybrid:// itself has no parts: its two servers are always given by variables
    is_made_of_parts = backend is not None and (backend.is_named or backend.kind == "hybrid")
    kind = backend.kind if backend is not None and is_made_of_parts else ""
    # the URL for notifications that bypass a pooler is made of these parts, too
    listens_elsewhere = backend is not None and backend.kind == "postgres" and bool(_listen_parts(found))
    replaced: frozenset[str] = frozenset()
    if kind not in ("postgres", "mysql", "hybrid") and not listens_elsewhere:
        replaced |= _DATABASE_PARTS
    if kind != "sqlite":
        replaced |= {"DB_PATH"}
    if kind not in ("redis", "hybrid") and "redis" not in named_brokers:
        is_sentinel = any(choice is not None and choice.scheme == "sentinel" for choice in (backend, broker))
        replaced |= _REDIS_PARTS if is_sentinel else _REDIS_PARTS | _SENTINEL_OPTIONS
    if kind != "mongodb":
        replaced |= _MONGODB_PARTS
    return replaced if named_brokers else replaced | _BROKER_PARTS


def _listen_parts(found: Variables) -> set[str]:
    return found.model_fields_set & {"db_listen_host", "db_listen_port"}


def _named_brokers(found: Variables) -> set[str]:
    """Return the names of the brokers whose URL is made of variables."""
    texts = (reveal(getattr(found, name)) for name in _BROKER_NAMES)
    names = {text.strip().lower() for text in texts if text and "://" not in text}
    return {SYNONYMS.get(name, name) for name in names}


def _names_of(groups: list[str]) -> frozenset[str]:
    return frozenset(name.upper() for group in GROUPS if group.__name__ in groups for name in group.model_fields)
