"""The tables of Celery's own ``db+`` backends, of every layout since Celery 5.0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from rootcellar.errors import SchemaOutdated
from rootcellar.migration.endpoint import Endpoint, Spec
from rootcellar.migration.foreign.database import Database, Row, missing, open_database
from rootcellar.migration.foreign.layouts import PlainLayout
from rootcellar.migration.foreign.tables import Table, Tables
from rootcellar.migration.foreign.values import READY, Values, content_type_named
from rootcellar.records import NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.sql import celery_tables
from rootcellar.stores.sql.rows import storable
from rootcellar.stores.sql.statements import load_statements

#: what stands before the URL
PREFIX = "db+"
_TASKS, _GROUPS = "celery_taskmeta", "celery_tasksetmeta"
#: columns that only some tables have, by the fields of a record
_OPTIONAL = ("name", "args", "kwargs", "worker", "retries", "queue", "stamps", "children")
_ALWAYS = frozenset({"task_id", "state", "result", "traceback", "done_at", "damage"})


def open_tables(spec: Spec) -> Endpoint:
    """Open Celery's tables in the database of a URL, as ``result_backend`` has it.

    The query may have ``task_table``, ``group_table``, ``task_schema`` and ``group_schema``, and ``serializer`` if the
    results are neither JSON nor pickles.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    database, own = open_database(spec.text.removeprefix(PREFIX), spec)
    tasks = Table(database, own.get("task_schema"), own.get("task_table", _TASKS), "task_id")
    groups = Table(database, own.get("group_schema"), own.get("group_table", _GROUPS), "taskset_id")
    values = Values(spec.allow_pickle, content_type_named(own.get("serializer"), "result_backend"))
    tables = CeleryTables(database, tasks, groups, values, spec.keep)
    return Endpoint(
        name=f"{PREFIX}{database.url} {tasks.name}",
        where=f"Celery's {database.where}",
        source=tables,
        target=tables,
        lookup=tables,
        mirrored=tables,
        layout=tables,
        close=database.close,
    )


class CeleryTables(Tables):
    """Celery's tables.

    Args:
        database: the database.
        tasks, groups: the tables.
        values: reads values.
        keep: how long after its end a result is kept; ``None`` for ever.
    """

    compared = ("task_id", "status", "date_done")

    def __init__(self, database: Database, tasks: Table, groups: Table, values: Values, keep: timedelta | None) -> None:
        super().__init__(database, tasks, groups)
        self._values = values
        self._keep = keep
        self._is_checked = False

    # -- reading

    def task_of(self, row: Row) -> TaskRecord:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        record = celery_tables.task_record(row, self._keep)
        if record.state not in READY:
            # it is when the row was last changed
            record = replace(record, done_at=None, expires_at=None)
        if "result" in row and row["result"] is None:
            record = replace(record, result=None if record.state not in READY else record.result)
        return self._values.task(record)

    def group_of(self, row: Row) -> GroupRecord:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        return self._values.group(celery_tables.group_record(row, self._keep))

    def check_source(self) -> None:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        if not self._tasks.columns:
            raise missing(
                self._tasks.name,
                self._database.where,
                "correct the database, or name the tables in the URL: ?task_table=…&group_table=…",
            )

    # -- writing

    def kept(self, record: TaskRecord, codec: Any) -> TaskRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`."""
        record = self.layout.kept(record, codec)
        if record.stamps is not None:
            record = replace(record, stamps=_normal(record.stamps))
        if record.state in READY:
            return replace(record, done_at=record.done_at or NO_DATE, result=record.result or Payload(b"null"))
        return replace(record, done_at=None)

    def kept_group(self, group: GroupRecord, codec: Any) -> GroupRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`."""
        return self.layout.kept_group(group, codec)

    @cached_property
    def layout(self) -> PlainLayout:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        columns: Sequence[str] = [*self._tasks.columns] or _OPTIONAL
        fields = _ALWAYS | {name for name in _OPTIONAL if name in columns}
        return PlainLayout(frozenset(fields), group_expiry=False, unit=self._database.unit)

    def row_of(self, record: TaskRecord) -> Row:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        stamps = record.stamps
        row: Row = {
            "task_id": record.task_id,
            "status": storable(record.state),
            "result": _body(record.result),
            "date_done": self._database.moment(None if record.done_at == NO_DATE else record.done_at),
            "traceback": storable(record.traceback),
            "children": _body(record.children),
            "name": storable(record.name),
            "args": _body(record.args),
            "kwargs": _body(record.kwargs),
            "worker": storable(record.worker),
            "retries": record.retries,
            "queue": storable(record.queue),
            "stamps": None if stamps is None else _wrapped(stamps),
        }
        return {name: value for name, value in row.items() if name in self._tasks.columns}

    def row_of_group(self, group: GroupRecord) -> Row:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        done = None if group.done_at == NO_DATE else group.done_at
        return {
            "taskset_id": group.group_id,
            "result": group.result.body,
            "date_done": self._database.moment(done),
        }

    def fixed(self, table: Table) -> Mapping[str, str]:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        # on PostgreSQL and MariaDB, SQLAlchemy takes the number from a sequence, and the column has no default
        return {} if table.columns["id"] else {"id": self._database.next_of(self._sequence(table))}

    def _sequence(self, table: Table) -> str:
        name = "task_id_sequence" if table is self._tasks else "taskset_id_sequence"
        return self._database.name_of(table.schema, name)

    def check(self) -> None:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`. Missing tables are made as Celery makes them."""
        if self._is_checked:
            return
        self._database.may_create = True
        kind = self._database.kind
        names = {
            "task": self._tasks.name,
            "group": self._groups.name,
            "task_ids": self._sequence(self._tasks),
            "group_ids": self._sequence(self._groups),
            "task_index": self._database.quoted(f"ix_{self._tasks.plain_name}_date_done"),
            "group_index": self._database.quoted(f"ix_{self._groups.plain_name}_date_done"),
        }
        statements = load_statements(__package__, "celery_tables.sql", names)
        # an index of a table that Celery made is left alone
        there = [name for name, table in (("task", self._tasks), ("group", self._groups)) if table.columns]
        wanted = [
            text
            for name, text in statements.items()
            if name.startswith(f"{kind}_") and not any(name.startswith(f"{kind}_{each}") for each in there)
        ]
        if wanted:
            self._database.execute(wanted)
            for table in (self._tasks, self._groups):
                vars(table).pop("columns", None)
            vars(self).pop("layout", None)
        if "children" not in self._tasks.columns:
            raise SchemaOutdated(
                f"{self._tasks.name} has no column children: a Celery before 5.7 made it, which reads results only as "
                "pickles",
                where=self._database.where,
                remedy="use Celery 5.7, and rename this table: it is made again; or name another: ?task_table=…",
            )
        self._is_checked = True


def _body(payload: Payload | None) -> bytes | None:
    return None if payload is None else payload.body


def _normal(stamps: Payload) -> Payload | None:
    """Return stamps as they are read from a row: ``None`` for none."""
    return celery_tables.payload_of_stamps(_wrapped(stamps))


def _wrapped(stamps: Payload) -> bytes:
    """Return stamps with the list of their names, as Celery stores them."""
    found = json.loads(stamps.body)
    names = [*found] if isinstance(found, dict) else []
    return json.dumps({"stamped_headers": names, "stamps": found if names else {}}).encode()
