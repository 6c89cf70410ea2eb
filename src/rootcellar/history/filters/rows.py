"""A record as a filter reads it: its values as plain data, and what its exception says."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from rootcellar.records import ENCRYPTED, NO_DATE, TYPED_JSON, Payload, TaskRecord

#: the states whose result is an exception; also RETRY, while the task has not ended
FAILED_STATES = frozenset({"FAILURE", "REVOKED"})
_JSON_TYPES = ("application/json", TYPED_JSON)
_MICROSECOND = timedelta(microseconds=1)


class _Sign:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: no value is stored
MISSING: Final = _Sign("MISSING")
#: a value is stored and cannot be read as JSON
UNREAD: Final = _Sign("UNREAD")

#: returns a record with decrypted and decompressed payloads, as far as that is possible
Opener = Callable[[TaskRecord], TaskRecord]


def as_it_is(record: TaskRecord) -> TaskRecord:
    """Return a record unchanged: the opener of records whose values are plain."""
    return record


class Row:
    """A record as a filter reads it.

    Args:
        record: as it is stored.
        opener: opens it when a value is first read.
    """

    def __init__(self, record: TaskRecord, opener: Opener = as_it_is) -> None:
        self.record = record
        self._opener = opener

    @cached_property
    def _opened(self) -> TaskRecord:
        return self._opener(self.record)

    @cached_property
    def args(self) -> Any:
        return _json(self._opened.args)

    @cached_property
    def kwargs(self) -> Any:
        return _json(self._opened.kwargs)

    @cached_property
    def result(self) -> Any:
        return _json(self._opened.result)

    @cached_property
    def stamps(self) -> Any:
        return _json(self._opened.stamps)

    @property
    def payloads(self) -> list[Payload]:
        """The stored payloads."""
        record = self.record
        found = (record.result, record.args, record.kwargs, record.children, record.stamps)
        return [payload for payload in found if payload is not None]

    @property
    def is_encrypted(self) -> bool:
        return any(payload.key_id.startswith(ENCRYPTED) for payload in self.payloads)

    @property
    def has_failed(self) -> bool:
        """Whether the result is an exception."""
        record = self.record
        return record.state in FAILED_STATES or (record.state == "RETRY" and record.done_at is None)

    @property
    def is_exception_unread(self) -> bool:
        """Whether there is an exception that cannot be read."""
        return self.has_failed and self.result is UNREAD

    @property
    def exception(self) -> dict[str, Any]:
        """The stored exception; empty where the task did not fail."""
        found = self.result if self.has_failed and isinstance(self.result, dict) else {}
        return found if "exc_type" in found else {}

    @property
    def error_names(self) -> tuple[str, ...]:
        """The name of the exception's type, alone and with its module."""
        name, module = self.exception.get("exc_type"), self.exception.get("exc_module")
        if not isinstance(name, str):
            return ()
        return (name, f"{module}.{name}") if isinstance(module, str) else (name,)

    @cached_property
    def error_message(self) -> str | None:
        found = self.exception.get("exc_message")
        if found is None:
            return None
        return " ".join(map(_shown, found)) if isinstance(found, list) else _shown(found)

    @property
    def done_at(self) -> datetime | None:
        """When it ended, if that is known."""
        return None if self.record.done_at == NO_DATE else self.record.done_at

    @property
    def moment(self) -> datetime | None:
        """When it ended, or else started, or else was sent."""
        return self.record.done_at or self.record.started_at or self.record.sent_at

    def microseconds(self, name: str) -> int | None:
        """Return ``runtime``, ``wait`` or ``total``; ``None`` where one of the two times is unknown."""
        start = self.record.started_at if name == "runtime" else self.record.sent_at
        end = self.record.started_at if name == "wait" else self.done_at
        return None if start is None or end is None else (end - start) // _MICROSECOND


def folded(text: str) -> str:
    """Return a text in the form in which free texts are compared: composed, and without the case of letters."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _shown(value: Any) -> str:
    """Return a part of an exception's message as a text."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _json(payload: Payload | None) -> Any:
    """Return the value of a payload of JSON, with exact numbers."""
    if payload is None:
        return MISSING
    if payload.content_type not in _JSON_TYPES or payload.compression or payload.key_id:
        return UNREAD
    try:
        return json.loads(payload.body, parse_float=Decimal, parse_constant=str)
    except (ValueError, RecursionError, ArithmeticError):
        return UNREAD
