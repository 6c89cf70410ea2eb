"""Every variable that :func:`rootcellar.settings` reads: its name, its type, and what it is for.

The name of a field in capitals is the name of the variable. ``None`` is a variable that was not given.
A value that holds or may hold a password is a ``SecretStr``; such a variable may also be given as a file, by its
name and ``_FILE``.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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
    Host,
    Identifier,
    Level,
    Mode,
    Modules,
    Nodes,
    Patterns,
    Port,
    Prepared,
    Recycle,
    Seconds,
    Secret,
    Serializer,
    Size,
    Socket,
    Sslmode,
    Text,
    TooLarge,
    Zone,
)


def _variable(description: str, default: str = "") -> Any:
    """Describe a variable; ``default`` says what holds when it is not given."""
    return Field(default=None, description=description, json_schema_extra={"default": default})


class _Variables(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid", validate_default=True)


class CeleryVariables(_Variables):
    """Celery: which broker and which result backend, and Celery's own settings under their own names."""

    celery_broker: BrokerChoice = _variable("The broker.", "must be given")
    celery_broker_url: BrokerChoice = _variable("The same under the name that Celery itself reads.")
    celery_broker_read_url: BrokerChoice = _variable("Another broker to take tasks from.", "the broker")
    celery_broker_write_url: BrokerChoice = _variable("Another broker to send tasks to.", "the broker")
    celery_result_backend: BackendChoice = _variable("Where results are kept.", "must be given")
    celery_result_expires: Expiry = _variable("How long a result is kept.", "`1d`")
    celery_result_failure_expires: Expiry = _variable("How long a failure is kept.", "as any result")
    celery_result_chord_expires: Expiry = _variable(
        "How long an unfinished chord is kept after its last part came.", "as any result, but a day at least"
    )
    celery_result_extended: Flag = _variable("Keep the arguments of tasks too.", "`false`")
    celery_result_serializer: Serializer = _variable("How results are written.", "`rootcellar-json`; with `rpc` `json`")
    celery_result_accept_content: Contents = _variable(
        "What may be read as a result.", "as `CELERY_ACCEPT_CONTENT`, and `rootcellar-json`"
    )
    celery_result_type_modules: Modules = _variable(
        "The modules and packages whose classes may be in results.", "all that are imported"
    )
    celery_result_compression: Compression = _variable("How results are compressed.", "not")
    celery_result_compression_level: Level = _variable("The level of the compression.", "the compression's own")
    celery_result_compression_threshold: CountOrNone = _variable("Smaller results are not compressed; bytes.", "`1024`")
    celery_result_max_decompressed_size: CountOrNone = _variable(
        "The maximum size of a decompressed result, in bytes; 0: no limit.", "`268435456`"
    )
    celery_result_cache_max: CountOrNone = _variable("Results that a client remembers.", "Celery's")
    celery_result_backend_always_retry: Flag = _variable("Whether storing is tried again in an outage.", "`true`")
    celery_result_backend_max_retries: CountOrNone = _variable("How many times it is tried again.", "no limit")
    celery_result_persistent: Flag = _variable("With `rpc`: results survive a restart of the broker.", "`false`")
    celery_result_exchange: Identifier = _variable(
        "With `rpc`: the exchange that results go through.", "the broker's own"
    )
    celery_result_exchange_type: ExchangeType = _variable("With `rpc`: its type.", "`direct`")
    celery_accept_content: Contents = _variable("What a worker accepts as a task.", "`json`")
    celery_task_serializer: Serializer = _variable("How tasks are written.", "`json`")
    celery_task_ignore_result: Flag = _variable("Keep no results, unless a task says otherwise.", "`false`")
    celery_task_store_errors_even_if_ignored: Flag = _variable(
        "Keep failures of tasks whose result is ignored.", "`false`"
    )
    celery_task_track_started: Flag = _variable("Record that a task was started.", "`false`")
    celery_task_acks_late: Flag = _variable("Acknowledge a task when it is done, not when it starts.", "`false`")
    celery_task_reject_on_worker_lost: Flag = _variable("Run a task again if its process was killed.", "`false`")
    celery_task_time_limit: Seconds = _variable("A task is killed after that.", "no limit")
    celery_task_soft_time_limit: Seconds = _variable(
        "`SoftTimeLimitExceeded` is raised in a task after that.", "no limit"
    )
    celery_task_default_queue: Text = _variable("The queue of tasks without a queue of their own.", "`celery`")
    celery_timezone: Zone = _variable("The time zone of schedules.", "`UTC`")
    celery_enable_utc: Flag = _variable("Times in messages are UTC.", "`true`")
    celery_worker_concurrency: Count = _variable("Processes or threads of a worker.", "one for each CPU")
    celery_worker_prefetch_multiplier: CountOrNone = _variable(
        "Tasks that each process or thread reserves in advance; 0: no limit.", "4"
    )
    celery_worker_max_tasks_per_child: Count = _variable("Tasks after which a process is replaced.", "no limit")


class BrokerVariables(_Variables):
    """The broker. With `CELERY_BROKER=redis`, what is not given here is taken from `REDIS_…`."""

    broker_url: BrokerChoice = _variable("The same as `CELERY_BROKER`, under the name that the command `celery` reads.")
    broker_host: Host = _variable("The broker's host.", "`REDIS_HOST` with redis, else `localhost`")
    broker_port: Port = _variable("Its port.", "redis 6379, rabbitmq 5672 (TLS: 5671)")
    broker_user: Text = _variable("The user.", "`guest` with rabbitmq")
    broker_password: Secret = _variable("The password.", "`guest` with rabbitmq and no user")
    broker_vhost: Text = _variable("With rabbitmq: the virtual host.", "`/`")
    broker_db: CountOrNone = _variable("With redis: the number of the database.", "`REDIS_DB`")
    broker_ssl: Flag = _variable(
        "Speak TLS, and check the server's certificate.", "`REDIS_SSL` with redis, else `false`"
    )
    broker_ssl_ca_certs: File = _variable("The certificates of the authorities that are trusted.", "the system's")
    broker_ssl_certfile: File = _variable("The client's certificate.")
    broker_ssl_keyfile: File = _variable("The client's key.")
    broker_pool_limit: CountOrNone = _variable("Connections that a process keeps; 0 keeps none.", "10")
    broker_heartbeat: Seconds = _variable("With rabbitmq: the time between two heartbeats.", "Celery's")
    broker_connection_timeout: Seconds = _variable("How long to try to connect.", "`4`")
    broker_connection_retry_on_startup: Flag = _variable("A worker that starts waits for its broker.", "`true`")
    broker_visibility_timeout: Seconds = _variable(
        "With redis: a task that is not acknowledged by then is given to another worker.", "`1h`"
    )


class DatabaseVariables(_Variables):
    """PostgreSQL, MySQL and SQLite."""

    db_user: Text = _variable("The user.", "`celery`")
    db_password: Secret = _variable("The password.", "none: another login method of the server or the driver")
    db_host: DatabaseHost = _variable(
        "The server; with PostgreSQL also several: the one that accepts writes is used.", "`localhost`"
    )
    db_port: Port = _variable("Its port.", "PostgreSQL 5432, MySQL 3306")
    db_name: Text = _variable("The database.", "`celery_results`")
    db_path: File = _variable("With `sqlite`: the file.", "`celery_results.sqlite3`")
    db_schema: Identifier = _variable("With PostgreSQL: the schema of the tables.", "the server's default")
    db_task_table: Identifier = _variable("The table of tasks.", "`celery_taskmeta`")
    db_group_table: Identifier = _variable("The table of groups.", "`celery_groupmeta`")
    db_create_tables: Flag = _variable("Make missing tables on first use.", "`true`")
    db_pool_size: Count = _variable("Connections that a process may keep.", "`10`")
    db_max_overflow: CountOrNone = _variable("Additional connections while all `DB_POOL_SIZE` are in use.", "`10`")
    db_pool_timeout: Seconds = _variable("How long to wait for a free connection.", "`30s`")
    db_pool_recycle: Recycle = _variable("Age at which a connection is replaced.", "`1h`")
    db_pool_pre_ping: Flag = _variable("Test an idle connection before it is used.", "`true`")
    db_short_lived_sessions: Flag = _variable("Keep no connection.", "`false`")
    db_connect_timeout: Seconds = _variable("How long to try to connect.", "`5s`")
    db_keepalives_idle: Seconds = _variable("With PostgreSQL: idle time before the first TCP keepalive.", "`30s`")
    db_keepalives_interval: Seconds = _variable("With PostgreSQL: time between two keepalives.", "`10s`")
    db_keepalives_count: Count = _variable(
        "With PostgreSQL: a connection is closed after so many unanswered keepalives.", "`3`"
    )
    db_sslmode: Sslmode = _variable(
        "TLS, in PostgreSQL's words, also for MySQL; `verify-full` checks everything.", "the driver's"
    )
    db_sslrootcert: File = _variable("The certificates of the authorities that are trusted.", "the driver's")
    db_sslcert: File = _variable("The client's certificate.")
    db_sslkey: File = _variable("The client's key.")
    db_listen_host: DatabaseHost = _variable(
        "With PostgreSQL behind a transaction pooler: where to wait for results, past the pooler.", "`DB_HOST`"
    )
    db_listen_port: Port = _variable("The port there.", "`DB_PORT`; `5432` with `DB_LISTEN_HOST`")
    db_prepared_statements: Prepared = _variable(
        "With PostgreSQL: whether statements are prepared; `auto`: not through a pooler.", "`auto`"
    )
    db_synchronous_commit: Flag = _variable("With PostgreSQL: a result is on disk before its task is done.", "`true`")


class RedisVariables(_Variables):
    """Redis: one server, Sentinel, or a cluster."""

    redis_host: Host = _variable("The server.", "`localhost`")
    redis_port: Port = _variable("Its port.", "`6379`")
    redis_socket: Socket = _variable("A Unix socket, instead of host and port.")
    redis_username: Text = _variable("The user, if the server has users (ACL).", "the default user")
    redis_password: Secret = _variable("The password.", "none")
    redis_db: CountOrNone = _variable("The number of the database.", "`0`")
    redis_ssl: Flag = _variable("Speak TLS, and check the server's certificate.", "`false`")
    redis_ssl_ca_certs: File = _variable("The certificates of the authorities that are trusted.", "the system's")
    redis_ssl_certfile: File = _variable("The client's certificate.")
    redis_ssl_keyfile: File = _variable("The client's key.")
    redis_ssl_cert_reqs: CertReqs = _variable("Whether the server's certificate is checked.", "`required`")
    redis_ssl_check_hostname: Flag = _variable("Whether the certificate must have the host's name.", "`true`")
    redis_max_connections: Count = _variable("Connections that a process may have.", "`20`")
    redis_socket_timeout: Seconds = _variable("How long to wait for an answer.", "`15s`")
    redis_socket_connect_timeout: Seconds = _variable("How long to try to connect.", "`5s`")
    redis_socket_keepalive: Flag = _variable("TCP keepalives.", "`true`")
    redis_retry_on_timeout: Flag = _variable(
        "Celery's setting with this name. Storing is always tried again.", "`false`"
    )
    redis_health_check_interval: Seconds = _variable("Idle time after which a connection is tested; 0: never.", "`15s`")
    redis_sentinels: Nodes = _variable("The sentinels, each `host` or `host:port` (26379).")
    redis_sentinel_master: Text = _variable("The name of the master.", "must be given with `REDIS_SENTINELS`")
    redis_sentinel_username: Text = _variable("The user at the sentinels.", "none")
    redis_sentinel_password: Secret = _variable("The password at the sentinels.", "none")
    redis_sentinel_ssl: Flag = _variable("Speak TLS to the sentinels too, with the same certificates.", "`REDIS_SSL`")
    redis_wait_replicas: CountOrNone = _variable(
        "With Sentinel and Cluster: how many replicas must have a result before its task is done; 0: none.", "`1`"
    )
    redis_wait_timeout: Seconds = _variable("How long to wait for the replicas.", "`1s`")
    redis_global_keyprefix: Text = _variable("The beginning of all keys of results.", "nothing")
    redis_cluster_nodes: Nodes = _variable("Some nodes of the cluster, each `host` or `host:port` (6379).")


class MongoVariables(_Variables):
    """MongoDB."""

    mongodb_host: Nodes = _variable("The server, or several of a replica set.", "`localhost`")
    mongodb_port: Port = _variable("The port of servers without a port of their own.", "`27017`")
    mongodb_user: Text = _variable("The user.", "none")
    mongodb_password: Secret = _variable("The password.", "none")
    mongodb_db: Text = _variable("The database.", "`celery_results`")
    mongodb_replica_set: Text = _variable("The name of the replica set.", "none")
    mongodb_auth_source: Text = _variable("The database in which the user is defined.", "the server's default")
    mongodb_tls: Flag = _variable("Speak TLS, and check the server's certificate.", "`false`")
    mongodb_tls_ca_certs: File = _variable("The certificates of the authorities that are trusted.", "the system's")
    mongodb_tls_certkey: File = _variable("The client's certificate and key, in one file.")
    mongodb_max_pool_size: Count = _variable("Connections that a process may have.", "`20`")
    mongodb_taskmeta_collection: Identifier = _variable("The collection of tasks.", "`celery_taskmeta`")
    mongodb_groupmeta_collection: Identifier = _variable("The collection of groups.", "`celery_groupmeta`")


class HybridVariables(_Variables):
    """Hybrid: Redis (`REDIS_…`) in front of PostgreSQL (`DB_…`)."""

    hybrid_mode: Mode = _variable(
        "Whether a result is stored in PostgreSQL first (write-through) or in Redis first.", "`write-through`"
    )
    hybrid_cache_expires: Seconds = _variable("How long Redis keeps a copy of a result at most.", "`1h`")


class PayloadVariables(_Variables):
    """How values are stored."""

    rootcellar_encryption_keys: Secret = _variable(
        "Keys that `rootcellar key` made, several with commas: the first one encrypts, all decrypt.",
        "no encryption",
    )
    rootcellar_signing_keys: Secret = _variable("Keys that sign, if no key encrypts; all verify.", "no signatures")
    rootcellar_accept_unsealed: Flag = _variable(
        "With keys: also read results that are neither encrypted nor signed.", "`false`"
    )
    rootcellar_result_max_size: Size = _variable("The maximum size of a serialized result.", "no limit")
    rootcellar_result_too_large: TooLarge = _variable(
        "What happens to a larger result: its task fails, it is cut, or it goes to the blob store.", "`refuse`"
    )
    rootcellar_blob_url: BlobUrl = _variable(
        "The blob store for larger results: a folder that all workers and clients share, or a URL of fsspec."
    )
    rootcellar_redact: Patterns = _variable(
        "Names that are masked, also in results. Defaults (passwords, tokens, keys, cards) are masked in arguments, "
        "exceptions and tracebacks; `on` masks them in results too, `-name` removes one, `off` removes all.",
        "the defaults, and nothing in results",
    )


class Variables(
    PayloadVariables,
    HybridVariables,
    MongoVariables,
    RedisVariables,
    DatabaseVariables,
    BrokerVariables,
    CeleryVariables,
):
    """All variables, as they were read."""


#: the groups of variables in the order in which people read of them
GROUPS: tuple[type[_Variables], ...] = (
    CeleryVariables,
    BrokerVariables,
    DatabaseVariables,
    RedisVariables,
    MongoVariables,
    HybridVariables,
    PayloadVariables,
)
