"""Prints text from outside: without colours in a pipe, and so that it cannot control the terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from rootcellar.errors import RootcellarError
from rootcellar.text.escaping import escaped, visible, visible_lines
from rootcellar.urls import redact

__all__ = [
    "WrongUse",
    "console",
    "print_beside",
    "print_error",
    "print_json",
    "say",
    "state_style",
    "visible",
    "visible_lines",
]

_COLOURS = {
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "RETRY": "yellow",
    "REVOKED": "magenta",
    "REJECTED": "magenta",
    "PENDING": "blue",
    "RECEIVED": "blue",
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


def print_beside(label: str, text: str, out: Console, *, indent: int = 0, style: str = "dim") -> None:
    """Print a label and a text beside it. On a terminal, the text is wrapped in a column of its own."""
    if not out.is_terminal:
        out.print(f"{' ' * indent}{label}{text}", soft_wrap=True)
        return
    table = Table.grid()
    table.add_column(width=len(label), style=style)
    table.add_column()
    table.add_row(label, text)
    out.print(Padding(table, (0, 0, 0, indent)))


def print_error(exc: RootcellarError) -> None:
    """Print an error in one line on standard error, without a password."""
    # the remedy is our own text; the rest may quote text from outside
    exc.what, exc.where = redact(exc.what), redact(exc.where)
    print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)


def state_style(state: str) -> str:
    """Return the colour of a state. All custom states have the same colour."""
    return _COLOURS.get(state, "cyan")


def print_json(value: Any) -> None:
    """Print JSON that is readable in every alphabet. Control characters and invisible ones stay escapes."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=not _takes_every_character())
    sys.stdout.write(escaped(text) + "\n")


def _takes_every_character() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
