"""Tables with one row for each task, and one for each saved group, as a source and a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from rootcellar.errors import StoreUnavailable
from rootcellar.migration.endpoint import Layout
from rootcellar.migration.foreign.database import Database, Row, Session
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.mirroring import CopyReport, Held, may_be_copied

T = TypeVar("T")

#: how often a batch is written if other processes store the same tasks at the same moment
_TRIES = 20


class Table:
    """A table with an integer key ``id`` and a unique text.

    Args:
        database: its database.
        schema: its schema; ``None`` for the default one.
        name: its name.
        key: the column with the unique text.
    """

    def __init__(self, database: Database, schema: str | None, name: str, key: str) -> None:
        self._database = database
        self.schema = schema
        self.plain_name = name
        self.name = database.name_of(schema, name)
        self.key = key

    @cached_property
    def columns(self) -> Mapping[str, bool]:
        """The columns, each with whether the server can fill it in; none if there is no table."""
        return self._database.columns(self.schema, self.plain_name)

    def is_known(self) -> bool:
        """Return whether there is a table."""
        return bool(self.columns)

    def page(self, cursor: str | None, limit: int) -> tuple[list[Row], str | None]:
        """Return rows in the order of ``id``, and the cursor for the next call."""
        after = int(cursor) if cursor is not None else None
        condition = "" if after is None else " AND id > %(after)s"
        rows = self._database.run(
            lambda session: session.rows(
                f"SELECT * FROM {self.name} WHERE {self.key} IS NOT NULL{condition}"  # noqa: S608 - quoted names
                " ORDER BY id LIMIT %(limit)s",
                {"limit": limit, **({} if after is None else {"after": after})},
            )
        )
        return rows, str(rows[-1]["id"]) if len(rows) == limit else None

    def rows_of(self, session: Session, ids: Sequence[str], columns: str = "*", end: str = "") -> list[Row]:
        """Return the rows of these ids."""
        if not ids:
            return []
        return session.rows(
            f"SELECT {columns} FROM {self.name}"  # noqa: S608 - quoted names
            f" WHERE {self._database.among(self.key)}{end}",
            {"ids": self._database.ids(ids)},
        )

    def insert(self, session: Session, rows: Sequence[Row], fixed: Mapping[str, str]) -> int:
        """Insert rows whose keys no row has; return how many.

        Args:
            session: the transaction.
            rows: the rows, each with the same columns.
            fixed: the SQL of further columns.
        """
        if not rows:
            return 0
        names = [*rows[0]]
        columns = [self._database.quoted(name) for name in (*names, *fixed)]
        values = [*(f"%({name})s" for name in names), *fixed.values()]
        return session.change(self._database.insertion(self.name, columns, values, self.key), rows)

    def update(self, session: Session, rows: Sequence[Row]) -> None:
        """Change the rows with these keys."""
        if not rows:
            return
        names = [name for name in rows[0] if name != self.key]
        changes = ", ".join(f"{self._database.quoted(name)} = %({name})s" for name in names)
        statement = f"UPDATE {self.name} SET {changes} WHERE {self.key} = %({self.key})s"  # noqa: S608 - quoted names
        session.change(statement, rows)

    def count(self) -> int:
        """Return how many rows there are."""
        statement = f"SELECT count(*) AS n FROM {self.name}"  # noqa: S608 - quoted names
        found = self._database.run(lambda session: session.rows(statement, {}))
        return int(found[0]["n"])


class Tables(ABC):
    """The tables of another system, as a source, a target and a lookup.

    Args:
        database: the database.
        tasks, groups: the tables.
    """

    def __init__(self, database: Database, tasks: Table, groups: Table) -> None:
        self._database = database
        self._tasks = tasks
        self._groups = groups

    # -- different for each system

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """What the tables keep."""

    @abstractmethod
    def task_of(self, row: Row) -> TaskRecord:
        """Return the record of a row. A column may be missing."""

    @abstractmethod
    def group_of(self, row: Row) -> GroupRecord:
        """Return the saved group of a row."""

    @abstractmethod
    def row_of(self, record: TaskRecord) -> Row:
        """Return the row of a record that the layout keeps."""

    @abstractmethod
    def row_of_group(self, group: GroupRecord) -> Row:
        """Return the row of a saved group."""

    @abstractmethod
    def fixed(self, table: Table) -> Mapping[str, str]:
        """Return the SQL of the columns that a new row needs in addition."""

    @abstractmethod
    def check(self) -> None:
        """Check that there are tables that can be written; a system may make them.

        Raises:
            SchemaMissing: they are missing.
            SchemaOutdated: they have other columns.
        """

    @abstractmethod
    def check_source(self) -> None:
        """Check that there is a table of tasks.

        Raises:
            SchemaMissing: there is none.
        """

    #: the columns by which two records of a task are compared
    compared: tuple[str, ...] = ()

    # -- the source

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.migration.endpoint.Source`."""
        self.check_source()
        rows, cursor = self._tasks.page(cursor, limit)
        return [*map(self.task_of, rows)], cursor

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """See :class:`~rootcellar.migration.endpoint.Source`."""
        if not self._groups.columns:
            # older releases had no such table
            return [], None
        rows, cursor = self._groups.page(cursor, limit)
        return [*map(self.group_of, rows)], cursor

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.migration.endpoint.Source`."""
        self.check_source()
        return self._tasks.count()

    # -- the lookup

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.migration.endpoint.Lookup`."""
        if not self._tasks.columns:
            return {}
        ids = list(dict.fromkeys(task_ids))
        found = [self.task_of(row) for row in self._database.run(lambda session: self._tasks.rows_of(session, ids))]
        # some servers ignore the case of letters
        return {record.task_id: record for record in found if record.task_id in ids}

    def get_group(self, group_id: str) -> GroupRecord | None:
        """See :class:`~rootcellar.migration.endpoint.Lookup`."""
        if not self._groups.columns:
            return None
        rows = self._database.run(lambda session: self._groups.rows_of(session, [group_id]))
        return self.group_of(rows[0]) if rows else None

    # -- the target

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.migration.endpoint.Target`. There are no burials. Nobody is notified."""
        self.check()

        def is_written(record: TaskRecord, stored: TaskRecord | None) -> bool:
            return may_be_copied(record, stored, newer_wins=newer_wins)

        written = self._write(records, is_written)
        return CopyReport(written=written, kept=frozenset(record.task_id for record in records) - written)

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.migration.endpoint.Target`."""
        self.check()

        def work(session: Session) -> int:
            rows = self._groups.rows_of(session, [group.group_id for group in groups], end=self._database.for_update)
            stored = {group.group_id: group for group in map(self.group_of, rows)}
            new = [group for group in groups if group.group_id not in stored]
            newer = [
                group
                for group in groups
                if newer_wins and group.group_id in stored and group.done_at > stored[group.group_id].done_at
            ]
            self._insert(session, self._groups, [*map(self.row_of_group, new)])
            self._groups.update(session, [*map(self.row_of_group, newer)])
            return len(new) + len(newer)

        return self._again(work)

    def mirror(self, record: TaskRecord) -> Held:
        """Store a record that is no SUCCESS over one of the same moment."""
        self._write([record], lambda new, stored: stored is None or stored.state != "SUCCESS")
        return Held(self.get_many([record.task_id]).get(record.task_id))

    def settle(self, record: TaskRecord) -> Held:
        """Store a SUCCESS over whatever is there."""
        self._write([record], lambda new, stored: True)
        return Held(record)

    def _write(
        self, records: Sequence[TaskRecord], is_written: Callable[[TaskRecord, TaskRecord | None], bool]
    ) -> frozenset[str]:
        """Store records in one transaction; return the ids of those that were written."""
        columns = ", ".join(name for name in self.compared if name in self._tasks.columns)

        def work(session: Session) -> frozenset[str]:
            ids = [record.task_id for record in records]
            rows = self._tasks.rows_of(session, ids, columns, self._database.for_update)
            stored = {record.task_id: record for record in map(self.task_of, rows)}
            wanted = [record for record in records if is_written(record, stored.get(record.task_id))]
            new = [self.row_of(record) for record in wanted if record.task_id not in stored]
            self._insert(session, self._tasks, new)
            self._tasks.update(session, [self.row_of(record) for record in wanted if record.task_id in stored])
            return frozenset(record.task_id for record in wanted)

        return self._again(work)

    def _insert(self, session: Session, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows.

        Raises:
            _Raced: another process has stored one of them since they were looked for.
        """
        if table.insert(session, rows, self.fixed(table)) != len(rows):
            raise _Raced

    def _again(self, work: Callable[[Session], T]) -> T:
        """Call a function in a transaction, and again while other processes store the same rows."""
        # a transaction must not begin within another one
        for table in (self._tasks, self._groups):
            table.is_known()
        for _ in range(_TRIES):
            with suppress(_Raced):
                return self._database.run(work)
        raise StoreUnavailable(
            "other processes stored the same tasks again and again", where=self._database.where, remedy="try again"
        )


class _Raced(Exception):
    """Another process has stored the same row."""
