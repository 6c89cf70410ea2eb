"""Reads how long something is kept: ``"7d"``, a number of seconds, a timedelta, or for ever."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

from rootcellar.errors import ConfigurationError

#: the longest time, a thousand years: every server can store such a date
MAX_SECONDS = 1_000 * 365.25 * 86_400
#: the shortest time; times are kept in whole milliseconds
MIN_SECONDS = 0.001

_FOR_EVER = frozenset({"for ever", "forever", "never", "none", "null"})
_UNITS = {
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3_600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400.0),
    **dict.fromkeys(("y", "year", "years"), 365 * 86_400.0),
}
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"{_NUMBER}\s*([a-z]*)")
#: the units in which a duration is shown, the largest first, with their names
_SHOWN = ((365 * 86_400, "year"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
REMEDY = 'write a number of seconds, a text such as "12h", "7d", "4w" or "7y", a timedelta, or 0 or None for ever'


def read_duration(value: Any, where: str) -> float | None:
    """Return a time in seconds, or ``None`` for ever.

    Args:
        value: a number of seconds; a text such as ``"90"``, ``"30m"``, ``"12h"``, ``"7d"``, ``"4w"``, ``"7y"``
            (365 days each) or ``"for ever"``; a timedelta; 0 or ``None`` for ever.
        where: the setting, for the message.

    Raises:
        ConfigurationError: it is not a time from 0 to a thousand years.
    """
    if value is None:
        return None
    seconds = _seconds(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ConfigurationError(f"{where} is {_quoted(value)}{_why(seconds)}", where=where, remedy=_remedy(value))
    return max(round(seconds, 3), MIN_SECONDS) if seconds else None


def show_duration(seconds: float | None) -> str:
    """Return a time in English: ``90 days``, ``1 day 6 hours``, ``for ever``."""
    if not seconds:
        return "for ever"
    rest, parts = seconds, []
    for size, name in _SHOWN[:-1]:
        number, rest = divmod(rest, size)
        parts += [_counted(int(number), name)] if number else []
    parts += [_counted(round(rest, 3), "second")] if rest or not parts else []
    return " ".join(parts[:2])


def _seconds(value: Any) -> float:
    """Return the seconds of a value; NaN if it is not a time."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _of_text(value.strip().lower())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _why(seconds: float) -> str:
    """Return what is wrong with a number of seconds; nothing if it is none."""
    if math.isnan(seconds):
        return ""
    return ", which is negative" if seconds < 0 else ", which is longer than a thousand years"


def _of_text(text: str) -> float:
    if text in _FOR_EVER:
        return 0.0
    if text.startswith("-"):
        return -_of_text(text[1:].lstrip())
    found = _DURATION.fullmatch(text)
    if found is None or (found[2] and found[2] not in _UNITS):
        return math.nan
    return float(found[1]) * _UNITS.get(found[2], 1.0)


def _remedy(value: Any) -> str:
    """Return what to write, with a guess at what was meant."""
    found = re.match(rf"\s*{_NUMBER}\s*([A-Za-z]+)", value) if isinstance(value, str) else None
    if found is None:
        return REMEDY
    unit = found[2].lower()
    if unit in ("mo", "mos") or unit.startswith("month"):
        return f'a month has no fixed length: write "{int(float(found[1]) * 30)}d"; {REMEDY}'
    return f'did you mean "{found[1]}{unit[0]}"? {REMEDY}' if unit[0] in _UNITS and unit != unit[0] else REMEDY


def _quoted(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _counted(number: float, name: str) -> str:
    return f"{number:g} {name}{'' if number == 1 else 's'}"
