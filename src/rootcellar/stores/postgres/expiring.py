"""Deletes expired rows in PostgreSQL: each batch is one statement, and waits for no row that is locked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rootcellar.errors import StoreError
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.expiring import PARTS_OF_A_CHORD, Deleted, NewExpiry
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.moving import Moving
from rootcellar.stores.postgres.older_rows import OlderRows, day_of
from rootcellar.stores.sql.expiring import DueRows, ExpiringStore, Tie
from rootcellar.stores.sql.statements import fill_in

#: statements that delete rows of tasks, and keep what was counted of them
DELETIONS = ("delete_due_tasks", "delete_wanted_tasks", "delete_same_tasks")
#: for one transaction: the index gives the rows in their order, also where the server expects that most rows are due.
#: A crash may undo the last deletions; the next cleanup repeats them.
_SETTINGS = (
    "SELECT set_config('statement_timeout', %(milliseconds)s, true), set_config('enable_seqscan', 'off', true), "
    "set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true), "
    "set_config('synchronous_commit', 'off', true)"
)
#: the seconds after which a statement for groups or chords is given up
_TIMEOUT = 60.0
_LAST = "(SELECT {column} FROM due ORDER BY expires_at DESC, row_id DESC LIMIT 1)"


class PostgresExpiring(ExpiringStore[Connection]):
    """See :class:`~rootcellar.stores.expiring.Expiring` and :class:`~rootcellar.stores.expiring.Replicated`.

    A subclass creates ``_older`` and ``_older_table``.
    """

    _older: OlderRows
    _older_table: Moving

    # the index has equal expiries in the order of their rows; the server does not know it, so the deletions only say
    # ORDER BY expires_at: else it reads and sorts all rows that expire at the same time, for each batch
    _TIE = Tie("ctid", "tie::text", "{}::tid")

    def _delete_due(self, rows: DueRows) -> Deleted:
        text, params = self._deletion(rows)
        ((count, seen, spared, *place),) = self._deleted(text, params, rows.due.timeout)
        is_last = seen < rows.due.limit
        return Deleted(int(count), None if is_last else self._place_of(rows.due, place), int(spared))

    def _deletion(self, rows: DueRows) -> tuple[str, Mapping[str, Any]]:
        """Return the statement that deletes a batch, and its parameters."""
        expiry = rows.selected("expires_at")
        last = {"last_expiry": fill_in(_LAST, {"column": expiry}), "last_id": fill_in(_LAST, {"column": "task_id"})}
        last["last_row"] = fill_in(_LAST, {"column": "row_id::text"})
        name = "delete_due_tasks" if rows.takes_all else "delete_wanted_tasks"
        return fill_in(self._sql[name], {**rows.names, **last}), rows.params

    def _delete_same(self, records: Sequence[TaskRecord], rows: DueRows) -> int:
        expiries = [record.expires_at for record in records]
        params = {**rows.params, "task_ids": [record.task_id for record in records], "expiries": expiries}
        text = fill_in(self._sql["delete_same_tasks"], rows.names)
        ((count,),) = self._deleted(text, params, rows.due.timeout)
        return int(count)

    def _deleted(self, text: str, params: Mapping[str, Any], timeout: float) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            with self._limited(connection, timeout):
                # never prepared: a plan for any parameters would read the whole table
                return connection.execute(text.encode(), params, prepare=False).fetchall()

        return self._run(work)

    @contextmanager
    def _limited(self, connection: Connection, timeout: float) -> Iterator[None]:
        """Run a transaction of a ``with`` block, whose statements the server ends after ``timeout`` seconds each."""
        milliseconds = 0 if math.isinf(timeout) else max(1, round(timeout * 1000))
        try:
            # the server ends it in time, so its silence means nothing before
            with connection.without_timeout(), connection.transaction():
                connection.execute(_SETTINGS, {"milliseconds": str(milliseconds)})
                yield
        except psycopg.errors.QueryCanceled as exc:
            raise self._deletion_too_slow(timeout) from exc

    def _read_expiry(self, value: int) -> datetime:
        return NO_DATE + timedelta(microseconds=value)

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        def work(connection: Connection) -> int:
            with self._limited(connection, _TIMEOUT):
                return self._count_of(connection, "delete_expired_groups", {"now": now, "limit": limit})

        return self._run(work)

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params = {"now": now, "yesterday": now - timedelta(days=1), "limit": limit, "parts": limit * PARTS_OF_A_CHORD}

        def work(connection: Connection) -> int:
            with self._limited(connection, _TIMEOUT):
                ((count,),) = self._rows_of(connection, "delete_expired_chords", params)
                return int(count)

        return self._run(work)

    def _delete_own_on(self, connection: Connection, ids: Sequence[str]) -> int:
        """Delete tasks of both of our tables; return how many there were."""

        def delete_live() -> int:
            ((count,),) = self._rows_of(connection, "delete_tasks", {"task_ids": list(ids)})
            return int(count)

        count = delete_live()
        if self._older.is_known_after_look(connection):
            count += self._older.delete(connection, ids, delete_live)
        return count

    def replica_lag(self) -> float | None:
        """See :class:`~rootcellar.stores.expiring.Replicated`. Only members of ``pg_monitor`` may see it."""
        try:
            ((lag,),) = self._all("replica_lag", {})
        except StoreError:
            # a managed server may lack the function; if this is an outage, the next batch raises it
            return None
        return None if lag is None else float(lag)

    def _set_expiries_on(self, connection: Connection, changes: Sequence[NewExpiry]) -> int:
        # one statement for all: a round trip for each row would take most of the time
        return self._count_of(connection, "set_expiries", self._expiries_params(changes))

    def _expiries_params(self, changes: Sequence[NewExpiry]) -> dict[str, Any]:
        each = [self._expiry_params(change) for change in changes]
        return {
            "task_ids": [one["task_id"] for one in each],
            "old_statuses": [one["old_status"] for one in each],
            "old_dates_done": [one["old_date_done"] for one in each],
            "old_expiries": [one["old_expires_at"] for one in each],
            "expiries": [one["expires_at"] for one in each],
        }

    def set_expiries(self, changes: Sequence[NewExpiry]) -> int:
        count = super().set_expiries(changes)
        if count == len(changes) or not self.has_older():
            return count
        ordered = sorted(changes, key=_task_id_of)
        for start in range(0, len(ordered), self.MANY):
            count += self._set_older_expiries(ordered[start : start + self.MANY])
        return count

    def _set_older_expiries(self, changes: Sequence[NewExpiry]) -> int:
        ids = [change.record.task_id for change in changes]
        if not self._run(partial(self._older.days_of, ids=ids)):
            return 0
        # with a connection of its own, so this call has none meanwhile: the pool may have one only
        self._older_table.ensure_partitions({day_of(change.expires_at) for change in changes})
        params = self._expiries_params(changes)
        return self._run(partial(self._older.set_expiries, ids=ids, params=params))


def _task_id_of(change: NewExpiry) -> str:
    return change.record.task_id
