"""Records as a table: one line for each task, with as many columns as the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rootcellar.cli.output import state_style, visible
from rootcellar.cli.times import seconds_between, show_moment, show_seconds
from rootcellar.cli.values import known, outcome
from rootcellar.records import TaskRecord

_GAP = "  "
#: the widest that a task's name may make its column
_LONGEST_NAME = 40
#: results are cut to this where no terminal sets the width
_LONGEST_OUTCOME = 200
#: the columns between the state and the result: the first choice that leaves this much room for results is taken
_LEAST_OUTCOME = 24
_CHOICES = (
    ("name", "task_id", "sent", "done", "wait", "run"),
    ("name", "task_id", "done", "wait", "run"),
    ("name", "task_id", "done", "run"),
)
#: the shortest that a name is cut to where even the last choice leaves too little room
_SHORTEST_NAME = 12
#: the least that is shown of an id on a terminal, where `show` takes the beginning of an id
_SHORTEST_ID = 8


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of one task, each field one safe line."""

    state: str
    name: str
    task_id: str
    sent: str
    done: str
    wait: str
    run: str
    outcome: str
    is_heading: bool = False


def print_tasks(records: Sequence[TaskRecord], console: Console) -> None:
    """Print records as a table with one line for each task.

    On a terminal ids are shortened, columns are left out where there is no room for them, and results are cut at its
    width. Elsewhere every column is printed, and ids are whole.
    """
    rows = [_row(record) for record in records]
    if not console.is_terminal:
        _print(_lines([_heading(), *rows], _CHOICES[0]), None, console)
        return
    length = _length_that_tells_apart([row.task_id for row in rows])
    rows = [_heading(), *(replace(row, task_id=row.task_id[:length]) for row in rows)]
    columns = next(
        (choice for choice in _CHOICES if _room(rows, choice, console.width) >= _LEAST_OUTCOME), _CHOICES[-1]
    )
    missing = _LEAST_OUTCOME - _room(rows, columns, console.width)
    if missing > 0:
        longest = max(_width(rows, "name") - missing, _SHORTEST_NAME)
        rows = [replace(row, name=_cut(row.name, longest)) for row in rows]
    _print(_lines(rows, columns), console.width, console)


def _print(lines: Sequence[Text], width: int | None, console: Console) -> None:
    for line in lines:
        # the last column's text is cut by us, so that nothing is ever wrapped
        line.truncate(width or line.cell_len, overflow="ellipsis")
        line.rstrip()
        console.print(line, soft_wrap=True)


def _heading() -> Row:
    """Return the names of the columns, with the time zone of the moments."""
    zone = datetime.now().astimezone().tzname() or "local"
    return Row("STATE", "TASK", "ID", f"SENT {zone}", f"DONE {zone}", "WAIT", "RUN", "RESULT OR ERROR", is_heading=True)


def _length_that_tells_apart(ids: Sequence[str]) -> int:
    """Return the least number of characters, but 8, by which all these ids differ."""
    distinct = set(ids)
    longest = max((len(task_id) for task_id in distinct), default=0)
    return next(
        (n for n in range(_SHORTEST_ID, longest) if len({task_id[:n] for task_id in distinct}) == len(distinct)),
        max(longest, _SHORTEST_ID),
    )


def _row(record: TaskRecord) -> Row:
    return Row(
        state=visible(record.state),
        name=_cut(visible(record.name or "-"), _LONGEST_NAME),
        task_id=visible(record.task_id),
        sent=show_moment(record.sent_at),
        done=show_moment(known(record.done_at)),
        wait=show_seconds(seconds_between(record.sent_at, record.started_at)),
        run=show_seconds(seconds_between(record.started_at, known(record.done_at))),
        outcome=_cut(visible(outcome(record)[: _LONGEST_OUTCOME * 2]), _LONGEST_OUTCOME),
    )


def _lines(rows: Sequence[Row], columns: Sequence[str]) -> list[Text]:
    widths = {column: _width(rows, column) for column in ("state", *columns)}
    return [
        _join(row, [_state(row, widths["state"]), *(_pad(row, column, widths[column]) for column in columns)])
        for row in rows
    ]


def _join(row: Row, fields: list[Text]) -> Text:
    style = "red" if row.state == "FAILURE" else ""
    return Text(_GAP).join([*fields, Text(row.outcome, style="bold" if row.is_heading else style)])


def _state(row: Row, width: int) -> Text:
    return _pad(row, "state", width, state_style(row.state))


def _pad(row: Row, column: str, width: int, style: str = "") -> Text:
    """Return a field as wide as its column; numbers stand on the right."""
    text = Text(getattr(row, column), style="bold" if row.is_heading else style)
    space = width - text.cell_len
    if column in ("wait", "run"):
        text.pad_left(space)
    else:
        text.pad_right(space)
    return text


def _width(rows: Sequence[Row], column: str) -> int:
    return max(cell_len(getattr(row, column)) for row in rows)


def _room(rows: Sequence[Row], columns: Sequence[str], width: int) -> int:
    """Return how much of a line of ``width`` these columns leave for the result."""
    return width - sum(_width(rows, column) + len(_GAP) for column in ("state", *columns))


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain
