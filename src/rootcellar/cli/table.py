"""Records as a table: one line for each task where there is room, two where there is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
#: with less room than this for results, a task takes two lines
_LEAST_OUTCOME = 24


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


_HEADING = Row("STATE", "TASK", "ID", "SENT", "DONE", "WAIT", "RUN", "RESULT OR ERROR")


def print_tasks(records: Sequence[TaskRecord], console: Console) -> None:
    """Print records as a table that fits the terminal; a pipe gets one line for each, cut nowhere but in the result."""
    rows = [_HEADING, *(_row(record) for record in records)]
    width = console.width if console.is_terminal else None
    lines = _single_lines(rows) if width is None or _single_room(rows, width) >= _LEAST_OUTCOME else _double_lines(rows)
    for line in lines:
        # the last column's text is cut by us, so that nothing is ever wrapped
        line.truncate(width or line.cell_len, overflow="ellipsis")
        line.rstrip()
        console.print(line, soft_wrap=True)


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


def _single_lines(rows: Sequence[Row]) -> list[Text]:
    """``STATE  TASK  ID  SENT  DONE  WAIT  RUN  RESULT``."""
    columns = ("name", "task_id", "sent", "done", "wait", "run")
    widths = {column: _width(rows, column) for column in ("state", *columns)}
    return [
        _join(row, [_state(row, widths["state"]), *(_pad(row, column, widths[column]) for column in columns)])
        for row in rows
    ]


def _double_lines(rows: Sequence[Row]) -> list[Text]:
    """``STATE  TASK  DONE  WAIT  RUN``, and below it ``ID  RESULT``."""
    columns = ("name", "done", "wait", "run")
    widths = {column: _width(rows, column) for column in ("state", *columns, "task_id")}
    lines = []
    for row in rows:
        fields = [_state(row, widths["state"]), *(_pad(row, column, widths[column]) for column in columns)]
        lines.append(Text(_GAP).join(fields))
        lines.append(Text(_GAP) + _join(row, [_pad(row, "task_id", widths["task_id"], "dim")]))
    return lines


def _join(row: Row, fields: list[Text]) -> Text:
    style = "red" if row.state == "FAILURE" else ""
    return Text(_GAP).join([*fields, Text(row.outcome, style="bold" if row is _HEADING else style)])


def _state(row: Row, width: int) -> Text:
    return _pad(row, "state", width, state_style(row.state))


def _pad(row: Row, column: str, width: int, style: str = "") -> Text:
    """Return a field as wide as its column; numbers stand on the right."""
    text = Text(getattr(row, column), style="bold" if row is _HEADING else style)
    space = width - text.cell_len
    if column in ("wait", "run"):
        text.pad_left(space)
    else:
        text.pad_right(space)
    return text


def _width(rows: Sequence[Row], column: str) -> int:
    return max(cell_len(getattr(row, column)) for row in rows)


def _single_room(rows: Sequence[Row], width: int) -> int:
    """Return how much of a line of ``width`` is left for the result."""
    columns = ("state", "name", "task_id", "sent", "done", "wait", "run")
    return width - sum(_width(rows, column) + len(_GAP) for column in columns)


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain
