"""Checks the fields of records: those that come in a message, and those that were stored.

A header of a message may have any value. It is converted to a value that every store can hold, or dropped. A stored
field that cannot be read does not make the record unreadable: the record names it in ``damage``, and only a caller that
decodes this field gets an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar
from uuid import UUID

from rootcellar.errors import RootcellarError
from rootcellar.records import DAMAGED, FOREIGN, NO_DATE, Payload, TaskRecord

T = TypeVar("T")

#: the first and the last moment that every server can store
EARLIEST = datetime(1000, 1, 1, tzinfo=timezone.utc)
LATEST = datetime.max.replace(tzinfo=timezone.utc)
#: the most characters of an id and of another text that comes in a header
LONGEST_ID, LONGEST_TEXT = 255, 500
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]| $")
#: the largest integer that every server can store
_LARGEST_NUMBER = 2**31 - 1
#: the end of the range of signed integers of 64 bits
_INT64_END = 2**63
_PAYLOADS = ("result", "args", "kwargs", "children", "stamps")
#: the exceptions that reading a damaged value may raise
FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, RootcellarError)


# -- values that come in a message


def text_id(value: Any) -> str:
    """Return the id of a task or group as text, such as of a ``uuid.UUID`` or bytes."""
    if type(value) is str:
        return value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def id_of(value: Any) -> str | None:
    """Return the value of a header as the text of an id; ``None`` if it cannot be an id."""
    # nearly every id takes this path: a printable text contains neither NUL nor a lone surrogate
    if type(value) is str and value.isprintable() and 0 < len(value) <= LONGEST_ID and value[-1] != " ":
        return value
    if isinstance(value, (str, bytes, UUID, int)) and not isinstance(value, bool):
        text = text_id(value)
        return text if 0 < len(text) <= LONGEST_ID and _is_storable_everywhere(text) else None
    return None


def _is_storable_everywhere(text: str) -> bool:
    """Return whether every server can store a text as an id: without NUL, lone surrogates and a space at its end."""
    return _NOT_STORABLE.search(text) is None


def text_of(value: Any) -> str | None:
    """Return the value of a header as text, cut to :data:`LONGEST_TEXT` characters; ``None`` if it is not a text."""
    if type(value) is str and len(value) <= LONGEST_TEXT:
        return value
    if isinstance(value, (str, bytes, UUID, int, float)) and not isinstance(value, bool):
        text = text_id(value)
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return None


def number_of(value: Any) -> int | None:
    """Return the value of a header as a number, at least 0; ``None`` if not every server can store it."""
    if type(value) is int:
        return value if 0 <= value <= _LARGEST_NUMBER else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if is_whole and 0 <= value <= _LARGEST_NUMBER else None


def moment_of(value: Any) -> datetime | None:
    """Return the value of a header or an attribute as a time in UTC; ``None`` if it is not a time."""
    try:
        return clamped(value if isinstance(value, datetime) else datetime.fromisoformat(value))
    except FAILURES:
        return None


def clamped(moment: datetime) -> datetime:
    """Return a moment in UTC, within the range that every server can store. Without a time zone it counts as UTC."""
    if moment.tzinfo is timezone.utc and EARLIEST <= moment <= LATEST:
        return moment
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    try:
        moment = moment.astimezone(timezone.utc)
    except OverflowError:
        return EARLIEST if moment.year < LATEST.year else LATEST
    return min(max(moment, EARLIEST), LATEST)


# -- values that were stored


def damaged(raw: Any) -> Payload:
    """Return the payload that replaces an unreadable one: decoding it raises an error of rootcellar."""
    body = bytes(raw) if isinstance(raw, (bytes, bytearray, memoryview)) else str(raw).encode("utf-8", "replace")
    return Payload(body, DAMAGED, "binary")


def unreadable(record: TaskRecord) -> list[str]:
    """Return the names of the damaged fields without which the record would be misleading: state and traceback."""
    return [name for name in record.damage if name in ("state", "traceback")]


def damaged_fields(record: TaskRecord) -> list[str]:
    """Return the names of all fields of a record that are stored and cannot be read."""
    damage = [*record.damage]
    for name in _PAYLOADS:
        payload = getattr(record, name)
        if payload is not None and payload.content_type in (DAMAGED, FOREIGN):
            damage.append(name)
    return damage


class FieldReader:
    """Reads the fields of one record.

    Attributes:
        damage: the names of the fields that could not be read; see :attr:`TaskRecord.damage`.
    """

    __slots__ = ("damage",)

    def __init__(self) -> None:
        self.damage: list[str] = []

    def text(self, name: str, value: Any) -> str | None:
        """Return a text."""
        if value is None or type(value) is str:
            return value
        self.damage.append(name)
        return None

    def state(self, value: Any) -> str:
        """Return a state; ``FAILURE`` for one that cannot be read, so that no client waits for the task."""
        if type(value) is str and value:
            return value
        self.damage.append("state")
        return "FAILURE"

    def number(self, name: str, value: Any) -> int | None:
        """Return a number."""
        if value is None or type(value) is int:
            return value
        self.damage.append(name)
        return None

    def failure_group(self, value: Any) -> int | None:
        """Return the number of a group of failures. A number of more than 64 bits is damaged: no other store has it."""
        if value is None:
            return None
        # MongoDB's driver returns a subclass of int
        if isinstance(value, int) and not isinstance(value, bool) and -_INT64_END <= value < _INT64_END:
            return int(value)
        self.damage.append("failure_group")
        return None

    def moment(self, name: str, value: Any, read: Callable[[Any], datetime] = clamped) -> datetime | None:
        """Return a moment; ``read`` converts the stored value."""
        if value is None:
            return None
        try:
            moment = read(value)
            # the same check as in clamped, without its call
            return moment if moment.tzinfo is timezone.utc and EARLIEST <= moment <= LATEST else clamped(moment)
        except FAILURES:
            self.damage.append(name)
            return None

    def done_at(self, value: Any, read: Callable[[Any], datetime] = clamped) -> datetime | None:
        """Return when a task ended; call it after :meth:`state`. A task whose state is unreadable counts as ended."""
        moment = self.moment("done_at", value, read)
        return NO_DATE if moment is None and (value is not None or "state" in self.damage) else moment

    def payload(self, raw: Any, read: Callable[[], Payload | None]) -> Payload | None:
        """Return a payload; if it cannot be read, :func:`damaged` of the ``raw`` value."""
        try:
            return read()
        except FAILURES:
            return damaged(raw)
