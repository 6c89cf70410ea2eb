"""Task records in PostgreSQL's binary format. Storing and reading spend most of the client's time here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from operator import attrgetter
from typing import Any

from rootcellar.errors import RecordRefused
from rootcellar.records import TaskRecord
from rootcellar.stores.fields import EARLIEST, FAILURES, LATEST
from rootcellar.stores.sql import rows

#: PostgreSQL counts microseconds from this date
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
_DAY = 86_400_000_000
_SECOND = 1_000_000

#: the first and the last moment that rootcellar stores, in these microseconds
_EARLIEST, _LATEST = ((moment - _EPOCH) // timedelta(microseconds=1) for moment in (EARLIEST, LATEST))

_TEXT_FORM = 0
_BINARY_FORM = 1

_plain = attrgetter(*rows.PLAIN_COLUMNS.values())
_dates = attrgetter(*rows.DATE_COLUMNS.values())
_payloads = attrgetter(*rows.PAYLOAD_COLUMNS)
#: the two columns of a missing payload
_NOTHING = (None, None)


def task_values(record: TaskRecord) -> list[bytes | None]:
    """Return the parameters of a record, in the order of :data:`rows.TASK_COLUMNS`.

    Raises:
        RecordRefused: the task's id cannot be SQL text.
    """
    rows.checked_id(record.task_id)
    try:
        values = [
            None if value is None else encode(value) for value, encode in zip(_plain(record), _ENCODERS, strict=True)
        ]
        values += [None if date is None else encode_date(date) for date in _dates(record)]
    except (AttributeError, TypeError) as exc:
        # such a record would make the records of other threads fail that are written with it
        raise RecordRefused(f"a field of task {record.task_id!a} has the wrong type: {exc}") from exc
    for payload in _payloads(record):
        if payload is None:
            values += _NOTHING
            continue
        text, exact = rows.payload_columns(payload)
        values += (None if text is None else text.encode(), exact)
    return values


def encode_text(text: str) -> bytes:
    """Return a text as bytes, with NUL and lone surrogates as escapes, so that SQL can store it."""
    return text.encode() if text.isascii() and "\x00" not in text else rows.storable(text).encode()


def encode_date(moment: datetime) -> bytes:
    """Return an aware date in PostgreSQL's form: microseconds since 2000."""
    since = moment - _EPOCH
    return (since.days * _DAY + since.seconds * _SECOND + since.microseconds).to_bytes(8, "big", signed=True)


def task_record(values: Sequence[bytes | None]) -> TaskRecord:
    """Return the record of a row that begins with the columns :data:`rows.TASK_COLUMNS`. It may be damaged."""
    try:
        fields: dict[str, Any] = {
            name: None if value is None else read(value)
            for name, value, read in zip(_NAMES, values, _READERS, strict=False)
        }
        place = len(_NAMES)
        for name in rows.PAYLOAD_COLUMNS:
            text, exact = values[place : place + 2]
            place += 2
            if text is not None:
                fields[name] = rows.read_payload_bytes(text, exact)
        return TaskRecord(**fields)
    except FAILURES:
        return _damaged_record(values[: len(rows.TASK_COLUMNS)])


def _damaged_record(values: Sequence[bytes | None]) -> TaskRecord:
    """Read a damaged row field by field."""
    plain = [
        None if value is None else read(value)
        for value, read in zip(values[: len(rows.PLAIN_COLUMNS)], _READERS, strict=False)
    ]
    rest = values[len(rows.PLAIN_COLUMNS) :]
    dates, payloads = rest[: len(rows.DATE_COLUMNS)], rest[len(rows.DATE_COLUMNS) :]
    texts = [value if place % 2 or value is None else value.decode() for place, value in enumerate(payloads)]
    return rows.task_record([*plain, *dates, *texts], read_date)


def _encode_integer(value: int) -> bytes:
    # as text, so that the server reports a value that is out of range
    return str(value).encode()


def _read_integer(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def read_date(value: bytes) -> datetime:
    """Return the date of a binary value; one that Python does not have becomes the nearest one that it has."""
    microseconds = int.from_bytes(value, "big", signed=True)
    # servers can store dates that Python cannot: other centuries, and -infinity and infinity
    if not _EARLIEST <= microseconds <= _LATEST:
        microseconds = min(max(microseconds, _EARLIEST), _LATEST)
    return _EPOCH + timedelta(microseconds=microseconds)


_ENCODERS: list[Callable[[Any], bytes]] = [
    _encode_integer if column in rows.NUMBER_COLUMNS else encode_text for column in rows.PLAIN_COLUMNS
]
#: the form (text or binary) of each value of :func:`task_values`
TASK_FORMS = [
    *(_TEXT_FORM if column in rows.NUMBER_COLUMNS else _BINARY_FORM for column in rows.PLAIN_COLUMNS),
    *[_BINARY_FORM] * (len(rows.DATE_COLUMNS) + 2 * len(rows.PAYLOAD_COLUMNS)),
]
_NAMES = (*rows.PLAIN_COLUMNS.values(), *rows.DATE_COLUMNS.values())
_READERS: list[Callable[[bytes], Any]] = [
    *(_read_integer if column in rows.NUMBER_COLUMNS else bytes.decode for column in rows.PLAIN_COLUMNS),
    *[read_date] * len(rows.DATE_COLUMNS),
]
