"""Batches from another store: each is one transaction, which holds a lock that only one process can have.

The lock belongs to the transaction. If a process loses its connection, or hangs until the server ends the transaction,
it loses the lock and everything that it wrote at the same moment. So no write can arrive later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rootcellar.errors import RecordRefused
from rootcellar.records import Stored, TaskRecord
from rootcellar.stores.postgres import binary, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.older_rows import OlderRows
from rootcellar.stores.postgres.pipeline import (
    BEGIN,
    COMMIT,
    Pipeline,
    Statement,
    Values,
    read_bool,
    received,
    row_of,
    rows_of,
    run,
)
from rootcellar.stores.sql import rows
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

_SAVE = Statement("save", "SAVEPOINT one_record")
_GO_BACK = Statement("go_back", "ROLLBACK TO SAVEPOINT one_record")


class Statements:
    """The statements of a batch.

    Args:
        sql: the store's statements by name.
        table: the quoted name of the task table.
    """

    def __init__(self, sql: Mapping[str, str], table: str) -> None:
        self.table = table
        self.begin = Statement("begin_batch", sql["begin_batch"])
        self.put = Statement("put_task_and_report", sql["put_task_and_report"])
        self.get_many = Statement("get_tasks", sql["get_tasks"])
        self.notify = Statement("notify", sql["notify"])


class Batch:
    """The records that are written in one transaction; see :class:`~rootcellar.stores.journal.Batch`.

    Args:
        connection: an idle connection.
        statements: the statements that are run on it.
        where: the server, for messages.
        delete: deletes tasks on a connection.
        older: the rows of the older table.
    """

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        where: str,
        delete: Callable[[Connection, Sequence[str]], object],
        older: OlderRows,
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._where = where
        self._delete = delete
        self._older = older
        self._put: list[TaskRecord] = []

    def begin(self) -> bool:
        """Begin the transaction; return whether it is exclusive."""
        pipeline = Pipeline(self._connection)
        pipeline.send(BEGIN)
        pipeline.send(self._statements.begin, self._statements.begin.values({"task": self._statements.table}))
        _, found = received(pipeline)
        return read_bool(row_of(found)[0])

    def put(self, records: Sequence[TaskRecord]) -> Sequence[Stored | RecordRefused]:
        """Store records; for each, return whether it was written and inserted, or why it was refused."""
        answers: dict[str, Stored | RecordRefused] = {}
        values: dict[str, Values] = {}
        statements: dict[str, Statement] = {}
        # sorted, because all transactions lock rows in this order
        for record in sorted(records, key=_task_id):
            try:
                values[record.task_id] = (binary.task_values(record), binary.TASK_FORMS)
            except (RecordRefused, UnicodeEncodeError) as exc:
                answers[record.task_id] = _refusal(exc)
            if self._older.may_have_moved(record):
                statements[record.task_id] = self._older.put
        stored = self._put_all(values, statements)
        kept = [task_id for task_id in statements if _is_kept(stored.get(task_id))]
        if kept:
            stored.update(self._put_moved(kept, values))
        answers.update(stored)
        self._put += [record for record in records if record.task_id in stored]
        return [answers[record.task_id] for record in records]

    def _put_moved(self, ids: Sequence[str], values: Mapping[str, Values]) -> dict[str, Stored | RecordRefused]:
        """Store the records of tasks that were moved, unless they have a SUCCESS; return what became of these."""
        moved = self._older.days_of(self._connection, ids)
        again = sorted(moved.keys() - self._older.stay(self._connection, sorted(moved)))
        if not again:
            return {}
        stored = self._put_all({task_id: values[task_id] for task_id in again}, {})
        return {
            task_id: replace(answer, inserted=False) if isinstance(answer, Stored) else answer
            for task_id, answer in stored.items()
        }

    def _put_all(
        self, values: Mapping[str, Values], statements: Mapping[str, Statement]
    ) -> dict[str, Stored | RecordRefused]:
        """Store all records, each with the statement that is given for its task, or else with the usual one."""
        return self._put_together(values, statements) or self._put_singly(values, statements)

    def _put_together(
        self, values: Mapping[str, Values], statements: Mapping[str, Statement]
    ) -> dict[str, Stored | RecordRefused]:
        """Store all records in one round trip. If one is refused, store none, and return an empty dict."""
        pipeline = Pipeline(self._connection)
        pipeline.send(_SAVE)
        for task_id, one in values.items():
            pipeline.send(statements.get(task_id, self._statements.put), one)
        failure, results = pipeline.receive()
        if failure is None:
            return {task_id: _stored(row) for task_id, row in zip(values, map(_first_row, results[1:]), strict=True)}
        if not isinstance(driver.translate(failure, self._where), RecordRefused):
            raise failure
        run(self._connection, _GO_BACK)
        return {}

    def _put_singly(
        self, values: Mapping[str, Values], statements: Mapping[str, Statement]
    ) -> dict[str, Stored | RecordRefused]:
        answers: dict[str, Stored | RecordRefused] = {}
        for task_id, one in values.items():
            pipeline = Pipeline(self._connection)
            pipeline.send(_SAVE)
            pipeline.send(statements.get(task_id, self._statements.put), one)
            failure, results = pipeline.receive()
            if failure is None:
                answers[task_id] = _stored(_first_row(results[1]))
                continue
            error = driver.translate(failure, self._where)
            if not isinstance(error, RecordRefused):
                raise failure
            run(self._connection, _GO_BACK)
            answers[task_id] = error
        return answers

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records that exist of these tasks, as this transaction leaves them."""
        if self._older.is_known:
            return self._older.get_many(self._connection, rows.findable(task_ids))
        values = self._statements.get_many.values({"task_ids": rows.findable(task_ids)})
        found = run(self._connection, self._statements.get_many, values)
        return {record.task_id: record for record in map(binary.task_record, rows_of(found))}

    def delete(self, task_ids: Iterable[str]) -> None:
        """Delete these tasks' records."""
        if ids := sorted(rows.findable(task_ids)):
            self._delete(self._connection, ids)

    def commit(self) -> None:
        """Commit, and notify the waiting clients."""
        pipeline = Pipeline(self._connection)
        pipeline.send(COMMIT)
        if self._put:
            ids = {
                "task_ids": [record.task_id for record in self._put],
                "ready_ids": [record.task_id for record in self._put if record.done_at is not None],
            }
            pipeline.send(self._statements.notify, self._statements.notify.values(ids))
        failure, results = pipeline.receive()
        if failure is not None and not results:
            raise failure
        if failure is not None:
            logger.warning("Waiting clients could not be notified: %s", failure)


def _first_row(result: psycopg.pq.abc.PGresult) -> tuple[bytes | None, ...]:
    return row_of(result) if result.ntuples else ()


def _stored(row: tuple[bytes | None, ...]) -> Stored:
    return Stored(written=bool(row), inserted=bool(row) and read_bool(row[0]))


def _is_kept(answer: Stored | RecordRefused | None) -> bool:
    """Return whether a record was not stored because of what is stored of its task."""
    return isinstance(answer, Stored) and not answer.written


def _refusal(exc: Exception) -> RecordRefused:
    return exc if isinstance(exc, RecordRefused) else RecordRefused(f"a text that no server stores: {exc}")


def _task_id(record: TaskRecord) -> str:
    return record.task_id
