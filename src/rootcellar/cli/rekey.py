"""``rootcellar rekey``: encrypts or signs all results with the newest key."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import print_json, say, visible
from rootcellar.cli.stores import existing_results
from rootcellar.payloads.rekey import Rekeyer, RekeyProgress

EXAMPLES = """\b
Examples:
  rootcellar rekey --dry-run
  rootcellar rekey -A shop.celery
  rootcellar rekey --unprotected -A shop.celery
"""
#: the time between two lines of progress
_PROGRESS_INTERVAL_SECONDS = 1.0


@store_options
def rekey(
    choice: Choice,
    unsealed: Annotated[
        bool,
        typer.Option(
            "--unprotected", "--unsealed", help="Include results that are neither encrypted nor signed so far"
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and change nothing")] = False,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TASK_ID", help="Begin after this id, in the order of the ids")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Records to read at a time")] = 500,
    as_json: JsonOption = False,
) -> None:
    """Encrypt (or sign) every stored result again, with the first key.

    First give the new key to all workers and clients, before the old keys; then run this; then remove the old keys.
    Workers may run meanwhile: their new results are never overwritten. You can interrupt it at any time and start it
    again: it skips what is done. Results without encryption or signature stay as they are, unless --unprotected is
    given. Exit status 1 if something could not be opened, or if results were left that cannot be read with the keys.
    """
    with existing_results(choice) as results:
        rekeyer = Rekeyer(results.store, results.codec, unsealed=unsealed, dry_run=dry_run, batch=batch)
        progress = _Progress(dry_run)
        is_refused = not results.codec.sealer.accepts_unsealed
        try:
            done = rekeyer.run(after, progress.tell)
        except SystemExit:
            progress.print(rekeyer.done, "Interrupted. ")
            last = rekeyer.done.last_id
            where = f", or with --after {visible(last)} to read nothing twice" if last else ""
            print(f"Start it again{where}.", file=sys.stderr)
            raise
    if as_json:
        print_json(_as_object(done, dry_run))
    else:
        _say(done, dry_run, is_refused)
    if done.left or (done.unprotected and is_refused):
        raise typer.Exit(1)


class _Progress:
    """Prints the progress on standard error from time to time."""

    def __init__(self, dry_run: bool) -> None:
        self._verb = "to protect again" if dry_run else "protected again"
        self._printed_at = time.monotonic() - _PROGRESS_INTERVAL_SECONDS

    def tell(self, done: RekeyProgress) -> None:
        if time.monotonic() - self._printed_at >= _PROGRESS_INTERVAL_SECONDS:
            self._printed_at = time.monotonic()
            self.print(done)

    def print(self, done: RekeyProgress, begins: str = "") -> None:
        print(f"{begins}{done.records_read:,} records, {done.changed:,} {self._verb}", file=sys.stderr, flush=True)


def _as_object(done: RekeyProgress, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "records": done.records_read,
        "changed": done.changed,
        "unprotected": done.unprotected,
        "left": done.left,
        "keys_missing": dict(done.keys_missing),
        "problems": done.problems,
    }


def _say(done: RekeyProgress, dry_run: bool, is_refused: bool) -> None:
    verb = "would be" if dry_run else "were"
    say(f"Of {done.records_read:,} records {done.changed:,} {verb} encrypted (or signed) again under the first key.")
    if done.unprotected:
        reading = (
            "With these keys they cannot be read" if is_refused else "They can be read as long as that is accepted"
        )
        say(
            f"{done.unprotected:,} are neither encrypted nor signed and {verb} left as they are. {reading}: "
            "`rootcellar rekey --unprotected` includes them."
        )
    if done.left:
        for problem in done.problems:
            print(f"rootcellar: {visible(problem)}", file=sys.stderr)
        keys = ", ".join(f"{key_id} ({count:,})" for key_id, count in done.keys_missing.items())
        missing = f" Keys that are missing: {visible(keys)}." if keys else ""
        say(f"{done.left:,} could not be opened and were left as they are.{missing}")
