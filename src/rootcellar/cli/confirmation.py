"""Asks before a command changes something."""

from __future__ import annotations

import sys

import typer

from rootcellar.cli.output import WrongUse, say


def confirm(yes: bool, question: str) -> None:
    """Ask for a confirmation on a terminal. Without a terminal, ``--yes`` must be given.

    Raises:
        WrongUse: there is no terminal, and ``yes`` is false.
        typer.Exit: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUse(f"there is no terminal to ask on. {question} Give --yes")
    # standard output has only what was asked for, such as JSON
    if not typer.confirm(question, err=True):
        say("Nothing was changed.")
        raise typer.Exit(1)
