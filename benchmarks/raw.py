"""The limit: psycopg alone runs the one statement with which rootcellar stores a result."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.sql import rows


class RawDriver:
    """Prepared statements on one connection for each thread, in autocommit mode.

    Args:
        url: the database.
        is_relaxed: whether a commit need not wait for the disk.
    """

    def __init__(self, url: str, *, is_relaxed: bool = False) -> None:
        self._url = url
        self._is_relaxed = is_relaxed
        self._local = threading.local()
        store = PostgresStore(url)
        store.check()
        store.close()
        self._put = store._sql["put_task"]
        self._get = f"SELECT result::text FROM {store.options.task_table} WHERE task_id = %s"  # noqa: S608
        now = datetime.now(timezone.utc)
        self._row = rows.task_row(
            TaskRecord(
                task_id="",
                state="SUCCESS",
                result=Payload(b""),
                name="benchmarks.bake",
                queue="celery",
                worker="worker1@kitchen",
                retries=0,
                root_id="5b1b9c4e-7d0a-4d6b-9e62-3c1f0a8f2d11",
                done_at=now,
                expires_at=now + timedelta(days=1),
            )
        )

    def store(self, task_id: str, value: Any) -> None:
        row = {**self._row, "task_id": task_id, "result": json.dumps(value)}
        self._connection().execute(self._put, row, prepare=True)

    def read(self, task_id: str) -> Any:
        found = self._connection().execute(self._get, [task_id], prepare=True).fetchone()
        return json.loads(found[0]) if found else None

    def _connection(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = psycopg.connect(self._url, autocommit=True)
            if self._is_relaxed:
                connection.execute("SET synchronous_commit = off")
            self._local.connection = connection
        return connection
