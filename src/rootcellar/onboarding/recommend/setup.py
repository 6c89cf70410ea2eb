"""A broker and a result backend together, and the variables that choose them for :func:`rootcellar.settings`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rootcellar.errors import ConfigurationError

BACKENDS = ("postgres", "redis", "hybrid", "mysql", "sqlite", "mongodb", "rpc")
BROKERS = ("redis", "rabbitmq")
#: a placeholder for a password that the user chooses
PLACEHOLDER = "change-me"
#: what the passwords of a setup are for, by their variables
_SQL = ("postgres", "hybrid", "mysql")


class RedisForm(str, Enum):
    """How Redis runs."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable to set.

    Attributes:
        name, value: what ``.env`` says.
        about: what it is, in a few words.
        is_secret: whether the value is a placeholder for a password.
    """

    name: str
    value: str
    about: str = ""
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Setup:
    """A broker and a result backend that go together.

    Attributes:
        broker: ``redis`` or ``rabbitmq``.
        backend: the name of a result backend.
        redis: how the Redis that keeps results (or that is the only one) runs.
        pgbouncer: whether PgBouncer stands before PostgreSQL.
        tls: whether servers are spoken to by TLS.
        expires: ``CELERY_RESULT_EXPIRES``; empty for the default.
        extended: whether arguments are kept too, for people.
        acks_late: whether a task whose worker died runs again.

    Raises:
        ConfigurationError: they do not go together.
    """

    broker: str = "redis"
    backend: str = "postgres"
    redis: RedisForm = RedisForm.SINGLE
    pgbouncer: bool = False
    tls: bool = False
    expires: str = ""
    extended: bool = False
    acks_late: bool = False

    def __post_init__(self) -> None:
        if self.broker not in BROKERS:
            raise _misfit(f"there is no broker {self.broker}", f"choose {' or '.join(BROKERS)}")
        if self.backend not in BACKENDS:
            raise _misfit(f"there is no backend {self.backend}", f"choose one of {', '.join(BACKENDS)}")
        if self.backend == "rpc" and self.broker != "rabbitmq":
            raise _misfit(
                "with rpc, results are messages of RabbitMQ", "choose the broker rabbitmq, or another backend"
            )
        if self.pgbouncer and self.backend not in ("postgres", "hybrid"):
            raise _misfit("PgBouncer works only in front of PostgreSQL", "choose the backend postgres or hybrid")
        if self.redis is not RedisForm.SINGLE and not self.keeps_in_redis and self.broker != "redis":
            raise _misfit(f"nothing of this uses Redis, {self.redis.value} or not", "leave that out")
        if self.redis is RedisForm.CLUSTER and not self.keeps_in_redis:
            raise _misfit("Celery has no broker on a Redis Cluster", "choose the backend redis or hybrid for it")

    @property
    def keeps_in_redis(self) -> bool:
        """Whether the backend uses Redis."""
        return self.backend in ("redis", "hybrid")

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of the package that it needs."""
        drivers = {"postgres": "postgres", "hybrid": "postgres", "mysql": "mysql", "mongodb": "mongodb"}
        found = [drivers[self.backend]] if self.backend in drivers else []
        if self.keeps_in_redis or self.broker == "redis":
            found.append("redis")
        return tuple(found)

    @property
    def has_own_broker_redis(self) -> bool:
        """Whether the broker's Redis is another server than that of the results."""
        return self.broker == "redis" and (self.backend == "hybrid" or self.redis is RedisForm.CLUSTER)

    def variables(self) -> list[Variable]:
        """Return the variables to set, each password a placeholder."""
        return [*self._celery(), *self._broker(), *self._database(), *self._redis(), *self._mongodb()]

    def _celery(self) -> Iterator[Variable]:
        yield Variable("CELERY_BROKER", self.broker, "the broker, which hands out tasks")
        yield Variable("CELERY_RESULT_BACKEND", self.backend, "where results are kept")
        if self.expires:
            yield Variable("CELERY_RESULT_EXPIRES", self.expires, "how long a result is kept: 1d, 4w, never")
        if self.extended:
            yield Variable("CELERY_RESULT_EXTENDED", "true", "keep the arguments of tasks too")
        if self.backend == "rpc":
            yield Variable("CELERY_RESULT_PERSISTENT", "true", "results survive a restart of the broker")
        if self.acks_late:
            yield Variable("CELERY_TASK_ACKS_LATE", "true", "a task that was cut off is run again, ...")
            yield Variable("CELERY_TASK_REJECT_ON_WORKER_LOST", "true", "... also when its process was killed")
            if self.broker == "redis":
                # or Redis's transport gives a long task to a second worker too
                yield Variable("CELERY_TASK_TIME_LIMIT", "50m", "shorter than BROKER_VISIBILITY_TIMEOUT, which is 1h")

    def _broker(self) -> Iterator[Variable]:
        if self.broker == "rabbitmq":
            yield Variable("BROKER_HOST", "localhost", "RabbitMQ")
            yield Variable("BROKER_PORT", "5671" if self.tls else "5672")
            yield Variable("BROKER_USER", "celery")
            yield Variable("BROKER_PASSWORD", PLACEHOLDER, is_secret=True)
            yield from self._tls("BROKER_SSL", "BROKER_SSL_CA_CERTS")
        elif self.has_own_broker_redis:
            yield Variable("BROKER_HOST", "localhost", "the Redis that is the broker")
            yield Variable("BROKER_PORT", "6379")
            yield Variable("BROKER_PASSWORD", PLACEHOLDER, is_secret=True)
            yield Variable("BROKER_DB", "0")
        elif self.keeps_in_redis:
            yield Variable("BROKER_DB", "1", "the broker's database on the Redis of the results")

    def _database(self) -> Iterator[Variable]:
        if self.backend == "sqlite":
            yield Variable("DB_PATH", "results.sqlite3", "the file of the results")
        if self.backend not in _SQL:
            return
        port = "3306" if self.backend == "mysql" else "6432" if self.pgbouncer else "5432"
        name = "MySQL or MariaDB" if self.backend == "mysql" else "PgBouncer" if self.pgbouncer else "PostgreSQL"
        yield Variable("DB_HOST", "localhost", name)
        yield Variable("DB_PORT", port)
        yield Variable("DB_NAME", "celery_results")
        yield Variable("DB_USER", "celery")
        yield Variable("DB_PASSWORD", PLACEHOLDER, is_secret=True)
        if self.pgbouncer:
            yield Variable("DB_LISTEN_HOST", "localhost", "PostgreSQL itself, without the pooler, for notifications")
            yield Variable("DB_LISTEN_PORT", "5432")
        if self.tls:
            yield Variable("DB_SSLMODE", "verify-full", "TLS, and everything is verified")
            yield Variable("DB_SSLROOTCERT", "system", "the authorities that are trusted, or the file of your own")

    def _redis(self) -> Iterator[Variable]:
        if not self.keeps_in_redis and self.broker != "redis":
            return
        if self.redis is RedisForm.SENTINEL:
            yield Variable("REDIS_SENTINELS", "sentinel1:26379,sentinel2:26379,sentinel3:26379", "the Sentinels")
            yield Variable("REDIS_SENTINEL_MASTER", "mymaster", "the name of the master that they watch")
        elif self.redis is RedisForm.CLUSTER:
            yield Variable("REDIS_CLUSTER_NODES", "node1:6379,node2:6379,node3:6379", "some nodes of the Cluster")
        else:
            what = "the Redis of the copies" if self.backend == "hybrid" else "Redis"
            yield Variable("REDIS_HOST", "localhost", what)
            yield Variable("REDIS_PORT", "6380" if self.has_own_broker_redis else "6379")
        yield Variable("REDIS_PASSWORD", PLACEHOLDER, is_secret=True)
        if self.redis is not RedisForm.CLUSTER:
            yield Variable("REDIS_DB", "0")
        yield from self._tls("REDIS_SSL", "REDIS_SSL_CA_CERTS")

    def _mongodb(self) -> Iterator[Variable]:
        if self.backend != "mongodb":
            return
        yield Variable("MONGODB_HOST", "localhost", "MongoDB")
        yield Variable("MONGODB_PORT", "27017")
        yield Variable("MONGODB_DB", "celery_results")
        yield Variable("MONGODB_USER", "celery")
        yield Variable("MONGODB_PASSWORD", PLACEHOLDER, is_secret=True)
        yield Variable("MONGODB_AUTH_SOURCE", "admin", "the database that knows the user")
        yield from self._tls("MONGODB_TLS", "MONGODB_TLS_CA_CERTS")

    def _tls(self, switch: str, authorities: str) -> Iterator[Variable]:
        if self.tls:
            yield Variable(switch, "true", f"TLS, and everything is verified; {authorities}=FILE for a CA of your own")


def _misfit(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(what, where="the choice of broker and backend", remedy=remedy)
