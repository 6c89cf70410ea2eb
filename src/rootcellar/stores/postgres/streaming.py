"""Walks over all results in PostgreSQL: see :class:`~rootcellar.stores.streaming.Streamed`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rootcellar.records import TaskRecord
from rootcellar.stores.postgres import binary
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.pipeline import BEGIN, COMMIT, Pipeline, Statement, received, rows_of
from rootcellar.stores.postgres.searching import PostgresSearching
from rootcellar.stores.sql.sharing import SharingStore
from rootcellar.stores.sql.streaming import OWN, StreamingStore


class PostgresStreaming(StreamingStore[Connection], SharingStore[Connection], PostgresSearching):
    """The part of the store that a migration reads from, and where its processes share values.

    A subclass creates the attribute.
    """

    _in_order: Statement

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. They are in the order of their ids."""
        if cursor is not None and not cursor.startswith(OWN):
            return super().stream(cursor, limit)
        after = (cursor or OWN).removeprefix(OWN)
        found = self._run(partial(self._walk, after=after, limit=limit))
        # a page may have fewer records because they are large
        return (found, OWN + found[-1].task_id) if found else ([], self._after_own())

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`. Few records are counted exactly."""
        count = super().count_roughly()
        if not self.has_older():
            return count
        ((older,),) = self._all("count_older_roughly", self._measure_params())
        return count + int(older)

    def _walk(self, connection: Connection, after: str, limit: int) -> list[TaskRecord]:
        has_older = self._older.is_known_after_look(connection)
        name = "walk_all_tasks" if has_older else "walk_tasks"
        statement = Statement(name, self._sql[name])
        values = statement.values({"after": after, "limit": limit})
        with connection.without_timeout():
            pipeline = Pipeline(connection)
            pipeline.send(BEGIN)
            pipeline.send(self._in_order)
            # the plan of a statement of all partitions would take much memory
            (pipeline.send_once if has_older else pipeline.send)(statement, values)
            pipeline.send(COMMIT)
            _, _, page, _ = received(pipeline)
        found = [binary.task_record(row) for row in rows_of(page)]
        if not has_older:
            return found
        counted = {record.task_id: record for record in found}
        counted.update(self._doubled(connection, found))
        return list(counted.values())
