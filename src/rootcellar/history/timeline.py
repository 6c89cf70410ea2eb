"""How many tasks ended in each minute, hour or day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from rootcellar.errors import AbilityMissing
from rootcellar.history.filters import Clock, Filter
from rootcellar.history.selections import counted_cells, selection_of
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted, Spread, Unit

#: how long a timeline is if the filter does not say when it begins
_LENGTHS = {
    Unit.MINUTE: timedelta(hours=1),
    Unit.HOUR: timedelta(hours=24),
    Unit.DAY: timedelta(days=30),
}
#: the most points
MAX_POINTS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A minute, an hour or a day.

    Attributes:
        start: its begin, in the reader's zone.
        states: state -> how many tasks ended in it.
        run_p50, run_p95, wait_p50, wait_p95: about how long tasks ran and waited, in seconds; ``None`` if not known.
    """

    start: datetime
    states: Mapping[str, int]
    run_p50: float | None = None
    run_p95: float | None = None
    wait_p50: float | None = None
    wait_p95: float | None = None

    @property
    def count(self) -> int:
        """How many tasks ended in it."""
        return sum(self.states.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How many tasks ended in each step of a period.

    Attributes:
        step: the length of each point: ``minute``, ``hour`` or ``day``.
        points: in order, also those without a task.
        as_of: the moment at which the numbers were right.
        behind_by: how old the newest counted results are, if the newest ones are missing; otherwise 0.
        is_exact: whether every finished task is counted.
    """

    step: str
    points: tuple[Point, ...]
    as_of: datetime
    behind_by: timedelta = timedelta(0)
    is_exact: bool = True


def timeline(store: Store, query: Filter, clock: Clock, by: str = "hour") -> Timeline:
    """Count the tasks that ended in each minute, hour or day.

    Args:
        store: the store.
        query: a filter that names only tasks, queues, states and times. Without a begin, it is the last hour by the
            minute, the last day by the hour, and the last 30 days by the day.
        clock: the present and the zone of the reader. Days begin at the reader's midnight, rounded to whole hours.
        by: ``minute``, ``hour`` or ``day``.

    Raises:
        ValueError: ``by`` is another text, or there would be too many points.
        AbilityMissing: the store keeps no counts, or the filter names something else.
    """
    unit = Unit(by)
    counted = store.ability(Counted)
    selection = selection_of(query, clock)
    if counted is None or selection is None:
        raise cannot_count(store, counted is not None)
    since = selection.since or (selection.until or clock.now) - _LENGTHS[unit]
    until = selection.until or max(clock.now, since)
    starts = _starts(_floor(since, unit, clock), until, unit, clock)
    # the reader's days may not begin with those of UTC
    is_shifted = any(start.utcoffset() for start in starts)
    cells_by = Unit.HOUR if unit is Unit.DAY and is_shifted else unit
    answer = counted_cells(counted, replace(selection, since=since), by=cells_by, with_spreads=True)
    states: dict[datetime, dict[str, int]] = {start: {} for start in starts}
    spreads: dict[datetime, tuple[Spread, Spread]] = {start: (Spread(), Spread()) for start in starts}
    for cell in answer.cells:
        assert cell.start is not None
        assert cell.state is not None
        start = _floor(cell.start, unit, clock)
        here = states.setdefault(start, {})
        here[cell.state] = here.get(cell.state, 0) + cell.tally.count
        run, wait = spreads.setdefault(start, (Spread(), Spread()))
        run.add(cell.tally.run)
        wait.add(cell.tally.wait)
    points = (_point(start, states[start], *spreads[start]) for start in sorted(states))
    return Timeline(
        step=unit.value,
        points=tuple(points),
        as_of=answer.as_of,
        behind_by=answer.behind_by,
        is_exact=answer.is_exact,
    )


def _point(start: datetime, states: Mapping[str, int], run: Spread, wait: Spread) -> Point:
    return Point(
        start=start,
        states=states,
        run_p50=run.quantile(0.5),
        run_p95=run.quantile(0.95),
        wait_p50=wait.quantile(0.5),
        wait_p95=wait.quantile(0.95),
    )


def _floor(moment: datetime, unit: Unit, clock: Clock) -> datetime:
    """Return the begin of the minute, hour or day in the reader's zone that contains a moment."""
    if unit is not Unit.DAY:
        return unit.floor(moment.astimezone(timezone.utc)).astimezone(clock.zone)
    return moment.astimezone(clock.zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _starts(first: datetime, until: datetime, unit: Unit, clock: Clock) -> list[datetime]:
    """Return the begin of every point.

    Raises:
        ValueError: there are too many.
    """
    if (until - first) / unit.length > MAX_POINTS:
        raise ValueError(f"a timeline of more than {MAX_POINTS:,} points: choose a shorter time, or longer steps")
    found: list[datetime] = []
    start = first
    while start < until:
        found.append(start)
        # an hour more than a day, because a day may have 25 hours
        following = start.astimezone(timezone.utc) + unit.length + timedelta(hours=2 if unit is Unit.DAY else 0)
        start = _floor(following, unit, clock)
    return found


def cannot_count(store: Store, has_counts: bool) -> AbilityMissing:
    """Return the error for a question that the counts cannot answer."""
    if has_counts:
        return AbilityMissing(
            "the counts beside the results only know tasks, queues, states and times",
            where=store.where,
            remedy="use only task:, queue:, state:, since:, until: and done: here, joined by spaces",
        )
    return AbilityMissing(
        "this store keeps no counts beside the results",
        where=store.where,
        remedy="keep results in PostgreSQL, MySQL, SQLite or the hybrid of Redis and PostgreSQL",
    )
