"""Cells as rows of SQL tables: lines that the server counts become tallies, and tallies become rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rootcellar.stores.counting import Spread, Tally, Unit

#: a cell's part: the rows that exist, or those that were deleted
LIVING, GONE = 0, 1
#: added to the part of a cell of all names and queues together
TOTAL = 2
#: the longest time that a cell has: start, name, queue, state
Key = tuple[datetime, str, str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """What the server counted of rows that have all of this in common.

    Attributes:
        start: the begin of the minute, hour or day.
        name, queue, state, failure_group: those of the rows; an empty text if they have none.
        tally: what was counted.
        first_done, last_done: the first and the last end.
        example: the id of one of the rows, if they are failures.
    """

    start: datetime
    name: str
    queue: str
    state: str
    failure_group: int | None
    tally: Tally
    first_done: datetime
    last_done: datetime
    example: str | None


def line_of(row: Sequence[Any], date: Callable[[Any], datetime]) -> Line:
    """Return the line of a row of the statement ``lines``."""
    start, name, queue, state, group, run_step, wait_step, count, retries, *rest = row
    run_sum, run_max, wait_sum, wait_max, first, last, example = rest
    count = int(count)
    return Line(
        start=date(start),
        name=_text(name),
        queue=_text(queue),
        state=_text(state),
        failure_group=group,
        tally=Tally(
            count=count,
            retries=int(retries),
            run=_spread(run_step, count, run_sum, run_max),
            wait=_spread(wait_step, count, wait_sum, wait_max),
        ),
        first_done=date(first),
        last_done=date(last),
        example=example,
    )


def _spread(step: int | None, count: int, total: Any, longest: Any) -> Spread:
    if step is None:
        return Spread()
    return Spread(count, float(total), float(longest), {int(step): count})


def _text(value: Any) -> str:
    """Return a text column; a damaged one as readable text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else str(value)


def by_cell(lines: Iterable[Line], unit: Unit) -> dict[Key, Tally]:
    """Return the tallies of lines by minute, hour or day, name, queue and state."""
    found: dict[Key, Tally] = {}
    for line in lines:
        key = (unit.floor(line.start), line.name, line.queue, line.state)
        found.setdefault(key, Tally()).add(line.tally)
    return found


def totals(cells: Mapping[Key, Tally]) -> dict[Key, Tally]:
    """Return the tallies of all names and queues together."""
    found: dict[Key, Tally] = {}
    for (start, _, _, state), tally in cells.items():
        found.setdefault((start, "", "", state), Tally()).add(tally)
    return found


def cell_rows(cells: Mapping[Key, Tally], part: int, date: Callable[[datetime], Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of cells, and of their totals."""
    for some, number in ((cells, part), (totals(cells), part + TOTAL)):
        for (start, name, queue, state), tally in some.items():
            yield {
                "start": date(start),
                "part": number,
                "name": name,
                "queue": queue,
                "status": state,
                "n": tally.count,
                "retries": tally.retries,
                "run_n": tally.run.count,
                "run_sum": tally.run.total,
                "run_max": tally.run.longest,
                "run_steps": steps_text(tally.run.steps),
                "wait_n": tally.wait.count,
                "wait_sum": tally.wait.total,
                "wait_max": tally.wait.longest,
                "wait_steps": steps_text(tally.wait.steps),
            }


def steps_text(steps: Mapping[int, int]) -> str:
    """Return steps as JSON: the first step, then the count of each from there."""
    if not steps:
        return "[]"
    first, last = min(steps), max(steps)
    return json.dumps([first, *(steps.get(step, 0) for step in range(first, last + 1))], separators=(",", ":"))


def read_tally(row: Sequence[Any]) -> Tally:
    """Return the tally of the columns of ``sums``, or of ``cells``, whose steps come last."""
    found = Tally()
    add_row(found, row)
    return found


def add_row(tally: Tally, row: Sequence[Any]) -> None:
    """Add these columns to a tally."""
    count, retries, run_n, run_sum, run_max, wait_n, wait_sum, wait_max, *steps = row
    tally.count += int(count or 0)
    tally.retries += int(retries or 0)
    _add_spread(tally.run, run_n, run_sum, run_max, steps[0] if steps else "[]")
    _add_spread(tally.wait, wait_n, wait_sum, wait_max, steps[1] if steps else "[]")


def _add_spread(spread: Spread, count: Any, total: Any, longest: Any, steps: str) -> None:
    if not count:
        return
    spread.count += int(count)
    spread.total += float(total)
    spread.longest = max(spread.longest, longest)
    if len(steps) > 2:
        first, *counts = json.loads(steps)
        found = spread.steps
        for step, more in enumerate(counts, first):
            if more:
                found[step] = found.get(step, 0) + more
