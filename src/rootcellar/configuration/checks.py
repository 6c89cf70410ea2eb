"""Finds variables that contradict each other although each is correct by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from rootcellar.configuration.choices import Choice
from rootcellar.configuration.urls import SYSTEM_CERTIFICATES
from rootcellar.configuration.uses import replaced_names
from rootcellar.configuration.values import Allowed
from rootcellar.configuration.variables import Variables, all_groups, fact, groups_of
from rootcellar.descriptions import resolve, with_parts
from rootcellar.errors import ConfigurationError
from rootcellar.payloads.keys import read_keys
from rootcellar.retention.rules import VARIABLE, read_rules

#: the schemes of URLs without TLS, and what to write for TLS
_REDIS_WITH_TLS = {"redis": "rediss", "redis-cluster": "rediss-cluster"}
_BROKER_WITH_TLS = {"redis": "rediss", "amqp": "amqps", "pyamqp": "amqps"}
_SCHEMES_OF_TLS = ("rediss", "amqps")
_AMQP = "rabbitmq"


def contradictions(found: Variables, backend: Choice | None, broker: Choice | None) -> Iterator[str]:
    """Yield every problem, with the names of its variables."""
    fields = {name: info for group in all_groups() for name, info in group.model_fields.items()}
    given = {name: info for name, info in fields.items() if name in found.model_fields_set}
    yield from _missing(given, backend, broker)
    replaced = replaced_names(found, backend, broker)
    for name, info in given.items():
        switch = fact(info, "tls")
        is_read = backend is None or name.upper() not in replaced
        if switch and switch not in given and is_read and not _speaks_tls(switch, backend, broker):
            yield f"{name.upper()} is given, but TLS is not: set {switch.upper()}=true, or leave it out"
    for name, info in given.items():
        path = getattr(found, name)
        is_file = any(isinstance(each, Allowed) and each.must_exist for each in info.metadata)
        # pathlib would raise if the user may not enter a folder
        if is_file and path and path != SYSTEM_CERTIFICATES and not os.path.isfile(path):
            yield f"{name.upper()}: there is no file {path}"
    yield from _keys(found)
    yield from _rules(found)
    if found.rootcellar_result_too_large == "spill" and not found.rootcellar_blob_url:
        yield "ROOTCELLAR_BLOB_URL is missing: ROOTCELLAR_RESULT_TOO_LARGE=spill needs it"
    yield from _redis(found, backend, broker)
    described = backend.description if backend is not None else None
    for each in with_parts(described) if described is not None else ():
        if each.contradictions:
            yield from resolve(each.contradictions)(found, backend, broker)
    yield from _unused_exchange(found)


def _missing(given: Mapping[str, FieldInfo], backend: Choice | None, broker: Choice | None) -> Iterator[str]:
    """Yield the variables that others need and that were not given."""
    for name, info in given.items():
        needed = fact(info, "needs")
        if needed and needed not in given and not _is_sentinel_url({name, needed}, backend, broker):
            yield f"{needed.upper()} is missing: {name.upper()} needs it"


def tls_warnings(found: Variables, backend: Choice | None, broker: Choice | None) -> Iterator[str]:
    """Yield a warning for each variable about TLS that a whole URL ignores: the URL wins, and its user should know."""
    whole = [choice for choice in (backend, broker) if choice is not None and not choice.is_named]
    whole_broker = [choice for choice in whole if choice is broker]
    for switch, with_tls, choices in (
        ("redis_ssl", _REDIS_WITH_TLS, whole),
        ("broker_ssl", _BROKER_WITH_TLS, whole_broker),
    ):
        instead = {with_tls[choice.scheme] for choice in choices if choice.scheme in with_tls}
        if getattr(found, switch) and instead:
            written = " or ".join(f"{scheme}://" for scheme in sorted(instead))
            yield f"{switch.upper()} is true, but the URL is one without TLS: write {written} for TLS"
    if found.broker_ssl and not found.redis_ssl and any(choice.scheme == "sentinel" for choice in whole_broker):
        yield "BROKER_SSL is not read with a URL of sentinels: set REDIS_SSL=true for TLS"
    replaced = replaced_names(found, backend, broker)
    for switch, choices in (("redis_ssl", whole), ("broker_ssl", whole_broker)):
        if any(choice.scheme.startswith(_SCHEMES_OF_TLS) for choice in choices):
            for name in _details_of(switch, found):
                if name.upper() in replaced:
                    yield (
                        f"{name.upper()} is not read with a whole URL: write ?ssl_ca_certs=FILE and the like into the "
                        "URL of a store, or set CELERY_BROKER_USE_SSL for a broker"
                    )


def _details_of(switch: str, found: Variables) -> list[str]:
    """Return the variables that were given and that say more about TLS than its switch."""
    fields = type(found).model_fields
    return [name for name in fields if name in found.model_fields_set and fact(fields[name], "tls") == switch]


def _keys(found: Variables) -> Iterator[str]:
    for name in ("rootcellar_encryption_keys", "rootcellar_signing_keys"):
        secret = getattr(found, name)
        try:
            if secret is not None:
                read_keys(secret.get_secret_value(), name.upper())
        except ConfigurationError as exc:
            yield f"{name.upper()}: {exc.what}: {exc.remedy}"


def _rules(found: Variables) -> Iterator[str]:
    try:
        read_rules(found.rootcellar_retention, VARIABLE)
    except ConfigurationError as exc:
        yield f"{exc.what}: {exc.remedy}"


def _redis(found: Variables, backend: Choice | None, broker: Choice | None) -> Iterator[str]:
    ways = [name for name in ("redis_socket", "redis_sentinels", "redis_cluster_nodes") if getattr(found, name)]
    if len(ways) > 1:
        yield f"{' and '.join(name.upper() for name in ways)} exclude each other: Redis is one of them"
    if found.redis_cluster_nodes and found.redis_db:
        yield "REDIS_DB must be 0 with REDIS_CLUSTER_NODES: a cluster has no other database"
    if found.redis_socket and found.redis_ssl:
        yield "REDIS_SSL must be false with REDIS_SOCKET: there is no TLS on a local socket"
    is_named = broker is not None and broker.kind == "redis" and broker.is_named
    if is_named and found.redis_cluster_nodes and not found.broker_host:
        yield "CELERY_BROKER=redis needs BROKER_HOST with REDIS_CLUSTER_NODES: Celery has no broker on a cluster"


def of_mysql(found: Variables, backend: Choice, broker: Choice | None) -> Iterator[str]:
    """Yield what contradicts MySQL."""
    if "," in (found.db_host or ""):
        yield "DB_HOST must be one host with mysql"


def of_rpc(found: Variables, backend: Choice, broker: Choice | None) -> Iterator[str]:
    """Yield what contradicts RPC."""
    if broker is not None and broker.kind != _AMQP:
        yield "CELERY_RESULT_BACKEND=rpc needs CELERY_BROKER=rabbitmq or an amqp:// URL: results are its messages"


def _unused_exchange(found: Variables) -> Iterator[str]:
    if found.celery_result_exchange_type and not found.celery_result_exchange:
        yield "CELERY_RESULT_EXCHANGE is missing: CELERY_RESULT_EXCHANGE_TYPE needs it"


def _is_sentinel_url(names: set[str], backend: Choice | None, broker: Choice | None) -> bool:
    """Return True if the sentinels are in a URL, so that only the master's name is a variable."""
    return "redis_sentinels" in names and any(choice and choice.scheme == "sentinel" for choice in (backend, broker))


def _speaks_tls(switch: str, backend: Choice | None, broker: Choice | None) -> bool:
    """Return True if a URL turns on TLS although the variable does not."""
    if switch == "broker_ssl":
        return broker is not None and broker.scheme in ("rediss", "amqps")
    if switch == "redis_ssl":
        return backend is not None and backend.scheme.startswith("rediss")
    if backend is None or backend.is_named or backend.description is None:
        return False
    return any(switch in group.model_fields for group in groups_of(backend.description))
