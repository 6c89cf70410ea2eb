"""Records in MySQL or MariaDB: one statement, or one short transaction, for each call."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import Any, TypeVar

import pymysql

from rootcellar.errors import RecordRefused
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, Stored, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import StoreOptions, TaskQuery
from rootcellar.stores.fields import clamped
from rootcellar.stores.mysql import counting, driver, failures
from rootcellar.stores.mysql.driver import Connection, in_list
from rootcellar.stores.mysql.expiring import MySQLExpiring
from rootcellar.stores.mysql.migrating import MySQLMigrating
from rootcellar.stores.mysql.schema import PACKAGE, MySQLSchema, table_names, unquoted
from rootcellar.stores.mysql.search import MySQLRenderer, limited
from rootcellar.stores.mysql.url import connection_settings, describe
from rootcellar.stores.passwords import source_of
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.search import Search
from rootcellar.stores.sql import fragments, rows
from rootcellar.stores.sql.archiving import FILE_COLUMNS
from rootcellar.stores.sql.by_date import is_late
from rootcellar.stores.sql.migration_tables import BURIED_COLUMNS, SHARED_COLUMNS
from rootcellar.stores.sql.retention_tables import HOLD_COLUMNS
from rootcellar.stores.sql.search import Renderer
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements, measured_tables
from rootcellar.stores.upkeep import Space
from rootcellar.support.backoff import Backoff
from rootcellar.support.interruptions import Moment, raise_interruption

T = TypeVar("T")

#: the most records of one call of put_sent in one statement
_SENT_IN_ONE_STATEMENT = 100

#: after a deadlock: the most tries of a call, the most seconds for them, and the pauses between them
_CONFLICT_TRIES = 8
_CONFLICT_SECONDS = 15.0
_CONFLICT_PAUSES = Backoff(base_ms=2.5, limit_ms=80.0)
#: after a connection was lost, a call is repeated only within this many seconds after its beginning
_RECONNECT_SECONDS = 2.0

#: finds the burial of a record, and locks its place if there is none
_BURIAL = (
    "SELECT 1 FROM {buried} AS b FORCE INDEX (PRIMARY) WHERE b.task_id = %(task_id)s"
    " AND (b.done_at >= %(date_done)s OR LOCATE(%(fingerprint)s, b.fingerprints) > 0) LOCK IN SHARE MODE"
)


class MySQLStore(MySQLMigrating, MySQLExpiring):
    """The store for ``rootcellar+mysql://user:password@host:port/database``, and for ``mariadb://``."""

    # the indexes of texts have only their first letters, so the server sorts what they find
    has_ordered_indexes = False
    # the server keeps a version of each row until a file is committed
    rows_in_one_file = 200_000

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        password = source_of(options.password, "mysql", "mariadb")
        self._settings = connection_settings(
            url, {**options.connect_args, **({} if password is None else {"password": password})}
        )
        super().__init__(url, options, where=describe(url, self._settings), statements=_statements(options))
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
        self.schema = MySQLSchema(self.options, self._with_connection, self._where, self._settings["database"])
        self._counts: counting.MySQLCounts = counting.MySQLCounts(self.options)

    @property
    def connection_settings(self) -> Mapping[str, Any]:
        """The driver's parameters. They contain the password."""
        return self._settings

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        _check_ids(record.task_id)
        # a unique number: with it, the statement finds out whether the row is that of this call
        row = {**rows.task_row(record, _date_text), "put_id": secrets.randbits(63)}
        late = is_late(record)
        if part is None and not late:
            return Stored(written=self._count("put_task", row) > 0)

        def both(connection: Connection) -> Stored:
            written = connection.execute(self._sql["put_task"], row) > 0
            if late:
                self._counts.mark_late(connection, record)
            return Stored(written=written, chord=self._count_part(connection, part, record, lease) if part else None)

        return self._in_transaction(both)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        # sorted, because all transactions lock rows in this order
        in_order = sorted(records, key=lambda record: record.task_id)
        for start in range(0, len(in_order), _SENT_IN_ONE_STATEMENT):
            self._insert(in_order[start : start + _SENT_IN_ONE_STATEMENT])

    def _insert(self, records: Sequence[TaskRecord]) -> None:
        """Store records of tasks that have none, in one statement."""
        _check_ids(*(record.task_id for record in records))
        params: dict[str, Any] = {}
        for number, record in enumerate(records):
            params.update({f"{column}_{number}": value for column, value in rows.task_row(record, _date_text).items()})
        values = ", ".join(
            f"({fragments.named(rows.TASK_COLUMNS, f'%({{}}_{number})s')}, 0)" for number in range(len(records))
        )
        text = fill_in(self._sql["put_sent"], {"sent_rows": values})
        self._run(lambda connection: connection.execute(text, params))

    def _delete_tasks(self, ids: Sequence[str]) -> int:
        return self._in_transaction(
            lambda connection: self._delete_noted(connection, "hold_tasks", {"ids": in_list(ids)})
        )

    def _delete_on(self, connection: Connection, ids: Sequence[str]) -> int:
        if not ids:
            return 0
        count = self._delete_noted(connection, "hold_tasks", {"ids": in_list(ids)})
        return count + self._delete_adopted_on(connection, ids)

    # -- the archive: see rootcellar.stores.sql.archiving

    def _delete_live(self, connection: Connection, ids: Sequence[str]) -> None:
        if ids:
            connection.execute(self._sql["note_gone"], {"ids": in_list(ids)})
            connection.execute(self._sql["delete_tasks"], {"task_ids": in_list(ids)})

    def _locked_rows(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        statement = "lock_free_tasks" if connection.can_skip_locked else "lock_tasks"
        return self._rows_of(connection, statement, {"task_ids": self._ids(ids)})

    def _restore_live(self, connection: Connection, record: TaskRecord) -> bool:
        is_new = connection.execute(self._sql["restore_task"], rows.task_row(record, _date_text)) == 1
        if is_new:
            self._counts.mark_late(connection, record)
        return is_new

    def _note_restored(self, connection: Connection, ids: Sequence[str]) -> None:
        connection.execute(self._sql["note_back"], {"ids": in_list(ids)})

    def _many_of(self, connection: Connection, statement: str, params: Sequence[Mapping[str, Any]]) -> None:
        self._counts.execute_many(connection, self._sql[statement], params)

    def _numbers(self, numbers: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted(numbers))

    def _texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        return in_list(texts)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        _check_ids(chord.group_id)
        self._run_both("drop_parts", "begin_chord", rows.chord_row(chord, _date_text))

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self._in_transaction(lambda connection: self._count_part(connection, part, None, lease))

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self._run(lambda connection: self._claim(connection, group_id, claimant, lease))

    def finish_chord(self, group_id: str) -> None:
        self._run_both("drop_parts", "finish_chord", {"group_id": group_id})

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return [row[0] for row in self._all("orphaned_chords", {"limit": limit, "owner": owner})]

    # -- time and end

    def _query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        params: dict[str, Any] = {
            "since": _date_text(query.since) if query.since else None,
            "until": _date_text(query.until) if query.until else None,
            "states": query.states,
        }
        conditions = ["status IN %(states)s"] if query.states else []
        for column, texts in (("name", query.names), ("queue", query.queues), ("worker", query.workers)):
            if texts:
                params.update({f"{column}_{number}": fragments.like_pattern(text) for number, text in enumerate(texts)})
                likes = " OR ".join(f"{column} LIKE %({column}_{number})s" for number in range(len(texts)))
                conditions.append(f"({likes})")
        if query.id_prefix:
            params["ids"] = fragments.prefix_pattern(query.id_prefix)
            conditions.append("task_id LIKE %(ids)s")
        matches = {"matches": " AND ".join(conditions) or "TRUE"}
        found: list[TaskRecord] = []
        # two queries, because the index that finds the newest finished tasks does not have the unfinished ones first
        for statement in ("query_unfinished", "query_finished"):
            text = fill_in(self._sql[statement], matches)
            found += map(self._task_record, self._rows(text, {**params, "limit": query.limit - len(found)}))
        return found

    def _renderer(self, search: Search) -> Renderer:
        renderer = MySQLRenderer(search, in_parameterized(table_names(self.options))["task"], str, _date_text)
        renderer.holds_placed = self._sql["holds_placed"]
        return renderer

    def _searched(
        self, connection: Connection, statement: str, params: Mapping[str, Any], timeout: float
    ) -> list[tuple[Any, ...]]:
        text = limited(statement, timeout, is_mariadb=connection.is_mariadb)
        try:
            return connection.rows(text, params)
        except pymysql.Error as exc:
            if failures.code_of(exc) in failures.TOO_SLOW:
                raise self._too_slow(timeout) from exc
            raise

    # -- inside a transaction

    def _count_part(
        self, connection: Connection, part: ChordPart, record: TaskRecord | None, lease: float
    ) -> ChordProgress:
        """Count a part, and claim the chord if that completes it. Parts are always locked before their chord."""
        _check_ids(part.group_id, part.task_id)
        params = rows.part_row(part, record, _date_text)
        params["arrived"] = min(1, connection.execute(self._sql["arrive"], params))
        connection.execute(self._sql["count_arrived"], params)
        ((size, counted, finished),) = connection.rows(self._sql["chord_progress"], params)
        if finished and params["arrived"]:
            connection.execute(self._sql["refuse_part"], params)
        is_complete = size is not None and counted >= size and not finished
        claimed = is_complete and self._claim(connection, part.group_id, framing.claimant(part), lease)
        return ChordProgress(size=size, counted=counted, claimed=claimed, finished=bool(finished))

    def _claim(self, connection: Connection, group_id: str, claimant: str, lease: float) -> bool:
        params = {"group_id": group_id, "claimant": claimant, "lease": round(lease * 1_000_000)}
        return connection.execute(self._sql["claim_chord"], params) == 1

    # -- upkeep

    #: see :class:`~rootcellar.stores.upkeep.Compactable`
    compacting = "OPTIMIZE TABLE {name}"

    def spaces(self) -> Sequence[Space]:
        """See :class:`~rootcellar.stores.upkeep.Compactable`."""
        found = self._all("spaces", self._measure_params())
        return [Space(name=name, bytes=int(size or 0), unused_bytes=int(unused or 0)) for name, size, unused in found]

    def tidy(self) -> str | None:
        """See :class:`~rootcellar.stores.upkeep.Compactable`. The server does all of it by itself."""
        return None

    # -- talking to the server

    def _rows(self, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._run(lambda connection: connection.rows(text, params))

    def _rows_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.rows(self._sql[statement], params)

    def _rows_of_text(self, connection: Connection, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.rows(text, params)

    def _dicts_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return connection.dicts(self._sql[statement], params)

    def _count_of(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> int:
        return connection.execute(self._sql[statement], params)

    def _with_connection(self, work: Callable[[Connection], T]) -> T:
        """Call ``work``; repeat it after a deadlock, and once if the connection was lost or the tables changed."""
        retries = _Retries()
        moment = Moment()
        while True:
            with self._pool.connection(fresh=retries.with_new_connection) as connection:
                try:
                    return work(connection)
                except pymysql.Error as exc:
                    raise_interruption(exc, moment)
                    code = failures.code_of(exc)
                    self._handle_failure(connection, code)
                    if not retries.record_failure(code, is_lost=not connection.open):
                        raise failures.translate(exc, self._where) from exc
                except UnicodeEncodeError as exc:
                    raise self._refused(exc) from exc
                except driver.UNEXPECTED_ERRORS as exc:
                    raise_interruption(exc, moment)
                    if not connection.is_busy:
                        raise
                    # the driver failed to read an answer that was cut off
                    connection.end()
                    if not retries.record_failure(0, is_lost=True):
                        raise failures.cut_off(exc, self._where) from exc
            retries.pause()

    def _handle_failure(self, connection: Connection, code: int) -> None:
        if code in failures.STALE:
            self._is_schema_known = False
        if code in failures.LOST or code in failures.READ_ONLY or code == failures.NO_DATABASE:
            connection.end()
        if code in failures.READ_ONLY:
            # the other sessions on that server would get the same error, also after another server accepts writes
            self._pool.drop_idle()

    def _transaction(self, connection: Connection) -> AbstractContextManager[object]:
        return connection.transaction()

    def _adopted_statements(self, tables: Mapping[str, str]) -> dict[str, str]:
        return load_statements(PACKAGE, "adopted.sql", in_parameterized(tables))

    def _table_names(self) -> Mapping[str, str]:
        return table_names(self.options)

    def _measure_params(self) -> dict[str, Any]:
        return {
            "tables": in_list([unquoted(name) for name in measured_tables(self._table_names())]),
            "task_schema": self.options.task_schema,
            "group_schema": self.options.group_schema,
            "task_table": self.options.task_table,
        }

    def _ids(self, ids: Sequence[str]) -> Any:
        return in_list(ids)

    def _date(self, moment: datetime) -> str:
        return _date_text(moment)

    def _read_date(self, value: datetime) -> datetime:
        return value.replace(tzinfo=timezone.utc)

    def _findable(self, ids: Iterable[str]) -> list[str]:
        return [text for text in rows.findable(ids) if not text.endswith(" ")]

    def _check_ids(self, *ids: str) -> None:
        _check_ids(*ids)


class _Retries:
    """Decides whether and when a call is repeated. Every call may be repeated."""

    def __init__(self) -> None:
        self.with_new_connection = False
        self._began = time.monotonic()
        self._conflicts = 0
        self._has_reconnected = False

    def record_failure(self, code: int, *, is_lost: bool) -> bool:
        """Record a failure with this error code; return whether to try again."""
        spent = time.monotonic() - self._began
        self.with_new_connection = False
        if code in failures.CONFLICTS:
            self._conflicts += 1
            return self._conflicts < _CONFLICT_TRIES and spent < _CONFLICT_SECONDS
        if self._has_reconnected or not (code in failures.STALE or (is_lost and spent < _RECONNECT_SECONDS)):
            return False
        self._has_reconnected = self.with_new_connection = True
        return True

    def pause(self) -> None:
        """Sleep after a deadlock, so that the other transaction can end first."""
        if self._conflicts and not self.with_new_connection:
            time.sleep(_CONFLICT_PAUSES.before(self._conflicts))


def _statements(options: StoreOptions) -> dict[str, str]:
    names = {
        **in_parameterized(table_names(options)),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "hold_columns": ", ".join(HOLD_COLUMNS),
        "task_values": fragments.named(rows.TASK_COLUMNS, "%({})s"),
        "task_update": _update_assignments(),
        "task_overwritable": fragments.overwritable(old="{}", new="VALUES({})"),
        "task_select": ", ".join(rows.TASK_COLUMNS),
        "file_columns": ", ".join(FILE_COLUMNS),
        "task_replacement": fragments.replacement(lambda name, _: f"%({name})s"),
        "task_still_the_same": fragments.still_the_same("<=>", lambda name, _: f"%({name})s"),
        "task_whole": fragments.whole("IF(put_id = VALUES(put_id), VALUES({0}), {0})"),
        "task_copyable": fragments.copyable("{}", "VALUES({})"),
        "task_is_newer": fragments.is_newer("{}", "VALUES({})"),
        "buried_columns": ", ".join(BURIED_COLUMNS),
        "shared_columns": ", ".join(SHARED_COLUMNS),
    }
    names["burial"] = fill_in(_BURIAL, names)
    found = load_statements(PACKAGE, "queries.sql", names)
    for more in ("upkeep.sql", "archive.sql", "migration.sql"):
        found.update(load_statements(PACKAGE, more, names))
    statistics = counting.statements(options)
    found.update({name: statistics[name] for name in ("note_gone", "note_back")})
    return found


def _update_assignments() -> str:
    """Return the assignments of an upsert: always the columns of the state, the others only if they have a value."""
    assignments = []
    for column in rows.TASK_COLUMNS[1:]:
        condition = "put_id = VALUES(put_id)"
        if column not in rows.STATE_COLUMNS:
            condition += f" AND NOT ({fragments.kept('VALUES({})', column)})"
        assignments.append(f"{column} = IF({condition}, VALUES({column}), {column})")
    return ", ".join(assignments)


def _check_ids(*ids: str) -> None:
    """Refuse an id with a space at its end: the server ignores such spaces when it compares texts.

    Raises:
        RecordRefused: an id ends in a space.
    """
    for text in ids:
        if text.endswith(" "):
            raise RecordRefused(f"an id that ends in a space: {text!a}", remedy="use a UUID, as Celery does")


def _date_text(moment: datetime) -> str:
    # strftime is not used, because it writes the year 1 with one digit
    return clamped(moment).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
