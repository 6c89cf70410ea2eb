"""The servers and workers of the benchmarks, which end with them."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psycopg
import redis

from benchmarks.contenders import Contender
from tests.servers import PostgresServer, RedisServer
from tests.workers import Worker

#: processes of a worker's pool
WORKER_PROCESSES = 2

_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class Place:
    """The place of a contender's results, and the broker of its worker, if any.

    Attributes:
        url: the database, the Redis or the file.
        broker: the broker's URL; empty without a worker.
    """

    url: str
    broker: str = ""

    @contextmanager
    def connections(self) -> Iterator[Callable[[], int]]:
        """Yield a function that returns the number of other connections to the database, or to the Redis."""
        if self.url.startswith("postgresql"):
            with psycopg.connect(self.url, autocommit=True) as connection:
                yield lambda: connection.execute(_OTHERS).fetchall()[0][0]
        elif self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                yield lambda: len(client.client_list()) - 1
        else:
            yield lambda: 0


class Bed:
    """PostgreSQL and two Redis servers, one as the broker and one for results; a context manager that ends them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.postgres = PostgresServer()
        self.broker = RedisServer()
        self.redis = RedisServer()
        self._folder = Path(tempfile.mkdtemp(prefix="rootcellar-bench-"))
        self._numbers = itertools.count(1)
        self._with_worker: dict[str, Place] = {}

    def __enter__(self) -> Bed:
        for server in (self.postgres, self.broker, self.redis):
            self._stack.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def empty_place(self, contender: Contender) -> Place:
        """Return an empty place."""
        if contender.storage == "postgres":
            return Place(self.postgres.create_database())
        if contender.storage == "sqlite":
            return Place(f"sqlite:///{self._folder}/results-{next(self._numbers)}.sqlite3")
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushdb()
        return Place(self.redis.url)

    def place_with_worker(self, contender: Contender) -> Place:
        """Return the contender's place with a worker, which starts when it is first needed."""
        if contender.column not in self._with_worker:
            self._with_worker[contender.column] = self._start_worker(contender)
        return self._with_worker[contender.column]

    def _start_worker(self, contender: Contender) -> Place:
        number = len(self._with_worker) + 1
        place = self.empty_place(contender)
        if contender.storage == "redis":
            place = Place(_database(self.redis.url, number))
        place = Place(place.url, _database(self.broker.url, number))
        env = {"BENCH_BROKER": place.broker, "BENCH_BACKEND": contender.backend_url(place.url)}
        self._stack.enter_context(Worker("benchmarks.app", env=env, concurrency=WORKER_PROCESSES))
        return place


def _database(redis_url: str, number: int) -> str:
    return f"{redis_url.rpartition('/')[0]}/{number}"
