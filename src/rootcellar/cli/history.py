"""``rootcellar history`` and ``rootcellar show``: list tasks, and show one of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from celery.states import ALL_STATES
from rich.console import Console
from rich.text import Text

from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import console, print_json, say, state_style, visible, visible_lines
from rootcellar.cli.stores import existing_results
from rootcellar.cli.table import print_tasks
from rootcellar.cli.times import local_time, parse_moment, seconds_between, show_seconds
from rootcellar.cli.values import (
    json_object,
    json_value,
    known,
    one_line,
    outcome,
    pretty,
    traceback_text,
    unreadable_fields,
)
from rootcellar.errors import AbilityMissing, RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.base import Queryable, TaskQuery
from rootcellar.stores.relations import children_of, other_than

HISTORY_EXAMPLES = """\b
Examples:
  rootcellar history --backend postgresql://user:password@host/database
  rootcellar history -A shop.celery --state FAILURE --since 2h
  rootcellar history -b sqlite:///results.sqlite3 --task 'shop.*' --json
"""
SHOW_EXAMPLES = """\b
Examples:
  rootcellar show 0b5c5f9e-8f4e-4f7b-a1f4-0e8f0c6f2d11 -A shop.celery
  rootcellar show 0b5c5f9e --backend sqlite:///results.sqlite3 --json
"""


#: how many ids are listed if several begin with the given text
_MAX_LISTED_IDS = 5


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
    _print_damage(found[:limit])
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


def _print_damage(records: Sequence[TaskRecord]) -> None:
    """Print the damaged fields of each record on standard error."""
    for text in filter(None, map(unreadable_fields, records)):
        print(f"rootcellar: {visible(text)}", file=sys.stderr)


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


@store_options
def show(
    choice: Choice,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", help="The id of the task, or the beginning of it")],
    as_json: JsonOption = False,
) -> None:
    """Show everything that is stored of one task.

    A store that can be searched also finds it by the beginning of its id, if no other id begins with it.
    """
    with existing_results(choice) as results:
        found = results.store.get(task_id) or _find_by_prefix(task_id, results.store)
        where = results.store.where
        record, refused = results.codec.opened(found) if found else (None, [])
    if record is None:
        raise RootcellarError(
            f"nothing is stored of task {visible(task_id)}",
            where=where,
            remedy="it is unknown, still waits to be started, ignores its result, or its result has expired: "
            "`rootcellar explain symptom-missing` says how to find out",
        )
    for exc in refused:
        print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)
    _print_damage([record])
    if as_json:
        print_json(json_object(record))
    else:
        _print_task(record, console())


def _find_by_prefix(prefix: str, store: Store) -> TaskRecord | None:
    """Return the only task whose id begins with ``prefix``, or ``None`` if there is none.

    Raises:
        RootcellarError: several ids begin with it.
    """
    queryable = store.ability(Queryable)
    if not prefix or queryable is None:
        return None
    found = queryable.query(TaskQuery(id_prefix=prefix, limit=_MAX_LISTED_IDS + 1))
    if len(found) < 2:
        return found[0] if found else None
    ids = ", ".join(visible(record.task_id) for record in found[:_MAX_LISTED_IDS])
    more = " and more" if len(found) > _MAX_LISTED_IDS else ""
    raise RootcellarError(
        f"several ids begin with {visible(prefix)}: {ids}{more}",
        where=store.where,
        remedy="give more of the id",
    )


def _print_task(record: TaskRecord, out: Console) -> None:
    out.print(
        Text.assemble((visible(record.state), state_style(record.state)), "  ", visible(record.name or "(no name)")),
        soft_wrap=True,
    )
    fields = [(label, value) for label, value in _fields(record) if value is not None]
    width = max(len(label) for label, _ in fields)
    for label, value in fields:
        out.print(Text(f"  {label:{width}}  ", style="dim").append(visible(value), style="not dim"), soft_wrap=True)
    for heading, text in _blocks(record):
        out.print(Text(f"\n{heading}", style="bold"), soft_wrap=True)
        out.print(Text(_indented(visible_lines(text))), soft_wrap=True)


def _fields(record: TaskRecord) -> Iterator[tuple[str, str | None]]:
    yield "id", record.task_id
    yield "sent", _full_moment(record.sent_at)
    yield "started", _with_span(record.started_at, record.sent_at, "after it was sent")
    yield "done", _with_span(known(record.done_at), record.started_at, "after it started")
    yield "kept until", _full_moment(record.expires_at) or "for ever"
    yield "queue", record.queue
    yield "worker", record.worker
    yield "retries", None if record.retries is None else str(record.retries)
    yield "args", one_line(record.args) if record.args else None
    yield "kwargs", one_line(record.kwargs) if record.kwargs else None
    yield "group", _place_in_group(record)
    yield "parent", other_than(record.task_id, record.parent_id)
    yield "root", "itself" if record.root_id == record.task_id else record.root_id
    yield "stamps", one_line(record.stamps) if record.stamps else None


def _blocks(record: TaskRecord) -> Iterator[tuple[str, str]]:
    """Yield each text of more than one line, with its heading."""
    value = json_value(record.result)
    if isinstance(value, dict) and "exc_type" in value:
        yield "Error", outcome(record)
    elif record.result is not None:
        yield "Result", pretty(record.result)
    if record.traceback:
        yield "Traceback", traceback_text(record).rstrip("\n")
    children = children_of(record.task_id, json_value(record.children))
    if children:
        yield "Children", "\n".join(_child_lines(children))


def _child_lines(children: Any, depth: int = 0) -> Iterator[str]:
    """Yield the ids in the tuples of Celery's results: ``((id, parent), members or None)``."""
    for child in children if isinstance(children, list) else []:
        match child:
            case [[str(task_id), *_], members]:
                yield "  " * depth + task_id
                yield from _child_lines(members, depth + 1)
            case _:
                yield "  " * depth + str(child)


def _place_in_group(record: TaskRecord) -> str | None:
    if record.group_id is None:
        return None
    return record.group_id if record.group_index is None else f"{record.group_id}, place {record.group_index}"


def _full_moment(moment: datetime | None) -> str | None:
    return None if moment is None else local_time(moment).isoformat(sep=" ", timespec="milliseconds")


def _with_span(moment: datetime | None, before: datetime | None, since: str) -> str | None:
    seconds = seconds_between(before, moment)
    shown = _full_moment(moment)
    return shown if seconds is None else f"{shown}, {show_seconds(seconds)} {since}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


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
