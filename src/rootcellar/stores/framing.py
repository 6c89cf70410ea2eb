"""A payload as one blob that describes itself, and what every store says of a chord's part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rootcellar.errors import PayloadUnreadable
from rootcellar.records import (
    ChordPart,
    Payload,
    TaskRecord,
)
from rootcellar.stores.fields import FAILURES, damaged

_FRAME = b"rc1\n"


def kept_result(part: ChordPart, record: TaskRecord | None) -> Payload | None:
    """Return what a chord keeps of a part: its own result, or that of the record that it is stored with."""
    return part.result if part.result is not None or record is None else record.result


def claimant(part: ChordPart) -> str:
    """Return the claimant id of a part: the same if a delivery is repeated, so that it may claim the chord again."""
    return f"{part.task_id}/{part.group_index}/{part.delivery}"


def unframe_loosely(blob: Any) -> Payload:
    """Return the payload that :func:`frame` wrote, or one that says when it is decoded that it is damaged."""
    try:
        return unframe(bytes(blob) if isinstance(blob, (bytearray, memoryview)) else blob)
    except FAILURES:
        return damaged(blob)


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


def chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut ``items`` into pieces of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
