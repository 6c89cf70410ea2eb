"""Records in PostgreSQL: one prepared statement for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

from psycopg.rows import dict_row

from rootcellar.records import ChordRecord, PartResult, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.postgres import binary, counting, driver
from rootcellar.stores.postgres.archiving import PostgresArchiving
from rootcellar.stores.postgres.batching import Batch, Statements
from rootcellar.stores.postgres.copying import PostgresCopying
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.group_commit import GroupCommit
from rootcellar.stores.postgres.mirroring import MirroringStatements
from rootcellar.stores.postgres.moving import Moving
from rootcellar.stores.postgres.notify import ListeningWatcher
from rootcellar.stores.postgres.older_rows import OlderRows
from rootcellar.stores.postgres.options import read_options
from rootcellar.stores.postgres.pgbouncer import PoolerPolicy
from rootcellar.stores.postgres.pipeline import (
    Statement,
    row_of,
    rows_of,
    run,
)
from rootcellar.stores.postgres.route import Route
from rootcellar.stores.postgres.schema import PostgresSchema, older_names, table_names
from rootcellar.stores.postgres.streaming import PostgresStreaming
from rootcellar.stores.postgres.texts import moving_texts, store_statements
from rootcellar.stores.postgres.upkeep import PostgresUpkeep
from rootcellar.stores.replaced import when_replaced
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.statements import in_parameterized, load_statements, measured_tables
from rootcellar.stores.watching import Watcher
from rootcellar.support.forking import PerProcess

A = TypeVar("A")
T = TypeVar("T")

_PACKAGE = "rootcellar.stores.postgres"
#: statements for which the server may need long before it answers
_LONG = {
    *("query_tasks", "scan_tasks", "delete_tasks", "delete_adopted_tasks"),
    *("delete_expired_groups", "delete_expired_chords", "living_parts"),
    *("delete_expired_adopted_tasks", "delete_expired_adopted_groups"),
}
#: how often a call is repeated because another one has changed or locked the same rows
_MOST_CONFLICTS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: the states of a connection that is ready for the next statement
_IDLE, _NO_PIPELINE = int(psycopg.pq.TransactionStatus.IDLE), int(psycopg.pq.PipelineStatus.OFF)


class PostgresStore(PostgresArchiving, PostgresCopying, PostgresStreaming):
    """The store for ``rootcellar+postgresql://user:password@host:port/database``."""

    MANY = 5_000

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        own = read_options(options)
        self._settings = driver.connection_settings(url, own.connect_args)
        super().__init__(url, options, where=driver.describe(self._settings), statements=store_statements(options))
        self._route = self._listen_route = Route(self._settings)
        if own.listen_url:
            self._listen_route = Route(driver.connection_settings(own.listen_url, own.connect_args))
        self._pooler_policy = PoolerPolicy(own.prepared_statements, self._where)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            lambda: self._pooler_policy.configure(self._route.connect()),
            close=Connection.close,
            alive=_is_alive,
            usable=_is_usable,
            size=self.options.pool_size,
            timeout=self.options.pool_timeout,
            recycle=self.options.pool_recycle,
            ping=self.options.pool_pre_ping,
            where=self._where,
        )
        self.schema = PostgresSchema(self.options, self._with_connection, self._where)
        self._older_table = Moving(
            self.options,
            self._with_connection,
            self.schema,
            self._where,
            moving_texts(self.options),
            self._task_record,
        )
        self._older = OlderRows(self._sql, self._older_table.state)
        self._counts = counting.PostgresCounts(self.options)
        self._counts.has_older = lambda: self._older.is_known
        self._get = Statement("get_task", self._sql["get_task"])
        self._get_many = Statement("get_tasks", self._sql["get_tasks"])
        self._put = Statement("put_task", self._sql["put_task"])
        self._put_sent = Statement("put_sent", self._sql["put_sent"])
        self._put_and_part = Statement("put_task_and_part", self._sql["put_task_and_part"])
        self._count_part = Statement("count_part", self._sql["count_part"])
        assert self._put_and_part.parameters == (*rows.TASK_COLUMNS, *self._count_part.parameters)
        self._writer = GroupCommit(
            self._pool,
            Statement("notify", self._sql["notify"]),
            Statement("notify_for_one", self._sql["notify_for_one"]),
            Statement("guard", self._sql["guard"]),
            Statement("guard_for_one", self._sql["guard_for_one"]),
        )
        self._mirroring = MirroringStatements.of(self._sql)
        self._in_order = Statement("in_order", self._sql["in_order"])
        self._batching = Statements(self._sql, table_names(self.options)["task"])
        self._watchers = PerProcess(self._new_watcher)
        self._upkeep = PostgresUpkeep(
            self._run,
            lambda: self._pooler_policy.configure(self._listen_route.connect()),
            self._sql,
            _measured(self.options),
            self._where,
        )
        when_replaced(self._drop_replaced)

    def ability(self, protocol: type[A]) -> A | None:
        for own in (self._older_table, self._upkeep):
            if isinstance(own, protocol):
                return own
        return super().ability(protocol)

    # -- tasks

    def get(self, task_id: str) -> TaskRecord | None:
        if not rows.findable([task_id]):
            return None
        values = self._values(self._get, {"task_id": task_id})

        def work(connection: Connection) -> TaskRecord | None:
            if self._older.is_known:
                return self._older.get(connection, task_id)
            found = run(connection, self._get, values)
            if found.ntuples:
                return binary.task_record(row_of(found))
            return self._older.get(connection, task_id) if self._older.is_known_after_look(connection) else None

        record = self._run(work)
        if record is None and self._adopted:
            return self._adopted_tasks([task_id]).get(task_id)
        return record

    def _read_own_table(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        found: dict[str, TaskRecord] = {}
        for some in framing.chunks(ids, self.MANY):
            found.update(self._run(partial(self._read_some, ids=some)))
        return found

    def _read_some(self, connection: Connection, ids: Sequence[str]) -> dict[str, TaskRecord]:
        if self._older.is_known:
            return self._older.get_many(connection, ids)
        values = self._values(self._get_many, {"task_ids": ids})
        found: dict[str, TaskRecord] = {}
        for row in rows_of(run(connection, self._get_many, values)):
            record = binary.task_record(row)
            found[record.task_id] = record
        if len(found) < len(ids) and self._older.is_known_after_look(connection):
            return self._older.get_many(connection, ids)
        return found

    #: see :class:`~rootcellar.stores.journal.TakesBatches`
    checked_id, findable = staticmethod(rows.checked_id), staticmethod(rows.findable)

    @contextmanager
    def exclusive_batch(self) -> Iterator[Batch | None]:
        """See :class:`~rootcellar.stores.journal.TakesBatches`."""
        self._ensure_schema()
        try:
            with self._pool.connection() as connection:
                try:
                    self._older.is_known_after_look(connection)
                    batch = Batch(connection, self._batching, self._where, self._delete_on, self._older)
                    is_alone = batch.begin()
                    yield batch if is_alone else None
                    batch.commit()
                except BaseException:
                    # this ends the session and its transaction
                    connection.close()
                    raise
        except psycopg.Error as exc:
            self._pooler_policy.learn_from(exc)
            self._pool.drop_idle()
            if exc.sqlstate in driver.STALE:
                self._is_schema_known = False
            raise driver.translate(exc, self._where) from exc

    def _delete_on(self, connection: Connection, ids: Sequence[str]) -> int:
        return self._delete_own_on(connection, ids) + self._delete_adopted_on(connection, ids)

    def _placed(self, connection: Connection, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._rows_of(connection, "place_hold", params)

    def _delete_tasks(self, ids: Sequence[str]) -> int:
        return self._run(partial(self._delete_own_on, ids=ids))

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""

        def work(connection: Connection) -> bool:
            if self._count_of(connection, "replace_task", params) == 1:
                return True
            if not self._older.is_known_after_look(connection):
                return False
            days = self._older.days_of(connection, [old.task_id]).get(old.task_id)
            if not days:
                return False
            text = self._older.text_of_days("replace_older", days)
            return connection.execute(text.encode(), params, prepare=False).rowcount == 1

        params = rows.replace_params(old, new)
        return self._run(work)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self._count("begin_chord", rows.chord_row(chord))

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self._count("grow_chord" if relative else "size_chord", {"group_id": group_id, "size": size, "key": key})

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self._count("claim_chord", {"group_id": group_id, "claimant": claimant, "lease": lease}) == 1

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        parts = super().chord_parts(group_id)
        without = [part.task_id for part in parts if part.result is None]
        if not without or not self._run(self._older.is_known_after_look):
            return parts
        moved = self._read_own_table(self._findable(without))
        return [
            replace(part, result=moved[part.task_id].result) if part.result is None and part.task_id in moved else part
            for part in parts
        ]

    def finish_chord(self, group_id: str) -> None:
        self._count("finish_chord", {"group_id": group_id})

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return [row[0] for row in self._all("orphaned_chords", {"limit": limit, "owner": owner})]

    # -- time and end

    def close(self) -> None:
        if (watcher := self._watchers.take()) is not None:
            watcher.close()
        super().close()

    # -- talking to the server

    def _connect_to_listen(self) -> Connection:
        # a client may wait before the tables exist, and the last connection may have failed because one was dropped
        self._is_schema_known = self._is_schema_known and not self._older.is_known
        self._ensure_schema()
        return self._pooler_policy.configure(self._listen_route.connect())

    def _drop_replaced(self, server: str) -> None:
        """Close the idle connections, because a server was replaced."""
        if "," in str(self._settings.get("host", "")):
            self._pool.drop_idle()

    def watcher(self) -> Watcher:
        """Return the one watcher of this process."""
        return self._watchers.get()

    def _new_watcher(self) -> ListeningWatcher:
        return ListeningWatcher(self._connect_to_listen, self.get_many, self._sql, self._older.is_known_after_look)

    def _load_schema(self, connection: Connection) -> None:
        super()._load_schema(connection)
        self._older.look(connection)

    def _rows_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._execute(connection, statement, params).fetchall()

    def _rows_of_text(self, connection: Connection, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        # never prepared: the text differs from call to call
        return connection.execute(text.encode(), params, prepare=False).fetchall()

    def _dicts_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return connection.cursor(row_factory=dict_row).execute(self._sql[statement], params).fetchall()

    def _count_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> int:
        return self._execute(connection, statement, params).rowcount

    def _execute(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        with connection.without_timeout() if statement in _LONG else nullcontext():
            return connection.execute(self._sql[statement], params, prepare=True)

    def _with_connection(self, work: Callable[[Connection], T]) -> T:
        is_last, conflicts = False, 0
        while True:
            with self._pool.connection(fresh=is_last) as connection:
                try:
                    return work(connection)
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as exc:
                    # another call has moved a row to another partition, or two calls waited for each other; what this
                    # one did was rolled back
                    if (conflicts := conflicts + 1) > _MOST_CONFLICTS:
                        raise driver.translate(exc, self._where) from exc
                except psycopg.Error as exc:
                    self._pooler_policy.learn_from(exc)
                    is_stale = exc.sqlstate in driver.STALE
                    if is_stale:
                        self._is_schema_known = False
                    if is_stale or exc.sqlstate in driver.ENDED:
                        connection.close()
                    if exc.sqlstate == driver.READ_ONLY or isinstance(exc, driver.Silent):
                        # the other sessions lead to the same server
                        connection.close()
                        self._pool.drop_idle()
                        raise driver.translate(exc, self._where) from exc
                    if is_last or not (is_stale or connection.closed):
                        raise driver.translate(exc, self._where) from exc
                    is_last = True
                except UnicodeEncodeError as exc:
                    raise self._refused(exc) from exc

    def _transaction(self, connection: Connection) -> AbstractContextManager[object]:
        return connection.transaction()

    def _adopted_statements(self, tables: Mapping[str, str]) -> dict[str, str]:
        return load_statements(_PACKAGE, "adopted.sql", in_parameterized(tables))

    def _table_names(self) -> Mapping[str, str]:
        return table_names(self.options)

    def _measure_params(self) -> dict[str, Any]:
        names = {"task": table_names(self.options)["task"], "older": older_names(self.options)["older"]}
        return {"tables": _measured(self.options), **names}

    def _ids(self, ids: Sequence[str]) -> list[str]:
        return list(ids)

    def _date(self, moment: datetime) -> datetime:
        return moment

    def _celery_date(self, moment: datetime) -> datetime:
        # Celery's columns have no time zone
        return moment.astimezone(timezone.utc).replace(tzinfo=None)

    def _read_date(self, value: datetime) -> datetime:
        return value.astimezone(timezone.utc)

    def _task_record(self, row: Sequence[Any]) -> TaskRecord:
        return rows.task_record(row, _moment)


def _measured(options: StoreOptions) -> list[str]:
    """Return the quoted names of the tables that keep results, with those of the older table, which may not exist."""
    older = older_names(options)
    return [*measured_tables(table_names(options)), older["older"], older["moved"]]


def _is_alive(connection: Connection) -> bool:
    try:
        connection.execute("")
    except psycopg.Error:
        return False
    return True


def _is_usable(connection: Connection) -> bool:
    # a lost connection is not idle either; after an interruption, a connection may still be in a pipeline
    pgconn = connection.pgconn
    is_idle = pgconn.transaction_status == _IDLE and pgconn.pipeline_status == _NO_PIPELINE
    return is_idle and not connection.is_outdated


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
