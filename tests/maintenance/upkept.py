"""A PostgreSQL that needs upkeep, for the tests of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from rootcellar.maintenance.upkeep.vacuum import VacuumConfig
from rootcellar.stores import Store
from tests.commands import run_here
from tests.helpers import record, wait_until

TABLE = "celery_taskmeta"
#: a table with a few dead rows is due
SOON = VacuumConfig(least_dead=10)
GIGABYTE = 10**9


def on_server(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements; return the rows of the last one."""
    found: list[tuple[Any, ...]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            found = cursor.fetchall() if cursor.description else []
    return found


def with_dead_rows(store: Store, url: str, count: int = 50) -> None:
    """Store results and delete them, and wait until the server's statistics have them."""
    records = [record() for _ in range(count)]
    for each in records:
        store.put(each)
    store.delete([each.task_id for each in records])
    # a session that ends hands in its statistics at once
    store.close()
    dead = "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = 'celery_taskmeta'::regclass"
    wait_until(lambda: on_server(url, dead)[0][0] >= count, "the statistics of the deletion")


@contextmanager
def snapshot(url: str, name: str = "reporting") -> Iterator[int]:
    """Keep a transaction open that still sees the rows of now; yield its process id."""
    with psycopg.connect(url, application_name=name) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        yield connection.info.backend_pid
        connection.rollback()


def invalid_unique_index(store: Store, url: str) -> None:
    """Leave an invalid index: its creation fails, because two results have the same state."""
    for _ in range(2):
        store.put(record(state="SUCCESS"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        on_server(url, f"CREATE UNIQUE INDEX CONCURRENTLY one_state ON {TABLE} (status)")


def invalid(url: str) -> list[str]:
    """Return the names of the invalid indexes."""
    found = on_server(url, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1")
    return [name for (name,) in found]


def maintain(url: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit status, and what each part says."""
    ended = run_here("maintain", "-b", url, "--json", *options)
    assert "Traceback" not in ended.err, ended.err
    found = json.loads(ended.out)
    return ended.status, {part["part"]: part for part in found["parts"]}
