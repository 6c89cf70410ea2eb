"""Records in a SQLite file: WAL mode, one short transaction for each call."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import Any, TypeVar

from rootcellar.errors import RecordRefused
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, Stored, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import StoreOptions, TaskQuery
from rootcellar.stores.fields import clamped
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.search import Search
from rootcellar.stores.sql import fragments, rows
from rootcellar.stores.sql.archiving import FILE_COLUMNS
from rootcellar.stores.sql.by_date import RECENT, is_late
from rootcellar.stores.sql.migration_tables import BURIED_COLUMNS, SHARED_COLUMNS
from rootcellar.stores.sql.retention_tables import HOLD_COLUMNS
from rootcellar.stores.sql.search import Renderer
from rootcellar.stores.sql.statements import fill_in, load_statements
from rootcellar.stores.sqlite import counting, driver
from rootcellar.stores.sqlite.expiring import SQLiteExpiring
from rootcellar.stores.sqlite.migrating import SQLiteMigrating
from rootcellar.stores.sqlite.schema import PACKAGE, SQLiteSchema, table_names, transaction
from rootcellar.stores.sqlite.search import SQLiteRenderer
from rootcellar.stores.upkeep import Space

T = TypeVar("T")

#: how many steps of its program SQLite runs before the time of a search is looked at: some microseconds
_STEPS = 2_000

#: finds the burial of a record
_BURIAL = (
    "SELECT 1 FROM {buried} AS b WHERE b.task_id = :task_id"
    " AND (b.done_at >= :date_done OR instr(b.fingerprints, :fingerprint) > 0)"
)


class SQLiteStore(SQLiteMigrating, SQLiteExpiring):
    """The store for ``rootcellar+sqlite:///path``."""

    # all ids of a statement are one parameter, a JSON text
    MANY = 100_000
    # nothing else can be stored while a file is committed
    rows_in_one_file = 20_000

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        self._path = driver.database_path(url)
        super().__init__(url, options, where=f"sqlite {self._path}", statements=_statements(options))
        self._pool: ConnectionPool[sqlite3.Connection] = ConnectionPool(
            lambda: counting.add_functions(driver.connect(self._path)),
            close=sqlite3.Connection.close,
            alive=lambda connection: True,
            usable=lambda connection: not connection.in_transaction,
            size=self.options.pool_size,
            timeout=self.options.pool_timeout,
            recycle=self.options.pool_recycle,
            ping=False,
            where=self._where,
            # SQLite keeps the locks of a file by process: if a forked child inherits an open connection, its own
            # connection locks nothing, and the parent could remove the log to which the child writes
            may_cross_forks=False,
            harmless=(sqlite3.Error, UnicodeEncodeError, OverflowError),
        )
        self.schema = SQLiteSchema(self.options, self._with_connection, self._path)
        self._counts: counting.SQLiteCounts = counting.SQLiteCounts(self.options)

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        row = rows.task_row(record, _date_text)
        late = is_late(record)
        if part is None and not late:
            return Stored(written=self._count("put_task", row) == 1)

        def both(connection: sqlite3.Connection) -> Stored:
            written = connection.execute(self._sql["put_task"], row).rowcount == 1
            if late:
                self._counts.mark_late(connection, record)
            return Stored(written=written, chord=self._count_part(connection, part, record, lease) if part else None)

        return self._in_transaction(both)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        found = [rows.task_row(record, _date_text) for record in records]
        self._in_transaction(lambda connection: connection.executemany(self._sql["put_sent"], found))

    def _delete_tasks(self, ids: Sequence[str]) -> int:
        return self._in_transaction(lambda connection: self._delete_own(connection, ids))

    def _delete_on(self, connection: sqlite3.Connection, ids: Sequence[str]) -> int:
        return self._delete_own(connection, ids) + self._delete_adopted_on(connection, ids)

    def _delete_own(self, connection: sqlite3.Connection, ids: Sequence[str]) -> int:
        params = {"task_ids": self._ids(ids), "recent": _date_text(_now() - RECENT)}
        return self._delete_noted(connection, "note_deleted", "delete_tasks", params)

    def _delete_noted(self, connection: sqlite3.Connection, note: str, delete: str, params: Mapping[str, Any]) -> int:
        """Keep what was counted of rows, and delete them; return how many."""
        connection.execute(self._sql[note], params)
        return connection.execute(self._sql[delete], params).rowcount

    # -- the archive: see rootcellar.stores.sql.archiving

    def _delete_live(self, connection: sqlite3.Connection, ids: Sequence[str]) -> None:
        params = {"task_ids": self._ids(ids), "recent": _date_text(_now() - RECENT)}
        self._delete_noted(connection, "note_deleted", "delete_tasks", params)

    def _restore_live(self, connection: sqlite3.Connection, record: TaskRecord) -> bool:
        is_new = connection.execute(self._sql["restore_task"], rows.task_row(record, _date_text)).rowcount == 1
        if is_new:
            self._counts.mark_late(connection, record)
        return is_new

    def _note_restored(self, connection: sqlite3.Connection, ids: Sequence[str]) -> None:
        connection.execute(self._sql["note_back"], {"task_ids": self._ids(ids), "recent": _date_text(_now() - RECENT)})

    def _many_of(self, connection: sqlite3.Connection, statement: str, params: Sequence[Mapping[str, Any]]) -> None:
        connection.executemany(self._sql[statement], params)

    def _numbers(self, numbers: Sequence[int]) -> str:
        return json.dumps(list(numbers))

    def _texts(self, texts: Sequence[str]) -> str:
        return json.dumps(list(texts))

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self._run_both("drop_parts", "begin_chord", rows.chord_row(chord, _date_text))

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self._in_transaction(lambda connection: self._count_part(connection, part, None, lease))

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        params = {"group_id": group_id, "claimant": claimant, "lease": lease, "now": time.time()}
        return self._count("claim_chord", params) == 1

    def finish_chord(self, group_id: str) -> None:
        self._run_both("drop_parts", "finish_chord", {"group_id": group_id, "now": _date_text(_now())})

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        params = {"limit": limit, "owner": owner, "now": time.time()}
        return [row[0] for row in self._all("orphaned_chords", params)]

    # -- time and end

    def _query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        params = {
            "states": json.dumps(query.states) if query.states else None,
            "names": _globs(query.names),
            "queues": _globs(query.queues),
            "workers": _globs(query.workers),
            "id_prefix": query.id_prefix,
            "since": _date_text(query.since) if query.since else None,
            "until": _date_text(query.until) if query.until else None,
            "limit": query.limit,
        }
        return [self._task_record(row) for row in self._all("query_tasks", params)]

    def _renderer(self, search: Search) -> Renderer:
        renderer = SQLiteRenderer(search, table_names(self.options)["task"], str, _date_text, self._read_date)
        renderer.holds_placed = self._sql["holds_placed"]
        return renderer

    def _searched(
        self, connection: sqlite3.Connection, statement: str, params: Mapping[str, Any], timeout: float
    ) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + timeout
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            return connection.execute(statement, params).fetchall()
        except sqlite3.OperationalError as exc:
            if str(exc) == "interrupted":
                raise self._too_slow(timeout) from exc
            raise
        finally:
            connection.set_progress_handler(None, 0)

    # -- upkeep

    #: see :class:`~rootcellar.stores.upkeep.Compactable`
    compacting = "VACUUM"

    def spaces(self) -> Sequence[Space]:
        """See :class:`~rootcellar.stores.upkeep.Compactable`."""
        found = self._all("spaces", {})
        return [Space(name=name, bytes=int(size), unused_bytes=int(unused)) for name, size, unused in found]

    def tidy(self) -> str | None:
        """See :class:`~rootcellar.stores.upkeep.Compactable`. Writes the log into the file."""
        ((_, pages, written),) = self._all("checkpoint", {})
        return f"{written:,} of {pages:,} pages of the log are in the file"

    def free_bytes(self) -> int:
        """See :class:`~rootcellar.stores.upkeep.KnowsDisk`."""
        return shutil.disk_usage(self._path.absolute().parent).free

    # -- talking to the file

    def _count_part(
        self, connection: sqlite3.Connection, part: ChordPart, record: TaskRecord | None, lease: float
    ) -> ChordProgress:
        """Count a part inside a transaction, and claim the chord if that completes it."""
        params = rows.part_row(part, record, _date_text)
        params["arrived"] = connection.execute(self._sql["arrive"], params).rowcount
        connection.execute(self._sql["count_arrived"], params)
        claim = {"group_id": part.group_id, "claimant": framing.claimant(part), "lease": lease, "now": time.time()}
        claimed = connection.execute(self._sql["claim_chord"], claim).rowcount == 1
        size, counted, finished = connection.execute(self._sql["chord_progress"], params).fetchone()
        return ChordProgress(size=size, counted=counted, claimed=claimed, finished=bool(finished))

    def _rows_of(
        self, connection: sqlite3.Connection, statement: str, params: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        return connection.execute(self._sql[statement], params).fetchall()

    def _rows_of_text(
        self, connection: sqlite3.Connection, text: str, params: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        return connection.execute(text, params).fetchall()

    def _dicts_of(
        self, connection: sqlite3.Connection, statement: str, params: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        cursor = connection.execute(self._sql[statement], params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _count_of(self, connection: sqlite3.Connection, statement: str, params: Mapping[str, Any]) -> int:
        return connection.execute(self._sql[statement], params).rowcount

    def _with_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._pool.connection() as connection:
                return work(connection)
        except UnicodeEncodeError as exc:
            raise self._refused(exc) from exc
        except OverflowError as exc:
            raise RecordRefused(str(exc), where=self._where, remedy="see which field it is") from exc
        except sqlite3.Error as exc:
            self._is_schema_known = self._is_schema_known and "no such table" not in str(exc)
            error = driver.translate(exc, self._path)
            if error.retryable:
                # a connection that was opened while the file was read-only can never write to it
                self._pool.drop_idle()
            raise error from exc

    def _transaction(self, connection: sqlite3.Connection) -> AbstractContextManager[object]:
        return transaction(connection)

    def _adopted_statements(self, tables: Mapping[str, str]) -> dict[str, str]:
        return load_statements(PACKAGE, "adopted.sql", tables)

    def _table_names(self) -> Mapping[str, str]:
        return table_names(self.options)

    def _measure_params(self) -> dict[str, Any]:
        options = self.options
        return {"now": time.time(), "task_table": options.task_table, "group_table": options.group_table}

    def _ids(self, ids: Sequence[str]) -> str:
        return json.dumps(list(ids))

    def _date(self, moment: datetime) -> str:
        return _date_text(moment)

    def _read_date(self, value: str) -> datetime:
        return datetime.fromisoformat(value).replace(tzinfo=timezone.utc)


def _statements(options: StoreOptions) -> dict[str, str]:
    names = {
        **table_names(options),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "hold_columns": ", ".join(HOLD_COLUMNS),
        "task_values": fragments.named(rows.TASK_COLUMNS, ":{}"),
        "task_update": fragments.update_assignments(),
        "task_overwritable": fragments.overwritable(),
        "task_select": ", ".join(rows.TASK_COLUMNS),
        "file_columns": ", ".join(FILE_COLUMNS),
        "task_replacement": fragments.replacement(lambda name, _: f":{name}"),
        "task_still_the_same": fragments.still_the_same("IS", lambda name, _: f":{name}"),
        "task_whole": fragments.whole("excluded.{}"),
        "task_copyable": fragments.copyable("t.{}", "excluded.{}"),
        "task_is_newer": fragments.is_newer("t.{}", "excluded.{}"),
        "buried_columns": ", ".join(BURIED_COLUMNS),
        "shared_columns": ", ".join(SHARED_COLUMNS),
    }
    names["burial"] = fill_in(_BURIAL, names)
    found = load_statements(PACKAGE, "queries.sql", names)
    for more in ("upkeep.sql", "archive.sql", "migration.sql"):
        found.update(load_statements(PACKAGE, more, names))
    statistics = counting.statements(options)
    note = statistics["note_gone"]
    # the same rows as the statements that delete them
    for name, delete in (("note_deleted", "delete_tasks"), ("note_rows", "delete_rows")):
        found[name] = fill_in(note, {"deleted": found[delete].partition("WHERE ")[2]})
    found["note_back"] = fill_in(statistics["note_back"], {"deleted": found["delete_tasks"].partition("WHERE ")[2]})
    return found


def _date_text(moment: datetime) -> str:
    # strftime is not used, because it writes the year 1 with one digit
    return clamped(moment).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _globs(texts: Sequence[str]) -> str | None:
    return json.dumps([fragments.glob_pattern(text) for text in texts]) if texts else None
