"""PostgreSQL as the source or the target of a migration: see :class:`~rootcellar.stores.mirroring.Mirrored`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import NamedTuple

from psycopg.pq.abc import PGresult

from rootcellar.records import TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.mirroring import (
    NOTHING_KNOWN,
    Burial,
    Held,
    fingerprint,
    is_buried,
    joined_fingerprints,
    latest_end,
    split_fingerprints,
)
from rootcellar.stores.postgres import binary
from rootcellar.stores.postgres.arrays import BYTEA, TEXT, TIMESTAMPTZ, array
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.group_commit import Write, roll_back
from rootcellar.stores.postgres.guarding import groups_of
from rootcellar.stores.postgres.older_rows import preferred
from rootcellar.stores.postgres.pipeline import (
    BEGIN_GUARDED,
    COMMIT,
    Pipeline,
    Statement,
    Values,
    read_bool,
    received,
    rows_of,
    run,
    run_once,
)
from rootcellar.stores.postgres.storing import PostgresStoring
from rootcellar.stores.sql.celery_tables import task_record as old_task_record

#: the most tasks that are buried in one transaction: each of its locks may make a writer wait
_BURIED_AT_ONCE = 500
#: the most burials that one statement forgets
_FORGOTTEN_AT_ONCE = 10_000
_BINARY = 1
_CAN_ROLL_BACK = (psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR)
_NO_PIPELINE = psycopg.pq.PipelineStatus.OFF


class MirroringStatements(NamedTuple):
    """The prepared statements of this module."""

    mirror: Statement
    mirror_unless_moved: Statement
    settle: Statement
    settle_unless_moved: Statement
    guard: Statement
    guard_alone: Statement
    end_if_idle: Statement
    lock: Statement
    take: Statement
    store_burials: Statement
    burials_of: Statement
    copy: Statement
    copy_newer: Statement
    notify: Statement

    @classmethod
    def of(cls, sql: Mapping[str, str]) -> MirroringStatements:
        """Make them of the store's statements by name."""
        names = (
            *("mirror_task", "mirror_task_unless_moved", "settle_task", "settle_task_unless_moved", "guard"),
            *("guard_alone", "end_if_idle", "lock_mirrored_tasks", "take_tasks", "store_burials", "burials_of"),
            *("copy_tasks", "copy_newer_tasks", "notify"),
        )
        return cls(*(Statement(name, sql[name]) for name in names))


class _Kept(NamedTuple):
    """A burial as it is stored: its fingerprints are one text of bytes, in the order in which they were added."""

    buried_at: datetime
    done_at: datetime | None
    fingerprints: bytes


class PostgresMirroring(PostgresStoring):
    """The part of the store that mirrors, settles and buries. A subclass creates the attributes."""

    _mirroring: MirroringStatements

    # -- records of the other store

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        statements = self._mirroring
        return self._bring(record, statements.mirror, statements.mirror_unless_moved, self._move_back)

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        statements = self._mirroring
        return self._bring(record, statements.settle, statements.settle_unless_moved, self._move_back_all)

    def _bring(
        self,
        record: TaskRecord,
        plain: Statement,
        unless_moved: Statement,
        move_back: Callable[[Connection, str], bool],
    ) -> Held:
        """Store a record of the other store.

        Args:
            record: the record.
            plain: stores it.
            unless_moved: stores it unless its task was moved to the older table.
            move_back: moves the task back if its record may be overwritten; returns whether it did.
        """
        values = [*binary.task_values(record), fingerprint(record)]
        forms = [*binary.TASK_FORMS, _BINARY]
        sort_key = (record.group_id or "", record.task_id)
        is_ready = record.done_at is not None
        if self._older.is_to_be_looked_for and self._older.is_old(record):
            self._run(self._older.is_known_after_look)

        def new_write(statement: Statement) -> Write:
            return Write(
                record.task_id,
                statement,
                (values, forms),
                sort_key,
                is_durable=True,
                is_ready=is_ready,
                is_guarded=True,
            )

        write = self._write(lambda: new_write(unless_moved if self._older.may_have_moved(record) else plain))
        if write.statement is not plain and self._is_moved(write):
            write = new_write(plain)
            self._bring_back(write, move_back)
        return Held(record) if write.count else self._held(record)

    def _is_moved(self, write: Write) -> bool:
        """Return whether the task of a record was moved before it was stored, or perhaps at the same moment."""
        if write.count and not read_bool(write.answer[0]):
            # it has replaced a live row
            return False
        return bool(self._run(partial(self._older.days_of, ids=[write.task_id])))

    def _bring_back(self, write: Write, move_back: Callable[[Connection, str], bool]) -> None:
        """Move a task back and store its record, in one transaction, unless it was not moved or must stay moved."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", prepare=False)
                run(connection, self._mirroring.guard, self._groups(self._mirroring.guard, [write.task_id]))
                if not move_back(connection, write.task_id):
                    return
                answer = run_once(connection, write.statement, write.values)
            write.record_answer(answer)
            self._writer.notify(connection, [write])

        self._run(work)

    def _move_back(self, connection: Connection, task_id: str) -> bool:
        return bool(self._older.days_of(connection, [task_id])) and not self._older.stay(connection, [task_id])

    def _move_back_all(self, connection: Connection, task_id: str) -> bool:
        if not self._older.days_of(connection, [task_id]):
            return False
        self._older.take_back_all(connection, [task_id])
        return True

    def _held(self, record: TaskRecord) -> Held:
        """Return what the store holds of a task whose passed record was not written."""
        burial = self.burials_of([record.task_id]).get(record.task_id)
        return Held(self.get(record.task_id), buried=is_buried(record, burial))

    # -- burials

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Some hundred tasks are one transaction."""
        deleted: dict[str, TaskRecord] = {}
        for some in framing.chunks(sorted(self._findable(task_ids)), _BURIED_AT_ONCE):
            deleted.update(self._run(partial(self._bury, ids=some, known=known)))
        return deleted

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Some hundred tasks are one transaction."""
        wanted = {record.task_id: fingerprint(record) for record in records}
        count = 0
        for some in framing.chunks(sorted(self._findable(wanted)), _BURIED_AT_ONCE):
            count += self._run(partial(self._bury_same, wanted={task_id: wanted[task_id] for task_id in some}))
        return count

    def _bury(
        self, connection: Connection, ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]]
    ) -> dict[str, TaskRecord]:
        with undone(connection):
            pipeline = self._begin_burying(connection, ids)
            pipeline.send(self._mirroring.take, self._mirroring.take.values({"task_ids": ids}))
            *_, kept, taken = received(pipeline)
            deleted = {record.task_id: [record] for record in map(binary.task_record, rows_of(taken))}
            self._take_elsewhere(connection, ids, deleted)
            buried = {task_id: [*known.get(task_id, ()), *deleted.get(task_id, ())] for task_id in ids}
            self._commit_burials(Pipeline(connection), read_burials(kept), buried)
        return {task_id: records[-1] for task_id, records in deleted.items()}

    def _bury_same(self, connection: Connection, wanted: Mapping[str, bytes]) -> int:
        ids = list(wanted)
        with undone(connection):
            *_, kept = received(self._begin_burying(connection, ids))
            if self._older.is_known_after_look(connection):
                # where they are locked and compared as the others
                self._older.take_back_all(connection, ids)
            found = self._locked(connection, ids)
            missing = [task_id for task_id in ids if task_id not in found]
            found.update(self._adopted_on(connection, missing))
            same = {task_id: [one] for task_id, one in found.items() if fingerprint(one) == wanted[task_id]}
            if same:
                self._delete_adopted_on(connection, list(same))
            pipeline = Pipeline(connection)
            pipeline.send(self._mirroring.take, self._mirroring.take.values({"task_ids": list(same)}))
            self._commit_burials(pipeline, read_burials(kept), same)
        return len(same)

    def _locked(self, connection: Connection, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Lock and read the rows of tasks in the live table."""
        locked = run(connection, self._mirroring.lock, self._mirroring.lock.values({"task_ids": ids}))
        return {record.task_id: record for record in map(binary.task_record, rows_of(locked))}

    def _begin_burying(self, connection: Connection, ids: Sequence[str]) -> Pipeline:
        """Begin a transaction that buries tasks; the last result of the pipeline so far has their earlier burials."""
        statements = self._mirroring
        pipeline = Pipeline(connection)
        pipeline.send(BEGIN_GUARDED)
        pipeline.send(statements.end_if_idle)
        pipeline.send(statements.guard_alone, self._groups(statements.guard_alone, ids))
        pipeline.send(statements.burials_of, statements.burials_of.values({"task_ids": ids}))
        return pipeline

    def _take_elsewhere(self, connection: Connection, ids: Sequence[str], deleted: dict[str, list[TaskRecord]]) -> None:
        """Delete tasks from the older table and from the table that Celery created.

        Args:
            connection: a connection, in a transaction.
            ids: the tasks.
            deleted: the records that were deleted by now, by id; the one that counted is the last of each task.
        """
        if self._older.is_known_after_look(connection):
            take_live = partial(self._rows_of, connection, "delete_tasks", {"task_ids": list(ids)})
            for older in self._older.take(connection, ids, take_live):
                records = deleted.setdefault(older.task_id, [])
                counts = preferred(records[-1] if records else None, older) is older
                records.insert(len(records) if counts else 0, older)
        for task_id, old in self._adopted_on(connection, ids).items():
            # a row in our own table counts
            deleted.setdefault(task_id, []).insert(0, old)
        self._delete_adopted_on(connection, ids)

    def _adopted_on(self, connection: Connection, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Return the records of tasks in the table that Celery created."""
        if not (ids and self._adopted and self._adopted.task_table):
            return {}
        rows = self._dicts_of(connection, "get_adopted_tasks", {"task_ids": list(ids)})
        return {row["task_id"]: old_task_record(row, self._adopted.keep) for row in rows}

    def _commit_burials(
        self, pipeline: Pipeline, earlier: Mapping[str, _Kept], buried: Mapping[str, Sequence[TaskRecord]]
    ) -> None:
        """Store the burials of tasks, and commit.

        Args:
            pipeline: what is sent before.
            earlier: the burials of these tasks.
            buried: the records that they name, by id.
        """
        if buried:
            ends: list[bytes | None] = []
            joined: list[bytes | None] = []
            for task_id, records in buried.items():
                before = earlier.get(task_id)
                end = latest_end(records, before.done_at if before else None)
                ends.append(None if end is None else binary.encode_date(end))
                joined.append(joined_fingerprints(before.fingerprints if before else b"", records))
            ids: list[bytes | None] = [task_id.encode() for task_id in buried]
            arrays: list[bytes | None] = [array(ids, TEXT), array(ends, TIMESTAMPTZ), array(joined, BYTEA)]
            pipeline.send(self._mirroring.store_burials, (arrays, [_BINARY] * len(arrays)))
        pipeline.send(COMMIT)
        received(pipeline)

    def _groups(self, statement: Statement, ids: Iterable[str]) -> Values:
        return statement.values({"groups": groups_of(ids)})

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. They are in the order of their ids."""
        statement = Statement("burials", self._sql["burials"])
        values = self._values(statement, {"after": after or "", "limit": limit})
        read = read_burials(self._run(partial(run, statement=statement, values=values)))
        found = [burial_of(task_id, kept) for task_id, kept in read.items()]
        return found, found[-1].task_id if len(found) == limit else None

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        statement = self._mirroring.burials_of
        found: dict[str, Burial] = {}
        for some in framing.chunks(self._findable(task_ids), self.MANY):
            values = self._values(statement, {"task_ids": some})
            read = read_burials(self._run(partial(run, statement=statement, values=values)))
            found.update({task_id: burial_of(task_id, kept) for task_id, kept in read.items()})
        return found

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        count = 0
        while True:
            forgotten = self._count("forget_burials", {"before": before, "limit": _FORGOTTEN_AT_ONCE})
            count += forgotten
            if forgotten < _FORGOTTEN_AT_ONCE:
                return count


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """Undo the transaction of a ``with`` block if the block raises an error."""
    try:
        yield
    except psycopg.Error:
        if connection.pgconn.transaction_status in _CAN_ROLL_BACK and connection.pgconn.pipeline_status == _NO_PIPELINE:
            roll_back(connection)
        elif connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
        raise
    except BaseException:
        # this ends the session and its transaction
        connection.close()
        raise


def read_burials(result: PGresult) -> dict[str, _Kept]:
    """Return the burials of a result, by id, in its order."""
    found: dict[str, _Kept] = {}
    for task_id, buried_at, done_at, fingerprints in rows_of(result):
        assert task_id is not None
        assert buried_at is not None
        end = None if done_at is None else binary.read_date(done_at)
        found[task_id.decode()] = _Kept(binary.read_date(buried_at), end, fingerprints or b"")
    return found


def burial_of(task_id: str, kept: _Kept) -> Burial:
    """Return a burial that was read."""
    named = frozenset(split_fingerprints(kept.fingerprints))
    return Burial(task_id=task_id, buried_at=kept.buried_at, done_at=kept.done_at, fingerprints=named)
