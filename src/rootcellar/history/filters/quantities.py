"""Reads durations, sizes and numbers of a filter. The errors say what to write."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from rootcellar.history.filters.tree import Duration, Number, Size

_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|[smhdw])")
_NUMBER = re.compile(r"-?\d{1,400}(?:\.\d{1,400})?(?:[eE][+-]?\d{1,3})?")
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(b|kb|mb|gb|kib|mib|gib)?", re.IGNORECASE)
#: the longest duration, in seconds: ten thousand years
_LONGEST = Decimal(315_360_000_000)


def duration(text: str) -> Duration:
    """Return the duration that ``30s``, ``1m30s``, ``1.5h``, ``250ms``, ``2d`` or ``30`` (seconds) means.

    Raises:
        ValueError: it is none, with what to write instead.
    """
    if re.fullmatch(r"\d{1,12}(?:\.\d{1,9})?", text):
        seconds = Decimal(text)
    elif _DURATION.fullmatch(text):
        seconds = sum((Decimal(size) * _SECONDS[unit] for size, unit in _DURATION_PART.findall(text)), Decimal(0))
    elif re.search(r"\d(M|mo|y)\b", text):
        raise ValueError("m means minutes; write months and years in days, such as 30d")
    else:
        raise ValueError("write 250ms, 30s, 1m30s, 1.5h or 2d")
    if seconds > _LONGEST:
        raise ValueError("write a shorter time")
    return Duration(seconds)


def looks_like_number(text: str) -> bool:
    """Return True if a text has the form of a number, of whatever size."""
    return _NUMBER.fullmatch(text) is not None


def number(text: str) -> Number:
    """Return a number, exactly.

    Raises:
        ValueError: it is none, or has an exponent that no database can compare.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError("write a number, such as 3 or 2.5")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError("write a shorter number") from None
    if value and not -400 <= value.adjusted() <= 400:
        raise ValueError("write a number between 1e-400 and 1e400")
    return Number(value, text)


def size(text: str) -> Size:
    """Return the size that ``500``, ``20kB``, ``1.5MB`` or ``2GiB`` means.

    Raises:
        ValueError: it is none, with what to write instead.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("write a number of bytes, such as 500, 20kB, 1.5MB or 2GiB")
    return Size(int(Decimal(match[1]) * _BYTES[(match[2] or "").lower()]))
