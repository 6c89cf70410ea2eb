"""Makes the URLs of brokers and stores from variables, whose values may contain any character."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from rootcellar.configuration.variables import Variables
from rootcellar.urls import redact

#: chooses rootcellar.rpc, by an entry point; plain rpc:// is Celery's own backend
RPC_URL = "rootcellar-rpc://"
DEFAULT_DATABASE = "celery_results"
#: the value of ``DB_SSLROOTCERT`` for the authorities that the system trusts
SYSTEM_CERTIFICATES = "system"
_SENTINEL_PORT = 26379
#: PostgreSQL's words for TLS in the options of a MySQL URL
_MYSQL_TLS: Mapping[str | None, Mapping[str, str]] = {
    None: {},
    "disable": {"ssl_disabled": "true"},
    "allow": {},
    "prefer": {},
    "require": {"ssl": "true", "ssl_verify_cert": "false"},
    "verify-ca": {"ssl": "true", "ssl_verify_identity": "false"},
    "verify-full": {"ssl": "true"},
}


class SecretText(str):
    """A password that its ``repr`` does not show, because settings may be printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr("**")


class SecretUrl(str):
    """A URL whose ``repr`` shows no password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(str(self)))


def reveal(secret: SecretStr | None) -> str | None:
    """Return the secret as plain text."""
    return None if secret is None else secret.get_secret_value()


def login(user: str | None, password: str | None) -> str:
    """Return the login part of a URL with its ``@``, or an empty text."""
    if user is None and password is None:
        return ""
    return quote(user or "", safe="") + ("" if password is None else ":" + quote(password, safe="")) + "@"


def postgres(found: Variables, host: str | None = None, port: int | None = None) -> SecretUrl:
    """Return the PostgreSQL URL from ``DB_…``, optionally with another host."""
    host = host or found.db_host or "localhost"
    port = port or found.db_port or 5432
    options = {
        "sslmode": found.db_sslmode,
        "sslrootcert": found.db_sslrootcert,
        "sslcert": found.db_sslcert,
        "sslkey": found.db_sslkey,
        "connect_timeout": _whole_seconds(found.db_connect_timeout),
        "keepalives_idle": _whole_seconds(found.db_keepalives_idle),
        "keepalives_interval": _whole_seconds(found.db_keepalives_interval),
        "keepalives_count": found.db_keepalives_count,
    }
    user = login(found.db_user or "celery", reveal(found.db_password))
    name = quote(found.db_name or DEFAULT_DATABASE, safe="")
    # libpq accepts the folder of a local socket as a host, and recognizes it by %2F
    hosts = ",".join(f"{quote(each, safe='[]:')}:{port}" for each in host.split(","))
    return SecretUrl(f"postgresql://{user}{hosts}/{name}{_query(options)}")


def mysql(found: Variables) -> SecretUrl:
    """Return the MySQL or MariaDB URL from ``DB_…``."""
    user = login(found.db_user or "celery", reveal(found.db_password))
    name = quote(found.db_name or DEFAULT_DATABASE, safe="")
    host = found.db_host or "localhost"
    is_socket = host.startswith("/")
    options = {
        **_MYSQL_TLS[found.db_sslmode],
        "ssl_ca": None if found.db_sslrootcert == SYSTEM_CERTIFICATES else found.db_sslrootcert,
        "ssl_cert": found.db_sslcert,
        "ssl_key": found.db_sslkey,
        "connect_timeout": found.db_connect_timeout,
        "unix_socket": host if is_socket else None,
    }
    return SecretUrl(
        f"mysql://{user}{'localhost' if is_socket else host}:{found.db_port or 3306}/{name}{_query(options)}"
    )


def sqlite(found: Variables) -> SecretUrl:
    """Return the SQLite URL from ``DB_PATH``."""
    return SecretUrl("sqlite:///" + quote(found.db_path or f"{DEFAULT_DATABASE}.sqlite3"))


def redis(found: Variables) -> SecretUrl:
    """Return the Redis URL from ``REDIS_…``: a server, sentinels or a cluster."""
    user = login(found.redis_username, reveal(found.redis_password))
    db = found.redis_db or 0
    if found.redis_socket:
        return SecretUrl(f"redis+socket://{user}{quote(found.redis_socket)}?virtual_host={db}")
    if found.redis_sentinels:
        return SecretUrl(sentinels(found.redis_sentinels, user, db))
    scheme = "rediss" if found.redis_ssl else "redis"
    if found.redis_cluster_nodes:
        return SecretUrl(f"{scheme}-cluster://{user}{_with_port(found.redis_cluster_nodes, 6379)}")
    return SecretUrl(f"{scheme}://{user}{found.redis_host or 'localhost'}:{found.redis_port or 6379}/{db}")


def sentinels(nodes: tuple[str, ...], user: str, db: int) -> str:
    """Return the URL of sentinels in Celery's form, each with the login of the server."""
    hosts = [f"sentinel://{user}{_with_port((node,), _SENTINEL_PORT)}" for node in nodes]
    return ";".join(hosts) + f"/{db}"


def mongodb(found: Variables) -> SecretUrl:
    """Return the MongoDB URL from ``MONGODB_…``."""
    user = login(found.mongodb_user, reveal(found.mongodb_password))
    hosts = _with_port(found.mongodb_host or ("localhost",), found.mongodb_port or 27017)
    options = {
        "replicaSet": found.mongodb_replica_set,
        "authSource": found.mongodb_auth_source,
        "tls": None if found.mongodb_tls is None else str(found.mongodb_tls).lower(),
        "tlsCAFile": found.mongodb_tls_ca_certs,
        "tlsCertificateKeyFile": found.mongodb_tls_certkey,
    }
    name = quote(found.mongodb_db or DEFAULT_DATABASE, safe="")
    return SecretUrl(f"mongodb://{user}{hosts}/{name}{_query(options)}")


def hybrid(_: Variables) -> SecretUrl:
    """Return the URL of a hybrid. Its two stores are options."""
    return SecretUrl("hybrid://")


def rpc(_: Variables) -> SecretUrl:
    """Return the URL of RPC."""
    return SecretUrl(RPC_URL)


def redis_broker(found: Variables) -> SecretUrl:
    """Return the URL of the Redis that is the broker, from ``BROKER_…``, else from ``REDIS_…``."""
    user = login(
        found.redis_username if found.broker_user is None else found.broker_user,
        reveal(found.redis_password if found.broker_password is None else found.broker_password),
    )
    db = (found.redis_db or 0) if found.broker_db is None else found.broker_db
    if not found.broker_host:
        if found.redis_socket:
            return SecretUrl(f"redis+socket://{user}{quote(found.redis_socket)}?virtual_host={db}")
        if found.redis_sentinels:
            return SecretUrl(sentinels(found.redis_sentinels, user, db))
    is_tls = found.redis_ssl if found.broker_ssl is None else found.broker_ssl
    host = found.broker_host or found.redis_host or "localhost"
    port = found.broker_port or found.redis_port or 6379
    return SecretUrl(f"{'rediss' if is_tls else 'redis'}://{user}{host}:{port}/{db}")


def rabbitmq(found: Variables) -> SecretUrl:
    """Return the RabbitMQ URL from ``BROKER_…``."""
    password = reveal(found.broker_password)
    if found.broker_user is None and password is None:
        password = "guest"
    user = login(found.broker_user or "guest", password)
    scheme, port = ("amqps", 5671) if found.broker_ssl else ("amqp", 5672)
    vhost = quote(found.broker_vhost or "/", safe="")
    return SecretUrl(f"{scheme}://{user}{found.broker_host or 'localhost'}:{found.broker_port or port}/{vhost}")


def _with_port(nodes: tuple[str, ...], port: int) -> str:
    return ",".join(node if _has_port(node) else f"{node}:{port}" for node in nodes)


def _has_port(node: str) -> bool:
    return ":" in node.rpartition("]")[2]


def _query(options: Mapping[str, object]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    return "?" + urlencode(given, quote_via=quote, safe="/") if given else ""


def _whole_seconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds))
