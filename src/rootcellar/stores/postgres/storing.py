"""Stores tasks and counts parts of chords, with the other threads that do so at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rootcellar.records import ChordPart, ChordProgress, Stored, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.postgres import binary, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.expiring import PostgresExpiring
from rootcellar.stores.postgres.group_commit import GroupCommit, Write
from rootcellar.stores.postgres.pgbouncer import PoolerPolicy
from rootcellar.stores.postgres.pipeline import (
    Pipeline,
    Statement,
    Values,
    read_bool,
    read_int,
    run_once,
)
from rootcellar.stores.sql import rows

#: the most records of one call of put_sent that are sent together
_SENT_IN_ONE_TRIP = 500


class PostgresStoring(PostgresExpiring):
    """The part of the store that stores. A subclass creates the attributes, and has the other methods."""

    _pooler_policy: PoolerPolicy
    _writer: GroupCommit
    _put: Statement
    _put_sent: Statement
    _put_and_part: Statement
    _count_part: Statement

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        values, forms = binary.task_values(record), binary.TASK_FORMS
        sort_key = (record.group_id or "", record.task_id)
        plain = self._put
        if part is not None:
            plain = self._put_and_part
            sort_key = (part.group_id, record.task_id)
            more, more_forms = self._values(self._count_part, _part_row(part, record, lease))
            values, forms = [*values, *more], [*forms, *more_forms]
        if self._older.is_to_be_looked_for and self._older.is_old(record):
            self._run(self._older.is_known_after_look)
        is_ready = record.done_at is not None

        def new_write(statement: Statement) -> Write:
            return Write(record.task_id, statement, (values, forms), sort_key, is_durable=durable, is_ready=is_ready)

        write = self._write(lambda: new_write(self._statement_for(record, part, plain)))
        is_plain = write.statement is plain
        if not is_plain and not _is_written(write, part):
            self._put_moved(again := new_write(plain))
            write = write if again.error is not None else again
        return _stored(write, part, says_inserted=is_plain)

    def _statement_for(self, record: TaskRecord, part: ChordPart | None, plain: Statement) -> Statement:
        """Return the statement that stores a record: another one if its task may have been moved."""
        if not self._older.may_have_moved(record):
            return plain
        return self._older.put if part is None else self._older.put_and_part

    def _put_moved(self, write: Write) -> None:
        """Move a task back and store its record, in one transaction, unless it was not moved or has a SUCCESS."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                ids = [write.task_id]
                if not self._older.days_of(connection, ids) or self._older.stay(connection, ids):
                    return
                answer = run_once(connection, write.statement, write.values)
            write.record_answer(answer)
            self._writer.notify(connection, [write])

        self._run(work)

    def report_inserts(self) -> None:
        """See :class:`~rootcellar.stores.base.ReportsInserts`."""
        self._put = Statement("put_task_and_report", self._sql["put_task_and_report"])

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        # sorted, because all transactions lock rows in this order
        in_order = sorted(records, key=lambda record: (record.group_id or "", record.task_id))
        for start in range(0, len(in_order), _SENT_IN_ONE_TRIP):
            self._run(partial(self._insert, in_order[start : start + _SENT_IN_ONE_TRIP]))

    def _insert(self, records: Sequence[TaskRecord], connection: Connection) -> None:
        """Store records of tasks that have none, in one transaction and one round trip."""
        values = [(binary.task_values(record), binary.TASK_FORMS) for record in records]
        statement = self._older.put_sent if self._older.is_known_after_look(connection) else self._put_sent
        # the statements of a pipeline are one transaction
        pipeline = Pipeline(connection)
        for one in values:
            pipeline.send(statement, one)
        failure, _ = pipeline.receive()
        if failure is not None:
            raise failure

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        values = self._values(self._count_part, _part_row(part, None, lease))
        sort_key = (part.group_id, "")
        write = self._write(lambda: Write("", self._count_part, values, sort_key, is_durable=True, is_ready=False))
        return _progress(write.answer)

    def _write(self, new_write: Callable[[], Write]) -> Write:
        """Store a record. If the connection was lost or outdated, store it again: storing it twice is harmless."""
        self._ensure_schema()
        for is_last in (False, True):
            try:
                self._writer.write(write := new_write())
                return write
            except UnicodeEncodeError as exc:
                raise self._refused(exc) from exc
            except psycopg.Error as exc:
                self._pooler_policy.learn_from(exc)
                is_stale = exc.sqlstate in driver.STALE
                if exc.sqlstate == driver.READ_ONLY:
                    # the session stays read-only, also when the database accepts writes again
                    self._pool.drop_idle()
                if is_last or not (is_stale or isinstance(exc, psycopg.OperationalError)):
                    raise driver.translate(exc, self._where) from exc
                self._pool.drop_idle()
                if is_stale:
                    self.check()
        raise AssertionError("unreachable")

    def _values(self, statement: Statement, row: dict[str, Any]) -> Values:
        try:
            return statement.values(row)
        except UnicodeEncodeError as exc:
            raise self._refused(exc) from exc


def _is_written(write: Write, part: ChordPart | None) -> bool:
    return write.count == 1 if part is None else read_bool(write.answer[-1])


def _stored(write: Write, part: ChordPart | None, *, says_inserted: bool) -> Stored:
    """Return what became of a record.

    Args:
        write: the answer of the server.
        part: the part that was counted.
        says_inserted: whether the answer may say that this was the first record of its task.
    """
    if part is not None:
        return Stored(written=_is_written(write, part), chord=_progress(write.answer))
    inserted = says_inserted and bool(write.answer) and read_bool(write.answer[0])
    return Stored(written=_is_written(write, part), inserted=inserted)


def _part_row(part: ChordPart, record: TaskRecord | None, lease: float) -> dict[str, Any]:
    return {**rows.part_row(part, record), "claimant": framing.claimant(part), "lease": lease}


def _progress(answer: tuple[bytes | None, ...]) -> ChordProgress:
    """Read the row that counting a part returns."""
    size, counted, claimed, finished, _ = answer
    return ChordProgress(
        size=read_int(size), counted=read_int(counted) or 0, claimed=read_bool(claimed), finished=read_bool(finished)
    )
