"""``rootcellar history`` and ``rootcellar show``: list tasks, and show one of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from celery.states import ALL_STATES

from rootcellar.cli.damage import print_damage
from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import console, print_json, say, visible
from rootcellar.cli.stores import existing_results
from rootcellar.cli.table import print_tasks
from rootcellar.cli.times import parse_moment
from rootcellar.cli.values import (
    json_object,
)
from rootcellar.errors import AbilityMissing
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.base import Queryable, TaskQuery

EXAMPLES = """\b
Examples:
  rootcellar history --backend postgresql://user:password@host/database
  rootcellar history -A shop.celery --state FAILURE --since 2h
  rootcellar history -b sqlite:///results.sqlite3 --task 'shop.*' --json
"""


@store_options
def history(
    choice: Choice,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The most tasks to list")] = 20,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only this state; may be repeated")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Only tasks of this name, * for any text; may be repeated"),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME", help="Only tasks of this queue, * for any text; may be repeated"),
    ] = None,
    worker: Annotated[
        list[str] | None,
        typer.Option("--worker", metavar="NAME", help="Only tasks of this worker, * for any text; may be repeated"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only since then: 30m, 2h, 3d ago, or an ISO date")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Only before then, written as for --since")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, the most recent first.

    Unfinished tasks come before all finished ones.
    WAIT is the time from sent to started, RUN from started to done. On a terminal, ids are shortened; `show` takes the
    beginning of an id.
    """
    query = TaskQuery(
        states=tuple(_state_name(name) for name in state or ()),
        names=tuple(task or ()),
        queues=tuple(queue or ()),
        workers=tuple(worker or ()),
        since=_moment(since, "--since"),
        until=_moment(until, "--until"),
        limit=limit + 1,
    )
    with existing_results(choice) as results:
        found = [results.codec.opened(record)[0] for record in query_tasks(results.store, query)]
        where = results.store.where
    print_damage(found[:limit])
    if as_json:
        print_json([json_object(record) for record in found[:limit]])
        if not found and (hint := _misspelt(query.states)):
            print(f"rootcellar: {visible(hint)}", file=sys.stderr)
    elif not found:
        is_narrowed = query != TaskQuery(limit=query.limit)
        say(" ".join(filter(None, (_nothing(is_narrowed, where), visible(_misspelt(query.states))))))
    else:
        print_tasks(found[:limit], console())
        if len(found) > limit:
            say(f"There are more; --limit {limit * 5} shows up to {limit * 5}.")


def query_tasks(store: Store, query: TaskQuery) -> list[TaskRecord]:
    """Return the records that a query finds.

    Raises:
        AbilityMissing: the store cannot be searched.
    """
    queryable = store.ability(Queryable)
    if queryable is None:
        raise AbilityMissing(
            "this store finds results only by their ids",
            where=store.where,
            remedy="use `rootcellar show TASK_ID` with a whole id, or keep results in PostgreSQL or SQLite",
        )
    return list(queryable.query(query))


def _nothing(is_narrowed: bool, where: str) -> str:
    if is_narrowed:
        return f"No task matches in {where}. Leave out an option to see more."
    return f"No results yet in {where}. They appear here as soon as a worker has run a task."


def _misspelt(states: Sequence[str]) -> str:
    """Return a hint if a state is probably a misspelt state of Celery. An app may have states of its own."""
    for state in states:
        meant = difflib.get_close_matches(state.upper(), ALL_STATES, n=1, cutoff=0.75)
        if state not in ALL_STATES and meant:
            return f"{state} is not a state of Celery: did you mean {meant[0]}?"
    return ""


def _state_name(name: str) -> str:
    """Return a state of Celery in upper case, and any other state unchanged."""
    return name.upper() if name.upper() in ALL_STATES else name


def _moment(text: str | None, option: str) -> datetime | None:
    try:
        return None if text is None else parse_moment(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from None
