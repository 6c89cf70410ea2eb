"""MySQL as the source and the target of a migration.

With the isolation level REPEATABLE READ, a reader locks the place of a burial that is missing, and a transaction that
stores a burial there waits. All other transactions have READ COMMITTED.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores.mysql.counting import MySQLCounts
from rootcellar.stores.mysql.driver import Connection
from rootcellar.stores.sql import fragments, rows
from rootcellar.stores.sql.mirroring import MirroringStore
from rootcellar.stores.sql.sharing import SharingStore
from rootcellar.stores.sql.statements import fill_in
from rootcellar.stores.sql.streaming import StreamingStore

#: the date of a row that only locks the place of a burial, as the statements have it
_NO_BURIAL = "1000-01-01"


class MySQLMigrating(MirroringStore[Connection], StreamingStore[Connection], SharingStore[Connection]):
    """See :mod:`rootcellar.stores.sql.mirroring`."""

    _counts: MySQLCounts

    @abstractmethod
    def _many_of(self, connection: Connection, statement: str, params: Sequence[Mapping[str, Any]]) -> None: ...

    def _mirror_params(self, record: TaskRecord) -> dict[str, Any]:
        self._check_ids(record.task_id)
        return {**rows.task_row(record, self._date), "put_id": secrets.randbits(63)}

    def _guard(self, connection: Connection) -> None:
        # for the next transaction only, and a statement alone is one
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def _begin_burials(self, connection: Connection, ids: Sequence[str]) -> None:
        nothing = {"buried_at": _NO_BURIAL, "done_at": None, "fingerprints": b""}
        self._many_of(connection, "begin_burial", [{"task_id": task_id, **nothing} for task_id in ids])

    def _end_burials(self, connection: Connection, ids: Sequence[str]) -> None:
        if ids:
            connection.execute(self._sql["end_burials"], {"task_ids": self._ids(ids)})

    def _copy_rows(self, connection: Connection, records: Sequence[TaskRecord], newer_wins: bool) -> set[str]:
        # a unique number: with it, the rows of this call are found
        params: dict[str, Any] = {"put_id": secrets.randbits(63)}
        for number, record in enumerate(records):
            row = rows.task_row(record, self._date)
            params.update({f"{column}_{number}": value for column, value in row.items()})
        values = ", ".join(
            f"({fragments.named(rows.TASK_COLUMNS, f'%({{}}_{number})s')}, %(put_id)s)"
            for number in range(len(records))
        )
        statement = self._sql["copy_newer_tasks" if newer_wins else "copy_tasks"]
        connection.execute(fill_in(statement, {"copied_rows": values}), params)
        ids = self._ids([record.task_id for record in records])
        found = connection.rows(self._sql["copied_tasks"], {"task_ids": ids, "put_id": params["put_id"]})
        return {task_id for (task_id,) in found}

    def _mark_late(self, connection: Connection, ends: Iterable[datetime]) -> None:
        self._counts.mark_ends(connection, ends)
