"""The command ``rootcellar``. Exit status: 0 for success, 1 for an error or "no", 2 for wrong use, 130 for Ctrl-C."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from rootcellar import __version__
from rootcellar.cli.commands import LazyGroup
from rootcellar.errors import RootcellarError

app = typer.Typer(
    name="rootcellar",
    cls=LazyGroup,
    help="Keep the results of Celery tasks, and show them.",
    no_args_is_help=True,
    # plain help fits any width, and shows [brackets] as they are
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rootcellar {__version__}")
        raise typer.Exit


@app.callback(epilog="\b\nExamples:\n  rootcellar demo\n  rootcellar history --backend sqlite:///results.sqlite3\n")
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit. An error of rootcellar is one line on standard error, without passwords."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # a result may contain characters that the terminal's encoding lacks
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="rootcellar")
    except RootcellarError as exc:
        # imported late: it is slow, and the help needs no colours
        from rootcellar.cli.output import exit_status, print_error

        print_error(exc)
        sys.exit(exit_status(exc))
    except SystemExit as exc:
        if exc.code == 128 + signal.SIGINT:
            print("rootcellar: interrupted", file=sys.stderr)
        raise
    sys.exit(0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit with the status of a program that the signal killed, after closing everything."""
    # a second signal must not interrupt the clean-up
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
