"""One pass that brings the counts up to date.

A pass counts whole minutes, hours and days anew, and never adds to what was counted of rows that exist. So a pass that
died, or that ran twice, changes nothing. Only what was counted of deleted rows is added, once: the statement that
deletes rows leaves lines of what it deleted, and the pass that adds a line deletes it in the same transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from rootcellar.stores.counting import Kind, Rolled, Tally, Unit
from rootcellar.stores.sql.cells import GONE, LIVING, Key, Line, by_cell, cell_rows, read_tally
from rootcellar.stores.sql.counting import ALWAYS, HOURS_KEPT, MINUTES_KEPT, Dirty, Roll, Server

C = TypeVar("C")

#: the most bytes of a name that is listed; an index of MySQL takes no longer ones
LONGEST_NAME = 700


def roll_once(server: Server[C], connection: C, deadline: float) -> Rolled:
    """Do one transaction of a pass.

    Args:
        server: the server.
        connection: an idle connection.
        deadline: the monotonic time after which nothing more is begun. Something is always done.
    """
    server.prepare(connection)
    try:
        with server.snapshot(connection, is_write=True):
            if server.lock(connection):
                end = min(deadline, time.monotonic() + server.longest_transaction)
                return _Pass(server, connection, end).run()
    except Exception as exc:  # the errors of each driver
        if not server.is_conflict(exc):
            raise
    return Rolled(is_leader=False, is_done=False)


def forget_counts(server: Server[C], connection: C) -> bool:
    """Forget what was counted of the rows that exist, so that the next passes count them again.

    Returns ``False`` if nothing was done, because a pass is running.
    """
    try:
        with server.snapshot(connection, is_write=True):
            if server.lock(connection):
                _begin_anew(server, connection)
                return True
    except Exception as exc:  # the errors of each driver
        if not server.is_conflict(exc):
            raise
    return False


def _begin_anew(server: Server[C], connection: C) -> Roll:
    """Delete all cells of rows that exist; return that nothing is counted."""
    for table in (*server.tables.values(), server.names["failure_hour"]):
        server.do(connection, "drop_living_cells", table=table)
    server.delete(connection, "clean", [dirty.id for dirty in server.stored_dirty(connection) if dirty.id is not None])
    roll = Roll.begun(server.present(connection))
    # the rows of this hour, and those from the future, may have no marker yet
    since = {"since": server.date(roll.minutes_from)}
    minutes = {server.read_date(minute) for (minute,) in server.all(connection, "recent_minutes", since)}
    hours = sorted({Unit.HOUR.floor(minute) for minute in minutes})
    server.many(connection, "mark_dirty", [{"start": server.date(hour), "is_hour": True} for hour in hours])
    server.save_roll(connection, roll)
    return roll


class _Pass(Generic[C]):
    """One transaction of a pass."""

    def __init__(self, server: Server[C], connection: C, deadline: float) -> None:
        self._server = server
        self._connection = connection
        self._deadline = deadline
        self._present = server.present(connection)
        self._hours = 0
        self._changed_days: set[datetime] = set()
        self._names: dict[tuple[Kind, str], datetime] = {}
        self._failures: dict[int, tuple[datetime, datetime, str]] = {}
        before = server.read_roll(connection)
        is_known = before is not None and before.is_of(self._present)
        self._before = before
        self._roll = before if before is not None and is_known else _begin_anew(server, connection)
        self._hours_kept = Unit.DAY.floor(self._present.now - HOURS_KEPT)

    def run(self) -> Rolled:
        """Do what can be done in the time."""
        kinds = (self._close_hours, self._count_backward, self._count_dirty)
        first = next(self._server.turns) % len(kinds)
        # the first one does something even without time, so each kind of work makes progress
        is_done = all([work() for work in (*kinds[first:], *kinds[:first])])
        self._close_days()
        for day in self._changed_days:
            self._count_day(day)
        self._forget_old()
        self._store_names()
        roll = replace(self._roll, passed_at=self._present.now)
        # an idle pass writes nothing for a minute
        is_idle = (
            is_done
            and not self._hours
            and replace(roll, horizon=None) == replace(self._before or roll, horizon=None, passed_at=roll.passed_at)
        )
        if not (is_idle and self._before and roll.passed_at - self._before.passed_at < timedelta(minutes=1)):
            self._server.save_roll(self._connection, roll)
        return Rolled(hours=self._hours, is_done=is_done)

    def _has_time(self) -> bool:
        return not self._hours or time.monotonic() < self._deadline

    # -- what has changed

    def _count_dirty(self) -> bool:
        """Count the minutes and hours anew in which rows have changed; return whether all of them were counted."""
        server, roll = self._server, self._roll
        by_hour: dict[datetime, list[Dirty]] = {}
        stored = server.stored_dirty(self._connection)
        found = list(server.found_dirty(self._connection, roll))
        recounted, again = server.recount(roll, self._present)
        for dirty in (*stored, *found, *again, *server.gone_hours(self._connection)):
            by_hour.setdefault(dirty.hour, []).append(dirty)
        # from here on, what was found is counted or remembered in this transaction
        self._roll = replace(recounted, horizon=self._present.horizon)
        left: list[Dirty] = []
        clean: list[int] = []
        # what has waited longest is counted first; then what was found now, the newest first
        waiting = {dirty.hour: None for dirty in sorted(stored, key=_number)}
        for hour in (*waiting, *sorted(by_hour.keys() - waiting.keys(), reverse=True)):
            if not self._has_time():
                left += by_hour[hour]
                continue
            self._count_again(hour, by_hour[hour])
            clean += [dirty.id for dirty in by_hour[hour] if dirty.id is not None]
        server.delete(self._connection, "clean", clean)
        # while a transaction stays open, the same minutes are found in each pass: each is remembered once
        remembered = {(dirty.start, dirty.is_hour) for dirty in stored}
        new = sorted({(dirty.start, dirty.is_hour) for dirty in left} - remembered, reverse=True)
        server.many(
            self._connection,
            "mark_dirty",
            [{"start": server.date(start), "is_hour": is_hour} for start, is_hour in new],
        )
        return not left

    def _count_again(self, hour: datetime, dirty: Sequence[Dirty]) -> None:
        """Count an hour anew, or the minutes of it that are kept, and add its deleted rows."""
        server, connection, roll = self._server, self._connection, self._roll
        end = hour + Unit.HOUR.length
        gone = server.gone_lines(connection, hour, end)
        is_counted = roll.has_hour(hour)
        if hour >= roll.minutes_from:
            spans = [each.minutes() for each in dirty]
            since = hour if is_counted else min(start for start, _ in spans)
            until = end if is_counted else max(stop for _, stop in spans)
            lines = server.lines(connection, Unit.MINUTE, since, until)
            self._replace(Unit.MINUTE, since, until, LIVING, by_cell(lines, Unit.MINUTE))
            self._add(Unit.MINUTE, [line for _, is_hour, line in gone if not is_hour])
            self._see(lines, since, until)
            if is_counted:
                self._store_hour(hour, lines)
        elif is_counted:
            self._count_hour(hour)
        self._add_gone(hour, gone)
        self._hours += 1

    def _add_gone(self, hour: datetime, gone: Sequence[tuple[int, bool, Line]]) -> None:
        """Add the deleted rows of an hour to its cells and those of its day."""
        if not gone:
            return
        lines = [line for _, _, line in gone]
        if hour >= self._hours_kept:
            self._add(Unit.HOUR, lines)
            self._add_failures(hour, lines)
        self._add(Unit.DAY, lines)
        self._see_lines(lines)
        self._server.delete(self._connection, "drop_gone", [number for number, _, _ in gone])

    # -- hours

    def _count_hour(self, hour: datetime) -> None:
        until = hour + Unit.HOUR.length
        lines = self._server.lines(self._connection, Unit.HOUR, hour, until)
        self._store_hour(hour, lines)
        self._see(lines, hour, until)

    def _store_hour(self, hour: datetime, lines: Sequence[Line]) -> None:
        if hour >= self._hours_kept:
            self._replace(Unit.HOUR, hour, hour + Unit.HOUR.length, LIVING, by_cell(lines, Unit.HOUR))
            self._replace_failures(hour, LIVING, _failures(lines))
        if self._roll.has_day(day := Unit.DAY.floor(hour)):
            self._changed_days.add(day)

    def _close_hours(self) -> bool:
        """Count the hours that have ended; return whether all of them were counted."""
        closed_until = Unit.HOUR.floor(self._present.now)
        while (hour := self._roll.hours_until) < closed_until:
            found = self._server.all(self._connection, "next_after", {"moment": self._server.date(hour)})[0][0]
            following = closed_until if found is None else Unit.HOUR.floor(self._server.read_date(found))
            if following > hour:
                self._roll = replace(self._roll, hours_until=min(following, closed_until))
                continue
            if not self._has_time():
                return False
            self._count_hour(hour)
            self._hours += 1
            self._roll = replace(self._roll, hours_until=hour + Unit.HOUR.length)
        return True

    def _count_backward(self) -> bool:
        """Count the hours before those that are counted, the newest first; return whether there are none left."""
        while not self._roll.is_whole:
            if not self._has_time():
                return False
            until = self._roll.hours_from
            found = self._server.all(self._connection, "next_before", {"moment": self._server.date(until)})[0][0]
            if found is None:
                self._roll = replace(self._roll, hours_from=ALWAYS)
                return True
            last = self._server.read_date(found)
            hour = Unit.HOUR.floor(last)
            if hour >= self._hours_kept:
                self._count_hour(hour)
                self._roll = replace(self._roll, hours_from=hour)
            else:
                # such an hour is not kept, so only its day is counted
                day = Unit.DAY.floor(hour)
                self._roll = replace(self._roll, hours_from=min(until, day + Unit.DAY.length))
                self._close_days()
                self._roll = replace(self._roll, hours_from=day, days_from=day)
                self._count_day(day)
            self._hours += 1
        return True

    # -- days

    def _close_days(self) -> None:
        """Count the days all of whose hours are counted by now."""
        roll = self._roll
        while roll.days_until + Unit.DAY.length <= roll.hours_until and roll.hours_from <= roll.days_until:
            self._changed_days.add(roll.days_until)
            roll = replace(roll, days_until=roll.days_until + Unit.DAY.length)
        first = Unit.DAY.ceiling(roll.hours_from) if not roll.is_whole else ALWAYS
        while first < roll.days_from:
            # days without an hour are counted with the next one that has some
            found = self._server.all(
                self._connection,
                "last_hour",
                self._server.window(first, roll.days_from),
                hour=self._server.names["hour"],
            )[0][0]
            day = first if found is None else Unit.DAY.floor(self._server.read_date(found))
            if found is not None:
                self._changed_days.add(day)
            roll = replace(roll, days_from=day)
        self._roll = roll

    def _count_day(self, day: datetime) -> None:
        """Count a day anew: from its hours, or, if they are not kept, from its rows."""
        until = day + Unit.DAY.length
        if day >= self._hours_kept:
            cells: dict[Key, Tally] = {}
            for (_, name, queue, state), tally in self._read(Unit.HOUR, day, until, LIVING).items():
                cells.setdefault((day, name, queue, state), Tally()).add(tally)
        else:
            lines = self._server.lines(self._connection, Unit.DAY, day, until)
            self._see(lines, day, until)
            cells = by_cell(lines, Unit.DAY)
        self._replace(Unit.DAY, day, until, LIVING, cells)

    def _forget_old(self) -> None:
        """Delete the minutes, the hours and the workers that are too old."""
        server, roll = self._server, self._roll
        minutes_from = Unit.HOUR.floor(self._present.now - MINUTES_KEPT)
        if minutes_from > roll.minutes_from:
            # minutes of an hour that is not counted yet are needed
            minutes_from = min(minutes_from, roll.hours_until)
            for unit, until in ((Unit.MINUTE, minutes_from), (Unit.HOUR, self._hours_kept)):
                server.do(self._connection, "forget_cells", {"until": server.date(until)}, table=server.tables[unit])
            kept = {"until": server.date(self._hours_kept)}
            server.do(self._connection, "forget_cells", kept, table=server.names["failure_hour"])
            # where each worker's name has a random part, there would be more names for ever
            server.do(self._connection, "forget_workers", kept)
            self._roll = replace(roll, minutes_from=max(minutes_from, roll.minutes_from))

    # -- cells

    def _replace(self, unit: Unit, since: datetime, until: datetime, part: int, cells: Mapping[Key, Tally]) -> None:
        """Store these cells instead of those of a time."""
        server, table = self._server, self._server.tables[unit]
        server.do(self._connection, "drop_cells", {**server.window(since, until), "part": part}, table=table)
        # what was counted of a row that was moved to the older table and back was taken back
        filled = {key: tally for key, tally in cells.items() if tally.count}
        server.many(self._connection, "insert_cell", list(cell_rows(filled, part, server.date)), table=table)

    def _read(self, unit: Unit, since: datetime, until: datetime, part: int) -> dict[Key, Tally]:
        server = self._server
        found = server.all(
            self._connection,
            "cells",
            server.window(since, until),
            keys="start, name, queue, status",
            table=server.tables[unit],
            parts=f"({part})",
            selected="",
        )
        return {
            (server.read_date(start), name, queue, state): read_tally(values)
            for start, name, queue, state, *values in found
        }

    def _add(self, unit: Unit, lines: Iterable[Line]) -> None:
        """Add deleted rows to the cells."""
        by_start: dict[datetime, dict[Key, Tally]] = {}
        for key, tally in by_cell(lines, unit).items():
            by_start.setdefault(key[0], {})[key] = tally
        for start, added in by_start.items():
            until = start + unit.length
            cells = self._read(unit, start, until, GONE)
            for key, tally in added.items():
                cells.setdefault(key, Tally()).add(tally)
            # a cell has nothing if all its rows were restored
            self._replace(unit, start, until, GONE, {key: tally for key, tally in cells.items() if tally.count})

    # -- failures and names

    def _replace_failures(self, hour: datetime, part: int, counts: Mapping[tuple[int, str], int]) -> None:
        server = self._server
        window = server.window(hour, hour + Unit.HOUR.length)
        server.do(self._connection, "drop_cells", {**window, "part": part}, table=server.names["failure_hour"])
        rows = [
            {"start": server.date(hour), "part": part, "failure_group": group, "name": name, "n": count}
            for (group, name), count in counts.items()
            if count
        ]
        server.many(self._connection, "insert_failure_hour", rows)

    def _add_failures(self, hour: datetime, lines: Iterable[Line]) -> None:
        counts = _failures(lines)
        if not counts:
            return
        found = self._server.all(
            self._connection,
            "failure_hours",
            self._server.window(hour, hour + Unit.HOUR.length),
            parts=f"({GONE})",
            selected="",
        )
        for _, group, name, count in found:
            counts[group, name] = counts.get((group, name), 0) + int(count)
        self._replace_failures(hour, GONE, {key: count for key, count in counts.items() if count})

    def _see(self, lines: Iterable[Line], since: datetime, until: datetime) -> None:
        """Remember the names and the failures of rows that exist."""
        self._see_lines(lines)
        for worker, last in self._server.all(self._connection, "workers", self._server.window(since, until)):
            self._see_name(Kind.WORKER, worker, self._server.read_date(last))

    def _see_lines(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._see_name(Kind.TASK, line.name, line.last_done)
            self._see_name(Kind.QUEUE, line.queue, line.last_done)
            if line.failure_group is not None and line.example is not None:
                first, last, example = self._failures.get(
                    line.failure_group, (line.first_done, line.last_done, line.example)
                )
                newer = line.example if line.last_done >= last else example
                self._failures[line.failure_group] = (min(first, line.first_done), max(last, line.last_done), newer)

    def _see_name(self, kind: Kind, name: object, last: datetime) -> None:
        if isinstance(name, str) and 0 < len(name.encode()) <= LONGEST_NAME:
            key = (kind, name)
            self._names[key] = max(last, self._names.get(key, last))

    def _store_names(self) -> None:
        server = self._server
        server.many(
            self._connection,
            "see_name",
            [
                {"kind": kind.value, "name": name, "last_seen": server.date(last)}
                for (kind, name), last in sorted(self._names.items(), key=lambda item: (item[0][0].value, item[0][1]))
            ],
        )
        server.many(
            self._connection,
            "see_failure",
            [
                {
                    "failure_group": group,
                    "first_seen": server.date(first),
                    "last_seen": server.date(last),
                    "example": example,
                }
                for group, (first, last, example) in sorted(self._failures.items())
            ],
        )


def _number(dirty: Dirty) -> int:
    return dirty.id or 0


def _failures(lines: Iterable[Line]) -> dict[tuple[int, str], int]:
    """Return the number of failures by group and task."""
    counts: dict[tuple[int, str], int] = {}
    for line in lines:
        if line.failure_group is not None:
            key = (line.failure_group, line.name)
            counts[key] = counts.get(key, 0) + line.tally.count
    return counts
