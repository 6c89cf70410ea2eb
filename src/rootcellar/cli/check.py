"""``rootcellar check``: checks whether a server can be trusted with results."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from rootcellar.cli.options import AppOption, BackendOption, EnvFileOption, JsonOption
from rootcellar.cli.output import WrongUse, console, print_beside, print_json, visible
from rootcellar.cli.stores import load_app, no_env_file, or_app
from rootcellar.descriptions import backend_names, one_of
from rootcellar.errors import RootcellarError, explain
from rootcellar.opening import store_of_variable
from rootcellar.urls import redact

if TYPE_CHECKING:
    from rootcellar.checks import Finding
    from rootcellar.checks.steps import Checks

EXAMPLES = """\b
Examples:
  rootcellar check
  rootcellar check postgresql://user:password@host/database
  rootcellar check redis --json
  rootcellar check --backend redis://localhost:6379/0
  rootcellar check broker -A shop.celery
  CELERY_BROKER=redis CELERY_RESULT_BACKEND=hybrid rootcellar check all
"""

_MARKS = {"ok": ("ok", "green"), "warning": ("WARN", "bold yellow"), "failure": ("FAIL", "bold red")}
_NAME_WIDTH = 14
#: the column in which a finding's text begins
_SEEN_COLUMN = 2 + 4 + 2 + _NAME_WIDTH + 1
_HINT = "write one such as postgresql://…, redis://… or amqp://…, or `rootcellar check broker` for another broker"
_SUMMARY = {"failure": "failure", "warning": "warning", "ok": "ok", "skipped": "skipped"}


def check(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME or URL",
            help=f"{one_of(backend_names())}, with the environment's variables for it; "
            "broker; all; or a store's URL. By default the value of CELERY_RESULT_BACKEND",
            show_default=False,
        ),
    ] = None,
    backend: BackendOption = None,
    app: AppOption = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, metavar="N", help="How many processes will use the server, for its limits"),
    ] = None,
    env_file: EnvFileOption = ".env",
    as_json: JsonOption = False,
) -> None:
    """Check a server: connection, rights, tables, storing and reading, settings and speed.

    Everything is tried with test tasks, and nothing is left behind. Exit status 0 if nothing failed (there may be
    warnings), 1 if something failed, 2 for wrong use.
    """
    # the stores' warnings are lines of the checklist, so they need not be logged
    logging.getLogger().addHandler(logging.NullHandler())
    began = time.monotonic()
    sections = _sections(_named(what, backend), app, processes, env_file)
    report = _Json() if as_json else _Checklist(console())
    found: list[Finding] = []
    for checks in sections:
        found += _run_checks(checks, report)
    report.end(found, time.monotonic() - began)
    if any(finding.level.value == "failure" for finding in found):
        raise typer.Exit(1)


def _named(what: str | None, backend: str | None) -> str | None:
    """Return what to check: the argument or the URL of ``--backend``, which mean the same."""
    if what is not None and backend is not None:
        raise WrongUse("give --backend or a NAME or URL, not both")
    if backend is not None and "://" not in backend:
        raise typer.BadParameter("it must be a URL: postgresql://user:password@host/database", param_hint="--backend")
    return what if backend is None else backend


def _sections(what: str | None, app: str | None, processes: int | None, env_file: str) -> list[Checks]:
    """Return the checks. Any problem with the settings becomes a finding."""
    try:
        return _chosen(what, app, processes, env_file)
    except (typer.BadParameter, RootcellarError):
        raise
    except Exception as exc:
        from rootcellar.checks import environment

        return environment.findings_of_unexpected(exc)


def _chosen(what: str | None, app: str | None, processes: int | None, env_file: str) -> list[Checks]:
    # imported late: it takes a moment, and no other command needs it
    from rootcellar.checks import environment
    from rootcellar.configuration import names_backend

    url = what if what and "://" in what else None
    name = environment.name_of(what) if what and not url else None
    if what and not url and name is None:
        known = ", ".join((*backend_names(), environment.BROKER, environment.ALL))
        raise typer.BadParameter(f"must be one of {known}, or a URL", param_hint="NAME or URL")
    if app:
        if url or name not in (None, environment.BROKER, environment.ALL):
            raise WrongUse("give --app or another result backend, not both: the app names its own")
        return environment.from_app(load_app(app), name, processes)
    if url is None and what is None:
        url = store_of_variable()
    if url:
        if not environment.is_known_url(url):
            scheme = visible(url.partition("://")[0])
            hint = f"write {scheme[3:].partition('+')[0]}://…" if scheme.startswith("db+") else _HINT
            raise typer.BadParameter(f"there is no store for {scheme}://; {hint}", param_hint="NAME or URL")
        return environment.from_url(url, processes)
    if what is None and not names_backend(env_file):
        raise WrongUse(f"it is not known what to check{no_env_file(env_file)}: give a NAME or URL{or_app()}")
    return environment.from_environment(name, processes, env_file)


def _run_checks(checks: Checks, report: _Checklist | _Json) -> list[Finding]:
    from rootcellar.checks.steps import run

    found = []
    report.section(visible(redact(checks.where)))
    with report.waiting() as begin, closing(run(checks, begin)) as findings:
        for finding in findings:
            found.append(finding)
            report.line(finding)
    report.section_end()
    return found


class _Checklist:
    """Prints each finding at once, and at the end what to fix first."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._skipped: list[Finding] = []
        self._status: Status | None = None

    def section(self, where: str) -> None:
        self._out.print(Text(where, style="bold"), soft_wrap=True)

    def waiting(self) -> Any:
        """Return a ``with`` block in which the current step is shown on a terminal."""
        if not self._out.is_terminal:
            return nullcontext(lambda name: None)
        return _Waiting(self._out)

    def line(self, finding: Finding) -> None:
        if finding.level.value == "skipped":
            self._skipped.append(finding)
            return
        mark, style = _MARKS[finding.level.value]
        seen = Text(visible(redact(finding.seen)))
        if finding.code:
            seen.append(f" ({finding.code})", style=style)
        self._row(Text(mark, style=style), finding.check, seen)
        if finding.problem is not None:
            # our own texts, in which an example of a URL is not a secret
            print_beside("why: ", visible(finding.problem.why), self._out, indent=_SEEN_COLUMN)
            print_beside("do:  ", visible(finding.advice), self._out, indent=_SEEN_COLUMN)

    def _row(self, mark: Text, name: str, seen: Text) -> None:
        if not self._out.is_terminal:
            line = Text.assemble("  ", f"{mark.plain:4}", "  ", f"{name:{_NAME_WIDTH}}", " ", seen)
            self._out.print(line, soft_wrap=True)
            return
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=5)
        table.add_column(width=_NAME_WIDTH)
        table.add_column()
        table.add_row(mark, name, seen)
        self._out.print(Padding(table, (0, 0, 0, 2)))

    def section_end(self) -> None:
        if self._skipped:
            names = ", ".join(finding.check for finding in self._skipped)
            self._row(Text("-", style="dim"), "skipped", Text(names, style="dim"))
        self._skipped = []
        self._out.print()

    def end(self, found: Sequence[Finding], seconds: float) -> None:
        from rootcellar.checks.steps import first_of

        counts = {level: sum(finding.level.value == level for finding in found) for level in _SUMMARY}
        parts = [_counted(count, _SUMMARY[level]) for level, count in counts.items() if count]
        self._out.print(Text(f"{', '.join(parts)}, in {seconds:.1f} s."), soft_wrap=True)
        first = first_of(found)
        if first is None or first.problem is None:
            self._out.print(Text("All is well.", style="bold green"))
            return
        is_failure = bool(counts["failure"])
        head = "Fix this first: " if is_failure else "It works. Improve this first: "
        line = Text.assemble(
            (head, "bold red" if is_failure else "bold yellow"),
            (f"{first.problem.title}: {visible(redact(first.seen))} ({first.code}) -> ", "bold"),
            # unchanged, so that a command can be pasted
            f"{visible(first.advice)} (see `{explain(first.code)}`)",
        )
        self._out.print(line, soft_wrap=not self._out.is_terminal)


class _Waiting:
    """Shows the current step on a terminal."""

    def __init__(self, out: Console) -> None:
        self._status = out.status("", spinner="dots")

    def __enter__(self) -> Any:
        self._status.__enter__()
        return lambda name: self._status.update(f"[dim]{name} …[/dim]")

    def __exit__(self, *_: Any) -> None:
        self._status.__exit__(None, None, None)


class _Json:
    """Prints one JSON document at the end."""

    def __init__(self) -> None:
        self._sections: list[dict[str, Any]] = []

    def section(self, where: str) -> None:
        self._sections.append({"where": where, "findings": []})

    def waiting(self) -> AbstractContextManager[Any]:
        return nullcontext(lambda name: None)

    def line(self, finding: Finding) -> None:
        self._sections[-1]["findings"].append(_as_json(finding))

    def section_end(self) -> None:
        """Does nothing: everything is printed at the end."""

    def end(self, found: Sequence[Finding], seconds: float) -> None:
        from rootcellar.checks.steps import first_of, worst_of

        first = first_of(found)
        print_json(
            {
                "status": worst_of(found).value,
                "first": None if first is None else _as_json(first),
                "seconds": round(seconds, 3),
                "sections": self._sections,
            }
        )


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "status": finding.level.value,
        "code": finding.code or None,
        "seen": redact(finding.seen),
        "why": finding.problem.why if finding.problem else None,
        "remedy": finding.advice or None,
        "see": explain(finding.code) if finding.code else None,
        "seconds": round(finding.seconds, 4),
    }


def _counted(count: int, what: str) -> str:
    is_noun = what in ("failure", "warning")
    return f"{count} {what}{'s' if is_noun and count != 1 else ''}"
