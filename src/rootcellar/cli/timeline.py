"""``rootcellar timeline``: how many tasks ended in each minute, hour or day."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rootcellar.cli.numbers import about, as_object, number, say_about
from rootcellar.cli.options import Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import WrongUse, console, print_json
from rootcellar.cli.stores import existing_history
from rootcellar.history.filters import parse
from rootcellar.history.timeline import Point, Timeline

EXAMPLES = """\b
Examples:
  rootcellar timeline -A shop.celery
  rootcellar timeline 'task:shop.*' since:2h --by minute -A shop.celery
  rootcellar timeline since:2026-11-01 --by day --json -A shop.celery
"""
#: the bars: tasks that did not fail, and tasks that failed
_BLOCKS, _PLAIN = ("█", "▒"), ("#", "!")
_MIN_BAR_WIDTH = 10


class Step(str, Enum):
    """The length of each line of a timeline."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


_FORMATS = {"minute": "%m-%d %H:%M", "hour": "%m-%d %H:%M", "day": "%Y-%m-%d"}


@store_options
def timeline(
    choice: Choice,
    words: FilterArgument = None,
    by: Annotated[Step, typer.Option("--by", help="The length of time of each line")] = Step.HOUR,
    as_json: JsonOption = False,
) -> None:
    """Show how many tasks ended in each minute, hour or day, as bars.

    FILTER may name tasks, queues, states and times. Without since: or done:, it shows the last hour by the
    minute, the last day by the hour, or the last 30 days by the day. Results that have expired or were deleted are
    counted, too. The failures are the last part of each bar. Times are in your time zone.
    """
    query = parse(filter_text(words))
    with existing_history(choice) as opened:
        try:
            found = opened.timeline(query, by=by.value)
        except ValueError as exc:
            raise WrongUse(str(exc)) from None
        if as_json:
            print_json(_object(found))
            return
        _print(found, console())
        say_about(opened, query, found)


def _print(found: Timeline, out: Console) -> None:
    rows = [_columns(point, found) for point in found.points]
    headings = ("START", "COUNT", "FAILED", "RUN p95")
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    room = max(_MIN_BAR_WIDTH, min(out.width, 80 if not out.is_terminal else out.width) - sum(widths) - 2 * len(widths))
    largest = max((point.count for point in found.points), default=0)
    out.print(_text(headings, widths, "bold"), soft_wrap=True)
    for row, point in zip(rows, found.points, strict=True):
        line = _text(row, widths)
        line.append("  ").append_text(_bar(point, largest, room))
        line.rstrip()
        out.print(line, soft_wrap=True)


def _columns(point: Point, found: Timeline) -> tuple[str, ...]:
    failed = point.states.get("FAILURE", 0)
    start = point.start.strftime(_FORMATS[found.step])
    if not point.count:
        return (start, "-", "-", "-")
    return (start, number(point.count, found.is_exact), f"{failed:,}" if failed else "-", about(point.run_p95))


def _text(row: tuple[str, ...], widths: list[int], style: str = "") -> Text:
    cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
    return Text("  ".join(cells), style=style)


def _bar(point: Point, largest: int, room: int) -> Text:
    """Return a bar: its length is that of the count, the failures are its last part, and one of each is visible."""
    failed = point.states.get("FAILURE", 0)
    if not point.count:
        return Text("")
    length = max(1, round(room * point.count / largest))
    bad = max(1, round(length * failed / point.count)) if failed else 0
    if failed < point.count and bad == length:
        # one of the others must be visible, too
        length, bad = (length, bad - 1) if length > 1 else (2, 1)
    good_mark, bad_mark = _BLOCKS if _has_blocks() else _PLAIN
    return Text(good_mark * (length - bad)).append(bad_mark * bad, style="red")


def _has_blocks() -> bool:
    try:
        "".join(_BLOCKS).encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _object(found: Timeline) -> dict[str, Any]:
    return {
        "step": found.step,
        "points": [
            {
                "start": point.start.isoformat(),
                "count": point.count,
                "failed": point.states.get("FAILURE", 0),
                "states": dict(point.states),
                "run_p50_seconds": point.run_p50,
                "run_p95_seconds": point.run_p95,
                "wait_p50_seconds": point.wait_p50,
                "wait_p95_seconds": point.wait_p95,
            }
            for point in found.points
        ],
        "as_of": found.as_of.isoformat(),
        **as_object(found),
    }
