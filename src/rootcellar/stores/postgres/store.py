"""Records in PostgreSQL: one prepared statement for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from psycopg.rows import dict_row

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, PartResult, Stored, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import StoreOptions, TaskQuery
from rootcellar.stores.expiring import NewExpiry
from rootcellar.stores.fields import EARLIEST, LATEST
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.postgres import binary, counting, driver, older
from rootcellar.stores.postgres.batching import Batch, Statements
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.expiring import DELETIONS, PostgresExpiring
from rootcellar.stores.postgres.group_commit import GroupCommit, Write
from rootcellar.stores.postgres.moving import Moving
from rootcellar.stores.postgres.notify import ListeningWatcher
from rootcellar.stores.postgres.older_rows import OlderRows, day_of, preferred
from rootcellar.stores.postgres.options import read_options
from rootcellar.stores.postgres.pgbouncer import PoolerPolicy
from rootcellar.stores.postgres.pipeline import (
    Pipeline,
    Statement,
    Values,
    read_bool,
    read_int,
    row_of,
    rows_of,
    run,
    run_once,
)
from rootcellar.stores.postgres.route import Route
from rootcellar.stores.postgres.schema import PostgresSchema, older_names, table_names
from rootcellar.stores.postgres.search import SETTINGS, PostgresRenderer
from rootcellar.stores.postgres.upkeep import PostgresUpkeep
from rootcellar.stores.replaced import when_replaced
from rootcellar.stores.search import Found, Search, SearchTooSlow, Segment
from rootcellar.stores.sql import fragments, rows
from rootcellar.stores.sql.archiving import FILE_COLUMNS, Entry
from rootcellar.stores.sql.retention_tables import HOLD_COLUMNS
from rootcellar.stores.sql.search import Renderer
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements, measured_tables
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
#: how often a call is repeated because another one has moved a row to another partition
_MOST_CONFLICTS = 3
#: the most records of one call of put_sent that are sent together
_SENT_IN_ONE_TRIP = 500
#: the value of ``changed``: at least the number of the transaction. 64 transactions have one value, because each new
#: value of a page is a write to the index.
_MARKER = "txid_current() | 63"
#: its new value in an upsert: only a row that is or was finished gets one, so that the progress of a running task
#: changes no indexed column
_CHANGED = f"CASE WHEN t.date_done IS NULL THEN coalesce(excluded.changed, t.changed) ELSE {_MARKER} END"
#: the hours in which a row was done before: one that is stored again leaves the hour in which it was counted
_WAS_DONE = (
    "CASE WHEN t.date_done IS NULL OR date_trunc('hour', t.date_done, 'UTC') = ANY(t.was_done) THEN t.was_done "
    "ELSE t.was_done || date_trunc('hour', t.date_done, 'UTC') END"
)
#: the columns of a deleted row that are counted
_COUNTED_COLUMNS = (
    *("task_id", "status", "name", "queue", "retries", "failure_group"),
    *("date_sent", "date_started", "date_done", "was_done"),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: the states of a connection that is ready for the next statement
_IDLE, _NO_PIPELINE = int(psycopg.pq.TransactionStatus.IDLE), int(psycopg.pq.PipelineStatus.OFF)


class PostgresStore(PostgresExpiring):
    """The store for ``rootcellar+postgresql://user:password@host:port/database``."""

    MANY = 5_000

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        own = read_options(options)
        self._settings = driver.connection_settings(url, own.connect_args)
        super().__init__(url, options, where=driver.describe(self._settings), statements=_statements(options))
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
            _moving_texts(self.options),
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
        )
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

    def _delete_own_on(self, connection: Connection, ids: Sequence[str]) -> int:
        def delete_live() -> int:
            ((count,),) = self._rows_of(connection, "delete_tasks", {"task_ids": list(ids)})
            return int(count)

        count = delete_live()
        if self._older.is_known_after_look(connection):
            count += self._older.delete(connection, ids, delete_live)
        return count

    def _placed(self, connection: Connection, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._rows_of(connection, "place_hold", params)

    def _delete_tasks(self, ids: Sequence[str]) -> int:
        return self._run(partial(self._delete_own_on, ids=ids))

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

    # -- the archive: see rootcellar.stores.sql.archiving

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

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self._count("begin_chord", rows.chord_row(chord))

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self._count("grow_chord" if relative else "size_chord", {"group_id": group_id, "size": size, "key": key})

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        values = self._values(self._count_part, _part_row(part, None, lease))
        sort_key = (part.group_id, "")
        write = self._write(lambda: Write("", self._count_part, values, sort_key, is_durable=True, is_ready=False))
        return _progress(write.answer)

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
        renderer = PostgresRenderer(search, self._searched_table(search), _selected)
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

    def close(self) -> None:
        if (watcher := self._watchers.take()) is not None:
            watcher.close()
        super().close()

    # -- talking to the server

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

    def _connect_to_listen(self) -> Connection:
        # a client may wait before the tables exist, and the last connection may have failed because one was dropped
        self._is_schema_known = self._is_schema_known and not self._older.is_known
        self._ensure_schema()
        return self._pooler_policy.configure(self._listen_route.connect())

    def _drop_replaced(self, server: str) -> None:
        """Close the idle connections, because a server was replaced."""
        if "," in str(self._settings.get("host", "")):
            self._pool.drop_idle()

    def _values(self, statement: Statement, row: dict[str, Any]) -> Values:
        try:
            return statement.values(row)
        except UnicodeEncodeError as exc:
            raise self._refused(exc) from exc

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
                except psycopg.errors.SerializationFailure as exc:
                    # another call has moved a row to another partition; what this one did was rolled back
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
        return {"tables": _measured(self.options)}

    def _set_expiries_on(self, connection: Connection, changes: Sequence[NewExpiry]) -> int:
        # one statement for all: a round trip for each row would take most of the time
        return self._count_of(connection, "set_expiries", self._expiries_params(changes))

    def _expiries_params(self, changes: Sequence[NewExpiry]) -> dict[str, Any]:
        each = [self._expiry_params(change) for change in changes]
        return {
            "task_ids": [one["task_id"] for one in each],
            "old_statuses": [one["old_status"] for one in each],
            "old_dates_done": [one["old_date_done"] for one in each],
            "old_expiries": [one["old_expires_at"] for one in each],
            "expiries": [one["expires_at"] for one in each],
        }

    def set_expiries(self, changes: Sequence[NewExpiry]) -> int:
        count = super().set_expiries(changes)
        if count == len(changes) or not self.has_older():
            return count
        ordered = sorted(changes, key=_task_id_of)
        for start in range(0, len(ordered), self.MANY):
            count += self._set_older_expiries(ordered[start : start + self.MANY])
        return count

    def _set_older_expiries(self, changes: Sequence[NewExpiry]) -> int:
        ids = [change.record.task_id for change in changes]
        if not self._run(partial(self._older.days_of, ids=ids)):
            return 0
        # with a connection of its own, so this call has none meanwhile: the pool may have one only
        self._older_table.ensure_partitions({day_of(change.expires_at) for change in changes})
        params = self._expiries_params(changes)
        return self._run(partial(self._older.set_expiries, ids=ids, params=params))

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


def _statements(options: StoreOptions) -> dict[str, str]:
    select = ", ".join(_selected(column) for column in rows.TASK_COLUMNS)
    names = {
        **in_parameterized(table_names(options)),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "hold_columns": ", ".join(HOLD_COLUMNS),
        # a waiter of this kind gets only the id
        "sent_columns": ", ".join(f"CASE WHEN w.kind <> 1 THEN {column} END" for column in rows.TASK_COLUMNS),
        "task_values": fragments.named(rows.TASK_COLUMNS, "%({})s"),
        "task_update": f"{fragments.update_assignments()}, changed = {_CHANGED}, was_done = {_WAS_DONE}",
        "task_marker": f"CASE WHEN %(date_done)s::timestamptz IS NOT NULL THEN {_MARKER} END",
        "counted_columns": ", ".join(_COUNTED_COLUMNS),
        "task_overwritable": fragments.overwritable(),
        "task_select": select,
        "file_columns": ", ".join(FILE_COLUMNS),
        "task_replacement": fragments.replacement(_cast),
        "task_still_the_same": fragments.still_the_same("IS NOT DISTINCT FROM", _cast, "{}::text"),
    }
    found = load_statements(_PACKAGE, "queries.sql", names)
    found.update(load_statements(_PACKAGE, "waiting.sql", names))
    for more in ("upkeep.sql", "archive.sql"):
        found.update(load_statements(_PACKAGE, more, names))
    statistics = counting.statements(options)
    found["note_back"] = fill_in(statistics["note_back"], {"deleted": found["restored_tasks"]})
    for statement in ("delete_tasks", *DELETIONS):
        found[statement] = fill_in(found[statement], {name: statistics[name] for name in ("note_gone", "mark_earlier")})
    found["count_arrived"] = fill_in(found["count_arrived"], {"claimable": found["claimable"]})
    of_older = older.statements(options, {**names, "marker": _MARKER})
    found.update({name: text for name, text in of_older.items() if name not in found})
    for statement in ("put_task_and_part", "count_part", "put_task_unless_moved_and_part"):
        found[statement] = fill_in(found[statement], {"count_arrived": found["count_arrived"]})
    # the same question to both tables
    all_rows = {"task": found["all_rows"], "task_select": select}
    found["query_all"] = load_statements(_PACKAGE, "queries.sql", all_rows)["query_tasks"]
    return found


def _is_counted(record: TaskRecord, doubled: Mapping[str, TaskRecord]) -> bool:
    """Return whether a row counts, given the records that count of tasks with two rows."""
    counted = doubled.get(record.task_id, record)
    return (counted.state, counted.done_at) == (record.state, record.done_at)


def _task_id_of(change: NewExpiry) -> str:
    return change.record.task_id


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


def _moving_texts(options: StoreOptions) -> dict[str, str]:
    """Return what the statements that move rows have in common with others."""
    statistics = counting.statements(options)
    return {
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "task_select": ", ".join(_selected(column) for column in rows.TASK_COLUMNS),
        "counted_columns": ", ".join(_COUNTED_COLUMNS),
        "all_columns": ", ".join(
            f"{column} = excluded.{column}" for column in rows.TASK_COLUMNS if column != "task_id"
        ),
        "marker": _MARKER,
        "was_done": _WAS_DONE,
        "note_gone": statistics["note_gone"],
        "mark_earlier": statistics["mark_earlier"],
    }


def _selected(column: str) -> str:
    """Return the SQL that reads a column: JSON as the stored text, a date as microseconds since 1970."""
    if column in rows.PAYLOAD_COLUMNS:
        return f"{column}::text"
    if column in rows.DATE_COLUMNS:
        # the server can store dates that Python cannot: -infinity, infinity, and other centuries
        held = f"greatest(least({column}, '{LATEST}'::timestamptz), '{EARLIEST}'::timestamptz)"
        return f"CASE WHEN {column} IS NOT NULL THEN (extract(epoch FROM {held}) * 1000000)::bigint END"
    return column


def _cast(name: str, column: str) -> str:
    """Return the SQL of a parameter for a column of values, with its type."""
    if column in rows.PAYLOAD_COLUMNS:
        return f"%({name})s::json"
    if column.endswith("_is_exact"):
        return f"%({name})s::integer"
    return f"%({name})s::{'bytea' if column.endswith('_exact') else 'text'}"


def _part_row(part: ChordPart, record: TaskRecord | None, lease: float) -> dict[str, Any]:
    return {**rows.part_row(part, record), "claimant": framing.claimant(part), "lease": lease}


def _progress(answer: tuple[bytes | None, ...]) -> ChordProgress:
    """Read the row that counting a part returns."""
    size, counted, claimed, finished, _ = answer
    return ChordProgress(
        size=read_int(size), counted=read_int(counted) or 0, claimed=read_bool(claimed), finished=read_bool(finished)
    )


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
