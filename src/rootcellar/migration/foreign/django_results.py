"""The tables of django-celery-results, whose backend is ``django-db``."""

from __future__ import annotations

import ast
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from rootcellar.migration.endpoint import Endpoint, Spec
from rootcellar.migration.foreign.database import Database, Row, missing, open_database
from rootcellar.migration.foreign.layouts import PlainLayout
from rootcellar.migration.foreign.tables import Table, Tables
from rootcellar.migration.foreign.values import READY, Values
from rootcellar.records import ENDS, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import LATEST, FieldReader, clamped, damaged
from rootcellar.stores.sql.rows import storable

#: what stands before the URL
PREFIX = "django-db+"
_TASKS, _GROUPS = "django_celery_results_taskresult", "django_celery_results_groupresult"
_JSON, _UTF8 = "application/json", "utf-8"
#: the columns that only some releases have, and the fields of a record that need them
_OPTIONAL = {
    "task_name": "name",
    "task_args": "args",
    "task_kwargs": "kwargs",
    "worker": "worker",
    "meta": "children",
    "date_started": "started_at",
}
_ALWAYS = frozenset({"task_id", "state", "result", "traceback", "done_at", "damage"})


def open_tables(spec: Spec) -> Endpoint:
    """Open the tables of django-celery-results in the database of a URL.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    database, own = open_database(spec.text.removeprefix(PREFIX), spec)
    tasks = Table(database, own.get("task_schema"), own.get("task_table", _TASKS), "task_id")
    groups = Table(database, own.get("group_schema"), own.get("group_table", _GROUPS), "group_id")
    tables = DjangoTables(database, tasks, groups, Values(spec.allow_pickle), spec.keep)
    return Endpoint(
        name=f"{PREFIX}{database.url} {tasks.name}",
        where=f"django-celery-results in {database.where}",
        source=tables,
        target=tables,
        lookup=tables,
        mirrored=tables,
        layout=tables,
        close=database.close,
    )


class DjangoTables(Tables):
    """The tables of django-celery-results.

    Args:
        database: the database.
        tasks, groups: the tables.
        values: reads values.
        keep: how long after its end a result is kept; ``None`` for ever.
    """

    compared = ("task_id", "status", "date_done", "date_started")

    def __init__(self, database: Database, tasks: Table, groups: Table, values: Values, keep: timedelta | None) -> None:
        super().__init__(database, tasks, groups)
        self._values = values
        self._keep = keep

    # -- reading

    def task_of(self, row: Row) -> TaskRecord:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        reader = FieldReader()
        state = reader.state(row.get("status"))
        done = reader.moment("done_at", row.get("date_done"), _moment) if state in READY else None
        started = reader.moment("started_at", row.get("date_started"), _moment)
        record = TaskRecord(
            task_id=row["task_id"],
            state=state,
            result=_payload(row, row.get("result")) or (Payload(b"null") if state in READY else None),
            traceback=reader.text("traceback", row.get("traceback")),
            name=reader.text("name", row.get("task_name")),
            worker=reader.text("worker", row.get("worker")),
            started_at=None if started == NO_DATE else started,
            done_at=done or (NO_DATE if state in ENDS else None),
            expires_at=self._expiry(done),
            damage=tuple(reader.damage),
        )
        read = self._values.payload
        args, kwargs = (_payload(row, row.get(name)) for name in ("task_args", "task_kwargs"))
        return replace(
            record,
            result=None if record.result is None else read(record.result, is_error=state != "SUCCESS"),
            args=None if args is None else _literal(read(args)),
            kwargs=None if kwargs is None else _literal(read(kwargs)),
            children=self._children(row),
        )

    def _children(self, row: Row) -> Payload | None:
        meta = _payload(row, row.get("meta"))
        if meta is None:
            return None
        read = self._values.payload(meta)
        try:
            found = json.loads(read.body)
        except ValueError:
            return read
        children = found.get("children") if isinstance(found, dict) else None
        return _encoded(children) if children else None

    def group_of(self, row: Row) -> GroupRecord:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        done = FieldReader().moment("done_at", row.get("date_done"), _moment) or NO_DATE
        group = GroupRecord(
            group_id=row["group_id"],
            result=_payload(row, row.get("result")) or Payload(b"null"),
            done_at=done,
            expires_at=self._expiry(done),
        )
        return self._values.group(group)

    def _expiry(self, done: datetime | None) -> datetime | None:
        if done is None or done == NO_DATE or self._keep is None:
            return None
        return done + self._keep if done < LATEST - self._keep else LATEST

    def check_source(self) -> None:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        self._check(self._tasks)

    # -- writing

    def kept(self, record: TaskRecord, codec: Any) -> TaskRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`. Arguments are kept as text."""
        record = self.layout.kept(record, codec)
        args, kwargs, children = record.args, record.kwargs, record.children
        is_over = record.state in READY
        return replace(
            record,
            args=None if args is None else _literal(_shown(args, is_args=True)),
            kwargs=None if kwargs is None else _literal(_shown(kwargs)),
            children=None if children is None else _encoded(json.loads(children.body) or None),
            done_at=(record.done_at or NO_DATE) if is_over else None,
            result=record.result or (Payload(b"null") if is_over else None),
        )

    def kept_group(self, group: GroupRecord, codec: Any) -> GroupRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`."""
        return self.layout.kept_group(group, codec)

    @cached_property
    def layout(self) -> PlainLayout:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        fields = {field for column, field in _OPTIONAL.items() if column in self._tasks.columns}
        # Django makes times with a fraction on every database
        return PlainLayout(_ALWAYS | fields, group_expiry=False)

    def row_of(self, record: TaskRecord) -> Row:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        at = self._database.moment
        done = record.done_at or record.started_at or NO_DATE
        children = [] if record.children is None else json.loads(record.children.body)
        row: Row = {
            "task_id": record.task_id,
            "status": storable(record.state),
            "content_type": _JSON,
            "content_encoding": _UTF8,
            "result": None if record.result is None else record.result.body.decode(),
            "date_created": at(record.started_at or done, zoned=self._is_zoned),
            "date_started": at(record.started_at, zoned=self._is_zoned),
            "date_done": at(done, zoned=self._is_zoned),
            "traceback": storable(record.traceback),
            "meta": json.dumps({"children": children}),
            "task_name": storable(record.name),
            "task_args": None if record.args is None else _shown(record.args, is_args=True).body.decode(),
            "task_kwargs": None if record.kwargs is None else _shown(record.kwargs).body.decode(),
            "worker": storable(record.worker),
            # of releases before 1.1
            "hidden": False,
        }
        return {name: value for name, value in row.items() if name in self._tasks.columns}

    def row_of_group(self, group: GroupRecord) -> Row:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        at = self._database.moment(group.done_at, zoned=self._is_zoned)
        return {
            "group_id": group.group_id,
            "content_type": _JSON,
            "content_encoding": _UTF8,
            "result": group.result.body.decode(),
            "date_created": at,
            "date_done": at,
        }

    @property
    def _is_zoned(self) -> bool:
        return self._database.has_zones

    def fixed(self, table: Table) -> Mapping[str, str]:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        return {}

    def check(self) -> None:
        """See :class:`~rootcellar.migration.foreign.tables.Tables`."""
        self._check(self._tasks)
        self._check(self._groups)

    def _check(self, table: Table) -> None:
        if not table.columns:
            raise missing(
                table.name,
                self._database.where,
                "run `python manage.py migrate django_celery_results`, or correct the database",
            )


def _moment(value: Any) -> datetime:
    return clamped(datetime.fromisoformat(value) if isinstance(value, str) else value)


def _payload(row: Row, text: Any) -> Payload | None:
    """Return a value of a row: text, or bytes in base64."""
    if not text:
        return None
    content_type, encoding = row.get("content_type") or _JSON, row.get("content_encoding") or _UTF8
    try:
        body = b64decode(text) if encoding == "binary" else text.encode()
    except (ValueError, AttributeError):
        return damaged(text)
    return Payload(body, content_type, encoding)


def _encoded(value: Any) -> Payload | None:
    return None if value is None else Payload(json.dumps(value).encode())


def _literal(stored: Payload) -> Payload:
    """Return arguments as values: a worker stores the text of their ``repr``. A text that was cut stays a text."""
    try:
        text = json.loads(stored.body)
        return Payload(json.dumps(ast.literal_eval(text)).encode()) if isinstance(text, str) else stored
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return stored


def _shown(payload: Payload, *, is_args: bool = False) -> Payload:
    """Return arguments as the text of their ``repr``, as a worker stores them."""
    value = json.loads(payload.body)
    if isinstance(value, str):
        return payload
    return Payload(json.dumps(repr(tuple(value) if is_args and isinstance(value, list) else value)).encode())
