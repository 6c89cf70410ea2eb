"""Deletes expired rows in SQLite: a batch is one transaction, and every other writer waits for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.expiring import Deleted
from rootcellar.stores.sql.by_date import RECENT
from rootcellar.stores.sql.expiring import DueRows, ExpiringStore, Tie, with_few_parts
from rootcellar.stores.sql.statements import fill_in


class SQLiteExpiring(ExpiringStore[sqlite3.Connection]):
    """See :class:`~rootcellar.stores.expiring.Expiring`.

    The time of a batch limits how long rows are searched. How long it waits for another writer, the connection says.
    """

    _TIE = Tie("rowid", "tie", "CAST({} AS INTEGER)")

    def _delete_due(self, rows: DueRows) -> Deleted:
        def work(connection: sqlite3.Connection) -> Deleted:
            found = self._read_due(connection, self._sql["due_tasks"], rows)
            numbers = [number for number, _, _, is_wanted in found if is_wanted]
            count = self._delete_rows(connection, numbers)
            # an id that is no text cannot be a place
            places = [(moment, task_id, number) for number, moment, task_id, _ in found if isinstance(task_id, str)]
            is_last = len(found) < rows.due.limit or not places
            last = None if is_last else self._place_of(rows.due, places[-1])
            return Deleted(count, last, len(found) - len(numbers))

        return self._in_transaction(work)

    def _delete_same(self, records: Sequence[TaskRecord], rows: DueRows) -> int:
        expiries = {record.task_id: self._date(record.expires_at) for record in records if record.expires_at}
        text = fill_in(self._sql["same_tasks"], rows.names)

        def work(connection: sqlite3.Connection) -> int:
            found = connection.execute(text, {**rows.params, "ids": self._ids(list(expiries))}).fetchall()
            same = [number for number, task_id, moment in found if expiries[task_id] == moment]
            return self._delete_rows(connection, same)

        return self._in_transaction(work)

    def _delete_rows(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> int:
        """Keep what was counted of rows, and delete them, by their numbers; return how many."""
        recent = self._date(datetime.now(timezone.utc) - RECENT)
        params = {"rows": json.dumps(numbers), "recent": recent}
        connection.execute(self._sql["note_rows"], params)
        return connection.execute(self._sql["delete_rows"], params).rowcount

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        return self._count("delete_expired_groups", {"now": self._date(now), "limit": limit})

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params = {"now": self._date(now), "yesterday": self._date(now - timedelta(days=1)), "limit": limit}

        def work(connection: sqlite3.Connection) -> int:
            found = connection.execute(self._sql["expired_chords"], params)
            rows = {"rows": json.dumps(with_few_parts(found.fetchall(), limit))}
            self._count_of(connection, "delete_expired_parts", rows)
            return self._count_of(connection, "delete_expired_chords", rows)

        return self._in_transaction(work)
