"""The rows of the live table and of the older one, read by SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg

from rootcellar.records import TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.older import Older, Reached
from rootcellar.stores.sql.rows import TASK_COLUMNS
from rootcellar.testing.helpers import able, json_payload, record

WINDOW = timedelta(days=2)
_COLUMNS = ", ".join(f"{column}::text" for column in TASK_COLUMNS)


def now() -> datetime:
    """Return the present."""
    return datetime.now(timezone.utc)


@contextmanager
def opened(url: str, **options: Any) -> Iterator[tuple[Store, Older]]:
    """Open a store, with what moves its rows."""
    store = open_store(url, StoreOptions(**options))
    try:
        yield store, able(store, Older)
    finally:
        store.close()


def enable(store: Store, older: Older) -> None:
    """Create the older table. The store knows it at once."""
    store.check()
    older.enable()
    store.check()


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run SQL over a new connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def rows_in(url: str, table: str) -> dict[str, tuple[Any, ...]]:
    """Return the rows of a table by id, each column as text."""
    if query(url, f"SELECT to_regclass('{table}')") == [(None,)]:
        return {}
    found = query(url, f"SELECT {_COLUMNS} FROM {table}")  # noqa: S608 - names of ours
    counts = Counter(row[0] for row in found)
    assert not [task_id for task_id, count in counts.items() if count > 1]
    return {row[0]: row for row in found}


def rows_of_both(url: str) -> dict[str, tuple[Any, ...]]:
    """Return the rows of both tables by id, as one statement sees them; no id may be in both."""
    if query(url, "SELECT to_regclass('celery_taskmeta_older')") == [(None,)]:
        return rows_in(url, "celery_taskmeta")
    both = f"SELECT {_COLUMNS} FROM celery_taskmeta_all"  # noqa: S608 - names of ours
    found = query(url, both)
    counts = Counter(row[0] for row in found)
    assert not [task_id for task_id, count in counts.items() if count > 1]
    return {row[0]: row for row in found}


def listed(url: str) -> int:
    """Return how many entries the index of moved ids has."""
    return int(query(url, "SELECT count(*) FROM celery_taskmeta_moved")[0][0])


def finished(age: timedelta, **given: Any) -> TaskRecord:
    """Return a record of a task that ended so long ago; it expires in 60 days unless another time is given."""
    done = now() - age
    return record(
        **{
            "done_at": done,
            "started_at": done - timedelta(seconds=2),
            "sent_at": done - timedelta(seconds=3),
            "expires_at": now() + timedelta(days=60),
            "name": "shop.pay",
            "queue": "celery",
            **given,
        }
    )


def put_all(store: Store, records: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Store records."""
    stored = list(records)
    for each in stored:
        store.put(each)
    return stored


def move_all(older: Older, at: datetime | None = None, limit: int = 50, window: timedelta = WINDOW) -> int:
    """Move every row that can be moved; return how many."""
    total, after = 0, None
    while (moved := older.move(at or now(), window, limit, after)).last is not None:
        total, after = total + moved.count, moved.last
    return total


def disable(older: Older, limit: int = 50) -> int:
    """Move all rows back, and drop the older table; return how many were moved."""
    total, last = 0, Reached(now(), "")
    steps = 0
    while last is not None:
        moved = older.disable_step(limit)
        total, last, steps = total + moved.count, moved.last, steps + 1  # type: ignore[assignment]
        assert steps < 10_000
    return total


def payload(number: int) -> Any:
    """Return a value whose stored bytes differ from what a server would write."""
    return json_payload({"number": number, "text": "ä \\ud800" if number % 2 else "plain", "b": 1, "a": [1.0, 1e2]})
