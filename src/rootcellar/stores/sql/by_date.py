"""Finds what may have changed since the last pass by the ends of the tasks, on a server whose rows have no marker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from rootcellar.records import TaskRecord
from rootcellar.stores.counting import Unit
from rootcellar.stores.sql.counting import Dirty, Present, Roll, Server

C = TypeVar("C")

#: the minutes that every pass counts again: a result may be stored this long after its task ended
OPEN = timedelta(minutes=15)
#: the store remembers the minute of a result that it stores this long after its task ended
LATE = timedelta(minutes=5)
#: the hours that are all counted again, and how often: a result that replaces another one is found by this
RECOUNTED = timedelta(hours=24)
RECOUNT_INTERVAL = timedelta(hours=1)


#: deleted rows that ended after this are counted by the minute: it is longer than minutes are kept
RECENT = timedelta(hours=5)


class ByDate(Server[C]):
    """A server without markers."""

    def mark_late(self, connection: C, record: TaskRecord) -> None:
        """Remember the minute of a record that is stored in this transaction."""
        if record.done_at is not None:
            self.do(connection, "mark_dirty", {"start": self.date(Unit.MINUTE.floor(record.done_at)), "is_hour": False})

    def mark_ends(self, connection: C, ends: Iterable[datetime]) -> None:
        """Remember the minutes of records that ended at these times, or the hours of old ones, each once."""
        minutes_since = datetime.now(timezone.utc) - RECENT
        marks = {
            (Unit.HOUR if end < minutes_since else Unit.MINUTE).floor(end): end < minutes_since
            for end in sorted(ends, reverse=True)
        }
        if marks:
            params = [{"start": self.date(start), "is_hour": is_hour} for start, is_hour in sorted(marks.items())]
            self.many(connection, "mark_dirty", params)

    def found_dirty(self, connection: C, roll: Roll) -> Iterator[Dirty]:
        since = {"since": self.date(Unit.MINUTE.floor(roll.passed_at - OPEN))}
        # also minutes whose last result was replaced by one of another time
        for statement in ("recent_minutes", "counted_minutes"):
            for (minute,) in self.all(connection, statement, since):
                yield Dirty(self.read_date(minute))

    def recount(self, roll: Roll, present: Present) -> tuple[Roll, list[Dirty]]:
        if timedelta(0) <= present.now - roll.recounted_at < RECOUNT_INTERVAL:
            return roll, []
        last = Unit.HOUR.floor(present.now)
        hours = [last - Unit.HOUR.length * number for number in range(RECOUNTED // Unit.HOUR.length + 1)]
        found = [Dirty(hour, True) for hour in hours if roll.has_hour(hour) or hour >= roll.minutes_from]
        return replace(roll, recounted_at=present.now), found


def is_late(record: TaskRecord) -> bool:
    """Return whether a record is stored so long after the end of its task that the store must remember its minute."""
    return record.done_at is not None and datetime.now(timezone.utc) - record.done_at > LATE
