"""Prints records as a table: one line for each task, with as many columns as fit on the terminal."""

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
#: task names are cut to this width
_MAX_NAME_WIDTH = 40
#: results are cut to this width if there is no terminal
_MAX_OUTCOME_WIDTH = 200
#: the columns between state and result: the first set that leaves at least this width for results is used
_MIN_OUTCOME_WIDTH = 24
_COLUMN_SETS = (
    ("name", "task_id", "sent", "done", "wait", "run"),
    ("name", "task_id", "done", "wait", "run"),
    ("name", "task_id", "done", "run"),
)
#: task names are cut to this width if even the last set leaves too little for results
_MIN_NAME_WIDTH = 12
#: ids are cut to at least this length on a terminal; `show` accepts the beginning of an id
_MIN_ID_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Row:
    """The texts of one task in the table. Each is one line and safe to print."""

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

    On a terminal ids are shortened, columns that do not fit are left out, and lines are cut. Elsewhere every column is
    printed, and ids are complete.
    """
    rows = [row_of(record) for record in records]
    if not console.is_terminal:
        _print(_lines([_heading(), *rows], _COLUMN_SETS[0]), None, console)
        return
    length = _distinguishing_length([row.task_id for row in rows])
    rows = [_heading(), *(replace(row, task_id=row.task_id[:length]) for row in rows)]
    columns = next(
        (choice for choice in _COLUMN_SETS if _remaining_width(rows, choice, console.width) >= _MIN_OUTCOME_WIDTH),
        _COLUMN_SETS[-1],
    )
    missing = _MIN_OUTCOME_WIDTH - _remaining_width(rows, columns, console.width)
    if missing > 0:
        longest = max(_width(rows, "name") - missing, _MIN_NAME_WIDTH)
        rows = [replace(row, name=_cut(row.name, longest)) for row in rows]
    _print(_lines(rows, columns), console.width, console)


def _print(lines: Sequence[Text], width: int | None, console: Console) -> None:
    for line in lines:
        # cut the last column here, so that the terminal never wraps a line
        line.truncate(width or line.cell_len, overflow="ellipsis")
        line.rstrip()
        console.print(line, soft_wrap=True)


def _heading() -> Row:
    """Return the names of the columns, with the time zone."""
    zone = datetime.now().astimezone().tzname() or "local"
    return Row("STATE", "TASK", "ID", f"SENT {zone}", f"DONE {zone}", "WAIT", "RUN", "RESULT OR ERROR", is_heading=True)


def _distinguishing_length(ids: Sequence[str]) -> int:
    """Return the smallest length, at least 8, to which the ids can be cut so that they still differ."""
    distinct = set(ids)
    longest = max((len(task_id) for task_id in distinct), default=0)
    return next(
        (n for n in range(_MIN_ID_WIDTH, longest) if len({task_id[:n] for task_id in distinct}) == len(distinct)),
        max(longest, _MIN_ID_WIDTH),
    )


def row_of(record: TaskRecord) -> Row:
    """Return the texts of a task."""
    return Row(
        state=visible(record.state),
        name=_cut(visible(record.name or "-"), _MAX_NAME_WIDTH),
        task_id=visible(record.task_id),
        sent=show_moment(record.sent_at),
        done=show_moment(known(record.done_at)),
        wait=show_seconds(seconds_between(record.sent_at, record.started_at)),
        run=show_seconds(seconds_between(record.started_at, known(record.done_at))),
        outcome=_cut(visible(outcome(record)[: _MAX_OUTCOME_WIDTH * 2]), _MAX_OUTCOME_WIDTH),
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
    """Return a field padded to the width of its column. Numbers are aligned to the right."""
    text = Text(getattr(row, column), style="bold" if row.is_heading else style)
    space = width - text.cell_len
    if column in ("wait", "run"):
        text.pad_left(space)
    else:
        text.pad_right(space)
    return text


def _width(rows: Sequence[Row], column: str) -> int:
    return max(cell_len(getattr(row, column)) for row in rows)


def _remaining_width(rows: Sequence[Row], columns: Sequence[str], width: int) -> int:
    """Return the width that these columns leave for the result in a line of ``width``."""
    return width - sum(_width(rows, column) + len(_GAP) for column in ("state", *columns))


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain
