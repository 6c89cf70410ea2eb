"""Celery's own tables, as its ``db+`` backends create them: how to recognize them, and how to read their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rootcellar.records import ENDS, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import LATEST, FieldReader, clamped

#: appended to the name of an adopted table
ADOPTED_SUFFIX = "_before_rootcellar"
#: the names of Celery's group table: its default, and the name in common guides
GROUP_TABLES = ("celery_tasksetmeta", "celery_groupmeta")

_COMPRESSED = b"\x00celery-compressed\x00"
_PICKLE = b"\x80"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Celery's tables after :meth:`Schema.adopt`.

    Attributes:
        task_table, group_table: their new names; ``None`` if there was no such table.
        keep: how long after ``date_done`` a row is kept; ``None`` for ever.
    """

    task_table: str | None
    group_table: str | None
    keep: timedelta | None


def task_record(row: Mapping[str, Any], keep: timedelta | None) -> TaskRecord:
    """Return the record of a row of Celery's task table. Columns that only some versions have may be missing."""
    reader = FieldReader()
    state = reader.state(row.get("status") or "PENDING")
    done = reader.moment("done_at", row.get("date_done"), _aware) or (NO_DATE if state in ENDS else None)
    return TaskRecord(
        task_id=row["task_id"],
        state=state,
        result=payload_of(row.get("result")) or Payload(b"null"),
        traceback=reader.text("traceback", row.get("traceback")),
        name=reader.text("name", row.get("name")),
        args=payload_of(row.get("args")),
        kwargs=payload_of(row.get("kwargs")),
        queue=reader.text("queue", row.get("queue")),
        worker=reader.text("worker", row.get("worker")),
        retries=reader.number("retries", row.get("retries")),
        children=payload_of(row.get("children")),
        stamps=payload_of_stamps(row.get("stamps")),
        done_at=done,
        expires_at=_expiry(done, keep),
        damage=tuple(reader.damage),
    )


def group_record(row: Mapping[str, Any], keep: timedelta | None) -> GroupRecord:
    """Return the record of a row of Celery's group table."""
    done = FieldReader().moment("done_at", row.get("date_done"), _aware) or NO_DATE
    return GroupRecord(
        group_id=row["taskset_id"],
        result=payload_of(row.get("result")) or Payload(b"null"),
        done_at=done,
        expires_at=_expiry(done, keep),
    )


def _expiry(done: datetime | None, keep: timedelta | None) -> datetime | None:
    if done is None or done == NO_DATE or keep is None:
        return None
    try:
        return done + keep
    except OverflowError:
        return LATEST


def payload_of(blob: Any) -> Payload | None:
    """Return the payload of a blob. Its first bytes show the content type, because Celery does not store it."""
    if blob is None:
        return None
    return FieldReader().payload(blob, lambda: _payload(blob))


def _payload(blob: Any) -> Payload:
    body = blob.encode() if isinstance(blob, str) else bytes(memoryview(blob))
    if body.startswith(_COMPRESSED):
        compression, _, packed = body[len(_COMPRESSED) :].partition(b"\x00")
        return Payload(packed, compression=compression.decode())
    if body.startswith(_PICKLE):
        return Payload(body, "application/x-python-serialize", "binary")
    return Payload(body)


def payload_of_stamps(blob: Any) -> Payload | None:
    """Return the stamps of a blob without the list of their names, with which Celery stores them."""
    payload = payload_of(blob)
    if payload is None or payload.content_type != "application/json" or payload.compression:
        return None
    return FieldReader().payload(payload.body, lambda: _unwrapped(payload))


def _unwrapped(payload: Payload) -> Payload:
    return Payload(json.dumps(json.loads(payload.body).get("stamps") or {}).encode())


def _aware(moment: Any) -> datetime:
    known: datetime = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return clamped(known)
