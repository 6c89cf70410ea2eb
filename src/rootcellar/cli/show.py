"""``rootcellar show``: shows one task."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rootcellar.cli.damage import print_damage
from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import console, print_json, state_style, visible, visible_lines
from rootcellar.cli.stores import existing_history, load_app
from rootcellar.cli.times import full_moment, seconds_between, show_seconds
from rootcellar.cli.values import json_object, json_value, known, one_line, outcome, pretty, traceback_text
from rootcellar.cli.workflow import has_workflow, workflow_lines, workflow_object
from rootcellar.errors import PermissionDenied, RootcellarError
from rootcellar.history.grouping.identity import text_of_group
from rootcellar.history.history import History
from rootcellar.history.holds import HeldBy, Holds, Why
from rootcellar.opening import codec_for
from rootcellar.payloads.stamps import RETRIED_AS, RETRY_OF
from rootcellar.records import TaskRecord, was_only_sent
from rootcellar.stores import Store
from rootcellar.stores.base import Queryable, TaskQuery
from rootcellar.stores.relations import other_than
from rootcellar.stores.search import Searchable

EXAMPLES = """\b
Examples:
  rootcellar show 0b5c5f9e-8f4e-4f7b-a1f4-0e8f0c6f2d11 -A shop.celery
  rootcellar show 0b5c5f9e --backend sqlite:///results.sqlite3 --json
  rootcellar show 0b5c5f9e-8f4e-4f7b-a1f4-0e8f0c6f2d11 --archive /srv/archive
"""
#: ids that every collation of a database sorts by their letters
_PLAIN_ID = re.compile("[0-9A-Za-z-]+")
#: how many ids are listed if several begin with the given text
_MAX_LISTED_IDS = 5


@store_options
def show(
    choice: Choice,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", help="The id of the task, or the beginning of it")],
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive", metavar="URL", help="Search the files of an archive for the whole id, without any database"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that is stored of one task.

    A store that can be searched also finds it by the beginning of its id, if no other id begins with it. If it is not
    in the store, the archive that the settings name (ROOTCELLAR_ARCHIVE) is asked for the whole id.
    """
    if archive is not None:
        _show_archived(_found_in_files(choice, archive, task_id), as_json=as_json)
        return
    with existing_history(choice) as history:
        found = history.store.get(task_id) or _find_by_prefix(task_id, history.store)
        archived = None if found else _found_in_archive(history, task_id)
        if found is None and archived is None and history.archive is not None:
            # a restore may have moved it to the store between the two looks
            found = history.store.get(task_id)
        where = history.store.where
        record, refused = history.codec.opened(found) if found else (None, [])
        tree = history.tree(found.task_id) if found else None
        held = _held(found, history) if found else {}
    if archived is not None:
        _show_archived(archived, as_json=as_json)
        return
    if record is None or tree is None:
        raise RootcellarError(
            f"nothing is stored of task {visible(task_id)}",
            where=where,
            remedy="it is unknown, still waits to be started, ignores its result, or its result has expired: "
            "`rootcellar explain symptom-missing` says how to find out",
        )
    for exc in refused:
        print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)
    print_damage([record])
    has_relations = has_workflow(tree)
    if as_json:
        workflow = workflow_object(tree) if has_relations else None
        print_json({**_object(record, held.get(record.task_id)), "workflow": workflow})
        return
    out = console()
    _print_task(record, out, held.get(record.task_id))
    if has_relations:
        out.print(Text("\nWorkflow", style="bold"))
        for line in workflow_lines(tree, full_ids=not out.is_terminal):
            out.print(Text("  ").append_text(line), soft_wrap=True)


def _held(record: TaskRecord, history: History) -> dict[str, HeldBy]:
    """Return the hold that holds a task, by its id; empty if there is none, or this user may not read holds."""
    try:
        return Holds(history.store, history.codec).reasons([record])
    except PermissionDenied as exc:
        print(f"rootcellar: it cannot be said whether the task is held: {visible(str(exc))}", file=sys.stderr)
        return {}


@dataclass(frozen=True, slots=True)
class _Archived:
    """An archived task: its record, the errors of values that cannot be decrypted, where it is, and what holds it."""

    record: TaskRecord
    refused: Sequence[RootcellarError]
    file: str
    where: str
    held: Mapping[str, HeldBy] = field(default_factory=dict)


def _found_in_archive(history: History, task_id: str) -> _Archived | None:
    found = None if history.archive is None else history.archive.find(task_id)
    if found is None or history.archive is None:
        return None
    record, file = found
    return _Archived(*history.codec.opened(record), file, history.archive.where, _held(record, history))


def _found_in_files(choice: Choice, url: str, task_id: str) -> _Archived:
    """Search the files of an archive.

    Raises:
        RootcellarError: none of them has the task.
    """
    # imported late: only this way of searching needs it
    from rootcellar.archive.places import open_place
    from rootcellar.archive.scanning import find_in_files

    codec = codec_for({} if choice.app is None else load_app(choice.app).conf)
    place = open_place(url)
    problems: list[RootcellarError] = []
    found = find_in_files(place, task_id, problems.append)
    for problem in problems:
        print(f"rootcellar: left out: {visible(str(problem))}", file=sys.stderr)
    if found is None:
        raise RootcellarError(
            f"no file of the archive has task {visible(task_id)}",
            where=place.where,
            remedy="give the whole id; the result may still be in the database, or another archive may have it",
        )
    record, file = found
    return _Archived(*codec.opened(record), file, place.where)


def _show_archived(found: _Archived, *, as_json: bool) -> None:
    for exc in found.refused:
        print(f"rootcellar: {visible(str(exc))}", file=sys.stderr)
    print_damage([found.record])
    held = found.held.get(found.record.task_id)
    if as_json:
        print_json({**_object(found.record, held), "archived_in": found.file})
        return
    _print_task(found.record, console(), held, archived=f"{found.file}, in {found.where}")


def _object(record: TaskRecord, held: HeldBy | None) -> dict[str, Any]:
    """Return a task as JSON has it, without its workflow."""
    group = None if record.failure_group is None else text_of_group(record.failure_group)
    keeps = None if held is None else {"hold": held.hold.id, "reason": held.hold.reason, "why": held.why.name.lower()}
    return {**json_object(record), "failure_group": group, "held": keeps}


def _find_by_prefix(prefix: str, store: Store) -> TaskRecord | None:
    """Return the only task whose id begins with ``prefix``, or ``None`` if there is none.

    Raises:
        RootcellarError: several ids begin with it.
    """
    found = _beginning_with(prefix, store) if prefix else []
    if len(found) < 2:
        return found[0] if found else None
    ids = ", ".join(visible(record.task_id) for record in found[:_MAX_LISTED_IDS])
    more = " and more" if len(found) > _MAX_LISTED_IDS else ""
    raise RootcellarError(
        f"several ids begin with {visible(prefix)}: {ids}{more}",
        where=store.where,
        remedy="give more of the id",
    )


def _beginning_with(prefix: str, store: Store) -> Sequence[TaskRecord]:
    """Return the tasks whose ids begin with ``prefix``, or the first few of them."""
    searchable = store.ability(Searchable)
    if searchable is not None:
        # in the order of the ids, which is an index: those that begin with a text follow it
        near = [one for one in store.scan(prefix, _MAX_LISTED_IDS + 1) if one.task_id.startswith(prefix)]
        if near or (_PLAIN_ID.fullmatch(prefix) and not searchable.has_adopted()):
            return near
    queryable = store.ability(Queryable)
    return [] if queryable is None else queryable.query(TaskQuery(id_prefix=prefix, limit=_MAX_LISTED_IDS + 1))


def _print_task(record: TaskRecord, out: Console, held: HeldBy | None, archived: str | None = None) -> None:
    out.print(
        Text.assemble(
            (visible(record.state), state_style(record.state)),
            ", not started  " if was_only_sent(record) else "  ",
            visible(record.name or "(no name)"),
        ),
        soft_wrap=True,
    )
    fields = [(label, value) for label, value in _fields(record, held, archived) if value is not None]
    width = max(len(label) for label, _ in fields)
    for label, value in fields:
        out.print(Text(f"  {label:{width}}  ", style="dim").append(visible(value), style="not dim"), soft_wrap=True)
    for heading, text in _blocks(record):
        out.print(Text(f"\n{heading}", style="bold"), soft_wrap=True)
        out.print(Text(_indented(visible_lines(text))), soft_wrap=True)


def _fields(record: TaskRecord, held: HeldBy | None, archived: str | None) -> Iterator[tuple[str, str | None]]:
    yield "id", record.task_id
    yield "archived", archived
    yield "sent", full_moment(record.sent_at)
    yield "started", _with_span(record.started_at, record.sent_at, "after it was sent")
    yield "done", _with_span(known(record.done_at), record.started_at, "after it started")
    if archived is None:
        yield "kept until", full_moment(record.expires_at) or "for ever"
    yield "held by", None if held is None else _hold(held)
    yield "queue", record.queue
    yield "worker", record.worker
    yield "failure group", None if record.failure_group is None else text_of_group(record.failure_group)
    yield "retries", None if record.retries is None else str(record.retries)
    yield "args", one_line(record.args) if record.args else None
    yield "kwargs", one_line(record.kwargs) if record.kwargs else None
    yield "group", _place_in_group(record)
    yield "parent", other_than(record.task_id, record.parent_id)
    yield "root", "itself" if record.root_id == record.task_id else record.root_id
    stamps = json_value(record.stamps)
    if isinstance(stamps, dict):
        yield "retried as", _text_or_none(stamps.get(RETRIED_AS))
        yield "retry of", _text_or_none(stamps.get(RETRY_OF))
    yield "stamps", one_line(record.stamps) if record.stamps else None


def _blocks(record: TaskRecord) -> Iterator[tuple[str, str]]:
    """Yield each text of more than one line, with its heading."""
    value = json_value(record.result)
    if isinstance(value, dict) and "exc_type" in value:
        yield "Error", outcome(record)
    elif record.result is not None and not (was_only_sent(record) and value is None):
        yield "Known before its start" if was_only_sent(record) else "Result", pretty(record.result)
    if record.traceback:
        yield "Traceback", traceback_text(record).rstrip("\n")


def _hold(held: HeldBy) -> str:
    explained = "" if held.why is Why.MATCHES else f" ({held.why.value})"
    return f"hold {held.hold.id}{explained}: {held.hold.reason}"


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _place_in_group(record: TaskRecord) -> str | None:
    if record.group_id is None:
        return None
    return record.group_id if record.group_index is None else f"{record.group_id}, place {record.group_index}"


def _with_span(moment: datetime | None, before: datetime | None, since: str) -> str | None:
    seconds = seconds_between(before, moment)
    shown = full_moment(moment)
    return shown if seconds is None else f"{shown}, {show_seconds(seconds)} {since}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
