"""``rootcellar copy``: copies results into another store or system."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

import typer

from rootcellar.cli.endpoints import (
    GroupsOption,
    KeepOption,
    Opened,
    PickleOption,
    RateOption,
    SourceArgument,
    TargetArgument,
    Wanted,
    check_not_migrated,
    check_pair,
    opened_end,
    parsed,
    wanted,
)
from rootcellar.cli.options import DryRunOption, FilterArgument, JsonOption, filter_text
from rootcellar.cli.output import WrongUse, number_of_tasks, print_json, say, say_beside, visible
from rootcellar.cli.progress import Lines
from rootcellar.errors import RootcellarError, SchemaMissing
from rootcellar.history.filters import Clock
from rootcellar.history.filters.pinned import pinned
from rootcellar.migration.collecting import collected_seldom
from rootcellar.migration.copying import Copier, DryTarget
from rootcellar.migration.endpoint import Spec, Target
from rootcellar.migration.endpoints import PARQUET
from rootcellar.migration.foreign.layouts import LOST, LayoutTarget
from rootcellar.migration.parquet import ParquetTarget
from rootcellar.migration.progress import Progress
from rootcellar.migration.resuming import CopyState, StateKeeper, key_of
from rootcellar.migration.throttle import Throttle
from rootcellar.opening import must_exist
from rootcellar.payloads import Codec
from rootcellar.payloads.blobs import REFERENCE
from rootcellar.records import Payload, TaskRecord

EXAMPLES = """\b
Examples:
  rootcellar copy redis://localhost/0 postgresql://localhost/results
  rootcellar copy app:shop.celery env:NEW_BACKEND 'task:shop.* since:30d'
  rootcellar copy env:OLD env:NEW --rate 2000
"""

#: so many results are read by a second process
_MANY = 20_000

MissingOnlyOption = Annotated[
    bool, typer.Option("--missing-only", help="A result of the target stays, also if it is older")
]
RestartOption = Annotated[bool, typer.Option("--restart", help="Begin again, and not where an interrupted copy ended")]


def copy(
    source: SourceArgument,
    target: TargetArgument,
    words: FilterArgument = None,
    rate: RateOption = None,
    missing_only: MissingOnlyOption = False,
    groups: GroupsOption = True,
    allow_pickle: PickleOption = False,
    keep: KeepOption = None,
    restart: RestartOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy results into another store, or those that a filter finds. The source stays as it is.

    Where both have a result of a task, the newer one wins. A result that was forgotten while the target was part of a
    migration stays forgotten. An expired result is not copied; the others expire when they would in the source. Saved
    groups come along; open chords, holds and the archive do not.

    You can interrupt it at any time, also with kill -9: run the same command again, and it goes on. It may run while
    workers store results in the source; run it again afterwards for those, or use `rootcellar migrate`.

    env:NAME reads a URL from a variable, so that its password is in no list of processes. celery+redis://…,
    celery+mongodb://… and db+… name Celery's own backends, and django-db+… names the tables of django-celery-results.

    Exit status 0 if all was copied, 1 after an error, or if a result was left out because it cannot be read or the
    target cannot store it.
    """
    with (
        opened_end(source, "SOURCE", allow_pickle=allow_pickle, keep=keep) as one,
        opened_end(target, "TARGET") as other,
    ):
        run_copy(
            one,
            other,
            filter_text(words),
            rate=rate,
            newer_wins=not missing_only,
            groups=groups,
            restart=restart,
            dry_run=dry_run,
            as_json=as_json,
        )


def run_copy(
    source: Opened,
    target: Opened,
    text: str,
    *,
    rate: float | None = None,
    newer_wins: bool = True,
    groups: bool = True,
    restart: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Copy, and print what was done.

    Raises:
        typer.Exit: with status 1, if a result was left out because of an error.
        RootcellarError: see :meth:`~rootcellar.migration.copying.Copier.run`.
    """
    throttle, query = Throttle(rate), parsed(text)
    check_pair(source.endpoint, target.endpoint)
    to_read = source.endpoint.to_read
    to_write = _dry(target) if dry_run else _to_write(source, target)
    layout = None
    if target.endpoint.layout is not None:
        to_write = layout = LayoutTarget(to_write, target.endpoint.layout, source.codec)
    keeper = None if dry_run else _keeper(source, target, text, newer_wins, groups)
    clock = Clock.local()
    state = None
    if keeper is not None and (state := keeper.load()) is not None and not restart:
        _say_resumed(state)
        query = parsed(state.filter)
    else:
        state = CopyState(filter=str(pinned(query, clock)))
    which = wanted(query, state.filter, source, clock)
    progress = Progress(_total(source), done=state.counts.read)
    lines = Lines(progress, "results read" if dry_run else "results copied")
    copier = Copier(
        to_read,
        to_write,
        matches=which.matches,
        newer_wins=newer_wins,
        with_groups=groups,
        throttle=throttle,
        state=state,
        keeper=keeper,
        beside=_beside(source, progress.total, rate),
        at_once=target.endpoint.at_once,
        progress=progress,
        on_batch=lines.show,
    )
    began = datetime.now(timezone.utc)
    try:
        with collected_seldom():
            copier.run()
        if not dry_run:
            target.endpoint.finish()
    except (SystemExit, RootcellarError) as exc:
        lines.end()
        _say_interrupted(copier.state, keeper is not None, dry_run, isinstance(exc, SystemExit))
        raise
    lines.end()
    seconds = (datetime.now(timezone.utc) - began).total_seconds()
    _report(copier.state, source, target, which, layout, dry_run=dry_run, as_json=as_json, seconds=seconds)


def _to_write(source: Opened, target: Opened) -> Target:
    endpoint = target.endpoint
    if endpoint.target is None and endpoint.name.startswith(PARQUET):
        raise WrongUse(f"{endpoint.where} exists: name a file or folder that does not exist yet")
    check_not_migrated(endpoint)
    if isinstance(endpoint.target, ParquetTarget):
        endpoint.target.fetch = partial(_with_result, source.codec)
    return endpoint.to_write


def _with_result(codec: Codec, record: TaskRecord) -> tuple[TaskRecord, Payload | None]:
    """Return a record with its result itself, and the reference to the blob that it had."""
    reference = record.result
    if reference is None or reference.content_type != REFERENCE:
        return record, None
    return replace(record, result=codec.fetch(reference, record.task_id)), reference


def _dry(target: Opened) -> Target:
    endpoint, lookup = target.endpoint, target.endpoint.lookup
    if endpoint.store is not None:
        try:
            must_exist(endpoint.store)
        except SchemaMissing:
            lookup = None
    return DryTarget(lookup)


def _keeper(source: Opened, target: Opened, text: str, newer_wins: bool, groups: bool) -> StateKeeper | None:
    if target.endpoint.values is None:
        return None
    key = key_of(source.endpoint.name, target.endpoint.name, text, newer_wins, groups)
    return StateKeeper(target.endpoint.values, key, target.endpoint.where)


def _total(source: Opened) -> int | None:
    try:
        return source.endpoint.to_read.count_roughly()
    except RootcellarError:
        # only the display needs it, such as for a user who may not read statistics
        return None


def _beside(source: Opened, total: int | None, rate: float | None) -> Spec | None:
    """Return how a second process reads the source; ``None`` where it would not help."""
    return None if rate is not None or (total or 0) < _MANY else source.spec


def _say_resumed(state: CopyState) -> None:
    began = state.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
    say_beside(
        f"Going on with the copy that began at {began}: {number_of_tasks(state.counts.read)} were read. "
        "--restart begins again."
    )


def _say_interrupted(state: CopyState, is_kept: bool, dry_run: bool, is_signal: bool) -> None:
    begins = "Interrupted. " if is_signal else ""
    if dry_run:
        print(f"{begins}Nothing was changed.", file=sys.stderr)
        return
    advice = "Run the same command again: it goes on." if is_kept else "Run the same command again: it begins again."
    print(f"{begins}{number_of_tasks(state.counts.written)} copied. {advice}", file=sys.stderr)


def _report(
    state: CopyState,
    source: Opened,
    target: Opened,
    which: Wanted,
    layout: LayoutTarget | None,
    *,
    dry_run: bool,
    as_json: bool,
    seconds: float,
) -> None:
    counts = state.counts
    if as_json:
        lost = {} if layout is None else dict(layout.lost)
        print_json({**_as_object(state, source, target, which, dry_run, seconds), "lost": lost})
    else:
        verb = "would be copied" if dry_run else "copied"
        say(f"{number_of_tasks(counts.written)} {verb} from {source.endpoint.where} to {target.endpoint.where}.")
        for sentence in _sentences(state, target, which, verb):
            say_beside(sentence)
        for sentence in [] if layout is None else _losses(layout):
            say_beside(sentence)
    for problem in state.problems:
        print(f"rootcellar: {visible(problem)}", file=sys.stderr)
    if counts.unreadable or counts.refused or counts.groups_unreadable:
        raise typer.Exit(1)


def _losses(layout: LayoutTarget) -> list[str]:
    """Return what the target does not keep, each with the number of tasks."""
    found = [f"The target does not keep {LOST[name]}: {number_of_tasks(layout.lost[name])}." for name in layout.lost]
    if layout.groups_lost:
        found.append(f"The target does not keep when saved groups expire: {layout.groups_lost:,}.")
    return found


def _sentences(state: CopyState, target: Opened, which: Wanted, verb: str) -> list[str]:
    counts = state.counts
    found = []
    if counts.groups:
        found.append(f"{counts.groups_written:,} of {counts.groups:,} saved groups {verb}.")
    if isinstance(target.endpoint.target, ParquetTarget) and target.endpoint.target.groups_left_out:
        found.append("A single file has no saved groups: name a folder, and they come along.")
    if counts.groups_unreadable:
        found.append(f"{counts.groups_unreadable:,} saved groups left out: they cannot be read.")
    if counts.kept:
        found.append(f"{number_of_tasks(counts.kept)} not copied: the target has the same result, or a newer one.")
    if counts.buried:
        found.append(f"{number_of_tasks(counts.buried)} not copied: they were forgotten in the target.")
    if counts.expired:
        found.append(f"{number_of_tasks(counts.expired)} not copied: they have expired.")
    if unread := which.unread():
        found.append(f"{number_of_tasks(unread)} left out: a value that the filter asks for cannot be read here.")
    if left_out := counts.unreadable + counts.refused:
        found.append(f"{number_of_tasks(left_out)} left out because of errors:")
    return found


def _as_object(
    state: CopyState, source: Opened, target: Opened, which: Wanted, dry_run: bool, seconds: float
) -> dict[str, Any]:
    counts = state.counts
    return {
        "source": source.endpoint.where,
        "target": target.endpoint.where,
        "dry_run": dry_run,
        "read": counts.read,
        "copied": counts.written,
        "kept": counts.kept,
        "buried": counts.buried,
        "expired": counts.expired,
        "filtered_out": counts.left_out,
        "unread": which.unread(),
        "unreadable": counts.unreadable,
        "refused": counts.refused,
        "groups": counts.groups,
        "groups_copied": counts.groups_written,
        "groups_unreadable": counts.groups_unreadable,
        "seconds": round(seconds, 3),
        "problems": state.problems,
    }
