"""The contenders, and how each stores and reads a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from celery.app.task import Context

from benchmarks.app import make_app
from benchmarks.raw import RawDriver


class Results(Protocol):
    """How a contender stores results."""

    def store(self, task_id: str, value: Any) -> None:
        """Store the result of a successful task; return when it is as durable as the contender makes it."""

    def read(self, task_id: str) -> Any:
        """Return it."""


class CeleryResults:
    """A Celery result backend, called as a worker calls it.

    Args:
        url: Celery's ``result_backend``.
        settings: other settings of Celery's.
    """

    def __init__(self, url: str, settings: Mapping[str, Any]) -> None:
        self._backend = make_app("memory://", url, settings).backend
        self._about = {
            "task": "benchmarks.bake",
            "root_id": "5b1b9c4e-7d0a-4d6b-9e62-3c1f0a8f2d11",
            "hostname": "worker1@kitchen",
            "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
            "retries": 0,
        }

    def store(self, task_id: str, value: Any) -> None:
        # rootcellar stores no field of another task's request
        self._backend.store_result(task_id, value, "SUCCESS", request=Context(self._about, id=task_id))

    def read(self, task_id: str) -> Any:
        return self._backend.get_task_meta(task_id, cache=False)["result"]


@dataclass(frozen=True)
class Contender:
    """A way to store results.

    Attributes:
        column: its column in the table.
        storage: the server, or file, that holds the results.
        scheme: the beginning of ``result_backend``.
        is_forked: whether it is measured in a process that Celery forked, like a child of a prefork worker.
        is_relaxed: whether a result is stored with ``synchronous_commit=off``, and may be lost with the machine.
    """

    column: str
    storage: Literal["postgres", "sqlite", "redis"]
    scheme: str
    is_forked: bool = True
    is_relaxed: bool = False

    def in_web_process(self) -> Contender:
        """Return the same in a process that Celery did not fork."""
        return replace(self, is_forked=False)

    def relaxed(self) -> Contender:
        """Return the same with ``synchronous_commit=off``."""
        return replace(self, is_relaxed=True)

    def backend_url(self, url: str) -> str:
        """Return Celery's ``result_backend`` for the URL of a server or a file."""
        return f"{self.scheme}://{url.partition('://')[2]}"

    def open(self, url: str) -> Results:
        """Open the results at the URL of a server or a file."""
        if self.scheme == RAW_DRIVER.scheme:
            return RawDriver(url, is_relaxed=self.is_relaxed)
        options = {"synchronous_commit": "off"} if self.is_relaxed else {}
        return CeleryResults(self.backend_url(url), {"result_backend_transport_options": options})


POSTGRES = Contender("rootcellar PostgreSQL", "postgres", "rootcellar+postgresql")
SQLITE = Contender("rootcellar SQLite", "sqlite", "rootcellar+sqlite")
REDIS = Contender("rootcellar Redis", "redis", "rootcellar+redis")
CELERY_REDIS = Contender("Celery redis", "redis", "redis")
CELERY_DB = Contender("Celery db+postgresql", "postgres", "db+postgresql+psycopg")
CELERY_DB_UNPOOLED = Contender("Celery db+postgresql, unpooled", "postgres", "db+postgresql+psycopg", is_forked=False)
RAW_DRIVER = Contender("psycopg alone", "postgres", "psycopg")

#: in the order of the table's columns
ALL = (POSTGRES, SQLITE, REDIS, CELERY_REDIS, CELERY_DB, CELERY_DB_UNPOOLED, RAW_DRIVER)
