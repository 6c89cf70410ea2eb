"""``rootcellar archive list``, ``expire`` and ``compact``: the files of an archive."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.table import Table

from rootcellar.archive.compacting import Compacted
from rootcellar.archive.compacting import compact as compact_files
from rootcellar.archive.expiring import Expired, delete_remains
from rootcellar.archive.expiring import expire as expire_files
from rootcellar.archive.reading import Archive
from rootcellar.archive.remains import as_object
from rootcellar.archive.writing import manifest_of
from rootcellar.cli.archive_place import AtOption, named_place
from rootcellar.cli.confirmation import confirm
from rootcellar.cli.numbers import size_text
from rootcellar.cli.options import Choice, DryRunOption, JsonOption, YesOption, store_options
from rootcellar.cli.output import console, print_error, print_json, say, say_beside, visible
from rootcellar.cli.stores import existing_results
from rootcellar.history.holds import Holds
from rootcellar.opening import Results
from rootcellar.stores.archiving import ArchiveFile
from rootcellar.stores.holding import Holding

LIST_EXAMPLES = """\b
Examples:
  rootcellar archive list -A shop.celery
  rootcellar archive list --json -b postgresql://user:password@host/db
"""
EXPIRE_EXAMPLES = """\b
Examples:
  rootcellar archive expire --dry-run -A shop.celery
  rootcellar archive expire --yes --at s3://bucket/results
"""
COMPACT_EXAMPLES = """\b
Examples:
  rootcellar archive compact --dry-run -A shop.celery
  rootcellar archive compact --yes --at /srv/archive
"""


@store_options
def list_files(choice: Choice, as_json: JsonOption = False) -> None:
    """List the files of the archive, by day.

    RESULTS are those that count: not those that were restored, forgotten or archived again. A file is deleted when the
    last of its results has expired, unless a hold covers one of them. STATE is written, or verified after `archive
    verify` has read the file again. Days are in UTC. --json also prints where each file is, its SHA-256 and its times.
    """
    with existing_results(choice) as results:
        files = manifest_of(results.store).files()
        where = results.store.where
    if as_json:
        print_json([{**as_object(file), "results": file.valid} for file in files])
    elif files:
        console().print(_table(files))
        size = size_text(sum(file.bytes for file in files))
        say(f"{_files(len(files))}, {sum(file.valid for file in files):,} results, {size}.")
    else:
        say(f"Nothing of {visible(where)} is archived yet. `rootcellar archive run` archives results.")


@store_options
def expire(
    choice: Choice,
    at: AtOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the files whose results have all expired.

    A file in which a hold covers a result stays. How long the archive keeps a result is the archive_for of its rule in
    result_retention; without one, it is kept for ever. This also deletes what is left of files that compact replaced.
    """
    now = datetime.now(timezone.utc)
    with existing_results(choice) as results:
        archive = Archive(manifest_of(results.store), named_place(at, results.conf, "--at"))
        found = _expire(results, archive, now, is_dry=True)
        if not dry_run:
            if found.files:
                confirm(yes, f"Delete {_files(found.files)} with {found.rows:,} results from {archive.place.where}?")
            found = _expire(results, archive, now, is_dry=False)
            delete_remains(archive.manifest, archive.place, now)
        where = archive.place.where
    if as_json:
        print_json(
            {
                "archive": where,
                "dry_run": dry_run,
                **{name: getattr(found, name) for name in ("files", "rows", "bytes", "held", "unread", "elsewhere")},
            }
        )
        return
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{_files(found.files)} {verb} from {visible(where)}: {found.rows:,} results, {size_text(found.bytes)}.")
    _say_kept(found)


@store_options
def compact(
    choice: Choice,
    at: AtOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join small files of one day into one file.

    A day is joined if it has more than four files of less than 16 MB. Files that expire at different times are not
    joined. The small files stay at their place for an hour, because clients may be reading them; the next expire or
    compact deletes them.
    """
    now = datetime.now(timezone.utc)
    with existing_results(choice) as results:
        archive = Archive(manifest_of(results.store), named_place(at, results.conf, "--at"))
        found = compact_files(archive, results.store, is_dry=True)
        if not dry_run:
            delete_remains(archive.manifest, archive.place, now)
            if found.files:
                confirm(yes, f"Join {_files(found.files)} of {archive.place.where} into {found.into:,}?")
                found = compact_files(archive, results.store)
        where = archive.place.where
    if as_json:
        print_json({"archive": where, "dry_run": dry_run, **_as_object(found)})
    elif not found.files:
        say(f"No day in {visible(where)} has more than four small files.")
    else:
        verb = "would be joined" if dry_run else "joined"
        into = "" if dry_run else f", {size_text(found.before)} before and {size_text(found.after)} now"
        say(f"{_files(found.files)} {verb} into {found.into:,}: {found.rows:,} results{into}.")


def _expire(results: Results, archive: Archive, now: datetime, *, is_dry: bool) -> Expired:
    holds = Holds(results.store, results.codec)
    return expire_files(archive, holds, results.store.ability(Holding), now, is_dry=is_dry)


def _say_kept(found: Expired) -> None:
    for count, why in (
        (found.held, "a hold covers a result in them"),
        (found.elsewhere, "they are at another place: name it with --at"),
        (found.unread, "they cannot be read, so it is not known whether a hold covers a result in them"),
    ):
        if count:
            say_beside(f"{_files(count)} not deleted: {why}.")
    if found.problem is not None:
        print_error(found.problem)


def _as_object(found: Compacted) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("files", "into", "rows", "before", "after")}


def _table(files: list[ArchiveFile] | Any) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("DAY", "RESULTS", "SIZE", "KEPT UNTIL", "STATE", "FILE"):
        table.add_column(heading, justify="right" if heading in ("RESULTS", "SIZE") else "left", overflow="fold")
    for file in files:
        until = "for ever" if file.expires_at is None else file.expires_at.date().isoformat()
        row = (file.day.isoformat(), f"{file.valid:,}", size_text(file.bytes), until, file.state)
        table.add_row(*row, visible(file.path.rpartition("/")[2]))
    return table


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
