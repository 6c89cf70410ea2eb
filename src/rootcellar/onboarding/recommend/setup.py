"""A broker and a result backend together, and the variables that choose them for :func:`rootcellar.settings`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rootcellar.descriptions import PLACEHOLDER, BackendDescription, Variable, backend_names, backends, with_parts
from rootcellar.errors import ConfigurationError

BROKERS = ("redis", "rabbitmq")
#: the prefix of Celery's own variables
_CELERY = "CELERY_"
#: the variables of PostgreSQL that PgBouncer changes, and those that it adds
_POOLED = {"DB_HOST": Variable("DB_HOST", "localhost", "PgBouncer"), "DB_PORT": Variable("DB_PORT", "6432")}
_PAST_THE_POOLER = (
    Variable("DB_LISTEN_HOST", "localhost", "PostgreSQL itself, without the pooler, for notifications"),
    Variable("DB_LISTEN_PORT", "5432"),
)


class RedisForm(str, Enum):
    """How Redis runs."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Setup:
    """A broker and a result backend that go together.

    Attributes:
        broker: ``redis`` or ``rabbitmq``.
        backend: the name of a result backend.
        redis: the form of the Redis for results, or of the only Redis.
        pgbouncer: whether PgBouncer is in front of PostgreSQL.
        tls: whether the servers use TLS.
        expires: ``CELERY_RESULT_EXPIRES``; empty for the default.
        extended: whether arguments are stored, too, for people.
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
        if self.backend not in backend_names():
            raise _misfit(f"there is no backend {self.backend}", f"choose one of {', '.join(backend_names())}")
        needed = self.described.broker
        if needed and self.broker != needed:
            reason = f"with {self.backend}, {self.described.broker_reason}"
            raise _misfit(reason, f"choose the broker {needed}, or another backend")
        if self.pgbouncer and not self._uses("postgres"):
            raise _misfit("PgBouncer works only in front of PostgreSQL", "choose the backend postgres or hybrid")
        if self.redis is not RedisForm.SINGLE and not self.keeps_in_redis and self.broker != "redis":
            raise _misfit(f"neither the broker nor the backend uses Redis, also not {self.redis.value}", "leave it out")
        if self.redis is RedisForm.CLUSTER and not self.keeps_in_redis:
            raise _misfit("Celery has no broker on a Redis Cluster", "choose the backend redis or hybrid for it")

    @property
    def described(self) -> BackendDescription:
        """The description of the backend."""
        return next(each for each in backends() if each.name == self.backend)

    def _uses(self, name: str) -> bool:
        """Return True if the backend is or combines another one."""
        return name in (self.backend, *self.described.combines)

    @property
    def keeps_in_redis(self) -> bool:
        """Whether the backend uses Redis."""
        return self._uses("redis")

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of the package that it needs."""
        found = [each.extra for each in with_parts(self.described) if each.extra]
        return tuple(dict.fromkeys([*found, *(["redis"] if self.broker == "redis" else [])]))

    @property
    def packages(self) -> tuple[str, ...]:
        """The Python packages that it needs besides rootcellar."""
        return tuple(each.package for each in with_parts(self.described) if each.package)

    @property
    def has_own_broker_redis(self) -> bool:
        """Whether the broker's Redis differs from the Redis for results."""
        return self.broker == "redis" and (self.backend == "hybrid" or self.redis is RedisForm.CLUSTER)

    def variables(self) -> list[Variable]:
        """Return the variables to set, with placeholders for passwords."""
        return [*self._celery(), *self._broker(), *self._backend(), *self._redis()]

    def _celery(self) -> Iterator[Variable]:
        yield Variable("CELERY_BROKER", self.broker, "the broker, which hands out tasks")
        yield Variable("CELERY_RESULT_BACKEND", self.backend, "where results are kept")
        if self.expires:
            yield Variable("CELERY_RESULT_EXPIRES", self.expires, "how long a result is kept: 1d, 4w, never")
        if self.extended:
            yield Variable("CELERY_RESULT_EXTENDED", "true", "keep the arguments of tasks too")
        yield from (each for each in self.described.project.variables if each.name.startswith(_CELERY))
        if self.acks_late:
            yield Variable("CELERY_TASK_ACKS_LATE", "true", "a task that was cut off is run again, ...")
            yield Variable("CELERY_TASK_REJECT_ON_WORKER_LOST", "true", "... also when its process was killed")
            if self.broker == "redis":
                # otherwise Redis' transport also gives a long task to a second worker
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

    def _backend(self) -> Iterator[Variable]:
        """Yield the variables of the backend, except those of Redis, which may be the broker, too."""
        for each in with_parts(self.described):
            is_pooled = self.pgbouncer and each.name == "postgres"
            for variable in each.project.variables:
                if not variable.name.startswith(_CELERY):
                    yield _POOLED.get(variable.name, variable) if is_pooled else variable
            yield from _PAST_THE_POOLER if is_pooled else ()
            yield from each.project.tls if self.tls else ()

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

    def _tls(self, switch: str, authorities: str) -> Iterator[Variable]:
        if self.tls:
            yield Variable(switch, "true", f"TLS, and everything is verified; {authorities}=FILE for a CA of your own")


def _misfit(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(what, where="the choice of broker and backend", remedy=remedy)
