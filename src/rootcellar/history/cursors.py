"""The text that continues a list: a place, the time of the first page, and a hash of the filter."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from rootcellar.errors import RootcellarError
from rootcellar.history.filters import Filter
from rootcellar.history.filters.tree import Pattern, is_findable
from rootcellar.records import NO_DATE
from rootcellar.stores.search import Position, Segment

_MICROSECOND = timedelta(microseconds=1)
#: the largest number of a place, and the longest window in seconds
_LARGEST, _LONGEST = 2**62 - 1, 1e12
_VERSION = 1


class CursorWrong(RootcellarError):
    """The text that continues a list is damaged, or belongs to another filter. Not retryable."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a list goes on.

    Attributes:
        position: the last record that was read.
        now: the present from which the moments of the filter count, on every page.
        window: the length in seconds of the last stretch of time that was searched; 0 for none.
    """

    position: Position
    now: datetime
    window: float = 0.0


def to_text(cursor: Cursor, query: Filter, zone: str) -> str:
    """Return the text of a cursor: letters, digits, ``-`` and ``_``."""
    place = cursor.position
    now = _microseconds(cursor.now)
    values = [_VERSION, _mark(query, zone), int(place.segment), place.moment, place.task_id, now, cursor.window]
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def from_text(text: str, query: Filter, zone: str) -> Cursor:
    """Return the cursor of a text.

    Raises:
        CursorWrong: it is damaged, or belongs to another filter or time zone.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        values = json.loads(base64.b64decode(padded, b"-_", validate=True))
        version, mark, segment, moment, task_id, now, window = values
        found = Cursor(Position(Segment(segment), moment, task_id), NO_DATE + now * _MICROSECOND, float(window))
        if version != _VERSION or not _is_possible(found, query):
            raise ValueError("not a cursor of this version")
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise CursorWrong(
            "this is not the place of a list", where="after", remedy="leave it out to see the first page"
        ) from None
    if mark != _mark(query, zone):
        raise CursorWrong(
            "this is a place in another list",
            where="after",
            remedy="give it with the same filter and time zone, or leave it out to see the first page",
        )
    return found


def _is_possible(cursor: Cursor, query: Filter) -> bool:
    """Return whether a cursor can be one of ours.

    Raises:
        OverflowError: its time is before or after all dates.
    """
    place = cursor.position
    if type(place.moment) is not int or abs(place.moment) > _LARGEST or type(place.task_id) is not str:
        return False
    if place.segment in (Segment.UNFINISHED, Segment.FINISHED, Segment.OLDER) and query.sort in ("", "done"):
        NO_DATE + place.moment * _MICROSECOND
    return 0 <= cursor.window <= _LONGEST and is_findable(Pattern((place.task_id,)))


def _mark(query: Filter, zone: str) -> str:
    return hashlib.sha256(f"{zone}\0{query}".encode("utf-8", "backslashreplace")).hexdigest()[:12]


def _microseconds(moment: datetime) -> int:
    return (moment - NO_DATE) // _MICROSECOND
