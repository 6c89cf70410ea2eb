"""Records as rows of SQL tables, and back: the one place that knows the order of the columns.

A payload takes two columns, ``x`` and ``x_exact``. One that is portable JSON is the text in ``x`` and nothing more; of
typed JSON ``x_exact`` tells that the text is such. Any other lies exactly in ``x_exact``, framed with its content type,
and ``x`` holds a readable rendition: JSON too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rootcellar.errors import PayloadUnreadable, RecordRefused
from rootcellar.fields import FAILURES, Reading, clamped, damaged, text_id
from rootcellar.records import (
    ENCRYPTED,
    NO_DATE,
    SIGNED,
    TYPED_JSON,
    ChordPart,
    ChordRecord,
    GroupRecord,
    PartResult,
    Payload,
    TaskRecord,
)

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
}
DATE_COLUMNS = {
    "date_sent": "sent_at",
    "date_started": "started_at",
    "date_done": "done_at",
    "expires_at": "expires_at",
}
_NUMBERS = ("retries", "group_index")
PAYLOAD_COLUMNS = ("result", "args", "kwargs", "children", "stamps")
TASK_COLUMNS = (
    *PLAIN_COLUMNS,
    *DATE_COLUMNS,
    *(name for column in PAYLOAD_COLUMNS for name in (column, f"{column}_exact")),
)

#: deeper than this, a server's JSON parser may refuse a text that Python wrote
_PORTABLE_DEPTH = 512
#: beyond this, a number may not fit a server's numeric type
_LONG_NUMBER = re.compile(r"\d{400}|[eE][+-]?\d{4}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
#: also one that does not end: each is looked at once
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_FRAME = b"rc1\n"
#: stands in ``x_exact`` for typed JSON whose bytes are the text in ``x``
_TYPED_TEXT = b"rc1 typed text"
#: the columns that an upsert always sets; the others keep what was stored where nothing new is given
STATE_COLUMNS = ("status", "result", "result_exact", "traceback", "date_done", "expires_at")

#: the columns that a replacement sets: those of values, and a traceback
REPLACED_PAYLOADS = ("result", "args", "kwargs", "stamps")
REPLACED_COLUMNS = ("traceback", *(name for column in REPLACED_PAYLOADS for name in (column, f"{column}_exact")))

DateAdapter = Callable[[datetime], Any]


def task_row(record: TaskRecord, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a task's columns by name, dates turned by ``date`` into what the driver takes.

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
    """Return the record of a row whose columns are those of :data:`TASK_COLUMNS`, in that order, whatever they hold."""
    values = dict(zip(TASK_COLUMNS, row, strict=True))
    reading = Reading()
    fields: dict[str, Any] = {
        name: (reading.number if name in _NUMBERS else reading.text)(name, values[column])
        for column, name in PLAIN_COLUMNS.items()
        if name not in ("task_id", "state")
    }
    state = reading.state(values["status"])
    for column, name in DATE_COLUMNS.items():
        fields[name] = reading.moment(name, values[column], date) if name != "done_at" else None
    fields["done_at"] = reading.done_at(values["date_done"], date)
    for column in PAYLOAD_COLUMNS:
        fields[column] = read_payload_loosely(values[column], values[f"{column}_exact"])
    return TaskRecord(task_id=values["task_id"], state=state, damage=tuple(reading.damage), **fields)


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
    reading = Reading()
    return GroupRecord(
        group_id=group_id,
        result=read_payload_loosely(text, exact) or damaged(b""),
        done_at=reading.moment("done_at", done, date) or NO_DATE,
        expires_at=reading.moment("expires_at", expires, date),
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
        expires_at=Reading().moment("expires_at", expires, date),
    )


def part_row(part: ChordPart, record: TaskRecord | None, date: DateAdapter = lambda value: value) -> dict[str, Any]:
    """Return a chord part's columns by name; -1 stands for no index, for a primary key takes no NULL.

    Args:
        part: the part.
        record: the record that it is stored with, whose result it has where it brings none of its own.
        date: turns a date into what the driver takes.
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


def kept_result(part: ChordPart, record: TaskRecord | None) -> Payload | None:
    """Return what a chord keeps of a part: its own result, or that of the record that it is stored with."""
    return part.result if part.result is not None or record is None else record.result


def claimant(part: ChordPart) -> str:
    """Name whoever stores ``part``: doing so again it is the same one, and may claim the chord again."""
    return f"{part.task_id}/{part.group_index}/{part.delivery}"


def part_result(row: Sequence[Any]) -> PartResult:
    """Return what a part gave: its own result, or the one that its task's row holds."""
    task_id, index, state, own, text, exact = row
    reading = Reading()
    result = unframe_loosely(own) if own is not None else read_payload_loosely(text, exact)
    part = PartResult(
        task_id=text_id(task_id),
        group_index=reading.number("group_index", index),
        state=reading.state(state),
        result=result,
    )
    return replace(part, result=damaged(own or exact or text)) if reading.damage else part


def payload_columns(payload: Payload | None) -> tuple[str | None, bytes | None]:
    """Return the readable JSON text of a payload, and its exact bytes where the text is not the payload itself."""
    if payload is None:
        return None, None
    text = _json_text(payload)
    if text is None:
        sealed = ", encrypted" if payload.key_id.startswith(ENCRYPTED) else ""
        return json.dumps(f"<{payload.content_type}{sealed}, {len(payload.body)} bytes>"), frame(payload)
    is_shown_as_it_is = payload.content_encoding == "utf-8" and is_portable(text)
    if is_shown_as_it_is and not payload.key_id:
        return text, _TYPED_TEXT if payload.content_type == TYPED_JSON else None
    return text if is_shown_as_it_is else _rendition(text), frame(payload)


def read_payload_bytes(text: bytes, exact: bytes | None) -> Payload:
    """Return the same as :func:`read_payload` of the text as UTF-8."""
    if exact is None or exact == _TYPED_TEXT:
        return Payload(text, "application/json" if exact is None else TYPED_JSON)
    return unframe(exact)


def read_payload(text: str | None, exact: bytes | None) -> Payload | None:
    """Return the payload of two columns that :func:`payload_columns` made."""
    if text is None:
        return None if exact is None else unframe(exact)
    return read_payload_bytes(text.encode(), exact)


def read_payload_loosely(text: Any, exact: Any) -> Payload | None:
    """Do the same whatever the columns hold; what cannot be read becomes a payload that says so when it is decoded."""
    if exact is not None and not isinstance(exact, (bytes, bytearray, memoryview)):
        return damaged(exact)
    if text is not None and not isinstance(text, str):
        return damaged(text)
    framed = None if exact is None else bytes(exact)
    return Reading().payload(text if framed is None else framed, lambda: read_payload(text, framed))


def unframe_loosely(blob: Any) -> Payload:
    """Return the payload that :func:`frame` wrote, or one that says when it is decoded that it is damaged."""
    try:
        return unframe(bytes(blob) if isinstance(blob, (bytearray, memoryview)) else blob)
    except FAILURES:
        return damaged(blob)


def is_portable(text: str) -> bool:
    """Tell whether a JSON text written by Python also casts to ``jsonb`` and reads the same in any language."""
    if "\x00" in text:
        return False
    if "\\u" in text and ("\\u0000" in text or _SURROGATE.search(text)):
        return False
    if ("NaN" in text or "Infinity" in text) and not _is_strict(text):
        return False
    if max(text.count("["), text.count("{")) > _PORTABLE_DEPTH and _depth(text) > _PORTABLE_DEPTH:
        return False
    return not _LONG_NUMBER.search(text) or _is_small_numbered(text)


def frame(payload: Payload) -> bytes:
    """Return the payload as one blob that describes itself."""
    header = [payload.content_type, payload.content_encoding, payload.compression, payload.key_id]
    return _FRAME + json.dumps(header).encode() + b"\n" + payload.body


def unframe(blob: bytes) -> Payload:
    """Return the payload that :func:`frame` wrote.

    Raises:
        PayloadUnreadable: the blob was not written by it.
    """
    head, separator, body = blob.removeprefix(_FRAME).partition(b"\n")
    try:
        if not (blob.startswith(_FRAME) and separator):
            raise ValueError("no header")
        content_type, content_encoding, compression, key_id = json.loads(head)
        if not all(type(text) is str for text in (content_type, content_encoding, compression, key_id)):
            raise ValueError("its header is none")
    except (ValueError, TypeError, RecursionError) as exc:
        raise PayloadUnreadable(f"a stored payload is damaged: {exc}", remedy="restore it from a backup") from exc
    return Payload(body, content_type, content_encoding, compression, key_id)


def findable(ids: Iterable[str]) -> list[str]:
    """Return each of these ids once, but for those that cannot be SQL text: no row has them."""
    return [text for text in dict.fromkeys(ids) if storable(text) == text]


def chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut ``items`` into pieces of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def like_pattern(name: str) -> str:
    """Turn a name with ``*`` into a LIKE pattern with the backslash as its escape."""
    escaped = re.sub(r"([\\%_])", r"\\\1", name)
    return escaped.replace("*", "%")


def prefix_pattern(prefix: str) -> str | None:
    """Turn the beginning of an id into a LIKE pattern, in which every character means itself; empty into ``None``."""
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%" if prefix else None


def glob_pattern(name: str) -> str:
    """Turn a name with ``*`` into a pattern for SQLite's GLOB; its LIKE takes small letters for capital ones."""
    return re.sub(r"([\[?])", r"[\1]", name)


def overwritable(old: str = "t.{}", new: str = "excluded.{}") -> str:
    """Return the condition on which an upsert may overwrite: never a SUCCESS, nor what is done with a late RETRY.

    A run's RETRY is stored after the next run was sent, and may come after that run's end.

    Args:
        old, new: how the upsert writes a column of the row that is there, and of the one that comes.
    """
    is_late = (
        f"{old.format('date_done')} IS NOT NULL AND {new.format('date_done')} IS NULL"
        f" AND coalesce({old.format('retries')}, 0) > coalesce({new.format('retries')}, 0)"
    )
    return f"{old.format('status')} <> 'SUCCESS' AND NOT ({is_late})"


def replace_params(old: TaskRecord, new: TaskRecord) -> dict[str, Any]:
    """Return what a statement that puts ``new`` in the place of ``old`` needs: ``new_…`` and ``old_…`` columns."""
    params: dict[str, Any] = {"task_id": checked_id(old.task_id), "old_status": storable(old.state)}
    for prefix, record in (("old_", old), ("new_", new)):
        params[f"{prefix}traceback"] = storable(record.traceback)
        for column in REPLACED_PAYLOADS:
            text, exact = payload_columns(getattr(record, column))
            params[prefix + column], params[f"{prefix}{column}_exact"] = text, exact
            # what is shown beside exact bytes is made of them, by whichever release stored it
            params[f"{prefix}{column}_is_exact"] = int(exact not in (None, _TYPED_TEXT))
    return params


def replacement(param: Callable[[str, str], str]) -> str:
    """Return what a replacement sets.

    Args:
        param: writes the parameter of a name, such as ``new_result``, for a column.
    """
    return ", ".join(f"{column} = {param('new_' + column, column)}" for column in REPLACED_COLUMNS)


def still_the_same(same: str, param: Callable[[str, str], str], text: str = "{}") -> str:
    """Return the condition that a row's values are still the old ones.

    Args:
        same: how the server says that two values are equal, or both NULL.
        param: writes the parameter of a name, such as ``old_result``, for a column.
        text: how a column of JSON is read as text.
    """
    conditions = [f"traceback {same} {param('old_traceback', 'traceback')}"]
    for column in REPLACED_PAYLOADS:
        exact, shown = param(f"old_{column}_exact", f"{column}_exact"), param(f"old_{column}", f"{column}_text")
        is_exact = param(f"old_{column}_is_exact", f"{column}_is_exact")
        conditions.append(f"{column}_exact {same} {exact}")
        conditions.append(f"({is_exact} = 1 OR {text.format(column)} {same} {shown})")
    return " AND ".join(conditions)


def update_assignments() -> str:
    """Return what an upsert of table ``t`` sets: what belongs to the state always, the rest where it is given."""
    assignments = [f"{column} = excluded.{column}" for column in STATE_COLUMNS]
    for column in TASK_COLUMNS:
        if column in STATE_COLUMNS or column == "task_id":
            continue
        is_kept = kept("excluded.{}", column)
        assignments.append(f"{column} = CASE WHEN {is_kept} THEN t.{column} ELSE excluded.{column} END")
    return ", ".join(assignments)


def kept(new: str, column: str) -> str:
    """Return the condition on which a row keeps a column that does not belong to the state.

    Args:
        new: how the upsert writes a column of the row that comes.
        column: the column.
    """
    given = column.removesuffix("_exact")
    condition = f"{new.format(given)} IS NULL"
    # the children of the last run are all that a finished task has
    return f"{condition} AND {new.format('date_done')} IS NULL" if given == "children" else condition


def named(columns: Sequence[str], style: str) -> str:
    """Return the named parameters of ``columns``, such as ``%(task_id)s``, joined by commas."""
    return ", ".join(style.format(column) for column in columns)


def _json_text(payload: Payload) -> str | None:
    """Return the text of a payload that is plain, typed or signed JSON, ``None`` for any other."""
    is_open = not payload.key_id or payload.key_id.startswith(SIGNED)
    if payload.content_type not in ("application/json", TYPED_JSON) or payload.compression or not is_open:
        return None
    try:
        return payload.body.decode(payload.content_encoding)
    except (LookupError, UnicodeDecodeError):
        return None


def storable(value: Any) -> Any:
    """Return a text as SQL can hold it: NUL and lone surrogates as escapes. Anything else stays as it is."""
    if not isinstance(value, str) or (value.isascii() and "\x00" not in value):
        return value
    return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def checked_id(text: str) -> str:
    """Return an id that SQL text can hold.

    Raises:
        RecordRefused: it cannot.
    """
    if storable(text) != text:
        raise RecordRefused(f"an id with NUL or a lone surrogate: {text!a}", remedy="use a UUID, as Celery does")
    return text


def _is_strict(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _is_small_numbered(text: str) -> bool:
    """Look again at a text in which a long run of digits was seen: inside a string it is harmless."""
    sizes: list[int] = []

    def note(number: str) -> float:
        exponent = re.search(r"[eE]([+-]?\d+)$", number)
        sizes.append(len(number) + abs(int(exponent[1]) if exponent else 0))
        return 0.0

    try:
        json.loads(text, parse_int=note, parse_float=note)
    except (ValueError, RecursionError):
        return False
    return max(sizes, default=0) < 10_000


def _depth(text: str) -> int:
    """Return how deep the brackets of a JSON text nest."""
    depth = deepest = 0
    for character in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _rendition(text: str) -> str:
    """Return portable JSON that shows what ``text`` holds, for people who read the table."""
    try:
        value = json.loads(text, parse_constant=str)
        shown = json.dumps(_presentable(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(f"<application/json, {len(text)} characters>")
    return shown if is_portable(shown) else json.dumps(f"<application/json, {len(text)} characters>")


def _presentable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\u2400").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_presentable(key): _presentable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_presentable(item) for item in value]
    return value
