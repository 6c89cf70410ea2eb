"""Prints text from outside: without colours in a pipe, and so that it cannot control the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rootcellar.errors import RootcellarError, explain
from rootcellar.text.escaping import escaped, visible, visible_lines
from rootcellar.urls import redact

if TYPE_CHECKING:
    from rootcellar.history.filters import FilterWrong

__all__ = [
    "WrongUse",
    "console",
    "exit_status",
    "number_of_tasks",
    "print_beside",
    "print_error",
    "print_json",
    "say",
    "say_beside",
    "state_style",
    "visible",
    "visible_lines",
]

#: the narrowest column of a text beside a label
_NARROWEST = 20
_COLOURS = {
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "RETRY": "yellow",
    "REVOKED": "magenta",
    "REJECTED": "magenta",
    "PENDING": "blue",
    "RECEIVED": "blue",
    "SENT": "blue",
    "STARTED": "cyan",
}


class WrongUse(typer.BadParameter):
    """A command was used wrongly: exit status 2. The message is complete, so nothing is put before it."""

    def format_message(self) -> str:
        return self.message


def console() -> Console:
    """Return a console for standard output. It prints markup as plain text."""
    return Console(highlight=False, markup=False, emoji=False)


def say(text: str, out: Console | None = None) -> None:
    """Print a sentence: wrapped between words on a terminal, in one line elsewhere."""
    out = out or console()
    out.print(visible_lines(text), soft_wrap=not out.is_terminal)


def say_beside(text: str) -> None:
    """Print a sentence on standard error, so that a pipe gets only what was asked for."""
    say(text, Console(stderr=True, highlight=False, markup=False, emoji=False))


def left_out(problems: Iterable[str]) -> None:
    """Print the errors of files of an archive that were left out.

    Raises:
        typer.Exit: with status 1, if there are any.
    """
    found = list(problems)
    for problem in found:
        print(f"rootcellar: left out: {visible(problem)}", file=sys.stderr)
    if found:
        raise typer.Exit(1)


def number_of_tasks(count: int) -> str:
    """Return ``1 task`` or ``1,234 tasks``."""
    return "1 task" if count == 1 else f"{count:,} tasks"


def print_beside(label: str | Text, text: str, out: Console, *, indent: int = 0, style: str = "dim") -> None:
    """Print a label and a text beside it. On a terminal, the text is wrapped in a column of its own."""
    if not out.is_terminal:
        out.print(f"{' ' * indent}{label}{text}", soft_wrap=True)
        return
    head = Text(" " * indent).append_text(label if isinstance(label, Text) else Text(label, style))
    for line in Text(text).wrap(out, max(out.width - head.cell_len, _NARROWEST)):
        line.rstrip()
        shown = head.copy().append_text(line)
        shown.rstrip()
        out.print(shown, soft_wrap=True)
        head = Text(" " * head.cell_len)


def print_error(exc: RootcellarError) -> None:
    """Print an error on standard error, without a password: in one line, unless a filter is wrong."""
    # the remedy is our own text; the rest may quote text from outside
    exc.what, exc.where = redact(exc.what), redact(exc.where)
    if _is_wrong_filter(exc):
        _print_wrong_filter(exc)
        return
    print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)


def exit_status(exc: RootcellarError) -> int:
    """Return the exit status of a command that ends with an error: 2 for wrong use, 1 for everything else."""
    return 2 if _is_wrong_filter(exc) else 1


def _is_wrong_filter(exc: RootcellarError) -> TypeGuard[FilterWrong]:
    # by its name: importing the filter language takes a moment, and many commands do without it
    return exc.code == "filter-wrong"


def _print_wrong_filter(exc: FilterWrong) -> None:
    """Print what is wrong with a filter: on a terminal with a mark under the place, elsewhere in one line."""
    if not sys.stderr.isatty():
        print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)
        return
    out = Console(stderr=True, highlight=False, markup=False, emoji=False)
    shown, column = _window(exc.text, exc.position, out.width - 3)
    out.print(f"rootcellar: {exc.what}")
    out.print(f"  {shown}", soft_wrap=True)
    out.print(f"  {' ' * column}^", soft_wrap=True)
    out.print(f"{exc.remedy[:1].upper()}{exc.remedy[1:]}. (see `{explain(exc.code)}`)")


def _window(text: str, position: int, width: int) -> tuple[str, int]:
    """Return the part of a text around a position that fits into a line, and the column of the position in it."""
    before, after = visible(text[:position]), visible(text[position:])
    while before and cell_len(before) > width * 2 // 3:
        before = f"…{before[2:]}"
    while after and cell_len(before) + cell_len(after) > width:
        after = f"{after[:-2]}…"
    return before + after, cell_len(before)


def state_style(state: str) -> str:
    """Return the colour of a state. All custom states have the same colour."""
    return _COLOURS.get(state, "cyan")


def print_json(value: Any) -> None:
    """Print JSON that is readable in every alphabet. Control characters and invisible ones stay escapes."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=not takes_every_character())
    sys.stdout.write(escaped(text) + "\n")


def takes_every_character() -> bool:
    """Return whether standard output can print every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
