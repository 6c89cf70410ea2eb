"""``rootcellar restore``: brings archived results back into the table."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated, Any

import typer

from rootcellar.archive.restoring import ArchivedTasks, Preview, Restored, RestoringRun
from rootcellar.cli.archive_place import named_place
from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import (
    Choice,
    DryRunOption,
    FilterArgument,
    JsonOption,
    YesOption,
    filter_text,
    store_options,
)
from rootcellar.cli.output import WrongUse, console, left_out, number_of_tasks, print_json, say, say_beside, visible
from rootcellar.cli.progress import Progress
from rootcellar.cli.stores import existing_results
from rootcellar.cli.table import print_tasks
from rootcellar.cli.times import parse_span
from rootcellar.cli.values import json_object
from rootcellar.errors import RootcellarError
from rootcellar.history.filters import FilterWrong, parse
from rootcellar.history.history import History
from rootcellar.retention.policy import read_retention

EXAMPLES = """\b
Examples:
  rootcellar restore --dry-run 'id:d3a1*' --from /srv/archive -A shop.celery
  rootcellar restore --yes 'task:reports.* done:2026-03' -A shop.celery
"""


@store_options
def restore(
    choice: Choice,
    words: FilterArgument = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", help="The archive: a folder, or a URL of fsspec. By default result_archive"
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="TIME", help="Keep them at least so long in the table, such as 12h or 30d")
    ] = "7d",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring archived results back into the table, as they were.

    First it shows how many the filter finds and five of them, and asks. A restored result leaves the archive.
    If a rule archives it again when it expires, it expires no earlier than --keep says. If no rule does, the table
    keeps it for as long as the archive would have kept it. A task that has a newer result in the table keeps that one,
    and its archived result stays in the archive. You can interrupt it at any time; run it again, and it goes on. It
    needs a filter; state:any means every archived task.

    Exit status 0 if it was done, or there was nothing to restore, 1 after an error, if a file is left out because it is
    missing or damaged, or if the answer was no, 2 if there
    is neither --yes nor a terminal.
    """
    text = filter_text(words)
    if not text.strip():
        raise WrongUse("no filter is given: say which tasks, such as id:d3a1*; state:any means every archived task")
    query = parse(text)
    if query.sort:
        raise FilterWrong("tasks are not restored in an order", text, text.rindex("sort:"), "leave out sort:")
    length = _length(keep)
    with existing_results(choice) as results:
        place = named_place(source, results.conf, "--from")
        clock = History(results.store, results.codec, owns_store=False).clock
        # by its text: the preview and the run find the same ones
        problems: dict[str, None] = {}

        def note(problem: RootcellarError) -> None:
            problems.setdefault(str(problem))

        run = RestoringRun(
            results.store,
            lambda: ArchivedTasks(results.store, place, results.codec, query, clock, note),
            results.codec,
            length,
            clock.now,
            read_retention(results.conf).archives,
        )
        found = run.preview()
        if not as_json:
            _say_preview(found, place.where, results.store.where)
        if dry_run:
            if as_json:
                print_json({**_as_object(found, Restored()), "dry_run": True})
            left_out(problems)
            return
        if found.count:
            confirm(yes, f"Restore {_number(found)} into {results.store.where}?")
        done = _run(run)
    if as_json:
        print_json({**_as_object(found, done), "dry_run": False})
        left_out(problems)
        return
    say(f"{number_of_tasks(done.restored)} restored.")
    if done.live:
        say_beside(f"{number_of_tasks(done.live)} left in the archive: the table has a newer result.")
    left_out(problems)


def _length(text: str) -> timedelta:
    try:
        return parse_span(text)
    except ValueError as exc:
        raise WrongUse(f"--keep: {exc}") from None


def _run(run: RestoringRun) -> Restored:
    line = Progress("tasks restored")
    try:
        return run.run(line.add)
    except SystemExit:
        print(f"Interrupted. {number_of_tasks(run.done.restored)} restored. Run it again to go on.", file=sys.stderr)
        raise


def _say_preview(found: Preview, where: str, to: str) -> None:
    number = _number(found)
    say(f"{number[0].upper()}{number[1:]} in {visible(where)} to restore into {visible(to)}.")
    if found.unread:
        say_beside(f"{number_of_tasks(found.unread)} left out: a value that the filter asks for cannot be read here.")
    if found.examples:
        print_tasks(found.examples, console())


def _number(found: Preview) -> str:
    return f"{'' if found.is_all else 'at least '}{number_of_tasks(found.count)}"


def _as_object(found: Preview, done: Restored) -> dict[str, Any]:
    return {
        "found": found.count,
        "found_all": found.is_all,
        "unread": found.unread,
        "examples": [json_object(record) for record in found.examples],
        "restored": done.restored,
        "left": done.live,
    }
