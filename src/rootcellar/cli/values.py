"""Formats stored payloads as readable text and for ``--json``. Only JSON is decoded: a pickle could run code.

Typed JSON is shown as JSON, with the values in its markers. No object of an application is created.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from rootcellar.cli.times import seconds_between
from rootcellar.errors import PayloadError, SealBroken
from rootcellar.payloads import TRACEBACK, Codec
from rootcellar.payloads.blobs import REFERENCE, size_of
from rootcellar.payloads.encryption import sealed_text
from rootcellar.payloads.typed import readable
from rootcellar.records import DAMAGED, ENCRYPTED, FOREIGN, NO_DATE, TYPED_JSON, Payload, TaskRecord
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.relations import children_of, other_than

_JSON = "application/json"
_CODEC = Codec(accept={_JSON})
_UNREADABLE = {DAMAGED: "damaged", FOREIGN: "stored by Celery with another serializer than JSON"}
#: the fields of a record in the order in which ``--json`` gives them
FIELDS = (
    *("state", "task_id", "name", "args", "kwargs", "result", "traceback"),
    *("sent_at", "started_at", "done_at", "expires_at", "queue", "worker", "retries"),
    *("group_id", "group_index", "parent_id", "root_id", "children", "stamps"),
)


class Summary(str):
    """A short description of a payload whose value is not shown."""


def json_value(stored: Payload | None) -> Any:
    """Return the value of a payload as plain JSON, or a :class:`Summary` if it cannot or must not be decoded."""
    if stored is None:
        return None
    if stored.content_type == REFERENCE:
        return Summary(f"<kept in a blob of {size_of(stored):,} bytes>")
    if stored.content_type in _UNREADABLE:
        return Summary(f"<{_UNREADABLE[stored.content_type]}, {len(stored.body)} bytes>")
    if stored.content_type not in (_JSON, TYPED_JSON) or stored.key_id:
        return _summary(stored)
    try:
        if stored.content_type == TYPED_JSON:
            return _plain(readable(_CODEC.compressor.decompress(stored).body.decode()))
        return _plain(_CODEC.decode(stored, task_id=""))
    except (PayloadError, ValueError):
        return _summary(stored, "unreadable")
    except RecursionError:
        return _summary(stored, "nested too deeply")


def one_line(stored: Payload | None) -> str:
    """Return a payload as compact JSON in one line."""
    return _compact(json_value(stored))


def pretty(stored: Payload | None) -> str:
    """Return a payload as indented JSON."""
    value = json_value(stored)
    return value if isinstance(value, Summary) else json.dumps(value, indent=2, ensure_ascii=False)


def traceback_text(record: TaskRecord) -> str:
    """Return a task's traceback, or a :class:`Summary` if it is encrypted."""
    text = record.traceback or ""
    try:
        stored = sealed_text(text, record.task_id, TRACEBACK)
    except SealBroken:
        return text
    return _summary(stored) if stored.key_id.startswith(ENCRYPTED) else stored.body.decode("utf-8", "surrogatepass")


def outcome(record: TaskRecord) -> str:
    """Return a task's result in one line, or its exception as ``Class(arguments)``."""
    value = json_value(record.result)
    if isinstance(value, Mapping) and "exc_type" in value:
        return _exception(value)
    return "" if record.result is None else _compact(value)


def json_object(record: TaskRecord) -> dict[str, Any]:
    """Return a record as an object of plain JSON: times in ISO 8601 and UTC, durations in seconds."""
    shown = {name: _field(getattr(record, name)) for name in FIELDS}
    shown["parent_id"] = other_than(record.task_id, record.parent_id)
    if record.children is not None and isinstance(shown["children"], list):
        shown["children"] = children_of(record.task_id, shown["children"])
    shown["done_at"] = _plain(known(record.done_at))
    shown["traceback"] = None if record.traceback is None else traceback_text(record)
    shown["queue_wait_seconds"] = seconds_between(record.sent_at, record.started_at)
    shown["run_seconds"] = seconds_between(record.started_at, known(record.done_at))
    if damage := damaged_fields(record):
        shown["unreadable"] = damage
    return shown


def known(moment: datetime | None) -> datetime | None:
    """Return a moment, or ``None`` for :data:`NO_DATE`, which means unknown."""
    return None if moment == NO_DATE else moment


def unreadable_fields(record: TaskRecord) -> str:
    """Return a message that names the unreadable fields of a record; empty if there are none."""
    damage = damaged_fields(record)
    return f"task {record.task_id} is damaged, this cannot be read: {', '.join(damage)}" if damage else ""


def _field(value: Any) -> Any:
    return json_value(value) if isinstance(value, Payload) else _plain(value)


def _compact(value: Any) -> str:
    return value if isinstance(value, Summary) else json.dumps(value, ensure_ascii=False)


def _exception(stored: Mapping[str, Any]) -> str:
    message = stored.get("exc_message", [])
    args = message if isinstance(message, list) else [message]
    return f"{stored['exc_type']}({', '.join(_compact(arg) for arg in args)})"


def _summary(stored: Payload, why: str = "") -> Summary:
    compression = f", {stored.compression}" if stored.compression else ""
    reason = f", {why}" if why else ""
    sealed = f", {_sealed_by(stored.key_id)}" if stored.key_id else ""
    return Summary(f"<{stored.content_type}{compression}{sealed}, {len(stored.body)} bytes{reason}>")


def _sealed_by(key_id: str) -> str:
    how = "encrypted" if key_id.startswith(ENCRYPTED) else "signed"
    return f"{how} by key {key_id.partition(':')[2].partition(':')[0]}"


def _plain(value: Any) -> Any:
    """Return ``value`` as data that every JSON parser can read."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)
