"""Copies many records of another store into PostgreSQL, in one statement for some thousand of them.

Each column is one array, and the statement stores the rows of these arrays. So it needs no temporary table, and the
right to create one, and works through a pooler.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial

from rootcellar.errors import RecordRefused
from rootcellar.records import TaskRecord
from rootcellar.stores.mirroring import CopyReport, is_buried_copy, may_be_copied
from rootcellar.stores.postgres import binary
from rootcellar.stores.postgres.arrays import BYTEA, JSON, TEXT, TIMESTAMPTZ, array
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.postgres.mirroring import PostgresMirroring, burial_of, read_burials, undone
from rootcellar.stores.postgres.pipeline import BEGIN_GUARDED, COMMIT, Pipeline, Values, received, rows_of
from rootcellar.stores.postgres.texts import type_of
from rootcellar.stores.sql import rows
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the most records, and about the most bytes, in one transaction: who forgets a result may wait for its end
_COPIED_AT_ONCE, _MOST_BYTES = 2_000, 16 * 1024 * 1024
_ELEMENTS = {"text": TEXT, "json": JSON, "bytea": BYTEA, "timestamptz": TIMESTAMPTZ}
#: the type of each column's array
_TYPES = [_ELEMENTS[type_of(column)] for column in rows.TASK_COLUMNS]
_FORMS = [1] * len(_TYPES)

#: a record, and its columns
_Encoded = tuple[TaskRecord, "list[bytes | None]"]


class PostgresCopying(PostgresMirroring):
    """The part of the store that copies."""

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`.

        Each 2,000 records are one transaction, and notify waiting clients together.
        """
        copied = _Report()
        # sorted, because all transactions lock rows in this order
        ordered = sorted({record.task_id: record for record in records}.values(), key=_sort_key)
        for start in range(0, len(ordered), _COPIED_AT_ONCE):
            some = ordered[start : start + _COPIED_AT_ONCE]
            encoded: list[_Encoded] = []
            size = 0
            for record in some:
                try:
                    values = binary.task_values(record)
                except (RecordRefused, UnicodeEncodeError) as exc:
                    copied.refused[record.task_id] = str(exc)
                    continue
                if encoded and size > _MOST_BYTES:
                    self._copy_all(encoded, copied, newer_wins=newer_wins)
                    encoded, size = [], 0
                encoded.append((record, values))
                size += sum([len(value) for value in values if value is not None])
            if encoded:
                self._copy_all(encoded, copied, newer_wins=newer_wins)
        return copied.finished()

    def _copy_all(self, encoded: Sequence[_Encoded], copied: _Report, *, newer_wins: bool) -> None:
        """Copy records. If the server refuses one, find out which, and copy the others."""
        parts = deque([encoded])
        while parts:
            part = parts.popleft()
            try:
                self._run(partial(self._copy, encoded=part, copied=copied, newer_wins=newer_wins))
            except RecordRefused as exc:
                if len(part) == 1:
                    copied.refused[part[0][0].task_id] = str(exc)
                    continue
                half = len(part) // 2
                parts.extendleft([part[half:], part[:half]])

    def _copy(self, connection: Connection, encoded: Sequence[_Encoded], copied: _Report, *, newer_wins: bool) -> None:
        """Copy records in one transaction."""
        statements = self._mirroring
        ids = [record.task_id for record, _ in encoded]
        with undone(connection):
            pipeline = Pipeline(connection)
            pipeline.send(BEGIN_GUARDED)
            pipeline.send(statements.end_if_idle)
            pipeline.send(statements.guard, self._groups(statements.guard, ids))
            pipeline.send(statements.burials_of, statements.burials_of.values({"task_ids": ids}))
            *_, found = received(pipeline)
            burials = {task_id: burial_of(task_id, kept) for task_id, kept in read_burials(found).items()}
            buried = {record.task_id for record, _ in encoded if is_buried_copy(record, burials.get(record.task_id))}
            stay = self._stay(connection, [record for record, _ in encoded], newer_wins=newer_wins)
            allowed = [each for each in encoded if each[0].task_id not in buried and each[0].task_id not in stay]
            pipeline = Pipeline(connection)
            if allowed:
                pipeline.send(statements.copy_newer if newer_wins else statements.copy, _columns(allowed))
            pipeline.send(COMMIT)
            if allowed:
                pipeline.send(statements.notify, statements.notify.values(_to_notify(allowed)))
            failure, results = pipeline.receive()
            if failure is not None and len(results) < 1 + bool(allowed):
                raise failure
            if failure is not None:
                logger.warning("Waiting clients could not be notified: %s", failure)
        written = {(task_id or b"").decode() for (task_id,) in rows_of(results[0])} if allowed else set()
        copied.add(set(ids), written, buried)

    def _stay(self, connection: Connection, records: Sequence[TaskRecord], *, newer_wins: bool) -> set[str]:
        """Return the ids of records that are not copied because of a row of the older table or of Celery's own table.

        The tasks of others that were moved are moved back.
        """
        ids = [record.task_id for record in records]
        moved = self._older.days_of(connection, ids) if self._older.is_known_after_look(connection) else {}
        stored = self._older.get_many(connection, list(moved)) if moved else {}
        if self._adopted and self._adopted.task_table:
            own = self._locked(connection, ids)
            stored.update(self._adopted_on(connection, [task_id for task_id in ids if task_id not in own]))
        if not stored:
            return set()
        stay = {
            record.task_id
            for record in records
            if not may_be_copied(record, stored.get(record.task_id), newer_wins=newer_wins)
        }
        if back := [task_id for task_id in moved if task_id not in stay]:
            self._older.take_back_all(connection, back)
        return stay


class _Report:
    """A :class:`CopyReport` that is not finished."""

    def __init__(self) -> None:
        self._written: set[str] = set()
        self._kept: set[str] = set()
        self._buried: set[str] = set()
        self.refused: dict[str, str] = {}

    def add(self, ids: set[str], written: set[str], buried: set[str]) -> None:
        """Add a transaction that has ended."""
        self._written |= written
        self._buried |= buried
        self._kept |= ids - written - buried

    def finished(self) -> CopyReport:
        """Return the report."""
        return CopyReport(
            written=frozenset(self._written),
            kept=frozenset(self._kept),
            buried=frozenset(self._buried),
            refused=self.refused,
        )


def _columns(encoded: Sequence[_Encoded]) -> Values:
    """Return the arrays of records, one for each column."""
    columns = zip(*[values for _, values in encoded], strict=True)
    return [array(column, element) for column, element in zip(columns, _TYPES, strict=True)], _FORMS


def _to_notify(encoded: Sequence[_Encoded]) -> dict[str, list[str]]:
    return {
        "task_ids": [record.task_id for record, _ in encoded],
        "ready_ids": [record.task_id for record, _ in encoded if record.done_at is not None],
    }


def _sort_key(record: TaskRecord) -> tuple[str, str]:
    return record.group_id or "", record.task_id
