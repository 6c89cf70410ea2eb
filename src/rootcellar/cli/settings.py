"""``rootcellar settings``: shows the settings from the environment."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import rootcellar
from rootcellar.cli.options import AppOption, EnvFileOption, JsonOption
from rootcellar.cli.output import console, print_json, say, visible
from rootcellar.cli.stores import app_of_folder, load_app
from rootcellar.errors import ConfigurationError, DriverMissing, SettingsWrong, code_of, explain

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
    With --app, Celery's settings are read from the app, whose own settings may take precedence over the environment; an
    app may also have all of them elsewhere, as a Django project does. Exit status 1 if something is wrong, with a list
    of all problems; also if a Python package is missing.
    """
    # warnings are printed with the rest
    logging.getLogger("rootcellar.configuration.settings").addHandler(logging.NullHandler())
    # an app may have a broker of its own
    is_broker_required = app is None and not without_broker
    found: Settings | None = None
    try:
        found = rootcellar.settings(env_file, broker=is_broker_required, prefix=prefix)
    except SettingsWrong as exc:
        if app is None or _names_backend(env_file):
            _print_problems(exc, as_json, _hint(app, env_file))
            raise typer.Exit(1) from None
        # the app has its settings elsewhere, so nothing is wrong
    conf = _of_app(app) if app is not None else found or {}
    celery = _masked(conf)
    problems = list(_missing_drivers(conf))
    wrong_rules = list(_wrong_rules(conf))
    if as_json:
        print_json({"problems": [*problems, *wrong_rules], **_as_json(found, celery)})
    else:
        _print(found, celery, show_all)
        if found is None:
            say(f"\n`rootcellar check --app {app}` tests the servers.")
        _print_missing(problems)
        for problem in wrong_rules:
            print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    if problems or wrong_rules:
        raise typer.Exit(1)


def _of_app(name: str) -> dict[str, Any]:
    """Return the settings of an app, from any source."""
    from rootcellar.checks.environment import settings_of

    return settings_of(load_app(name))


def _masked(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as plain JSON without passwords."""
    # imported late, as all of the configuration is
    from rootcellar.configuration.settings import masked

    return masked(conf)


def _names_backend(env_file: str) -> bool:
    from rootcellar.configuration import names_backend

    return names_backend(env_file)


def _missing_drivers(conf: Mapping[str, Any]) -> Iterator[str]:
    from rootcellar.configuration.drivers import missing_drivers

    return missing_drivers(conf)


def _wrong_rules(conf: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the rules of retention."""
    from rootcellar.retention.policy import read_retention

    try:
        read_retention(conf)
    except ConfigurationError as exc:
        yield str(exc)


def _hint(app: str | None, env_file: str) -> str:
    """Return what to do if the settings are not in the environment, but in an app; empty if they are."""
    if app is not None or _names_backend(env_file):
        return ""
    found = app_of_folder()
    if found is None:
        return "If a Celery app has its settings elsewhere, add --app MODULE: MODULE is its name, as for `celery -A`."
    return (
        f"The settings of the Django project in this folder: `rootcellar settings --app {found}`; "
        f"`rootcellar check --app {found}` tests the servers."
    )


def _print_problems(exc: SettingsWrong, as_json: bool, hint: str) -> None:
    if as_json:
        document = {"problems": list(exc.problems), "warnings": list(exc.warnings), "see": explain(exc.code)}
        print_json({**document, **({"hint": hint} if hint else {})})
        return
    for problem in (*exc.problems, *exc.warnings):
        print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)
    print(f"(see `{explain(exc.code)}`)", file=sys.stderr)


def _print_missing(problems: Sequence[str]) -> None:
    """Print the Python packages that are missing."""
    for problem in problems:
        print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    if problems:
        print(f"(see `{explain(code_of(DriverMissing))}`)", file=sys.stderr)


def _as_json(found: Settings | None, celery: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the environment has, if it has anything, and what Celery gets."""
    variables = found.in_force() if found else []
    return {
        "variables": [{"name": it.name, "value": it.value, "origin": it.origin} for it in variables],
        "celery": celery,
        "differing": _differing(found.masked(), celery) if found else [],
        "unused": list(found.unused) if found else [],
        "ignored": list(found.ignored) if found else [],
        "warnings": list(found.warnings) if found else [],
    }


def _differing(environment: Mapping[str, Any], celery: Mapping[str, Any]) -> list[str]:
    """Return the names of Celery's settings that an app changed."""
    return sorted(name for name in {*environment, *celery} if environment.get(name) != celery.get(name))


def _print(found: Settings | None, celery: Mapping[str, Any], show_all: bool) -> None:
    if found:
        _print_table(found.in_force(), show_all)
        say("\nCelery gets:")
    else:
        say("The environment names no result backend. The app has these settings:")
    for name, value in celery.items():
        console().print(f"  {name} = {visible(repr(value))}", soft_wrap=True)
    if not found:
        return
    environment = found.masked()
    if differing := _differing(environment, celery):
        say("\nThe app's settings take precedence over the environment, which has:")
        for name in differing:
            value = visible(repr(environment[name])) if name in environment else "nothing"
            console().print(f"  {name} = {value}", soft_wrap=True)
    if found.unused:
        say(f"\nGiven, but not used by this broker and backend: {', '.join(found.unused)}")
    if found.warnings:
        say("\nWarnings:")
        for warning in found.warnings:
            console().print(f"  {visible(warning)}", soft_wrap=True)
    if found.ignored:
        say(f"\nUnknown, and ignored: {', '.join(map(visible, found.ignored))}")


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
