"""Converts records to rows of SQL tables, and back. Only this module knows the order of the columns.

A payload has two columns, ``x`` and ``x_exact``. Portable JSON is stored as the text in ``x`` only. For typed JSON,
``x_exact`` has a marker. Any other payload is stored byte for byte in ``x_exact``, framed with its content type, and
``x`` has a readable version of it, which is JSON too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rootcellar.errors import RecordRefused
from rootcellar.records import (
    ENCRYPTED,
    NO_DATE,
    TYPED_JSON,
    ChordPart,
    ChordRecord,
    GroupRecord,
    PartResult,
    Payload,
    TaskRecord,
)
from rootcellar.stores.fields import FieldReader, clamped, damaged, text_id
from rootcellar.stores.framing import frame, kept_result, unframe, unframe_loosely
from rootcellar.stores.sql.json_text import _json_text, _rendition, is_portable

#: column of the task table -> attribute of TaskRecord
PLAIN_COLUMNS = {
    "task_id": "task_id",
    "status": "state",
    "traceback": "traceback",
    "name": "name",
    "queue": "queue",
    "worker": "worker",
    "retries": "retries",
    "group_id": "group_id",
    "group_index": "group_index",
    "parent_id": "parent_id",
    "root_id": "root_id",
    "failure_group": "failure_group",
}
DATE_COLUMNS = {
    "date_sent": "sent_at",
    "date_started": "started_at",
    "date_done": "done_at",
    "expires_at": "expires_at",
}
#: the columns of integers among them
NUMBER_COLUMNS = ("retries", "group_index", "failure_group")
PAYLOAD_COLUMNS = ("result", "args", "kwargs", "children", "stamps")
TASK_COLUMNS = (
    *PLAIN_COLUMNS,
    *DATE_COLUMNS,
    *(name for column in PAYLOAD_COLUMNS for name in (column, f"{column}_exact")),
)

#: the marker in ``x_exact`` of typed JSON, whose bytes are the text in ``x``
TYPED_TEXT = b"rc1 typed text"
#: the columns that an upsert always sets; the others keep the stored value if the new record has none
STATE_COLUMNS = ("status", "result", "result_exact", "traceback", "date_done", "expires_at", "failure_group")

#: the payloads that a replacement sets, and all columns that it sets
REPLACED_PAYLOADS = ("result", "args", "kwargs", "stamps")
REPLACED_COLUMNS = ("traceback", *(name for column in REPLACED_PAYLOADS for name in (column, f"{column}_exact")))

DateAdapter = Callable[[datetime], Any]


def task_row(record: TaskRecord, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a task's columns by name; ``date`` converts dates for the driver.

    Raises:
        RecordRefused: the task's id cannot be SQL text.
    """
    row = {column: storable(getattr(record, name)) for column, name in PLAIN_COLUMNS.items()}
    row["task_id"] = checked_id(record.task_id)
    for column, name in DATE_COLUMNS.items():
        value = getattr(record, name)
        row[column] = None if value is None else date(clamped(value))
    for column in PAYLOAD_COLUMNS:
        row[column], row[f"{column}_exact"] = payload_columns(getattr(record, column))
    return row


def task_record(row: Sequence[Any], date: Callable[[Any], datetime] = clamped) -> TaskRecord:
    """Return the record of a row with the columns :data:`TASK_COLUMNS`, in this order. It may be damaged."""
    values = dict(zip(TASK_COLUMNS, row, strict=True))
    reader = FieldReader()
    fields: dict[str, Any] = {
        name: (reader.number if column in NUMBER_COLUMNS else reader.text)(name, values[column])
        for column, name in PLAIN_COLUMNS.items()
        if name not in ("task_id", "state")
    }
    state = reader.state(values["status"])
    for column, name in DATE_COLUMNS.items():
        fields[name] = reader.moment(name, values[column], date) if name != "done_at" else None
    fields["done_at"] = reader.done_at(values["date_done"], date)
    for column in PAYLOAD_COLUMNS:
        fields[column] = read_payload_loosely(values[column], values[f"{column}_exact"])
    return TaskRecord(task_id=values["task_id"], state=state, damage=tuple(reader.damage), **fields)


def group_row(group: GroupRecord, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a group's columns by name.

    Raises:
        RecordRefused: the group's id cannot be SQL text.
    """
    text, exact = payload_columns(group.result)
    return {
        "taskset_id": checked_id(group.group_id),
        "result": text,
        "result_exact": exact,
        "date_done": date(group.done_at),
        "expires_at": None if group.expires_at is None else date(group.expires_at),
    }


def group_record(row: Sequence[Any], date: Callable[[Any], datetime]) -> GroupRecord:
    """Return the record of a row: id, result, exact result, date done, date of expiry."""
    group_id, text, exact, done, expires = row
    reader = FieldReader()
    return GroupRecord(
        group_id=group_id,
        result=read_payload_loosely(text, exact) or damaged(b""),
        done_at=reader.moment("done_at", done, date) or NO_DATE,
        expires_at=reader.moment("expires_at", expires, date),
    )


def chord_row(chord: ChordRecord, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a chord's columns by name."""
    return {
        "group_id": chord.group_id,
        "body": frame(chord.body) if chord.body else None,
        "header": frame(chord.header) if chord.header else None,
        "expires_at": None if chord.expires_at is None else date(chord.expires_at),
    }


def chord_record(row: Sequence[Any], date: Callable[[Any], datetime]) -> ChordRecord:
    """Return the record of a row: id, body, header, date of expiry."""
    group_id, body, header, expires = row
    return ChordRecord(
        group_id=group_id,
        body=unframe_loosely(body) if body else None,
        header=unframe_loosely(header) if header else None,
        expires_at=FieldReader().moment("expires_at", expires, date),
    )


def part_row(part: ChordPart, record: TaskRecord | None, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a chord part's columns by name; -1 means no index, because a primary key allows no NULL.

    Args:
        part: the part.
        record: the record that is stored with it; if the part has no result of its own, it gets that of the record.
        date: converts a date for the driver.
    """
    result = kept_result(part, record)
    return {
        "part_group_id": part.group_id,
        "part_task_id": part.task_id,
        "part_index": -1 if part.group_index is None else part.group_index,
        "part_status": part.state,
        "part_result": frame(result) if result else None,
        "part_owner": part.owner,
        "part_expires_at": None if part.expires_at is None else date(part.expires_at),
    }


def part_result(row: Sequence[Any]) -> PartResult:
    """Return a part with its result: its own, or that of its task's row."""
    task_id, index, state, own, text, exact = row
    reader = FieldReader()
    result = unframe_loosely(own) if own is not None else read_payload_loosely(text, exact)
    part = PartResult(
        task_id=text_id(task_id),
        group_index=reader.number("group_index", index),
        state=reader.state(state),
        result=result,
    )
    return replace(part, result=damaged(own or exact or text)) if reader.damage else part


def payload_columns(payload: Payload | None) -> tuple[str | None, bytes | None]:
    """Return the readable JSON text of a payload, and its exact bytes if the text is not the payload itself."""
    if payload is None:
        return None, None
    text = _json_text(payload)
    if text is None:
        sealed = ", encrypted" if payload.key_id.startswith(ENCRYPTED) else ""
        return json.dumps(f"<{payload.content_type}{sealed}, {len(payload.body)} bytes>"), frame(payload)
    is_shown_as_it_is = payload.content_encoding == "utf-8" and is_portable(text)
    if is_shown_as_it_is and not payload.key_id:
        return text, TYPED_TEXT if payload.content_type == TYPED_JSON else None
    return text if is_shown_as_it_is else _rendition(text), frame(payload)


def read_payload_bytes(text: bytes, exact: bytes | None) -> Payload:
    """Do the same as :func:`read_payload`, for a text as UTF-8 bytes."""
    if exact is None or exact == TYPED_TEXT:
        return Payload(text, "application/json" if exact is None else TYPED_JSON)
    return unframe(exact)


def read_payload(text: str | None, exact: bytes | None) -> Payload | None:
    """Return the payload in two columns from :func:`payload_columns`."""
    if text is None:
        return None if exact is None else unframe(exact)
    return read_payload_bytes(text.encode(), exact)


def read_payload_loosely(text: Any, exact: Any) -> Payload | None:
    """Do the same for columns that may be damaged. Then return a payload whose decoding raises an error."""
    if exact is not None and not isinstance(exact, (bytes, bytearray, memoryview)):
        return damaged(exact)
    if text is not None and not isinstance(text, str):
        return damaged(text)
    framed = None if exact is None else bytes(exact)
    return FieldReader().payload(text if framed is None else framed, lambda: read_payload(text, framed))


def findable(ids: Iterable[str]) -> list[str]:
    """Return each of these ids once, without those that cannot be SQL text, which no row has."""
    return [text for text in dict.fromkeys(ids) if storable(text) == text]


def replace_params(old: TaskRecord, new: TaskRecord) -> dict[str, Any]:
    """Return the parameters of the statement that replaces ``old`` by ``new``: ``new_…`` and ``old_…`` columns."""
    params: dict[str, Any] = {"task_id": checked_id(old.task_id), "old_status": storable(old.state)}
    for prefix, record in (("old_", old), ("new_", new)):
        params[f"{prefix}traceback"] = storable(record.traceback)
        for column in REPLACED_PAYLOADS:
            text, exact = payload_columns(getattr(record, column))
            params[prefix + column], params[f"{prefix}{column}_exact"] = text, exact
            # do not compare the readable version of exact bytes, because another release may have made it
            params[f"{prefix}{column}_is_exact"] = int(exact not in (None, TYPED_TEXT))
    return params


def storable(value: Any) -> Any:
    """Return a text with NUL and lone surrogates as escapes, so that SQL can store it; other values unchanged."""
    if not isinstance(value, str) or (value.isascii() and "\x00" not in value):
        return value
    return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def checked_id(text: str) -> str:
    """Return an id, if SQL text can store it.

    Raises:
        RecordRefused: it cannot.
    """
    if storable(text) != text:
        raise RecordRefused(f"an id with NUL or a lone surrogate: {text!a}", remedy="use a UUID, as Celery does")
    return text
