"""Answers questions about counts: from the cells, and from the rows where the cells are not up to date.

The time of a question is divided into days, hours and minutes that are counted and up to date, and the rest. The rest
is short: the minutes since the last pass, the begin and the end of a time that does not begin with an hour, and hours
in which something has just changed. It is read from the rows, by the index of their ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from rootcellar.stores.counting import (
    FACTOR,
    Answer,
    Cell,
    FailureHour,
    FailureTotal,
    Kind,
    KnownFailure,
    Name,
    Question,
    Spread,
    Tally,
    Unit,
    begin_of,
    merged,
)
from rootcellar.stores.sql.cells import GONE, LIVING, TOTAL, Line, add_row
from rootcellar.stores.sql.counting import ALWAYS, HOURS_KEPT, LAST, Dirty, Roll, Server

C = TypeVar("C")
Span = tuple[datetime, datetime]

#: the longest time that is read from rows: the rest of such a time is left out, and the answer says so
LONGEST_FROM_ROWS = timedelta(hours=26)
_KEYS = ("start", "name", "queue", "status")


def answer(server: Server[C], connection: C, question: Question) -> Answer:
    """Count finished tasks."""
    with server.snapshot(connection, is_write=False):
        return _Reading(server, connection, question).answer()


def slowest(server: Server[C], connection: C, question: Question, limit: int) -> list[str]:
    """Return the ids of the tasks that ran longest, of the rows that exist."""
    with server.snapshot(connection, is_write=False):
        return _Reading(server, connection, replace(question, by=Unit.HOUR, with_spreads=True)).slowest(limit)


def failure_hours(
    server: Server[C],
    connection: C,
    since: datetime | None,
    until: datetime | None,
    groups: Collection[int] | None,
) -> list[FailureHour]:
    """Count failures by group, task and hour."""
    with server.snapshot(connection, is_write=False):
        begin = None if since is None else Unit.HOUR.ceiling(since)
        return _Reading(server, connection, Question(since=begin, until=until)).failures(groups)


def failure_totals(
    server: Server[C],
    connection: C,
    since: datetime | None,
    until: datetime | None,
    groups: Collection[int] | None,
) -> list[FailureTotal]:
    """Count failures by group and task."""
    with server.snapshot(connection, is_write=False):
        begin = None if since is None else Unit.HOUR.ceiling(since)
        return _Reading(server, connection, Question(since=begin, until=until)).failure_totals(groups)


def unfinished(server: Server[C], connection: C, question: Question, cap: int) -> Answer:
    """Count unfinished tasks, up to a limit."""
    selected, params = server.selected_rows(question)
    window = ""
    for name, operator in (("since", ">="), ("until", "<")):
        moment = getattr(question, name)
        if moment is not None:
            window += f" AND coalesce(date_started, date_sent) {operator} {server.parameter(name)}"
            params[name] = server.date(moment)
    with server.snapshot(connection, is_write=False):
        present = server.present(connection)
        found = server.all(connection, "unfinished", {**params, "limit": cap + 1}, selected=selected, window=window)
    cells = merged(
        Cell(
            name=name if question.by_name else None,
            queue=queue if question.by_queue else None,
            state=state if question.by_state else None,
            tally=Tally(count=int(count)),
        )
        for name, queue, state, count in found
    )
    total = sum(cell.tally.count for cell in cells)
    return Answer(cells=cells, as_of=present.now, is_exact=total <= cap)


def durations(server: Server[C], connection: C, question: Question, of: str, limit: int) -> list[float] | None:
    """Return the durations of the rows that exist; ``None`` if there are more than ``limit`` rows."""
    selected, params = server.selected_rows(question)
    window = server.window(question.since or ALWAYS, question.until or LAST)
    with server.snapshot(connection, is_write=False):
        found = server.all(connection, "durations", {**params, **window, "limit": limit + 1}, selected=selected)
    if len(found) > limit:
        return None
    place = ("run", "wait").index(of)
    return [float(row[place]) for row in found if row[place] is not None]


def names(server: Server[C], connection: C, kind: Kind) -> list[Name]:
    """Return the names of a kind, the last seen first."""
    found = server.all(connection, "names", {"kind": kind.value})
    return [Name(name, server.read_date(last)) for name, last in found]


def known_failures(server: Server[C], connection: C, groups: Collection[int] | None) -> list[KnownFailure]:
    """Return what is kept of groups of failures."""
    selected, params = server.selected_groups(groups)

    def date(value: Any) -> datetime | None:
        return None if value is None else server.read_date(value)

    return [
        KnownFailure(
            group=int(group),
            first_seen=server.read_date(first),
            last_seen=server.read_date(last),
            example=example,
            type=kind,
            place=place,
            template=template,
            mark=mark,
            marked_at=date(marked_at),
            muted_until=date(muted_until),
            note=note,
        )
        for group, first, last, example, kind, place, template, mark, marked_at, muted_until, note in server.all(
            connection, "known_failures", params, selected=selected
        )
    ]


class _Reading(Generic[C]):
    """One answer, of one snapshot."""

    def __init__(self, server: Server[C], connection: C, question: Question) -> None:
        self._server = server
        self._connection = connection
        self._question = question
        # rows that are not counted yet may have a name that no cell has
        self._of_rows = replace(question, names=None, queues=None) if question.with_new_names else question
        self._present = server.present(connection)
        roll = server.read_roll(connection)
        is_known = roll is not None and roll.is_of(self._present)
        self._is_begun = is_known
        self._roll = roll if roll is not None and is_known else Roll.begun(self._present)
        self._since = max(question.since or ALWAYS, ALWAYS)
        self._until = min(question.until or LAST, LAST)
        # to find what has changed since such a pass takes too long
        self._is_late = is_known and self._present.now - self._roll.passed_at > LONGEST_FROM_ROWS
        # all rows that ended after this may be read
        self._open_from = max(self._roll.hours_until, Unit.HOUR.floor(self._present.now - LONGEST_FROM_ROWS))
        # then it is not known which of the counted hours have changed
        self._is_exact = not (self._is_late and self._since < self._roll.hours_until)
        self._behind_by = timedelta(0)
        self._dirty = self._find_dirty()
        self._divide()

    # -- what is read from where

    def _find_dirty(self) -> list[Dirty]:
        server, connection = self._server, self._connection
        if not self._is_begun:
            return [Dirty(self._roll.hours_until, True)]
        found = [
            *server.stored_dirty(connection),
            *(() if self._is_late else server.found_dirty(connection, self._roll)),
            *server.gone_hours(connection),
        ]
        return [dirty for dirty in found if dirty.minutes()[1] > self._since and dirty.start < self._until]

    def _divide(self) -> None:
        """Divide the time into days, hours, minutes and the rest."""
        roll, question = self._roll, self._question
        kept = Unit.DAY.floor(self._present.now - HOURS_KEPT)
        whole = (self._since, self._until)
        dirty_hours = sorted({dirty.hour for dirty in self._dirty})
        dirty_days = sorted({Unit.DAY.floor(hour) for hour in dirty_hours})
        days = _within(whole, Unit.DAY, roll.days_from, roll.days_until)
        if question.by in (Unit.HOUR, Unit.MINUTE):
            # hours of these days are not kept
            days = _intersect(days, [(ALWAYS, kept)])
        self.days = _without(days, [(day, day + Unit.DAY.length) for day in dirty_days])
        hours = _without(_within(whole, Unit.HOUR, max(roll.hours_from, kept), roll.hours_until), self.days)
        if question.by is Unit.MINUTE:
            hours = _without(hours, [(roll.minutes_from, roll.hours_until)])
        self.hours = _without(hours, [(hour, hour + Unit.HOUR.length) for hour in dirty_hours])
        minutes_from = roll.minutes_from if question.by is Unit.MINUTE else self._open_from
        minutes = _within(whole, Unit.MINUTE, minutes_from, LAST) if self._is_begun and not self._is_late else []
        self.minutes = _without(minutes, [dirty.minutes() for dirty in self._dirty])
        rest = _without(_without(_without([whole], self.days), self.hours), self.minutes)
        self.rest = self._bounded(rest)
        # cells of deleted rows are also read where the rows are read
        self.gone_hours = [
            *_within_each(_intersect(self.rest, [(kept, roll.hours_until)]), Unit.HOUR),
        ]
        gone_minutes = _within_each(
            _intersect(_without(self.rest, self.gone_hours), [(roll.minutes_from, LAST)]), Unit.MINUTE
        )
        self.gone_minutes = gone_minutes
        self.partial = _without(_without(self.rest, self.gone_hours), self.gone_minutes)

    def _bounded(self, rest: list[Span]) -> list[Span]:
        """Return the newest part of the rest that may be read from rows; note if something is left out."""
        open_from = self._open_from
        found = _intersect(rest, [(open_from, LAST)])[::-1]
        left = LONGEST_FROM_ROWS
        for since, until in reversed(_intersect(rest, [(ALWAYS, open_from)])):
            begin = max(since, until - left) if until - since > left else since
            if begin > since:
                self._is_exact = False
            if begin > since >= self._roll.hours_from:
                self._behind_by = max(self._behind_by, self._present.now - self._roll.passed_at)
            if begin < until:
                found.append((begin, until))
            left -= until - begin
        return found[::-1]

    # -- counts

    def answer(self) -> Answer:
        """Return all cells of the question."""
        cells = merged(self._cells())
        return Answer(
            cells=[cell for cell in cells if cell.tally.count],
            as_of=self._present.now,
            behind_by=self._behind_by,
            is_exact=self._is_exact,
        )

    def _cells(self) -> Iterator[Cell]:
        for unit, spans in ((Unit.DAY, self.days), (Unit.HOUR, self.hours), (Unit.MINUTE, self.minutes)):
            for span in spans:
                yield from self._stored(unit, span, (LIVING, GONE))
        for unit, spans in ((Unit.HOUR, self.gone_hours), (Unit.MINUTE, self.gone_minutes)):
            for span in spans:
                yield from self._stored(unit, span, (GONE,))
        unit = self._question.by or Unit.HOUR
        for since, until in self.rest:
            for line in self._server.lines(self._connection, unit, since, until, self._of_rows):
                yield self._cell_of(line)
        for since, until in self._partial_before_now():
            for line in self._older_lines(since, until, self._of_rows):
                yield self._cell_of(line)
        yield from self._unfolded()
        self._check_partial()

    def _stored(self, unit: Unit, span: Span, parts: Sequence[int]) -> Iterator[Cell]:
        """Yield the cells that are stored of a time."""
        server, question = self._server, self._question
        is_total = not (question.by_name or question.by_queue) and question.names is None and question.queues is None
        kept = (question.by is not None, question.by_name, question.by_queue, question.by_state)
        selected, params = server.selected_cells(question)
        found = server.all(
            self._connection,
            "cells" if question.with_spreads else "sums",
            {**server.window(*span), **params},
            keys=", ".join(
                # a text that is the same for all, so that the columns have the same places
                key if is_kept else f"'' AS {key}_"
                for key, is_kept in zip(_KEYS, kept, strict=True)
            ),
            table=server.tables[unit],
            parts=f"({', '.join(str(part + TOTAL if is_total else part) for part in parts)})",
            selected=selected,
        )
        # rows of the same key are added at once, because there may be many thousands
        tallies: dict[tuple[Any, str, str, str], Tally] = {}
        for start, name, queue, state, *values in found:
            key = (start, name, queue, state)
            if key not in tallies:
                tallies[key] = Tally()
            add_row(tallies[key], values)
        for (start, name, queue, state), tally in tallies.items():
            begin = server.read_date(start) if question.by is not None else None
            yield self._cell(begin, name, queue, state, tally)

    def _cell(self, start: datetime | None, name: str, queue: str, state: str, tally: Tally) -> Cell:
        question = self._question
        return Cell(
            start=None if question.by is None or start is None else question.by.floor(start),
            name=name if question.by_name else None,
            queue=queue if question.by_queue else None,
            state=state if question.by_state else None,
            tally=tally,
        )

    def _cell_of(self, line: Line) -> Cell:
        return self._cell(line.start, line.name, line.queue, line.state, line.tally)

    def _unfolded(self) -> Iterator[Cell]:
        """Yield what was counted of deleted rows and is not in the cells yet. Their hours are read from rows."""
        for since, until in self.rest:
            begin = Unit.HOUR.floor(since)
            for _, is_hour, line in self._server.gone_lines(self._connection, begin, until):
                unit = Unit.HOUR if is_hour else Unit.MINUTE
                if not _matches(line, self._of_rows):
                    continue
                if line.start >= since and line.start + unit.length <= until:
                    yield self._cell_of(line)
                elif line.start + unit.length > since:
                    self._is_exact = False

    def _check_partial(self) -> None:
        """Check whether rows were deleted in an hour that is only partly asked for: this part is not known."""
        for since, until in self._partial_before_now():
            hours = (Unit.HOUR.floor(since), Unit.HOUR.ceiling(until))
            gone = sum(cell.tally.count for cell in self._stored(Unit.HOUR, hours, (GONE,)))
            if gone and gone != sum(line.tally.count for line in self._older_lines(*hours, self._question)):
                self._is_exact = False

    def _partial_before_now(self) -> list[Span]:
        return [span for span in self.partial if span[0] < self._roll.hours_until]

    def _older_lines(self, since: datetime, until: datetime, question: Question) -> list[Line]:
        """Count the rows of the older table that ended in a time: they were counted as deleted."""
        unit = self._question.by or Unit.HOUR
        return self._server.older_lines(self._connection, unit, since, until, question)

    # -- other questions

    def slowest(self, limit: int) -> list[str]:
        """Return the ids of the tasks that ran longest: only hours with long runs are read."""
        hours: list[tuple[Span, Spread]] = []
        parts = (LIVING, GONE) if self._server.has_rows_of_the_past() else (LIVING,)
        for unit, spans in ((Unit.DAY, self.days), (Unit.HOUR, self.hours), (Unit.MINUTE, self.minutes)):
            for span in spans:
                by_start: dict[datetime, Spread] = {}
                for cell in self._stored(unit, span, parts):
                    assert cell.start is not None
                    by_start.setdefault(cell.start, Spread()).add(cell.tally.run)
                hours += [
                    ((max(start, span[0]), min(start + max(unit, Unit.HOUR, key=_length).length, span[1])), spread)
                    for start, spread in by_start.items()
                ]
        found: list[tuple[float, str]] = []
        for span in self.rest:
            found += self._slow_rows(span, 0.0, limit)
        found = sorted(found, reverse=True)[:limit]
        for least, span in self._slow_spans(hours, limit):
            if len(found) >= limit and found[limit - 1][0] > least * FACTOR:
                break
            enough = found[limit - 1][0] if len(found) >= limit else 0.0
            found = sorted({*found, *self._slow_rows(span, enough, limit)}, reverse=True)[:limit]
        return [task_id for _, task_id in sorted(found, key=lambda one: (-one[0], one[1]))[:limit]]

    @staticmethod
    def _slow_spans(hours: Iterable[tuple[Span, Spread]], limit: int) -> list[tuple[float, Span]]:
        """Return the times with the longest runs first, each with the begin of its highest step."""
        tops = [(begin_of(max(spread.steps)), span) for span, spread in hours if spread.steps]
        return sorted(tops, key=lambda top: (-top[0], top[1]))

    def _slow_rows(self, span: Span, least: float, limit: int) -> list[tuple[float, str]]:
        server = self._server
        selected, params = server.selected_rows(self._question)
        params |= {**server.window(*span), "least": least, "limit": limit}
        rows = server.all(self._connection, "slowest", params, selected=selected)
        return [(float(run), task_id) for task_id, run in rows]

    def failures(self, groups: Collection[int] | None) -> list[FailureHour]:
        """Return the failures by hour."""
        counts: dict[tuple[datetime, int, str], int] = {}
        hours, rest = self._failure_spans()
        found = (row for span in hours for row in self._failure_rows("failure_hours", span, groups))
        for start, group, name, count in (*found, *self._uncounted_failures(rest, groups)):
            key = (self._server.read_date(start), int(group), name)
            counts[key] = counts.get(key, 0) + int(count)
        return [
            FailureHour(start=start, group=group, name=name, count=count)
            for (start, group, name), count in sorted(counts.items())
            # rows that were moved back to the live table were counted, and taken back
            if count
        ]

    def failure_totals(self, groups: Collection[int] | None) -> list[FailureTotal]:
        """Return the failures of the whole time."""
        totals: dict[tuple[int, str], FailureTotal] = {}
        hours, rest = self._failure_spans()
        found = (row for span in hours for row in self._failure_rows("failure_totals", span, groups))
        uncounted = ((start, start, *others) for start, *others in self._uncounted_failures(rest, groups))
        for first, last, group, name, count in (*found, *uncounted):
            total = FailureTotal(
                group=int(group),
                name=name,
                count=int(count),
                first=self._server.read_date(first),
                last=self._server.read_date(last),
            )
            key = (total.group, total.name)
            totals[key] = _sum(totals[key], total) if key in totals else total
        return [totals[key] for key in sorted(totals) if totals[key].count]

    def _failure_spans(self) -> tuple[list[Span], list[Span]]:
        """Return the times whose cells are read, and those whose rows are read."""
        # hours of failures are kept as long as other hours; days are not counted
        kept = Unit.DAY.floor(self._present.now - HOURS_KEPT)
        closed = _within(
            (self._since, self._until), Unit.HOUR, max(self._roll.hours_from, kept), self._roll.hours_until
        )
        hours = _without(closed, [(dirty.hour, dirty.hour + Unit.HOUR.length) for dirty in self._dirty])
        return hours, self._bounded(_without([(max(self._since, kept), self._until)], hours))

    def _failure_rows(
        self, statement: str, span: Span, groups: Collection[int] | None, parts: str = f"({LIVING}, {GONE})"
    ) -> Sequence[Sequence[Any]]:
        selected, params = self._server.selected_groups(groups)
        window = {**self._server.window(*span), **params}
        return self._server.all(self._connection, statement, window, parts=parts, selected=selected)

    def _uncounted_failures(self, rest: Iterable[Span], groups: Collection[int] | None) -> Iterator[Sequence[Any]]:
        """Yield hour, group, name and number of failures of rows, and of rows that were deleted."""
        server = self._server
        selected, params = server.selected_groups(groups)
        for span in rest:
            # if only a part of an hour is asked for, the cell of its deleted rows counts too many
            for hours in _within_each([span], Unit.HOUR):
                yield from self._failure_rows("failure_hours", hours, groups, f"({GONE})")
            window = {**server.window(*span), **params}
            yield from server.all(self._connection, "failure_lines", window, selected=selected)
            for _, is_hour, line in server.gone_lines(self._connection, *span):
                unit = Unit.HOUR if is_hour else Unit.MINUTE
                if line.start + unit.length > span[1]:
                    continue
                if line.failure_group is not None and (groups is None or line.failure_group in groups):
                    hour = server.date(Unit.HOUR.floor(line.start))
                    yield hour, line.failure_group, line.name, line.tally.count


def _sum(one: FailureTotal, other: FailureTotal) -> FailureTotal:
    return replace(
        one,
        count=one.count + other.count,
        first=min(one.first, other.first),
        last=max(one.last, other.last),
    )


def _length(unit: Unit) -> timedelta:
    return unit.length


def _matches(line: Line, question: Question) -> bool:
    pairs = ((line.name, question.names), (line.queue, question.queues), (line.state, question.states))
    return all(wanted is None or value in wanted for value, wanted in pairs)


# -- times: sorted, without an overlap


def _within(span: Span, unit: Unit, since: datetime, until: datetime) -> list[Span]:
    """Return the whole minutes, hours or days of a time that are in another one."""
    begin = unit.ceiling(max(span[0], since))
    end = unit.floor(min(span[1], until)) if min(span[1], until) < LAST else LAST
    return [(begin, end)] if begin < end else []


def _within_each(spans: Iterable[Span], unit: Unit) -> list[Span]:
    return [found for span in spans for found in _within(span, unit, ALWAYS, LAST)]


def _intersect(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    found = [(max(since, begin), min(until, end)) for since, until in spans for begin, end in others]
    return [span for span in found if span[0] < span[1]]


def _without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """Return times without other times, which may have any order and overlap."""
    found: list[Span] = []
    sorted_holes = sorted(holes)
    passed = 0
    for since, until in spans:
        # the times are sorted, so what ends before this one ends before the next one
        while passed < len(sorted_holes) and sorted_holes[passed][1] <= since:
            passed += 1
        begin = since
        for number in range(passed, len(sorted_holes)):
            hole_begin, hole_end = sorted_holes[number]
            if hole_begin >= until:
                break
            if begin < hole_begin:
                found.append((begin, hole_begin))
            begin = max(begin, hole_end)
        if begin < until:
            found.append((begin, until))
    return found
