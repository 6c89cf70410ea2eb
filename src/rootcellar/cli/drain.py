"""``rootcellar drain``: moves results from Redis to PostgreSQL, and prints how many wait."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import WrongUse, print_error, print_json, say
from rootcellar.cli.stores import chosen_store
from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.maintenance.drain import Drain
from rootcellar.stores.journal import Lag, WritesBehind

EXAMPLES = """\b
Examples:
  rootcellar drain -A shop.celery
  rootcellar drain -A shop.celery --once
  rootcellar drain -A shop.celery --status --max-age 30
"""

#: exit statuses besides 0 and 2
RESULTS_WAIT, OUT_OF_REACH, UNSAFE = 1, 3, 4
_NOTHING_TO_MOVE = (
    "there is nothing to move [{where}]: this store keeps each result in its final place at once; only a hybrid in the "
    "mode write-behind moves results"
)
#: the time between two lines of progress
PROGRESS_INTERVAL_SECONDS = 1.0


@store_options
def drain(
    choice: Choice,
    once: Annotated[bool, typer.Option("--once", help="End when all results that wait now are moved")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Move nothing: show how many results wait, and for how long")
    ] = False,
    max_age: Annotated[
        float, typer.Option("--max-age", min=0, metavar="SECONDS", help="For --status: how long a result may wait")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Move results of a hybrid in write-behind mode from Redis to PostgreSQL.

    Workers do this themselves. Use this command if no worker runs, or before you change the mode. It may run at the
    same time as workers, runs until it is interrupted, and waits while one of the two servers is unavailable. --status
    and --once also work if Redis keeps no append-only file.

    Exit status:

    \b
    0  done, and nothing is wrong
    1  a result has waited longer than --max-age (--status), or results
       stay in Redis because PostgreSQL refuses them (--once)
    2  wrong use, or a store without write-behind
    3  a server cannot be reached, or refuses
    4  a restart of Redis would lose waiting results: it has no append-only
       file, or may evict; --status and --once have done their work anyway
    """
    if once and status:
        raise WrongUse("give --once or --status, not both")
    with chosen_store(choice) as store:
        moving = store.ability(WritesBehind)
        if moving is None:
            raise WrongUse(_NOTHING_TO_MOVE.format(where=store.where))
        try:
            code = _run(moving, once, status, max_age, as_json)
        except RootcellarError as exc:
            print_error(exc)
            code = OUT_OF_REACH
    if code:
        raise typer.Exit(code)


def _run(store: WritesBehind, once: bool, status: bool, max_age: float, as_json: bool) -> int:
    """Run the command, and return the exit status."""
    unsafe = _restart_problem(store)
    if unsafe is not None and not (once or status):
        print_error(unsafe)
        return UNSAFE
    if once or status:
        # if Redis is not safe, moving the results is even more urgent
        store.move_only()
    code = _show_status(store, max_age, as_json, unsafe is None) if status else _move(store, once, as_json)
    if unsafe is not None:
        print_error(unsafe)
    return code or (UNSAFE if unsafe is not None else 0)


def _restart_problem(store: WritesBehind) -> RootcellarError | None:
    """Return why a restart of Redis would lose waiting results, or ``None`` if it would not."""
    try:
        store.check_journal()
    except ConfigurationError as exc:
        return exc
    return None


def _move(store: WritesBehind, once: bool, as_json: bool) -> int:
    progress = _Progress(store, as_json)
    if not once:
        store.check()
        Drain(store).run_here(progress.note)
        return 0
    store.drain_all(progress.note)
    return RESULTS_WAIT if progress.end().refused else 0


def _show_status(store: WritesBehind, max_age: float, as_json: bool, is_safe: bool) -> int:
    lag = store.lag()
    is_late = lag.oldest > max_age
    if as_json:
        print_json({**_as_json(lag), "max_age_seconds": max_age, "append_only": is_safe, "ok": not is_late and is_safe})
    else:
        say(_sentence(lag))
    return RESULTS_WAIT if is_late else 0


class _Progress:
    """Prints from time to time how many results were moved, and how many wait."""

    def __init__(self, store: WritesBehind, as_json: bool) -> None:
        self._store = store
        self._as_json = as_json
        self._moved = self._printed_moved = 0
        self._next = time.monotonic() + PROGRESS_INTERVAL_SECONDS

    def note(self, moved: int) -> None:
        """Count a batch. Print a line if the last one is old enough."""
        self._moved += moved
        if self._moved > self._printed_moved and time.monotonic() >= self._next:
            self.end()

    def end(self) -> Lag:
        """Print a line, and return how many results wait."""
        self._printed_moved = self._moved
        self._next = time.monotonic() + PROGRESS_INTERVAL_SECONDS
        lag = self._store.lag()
        if self._as_json:
            # one JSON document in each line, for programs that read while this runs
            typer.echo(json.dumps({"moved": self._moved, **_as_json(lag)}))
        else:
            say(f"{self._moved:,} moved. {_sentence(lag)}")
        return lag


def _as_json(lag: Lag) -> dict[str, object]:
    return {"waiting": lag.waiting, "oldest_seconds": round(lag.oldest, 3), "refused": lag.refused}


def _sentence(lag: Lag) -> str:
    waits = f"Waiting: {lag.waiting:,}, the oldest for {lag.oldest:.1f} s." if lag.waiting else "No result waits."
    if lag.refused:
        waits += f" {lag.refused:,} stay in Redis because PostgreSQL refuses them: see the worker's log."
    return waits
