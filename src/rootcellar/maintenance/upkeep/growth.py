"""How the tables grow, and when the disk is full: from their sizes on each of the last days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from statistics import median

from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import number_of, show_bytes
from rootcellar.stores.jobs import DaySize, Jobs
from rootcellar.stores.measures import Sized
from rootcellar.stores.upkeep import KnowsDisk

#: the days that a forecast is made of, and the fewest
DAYS, FEWEST_DAYS = 28, 3
#: a disk that is full in fewer days than this needs attention
SOON = 14
#: the environment variable with the most bytes of all tables
DISK_VARIABLE = "ROOTCELLAR_DISK"
#: sizes on older days than this are not read
_LONGEST = 36_500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How the tables grow.

    Attributes:
        bytes: the size of all tables and indexes on the last day; ``None`` if no day was noted.
        bytes_a_day: how much they grow in a day, negative if they shrink; ``None`` if too few days were noted.
        days: from how many days this is known.
        limit: the most bytes that they may have; ``None`` if that is not known.
        days_left: after how many days they reach the limit; ``None`` if they do not, or if that is not known.
    """

    bytes: int | None
    bytes_a_day: float | None
    days: int
    limit: int | None
    days_left: float | None

    @property
    def is_soon(self) -> bool:
        """Whether the limit is reached soon."""
        return self.days_left is not None and self.days_left < SOON


def forecast(sizes: Iterable[DaySize], limit: int | None = None, free: int | None = None) -> Forecast:
    """Return how the tables grow.

    The growth is the median of the slopes between all pairs of days, so that one day with a large import, or one
    table that was compacted, does not decide it.

    Args:
        sizes: the sizes of the tables, each on some day.
        limit: the most bytes that all tables together may have.
        free: the free bytes of their disk, if there is no limit.
    """
    totals = _totals(sizes)
    days = sorted(totals)[-DAYS:]
    last = totals[days[-1]] if days else None
    if limit is None and free is not None and last is not None:
        limit = last + free
    slopes = [
        (totals[later] - totals[earlier]) / (later - earlier).days
        for place, later in enumerate(days)
        for earlier in days[:place]
    ]
    growth = median(slopes) if len(days) >= FEWEST_DAYS else None
    left: float | None = None
    if limit is not None and last is not None:
        if last >= limit:
            left = 0.0
        elif growth is not None and growth > 0:
            left = min(_LONGEST, (limit - last) / growth)
    return Forecast(bytes=last, bytes_a_day=growth, days=len(days), limit=limit, days_left=left)


def _totals(sizes: Iterable[DaySize]) -> Mapping[date, int]:
    found: dict[date, int] = {}
    for size in sizes:
        found[size.day] = found.get(size.day, 0) + size.bytes
    return found


def read_forecast(jobs: Jobs, disk: KnowsDisk | None, limit: int | None) -> Forecast:
    """Return the forecast of a store.

    Args:
        jobs: has the sizes of the last days.
        disk: knows the free space; ``None`` if that is not known.
        limit: the most bytes of all tables, if the user gave one; it decides.
    """
    today = datetime.now(timezone.utc).date()
    return forecast(
        jobs.sizes(today - timedelta(days=DAYS)), limit, disk.free_bytes() if disk and limit is None else None
    )


class Growth(Part):
    """Notes the sizes of the tables, and says when the disk is full.

    Args:
        jobs: keeps the sizes.
        sized: the sizes now; ``None`` if the store does not know them.
        disk: knows the free space of the disk; ``None`` if that cannot be known.
        limit: the most bytes that all tables may have, if the user gave one.
    """

    name = "growth"
    action = "note the sizes of the tables"

    def __init__(self, jobs: Jobs, sized: Sized | None, disk: KnowsDisk | None, limit: int | None = None) -> None:
        super().__init__()
        self._jobs = jobs
        self._sized = sized
        self._disk = disk
        self._limit = limit

    def report(self) -> Report:
        found = read_forecast(self._jobs, self._disk, self._limit)
        size = found.bytes if found.bytes is not None else self._size_now()
        text = f"{show_bytes(size)}; {_growth(found)}"
        advice = ("keep results for a shorter time, archive older ones, or give the disk more room",)
        return Report(
            level=Level.ATTENTION if found.is_soon else Level.OK,
            text=text,
            advice=advice if found.is_soon else (),
            facts={
                "bytes": size,
                "bytes_a_day": found.bytes_a_day,
                "days_noted": found.days,
                "limit_bytes": found.limit,
                "days_left": found.days_left,
            },
        )

    def apply(self) -> Report:
        self._jobs.note_sizes()
        return self.report()

    def _size_now(self) -> int:
        sizes = self._sized.table_sizes() if self._sized is not None else ()
        return sum((size.bytes or 0) + (size.index_bytes or 0) for size in sizes)


def _growth(found: Forecast) -> str:
    if found.days_left == 0 and found.limit is not None:
        return f"full: the limit is {show_bytes(found.limit)}"
    if found.bytes_a_day is None:
        return f"the growth is known after {FEWEST_DAYS} days ({number_of(found.days, 'day')} noted)"
    if found.bytes_a_day <= 0:
        return f"does not grow (known from {number_of(found.days, 'day')})"
    text = f"grows by {show_bytes(found.bytes_a_day)} a day (known from {number_of(found.days, 'day')})"
    if found.days_left is None or found.limit is None:
        return f"{text}; the room on the disk is not known, so give --disk for a forecast"
    return f"{text}; full in {number_of(int(found.days_left), 'day')}, at {show_bytes(found.limit)}"
