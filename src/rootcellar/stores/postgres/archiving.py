"""What the archive needs of PostgreSQL: see ``rootcellar.stores.sql.archiving``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores.postgres.counting import PostgresCounts
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.expiring import PostgresExpiring
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.archiving import Entry


class PostgresArchiving(PostgresExpiring):
    """The part of the store that the manifest of the archive uses. A subclass has the other methods."""

    _counts: PostgresCounts

    def _patiently(self, connection: Connection) -> AbstractContextManager[object]:
        return connection.without_timeout()

    def _delete_live(self, connection: Connection, ids: Sequence[str]) -> None:
        self._delete_own_on(connection, ids)

    def _locked_rows(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        found = super()._locked_rows(connection, ids)
        if len(found) == len(ids) or not self._older.is_known_after_look(connection):
            return found
        return self._older.rows_of_days(connection, "lock_older", ids) + found

    def _spared_older(
        self, connection: Connection, ids: Sequence[str], spared: str, params: Mapping[str, Any]
    ) -> frozenset[str]:
        if not self._older.is_known_after_look(connection):
            return frozenset()
        found = self._older.rows_of_days(connection, "spared_older", ids, params, spared=spared)
        return frozenset(task_id for (task_id,) in found)

    def _restore_live(self, connection: Connection, record: TaskRecord) -> bool:
        ids = [record.task_id]
        if self._older.is_known_after_look(connection) and self._older.days_of(connection, ids):
            # a row in the older table is newer than an archived one
            return False
        return self._count_of(connection, "restore_task", rows.task_row(record)) == 1

    def _note_restored(self, connection: Connection, ids: Sequence[str]) -> None:
        self._count_of(connection, "note_back", {"task_ids": list(ids)})

    def _add_entries(self, connection: Connection, entries: Sequence[Entry]) -> None:
        hashes, files, places = zip(*sorted(entries), strict=True) if entries else ((), (), ())
        params = {"hashes": list(hashes), "files": list(files), "places": list(places)}
        self._count_of(connection, "add_entries", params)

    def _many_of(self, connection: Connection, statement: str, params: Sequence[Mapping[str, Any]]) -> None:
        self._counts.execute_many(connection, self._sql[statement], params)

    def _numbers(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def _texts(self, texts: Sequence[str]) -> list[str]:
        return list(texts)
