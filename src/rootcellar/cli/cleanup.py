"""``rootcellar cleanup``: deletes expired results."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rootcellar.cli.options import Choice, DryRunOption, JsonOption, store_options
from rootcellar.cli.output import console, number_of_tasks, print_json, say, say_beside
from rootcellar.cli.progress import Progress
from rootcellar.cli.stores import existing_results, load_app
from rootcellar.cli.table import print_tasks
from rootcellar.cli.values import json_object
from rootcellar.maintenance.cleaned import Cleaned, Expected
from rootcellar.maintenance.cleanup import BATCH, Cleanup, CleanupConfig, CleanupWork
from rootcellar.maintenance.pace import RATE
from rootcellar.opening import Results, backend_of
from rootcellar.retention.rules import VARIABLE

EXAMPLES = """\b
Examples:
  rootcellar cleanup --dry-run -A shop.celery
  rootcellar cleanup -A shop.celery
"""
_NO_RULES = (
    f"Without --app, the rules are those of {VARIABLE}, and those that workers and commands of applications have put "
    "on record in the last 30 days: results that other rules would archive are deleted."
)
_BY_ITSELF = "The server deletes expired results by itself, and cannot count them before."


@store_options
def cleanup(
    choice: Choice,
    dry_run: DryRunOption = False,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Rows to delete at a time")] = BATCH,
    rate: Annotated[int, typer.Option("--rate", min=1, metavar="N", help="Rows to delete a second, at most")] = RATE,
    as_json: JsonOption = False,
) -> None:
    """Delete expired results, groups and chords, and blobs without a result.

    A worker does the same every hour, so this command is for a large backlog, or for a store without workers. It
    deletes in batches, pauses between them for other clients and for replicas, and uses little memory. With a higher
    --rate it ends sooner, and stores wait longer meanwhile. Results that a hold keeps stay; so do results that a rule
    archives, until they are archived. You can interrupt it at any time; run it again, and it deletes the rest. With
    --app, it also finishes chords whose process died. It does not ask, because these results have expired.

    Exit status 0 if it was done, 1 after an error, 2 for wrong use.
    """
    with existing_results(choice) as results:
        if not results.conf and not dry_run:
            say_beside(_NO_RULES)
        progress = Progress("results counted" if dry_run else "results deleted")
        found = Cleanup(_work(choice, results), _config(batch, rate), lambda cleaned: _note(progress, cleaned))
        if dry_run:
            _show_expected(found.expected(), results.store.where, as_json)
            return
        cleaned = _clean(found)
    if as_json:
        print_json({**_as_object(cleaned), "dry_run": False})
        return
    say(f"{cleaned.sentence()} ({cleaned.seconds:,.1f} s)")


def _config(batch: int, rate: int) -> CleanupConfig:
    return CleanupConfig(batch=batch, rate=rate, least_batch=min(batch, CleanupConfig().least_batch))


def _work(choice: Choice, results: Results) -> CleanupWork:
    sweep_chords = None
    if choice.app is not None:
        sweep_chords = backend_of(load_app(choice.app), f"--app {choice.app}").chords.sweep
    return CleanupWork.of(results.store, results.codec, results.conf, sweep_chords=sweep_chords)


def _clean(found: Cleanup) -> Cleaned:
    try:
        return found.clean()
    except SystemExit:
        deleted = number_of_results(found.cleaned.deleted)
        print(f"Interrupted. {deleted} deleted. Run it again to go on.", file=sys.stderr)
        raise


def _note(progress: Progress, cleaned: Cleaned) -> None:
    progress.add(cleaned.deleted - progress.count)


def _show_expected(expected: Expected | None, where: str, as_json: bool) -> None:
    """Print what would be deleted: numbers, and examples."""
    if expected is None:
        if as_json:
            print_json({"dry_run": True, "deletes_by_itself": True})
            return
        say(_BY_ITSELF)
        return
    cleaned = expected.cleaned
    if as_json:
        examples = [json_object(record) for record in expected.samples]
        print_json({**_as_object(cleaned), "dry_run": True, "examples": examples})
        return
    count = number_of_tasks(cleaned.tasks + cleaned.adopted)
    others = ((cleaned.groups, "group"), (cleaned.chords, "chord"))
    more = "".join(f" and {number:,} {name}{'' if number == 1 else 's'}" for number, name in others if number)
    say(f"{count}{more} in {where} would be deleted, because they have expired.")
    for note in cleaned.notes():
        say(note)
    if expected.samples:
        print_tasks(expected.samples, console())


def number_of_results(count: int) -> str:
    """Return ``1 result`` or ``1,234 results``."""
    return "1 result" if count == 1 else f"{count:,} results"


def _as_object(cleaned: Cleaned) -> dict[str, Any]:
    return {
        "tasks": cleaned.tasks,
        "groups": cleaned.groups,
        "adopted": cleaned.adopted,
        "chords": cleaned.chords,
        "orphaned_chords": cleaned.orphans,
        "blobs": cleaned.blobs,
        "held": cleaned.held,
        "waiting_for_archive": cleaned.archiving,
        "waiting_for_archive_elsewhere": cleaned.archiving_elsewhere,
        "has_archive": cleaned.has_archive,
        "keeps_adopted": cleaned.keeps_adopted,
        "seconds": round(cleaned.seconds, 3),
        "complete": cleaned.is_complete,
    }
