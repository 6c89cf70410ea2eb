"""A payload with its description as one blob, and two functions for the parts of chords that every store needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from rootcellar.errors import PayloadUnreadable
from rootcellar.records import (
    ChordPart,
    Payload,
    TaskRecord,
)
from rootcellar.stores.fields import FAILURES, damaged

_FRAME = b"rc1\n"
#: a header that is longer has something that other payloads do not have
_LONGEST_COMMON_HEADER = 80


def kept_result(part: ChordPart, record: TaskRecord | None) -> Payload | None:
    """Return the result that a chord keeps for a part: the part's own, or else that of the record stored with it."""
    return part.result if part.result is not None or record is None else record.result


def claimant(part: ChordPart) -> str:
    """Return the claimant id of a part. A repeated delivery has the same id, so that it may claim the chord again."""
    return f"{part.task_id}/{part.group_index}/{part.delivery}"


def unframe_loosely(blob: Any) -> Payload:
    """Return the payload that :func:`frame` wrote; for any other blob, a payload whose decoding raises an error."""
    try:
        return unframe(bytes(blob) if isinstance(blob, (bytearray, memoryview)) else blob)
    except FAILURES:
        return damaged(blob)


def frame(payload: Payload) -> bytes:
    """Return the payload as one blob: a header with its type, encoding, compression and key, then the body."""
    # a key's id contains the signature, so that no other payload has the same header
    header = _header.__wrapped__ if payload.key_id else _header
    written: bytes = header(payload.content_type, payload.content_encoding, payload.compression, payload.key_id)
    return written + payload.body


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
            raise ValueError("its header is not valid")
    except (ValueError, TypeError, RecursionError) as exc:
        raise PayloadUnreadable(f"a stored payload is damaged: {exc}", remedy="restore it from a backup") from exc
    return Payload(body, content_type, content_encoding, compression, key_id)


@lru_cache(maxsize=32)
def _header(content_type: str, content_encoding: str, compression: str, key_id: str) -> bytes:
    return _FRAME + json.dumps([content_type, content_encoding, compression, key_id]).encode() + b"\n"


def _read_header(head: bytes) -> tuple[str, str, str, str]:
    # nearly all payloads have one of a few headers; a long one has a signature, or is damaged
    return _few_headers(head) if len(head) < _LONGEST_COMMON_HEADER else _few_headers.__wrapped__(head)


@lru_cache(maxsize=32)
def _few_headers(head: bytes) -> tuple[str, str, str, str]:
    content_type, content_encoding, compression, key_id = json.loads(head)
    if not all(type(text) is str for text in (content_type, content_encoding, compression, key_id)):
        raise ValueError("its header is none")
    return content_type, content_encoding, compression, key_id


def chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut ``items`` into pieces of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
