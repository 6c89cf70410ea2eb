"""Makes the Celery configuration from the variables."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from rootcellar.configuration import urls
from rootcellar.configuration.choices import Choice, choose_broker
from rootcellar.configuration.urls import RPC_URL, SecretText, SecretUrl, reveal
from rootcellar.configuration.variables import CeleryVariables, PayloadVariables, Variables
from rootcellar.descriptions import resolve, with_parts
from rootcellar.retention.rules import SETTING, VARIABLE, given_rules

#: Celery's setting for what only a store knows
OPTIONS = "result_backend_transport_options"
#: the serializer that keeps Python's types
TYPED_JSON = "rootcellar-json"
_CERT_REQS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
#: variables of Celery's group that do not become a setting of the same name
_EXPIRIES = ("celery_result_expires", "celery_result_failure_expires", "celery_result_chord_expires")
_NOT_PASSED_ON = ("celery_broker", "celery_broker_url", "celery_result_backend", *_EXPIRIES)


#: TLS whose certificate and host name are verified, for Redis and for RabbitMQ
_VERIFIED = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
#: kombu replaces None by the broker's host; without this key the host name would not be checked
_VERIFIED_AMQP = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}


def settings_of(
    found: Variables,
    backend: Choice,
    broker: Choice | None,
    passed_on: Mapping[str, Any] | None = None,
    target: Choice | None = None,
) -> dict[str, Any]:
    """Return Celery's settings, under Celery's own names. A setting without a variable keeps Celery's default.

    Args:
        found: the variables.
        backend: the result backend.
        broker: the broker; ``None`` if the app sets its own.
        passed_on: Celery's settings that have no variable of ours. If both give a setting, ours counts; dicts are
        merged.
        target: the store to which results are migrated; ``None`` for no migration.
    """
    conf = _own_settings(found)
    conf.update(_backend_settings(found, backend))
    if target is not None:
        conf[OPTIONS] = {**conf.get(OPTIONS, {}), "migrate_to": target.url}
    if backend.description is None or backend.description.keeps_results:
        conf.update(payload_settings_of(found))
        _add_typed_json(conf)
    if broker is not None:
        conf.update(_broker_settings(found, broker))
    for name, value in (passed_on or {}).items():
        ours = conf.get(name, value)
        conf[name] = {**value, **ours} if isinstance(value, dict) and isinstance(ours, dict) else ours
    tls = conf.get("broker_use_ssl")
    if broker is not None and broker.kind == "rabbitmq" and tls:
        conf["broker_use_ssl"] = {**_VERIFIED_AMQP, **(tls if isinstance(tls, dict) else {})}
    return conf


def _own_settings(found: Variables) -> dict[str, Any]:
    names = (name for name in CeleryVariables.model_fields if name not in _NOT_PASSED_ON)
    conf = _given({name.removeprefix("celery_"): getattr(found, name) for name in names})
    for name in ("broker_read_url", "broker_write_url"):
        if name in conf:
            conf[name] = choose_broker(conf[name], found).url
    for name in ("accept_content", "result_accept_content", "result_type_modules"):
        if name in conf:
            conf[name] = list(conf[name])
    conf.update(_expiries(found))
    return conf


def _add_typed_json(conf: dict[str, Any]) -> None:
    """Make typed JSON the serializer of results, unless another one is set."""
    if conf.setdefault("result_serializer", TYPED_JSON) == TYPED_JSON:
        accepted = conf.get("accept_content", ["json"])
        conf.setdefault("result_accept_content", [*accepted, *({TYPED_JSON} - set(accepted))])


def payload_settings_of(found: Variables) -> dict[str, Any]:
    """Return the settings for stored values."""
    conf: dict[str, Any] = {}
    for name in PayloadVariables.model_fields:
        value = getattr(found, name)
        setting = "result_" + name.removeprefix("rootcellar_").removeprefix("result_")
        if isinstance(value, SecretStr):
            hidden = SecretUrl if name.endswith("_url") else SecretText
            value = hidden(value.get_secret_value())
        conf[setting] = value
    if found.rootcellar_retention is not None:
        # the rules themselves, because a worker may not have the file
        conf[SETTING] = list(given_rules(found.rootcellar_retention, VARIABLE)[0])
    return _given(conf)


def _expiries(found: Variables) -> dict[str, float | None]:
    """Return the expiry settings. "Never" is ``None`` for results, and 0 for failures and chords."""
    conf: dict[str, float | None] = {}
    for name in _EXPIRIES:
        if name in found.model_fields_set:
            kept = getattr(found, name)
            never = None if name == "celery_result_expires" else 0
            conf[name.removeprefix("celery_")] = kept.total_seconds() if kept else never
    return conf


def _backend_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    conf: dict[str, Any] = {"result_backend": SecretUrl(f"rootcellar+{backend.url}")}
    options: dict[str, Any] = {}
    for described in with_parts(backend.description) if backend.description else ():
        if described.settings:
            settings = resolve(described.settings)(found, backend)
            options.update(settings.pop(OPTIONS, {}))
            conf.update(settings)
    if options:
        conf[OPTIONS] = options
    return conf


def rpc_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings for RPC."""
    return {"result_backend": SecretUrl(RPC_URL)}


def hybrid_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings for a hybrid, besides those of its two stores."""
    own = _given({"mode": found.hybrid_mode, "cache_expires": found.hybrid_cache_expires})
    return {OPTIONS: {"durable_url": urls.postgres(found), "cache_url": urls.redis(found), **own}}


def postgres_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings for PostgreSQL."""
    return {**database_settings(found, backend), OPTIONS: _postgres_options(found)}


def redis_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings for Redis. Sentinel is a form of Redis."""
    options = _redis_options(found)
    if backend.scheme == "sentinel" or (backend.kind != "redis" and found.redis_sentinels):
        options.update(_sentinel_options(found))
    return {**_redis_settings(found, backend), OPTIONS: options}


def database_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings that all SQL databases share."""
    schema = found.db_schema
    return _given(
        {
            "database_table_names": _given({"task": found.db_task_table, "group": found.db_group_table}),
            "database_table_schemas": {"task": schema, "group": schema} if schema else None,
            "database_create_tables_at_setup": found.db_create_tables,
            "database_short_lived_sessions": found.db_short_lived_sessions,
            "database_engine_options": _given(
                {
                    "pool_size": found.db_pool_size,
                    "max_overflow": found.db_max_overflow,
                    "pool_timeout": found.db_pool_timeout,
                    "pool_recycle": found.db_pool_recycle,
                    "pool_pre_ping": found.db_pool_pre_ping,
                }
            ),
        }
    )


def _postgres_options(found: Variables) -> dict[str, Any]:
    options = _given(
        {"synchronous_commit": found.db_synchronous_commit, "prepared_statements": found.db_prepared_statements}
    )
    if found.db_listen_host or found.db_listen_port:
        port = found.db_listen_port or (5432 if found.db_listen_host else None)
        options["listen_url"] = urls.postgres(found, found.db_listen_host, port)
    return options


def _redis_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    conf: dict[str, Any] = {
        "redis_max_connections": found.redis_max_connections,
        "redis_socket_timeout": found.redis_socket_timeout,
        "redis_socket_connect_timeout": found.redis_socket_connect_timeout,
        "redis_socket_keepalive": found.redis_socket_keepalive,
        "redis_retry_on_timeout": found.redis_retry_on_timeout,
        "redis_backend_health_check_interval": found.redis_health_check_interval,
    }
    # a whole URL says by its scheme whether it speaks TLS; only that of sentinels cannot
    is_by_url = backend.kind == "redis" and not backend.is_named and backend.scheme != "sentinel"
    if backend.scheme.startswith("rediss") if is_by_url else found.redis_ssl:
        conf["redis_backend_use_ssl"] = _redis_tls(found, is_by_url=is_by_url)
    return _given(conf)


def _redis_options(found: Variables) -> dict[str, Any]:
    return _given(
        {
            "wait_replicas": found.redis_wait_replicas,
            "wait_timeout": found.redis_wait_timeout,
            "global_keyprefix": found.redis_global_keyprefix,
        }
    )


def _redis_tls(found: Variables, *, is_by_url: bool = False) -> dict[str, Any]:
    """Return the settings for TLS to Redis. No variable turns off the verification for a server with a whole URL."""
    files = _given(
        {
            "ssl_ca_certs": found.redis_ssl_ca_certs,
            "ssl_certfile": found.redis_ssl_certfile,
            "ssl_keyfile": found.redis_ssl_keyfile,
        }
    )
    if is_by_url:
        return {**_VERIFIED, **files}
    return {
        "ssl_cert_reqs": _CERT_REQS[found.redis_ssl_cert_reqs or "required"],
        "ssl_check_hostname": found.redis_ssl_check_hostname is not False
        and found.redis_ssl_cert_reqs in (None, "required"),
        **files,
    }


def _sentinel_options(found: Variables) -> dict[str, Any]:
    password = reveal(found.redis_sentinel_password)
    is_tls = found.redis_ssl if found.redis_sentinel_ssl is None else found.redis_sentinel_ssl
    sentinel_kwargs = {
        **_given(
            {"username": found.redis_sentinel_username, "password": None if password is None else SecretText(password)}
        ),
        **({"ssl": True, **_redis_tls(found)} if is_tls else {}),
    }
    return _given({"master_name": found.redis_sentinel_master, "sentinel_kwargs": sentinel_kwargs})


def mongodb_settings(found: Variables, backend: Choice) -> dict[str, Any]:
    """Return the settings for MongoDB."""
    conf = _given(
        {
            "max_pool_size": found.mongodb_max_pool_size,
            "taskmeta_collection": found.mongodb_taskmeta_collection,
            "groupmeta_collection": found.mongodb_groupmeta_collection,
        }
    )
    return _given({"mongodb_backend_settings": conf})


def _broker_settings(found: Variables, broker: Choice) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if broker.kind == "redis":
        options.update(_given({"visibility_timeout": found.broker_visibility_timeout}))
    if broker.scheme == "sentinel":
        options.update(_sentinel_options(found))
    return _given(
        {
            "broker_url": broker.url,
            "broker_use_ssl": _broker_tls(found, broker),
            "broker_pool_limit": found.broker_pool_limit,
            "broker_heartbeat": found.broker_heartbeat,
            "broker_connection_timeout": found.broker_connection_timeout,
            "broker_connection_retry_on_startup": found.broker_connection_retry_on_startup,
            "broker_transport_options": options,
        }
    )


def _broker_tls(found: Variables, broker: Choice) -> dict[str, Any] | None:
    """Return kombu's settings for TLS, or ``None`` if the broker is used without TLS."""
    is_tls = found.redis_ssl if found.broker_ssl is None else found.broker_ssl
    if broker.scheme == "rediss" and not broker.is_named:
        return _redis_tls(found, is_by_url=True)
    if broker.scheme == "rediss" or (broker.scheme == "sentinel" and is_tls):
        if found.broker_ssl is None:
            return _redis_tls(found)
        return {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": True,
            **{f"ssl_{name}": value for name, value in _broker_files(found).items()},
        }
    if broker.scheme == "amqps":
        return {**_VERIFIED_AMQP, **(_broker_files(found) if broker.is_named else {})}
    return None


def _broker_files(found: Variables) -> dict[str, Any]:
    return _given(
        {
            "ca_certs": found.broker_ssl_ca_certs,
            "certfile": found.broker_ssl_certfile,
            "keyfile": found.broker_ssl_keyfile,
        }
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were given: without ``None`` and without empty mappings."""
    return {name: value for name, value in values.items() if value is not None and value != {}}
