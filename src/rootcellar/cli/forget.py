"""``rootcellar forget``: deletes the results of tasks."""

from __future__ import annotations

import sys
from typing import Any

from rootcellar.cli.archive_place import number_of_archived
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
from rootcellar.cli.output import WrongUse, console, number_of_tasks, print_json, say, say_beside
from rootcellar.cli.progress import Progress
from rootcellar.cli.stores import existing_history
from rootcellar.cli.table import print_tasks
from rootcellar.cli.values import json_object
from rootcellar.history.filters import FilterWrong, parse
from rootcellar.history.forgetting import Forgetting, Preview
from rootcellar.stores.counting import Counted

EXAMPLES = """\b
Examples:
  rootcellar forget --dry-run task:shop.import until:30d -A shop.celery
  rootcellar forget --yes state:succeeded 'task:tests.*' -A shop.celery
"""


@store_options
def forget(
    choice: Choice,
    words: FilterArgument = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the stored results of tasks, and their blobs.

    First it shows how many tasks the filter finds and five of them, and asks. Tasks that end after that are not
    deleted. A task that runs now is not stopped, and is stored again when it ends. `stats` and `timeline` still count
    deleted tasks. You can interrupt it at any time; run it again, and it deletes the rest. It needs a filter; state:any
    means every task. Tasks that are held stay (`rootcellar hold list`), and it says how many. Archived results stay in
    the archive: AsyncResult(id).forget() also forgets an archived one.

    Exit status 0 if it was done, or there was nothing to delete, 1 after an error or if the answer was no, 2 if there
    is neither --yes nor a terminal.
    """
    text = filter_text(words)
    if not text.strip():
        raise WrongUse(
            "no filter is given: say which tasks, such as state:failed until:30d; state:any means every task"
        )
    query = parse(text)
    if query.sort:
        raise FilterWrong("tasks are not deleted in an order", text, text.rindex("sort:"), "leave out sort:")
    with existing_history(choice) as opened:
        forgetting = Forgetting(opened, query)
        preview = forgetting.preview()
        keeps_counts = opened.store.ability(Counted) is not None
        archived = number_of_archived(opened.store)
        if not as_json:
            _say_preview(preview, opened.store.where)
            if archived:
                say_beside(
                    f"{archived:,} results are archived. This does not look for them: AsyncResult(id).forget() also "
                    "forgets an archived one."
                )
        if dry_run:
            if as_json:
                print_json({**_as_object(forgetting, preview), "archived": archived, "dry_run": True, "forgotten": 0})
            return
        if preview.count:
            confirm(yes, f"Delete {_number(preview)} in {opened.store.where}?")
        _run(forgetting)
    if as_json:
        done = {"archived": archived, "dry_run": False, "forgotten": forgetting.forgotten, "held": forgetting.held}
        print_json({**_as_object(forgetting, preview), **done})
        return
    counts = " The statistics keep counting them." if keeps_counts and forgetting.forgotten else ""
    say(f"{number_of_tasks(forgetting.forgotten)} forgotten.{_left(forgetting.held)}{counts}")


def _run(forgetting: Forgetting) -> None:
    progress = Progress("tasks forgotten")
    try:
        forgetting.run(progress.add)
    except SystemExit:
        print(
            f"Interrupted. {number_of_tasks(forgetting.forgotten)} forgotten. Run it again to go on.", file=sys.stderr
        )
        raise


def _left(held: int) -> str:
    return f" {number_of_tasks(held)} {_stay(held)}: see `rootcellar hold list`." if held else ""


def _stay(held: int) -> str:
    return "is held, and stays" if held == 1 else "are held, and stay"


def _say_preview(preview: Preview, where: str) -> None:
    """Print what would be deleted: the number, the filter in English, and examples."""
    number = _number(preview)
    say(f"{number[0].upper()}{number[1:]} in {where}: {preview.sentence.partition(';')[0]}.")
    if preview.unread:
        say_beside(
            f"{number_of_tasks(preview.unread)} left out: the filter asks for a value of them that cannot be read here."
        )
    if preview.held:
        say_beside(f"{preview.held:,} of them {_stay(preview.held)}: see `rootcellar hold list`.")
    if preview.examples:
        print_tasks(preview.examples, console())


def _number(preview: Preview) -> str:
    return f"{'' if preview.is_all else 'at least '}{number_of_tasks(preview.count)}"


def _as_object(forgetting: Forgetting, preview: Preview) -> dict[str, Any]:
    return {
        "filter": str(forgetting.query),
        "sentence": preview.sentence,
        "found": preview.count,
        "found_all": preview.is_all,
        "unread": preview.unread,
        "held": preview.held,
        "examples": [json_object(record) for record in preview.examples],
    }
