"""Celery's own tables, as its ``db+`` backends make them: how to tell them, and how to read their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.records import GroupRecord, Payload, TaskRecord

#: appended to the name of an adopted table
ASIDE = "_before_rootcellar"
#: the names that Celery gives its group table: its default, and what the guides set
GROUP_TABLES = ("celery_tasksetmeta", "celery_groupmeta")

_COMPRESSED = b"\x00celery-compressed\x00"
_PICKLE = b"\x80"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Celery's tables after :meth:`Schema.adopt`.

    Attributes:
        task_table, group_table: their new names (``None`` where there was none).
        keep: how long after ``date_done`` a row is kept; ``None`` for ever.
    """

    task_table: str | None
    group_table: str | None
    keep: timedelta | None


def task_record(row: Mapping[str, Any], keep: timedelta | None) -> TaskRecord:
    """Return the record of a row of Celery's task table, whichever of its columns it has."""
    done = _aware(row.get("date_done"))
    stamps = row.get("stamps")
    return TaskRecord(
        task_id=row["task_id"],
        state=row["status"] or "PENDING",
        result=_payload(row.get("result")) or Payload(b"null"),
        traceback=row.get("traceback"),
        name=row.get("name"),
        args=_payload(row.get("args")),
        kwargs=_payload(row.get("kwargs")),
        queue=row.get("queue"),
        worker=row.get("worker"),
        retries=row.get("retries"),
        children=_payload(row.get("children")),
        stamps=_stamps(_payload(stamps)) if stamps is not None else None,
        done_at=done,
        expires_at=done + keep if done and keep is not None else None,
    )


def group_record(row: Mapping[str, Any], keep: timedelta | None) -> GroupRecord:
    """Return the record of a row of Celery's group table."""
    done = _aware(row.get("date_done")) or datetime.now(timezone.utc)
    return GroupRecord(
        group_id=row["taskset_id"],
        result=_payload(row.get("result")) or Payload(b"null"),
        done_at=done,
        expires_at=done + keep if keep is not None else None,
    )


def _payload(blob: Any) -> Payload | None:
    """Tell what a blob is by how it begins; Celery did not note it."""
    if blob is None:
        return None
    body = blob.encode() if isinstance(blob, str) else bytes(blob)
    if body.startswith(_COMPRESSED):
        compression, _, packed = body[len(_COMPRESSED) :].partition(b"\x00")
        return Payload(packed, compression=compression.decode())
    if body.startswith(_PICKLE):
        return Payload(body, "application/x-python-serialize", "binary")
    return Payload(body)


def _stamps(payload: Payload | None) -> Payload | None:
    """Celery wraps the stamps with the list of their names, which says nothing that the stamps do not."""
    if payload is None or payload.content_type != "application/json" or payload.compression:
        return None
    stored = json.loads(payload.body)
    return Payload(json.dumps(stored.get("stamps") or {}).encode())


def _aware(moment: Any) -> datetime | None:
    if moment is None:
        return None
    known: datetime = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return known.replace(tzinfo=timezone.utc) if known.tzinfo is None else known.astimezone(timezone.utc)
