"""Reads and formats durations and dates for people."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)


def parse_span(text: str) -> timedelta:
    """Return the duration that ``30m``, ``2h`` or ``3d`` means. The units are s, m, h, d and w.

    Raises:
        ValueError: ``text`` is not a duration, or the duration is too long.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 30m, 2h, 3d or 1w")
    try:
        return timedelta(**{_UNITS[match[2].lower()]: float(match[1])})
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """Return the moment that ``2h`` (two hours ago) or an ISO date means, as an aware datetime.

    Args:
        text: a duration, or a date with or without a time; in local time if it has no time zone.
        now: the moment from which a duration counts back; ``None`` for the present.

    Raises:
        ValueError: it is neither.
    """
    now = now or datetime.now(timezone.utc)
    if _SPAN.fullmatch(text.strip()):
        try:
            return now - parse_span(text)
        except OverflowError:
            raise ValueError(f"{text!r} is too long ago") from None
    try:
        # Python 3.10 does not know that Z means UTC
        return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip())).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time: write 30m, 2h, 3d, or a date such as 2026-01-31T14:00") from None


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from ``start`` to ``end``, or ``None`` if one of them is unknown."""
    return None if start is None or end is None else (end - start).total_seconds()


def show_seconds(seconds: float | None) -> str:
    """Return a duration as readable text: ``<1 ms``, ``12 ms``, ``3.4 s``, ``2 min 5 s``, ``4 h 10 min``."""
    if seconds is None:
        return "-"
    # clocks of two machines differ, so a wait can be negative; it is shown as it is
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{sign}{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, small_size, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{sign}{whole // size} {unit} {whole % size // small_size} {small_unit}"
    raise AssertionError("unreachable")


def local_time(moment: datetime) -> datetime:
    """Return a moment in local time, or unchanged if local time does not have this year."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment


def show_moment(moment: datetime | None, now: datetime | None = None) -> str:
    """Return a moment as a short text in local time: the time if it is today, the day and time if it is this year."""
    if moment is None:
        return "-"
    local, today = local_time(moment), (now or datetime.now(timezone.utc)).astimezone()
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    return f"{local:%m-%d %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d}"


def full_moment(moment: datetime | None) -> str | None:
    """Return a moment in local time with its date, milliseconds and offset; ``None`` for ``None``."""
    return None if moment is None else local_time(moment).isoformat(sep=" ", timespec="milliseconds")
