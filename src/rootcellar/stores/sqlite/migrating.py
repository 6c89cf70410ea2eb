"""SQLite files as the source and the target of a migration. A transaction locks the file, so that nothing can race."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.mirroring import MirroringStore
from rootcellar.stores.sql.sharing import SharingStore
from rootcellar.stores.sql.streaming import StreamingStore
from rootcellar.stores.sqlite.counting import SQLiteCounts


class SQLiteMigrating(
    MirroringStore[sqlite3.Connection], StreamingStore[sqlite3.Connection], SharingStore[sqlite3.Connection]
):
    """See :mod:`rootcellar.stores.sql.mirroring`."""

    _counts: SQLiteCounts

    def _mirror_params(self, record: TaskRecord) -> dict[str, Any]:
        return rows.task_row(record, self._date)

    def _copy_rows(self, connection: sqlite3.Connection, records: Sequence[TaskRecord], newer_wins: bool) -> set[str]:
        statement = self._sql["copy_newer_task" if newer_wins else "copy_task"]
        return {
            record.task_id
            for record in records
            if connection.execute(statement, rows.task_row(record, self._date)).rowcount
        }

    def _mark_late(self, connection: sqlite3.Connection, ends: Iterable[datetime]) -> None:
        self._counts.mark_ends(connection, ends)
