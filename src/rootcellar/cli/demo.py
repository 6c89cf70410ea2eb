"""``rootcellar demo``: shows rootcellar at work, without servers and settings."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from celery.states import PENDING
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

import rootcellar
from rootcellar.cli.output import WrongUse, console, say, state_style, visible, visible_lines
from rootcellar.cli.table import print_tasks
from rootcellar.errors import DemoFailed
from rootcellar.onboarding.demo import FROM_SETTINGS
from rootcellar.opening import named_by
from rootcellar.stores import open_store
from rootcellar.stores.base import TaskQuery
from rootcellar.urls import redact

if TYPE_CHECKING:
    from rootcellar.onboarding.demo.run import Outcome, Watcher

EXAMPLES = """\b
Examples:
  rootcellar demo
  rootcellar demo --once -n 500 --file demo.sqlite3
  rootcellar demo -b postgresql://user:password@host/db --broker redis://host
  CELERY_BROKER=redis CELERY_RESULT_BACKEND=postgres rootcellar demo --once
"""

_AS_EXPECTED = "All are as expected: some tasks fail or are revoked on purpose."
#: rows of the history at the end
_HISTORY_ROWS = 24
#: the sum of all pauses in a run on a terminal
_PAUSE_SECONDS = 3.0
_LOG = "worker.log"
#: how many lines of a log are shown
_LOG_LINES = 20
#: how many unexpected results are listed
_MAX_REASONS = 10


def demo(
    once: Annotated[bool, typer.Option("--once", help="As fast as possible, without pauses and progress bars")] = False,
    size: Annotated[int, typer.Option("-n", "--tasks", min=1, metavar="N", help="About how many tasks to run")] = 26,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", metavar="URL", help="Keep results there, not in a SQLite file")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="URL", help="Use this broker, and a worker with processes"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Keep results in this SQLite file, which may exist")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the results on the server; without it they are deleted at the end")
    ] = False,
) -> None:
    """Run a small shop on a real Celery worker.

    Needs no server: results go to a SQLite file, and the broker is in this process. If the environment or .env has
    CELERY_RESULT_BACKEND, results go there instead, and CELERY_BROKER is the broker. Every result is checked, and the
    history is shown; some tasks fail or are revoked on purpose. Results on a server are deleted at the end. Exit
    status 0 if all results are as expected, 1 otherwise.
    """
    if backend is not None and file is not None:
        raise WrongUse("give --backend or --file, not both")
    # imported late: it creates a Celery app, which no other command needs
    from rootcellar.onboarding.demo.run import Demo

    out = console()
    is_watched = out.is_terminal and not once
    folder = Path(tempfile.mkdtemp(prefix="rootcellar-demo-"))
    began = datetime.now(timezone.utc)
    with _log_removed(folder), named_by("--backend"):
        url, broker = _servers(backend, broker, file, folder)
        with _watcher(out, is_watched) as watcher:
            run = Demo(
                backend=url,
                broker=broker,
                size=size,
                log=folder / _LOG,
                pauses=_PAUSE_SECONDS if is_watched else 0.0,
                watcher=watcher,
            )
            outcome = run.run()
        shop = TaskQuery(names=("shop.*",), since=began, limit=_HISTORY_ROWS)
        if run.results.where:
            out.print()
            print_tasks(run.results.records(shop, run.task_ids), out)
        _print_counts(outcome, out)
        failures = run.results.records(replace(shop, states=("FAILURE",), limit=1), run.task_ids)
        is_on_server = backend is not None or url == FROM_SETTINGS
        if is_on_server and not keep:
            run.results.forget(run.task_ids)
        _fail_if_unexpected(outcome)
    if not run.results.where:
        say(f"{_AS_EXPECTED} They are not kept: with rpc a result is delivered once.", out)
        return
    if is_on_server and not keep:
        say(f"{_AS_EXPECTED} They were deleted from {run.results.where}; --keep leaves them there.", out)
        return
    is_ours = url.startswith("rootcellar+sqlite:") and file is None and backend is None
    advice = f" Delete the folder {folder} when you do not need them any more." if is_ours else ""
    say(f"{_AS_EXPECTED} They stay in {run.results.where}.{advice}", out)
    _print_next_steps(url, failures[0].task_id, run.results.is_queryable, out)


def _servers(backend: str | None, broker: str | None, file: Path | None, folder: Path) -> tuple[str, str | None]:
    """Return the backend and the broker of the options, else those of the settings."""
    if backend is not None:
        # raises our own error if there is no such store
        open_store(backend).close()
        return f"rootcellar+{backend.removeprefix('rootcellar+')}", broker
    if file is None:
        from rootcellar.configuration import names_backend

        if names_backend():
            found = rootcellar.settings(broker=False)
            where, origin = found.masked()["result_backend"], found.origin("CELERY_RESULT_BACKEND")
            say(f"Results go to {where} (CELERY_RESULT_BACKEND, from: {origin}).")
            # rpc needs a real broker, which the settings name
            has_broker = "broker_url" in found or "rpc" in found["result_backend"].partition("://")[0]
            return FROM_SETTINGS, broker or (FROM_SETTINGS if has_broker else None)
    return f"rootcellar+sqlite:///{quote(str((file or folder / 'demo.sqlite3').absolute()))}", broker


@contextmanager
def _log_removed(folder: Path) -> Iterator[None]:
    """Remove the worker's log at the end, and the folder if it is empty. After a failure, show and keep the log.

    The log explains a failure of the worker, but not, for example, a wrong URL.
    """
    log = folder / _LOG
    try:
        yield
    except BaseException as exc:
        if isinstance(exc, DemoFailed) and log.exists():
            print(f"The end of the worker's log, {log}:\n{_tail(log)}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    log.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _tail(log: Path) -> str:
    """Return the last lines of a log, without passwords."""
    with log.open(errors="replace") as lines:
        return visible_lines(redact("".join(deque(lines, _LOG_LINES)).rstrip()))


class _Lines:
    """Shows the progress in plain lines, one for each quarter of the tasks."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._quarters = 0

    def say(self, text: str) -> None:
        say(text, self._out)

    def count(self, finished: int, total: int) -> None:
        quarters = finished * 4 // total
        if quarters > self._quarters:
            self._quarters = quarters
            say(f"{finished} of {total} results", self._out)

    def report(self, page: int, pages: int) -> None:
        """Does nothing: a line for each page would be too much."""


class _Bars:
    """Shows the progress in bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        say(text, self._progress.console)

    def count(self, finished: int, total: int) -> None:
        self._move("all results", finished, total)

    def report(self, page: int, pages: int) -> None:
        self._move("shop.build_report", page, pages)

    def _move(self, name: str, done: int, total: int) -> None:
        """Move a bar, which appears when it first moves."""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done)


@contextmanager
def _watcher(out: Console, is_watched: bool) -> Iterator[Watcher]:
    if not is_watched:
        yield _Lines(out)
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=out) as progress:
        yield _Bars(progress)


def _print_counts(outcome: Outcome, out: Console) -> None:
    sums = Text(f"\n{outcome.tasks} tasks in {outcome.seconds:.1f} s: ")
    for state, count in sorted(outcome.states.items(), key=lambda item: -item[1]):
        if state != PENDING:
            sums.append(f"{count} ").append(state, style=state_style(state)).append(", ")
    sums.append(f"{outcome.states[PENDING]} whose result is ignored.")
    out.print(sums, soft_wrap=not out.is_terminal)


def _fail_if_unexpected(outcome: Outcome) -> None:
    """Raise DemoFailed with the first reasons, if there are any."""
    if not outcome.mismatches:
        return
    for mismatch in outcome.mismatches[:_MAX_REASONS]:
        print(visible(mismatch), file=sys.stderr)
    raise DemoFailed(
        f"{len(outcome.mismatches)} of {outcome.tasks} results are not as expected",
        remedy="the first of them are listed above",
    )


def _print_next_steps(url: str, failed_id: str, is_queryable: bool, out: Console) -> None:
    backend = "" if url == FROM_SETTINGS else f" -b {shlex.quote(url.removeprefix('rootcellar+'))}"
    say("\nCommands to try next:", out)
    if redact(url) != url:
        out.print("  export ROOTCELLAR_BACKEND=...   # the URL that you gave: it holds a password", soft_wrap=True)
        backend = ""
    variables = ""
    if url == FROM_SETTINGS:
        variables, secrets = _given_in_environment()
        for name in secrets:
            out.print(f"  export {name}=...   # as you gave it: it holds, or may hold, a password", soft_wrap=True)
    commands = ["history", "history --state FAILURE", f"show {failed_id}", "history --task 'shop.write_*' --json"]
    for command in commands if is_queryable else [f"show {failed_id}"]:
        out.print(f"  {variables}{_program()} {command}{backend}", soft_wrap=True)


def _given_in_environment() -> tuple[str, list[str]]:
    """Return the environment's variables for the backend as a prefix for a command, and the names of the secret ones.

    They may be set for the current command only. The next command reads ``.env`` itself.
    """
    # imported late, as all of the configuration is
    from rootcellar.configuration.reading import is_secret

    settings, secrets = [], []
    for each in rootcellar.settings(broker=False).in_force():
        if each.origin != "environment" or each.name.startswith(("BROKER_", "CELERY_BROKER")):
            continue
        if is_secret(each.name) and (each.name != "CELERY_RESULT_BACKEND" or "://" in each.value):
            secrets.append(each.name)
        else:
            settings.append(f"{each.name}={shlex.quote(each.value)} ")
    return "".join(settings), secrets


def _program() -> str:
    """Return the name of this program, or its path if the shell would not find it by name."""
    called = Path(sys.argv[0])
    found = shutil.which("rootcellar")
    if called.name != "rootcellar" or (found and Path(found).resolve() == called.resolve()):
        return "rootcellar"
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))
