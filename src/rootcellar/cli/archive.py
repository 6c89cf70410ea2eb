"""``rootcellar archive``: moves old results into files, and verifies these."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

import typer

from rootcellar.archive.places import Place
from rootcellar.archive.preview import Preview, preview
from rootcellar.archive.selecting import Selection, Wanted, wanted_by_filter, wanted_by_rule
from rootcellar.archive.verifying import Verified, Verifying
from rootcellar.archive.writing import Archiving, Progress, manifest_of
from rootcellar.cli.archive_files import COMPACT_EXAMPLES, EXPIRE_EXAMPLES, LIST_EXAMPLES, compact, expire, list_files
from rootcellar.cli.archive_place import AtOption, ToOption, named_place
from rootcellar.cli.confirmation import confirm
from rootcellar.cli.numbers import size_text
from rootcellar.cli.options import (
    Choice,
    DryRunOption,
    FilterArgument,
    JsonOption,
    YesOption,
    filter_text,
    store_options,
)
from rootcellar.cli.output import WrongUse, console, number_of_tasks, print_error, print_json, say, say_beside, visible
from rootcellar.cli.progress import Progress as Line
from rootcellar.cli.stores import existing_results
from rootcellar.cli.table import print_tasks
from rootcellar.cli.values import json_object
from rootcellar.history.filters import FilterWrong, parse
from rootcellar.history.history import History
from rootcellar.history.holds import Holds
from rootcellar.maintenance.archive import JOB
from rootcellar.opening import Results
from rootcellar.retention.on_record import put_on_record_or_log
from rootcellar.retention.policy import read_retention
from rootcellar.stores.jobs import recorded

app = typer.Typer(
    help="Move old results into files, where they stay readable, and verify the files.",
    epilog="\b\nExample:\n  rootcellar archive run until:90d --to /srv/archive -A shop.celery\n",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_RUN_EXAMPLES = """\b
Examples:
  rootcellar archive run --dry-run until:90d --to /srv/archive -A shop.celery
  rootcellar archive run --yes 'task:reports.*' until:30d --to s3://bucket/x
  rootcellar archive run --yes -A shop.celery
"""
_VERIFY_EXAMPLES = """\b
Examples:
  rootcellar archive verify -A shop.celery
  rootcellar archive verify --full --at /srv/archive -A shop.celery
"""


@app.command(epilog=_RUN_EXAMPLES)
@store_options
def run(
    choice: Choice,
    words: FilterArgument = None,
    to: ToOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move results of finished tasks into files.

    They are in Parquet, one or more for each day. With a FILTER, they get the finished tasks that it finds. Without
    one, these are the tasks that have expired and whose rule in result_retention says "then": "archive". First it shows
    how many there are and five of them, and asks.

    A result leaves the table in the same transaction in which its file is added to the manifest, which is in the
    database. So a result is always at one of the two places. You can interrupt it at any time; run it again, and it
    goes on. Results that are held, whose chord has not ended, or that change meanwhile stay in the table. Values are
    archived as they are stored: an encrypted one stays encrypted, and rekey does not reach it.

    Exit status 0 if it was done, or there was nothing to do, 1 after an error or if the answer was no, 2 if there is
    neither --yes nor a terminal.
    """
    with existing_results(choice) as results:
        place = named_place(to, results.conf, "--to")
        history = History(results.store, results.codec, owns_store=False, conf=results.conf)
        text = filter_text(words)
        wanted = _wanted(text, results, history)
        manifest_of(results.store)
        found = preview(Selection(results.store, wanted), results.codec)
        if not as_json:
            _say_preview(found, results.store.where, place.where)
        if dry_run:
            if as_json:
                print_json({**_as_object(found, place, Progress()), "dry_run": True})
            return
        if found.count:
            confirm(yes, f"Move {_number(found)} to {place.where}?")
        done = _run(results, place, wanted, is_by_rule=not text.strip())
    if as_json:
        print_json({**_as_object(found, place, done), "dry_run": False})
    else:
        _say_done(done, place.where)


@app.command(epilog=_VERIFY_EXAMPLES)
@store_options
def verify(
    choice: Choice,
    full: Annotated[
        bool, typer.Option("--full", help="Also read every row, and compare the rows with the index in the database")
    ] = False,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify that the files of the archive are what was written.

    By default, it reads each file and compares its size, its SHA-256 and its number of rows with the manifest. It also
    names files that are missing, and files of this database that are not in the manifest. Exit status 1 if something is
    wrong.
    """
    with existing_results(choice) as results:
        place = named_place(at, results.conf, "--at")
        manifest = manifest_of(results.store)
        line = Line("rows verified")
        now = datetime.now(timezone.utc)
        found = Verifying(manifest, place, is_full=full, now=now, on_file=line.add).run()
    if as_json:
        print_json(_verified_as_object(found, place))
    else:
        _say_verified(found, place.where, full)
    if found.problems:
        raise typer.Exit(1)


app.command("list", epilog=LIST_EXAMPLES)(list_files)
app.command("expire", epilog=EXPIRE_EXAMPLES)(expire)
app.command("compact", epilog=COMPACT_EXAMPLES)(compact)


def _wanted(text: str, results: Results, history: History) -> Wanted:
    if text.strip():
        query = parse(text)
        if query.sort:
            raise FilterWrong("tasks are not archived in an order", text, text.rindex("sort:"), "leave out sort:")
        return wanted_by_filter(results.store, results.codec, query, history.clock)
    condition = read_retention(results.conf).archiving()
    if condition is None:
        raise WrongUse(
            'no filter is given, and no rule in result_retention says "then": "archive": say which tasks, such as '
            "until:90d; state:any means every finished task"
        )
    return wanted_by_rule(condition, datetime.now(timezone.utc))


def _run(results: Results, place: Place, wanted: Wanted, *, is_by_rule: bool) -> Progress:
    """Archive; a run by the rules is on record like that of a worker."""
    line, written = Line("tasks archived"), Line("tasks written into files")
    archiving = Archiving(
        results.store,
        place,
        Selection(results.store, wanted),
        holds=Holds(results.store, results.codec),
        spiller=results.codec.spiller,
        expiry=read_retention(results.conf).archive_expiry,
        on_progress=line.add,
        on_row=partial(written.add, 1),
    )
    try:
        if not is_by_rule:
            return archiving.run()
        put_on_record_or_log(results.store, read_retention(results.conf))
        with recorded(results.store, JOB) as job:
            try:
                return archiving.run()
            finally:
                job.done, job.note = archiving.progress.archived, archiving.progress.sentence()
    except SystemExit:
        done = archiving.progress
        print(f"Interrupted. {number_of_tasks(done.archived)} archived. Run it again to go on.", file=sys.stderr)
        raise


def _say_preview(found: Preview, where: str, to: str) -> None:
    number = _number(found)
    say(f"{number[0].upper()}{number[1:]} in {visible(where)} to archive in {visible(to)}.")
    if not found.is_all:
        say("There may be more: the count ended early. All that are found are archived.")
    if found.examples:
        print_tasks(found.examples, console())


def _number(found: Preview) -> str:
    return f"{'' if found.is_all else 'at least '}{number_of_tasks(found.count)}"


def _say_done(done: Progress, where: str) -> None:
    files = _files(done.files)
    say(f"{number_of_tasks(done.archived)} archived in {visible(where)}: {files}, {size_text(done.bytes)}.")
    if done.dropped:
        say(
            f"{number_of_tasks(done.dropped)} deleted that did not succeed: the archive has a SUCCESS of the same task."
        )
    for count, why in (
        (done.held, "held"),
        (done.waiting, "in chords that have not ended"),
        (done.changed, "stored again, deleted or locked meanwhile"),
        (done.waiting_for_older, "kept for longer than the archived SUCCESS of the same task"),
        (done.damaged, "with a stored field that cannot be read"),
        (done.unread, "whose blob or older archived copy cannot be read"),
    ):
        if count:
            say_beside(f"{number_of_tasks(count)} left in the table: {why}.")
    if done.problem is not None:
        print_error(done.problem)


def _as_object(found: Preview, place: Place, done: Progress) -> dict[str, Any]:
    return {
        "archive": place.where,
        "found": found.count,
        "found_all": found.is_all,
        "examples": [json_object(record) for record in found.examples],
        **{name: getattr(done, name) for name in ("archived", "dropped", "files", "bytes")},
        "left": {
            name: getattr(done, name)
            for name in ("held", "waiting", "changed", "waiting_for_older", "damaged", "unread")
        },
    }


def _say_verified(found: Verified, where: str, full: bool) -> None:
    for problem in found.problems:
        print(f"rootcellar: {visible(problem.path)}: {visible(problem.text)}", file=sys.stderr)
    count = len(found.problems)
    good = "no problem" if not count else "1 problem" if count == 1 else f"{count:,} problems"
    files = _files(found.files)
    how = "every row was read" if full else "sizes, digests and numbers of rows were compared"
    say(f"{files} in {visible(where)} with {found.rows:,} results, {size_text(found.bytes)}: {good}; {how}.")
    if found.elsewhere:
        say_beside(f"Not verified: {_files(found.elsewhere)}, written to another place.")
    if found.uncommitted:
        say_beside(f"Not committed: {_files(found.uncommitted)}. A run goes on, or was killed in the last 24 hours.")


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _verified_as_object(found: Verified, place: Place) -> dict[str, Any]:
    return {
        "archive": place.where,
        **{name: getattr(found, name) for name in ("files", "rows", "bytes", "elsewhere", "uncommitted")},
        "problems": [{"path": problem.path, "problem": problem.text} for problem in found.problems],
    }
