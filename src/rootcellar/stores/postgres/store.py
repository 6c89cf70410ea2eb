"""Records in PostgreSQL: one prepared statement for each verb."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

from psycopg.rows import dict_row

from rootcellar.errors import RecordRefused
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores import celery_tables, rows
from rootcellar.stores.base import DELETE_BATCH, Store, StoreOptions, TaskQuery
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.postgres import binary, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.listening import ListeningWatcher
from rootcellar.stores.postgres.pipeline import Statement, Values, read_bool, read_int, row_of, rows_of, run
from rootcellar.stores.postgres.pooling import Pooling
from rootcellar.stores.postgres.schema import PostgresSchema, table_names
from rootcellar.stores.postgres.writing import Write, Writer
from rootcellar.stores.sqlfiles import fill_in, in_parameterized, load_statements
from rootcellar.stores.watching import Watcher

T = TypeVar("T")

_MANY = 5_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class PostgresStore(Store):
    """The store for ``rootcellar+postgresql://user:password@host:port/database``."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        self._settings = driver.connection_settings(url, self.options.connect_args)
        self._where = driver.describe(self._settings)
        self._listen_settings = driver.connection_settings(self.options.listen_url or url, self.options.connect_args)
        self._pooling = Pooling(self.options.prepared_statements, self._where)
        self._watcher_lock = threading.Lock()
        self._sql = _statements(self.options)
        self._is_schema_known = False
        self._adopted: celery_tables.Adopted | None = None
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            lambda: self._pooling.look_at(driver.connect(self._settings, self._where)),
            close=Connection.close,
            alive=_is_alive,
            usable=_is_usable,
            size=self.options.pool_size,
            timeout=self.options.pool_timeout,
            recycle=self.options.pool_recycle,
            ping=self.options.pool_pre_ping,
            where=self._where,
        )
        self.schema = PostgresSchema(self.options, self._raw, self._where)
        self._get = Statement("get_task", self._sql["get_task"])
        self._get_many = Statement("get_tasks", self._sql["get_tasks"])
        self._put = Statement("put_task", self._sql["put_task"])
        self._put_and_part = Statement("put_task_and_part", self._sql["put_task_and_part"])
        self._count_part = Statement("count_part", self._sql["count_part"])
        assert self._put_and_part.parameters == (*rows.TASK_COLUMNS, *self._count_part.parameters)
        self._writer = Writer(
            self._pool, Statement("ring", self._sql["ring"]), Statement("ring_for_one", self._sql["ring_for_one"])
        )
        self._watcher: ListeningWatcher | None = None

    @property
    def where(self) -> str:
        return self._where

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        values, forms = binary.task_values(record), binary.TASK_FORMS
        order = (record.group_id or "", record.task_id)
        statement = self._put
        if part is not None:
            statement = self._put_and_part
            order = (part.group_id, record.task_id)
            more, more_forms = self._values(self._count_part, _part_row(part, lease))
            values, forms = [*values, *more], [*forms, *more_forms]
        is_ready = record.done_at is not None
        write = self._write(
            lambda: Write(record.task_id, statement, (values, forms), order, is_durable=durable, is_ready=is_ready)
        )
        if part is None:
            is_first = bool(write.answer) and read_bool(write.answer[0])
            return Stored(written=write.count == 1, is_first=is_first)
        return Stored(written=read_bool(write.answer[-1]), chord=_progress(write.answer))

    def tell_first(self) -> None:
        """See :class:`~rootcellar.stores.base.TellsFirst`."""
        self._put = Statement("put_task_and_tell", self._sql["put_task_and_tell"])

    def get(self, task_id: str) -> TaskRecord | None:
        if not rows.findable([task_id]):
            return None
        values = self._values(self._get, {"task_id": task_id})

        found = self._run(partial(run, statement=self._get, values=values))
        record = binary.task_record(row_of(found)) if found.ntuples else None
        if record is None and self._adopted:
            return self._adopted_tasks([task_id]).get(task_id)
        return record

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = rows.findable(task_ids)
        found: dict[str, TaskRecord] = {}
        for some in rows.chunks(ids, _MANY):
            values = self._values(self._get_many, {"task_ids": some})
            for row in rows_of(self._run(partial(run, statement=self._get_many, values=values))):
                record = binary.task_record(row)
                found[record.task_id] = record
        if self._adopted and len(found) < len(ids):
            found.update(self._adopted_tasks([task_id for task_id in ids if task_id not in found]))
        return found

    def delete(self, task_ids: Iterable[str]) -> int:
        ids = rows.findable(task_ids)
        count = 0
        for some in rows.chunks(ids, _MANY):
            count += self._count("delete_tasks", {"task_ids": list(some)})
        if self._adopted and self._adopted.task_table:
            count += self._count("delete_adopted_tasks", {"task_ids": ids})
        return count

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        found = self._all("scan_tasks", {"after": after or "", "limit": limit})
        return [_task_record(row) for row in found]

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        self._count("put_group", rows.group_row(group))

    def get_group(self, group_id: str) -> GroupRecord | None:
        if not rows.findable([group_id]):
            return None
        found = self._all("get_group", {"group_id": group_id})
        if found:
            return rows.group_record(found[0], _utc)
        if self._adopted and self._adopted.group_table:
            old = self._dicts("get_adopted_group", {"group_id": group_id})
            return celery_tables.group_record(old[0], self._adopted.keep) if old else None
        return None

    def delete_group(self, group_id: str) -> None:
        self._count("delete_group", {"group_id": group_id})

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self._count("begin_chord", rows.chord_row(chord))

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self._count("grow_chord" if relative else "size_chord", {"group_id": group_id, "size": size, "key": key})

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        values = self._values(self._count_part, _part_row(part, lease))
        order = (part.group_id, "")
        write = self._write(lambda: Write("", self._count_part, values, order, is_durable=True, is_ready=False))
        return _progress(write.answer)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self._count("claim_chord", {"group_id": group_id, "claimant": claimant, "lease": lease}) == 1

    def get_chord(self, group_id: str) -> ChordRecord | None:
        found = self._all("get_chord", {"group_id": group_id})
        return rows.chord_record(found[0], _utc) if found else None

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return [rows.part_result(row) for row in self._all("chord_parts", {"group_id": group_id})]

    def finish_chord(self, group_id: str) -> None:
        self._count("finish_chord", {"group_id": group_id})

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return [row[0] for row in self._all("orphaned_chords", {"limit": limit, "owner": owner})]

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params = {"now": now, "limit": limit}
        count = self._count("delete_expired_tasks", params) + self._count("delete_expired_groups", params)
        self._count("delete_expired_chords", params)
        if self._adopted and self._adopted.keep is not None:
            params["done_before"] = (now - self._adopted.keep).astimezone(timezone.utc).replace(tzinfo=None)
            for table, statement in (
                (self._adopted.task_table, "delete_expired_adopted_tasks"),
                (self._adopted.group_table, "delete_expired_adopted_groups"),
            ):
                count += self._count(statement, params) if table else 0
        return count

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        params = {
            "states": list(query.states) or None,
            "names": [rows.like_pattern(name) for name in query.names] or None,
            "since": query.since,
            "until": query.until,
            "limit": query.limit,
        }
        return [_task_record(row) for row in self._all("query_tasks", params)]

    def check(self) -> None:
        self._is_schema_known = False
        self._run(lambda connection: None)

    def close(self) -> None:
        if self._watcher is not None and self._watcher.is_of_this_process():
            self._watcher.close()
        self._watcher = None
        self._pool.drop_idle()

    # -- talking to the server

    def _write(self, new_write: Callable[[], Write]) -> Write:
        """Store a record, twice if the connection turns out to be lost or stale: storing twice is harmless."""
        if not self._is_schema_known:
            self._run(lambda connection: None)
        for is_last in (False, True):
            try:
                self._writer.write(write := new_write())
                return write
            except UnicodeEncodeError as exc:
                raise self._refused(exc) from exc
            except psycopg.Error as exc:
                self._pooling.learn_from(exc)
                is_stale = exc.sqlstate in driver.STALE
                if exc.sqlstate == driver.READ_ONLY:
                    # the session stays so, also when the database may be written to again
                    self._pool.drop_idle()
                if is_last or not (is_stale or isinstance(exc, psycopg.OperationalError)):
                    raise driver.translate(exc, self._where) from exc
                self._pool.drop_idle()
                if is_stale:
                    self.check()
        raise AssertionError("unreachable")

    def _connect_to_listen(self) -> Connection:
        if not self._is_schema_known:
            # who waits may come before anybody has made the tables
            self._run(lambda connection: None)
        where = driver.describe(self._listen_settings)
        return self._pooling.look_at(driver.connect(self._listen_settings, where))

    def _values(self, statement: Statement, row: dict[str, Any]) -> Values:
        try:
            return statement.values(row)
        except UnicodeEncodeError as exc:
            raise self._refused(exc) from exc

    def _refused(self, exc: UnicodeEncodeError) -> RecordRefused:
        return RecordRefused(
            f"a text that no server stores: {exc.reason} at {exc.object[exc.start : exc.end]!a}",
            where=self._where,
            remedy="see where the task's id comes from",
        )

    def watcher(self) -> Watcher:
        """Return the one watcher of this process."""
        with self._watcher_lock:
            if self._watcher is None or not self._watcher.is_of_this_process():
                self._watcher = ListeningWatcher(
                    self._connect_to_listen,
                    self.get_many,
                    self._sql,
                )
            return self._watcher

    def _all(self, statement: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self._run(lambda c: c.execute(self._sql[statement], params, prepare=True).fetchall())

    def _count(self, statement: str, params: dict[str, Any]) -> int:
        return self._run(lambda c: c.execute(self._sql[statement], params, prepare=True).rowcount)

    def _dicts(self, statement: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        return self._run(lambda c: c.cursor(row_factory=dict_row).execute(self._sql[statement], params).fetchall())

    def _run(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` on a connection whose schema is known; every statement of ours may be done twice."""

        def checked(connection: Connection) -> T:
            if not self._is_schema_known:
                self._learn_schema(connection)
            return work(connection)

        return self._raw(checked)

    def _raw(self, work: Callable[[Connection], T]) -> T:
        for is_last in (False, True):
            with self._pool.connection(fresh=is_last) as connection:
                try:
                    return work(connection)
                except psycopg.Error as exc:
                    self._pooling.learn_from(exc)
                    is_stale = exc.sqlstate in driver.STALE
                    if is_stale:
                        self._is_schema_known = False
                        connection.close()
                    if is_last or not (is_stale or connection.closed):
                        if exc.sqlstate == "25006":
                            connection.close()
                        raise driver.translate(exc, self._where) from exc
        raise AssertionError("unreachable")

    def _learn_schema(self, connection: Connection) -> None:
        self._adopted = self.schema.ensure(connection)
        if self._adopted:
            self._sql.update(_adopted_statements(self.options, self._adopted))
        self._is_schema_known = True

    def _adopted_tasks(self, task_ids: list[str]) -> dict[str, TaskRecord]:
        assert self._adopted is not None
        if not self._adopted.task_table:
            return {}
        found: dict[str, TaskRecord] = {}
        for some in rows.chunks(task_ids, _MANY):
            for row in self._dicts("get_adopted_tasks", {"task_ids": list(some)}):
                found[row["task_id"]] = celery_tables.task_record(row, self._adopted.keep)
        return found


def _is_alive(connection: Connection) -> bool:
    try:
        connection.execute("")
    except psycopg.Error:
        return False
    return True


def _is_usable(connection: Connection) -> bool:
    # a lost connection is in no such state either
    return connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


def _statements(options: StoreOptions) -> dict[str, str]:
    select = ", ".join(_selected(column) for column in rows.TASK_COLUMNS)
    names = {
        **in_parameterized(table_names(options)),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "task_values": rows.named(rows.TASK_COLUMNS, "%({})s"),
        "task_update": rows.update_assignments(),
        "task_overwritable": rows.overwritable(),
        "task_select": select,
    }
    found = load_statements("rootcellar.stores.postgres", "queries.sql", names)
    found.update(load_statements("rootcellar.stores.postgres", "waiting.sql", names))
    found["count_arrived"] = fill_in(found["count_arrived"], {"claimable": found["claimable"]})
    for statement in ("put_task_and_part", "count_part"):
        found[statement] = fill_in(found[statement], {"count_arrived": found["count_arrived"]})
    return found


def _selected(column: str) -> str:
    """Say how a column is read: JSON as the text that was stored, a date as microseconds since 1970."""
    if column in rows.PAYLOAD_COLUMNS:
        return f"{column}::text"
    if column in rows.DATE_COLUMNS:
        return f"(extract(epoch FROM {column}) * 1000000)::bigint"
    return column


def _adopted_statements(options: StoreOptions, adopted: celery_tables.Adopted) -> dict[str, str]:
    names = table_names(options)
    tables = {"old_task": adopted.task_table or names["task"], "old_group": adopted.group_table or names["group"]}
    return load_statements("rootcellar.stores.postgres", "adopted.sql", in_parameterized(tables))


def _part_row(part: ChordPart, lease: float) -> dict[str, Any]:
    return {**rows.part_row(part), "claimant": rows.claimant(part), "lease": lease}


def _progress(answer: tuple[bytes | None, ...]) -> ChordProgress:
    """Read the row that counting a part returns."""
    size, counted, claimed, finished, _ = answer
    return ChordProgress(
        size=read_int(size), counted=read_int(counted) or 0, claimed=read_bool(claimed), finished=read_bool(finished)
    )


def _task_record(row: Sequence[Any]) -> TaskRecord:
    return rows.task_record(row, _moment)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)
