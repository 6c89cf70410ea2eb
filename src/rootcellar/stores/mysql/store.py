"""Records in MySQL or MariaDB: one statement, or one short transaction, for each verb."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import pymysql

from rootcellar.errors import RecordRefused, RootcellarError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores import celery_tables, rows
from rootcellar.stores.base import DELETE_BATCH, Store, StoreOptions, TaskQuery
from rootcellar.stores.mysql import driver, failures
from rootcellar.stores.mysql.driver import Connection, in_list
from rootcellar.stores.mysql.schema import PACKAGE, MySQLSchema, table_names
from rootcellar.stores.mysql.url import connection_settings, describe
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.sqlfiles import fill_in, in_parameterized, load_statements

T = TypeVar("T")

#: ids in one statement
_MANY = 1_000
#: how often a verb is done again after a deadlock, and for how many seconds at most
_CONFLICT_TRIES = 8
_CONFLICT_PATIENCE = 15.0
#: for how many seconds after its beginning a verb is done again on a new connection
_RECONNECT_PATIENCE = 2.0
_DATE = "%Y-%m-%d %H:%M:%S.%f"


class MySQLStore(Store):
    """The store for ``rootcellar+mysql://user:password@host:port/database``, and for ``mariadb://``."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        self._settings = connection_settings(url, self.options.connect_args)
        self._where = describe(url, self._settings)
        self._sql = _statements(self.options)
        self._adopted: celery_tables.Adopted | None = None
        self._is_schema_known = False
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            lambda: driver.connect(self._settings, self._where),
            close=Connection.end,
            alive=Connection.is_alive,
            usable=Connection.is_usable,
            size=self.options.pool_size,
            timeout=self.options.pool_timeout,
            recycle=self.options.pool_recycle,
            ping=self.options.pool_pre_ping,
            where=self._where,
        )
        self.schema = MySQLSchema(self.options, self._raw, self._where)

    @property
    def where(self) -> str:
        return self._where

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        _check_ids(record.task_id)
        # a number that no other call has, by which the statement knows whether the row is this call's
        row = {**rows.task_row(record, _date_text), "put_id": secrets.randbits(63)}
        if part is None:
            return Stored(written=self._count("put_task", row) > 0)

        def both(connection: Connection) -> Stored:
            with connection.transaction():
                written = connection.execute(self._sql["put_task"], row) > 0
                return Stored(written=written, chord=self._count_part(connection, part, lease))

        return self._run(both)

    def get(self, task_id: str) -> TaskRecord | None:
        if not _findable([task_id]):
            return None
        found = self._all("get_task", {"task_id": task_id})
        if found:
            return _task_record(found[0])
        return self._adopted_tasks([task_id]).get(task_id) if self._adopted else None

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = _findable(task_ids)
        found: dict[str, TaskRecord] = {}
        for some in rows.chunks(ids, _MANY):
            for row in self._all("get_tasks", {"task_ids": in_list(some)}):
                record = _task_record(row)
                found[record.task_id] = record
        if self._adopted and len(found) < len(ids):
            found.update(self._adopted_tasks([task_id for task_id in ids if task_id not in found]))
        return found

    def delete(self, task_ids: Iterable[str]) -> int:
        ids = _findable(task_ids)
        count = 0
        for some in rows.chunks(sorted(ids), _MANY):
            params = {"task_ids": in_list(some)}
            count += self._count("delete_tasks", params)
            if self._adopted and self._adopted.task_table:
                count += self._count("delete_adopted_tasks", params)
        return count

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        return [_task_record(row) for row in self._all("scan_tasks", {"after": after or "", "limit": limit})]

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        _check_ids(group.group_id)
        self._count("put_group", rows.group_row(group, _date_text))

    def get_group(self, group_id: str) -> GroupRecord | None:
        if not _findable([group_id]):
            return None
        found = self._all("get_group", {"group_id": group_id})
        if found:
            return rows.group_record(found[0], _utc)
        if self._adopted and self._adopted.group_table:
            old = self._dicts("get_adopted_group", {"group_id": group_id})
            exact = [row for row in old if row["taskset_id"] == group_id]
            return celery_tables.group_record(exact[0], self._adopted.keep) if exact else None
        return None

    def delete_group(self, group_id: str) -> None:
        if _findable([group_id]):
            self._count("delete_group", {"group_id": group_id})

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        _check_ids(chord.group_id)
        self._both("drop_parts", "begin_chord", rows.chord_row(chord, _date_text))

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        _check_ids(group_id, key or "")
        params = {"group_id": group_id, "size": size, "key": key}

        def grow(connection: Connection) -> None:
            with connection.transaction():
                if key is None or connection.execute(self._sql["note_growth"], params):
                    connection.execute(self._sql["grow_chord"], params)

        if relative:
            self._run(grow)
        else:
            self._count("size_chord", params)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        def count(connection: Connection) -> ChordProgress:
            with connection.transaction():
                return self._count_part(connection, part, lease)

        return self._run(count)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self._run(lambda connection: self._claim(connection, group_id, claimant, lease))

    def get_chord(self, group_id: str) -> ChordRecord | None:
        found = self._all("get_chord", {"group_id": group_id})
        return rows.chord_record(found[0], _utc) if found else None

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return [rows.part_result(row) for row in self._all("chord_parts", {"group_id": group_id})]

    def finish_chord(self, group_id: str) -> None:
        self._both("drop_parts", "finish_chord", {"group_id": group_id})

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return [row[0] for row in self._all("orphaned_chords", {"limit": limit, "owner": owner})]

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        params: dict[str, Any] = {"now": _date_text(now), "limit": limit}
        count = self._delete_expired("expired_tasks", "delete_expired_tasks", params)
        count += self._delete_expired("expired_groups", "delete_expired_groups", params)
        self._delete_expired_chords({**params, "yesterday": _date_text(now - timedelta(days=1))})
        if self._adopted and self._adopted.keep is not None:
            params["done_before"] = _date_text(now - self._adopted.keep)
            for table, statement in (
                (self._adopted.task_table, "delete_expired_adopted_tasks"),
                (self._adopted.group_table, "delete_expired_adopted_groups"),
            ):
                count += self._count(statement, params) if table else 0
        return count

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        params: dict[str, Any] = {
            "since": _date_text(query.since) if query.since else None,
            "until": _date_text(query.until) if query.until else None,
            "states": query.states,
        }
        conditions = ["status IN %(states)s"] if query.states else []
        if query.names:
            params.update({f"name_{number}": rows.like_pattern(name) for number, name in enumerate(query.names)})
            conditions.append("(" + " OR ".join(f"name LIKE %(name_{n})s" for n in range(len(query.names))) + ")")
        matches = {"matches": " AND ".join(conditions) or "TRUE"}
        found: list[TaskRecord] = []
        # two queries, for an index gives the newest at once but not the unfinished ones before them
        for statement in ("query_unfinished", "query_finished"):
            text = fill_in(self._sql[statement], matches)
            found += map(_task_record, self._rows(text, {**params, "limit": query.limit - len(found)}))
        return found

    def check(self) -> None:
        self._is_schema_known = False
        self._run(lambda connection: None)

    def close(self) -> None:
        self._pool.drop_idle()

    # -- inside a transaction

    def _count_part(self, connection: Connection, part: ChordPart, lease: float) -> ChordProgress:
        """Count a part, and claim the chord where that completes it. Parts are locked before their chord, always."""
        _check_ids(part.group_id, part.task_id)
        params = rows.part_row(part, _date_text)
        params["arrived"] = min(1, connection.execute(self._sql["arrive"], params))
        connection.execute(self._sql["count_arrived"], params)
        ((size, counted, finished),) = connection.rows(self._sql["chord_progress"], params)
        if finished and params["arrived"]:
            connection.execute(self._sql["refuse_part"], params)
        is_complete = size is not None and counted >= size and not finished
        claimed = is_complete and self._claim(connection, part.group_id, rows.claimant(part), lease)
        return ChordProgress(size=size, counted=counted, claimed=claimed, finished=bool(finished))

    def _claim(self, connection: Connection, group_id: str, claimant: str, lease: float) -> bool:
        params = {"group_id": group_id, "claimant": claimant, "lease": round(lease * 1_000_000)}
        return connection.execute(self._sql["claim_chord"], params) == 1

    def _delete_expired(self, find: str, delete: str, params: dict[str, Any]) -> int:
        """Find what has expired without a lock, then delete it by its key, if it still has."""
        count = 0
        ids = sorted(row[0] for row in self._all(find, params))
        for some in rows.chunks(ids, _MANY):
            count += self._count(delete, {**params, "ids": in_list(some)})
        return count

    def _delete_expired_chords(self, params: dict[str, Any]) -> None:
        ids = sorted(row[0] for row in self._all("expired_chords", params))
        for some in rows.chunks(ids, _MANY):
            self._delete_chords({**params, "ids": in_list(some)})

    def _delete_chords(self, params: dict[str, Any]) -> None:
        def delete(connection: Connection) -> None:
            with connection.transaction():
                held = in_list([row[0] for row in connection.rows(self._sql["hold_expired_chords"], params)])
                if held:
                    connection.execute(self._sql["delete_parts"], {"ids": held})
                    connection.execute(self._sql["delete_chords"], {"ids": held})

        self._run(delete)

    # -- talking to the server

    def _both(self, first: str, second: str, params: dict[str, Any]) -> None:
        def work(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(self._sql[first], params)
                connection.execute(self._sql[second], params)

        self._run(work)

    def _all(self, statement: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self._rows(self._sql[statement], params)

    def _rows(self, text: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self._run(lambda connection: connection.rows(text, params))

    def _dicts(self, statement: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        return self._run(lambda connection: connection.dicts(self._sql[statement], params))

    def _count(self, statement: str, params: dict[str, Any]) -> int:
        text = self._sql[statement]
        return self._run(lambda connection: connection.execute(text, params))

    def _run(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` on a connection whose schema is known; every verb of ours may be done twice."""

        def checked(connection: Connection) -> T:
            if not self._is_schema_known:
                self._learn_schema(connection)
            return work(connection)

        return self._raw(checked)

    def _raw(self, work: Callable[[Connection], T]) -> T:
        """Do ``work``, again after a deadlock, and once more where the connection was lost or the tables are others."""
        again = _Again()
        while True:
            with self._pool.connection(fresh=again.with_new_connection) as connection:
                try:
                    return work(connection)
                except pymysql.Error as exc:
                    code = failures.code_of(exc)
                    self._note_failure(connection, code)
                    if not again.is_worth_it(code, is_lost=not connection.open):
                        raise failures.translate(exc, self._where) from exc
                except UnicodeEncodeError as exc:
                    what = f"a text that no server stores: {exc.reason} at {exc.object[exc.start : exc.end]!a}"
                    raise RecordRefused(what, where=self._where, remedy="see where it comes from") from exc
                except RootcellarError:
                    raise
                except BaseException:
                    # a time limit, say: the server's answer may be under way, and must not be taken for the next one's
                    connection.end()
                    raise
            again.pause()

    def _note_failure(self, connection: Connection, code: int) -> None:
        if code in failures.STALE:
            self._is_schema_known = False
        if code in failures.LOST or code in failures.READ_ONLY:
            connection.end()
        if code in failures.READ_ONLY:
            # other sessions of ours on that server would hear the same, also when another one takes writes
            self._pool.drop_idle()

    def _learn_schema(self, connection: Connection) -> None:
        self._adopted = self.schema.ensure(connection)
        if self._adopted:
            self._sql.update(_adopted_statements(self.options, self._adopted))
        self._is_schema_known = True

    def _adopted_tasks(self, task_ids: list[str]) -> dict[str, TaskRecord]:
        assert self._adopted is not None
        found: dict[str, TaskRecord] = {}
        if not self._adopted.task_table:
            return found
        wanted = set(task_ids)
        for some in rows.chunks(task_ids, _MANY):
            for row in self._dicts("get_adopted_tasks", {"task_ids": in_list(some)}):
                # Celery's column may take small letters for capital ones
                if row["task_id"] in wanted:
                    found[row["task_id"]] = celery_tables.task_record(row, self._adopted.keep)
        return found


class _Again:
    """Whether and when a verb is worth doing again; every verb may be done twice."""

    def __init__(self) -> None:
        self.with_new_connection = False
        self._began = time.monotonic()
        self._conflicts = 0
        self._has_reconnected = False

    def is_worth_it(self, code: int, *, is_lost: bool) -> bool:
        """Tell whether to try once more after the error of this code."""
        spent = time.monotonic() - self._began
        self.with_new_connection = False
        if code in failures.CONFLICTS:
            self._conflicts += 1
            return self._conflicts < _CONFLICT_TRIES and spent < _CONFLICT_PATIENCE
        if self._has_reconnected or not (code in failures.STALE or (is_lost and spent < _RECONNECT_PATIENCE)):
            return False
        self._has_reconnected = self.with_new_connection = True
        return True

    def pause(self) -> None:
        """Let the other one of two that were in each other's way go first."""
        if self._conflicts and not self.with_new_connection:
            time.sleep(random.uniform(0.0, 0.01) * self._conflicts)


def _statements(options: StoreOptions) -> dict[str, str]:
    names = {
        **in_parameterized(table_names(options)),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "task_values": rows.named(rows.TASK_COLUMNS, "%({})s"),
        "task_update": _update_assignments(),
        "task_overwritable": rows.overwritable(old="{}", new="VALUES({})"),
        "task_select": ", ".join(rows.TASK_COLUMNS),
    }
    return load_statements(PACKAGE, "queries.sql", names)


def _update_assignments() -> str:
    """Return what an upsert sets where the row is this call's: the state's columns always, others where given."""
    assignments = []
    for column in rows.TASK_COLUMNS[1:]:
        condition = "put_id = VALUES(put_id)"
        if column not in rows.STATE_COLUMNS:
            condition += f" AND VALUES({column.removesuffix('_exact')}) IS NOT NULL"
        assignments.append(f"{column} = IF({condition}, VALUES({column}), {column})")
    return ", ".join(assignments)


def _adopted_statements(options: StoreOptions, adopted: celery_tables.Adopted) -> dict[str, str]:
    names = table_names(options)
    tables = {"old_task": adopted.task_table or names["task"], "old_group": adopted.group_table or names["group"]}
    return load_statements(PACKAGE, "adopted.sql", in_parameterized(tables))


def _check_ids(*ids: str) -> None:
    """Refuse an id that the server would take for another one: to its texts, spaces at the end are nothing.

    Raises:
        RecordRefused: it ends in a space.
    """
    for text in ids:
        if text.endswith(" "):
            raise RecordRefused(f"an id that ends in a space: {text!a}", remedy="use a UUID, as Celery does")


def _findable(ids: Iterable[str]) -> list[str]:
    return [text for text in rows.findable(ids) if not text.endswith(" ")]


def _task_record(row: Sequence[Any]) -> TaskRecord:
    return rows.task_record(row, _utc)


def _date_text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime(_DATE)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc)
