"""``rootcellar drain``: move results from Redis to PostgreSQL, and say how many wait."""

from __future__ import annotations

import json
import threading
import time
from typing import Annotated

import typer

from rootcellar.cli.output import print_json, say
from rootcellar.cli.stores import (
    AppOption,
    BackendOption,
    Choice,
    GroupTableOption,
    JsonOption,
    SchemaOption,
    TaskTableOption,
    chosen_store,
)
from rootcellar.draining import keep_draining
from rootcellar.errors import AbilityMissing
from rootcellar.stores import Store
from rootcellar.stores.journal import Lag, WritesBehind

EXAMPLES = """\b
Examples:
  rootcellar drain -A shop.celery
  rootcellar drain -A shop.celery --once
  rootcellar drain -A shop.celery --status --max-age 30
"""

#: seconds between two lines of progress
PROGRESS = 1.0


def drain(
    backend: BackendOption = None,
    app: AppOption = None,
    once: Annotated[bool, typer.Option("--once", help="End when what waits now is moved")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Move nothing: show how many results wait, and for how long")
    ] = False,
    max_age: Annotated[
        float, typer.Option("--max-age", min=0, metavar="SECONDS", help="For --status: how long a result may wait")
    ] = 60.0,
    as_json: JsonOption = False,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Move results of a hybrid in write-behind mode from Redis to PostgreSQL.

    Workers do so by themselves; this command is for where none runs, and before the mode is changed. It may run beside
    them, goes on until it is interrupted, and waits while one of the two servers is away.

    With --status, exit status 1 if a result has waited for longer than --max-age.
    """
    if once and status:
        raise typer.BadParameter("give --once or --status, not both", param_hint="--status")
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        if not isinstance(store, WritesBehind):
            raise _nothing_to_move(store)
        if status:
            _show_status(store, max_age, as_json)
            return
        store.check()
        progress = _Progress(store, as_json)
        if once:
            store.drain_all(progress.note)
            progress.end()
        else:
            keep_draining(store, threading.Event(), progress.note)


def _show_status(store: WritesBehind, max_age: float, as_json: bool) -> None:
    lag = store.lag()
    if as_json:
        print_json({**_as_json(lag), "max_age_seconds": max_age, "ok": lag.oldest <= max_age})
    else:
        say(_sentence(lag))
    if lag.oldest > max_age:
        raise typer.Exit(1)


class _Progress:
    """Tells from time to time how many were moved, and how many wait."""

    def __init__(self, store: WritesBehind, as_json: bool) -> None:
        self._store = store
        self._as_json = as_json
        self._moved = self._told = 0
        self._next = time.monotonic() + PROGRESS

    def note(self, moved: int) -> None:
        """Note a batch; tell if it is time and there is news."""
        self._moved += moved
        if self._moved > self._told and time.monotonic() >= self._next:
            self.end()

    def end(self) -> None:
        """Tell."""
        self._told = self._moved
        self._next = time.monotonic() + PROGRESS
        lag = self._store.lag()
        if self._as_json:
            # a line each, for whoever reads while it goes on
            typer.echo(json.dumps({"moved": self._moved, **_as_json(lag)}))
        else:
            say(f"{self._moved:,} moved. {_sentence(lag)}")


def _as_json(lag: Lag) -> dict[str, object]:
    return {"waiting": lag.waiting, "oldest_seconds": round(lag.oldest, 3), "refused": lag.refused}


def _sentence(lag: Lag) -> str:
    waits = f"{lag.waiting:,} wait, the oldest for {lag.oldest:.1f} s." if lag.waiting else "Nothing waits."
    if lag.refused:
        waits += f" {lag.refused:,} stay in Redis, for PostgreSQL refuses them: see the log of who moved them."
    return waits


def _nothing_to_move(store: Store) -> AbilityMissing:
    return AbilityMissing(
        "this store has results at once where they belong, nothing is to be moved",
        where=store.where,
        remedy="use it with rootcellar+hybrid:// and mode write-behind",
    )
