"""Writes and reads dates, times and durations as text, with microseconds and the zone's name."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from rootcellar.payloads.typed.markers import kombu_marker, marker

_SPAN = re.compile(r"P(-?\d{1,9})DT(\d{1,5})(?:\.(\d{6}))?S")
_ZONED = re.compile(r"(.+)\[([\w/+-]+)\]")


def write_datetime(value: datetime) -> dict[str, Any]:
    """Write a date and time, with the name of its zone as in RFC 9557: ``2031-05-06T07:08:09+02:00[Europe/Berlin]``."""
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        return marker("datetime", f"{value.isoformat()}[{zone.key}]")
    return kombu_marker("datetime", value.isoformat())


def read_datetime(text: str) -> datetime:
    """Read a text that kombu or rootcellar wrote."""
    return datetime.fromisoformat(_with_offset(text))


def read_zoned_datetime(text: str) -> datetime:
    """Read a date and time with its zone: the same local time if the zone still has it, else the same moment."""
    zoned = _ZONED.fullmatch(text)
    if zoned is None:
        raise ValueError("no zone")
    moment, zone = datetime.fromisoformat(zoned[1]), ZoneInfo(zoned[2])
    for fold in (0, 1):
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == moment.utcoffset():
            return local
    return moment.astimezone(zone)


def read_date(text: str) -> date:
    """Read a text that kombu or rootcellar wrote."""
    return date.fromisoformat(text[:10]) if len(text) > 10 else date.fromisoformat(text)


def write_time(value: time) -> dict[str, Any]:
    """Write a time of day, with the name of its zone; a named zone has no offset without a date."""
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        return marker("time", f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]")
    if zone is not None and value.utcoffset() is None:
        raise ValueError("its zone has no offset without a date")
    return kombu_marker("time", value.isoformat())


def read_time(text: str) -> time:
    """Read a text that kombu or rootcellar wrote."""
    return time.fromisoformat(_with_offset(text))


def read_zoned_time(text: str) -> time:
    """Read a time of day and its zone."""
    zoned = _ZONED.fullmatch(text)
    if zoned is None:
        raise ValueError("no zone")
    return time.fromisoformat(zoned[1]).replace(tzinfo=ZoneInfo(zoned[2]))


def write_timedelta(value: timedelta) -> dict[str, Any]:
    """Write a duration as in ISO 8601, in days and seconds: ``P1DT3600S``, ``P-1DT86399.000001S``."""
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return marker("timedelta", f"P{value.days}DT{value.seconds}{fraction}S")


def read_timedelta(text: str) -> timedelta:
    """Read the text of :func:`write_timedelta`."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError("no span")
    return timedelta(days=int(found[1]), seconds=int(found[2]), microseconds=int(found[3] or 0))


def write_zone(value: timezone | ZoneInfo) -> dict[str, Any]:
    """Write a zone without a time."""
    key = getattr(value, "key", None)
    if key:
        return marker("zone", key)
    offset = value.utcoffset(None)
    if offset is None:
        raise ValueError("it has neither a name nor an offset")
    return marker("zone", write_timedelta(offset)["__value__"])


def read_zone(text: str) -> timezone | ZoneInfo:
    """Read the text of :func:`write_zone`."""
    return timezone(read_timedelta(text)) if _SPAN.fullmatch(text) else ZoneInfo(text)


def _with_offset(text: str) -> str:
    """Replace Z, which Python before 3.11 does not know."""
    return f"{text[:-1]}+00:00" if text.endswith("Z") else text
