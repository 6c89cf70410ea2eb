"""Deletes expired rows in MySQL: it finds rows without a lock, and locks each by its key if it is still expired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rootcellar.errors import StoreError
from rootcellar.records import TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.expiring import Deleted
from rootcellar.stores.fields import FieldReader
from rootcellar.stores.mysql.driver import Connection, in_list
from rootcellar.stores.sql.expiring import DueRows, ExpiringStore, with_few_parts
from rootcellar.stores.sql.statements import fill_in, in_parameterized


class MySQLExpiring(ExpiringStore[Connection]):
    """See :class:`~rootcellar.stores.expiring.Expiring`.

    The time of a batch limits how long rows are searched. A deletion waits at most some seconds for each lock. A batch
    is deleted in parts, each in a transaction of its own. If a later part fails, the batch ends before it, so that what
    was deleted is counted, and the next batch begins with this part.
    """

    def _delete_due(self, rows: DueRows) -> Deleted:
        found = self._run(lambda connection: self._read_due(connection, self._sql["due_tasks"], rows))
        hold = fill_in(self._sql["hold_due_tasks"], rows.names)
        count = seen = spared = 0
        while some := found[seen : seen + self.MANY]:
            ids = sorted(task_id for task_id, _, is_wanted in some if is_wanted)
            try:
                if ids:
                    params = {**rows.params, "ids": in_list(ids)}
                    count += self._in_transaction(partial(self._delete_found, hold, params))
            except StoreError:
                if not count:
                    raise
                break
            seen += len(some)
            spared += len(some) - len(ids)
        is_last = seen == len(found) < rows.due.limit
        last = None if is_last else self._place_of(rows.due, (found[seen - 1][1], found[seen - 1][0], None))
        return Deleted(count, last, spared)

    def _delete_found(self, hold: str, params: Mapping[str, Any], connection: Connection) -> int:
        return self._delete_held(connection, [row[0] for row in connection.rows(hold, params)])

    def _delete_same(self, records: Sequence[TaskRecord], rows: DueRows) -> int:
        expiries = {record.task_id: record.expires_at for record in records}
        hold = fill_in(self._sql["hold_same_tasks"], rows.names)
        count = 0
        for some in framing.chunks(sorted(expiries), self.MANY):
            params = {**rows.params, "ids": in_list(some)}
            count += self._in_transaction(partial(self._delete_if_same, hold, params, expiries))
        return count

    def _delete_if_same(
        self, hold: str, params: Mapping[str, Any], expiries: Mapping[str, datetime | None], connection: Connection
    ) -> int:
        read = FieldReader()
        same = [
            task_id
            for task_id, moment in connection.rows(hold, params)
            if task_id in expiries and read.moment("expires_at", moment, self._read_date) == expiries[task_id]
        ]
        return self._delete_held(connection, same)

    def _delete_held(self, connection: Connection, ids: Sequence[str]) -> int:
        """Keep what was counted of rows that this transaction has locked, and delete them; return how many."""
        if not ids:
            return 0
        connection.execute(self._sql["note_gone"], {"ids": in_list(ids)})
        return connection.execute(self._sql["delete_tasks"], {"task_ids": in_list(ids)})

    def _delete_noted(self, connection: Connection, hold: str, params: Mapping[str, Any]) -> int:
        """Lock rows, keep what was counted of them, and delete them; return how many."""
        return self._delete_held(connection, [row[0] for row in connection.rows(self._sql[hold], params)])

    def _table_by_expiry(self, rows: DueRows) -> str:
        # else the server may read the whole table and sort it
        index = in_parameterized(self._table_names())["task_expires_index"]
        return f"{rows.table} FORCE INDEX ({index})"

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params = {"now": self._date(now), "limit": limit}
        count = 0
        # found without a lock, then each is deleted by its key if it is still expired
        ids = sorted(row[0] for row in self._all("expired_groups", params))
        for some in framing.chunks(ids, self.MANY):
            try:
                count += self._count("delete_expired_groups", {**params, "ids": in_list(some)})
            except StoreError:
                if not count:
                    raise
                break
        return count

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params = {"now": self._date(now), "yesterday": self._date(now - timedelta(days=1)), "limit": limit}
        found = ((group_id, int(parts)) for group_id, parts in self._all("expired_chords", params))
        ids = sorted(with_few_parts(found, limit))
        return sum(self._delete_chords({**params, "ids": in_list(some)}) for some in framing.chunks(ids, self.MANY))

    def _delete_chords(self, params: dict[str, Any]) -> int:
        def delete(connection: Connection) -> int:
            locked_ids = in_list([row[0] for row in connection.rows(self._sql["hold_expired_chords"], params)])
            if not locked_ids:
                return 0
            connection.execute(self._sql["delete_parts"], {"ids": locked_ids})
            return connection.execute(self._sql["delete_chords"], {"ids": locked_ids})

        return self._in_transaction(delete)
