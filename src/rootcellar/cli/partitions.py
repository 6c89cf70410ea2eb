"""``rootcellar partitions``: the older table of PostgreSQL, for tens of millions of results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import typer
from rich.table import Table

from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import Choice, JsonOption, YesOption, store_options
from rootcellar.cli.output import console, print_json, say, say_beside, visible
from rootcellar.cli.progress import Progress
from rootcellar.cli.stores import existing_results
from rootcellar.cli.times import parse_span, show_moment
from rootcellar.errors import AbilityMissing, PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.maintenance.mover import JOB
from rootcellar.retention.durations import show_duration
from rootcellar.stores import Store
from rootcellar.stores.jobs import Job, Jobs
from rootcellar.stores.measures import Sized
from rootcellar.stores.older import LEAST_WINDOW, WINDOW, Older, OlderStatus, Partition

app = typer.Typer(
    help="Keep tens of millions of results fast: an older table in partitions (PostgreSQL).",
    epilog="\b\nExample:\n  rootcellar partitions status -A shop.celery\n",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_ENABLE_EXAMPLE = """\b
Examples:
  rootcellar partitions enable -A shop.celery
  rootcellar partitions enable --yes --window 7d -A shop.celery
"""
_STATUS_EXAMPLE = """\b
Examples:
  rootcellar partitions status -A shop.celery
  rootcellar partitions status --json -b postgresql://user:password@host/db
"""
_DISABLE_EXAMPLE = """\b
Example:
  rootcellar partitions disable -A shop.celery
"""

#: below so many results, an older table is not needed
WORTH_IT = 10_000_000
#: the most rows that `status` counts of those that can be moved
MOST_BEHIND = 100_000
#: rows of a batch that is moved back; after an error that may pass, a batch is half as large, down to the least
BATCH, LEAST_BATCH = 5_000, 100
#: how often in a row such an error may happen, and the seconds between two tries
TRIES, PAUSE = 60, 1.0


@app.command(epilog=_ENABLE_EXAMPLE)
@store_options
def enable(
    choice: Choice,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="SPAN",
            help="Move a result this long after its task has ended: 12h, 7d; 1h at least. By default 2d",
        ),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Create the older table, to which finished results are moved.

    For tens of millions of results in PostgreSQL; below ten million it is not needed. Workers store results meanwhile,
    and keep their rights. The main process of a worker moves the results, if its user may create tables; otherwise let
    a user who may run `rootcellar maintain --apply --loop`.

    The window of an older table cannot be changed. For another one, run `partitions disable` and then this: both move
    every result.

    Exit status 0 if there is an older table now, 1 if it has another --window, the answer was no or a right is missing,
    2 without --yes where there is no terminal to ask on.
    """
    kept = WINDOW if window is None else _window(window)
    with existing_results(choice) as results:
        store = results.store
        older = _older_of(store)
        status = older.status()
        if status.is_enabled:
            if window is not None and kept != status.window and not status.is_disabling:
                raise _other_window(status.window, store.where)
            say(_enabled_before(status, store.where))
            return
        _check_rights(older, store.where)
        _explain(store, kept)
        confirm(yes, f"Create the older table in {store.where}?")
        older.enable(kept)
        say(f"{store.where}: the older table is there. Results are moved from one minute later on.")


@app.command(epilog=_STATUS_EXAMPLE, short_help="Print the partitions, and how many results wait to be moved.")
@store_options
def status(choice: Choice, as_json: JsonOption = False) -> None:
    """Print the partitions with their rows and sizes, how many results wait to be moved, and the next drop.

    Changes nothing. The numbers of rows are estimates of the server. Exit status 0 if there is an older table, 1
    otherwise.
    """
    with existing_results(choice) as results:
        store = results.store
        older = _older_of(store)
        found = older.status()
        if not found.is_enabled:
            _say_missing(store.where, as_json)
            raise typer.Exit(1)
        partitions = older.partitions()
        behind, first = older.behind(datetime.now(timezone.utc), found.window, MOST_BEHIND)
        missing = older.missing_rights()
        last = _last_run(store)
        if as_json:
            print_json(
                {
                    "enabled": True,
                    "moving_back": found.is_disabling,
                    "enabled_at": _iso(found.enabled_at),
                    "window_seconds": found.window.total_seconds(),
                    "partitions": [_as_json(each) for each in partitions],
                    "behind": {"rows": behind, "exact": behind < MOST_BEHIND, "first_done": _iso(first)},
                    "next_drop": _next_drop_json(partitions),
                    "last_run": _run_as_json(last),
                    "missing_rights": list(missing),
                    "where": store.where,
                }
            )
            return
        _print_partitions(partitions)
        _say_state(found, partitions, store.where)
        _say_behind(found, behind, first)
        _say_last_run(last)
        if missing:
            say_beside(f"This user cannot move or drop: it lacks {'; '.join(missing)}.")


@app.command(epilog=_DISABLE_EXAMPLE)
@store_options
def disable(choice: Choice, yes: YesOption = False) -> None:
    """Move all results back, and drop the older table.

    Workers store results meanwhile. It takes a while, and may be interrupted: run it again to go on. Until then no
    result is moved to the older table.

    Exit status 0 if there is no older table any more, 1 if the answer was no or it could not be finished, 2 without
    --yes where there is no terminal to ask on.
    """
    with existing_results(choice) as results:
        store = results.store
        older = _older_of(store)
        if not older.status().is_enabled:
            _say_missing(store.where, False)
            return
        _check_rights(older, store.where)
        rows = sum(each.rows for each in older.partitions())
        confirm(yes, f"Move about {rows:,} results back and drop the older table in {store.where}?")
        moved = _move_back(older)
        say(f"{store.where}: {moved:,} results were moved back, and the older table was dropped.")


def _move_back(older: Older) -> int:
    """Move all results back; return how many.

    Raises:
        RootcellarError: a step failed, several times if the error may pass.
    """
    progress = Progress("results moved back")
    size, failures = BATCH, 0
    while True:
        try:
            moved = older.disable_step(size)
        except RootcellarError as exc:
            failures += 1
            if not exc.retryable or failures >= TRIES:
                raise
            if failures == 1 and isinstance(exc, StoreUnavailable):
                say_beside(f"{exc}.")
            size = max(LEAST_BATCH, size // 2)
            time.sleep(PAUSE)
            continue
        failures, size = 0, min(BATCH, size + max(1, size // 4))
        progress.add(moved.count)
        if moved.last is None:
            return progress.count


def _older_of(store: Store) -> Older:
    found = store.ability(Older)
    if found is None:
        raise AbilityMissing(
            "this store has no older table",
            where=store.where,
            remedy="use PostgreSQL for tens of millions of results; other stores delete expired results in batches",
        )
    return found


def _check_rights(older: Older, where: str) -> None:
    missing = older.missing_rights()
    if missing:
        raise PermissionDenied(
            f"this user lacks {'; '.join(missing)}",
            where=where,
            remedy="use the user that maintains the tables; `rootcellar schema grants USER --for maintainer` prints "
            "the rights that it needs",
        )


def _window(text: str) -> timedelta:
    try:
        window = parse_span(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--window") from None
    if window < LEAST_WINDOW:
        raise typer.BadParameter(f"{text} is too short: give 1h or more", param_hint="--window")
    return window


# -- what is printed


def _explain(store: Store, window: timedelta) -> None:
    """Say what will happen."""
    rows, size = _size_of(store)
    if rows is not None:
        # the estimate for an empty table is 0 or 1
        about = f"about {rows:,} results" if rows > 1 else "few results"
        say_beside(f"{store.where} has {about} ({_bytes(size)}).")
        if rows < WORTH_IT:
            say_beside(
                f"Below {WORTH_IT:,} results an older table is not needed: expired results are deleted in batches, "
                "which writes less."
            )
    say_beside("An older table and an index of the moved ids are created. Workers go on storing, as before.")
    say_beside(
        f"From one minute later on, finished results are moved to it {_days(window)} after their tasks have ended. "
        "Each result is written twice in its life, so the server writes 1.5 to 1.7 times as much (WAL)."
    )
    say_beside(
        "rootcellar reads both tables. SQL reads both in the view celery_taskmeta_all, if the table is so named."
    )
    say_beside("When all results of a week have expired, the week is dropped at once.")
    say_beside("`rootcellar partitions disable` moves everything back.")


def _size_of(store: Store) -> tuple[int | None, int]:
    """Return about how many results there are, and the bytes of the largest table."""
    sized = store.ability(Sized)
    tables = [] if sized is None else [each for each in sized.table_sizes() if each.rows is not None]
    if not tables:
        return None, 0
    largest = max(tables, key=lambda each: each.bytes or 0)
    return largest.rows, (largest.bytes or 0) + (largest.index_bytes or 0)


def _enabled_before(status: OlderStatus, where: str) -> str:
    if status.is_disabling:
        return f"{where}: results are being moved back. Run `rootcellar partitions disable` to finish that."
    return f"{where}: there is an older table already. Nothing was changed."


def _other_window(window: timedelta, where: str) -> RootcellarError:
    return RootcellarError(
        f"there is an older table already, and its window is {_days(window)}",
        where=where,
        remedy="run `rootcellar partitions disable`, and then `rootcellar partitions enable --window` again; both move "
        "every result",
    )


def _say_missing(where: str, as_json: bool) -> None:
    if as_json:
        print_json({"enabled": False, "where": where})
    else:
        say(f"{where}: there is no older table. `rootcellar partitions enable` creates one.")


def _print_partitions(partitions: Sequence[Partition]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PARTITION")
    table.add_column("DROPPED ON")
    table.add_column("ROWS", justify="right")
    table.add_column("SIZE", justify="right")
    for each in partitions:
        table.add_row(visible(each.name), _drop_text(each), f"≈{each.rows:,}", _bytes(each.bytes))
    console().print(table)


def _drop_text(partition: Partition) -> str:
    if partition.from_ is None:
        return "as soon as it is not in use"
    return "never" if partition.until is None else partition.until.isoformat()


def _say_state(status: OlderStatus, partitions: Sequence[Partition], where: str) -> None:
    rows = sum(each.rows for each in partitions)
    say(f"{where}: about {rows:,} results in {len(partitions)} partitions.")
    dropped = _next_drop(partitions)
    if dropped is not None:
        say(f"Next drop: {visible(dropped.name)} on {dropped.until}.")
    if status.is_disabling:
        say("Results are being moved back: run `rootcellar partitions disable` to finish that.")


def _say_behind(status: OlderStatus, count: int, first: datetime | None) -> None:
    if not count:
        say(f"No result waits to be moved: those of the last {_days(status.window)} stay.")
        return
    more = "" if count < MOST_BEHIND else "at least "
    say(f"{more}{count:,} results wait to be moved; the first one ended at {show_moment(first)}.")


def _say_last_run(job: Job | None) -> None:
    if job is None:
        say("No result has been moved yet: a worker does it, or `rootcellar maintain --apply`.")
        return
    note = f": {visible(job.note)}" if job.note else ""
    say(f"Last run at {show_moment(job.started_at)}{note}.")


def _last_run(store: Store) -> Job | None:
    jobs = store.ability(Jobs)
    return None if jobs is None else jobs.jobs().get(JOB)


def _next_drop(partitions: Sequence[Partition]) -> Partition | None:
    return next((each for each in partitions if each.from_ is not None and each.until is not None), None)


def _as_json(partition: Partition) -> dict[str, Any]:
    return {
        "name": partition.name,
        "from": None if partition.from_ is None else partition.from_.isoformat(),
        "until": None if partition.until is None else partition.until.isoformat(),
        "rows": partition.rows,
        "bytes": partition.bytes,
        "detached": partition.from_ is None,
    }


def _next_drop_json(partitions: Sequence[Partition]) -> dict[str, Any] | None:
    found = _next_drop(partitions)
    return None if found is None or found.until is None else {"name": found.name, "on": found.until.isoformat()}


def _run_as_json(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "started_at": _iso(job.started_at),
        "ended_at": _iso(job.ended_at),
        "failed": job.has_failed,
        "done": job.done,
        "note": job.note,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(timezone.utc).isoformat()


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    if days >= 1:
        return f"{days:g} day{'s' * (days != 1)}"
    return show_duration(span.total_seconds())


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
