"""Converts chords to the fields of a hash, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, PartResult, Payload, TaskRecord
from rootcellar.stores.fields import FAILURES, FieldReader, damaged
from rootcellar.stores.framing import frame, kept_result, unframe_loosely
from rootcellar.stores.redis.keys import decoded, encoded

_PART = b"part:"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
#: the fields of a chord's hash from which its record is made
RECORD_FIELDS = ("begun", "body", "header", "expires_at", "done")


def part_field(part: ChordPart) -> bytes:
    """Return the name of a part's field: one for each task and index in the header."""
    index = b"" if part.group_index is None else b"%d" % part.group_index
    return _PART + index + b":" + encoded(part.task_id)


def part_value(part: ChordPart, record: TaskRecord | None) -> bytes:
    """Return the stored form of a part; ``record`` is the record that is stored with it, or ``None``."""
    kept = kept_result(part, record)
    return json.dumps(part.state).encode() + b"\n" + (frame(kept) if kept is not None else b"")


def read_part(field: bytes, value: bytes) -> PartResult:
    """Return a part as it was counted. Decoding the result of a damaged part raises an error."""
    index, _, task_id = field[len(_PART) :].partition(b":")
    state, _, framed = value.partition(b"\n")
    reader = FieldReader()
    part = PartResult(
        task_id=decoded(task_id),
        group_index=int(index) if index.removeprefix(b"-").isdigit() else None,
        state=reader.state(_json_of(state)),
        result=unframe_loosely(framed) if framed else None,
    )
    return replace(part, result=damaged(value)) if reader.damage else part


def _json_of(text: bytes) -> Any:
    try:
        return json.loads(text)
    except FAILURES:
        return None


def read_parts(fields: Sequence[bytes]) -> list[PartResult]:
    """Return the parts of a chord's hash, in the order of the header, those without an index last."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    parts = [read_part(field, value) for field, value in pairs if field.startswith(_PART)]
    return sorted(parts, key=lambda part: (part.group_index is None, part.group_index or 0, part.task_id))


def read_record(group_id: str, values: Sequence[bytes | None]) -> ChordRecord | None:
    """Return the chord with these values of :data:`RECORD_FIELDS`; ``None`` if it was not begun or is finished."""
    begun, body, header, expires, done = values
    if not begun or done:
        return None
    return ChordRecord(
        group_id=group_id,
        body=unframe_loosely(body) if body else None,
        header=unframe_loosely(header) if header else None,
        expires_at=FieldReader().moment("expires_at", expires, _moment) if expires else None,
    )


def _moment(since_1970: bytes) -> datetime:
    return _EPOCH + int(since_1970) * _MICROSECOND


def framed(payload: Payload | None) -> bytes:
    return b"" if payload is None else frame(payload)


def microseconds(moment: datetime | None) -> bytes:
    """Return a moment as text; empty for never."""
    return b"" if moment is None else b"%d" % ((moment - _EPOCH) // _MICROSECOND)


def progress(answer: Sequence[int]) -> ChordProgress:
    """Return the progress in the reply of a script that counts a part: size, counted, claimed, finished."""
    size, counted, claimed, finished = answer[:4]
    return ChordProgress(
        size=None if size < 0 else size, counted=counted, claimed=bool(claimed), finished=bool(finished)
    )
