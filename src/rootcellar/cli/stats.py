"""``rootcellar stats``: counts, failures and durations of each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.text import Text

from rootcellar.cli.numbers import about, as_object, number, say_about, share
from rootcellar.cli.options import Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import console, print_json, say, say_beside, visible
from rootcellar.cli.stores import existing_history
from rootcellar.history.filters import parse
from rootcellar.history.stats import Stats, TaskStats

EXAMPLES = """\b
Examples:
  rootcellar stats -A shop.celery
  rootcellar stats since:24h 'task:shop.*' -A shop.celery
  rootcellar stats done:2026-11 --by-queue --json -A shop.celery
"""
_HEADING = ("TASK", "COUNT", "FAILED", "RUN p50", "RUN p95", "WAIT p50", "WAIT p95")
_GAP = 2
#: names are not cut to less than this width
_MIN_NAME_WIDTH = 12


@store_options
def stats(
    choice: Choice,
    words: FilterArgument = None,
    by_queue: Annotated[bool, typer.Option("--by-queue", help="Count the queues of a task separately")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The most tasks to list")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show counts, failures and durations of each task.

    FILTER may name tasks, queues, states and times. Without it, everything is counted that ever ended, also results
    that have expired or were deleted since the statistics began. Half of the tasks took at most p50, and 95% at most
    p95; RUN is the time from started to done, WAIT the time from sent to started.
    """
    query = parse(filter_text(words))
    with existing_history(choice) as opened:
        found = opened.stats(query, by_queue=by_queue)
        if as_json:
            print_json(_object(found))
            return
        if not found.tasks:
            say(f"No task that has ended matches in {opened.store.where}.")
        else:
            _print(found, limit, by_queue)
        say_about(opened, query, found)


def _print(found: Stats, limit: int, by_queue: bool) -> None:
    shown = found.tasks[:limit]
    names = [_name(one, by_queue) for one in shown]
    total = found.total
    rows = [_columns(name, one, found.is_exact) for name, one in zip(names, shown, strict=True)]
    if len(found.tasks) > 1:
        rows.append(_columns("all", total, found.is_exact))
    out = console()
    widths = [max(cell_len(row[column]) for row in (_HEADING, *rows)) for column in range(len(_HEADING))]
    if out.is_terminal:
        widths[0] = min(widths[0], max(_MIN_NAME_WIDTH, out.width - sum(widths[1:]) - _GAP * (len(widths) - 1)))
    out.print(_line(_HEADING, widths, "bold"), soft_wrap=True)
    for row, one in zip(rows, (*shown, total), strict=False):
        out.print(_line(row, widths, "red" if one.states.get("FAILURE") else ""), soft_wrap=True)
    if len(found.tasks) > limit:
        say_beside(f"There are {len(found.tasks) - limit:,} more tasks: --limit {len(found.tasks)} shows them all.")


def _name(one: TaskStats, by_queue: bool) -> str:
    name = visible(one.task) or "(no name)"
    return f"{name} in {visible(one.queue or '') or '(no queue)'}" if by_queue else name


def _columns(name: str, one: TaskStats, is_exact: bool) -> tuple[str, ...]:
    durations = (one.run.p50, one.run.p95, one.wait.p50, one.wait.p95)
    failed = share(one.states.get("FAILURE", 0), one.count)
    return (name, number(one.count, is_exact), failed, *map(about, durations))


def _line(row: Sequence[str], widths: Sequence[int], style: str) -> Text:
    """Return a line of the table: numbers are aligned to the right, and the share of failures has the colour."""
    line = Text()
    for column, (text, width) in enumerate(zip(row, widths, strict=True)):
        cell = Text(text, style=style if column == 2 or style == "bold" else "")
        if column == 0:
            cell.truncate(width, overflow="ellipsis", pad=True)
        else:
            cell.pad_left(_GAP + width - cell.cell_len)
        line.append_text(cell)
    return line


def _object(found: Stats) -> dict[str, Any]:
    return {
        "tasks": [_task_object(one) for one in found.tasks],
        "total": _task_object(found.total),
        "as_of": found.as_of.isoformat(),
        **as_object(found),
    }


def _task_object(one: TaskStats) -> dict[str, Any]:
    return {
        "task": one.task,
        "queue": one.queue,
        "count": one.count,
        "failed": one.states.get("FAILURE", 0),
        "failure_share": one.failure_share,
        "states": dict(one.states),
        "retries": one.retries,
        "run_seconds": asdict(one.run),
        "wait_seconds": asdict(one.wait),
    }
