"""The common part of the SQL stores: the methods that run one statement, and the tables that Celery created.

A SQL store has its statements in ``queries.sql``, under the same names as the others. It implements how a statement is
run, and how ids and dates become parameters.
"""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.records import ChordRecord, GroupRecord, PartResult, TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import Store, StoreOptions, TaskQuery
from rootcellar.stores.counting import Answer, FailureHour, FailureTotal, Kind, KnownFailure, Name, Question, Rolled
from rootcellar.stores.fields import EARLIEST, FieldReader
from rootcellar.stores.matching import matcher
from rootcellar.stores.measures import Activity, TableSize
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.search import Found, Position, Search, SearchTooSlow, Segment
from rootcellar.stores.sql import reading, rows
from rootcellar.stores.sql.archiving import SqlManifest
from rootcellar.stores.sql.celery_tables import Adopted
from rootcellar.stores.sql.celery_tables import group_record as old_group_record
from rootcellar.stores.sql.celery_tables import task_record as old_task_record
from rootcellar.stores.sql.counting import Server
from rootcellar.stores.sql.holding import HoldingMixin
from rootcellar.stores.sql.jobs import SqlJobs
from rootcellar.stores.sql.postponing import PostponingMixin
from rootcellar.stores.sql.rolling import forget_counts, roll_once
from rootcellar.stores.sql.rows import storable
from rootcellar.stores.sql.schema import SqlSchema
from rootcellar.stores.sql.search import MAX_NAMES, Renderer

#: the seconds after which a short statement of a search is given up
LOOK_UP_SECONDS = 5.0
#: the most seconds that a recount waits for a pass that is running, and the pause between two tries
LONGEST_WAIT_FOR_PASS, PAUSE_FOR_PASS = 10.0, 0.05
#: a query of the table that Celery created reads this many rows at a time, and this many times
ADOPTED_PAGE = 1_000
ADOPTED_PAGES = 100

#: the statement that finds the earliest time of a segment
_OLDEST = {
    Segment.UNFINISHED: "oldest_unfinished",
    Segment.FINISHED: "oldest_finished",
    Segment.OLDER: "oldest_older",
}

C = TypeVar("C")
T = TypeVar("T")


class SqlStore(HoldingMixin[C], PostponingMixin[C], Store, SqlJobs, SqlManifest[C], Generic[C]):
    """A store whose records are rows. A subclass creates ``_pool``, ``_counts`` and ``schema``.

    Args:
        url: see :class:`~rootcellar.stores.base.Store`.
        options: see there.
        where: the store, for messages.
        statements: the statements of ``queries.sql``, by name.
    """

    #: the most ids in one statement
    MANY = 1_000
    #: see :class:`~rootcellar.stores.search.Searchable`
    has_ordered_indexes: bool = True
    names_at_once: int = MAX_NAMES

    _pool: ConnectionPool[C]
    _counts: Server[C]
    schema: SqlSchema[C]

    def __init__(self, url: str, options: StoreOptions, *, where: str, statements: Mapping[str, str]) -> None:
        super().__init__(url, options)
        self._where = where
        self._sql = dict(statements)
        self._adopted: Adopted | None = None
        self._is_schema_known = False

    @property
    def where(self) -> str:
        return self._where

    # -- different for each server

    @abstractmethod
    def _with_connection(self, work: Callable[[C], T]) -> T:
        """Call ``work`` with a connection, and raise errors of rootcellar. It may be called twice."""

    @abstractmethod
    def _rows_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement, by name, and return its rows."""

    @abstractmethod
    def _dicts_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run a statement, by name, and return its rows as dicts."""

    @abstractmethod
    def _count_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> int:
        """Run a statement, by name, and return how many rows it changed."""

    @abstractmethod
    def _transaction(self, connection: C) -> AbstractContextManager[object]:
        """Begin a transaction: all of its statements take effect, or none."""

    @abstractmethod
    def _adopted_statements(self, tables: Mapping[str, str]) -> dict[str, str]:
        """Return the statements of ``adopted.sql`` for these quoted tables."""

    @abstractmethod
    def _table_names(self) -> Mapping[str, str]:
        """Return the quoted names of our tables."""

    @abstractmethod
    def _ids(self, ids: Sequence[str]) -> Any:
        """Return ids as a statement's parameter."""

    @abstractmethod
    def _date(self, moment: datetime) -> Any:
        """Return a date as a statement's parameter."""

    @abstractmethod
    def _read_date(self, value: Any) -> datetime:
        """Return the date in a column, in UTC."""

    def _celery_date(self, moment: datetime) -> Any:
        """Return a date as a parameter that is compared with a column of Celery's."""
        return self._date(moment)

    def _task_record(self, row: Sequence[Any]) -> TaskRecord:
        return rows.task_record(row, self._read_date)

    def _findable(self, ids: Iterable[str]) -> list[str]:
        """Return each of these ids once, without those that no row can have."""
        return rows.findable(ids)

    def _check_ids(self, *ids: str) -> None:
        """Refuse ids that a row cannot have, in addition to those that ``rows.py`` refuses."""

    # -- tasks

    def get(self, task_id: str) -> TaskRecord | None:
        if not self._findable([task_id]):
            return None
        found = self._all("get_task", {"task_id": task_id})
        if found:
            return self._task_record(found[0])
        return self._adopted_tasks([task_id]).get(task_id) if self._adopted else None

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = self._findable(task_ids)
        found = self._read_own_table(ids)
        if self._adopted and len(found) < len(ids):
            found.update(self._adopted_tasks([task_id for task_id in ids if task_id not in found]))
        return found

    def _read_own_table(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Read the records in our own table."""
        found: dict[str, TaskRecord] = {}
        for some in framing.chunks(ids, self.MANY):
            for row in self._all("get_tasks", {"task_ids": self._ids(some)}):
                record = self._task_record(row)
                found[record.task_id] = record
        return found

    def delete(self, task_ids: Iterable[str]) -> int:
        count = 0
        for some in framing.chunks(sorted(self._findable(task_ids)), self.MANY):
            count += self._delete_tasks(some)
            if self._adopted and self._adopted.task_table:
                count += self._count("delete_adopted_tasks", {"task_ids": self._ids(some)})
        return count

    @abstractmethod
    def _delete_tasks(self, ids: Sequence[str]) -> int:
        """Delete rows of our own table, and keep what was counted of them; return how many there were."""

    def _delete_adopted_on(self, connection: C, ids: Sequence[str]) -> int:
        """Delete rows of the table that Celery created, if there is one; return how many there were."""
        if not (self._adopted and self._adopted.task_table and ids):
            return 0
        return self._count_of(connection, "delete_adopted_tasks", {"task_ids": self._ids(ids)})

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        return [self._task_record(row) for row in self._all("scan_tasks", {"after": after or "", "limit": limit})]

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""
        return self._count("replace_task", rows.replace_params(old, new)) == 1

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        self._check_ids(group.group_id)
        self._count("put_group", rows.group_row(group, self._date))

    def get_group(self, group_id: str) -> GroupRecord | None:
        if not self._findable([group_id]):
            return None
        found = self._all("get_group", {"group_id": group_id})
        if found:
            return rows.group_record(found[0], self._read_date)
        if self._adopted and self._adopted.group_table:
            for old in self._dicts("get_adopted_group", {"group_id": group_id}):
                # Celery's column may ignore the case of letters
                if old["taskset_id"] == group_id:
                    return old_group_record(old, self._adopted.keep)
        return None

    def delete_group(self, group_id: str) -> None:
        if self._findable([group_id]):
            self._count("delete_group", {"group_id": group_id})

    # -- chords

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self._check_ids(group_id, key or "")
        params = {"group_id": group_id, "size": size, "key": key}

        def grow(connection: C) -> None:
            if key is None or self._count_of(connection, "note_growth", params):
                self._count_of(connection, "grow_chord", params)

        if relative:
            self._in_transaction(grow)
        else:
            self._count("size_chord", params)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        found = self._all("get_chord", {"group_id": group_id})
        return rows.chord_record(found[0], self._read_date) if found else None

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return [rows.part_result(row) for row in self._all("chord_parts", {"group_id": group_id})]

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`. The parts of a finished chord are deleted."""
        found: set[str] = set()
        ids = self._findable(task_ids)
        for start in range(0, len(ids), self.MANY):
            some = self._ids(ids[start : start + self.MANY])
            found.update(row[0] for row in self._all("living_parts", {"task_ids": some}))
        return found

    # -- end

    def check(self) -> None:
        self._is_schema_known = False
        self._ensure_schema()

    def close(self) -> None:
        self._pool.drop_idle()

    def pools(self) -> Sequence[ConnectionPool[C]]:
        """See :class:`~rootcellar.stores.pool.Pooled`."""
        return [self._pool]

    # -- measures

    def activity(self) -> Activity:
        """See :class:`~rootcellar.stores.measures.Active`."""
        unfinished = {str(state): int(count) for state, count in self._all("unfinished_by_state", {})}
        ((oldest,),) = self._all("oldest_task", {})
        ((is_open, orphaned),) = self._all("open_chords", self._measure_params())
        return Activity(
            unfinished=unfinished,
            oldest=None if oldest is None else self._read_date(oldest),
            chords_open=int(is_open),
            chords_orphaned=int(orphaned),
        )

    def table_sizes(self) -> Sequence[TableSize]:
        """See :class:`~rootcellar.stores.measures.Sized`."""
        return [
            TableSize(
                table=str(name),
                rows=_number(count),
                bytes=_number(size),
                index_bytes=_number(index),
                dead_rows=_number(dead),
            )
            for name, count, size, index, dead in self._all("table_sizes", self._measure_params())
        ]

    @abstractmethod
    def _measure_params(self) -> Mapping[str, Any]:
        """Return the parameters of the statements ``table_sizes`` and ``open_chords``."""

    # -- queries

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """Return the tasks that match; those in the tables that Celery created come last."""
        found = list(self._query(query))
        if self._adopted and self._adopted.task_table and len(found) < query.limit:
            known = {record.task_id for record in found}
            found += itertools.islice(
                (record for record in self._newest_adopted(query) if record.task_id not in known),
                query.limit - len(found),
            )
        return found

    @abstractmethod
    def _query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """Return the matching tasks of our own table: unfinished ones first, then the most recently finished."""

    def _newest_adopted(self, query: TaskQuery) -> Iterator[TaskRecord]:
        """Yield the matching tasks among the newest ones in the table that Celery created, which lacks an index."""
        assert self._adopted is not None
        matches = matcher(query)
        before = None
        for _ in range(ADOPTED_PAGES):
            page = self._dicts("newest_adopted_tasks", {"before": before, "limit": ADOPTED_PAGE})
            ids = [r.task_id for r in (old_task_record(row, self._adopted.keep) for row in page) if matches(r)]
            # if a task ended again since then, its row in our own table counts
            found = self.get_many(ids)
            yield from (found[task_id] for task_id in ids if task_id in found and matches(found[task_id]))
            if len(page) < ADOPTED_PAGE:
                return
            before = page[-1]["id"]

    # -- counts: see rootcellar.stores.counting.Counted

    def roll(self, *, budget: float = 1.0) -> Rolled:
        """Bring the counts up to date."""
        deadline = time.monotonic() + budget
        hours = 0
        while True:
            rolled = self._run(self._roll_at(deadline))
            hours += rolled.hours
            if rolled.is_done or not rolled.is_leader or time.monotonic() >= deadline:
                return replace(rolled, hours=hours)

    def _roll_at(self, deadline: float) -> Callable[[C], Rolled]:
        return lambda connection: roll_once(self._counts, connection, deadline)

    def rebuild_counts(self) -> None:
        """Forget what was counted of the rows that exist; wait for a pass that is running."""
        deadline = time.monotonic() + LONGEST_WAIT_FOR_PASS
        while not self._run(lambda connection: forget_counts(self._counts, connection)):
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    f"another process has been counting results for {LONGEST_WAIT_FOR_PASS:g} seconds",
                    where=self._where,
                    remedy="repeat the call later; nothing was changed",
                )
            time.sleep(PAUSE_FOR_PASS)

    def counts(self, question: Question) -> Answer:
        """Count finished tasks."""
        return self._run(lambda connection: reading.answer(self._counts, connection, question))

    def unfinished(self, question: Question, cap: int = 10_000) -> Answer:
        """Count unfinished tasks."""
        return self._run(lambda connection: reading.unfinished(self._counts, connection, question, cap))

    def durations(self, question: Question, of: str, limit: int) -> Sequence[float] | None:
        """Return the durations of the rows that exist."""
        return self._run(lambda connection: reading.durations(self._counts, connection, question, of, limit))

    def slowest(self, question: Question, limit: int) -> Sequence[str]:
        """Return the ids of the tasks that ran longest."""
        return self._run(lambda connection: reading.slowest(self._counts, connection, question, limit))

    def names(self, kind: Kind) -> Sequence[Name]:
        """Return every name that a finished task ever had."""
        return self._run(lambda connection: reading.names(self._counts, connection, kind))

    def failure_hours(
        self, since: datetime | None = None, until: datetime | None = None, groups: Collection[int] | None = None
    ) -> Sequence[FailureHour]:
        """Count failures by group, task and hour."""
        return self._run(lambda connection: reading.failure_hours(self._counts, connection, since, until, groups))

    def failure_totals(
        self, since: datetime | None = None, until: datetime | None = None, groups: Collection[int] | None = None
    ) -> Sequence[FailureTotal]:
        """Count failures by group and task."""
        return self._run(lambda connection: reading.failure_totals(self._counts, connection, since, until, groups))

    def known_failures(self, groups: Collection[int] | None = None) -> Sequence[KnownFailure]:
        """Return what is kept of groups of failures."""
        return self._run(lambda connection: reading.known_failures(self._counts, connection, groups))

    def describe_failure(self, group: int, *, type: str, place: str, template: str) -> None:
        """Store what a group of failures is."""
        texts = {"type": storable(type), "place": storable(place), "template": storable(template)}
        params = {"failure_group": group, **texts}
        self._run(lambda connection: self._counts.do(connection, "describe_failure", params))

    def mark_failure(
        self, group: int, mark: str | None, *, at: datetime, until: datetime | None = None, note: str | None = None
    ) -> bool:
        """Store the mark of a group of failures; return whether the group is known."""
        params = {
            "failure_group": group,
            "mark": mark,
            "marked_at": self._date(at),
            "muted_until": None if until is None else self._date(until),
            "note": storable(note),
        }
        self._run(lambda connection: self._counts.do(connection, "mark_failure", params))
        return bool(self.known_failures([group]))

    def search(self, search: Search) -> Sequence[Found]:
        """See :class:`~rootcellar.stores.search.Searchable`."""
        if search.segment is Segment.ADOPTED:
            return self._search_adopted(search)

        def work(connection: C) -> list[Found]:
            renderer = self._renderer(search)
            found = self._searched(connection, renderer.statement(), renderer.params, search.timeout)
            return [renderer.found(self._task_record(row[:-1]), row[-1]) for row in found]

        return self._run(work)

    @abstractmethod
    def _renderer(self, search: Search) -> Renderer:
        """Return the renderer of a search of our own table."""

    @abstractmethod
    def _searched(
        self, connection: C, statement: str, params: Mapping[str, Any], timeout: float
    ) -> list[tuple[Any, ...]]:
        """Run the statement of a search, and return its rows.

        Raises:
            SearchTooSlow: it took longer than ``timeout`` seconds.
        """

    def _too_slow(self, timeout: float) -> SearchTooSlow:
        return SearchTooSlow(
            f"a search did not end within {timeout:.2g} s",
            where=self._where,
            remedy="name a shorter time, such as since:1h, or a task or a state; or give more time (budget)",
        )

    def oldest(self, segment: Segment) -> datetime | None:
        """See :class:`~rootcellar.stores.search.Searchable`."""
        ((found,),) = self._looked_up(_OLDEST[segment], {})
        return None if found is None else FieldReader().moment("oldest", found, self._read_date) or EARLIEST

    def task_names(self, limit: int) -> Sequence[str] | None:
        """See :class:`~rootcellar.stores.search.Searchable`."""
        if "task_names" not in self._sql:
            return None
        found = [row[0] for row in self._looked_up("task_names", {"limit": limit + 1})]
        return found if len(found) <= limit else None

    def _looked_up(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement that an index answers at once, unless something holds the table."""
        text = self._sql[statement]
        return self._run(lambda connection: self._searched(connection, text, params, LOOK_UP_SECONDS))

    def has_older(self) -> bool:
        """See :class:`~rootcellar.stores.search.Searchable`."""
        return False

    def has_adopted(self) -> bool:
        """See :class:`~rootcellar.stores.search.Searchable`."""
        self._ensure_schema()
        return self._adopted is not None and self._adopted.task_table is not None

    def _search_adopted(self, search: Search) -> list[Found]:
        """Return the next records of the table that Celery created. The condition is not tested."""
        if not self.has_adopted():
            return []
        assert self._adopted is not None
        before = None if search.after is None else search.after.moment
        page = self._dicts("newest_adopted_tasks", {"before": before, "limit": search.limit})
        found = [
            Found(record, Position(Segment.ADOPTED, int(row["id"]), record.task_id))
            for row in page
            for record in [old_task_record(row, self._adopted.keep)]
        ]
        # if a task ended again since then, its row in our own table counts
        own = self._read_own_table(self._findable([each.record.task_id for each in found]))
        return [each if each.record.task_id not in own else replace(each, is_hidden=True) for each in found]

    # -- the tables that Celery created

    def _adopted_tasks(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        assert self._adopted is not None
        found: dict[str, TaskRecord] = {}
        if not self._adopted.task_table:
            return found
        wanted = set(ids)
        for some in framing.chunks(ids, self.MANY):
            for row in self._dicts("get_adopted_tasks", {"task_ids": self._ids(some)}):
                if row["task_id"] in wanted:
                    found[row["task_id"]] = old_task_record(row, self._adopted.keep)
        return found

    def _delete_expired_adopted(self, now: datetime, limit: int) -> int:
        """Delete up to ``limit`` expired tasks, and as many expired groups, of Celery's tables; return how many."""
        if self._adopted is None or self._adopted.keep is None:
            return 0
        params = {"done_before": self._celery_date(now - self._adopted.keep), "limit": limit}
        count = self._count("delete_expired_adopted_tasks", params) if self._adopted.task_table else 0
        return count + (self._count("delete_expired_adopted_groups", params) if self._adopted.group_table else 0)

    def _count_expired_adopted(self, now: datetime) -> int:
        """Return how many tasks and groups of Celery's tables have expired."""
        if self._adopted is None or self._adopted.keep is None:
            return 0
        tables = {"tasks": self._adopted.task_table, "groups": self._adopted.group_table}
        params = {"done_before": self._celery_date(now - self._adopted.keep)}
        return sum(int(self._all(f"count_expired_adopted_{key}", params)[0][0]) for key in tables if tables[key])

    # -- talking to the server

    def _all(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._run(lambda connection: self._rows_of(connection, statement, params))

    def _dicts(self, statement: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._run(lambda connection: self._dicts_of(connection, statement, params))

    def _count(self, statement: str, params: Mapping[str, Any]) -> int:
        return self._run(lambda connection: self._count_of(connection, statement, params))

    def _in_transaction(self, work: Callable[[C], T]) -> T:
        def whole(connection: C) -> T:
            with self._transaction(connection):
                return work(connection)

        return self._run(whole)

    def _run_both(self, first: str, second: str, params: Mapping[str, Any]) -> None:
        """Run two statements, by name, in one transaction."""

        def work(connection: C) -> None:
            self._count_of(connection, first, params)
            self._count_of(connection, second, params)

        self._in_transaction(work)

    def _refused(self, exc: UnicodeEncodeError) -> RecordRefused:
        """Return the error for a text that no server can store."""
        return RecordRefused(
            f"a text that no server stores: {exc.reason} at {exc.object[exc.start : exc.end]!a}",
            where=self._where,
            remedy="see where it comes from, such as the task's id",
        )

    def _run(self, work: Callable[[C], T]) -> T:
        """Call ``work`` with a connection; before the first call, create or check the tables."""

        def checked(connection: C) -> T:
            if not self._is_schema_known:
                self._load_schema(connection)
            return work(connection)

        return self._with_connection(checked)

    def _ensure_schema(self) -> None:
        """Create or check the tables, unless this process did so before."""
        if not self._is_schema_known:
            self._run(lambda connection: None)

    def _load_schema(self, connection: C) -> None:
        self._adopted = self.schema.ensure(connection)
        if self._adopted:
            names = self._table_names()
            # if there was no such table, any name serves, because these statements are not run
            tables = {
                "old_task": self._adopted.task_table or names["task"],
                "old_group": self._adopted.group_table or names["group"],
            }
            self._sql.update(self._adopted_statements(tables))
        self._is_schema_known = True


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
