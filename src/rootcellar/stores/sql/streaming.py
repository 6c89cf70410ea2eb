"""Walks over all rows: the ability :class:`~rootcellar.stores.streaming.Streamed` of SQL stores.

A walk returns the rows of rootcellar's own table in the order of their ids, and then those of the table that Celery
created, if there is one. A cursor says in which of them it is, and what it returned last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.celery_tables import group_record as old_group_record
from rootcellar.stores.sql.celery_tables import task_record as old_task_record
from rootcellar.stores.sql.store import SqlStore

C = TypeVar("C")

#: the most groups that one transaction copies
_AT_ONCE = 500
#: the beginnings of cursors: in rootcellar's own table, and in the one that Celery created
OWN, _ADOPTED = "own:", "adopted:"


class StreamingStore(SqlStore[C], Generic[C]):
    """A SQL store with the ability :class:`~rootcellar.stores.streaming.Streamed`."""

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. They are in the order of their ids."""
        if cursor is not None and cursor.startswith(_ADOPTED):
            return self._stream_adopted(cursor.removeprefix(_ADOPTED), limit)
        found = self.scan((cursor or OWN).removeprefix(OWN), limit)
        if len(found) == limit:
            return found, OWN + found[-1].task_id
        return found, self._after_own()

    def _after_own(self) -> str | None:
        """Return the cursor after the last record of rootcellar's own table."""
        return f"{_ADOPTED}0" if self._adopted and self._adopted.task_table else None

    def _stream_adopted(self, after: str, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        """Return the next records of the table that Celery created, as :meth:`get_many` returns them."""
        self._ensure_schema()
        assert self._adopted is not None
        page = self._dicts("walk_adopted_tasks", {"after": int(after), "limit": limit})
        records = {row["task_id"]: old_task_record(row, self._adopted.keep) for row in page}
        # if a task was stored again since then, its row in our own table counts
        own = self._read_own_table(self._findable(records))
        found = list({**records, **own}.values())
        return found, f"{_ADOPTED}{page[-1]['id']}" if len(page) == limit else None

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. They are in the order of their ids."""
        if cursor is not None and cursor.startswith(_ADOPTED):
            return self._stream_adopted_groups(cursor.removeprefix(_ADOPTED), limit)
        params = {"after": (cursor or OWN).removeprefix(OWN), "limit": limit}
        found = [rows.group_record(row, self._read_date) for row in self._all("walk_groups", params)]
        if len(found) == limit:
            return found, OWN + found[-1].group_id
        return found, f"{_ADOPTED}0" if self._adopted and self._adopted.group_table else None

    def _stream_adopted_groups(self, after: str, limit: int) -> tuple[Sequence[GroupRecord], str | None]:
        self._ensure_schema()
        assert self._adopted is not None
        page = self._dicts("walk_adopted_groups", {"after": int(after), "limit": limit})
        found = []
        for row in page:
            own = self._all("get_group", {"group_id": row["taskset_id"]})
            old = old_group_record(row, self._adopted.keep)
            found.append(rows.group_record(own[0], self._read_date) if own else old)
        return found, f"{_ADOPTED}{page[-1]['id']}" if len(page) == limit else None

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`. Each 500 groups are one transaction."""
        self._check_ids(*(group.group_id for group in groups))
        statement = "copy_newer_group" if newer_wins else "copy_group"
        # sorted, because all transactions lock rows in this order
        params = [rows.group_row(group, self._date) for group in sorted(groups, key=lambda group: group.group_id)]
        return sum(
            self._in_transaction(partial(self._copy_groups_on, statement=statement, params=params[start:][:_AT_ONCE]))
            for start in range(0, len(params), _AT_ONCE)
        )

    def _copy_groups_on(self, connection: C, statement: str, params: Sequence[dict[str, Any]]) -> int:
        return sum(min(1, self._count_of(connection, statement, each)) for each in params)

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`. Few records are counted exactly."""
        ((count,),) = self._all("count_roughly", self._measure_params())
        if not (self._adopted and self._adopted.task_table):
            return int(count or 0)
        ((adopted,),) = self._all("count_adopted_roughly", {})
        return int(count or 0) + int(adopted or 0)

    def open_chords(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        ((is_open, _),) = self._all("open_chords", self._measure_params())
        return int(is_open)
