"""Turns Celery's settings into the options of a store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from rootcellar.stores import StoreOptions, schemes
from rootcellar.stores.passwords import SETTING
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: Celery's settings for its Redis backend that are passed to a store, without ``redis_``
REDIS_SETTINGS = (
    "backend_use_ssl",
    "backend_health_check_interval",
    "client_name",
    "max_connections",
    "password",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "username",
)


#: the allowed `result_backend_transport_options`, in addition to settings whose names begin with ``result_``
TRANSPORT_OPTIONS = (
    "cache_expires",
    "cache_url",
    "chord_lease",
    "chord_sweep_interval",
    "cleanup_interval",
    "durable_url",
    "global_keyprefix",
    "listen_url",
    "master_name",
    "migrate_to",
    "mode",
    "move_interval",
    "prepared_statements",
    "sentinel_kwargs",
    "statistics_interval",
    "synchronous_commit",
    "wait_replicas",
    "wait_timeout",
)
#: options of Celery's own backends that rootcellar does not need
_STOCK_OPTIONS = ("polling_interval", "retry_policy", "socket_keepalive", "socket_timeout", "visibility_timeout")


#: kinds of rootcellar's own stores that have no options of their own
_WITHOUT_OPTIONS = frozenset(
    {"postgresql", "postgres", "sqlite", "rediss", "unix", "socket", "sentinel", "redis-cluster", "rediss-cluster"}
    | {"mysql", "mariadb", "hybrid", "memory"}
)


def _kinds_with_options() -> set[str]:
    """Return the kinds of stores that may have a mapping of options in the transport options."""
    return {*schemes()} - _WITHOUT_OPTIONS


def warn_of_unknown(options: Iterable[Any]) -> None:
    """Log each unknown transport option, with the name that was probably meant."""
    for name in options:
        if name in (*TRANSPORT_OPTIONS, *_STOCK_OPTIONS) or str(name).startswith("result_"):
            continue
        if name in _kinds_with_options():
            # the options of one kind of store, which checks them
            continue
        # imported only here, to make the start of a worker shorter
        import difflib

        meant = difflib.get_close_matches(str(name), TRANSPORT_OPTIONS, n=1)
        hint = f": did you mean {meant[0]}?" if meant else ""
        logger.warning("result_backend_transport_options has the unknown option %s%s", name, hint)


def store_options(conf: Any) -> StoreOptions:
    """Return the options of a store from Celery's settings."""
    tables = conf.get("database_table_names") or {}
    schemas = conf.get("database_table_schemas") or {}
    engine = dict(conf.get("database_engine_options") or {})
    recycle = 0.0 if conf.get("database_short_lived_sessions") else float(engine.get("pool_recycle", 3600))
    transport_options = conf.get("result_backend_transport_options") or {}
    default = StoreOptions()
    return StoreOptions(
        task_table=tables.get("task") or default.task_table,
        group_table=tables.get("group") or default.group_table,
        task_schema=schemas.get("task"),
        group_schema=schemas.get("group"),
        create_tables=conf.get("database_create_tables_at_setup", True) is not False,
        pool_size=int(engine.get("pool_size", 10)) + max(0, int(engine.get("max_overflow", 10))),
        pool_timeout=float(engine.get("pool_timeout", default.pool_timeout)),
        pool_recycle=recycle,
        pool_pre_ping=bool(engine.get("pool_pre_ping", True)),
        connect_args=engine.get("connect_args") or {},
        transport_options=transport_options,
        sections=_sections(conf, transport_options),
        password=conf.get(SETTING),
    )


def _sections(conf: Any, transport_options: Mapping[Any, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the options of single kinds of stores: Celery's own settings, then mappings in the transport options."""
    found: dict[str, Mapping[str, Any]] = {
        "redis": {name: conf[f"redis_{name}"] for name in REDIS_SETTINGS if conf.value_set_for(f"redis_{name}")},
        "mongodb": conf.get("mongodb_backend_settings") or {},
    }
    kinds = _kinds_with_options()
    for kind, given in dict(transport_options).items():
        if kind in kinds:
            # the store refuses what is not a mapping
            found[kind] = {**found.get(kind, {}), **given} if isinstance(given, Mapping) else given
    return found
