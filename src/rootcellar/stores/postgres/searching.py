"""Reads lists of tasks, from the live table and from the older one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.expiring import PostgresExpiring
from rootcellar.stores.postgres.older_rows import preferred
from rootcellar.stores.postgres.schema import older_names, table_names
from rootcellar.stores.postgres.search import SETTINGS, PostgresRenderer
from rootcellar.stores.postgres.texts import selected
from rootcellar.stores.search import Found, Search, SearchTooSlow, Segment
from rootcellar.stores.sql import fragments
from rootcellar.stores.sql.search import Renderer
from rootcellar.stores.sql.statements import in_parameterized


class PostgresSearching(PostgresExpiring):
    """The part of the store that finds tasks by what they are. A subclass has the other methods."""

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        def work(connection: Connection) -> list[TaskRecord]:
            if not self._older.is_known_after_look(connection):
                return [self._task_record(row) for row in self._rows_of(connection, "scan_tasks", params)]
            return self._scan_all(connection, after or "", limit)

        params = {"after": after or "", "limit": limit}
        return self._run(work)

    def _scan_all(self, connection: Connection, after: str, limit: int) -> list[TaskRecord]:
        """Return the next tasks of both tables: fewer than ``limit`` only if there are no more."""
        found: dict[str, TaskRecord] = {}
        while len(found) < limit:
            wanted = limit - len(found) + 1
            page = self._rows_of_all(connection, "scan_all", {"after": after, "limit": wanted})
            is_last = len(page) < wanted
            if not is_last and page[-1][0] != page[-2][0]:
                # a second row of this task may follow
                page.pop()
            # the row of the older table after that of the live one
            for row in sorted(page, key=itemgetter(-1)):
                record = self._task_record(row[:-1])
                found[record.task_id] = preferred(found.get(record.task_id), record) if row[-1] else record
            if is_last:
                break
            after = page[-1][0]
        return sorted(found.values(), key=lambda record: record.task_id)

    def _rows_of_all(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement that may read all partitions. It is not prepared: its plan would take much memory."""
        with connection.without_timeout():
            return connection.execute(self._sql[statement].encode(), params, prepare=False).fetchall()

    def _query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        params = {
            "states": list(query.states) or None,
            "names": [fragments.like_pattern(name) for name in query.names] or None,
            "queues": [fragments.like_pattern(queue) for queue in query.queues] or None,
            "workers": [fragments.like_pattern(worker) for worker in query.workers] or None,
            "ids": fragments.prefix_pattern(query.id_prefix),
            "since": query.since,
            "until": query.until,
            "limit": query.limit,
        }

        def work(connection: Connection) -> list[TaskRecord]:
            if not self._older.is_known_after_look(connection):
                return [self._task_record(row) for row in self._rows_of(connection, "query_tasks", params)]
            return self._query_all(connection, params)

        return self._run(work)

    def _query_all(self, connection: Connection, params: Mapping[str, Any]) -> list[TaskRecord]:
        limit = wanted = params["limit"]
        while True:
            found = list(
                map(self._task_record, self._rows_of_all(connection, "query_all", {**params, "limit": wanted}))
            )
            doubled = self._doubled(connection, found)
            counted = [record for record in found if _is_counted(record, doubled)]
            if len(counted) >= limit or len(found) < wanted:
                return counted[:limit]
            # instead of the rows that do not count
            wanted += limit - len(counted)

    def _renderer(self, search: Search) -> Renderer:
        renderer = PostgresRenderer(search, self._searched_table(search), selected)
        renderer.holds_placed = self._sql["holds_placed"]
        return renderer

    def _searched_table(self, search: Search) -> str:
        if search.segment is Segment.OLDER:
            return in_parameterized(older_names(self.options))["older"]
        if search.segment is Segment.FINISHED and search.sort is not None and self._older.is_known:
            # a sorted list has the rows of both tables in one order
            return self._sql["all_rows"]
        return in_parameterized(table_names(self.options))["task"]

    def search(self, search: Search) -> Sequence[Found]:
        if search.sort is not None:
            self.has_older()
        found = super().search(search)
        if search.segment is Segment.ADOPTED or not self._older.is_known:
            return found
        doubled = self._run(partial(self._doubled, records=[each.record for each in found]))
        return [each if _is_counted(each.record, doubled) else replace(each, is_hidden=True) for each in found]

    def _doubled(self, connection: Connection, records: Sequence[TaskRecord]) -> Mapping[str, TaskRecord]:
        """Return the records that count of those tasks that have a row in both tables, as few have for a while."""
        ids = self._findable([record.task_id for record in records])
        both = [row[0] for row in self._rows_of(connection, "in_both", {"task_ids": ids})] if ids else []
        return self._older.get_many(connection, both) if both else {}

    def has_older(self) -> bool:
        return self._run(self._older.is_known_after_look)

    def task_names(self, limit: int) -> Sequence[str] | None:
        found = super().task_names(limit)
        if found is None or not self.has_older():
            return found
        try:
            older_ones = [row[0] for row in self._looked_up("older_names", {"limit": limit + 1})]
        except SearchTooSlow:
            return None
        names = list(dict.fromkeys([*found, *older_ones]))
        return names if len(names) <= limit else None

    def _searched(
        self, connection: Connection, statement: str, params: Mapping[str, Any], timeout: float
    ) -> list[tuple[Any, ...]]:
        try:
            with connection.transaction():
                connection.execute(SETTINGS, {"milliseconds": str(max(1, round(timeout * 1000)))})
                # never prepared: a plan for any parameters would not use an index of failures only
                return connection.execute(statement.encode(), params, prepare=False).fetchall()
        except psycopg.errors.QueryCanceled as exc:
            raise self._too_slow(timeout) from exc


def _is_counted(record: TaskRecord, doubled: Mapping[str, TaskRecord]) -> bool:
    """Return whether a row counts, given the records that count of tasks with two rows."""
    counted = doubled.get(record.task_id, record)
    return (counted.state, counted.done_at) == (record.state, record.done_at)
