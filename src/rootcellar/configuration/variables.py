"""Every variable that :func:`rootcellar.settings` reads: its name, its type, and its purpose.

The name of a field in capitals is the name of the variable. ``None`` is a variable that was not given.
A value that holds or may hold a password is a ``SecretStr``; such a variable may also be given as a file, by its
name and ``_FILE``.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from rootcellar.configuration.values import (
    BackendChoice,
    BlobUrl,
    BrokerChoice,
    CertReqs,
    Compression,
    Contents,
    Count,
    CountOrNone,
    DatabaseHost,
    ExchangeType,
    Expiry,
    File,
    Flag,
    History,
    Host,
    Identifier,
    Level,
    Mode,
    Modules,
    NewFile,
    Nodes,
    Patterns,
    Port,
    Prepared,
    Recycle,
    Rules,
    Seconds,
    Secret,
    Serializer,
    Size,
    Socket,
    Sslmode,
    StoreUrl,
    Text,
    TooLarge,
    Zone,
)
from rootcellar.descriptions import BackendDescription, backends, parts_of, resolve
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))


def variable(
    description: str, default: str = "", *, needs: str = "", tls: str = "", wrong_names: tuple[str, ...] = ()
) -> Any:
    """Describe a variable of a group.

    Args:
        description: what it is.
        default: what holds when it is not given.
        needs: the variable that must be given, too, if this one is given.
        tls: the variable that turns on TLS, if this one is a detail of TLS.
        wrong_names: wrong names that users write for it.
    """
    extra: dict[str, Any] = {"default": default, "needs": needs, "tls": tls, "wrong_names": list(wrong_names)}
    return Field(default=None, description=description, json_schema_extra=extra)


def fact(info: FieldInfo, name: str) -> Any:
    """Return the argument ``default``, ``needs``, ``tls`` or ``wrong_names`` of :func:`variable` for a field."""
    extra = info.json_schema_extra
    return extra.get(name, "") if isinstance(extra, dict) else ""


class Group(BaseModel):
    """The variables of one system. Its first line of documentation is the title of its table."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid", validate_default=True)


class CeleryVariables(Group):
    """Celery: which broker and which result backend, and Celery's own settings under their own names."""

    celery_broker: BrokerChoice = variable("The broker.", "must be given")
    celery_broker_url: BrokerChoice = variable("The same under the name that Celery itself reads.")
    celery_broker_read_url: BrokerChoice = variable("Another broker to take tasks from.", "the broker")
    celery_broker_write_url: BrokerChoice = variable("Another broker to send tasks to.", "the broker")
    celery_result_backend: BackendChoice = variable("Where results are kept.", "must be given")
    celery_result_expires: Expiry = variable("How long a result is kept.", "`1d`")
    celery_result_failure_expires: Expiry = variable("How long a failure is kept.", "as any result")
    celery_result_chord_expires: Expiry = variable(
        "How long an unfinished chord is kept after its last part came.", "as any result, but a day at least"
    )
    celery_result_extended: Flag = variable("Keep the arguments of tasks too.", "`false`")
    celery_result_serializer: Serializer = variable("How results are written.", "`rootcellar-json`; with `rpc` `json`")
    celery_result_accept_content: Contents = variable(
        "What may be read as a result.", "as `CELERY_ACCEPT_CONTENT`, and `rootcellar-json`"
    )
    celery_result_type_modules: Modules = variable(
        "The modules and packages whose classes may be in results.", "all that are imported"
    )
    celery_result_compression: Compression = variable("How results are compressed.", "not")
    celery_result_compression_level: Level = variable("The level of the compression.", "the compression's own")
    celery_result_compression_threshold: CountOrNone = variable("Smaller results are not compressed; bytes.", "`1024`")
    celery_result_max_decompressed_size: CountOrNone = variable(
        "The maximum size of a decompressed result, in bytes; 0: no limit.", "`268435456`"
    )
    celery_result_cache_max: CountOrNone = variable("Results that a client remembers.", "Celery's")
    celery_result_backend_always_retry: Flag = variable("Whether storing is tried again in an outage.", "`true`")
    celery_result_backend_max_retries: CountOrNone = variable("How many times it is tried again.", "no limit")
    celery_result_persistent: Flag = variable("With `rpc`: results survive a restart of the broker.", "`false`")
    celery_result_exchange: Identifier = variable(
        "With `rpc`: the exchange that results go through.", "the broker's own"
    )
    celery_result_exchange_type: ExchangeType = variable("With `rpc`: its type.", "`direct`")
    celery_accept_content: Contents = variable("What a worker accepts as a task.", "`json`")
    celery_task_serializer: Serializer = variable("How tasks are written.", "`json`")
    celery_task_ignore_result: Flag = variable("Keep no results, unless a task says otherwise.", "`false`")
    celery_task_store_errors_even_if_ignored: Flag = variable(
        "Keep failures of tasks whose result is ignored.", "`false`"
    )
    celery_task_track_started: Flag = variable("Record that a task was started.", "`false`")
    celery_task_acks_late: Flag = variable("Acknowledge a task when it is done, not when it starts.", "`false`")
    celery_task_reject_on_worker_lost: Flag = variable("Run a task again if its process was killed.", "`false`")
    celery_task_time_limit: Seconds = variable("A task is killed after that.", "no limit")
    celery_task_soft_time_limit: Seconds = variable(
        "`SoftTimeLimitExceeded` is raised in a task after that.", "no limit"
    )
    celery_task_default_queue: Text = variable("The queue of tasks without a queue of their own.", "`celery`")
    celery_timezone: Zone = variable("The time zone of schedules.", "`UTC`")
    celery_enable_utc: Flag = variable("Times in messages are UTC.", "`true`")
    celery_worker_concurrency: Count = variable("Processes or threads of a worker.", "one for each CPU")
    celery_worker_prefetch_multiplier: CountOrNone = variable(
        "Tasks that each process or thread reserves in advance; 0: no limit.", "4"
    )
    celery_worker_max_tasks_per_child: Count = variable("Tasks after which a process is replaced.", "no limit")


class BrokerVariables(Group):
    """The broker. With `CELERY_BROKER=redis`, what is not given here is taken from `REDIS_…`."""

    broker_url: BrokerChoice = variable("The same as `CELERY_BROKER`, under the name that the command `celery` reads.")
    broker_host: Host = variable("The broker's host.", "`REDIS_HOST` with redis, else `localhost`")
    broker_port: Port = variable("Its port.", "redis 6379, rabbitmq 5672 (TLS: 5671)")
    broker_user: Text = variable("The user.", "`guest` with rabbitmq", wrong_names=("BROKER_USERNAME",))
    broker_password: Secret = variable("The password.", "`guest` with rabbitmq and no user")
    broker_vhost: Text = variable("With rabbitmq: the virtual host.", "`/`")
    broker_db: CountOrNone = variable("With redis: the number of the database.", "`REDIS_DB`")
    broker_ssl: Flag = variable(
        "Speak TLS, and check the server's certificate.", "`REDIS_SSL` with redis, else `false`"
    )
    broker_ssl_ca_certs: File = variable(
        "The certificates of the authorities that are trusted.", "the system's", tls="broker_ssl"
    )
    broker_ssl_certfile: File = variable("The client's certificate.", needs="broker_ssl_keyfile", tls="broker_ssl")
    broker_ssl_keyfile: File = variable("The client's key.", needs="broker_ssl_certfile", tls="broker_ssl")
    broker_pool_limit: CountOrNone = variable("Connections that a process keeps; 0 keeps none.", "10")
    broker_heartbeat: Seconds = variable("With rabbitmq: the time between two heartbeats.", "Celery's")
    broker_connection_timeout: Seconds = variable("How long to try to connect.", "`4`")
    broker_connection_retry_on_startup: Flag = variable("A worker that starts waits for its broker.", "`true`")
    broker_visibility_timeout: Seconds = variable(
        "With redis: a task that is not acknowledged by then is given to another worker.", "`1h`"
    )


class DatabaseVariables(Group):
    """PostgreSQL, MySQL and SQLite."""

    db_user: Text = variable("The user.", "`celery`", wrong_names=("DB_USERNAME",))
    db_password: Secret = variable(
        "The password.", "none: another login method of the server or the driver", wrong_names=("DB_PASS",)
    )
    db_host: DatabaseHost = variable(
        "The server; with PostgreSQL also several: the one that accepts writes is used.",
        "`localhost`",
        wrong_names=("DB_HOSTNAME",),
    )
    db_port: Port = variable("Its port.", "PostgreSQL 5432, MySQL 3306")
    db_name: Text = variable("The database.", "`celery_results`", wrong_names=("DB_DATABASE",))
    db_path: NewFile = variable("With `sqlite`: the file.", "`celery_results.sqlite3`")
    db_schema: Identifier = variable(
        "With PostgreSQL: the schema of the tables.", "the server's default", wrong_names=("DB_SCHEMA_NAME",)
    )
    db_task_table: Identifier = variable("The table of tasks.", "`celery_taskmeta`")
    db_group_table: Identifier = variable("The table of groups.", "`celery_groupmeta`")
    db_create_tables: Flag = variable("Make missing tables on first use.", "`true`")
    db_pool_size: Count = variable("Connections that a process may keep.", "`10`")
    db_max_overflow: CountOrNone = variable("Additional connections while all `DB_POOL_SIZE` are in use.", "`10`")
    db_pool_timeout: Seconds = variable("How long to wait for a free connection.", "`30s`")
    db_pool_recycle: Recycle = variable("Age at which a connection is replaced.", "`1h`")
    db_pool_pre_ping: Flag = variable("Test an idle connection before it is used.", "`true`")
    db_short_lived_sessions: Flag = variable("Keep no connection.", "`false`")
    db_connect_timeout: Seconds = variable("How long to try to connect.", "`5s`", wrong_names=("DB_TIMEOUT",))
    db_keepalives_idle: Seconds = variable("With PostgreSQL: idle time before the first TCP keepalive.", "`30s`")
    db_keepalives_interval: Seconds = variable("With PostgreSQL: time between two keepalives.", "`10s`")
    db_keepalives_count: Count = variable(
        "With PostgreSQL: a connection is closed after so many unanswered keepalives.", "`3`"
    )
    db_sslmode: Sslmode = variable(
        "TLS, in PostgreSQL's words, also for MySQL; `verify-full` checks everything.", "the driver's"
    )
    db_sslrootcert: File = variable("The certificates of the authorities that are trusted.", "the driver's")
    db_sslcert: File = variable("The client's certificate.", needs="db_sslkey")
    db_sslkey: File = variable("The client's key.", needs="db_sslcert")
    db_listen_host: DatabaseHost = variable(
        "With PostgreSQL behind a transaction pooler: where to wait for results, past the pooler.", "`DB_HOST`"
    )
    db_listen_port: Port = variable("The port there.", "`DB_PORT`; `5432` with `DB_LISTEN_HOST`")
    db_prepared_statements: Prepared = variable(
        "With PostgreSQL: whether statements are prepared; `auto`: not through a pooler.", "`auto`"
    )
    db_synchronous_commit: Flag = variable("With PostgreSQL: a result is on disk before its task is done.", "`true`")


class RedisVariables(Group):
    """Redis: one server, Sentinel, or a cluster."""

    redis_host: Host = variable("The server.", "`localhost`")
    redis_port: Port = variable("Its port.", "`6379`")
    redis_socket: Socket = variable("A Unix socket, instead of host and port.")
    redis_username: Text = variable(
        "The user, if the server has users (ACL).",
        "the default user",
        needs="redis_password",
        wrong_names=("REDIS_USER",),
    )
    redis_password: Secret = variable("The password.", "none", wrong_names=("REDIS_PASS",))
    redis_db: CountOrNone = variable("The number of the database.", "`0`", wrong_names=("REDIS_DATABASE",))
    redis_ssl: Flag = variable("Speak TLS, and check the server's certificate.", "`false`", wrong_names=("REDIS_TLS",))
    redis_ssl_ca_certs: File = variable(
        "The certificates of the authorities that are trusted.", "the system's", tls="redis_ssl"
    )
    redis_ssl_certfile: File = variable("The client's certificate.", needs="redis_ssl_keyfile", tls="redis_ssl")
    redis_ssl_keyfile: File = variable("The client's key.", needs="redis_ssl_certfile", tls="redis_ssl")
    redis_ssl_cert_reqs: CertReqs = variable(
        "Whether the server's certificate is checked.", "`required`", tls="redis_ssl"
    )
    redis_ssl_check_hostname: Flag = variable("Whether the certificate must have the host's name.", "`true`")
    redis_max_connections: Count = variable("Connections that a process may have.", "`20`")
    redis_socket_timeout: Seconds = variable("How long to wait for an answer.", "`15s`")
    redis_socket_connect_timeout: Seconds = variable("How long to try to connect.", "`5s`")
    redis_socket_keepalive: Flag = variable("TCP keepalives.", "`true`")
    redis_retry_on_timeout: Flag = variable(
        "Celery's setting with this name. Storing is always tried again.", "`false`"
    )
    redis_health_check_interval: Seconds = variable("Idle time after which a connection is tested; 0: never.", "`15s`")
    redis_sentinels: Nodes = variable(
        "The sentinels, each `host` or `host:port` (26379).", needs="redis_sentinel_master"
    )
    redis_sentinel_master: Text = variable(
        "The name of the master.", "must be given with `REDIS_SENTINELS`", needs="redis_sentinels"
    )
    redis_sentinel_username: Text = variable("The user at the sentinels.", "none")
    redis_sentinel_password: Secret = variable("The password at the sentinels.", "none")
    redis_sentinel_ssl: Flag = variable("Speak TLS to the sentinels too, with the same certificates.", "`REDIS_SSL`")
    redis_wait_replicas: CountOrNone = variable(
        "With Sentinel and Cluster: how many replicas must have a result before its task is done; 0: none.", "`1`"
    )
    redis_wait_timeout: Seconds = variable("How long to wait for the replicas.", "`1s`")
    redis_global_keyprefix: Text = variable("The beginning of all keys of results.", "nothing")
    redis_cluster_nodes: Nodes = variable("Some nodes of the cluster, each `host` or `host:port` (6379).")


class MongoVariables(Group):
    """MongoDB."""

    mongodb_host: Nodes = variable("The server, or several of a replica set.", "`localhost`")
    mongodb_port: Port = variable("The port of servers without a port of their own.", "`27017`")
    mongodb_user: Text = variable("The user.", "none", needs="mongodb_password", wrong_names=("MONGODB_USERNAME",))
    mongodb_password: Secret = variable("The password.", "none")
    mongodb_db: Text = variable("The database.", "`celery_results`", wrong_names=("MONGODB_DATABASE",))
    mongodb_replica_set: Text = variable("The name of the replica set.", "none")
    mongodb_auth_source: Text = variable("The database in which the user is defined.", "the server's default")
    mongodb_tls: Flag = variable(
        "Speak TLS, and check the server's certificate.", "`false`", wrong_names=("MONGODB_SSL",)
    )
    mongodb_tls_ca_certs: File = variable(
        "The certificates of the authorities that are trusted.", "the system's", tls="mongodb_tls"
    )
    mongodb_tls_certkey: File = variable("The client's certificate and key, in one file.", tls="mongodb_tls")
    mongodb_max_pool_size: Count = variable("Connections that a process may have.", "`20`")
    mongodb_taskmeta_collection: Identifier = variable("The collection of tasks.", "`celery_taskmeta`")
    mongodb_groupmeta_collection: Identifier = variable("The collection of groups.", "`celery_groupmeta`")


class HybridVariables(Group):
    """Hybrid: Redis (`REDIS_…`) in front of PostgreSQL (`DB_…`)."""

    hybrid_mode: Mode = variable(
        "Whether a result is stored in PostgreSQL first (write-through) or in Redis first.", "`write-through`"
    )
    hybrid_cache_expires: Seconds = variable("How long Redis keeps a copy of a result at most.", "`1h`")


class MigrationVariables(Group):
    """Migration: results move to another store while tasks go on."""

    rootcellar_migration: StoreUrl = variable(
        "The target, to which the results of `CELERY_RESULT_BACKEND` are migrated. It is the same for all workers and "
        "clients. Nothing changes before `rootcellar migrate start`.",
        "no migration",
    )


class PayloadVariables(Group):
    """Which tasks and values are stored, and how."""

    rootcellar_encryption_keys: Secret = variable(
        "Keys that `rootcellar key` made, several with commas: the first one encrypts, all decrypt.",
        "no encryption",
    )
    rootcellar_signing_keys: Secret = variable("Keys that sign, if no key encrypts; all verify.", "no signatures")
    rootcellar_accept_unsealed: Flag = variable(
        "With keys: also read results that are neither encrypted nor signed.", "`false`"
    )
    rootcellar_result_max_size: Size = variable("The maximum size of a serialized result.", "no limit")
    rootcellar_result_too_large: TooLarge = variable(
        "What happens to a larger result: its task fails, it is cut, or it goes to the blob store.", "`refuse`"
    )
    rootcellar_blob_url: BlobUrl = variable(
        "The blob store for larger results: a folder that all workers and clients share, or a URL of fsspec."
    )
    rootcellar_archive: BlobUrl = variable(
        "The archive, in which old results stay readable: a folder, or a URL of fsspec.", "archived results are unknown"
    )
    rootcellar_redact: Patterns = variable(
        "Names that are masked, also in results. Defaults (passwords, tokens, keys, cards) are masked in arguments, "
        "exceptions and tracebacks; `on` masks them in results too, `-name` removes one, `off` removes all.",
        "the defaults, and nothing in results",
    )
    rootcellar_track_sent: Flag = variable(
        "A client records each task that it sends, so that a task that waits in a queue differs from an unknown id.",
        "`false`",
    )
    rootcellar_sent_state: Flag = variable(
        "The state of such a task in Celery is `SENT`, and not `PENDING`.", "`false`"
    )
    rootcellar_history: History = variable(
        "Also keep the name, the state and the times of tasks that ignore their results.", "only of other tasks"
    )
    rootcellar_retention: Rules = variable(
        "How long which results are kept, and what happens then: rules as JSON, or the path of a JSON or TOML file "
        "(docs/retention.md).",
        "`CELERY_RESULT_EXPIRES` and `CELERY_RESULT_FAILURE_EXPIRES`",
    )
    rootcellar_failure_libraries: Modules = variable(
        "Modules and packages that are not the application's own, for groups of failures: the place of a failure is "
        "then the function that called them."
    )


class Variables(
    MigrationVariables,
    PayloadVariables,
    HybridVariables,
    MongoVariables,
    RedisVariables,
    DatabaseVariables,
    BrokerVariables,
    CeleryVariables,
):
    """All variables, as they were read."""


#: rootcellar's own groups of variables, in the order in which users read of them
GROUPS: tuple[type[Group], ...] = (
    CeleryVariables,
    BrokerVariables,
    DatabaseVariables,
    RedisVariables,
    MongoVariables,
    HybridVariables,
    PayloadVariables,
    MigrationVariables,
)


def groups_of(backend: BackendDescription) -> list[type[Group]]:
    """Return the groups of variables of a backend and of those that it combines."""
    found = [resolve(reference) for each in (backend, *parts_of(backend)) for reference in each.variables]
    return list(dict.fromkeys(found))


@cache
def all_groups() -> tuple[type[Group], ...]:
    """Return the groups of variables, also those of backends of other packages."""
    found: list[type[Group]] = []
    for backend in backends():
        try:
            found += groups_of(backend)
        except Exception as exc:  # the package's own code may raise any exception; workers that store elsewhere go on
            logger.warning("the variables of the backend %s cannot be read: %s", backend.name, exc)
    return tuple(dict.fromkeys([*GROUPS, *found]))


@cache
def all_variables() -> type[Variables]:
    """Return the class of all variables, also those of backends of other packages."""
    others = [group for group in all_groups() if group not in GROUPS]
    # pydantic's types allow only one base, pydantic itself several
    bases: Any = (*others, Variables)
    return create_model("Variables", __base__=bases) if others else Variables
