"""``rootcellar settings``: shows the settings from the environment."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import rootcellar
from rootcellar.cli.options import AppOption, EnvFileOption, JsonOption
from rootcellar.cli.output import console, print_json, say, visible
from rootcellar.cli.stores import load_app
from rootcellar.errors import DriverMissing, SettingsWrong, code_of, explain

if TYPE_CHECKING:
    from rootcellar.configuration.settings import InForce, Settings

#: the origin of a value that was not set
DEFAULT = "default"

EXAMPLES = """\b
Examples:
  rootcellar settings
  rootcellar settings --all
  CELERY_BROKER=redis CELERY_RESULT_BACKEND=postgres rootcellar settings
  rootcellar settings --env-file .env.production --json
  rootcellar settings --prefix RESULTS_
  rootcellar settings -A tasks
"""


def settings(
    app: AppOption = None,
    as_json: JsonOption = False,
    show_all: Annotated[bool, typer.Option("--all", help="Also list the variables that have their default")] = False,
    env_file: EnvFileOption = ".env",
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="PREFIX", help="Read RESULTS_DB_HOST and so on, for --prefix RESULTS_"),
    ] = None,
    without_broker: Annotated[
        bool, typer.Option("--no-broker", help="Require no broker, as settings(broker=False) does")
    ] = False,
) -> None:
    """Show what rootcellar.settings() reads, and what Celery gets.

    Each variable that was given is listed, with where its value came from. Passwords are masked.
    With --app, Celery's settings are read from the app, whose own settings may take precedence over the environment.
    Exit status 1 if something is wrong, with a list of all problems; also if a Python package is missing.
    """
    # warnings are printed with the rest
    logging.getLogger("rootcellar.configuration").addHandler(logging.NullHandler())
    try:
        found = rootcellar.settings(env_file, broker=not without_broker, prefix=prefix)
    except SettingsWrong as exc:
        _print_problems(exc, as_json)
        raise typer.Exit(1) from None
    problems = list(_missing_drivers(found))
    said = found.masked()
    celery = said if app is None else _of_app(app)
    differing = sorted(name for name in {*said, *celery} if said.get(name) != celery.get(name))
    if as_json:
        print_json(
            {
                "problems": problems,
                "variables": [{"name": it.name, "value": it.value, "origin": it.origin} for it in found.in_force()],
                "celery": celery,
                "differing": differing,
                "unused": list(found.unused),
                "ignored": list(found.ignored),
                "warnings": list(found.warnings),
            }
        )
        raise typer.Exit(1 if problems else 0)
    _print_table(found.in_force(), show_all)
    say("\nCelery gets:")
    for name, value in celery.items():
        console().print(f"  {name} = {visible(repr(value))}", soft_wrap=True)
    if differing:
        say("\nThe app's settings take precedence over the environment, which has:")
        for name in differing:
            value = visible(repr(said[name])) if name in said else "nothing"
            console().print(f"  {name} = {value}", soft_wrap=True)
    if found.unused:
        say(f"\nGiven, but not used by this broker and backend: {', '.join(found.unused)}")
    if found.warnings:
        say("\nPerhaps wrong, and not changed:")
        for warning in found.warnings:
            console().print(f"  {visible(warning)}", soft_wrap=True)
    if found.ignored:
        say(f"\nUnknown, and ignored: {', '.join(map(visible, found.ignored))}")
    for problem in problems:
        print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    if problems:
        print(f"(see `{explain(code_of(DriverMissing))}`)", file=sys.stderr)
        raise typer.Exit(1)


def _of_app(name: str) -> dict[str, Any]:
    """Return the settings of an app, from any source, as plain JSON without passwords."""
    from rootcellar.checks.environment import settings_of
    from rootcellar.configuration.settings import masked

    return masked(settings_of(load_app(name)))


def _missing_drivers(found: Settings) -> Iterator[str]:
    # imported late, as all of the configuration is
    from rootcellar.configuration.drivers import missing_drivers

    return missing_drivers(found)


def _print_problems(exc: SettingsWrong, as_json: bool) -> None:
    if as_json:
        print_json({"problems": list(exc.problems), "warnings": list(exc.warnings), "see": explain(exc.code)})
        return
    for problem in (*exc.problems, *exc.warnings):
        print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    print(f"(see `{explain(exc.code)}`)", file=sys.stderr)


def _print_table(variables: list[InForce], show_all: bool) -> None:
    """Print a line for each variable. The value comes last, because it may be long."""
    shown = [it for it in variables if show_all or it.origin != DEFAULT]
    rows = [("VARIABLE", "FROM", "VALUE"), *((it.name, visible(it.origin), visible(it.value)) for it in shown)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    out = console()
    for name, origin, value in rows:
        line = Text(f"{name:{widths[0]}}  {origin:{widths[1]}}  {value}", style="dim" if origin == DEFAULT else "")
        out.print(line, soft_wrap=True)
    if left_out := len(variables) - len(shown):
        say(f"\n{left_out} more have their default: `rootcellar settings --all` lists them.")
