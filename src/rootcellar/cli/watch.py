"""``rootcellar watch``: prints tasks when they end."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from rootcellar.cli.damage import print_damage
from rootcellar.cli.formats import json_line
from rootcellar.cli.options import Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import console, print_error, say_beside, state_style, takes_every_character
from rootcellar.cli.stores import existing_history
from rootcellar.cli.table import Row, row_of
from rootcellar.cli.times import parse_moment
from rootcellar.cli.values import json_object
from rootcellar.errors import RootcellarError
from rootcellar.history.endings import Endings
from rootcellar.history.filters import parse
from rootcellar.records import TaskRecord

EXAMPLES = """\b
Examples:
  rootcellar watch -A shop.celery
  rootcellar watch state:failed -A shop.celery
  rootcellar watch 'task:shop.*' --since 5m --limit 10 --json -A shop.celery
"""
#: how many times as long as a search it waits at least before the next one
_REST = 4
#: the widths of name and id on a terminal
_NAME_WIDTH, _ID_WIDTH = 24, 8


@store_options
def watch(
    choice: Choice,
    words: FilterArgument = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Begin with tasks that ended since then: 30m, 2h, or an ISO date"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="End after this many tasks")] = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, metavar="SECONDS", help="The seconds between two searches")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Print tasks when they end, until Ctrl-C.

    Once in each interval, it asks the store which tasks have ended since the last time. A task is printed if it was
    stored at most 10 seconds after its end. While the store cannot be reached, it waits. With --json, each line is one
    object, as `history --json` prints them.
    """
    query = parse(filter_text(words))
    moment = None if since is None else _moment(since)
    with existing_history(choice) as opened:
        endings = Endings(opened, query, moment)
        printer = _Printer(as_json)
        if not as_json:
            say_beside("Waiting for tasks to end; Ctrl-C stops.")
        while True:
            began = time.monotonic()
            if printer.read(endings, limit):
                return
            # a store without an index reads every result for a search: it must not do that all the time
            time.sleep(max(interval, _REST * (time.monotonic() - began)))


class _Printer:
    """Prints tasks, one line each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._out = console()
        self._printed = 0
        self._has_outage = False

    def read(self, endings: Endings, limit: int | None) -> bool:
        """Print the tasks that have ended; return True if there were enough."""
        try:
            for record in endings.read():
                self._print(record)
                self._printed += 1
                if self._printed == limit:
                    return True
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            if not self._has_outage:
                print_error(exc)
            self._has_outage = True
        else:
            if self._has_outage:
                say_beside("The store can be reached again.")
            self._has_outage = False
        return False

    def _print(self, record: TaskRecord) -> None:
        print_damage([record])
        if self._as_json:
            sys.stdout.write(json_line(json_object(record), is_ascii=not takes_every_character()))
            sys.stdout.flush()
        else:
            _print_line(row_of(record), self._out)


def _print_line(row: Row, out: Console) -> None:
    """Print a task: on a terminal in one line of its width, elsewhere complete."""
    is_terminal = out.is_terminal
    name = row.name[:_NAME_WIDTH] if is_terminal else row.name
    line = Text("  ").join(
        [
            Text(row.done),
            Text(row.state.ljust(7), style=state_style(row.state)),
            Text(name.ljust(_NAME_WIDTH) if is_terminal else name),
            Text(row.task_id[:_ID_WIDTH] if is_terminal else row.task_id),
            Text(row.run.rjust(7)),
            Text(row.outcome, style="red" if row.state == "FAILURE" else ""),
        ]
    )
    line.truncate(out.width if is_terminal else line.cell_len, overflow="ellipsis")
    line.rstrip()
    out.print(line, soft_wrap=True)
    out.file.flush()


def _moment(text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--since") from None
