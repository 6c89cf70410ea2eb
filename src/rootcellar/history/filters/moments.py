"""Computes the moments of a filter, for a reader in a time zone.

A moment may be a stretch of time: ``2026-11-01`` is the whole day, ``2026-11`` the month, ``10:30`` that minute.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from time import tzname

from rootcellar.history.filters.quantities import duration
from rootcellar.history.filters.tree import Moment

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DATE_TIME = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<minute>\d{2}:\d{2})(?::(?P<second>\d{2})(?P<fraction>\.\d{1,6})?)?"
    r"(?P<offset>[zZ]|[+-]\d{2}:?\d{2})?"
)
_ADVICE = (
    "write a time ago (30m, 24h, 3d), a day (2026-11-01, today, yesterday, monday), a month (2026-11), "
    "a time of day (9:00), or a date with a time (2026-11-01T10:00, with an offset if you like)"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """From ``start``, included, to ``end``, excluded. A point in time has two equal ends."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """The present and the time zone of a reader.

    Attributes:
        now: the present, aware: relative moments count from it. A list keeps it from page to page.
        zone: the zone of dates and times without an offset.
    """

    now: datetime
    zone: tzinfo

    @classmethod
    def local(cls) -> Clock:
        """Return the present, in the zone of this process."""
        now = datetime.now(timezone.utc)
        return cls(now, LocalZone())

    def extent(self, moment: Moment) -> Extent:
        """Return when a moment is, in UTC.

        Raises:
            ValueError: it is no moment, or it happened twice; the message says what to write instead.
        """
        text = moment.text
        lower = text.lower()
        try:
            if lower == "now":
                return Extent(self.now, self.now)
            if lower in ("today", "yesterday"):
                return self._days(self._today - timedelta(days=lower == "yesterday"))
            if lower in _WEEKDAYS:
                return self._days(self._today - timedelta(days=(self._today.weekday() - _WEEKDAYS.index(lower)) % 7))
            if match := _MONTH.fullmatch(text):
                first = date(int(match[1]), int(match[2]), 1)
                return Extent(self._begin(first), self._begin((first + timedelta(days=32)).replace(day=1)))
            if _DAY.fullmatch(text):
                return self._days(date.fromisoformat(text))
            if match := _TIME.fullmatch(text):
                return self._last_time(match)
            if match := _DATE_TIME.fullmatch(text):
                return self._date_time(match)
        except OverflowError:
            raise ValueError("write a date between the years 1 and 9999") from None
        return self._ago(text)

    @property
    def _today(self) -> date:
        return self.now.astimezone(self.zone).date()

    def _ago(self, text: str) -> Extent:
        if not re.fullmatch(r"[\d.]+[A-Za-z][\dA-Za-z.]*", text):
            raise ValueError(_ADVICE)
        try:
            moment = self.now - timedelta(seconds=float(duration(text).seconds))
        except OverflowError:
            raise ValueError("write a time that is not so long ago") from None
        return Extent(moment, moment)

    def _days(self, first: date) -> Extent:
        return Extent(self._begin(first), self._begin(first + timedelta(days=1)))

    def _begin(self, day: date) -> datetime:
        """Return the begin of a day in UTC: the first midnight, if clocks were set back to it."""
        return datetime.combine(day, time(), self.zone).astimezone(timezone.utc)

    def _at(self, day: date, clock: time) -> datetime:
        """Return a local time in UTC.

        Raises:
            ValueError: clocks were set back then, so that the time happened twice.
        """
        local = datetime.combine(day, clock, self.zone)
        early, late = local.utcoffset(), local.replace(fold=1).utcoffset()
        if early is None or late is None:
            raise ValueError("give a time zone that has an offset")
        if early > late:
            first, second = (local.replace(fold=fold).isoformat() for fold in (0, 1))
            raise ValueError(f"there are two of this time, because clocks were set back: write {first} or {second}")
        # a time that clocks left out moves forward: the offset before the change is right for it
        return local.astimezone(timezone.utc)

    def _last_time(self, match: re.Match[str]) -> Extent:
        """Return the last moment at which clocks showed a time."""
        clock = _clock(match[1], match[2], match[3])
        length = timedelta(seconds=1) if match[3] else timedelta(minutes=1)
        start = self._at(self._today, clock)
        if start > self.now:
            start = self._at(self._today - timedelta(days=1), clock)
        return Extent(start, start + length)

    def _date_time(self, match: re.Match[str]) -> Extent:
        hour, minute = match["minute"].split(":")
        clock = _clock(hour, minute, match["second"])
        day = date.fromisoformat(match["day"])
        if match["fraction"]:
            clock = clock.replace(microsecond=int(match["fraction"][1:].ljust(6, "0")))
        if match["offset"]:
            start = datetime.combine(day, clock, _offset(match["offset"])).astimezone(timezone.utc)
        else:
            start = self._at(day, clock)
        if match["fraction"]:
            return Extent(start, start + timedelta(microseconds=10 ** (7 - len(match["fraction"]))))
        return Extent(start, start + (timedelta(seconds=1) if match["second"] else timedelta(minutes=1)))


def _clock(hour: str, minute: str, second: str | None) -> time:
    try:
        return time(int(hour), int(minute), int(second or 0))
    except ValueError:
        raise ValueError("write a time between 0:00 and 23:59") from None


def _offset(text: str) -> tzinfo:
    if text in "zZ":
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    digits = text[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError("write an offset between -23:59 and +23:59")
    return timezone(sign * timedelta(hours=hours, minutes=minutes))


class LocalZone(tzinfo):
    """The zone of this process, with its changes between summer and winter time, as the C library knows them."""

    def __repr__(self) -> str:
        # the same in every process in this zone: the place of a list contains it
        return f"local {'/'.join(tzname)}"

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        return moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        local = moment.replace(tzinfo=timezone.utc).astimezone()
        return local.replace(tzinfo=self)
