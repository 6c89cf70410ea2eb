"""``rootcellar hold``: keeps results from being deleted."""

from __future__ import annotations

import getpass
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from rootcellar.cli.archive_place import number_of_archived
from rootcellar.cli.options import Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import WrongUse, console, number_of_tasks, print_json, say, say_beside, visible
from rootcellar.cli.stores import existing_history
from rootcellar.cli.table import print_tasks
from rootcellar.cli.times import full_moment
from rootcellar.cli.values import json_object
from rootcellar.errors import AbilityMissing, PermissionDenied, RootcellarError
from rootcellar.history.forgetting import Forgetting, Preview
from rootcellar.history.holds import Holds, must_hold, place_hold
from rootcellar.stores.holding import Hold

app = typer.Typer(
    help="Keep results from being deleted: place, list and release holds.",
    epilog="\b\nExample:\n  rootcellar hold add 'task:shop.*' --reason 'lawsuit 17' -A shop.celery\n",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_ADD_EXAMPLES = """\b
Examples:
  rootcellar hold add task:shop.pay since:30d --reason 'audit' -A shop.celery
  rootcellar hold add 'id:0b5c5f9e*' --reason 'bug 42' --by ann -A shop.celery
"""
_LIST_EXAMPLES = """\b
Examples:
  rootcellar hold list -A shop.celery
  rootcellar hold list --all --json -b postgresql://user:password@host/db
"""
_RELEASE_EXAMPLE = """\b
Example:
  rootcellar hold release 3 -A shop.celery
"""

ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who does it; by default the user of this system")
]


@app.command(epilog=_ADD_EXAMPLES)
@store_options
def add(
    choice: Choice,
    words: FilterArgument = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record; needed")] = "",
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what a filter finds from being deleted.

    The hold counts until it is released. It also covers results that are stored later. It stops the cleanup, `forget`,
    dropping and the removal from an archive; it does not stop a newer state of the same task. Relative times, such as
    since:30d, count from now. A filter is needed; state:any means every task. It deletes nothing, so it does not ask.
    Archived results that the filter finds are held, too; the number that is shown is without them.
    """
    if not reason.strip():
        raise WrongUse("no reason is given: say why with --reason, for those who read the record later")
    with existing_history(choice) as history:
        must_hold(history.store)
        try:
            hold = place_hold(history.store, filter_text(words), history.clock, reason=reason.strip(), by=_name(by))
        except PermissionDenied as exc:
            raise _refused(exc) from exc
        except AbilityMissing as exc:  # the filter is one that no hold can have
            raise WrongUse(str(exc)) from exc
        # after it was placed: what is shown is held
        covered = Forgetting(history, hold.filter).preview()
        archived = number_of_archived(history.store)
        where = history.store.where
    if as_json:
        examples = [json_object(record) for record in covered.examples]
        found = {"found": covered.count, "found_all": covered.is_all, "unread": covered.unread, "examples": examples}
        found["archived"] = archived
        print_json({**_as_object(hold), "sentence": covered.sentence, **found})
        return
    say(f"Hold {hold.id} is placed in {where}: {covered.sentence.partition(';')[0]}.")
    say(f"It holds {_number(covered)} now, and what is stored later.")
    if archived:
        say(f"Archived results that the filter finds are held, too. They are not counted: {archived:,} are archived.")
    elif archived is None:
        say("Archived results that the filter finds are held, too.")
    if covered.unread:
        say_beside(
            f"{number_of_tasks(covered.unread)} more count as held, because a value that the filter asks for cannot be "
            "read here."
        )
    if covered.examples:
        print_tasks(covered.examples, console())


@app.command("list", epilog=_LIST_EXAMPLES)
@store_options
def list_holds(
    choice: Choice,
    with_released: Annotated[bool, typer.Option("--all", help="Also those that were released")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the holds.

    Prints what each holds, why, and who placed and released it, and when.
    """
    with existing_history(choice) as history:
        found = must_hold(history.store).holds(with_released)
        problems = Holds(history.store, history.codec).problems()
        where = history.store.where
    if as_json:
        print_json([{**_as_object(hold), "problem": problems.get(hold.id)} for hold in found])
        return
    if not found:
        say(f"There is no {'' if with_released else 'active '}hold in {where}.")
    for hold in found:
        _print(hold, problems.get(hold.id))


@app.command(epilog=_RELEASE_EXAMPLE)
@store_options
def release(
    choice: Choice,
    number: Annotated[int, typer.Argument(metavar="ID", help="The number of the hold", min=1)],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a hold.

    What it held may be deleted again, unless another hold holds it. The hold stays on record, with who placed and
    released it. Exit status 1 if there is no active hold of this number.
    """
    with existing_history(choice) as history:
        holding = must_hold(history.store)
        try:
            hold = holding.release_hold(number, _name(by), datetime.now(timezone.utc))
        except PermissionDenied as exc:
            raise _refused(exc) from exc
        if hold is None:
            raise _not_active(number, holding.holds(with_released=True), history.store.where)
    if as_json:
        print_json(_as_object(hold))
        return
    say(f"Hold {hold.id} is released. What it held is deleted when it expires, unless another hold holds it.")


def _refused(exc: PermissionDenied) -> PermissionDenied:
    """Return the error for a user who may not place or release holds."""
    return PermissionDenied(
        exc.what,
        where=exc.where,
        remedy="only the user who created the tables, or one with the rights of `rootcellar schema grants USER --for "
        "maintainer`, may place and release holds",
    )


def _name(by: str | None) -> str:
    """Return the name that goes on record."""
    if by is not None and by.strip():
        return by.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise WrongUse("this system does not say who you are: give --by NAME") from None


def _not_active(number: int, holds: Any, where: str) -> RootcellarError:
    known = next((hold for hold in holds if hold.id == number), None)
    if known is None:
        what = f"there is no hold {number}"
    else:
        what = f"hold {number} was released by {known.released_by} at {full_moment(known.released_at)}"
    return RootcellarError(what, where=where, remedy="`rootcellar hold list --all` shows every hold")


def _number(covered: Preview) -> str:
    if not covered.count:
        return "no task"
    return f"{'' if covered.is_all else 'at least '}{number_of_tasks(covered.count)}"


def _print(hold: Hold, problem: str | None) -> None:
    say(f"Hold {hold.id}: {visible(hold.filter)}")
    say(f"  {visible(hold.reason)}")
    say(f"  placed by {visible(hold.placed_by)}, {full_moment(hold.placed_at)}")
    if hold.released_by is not None:
        say(f"  released by {visible(hold.released_by)}, {full_moment(hold.released_at)}")
    if problem:
        say(f"  It holds everything, because its filter cannot be understood any more: {visible(problem)}")


def _as_object(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "filter": hold.filter,
        "reason": hold.reason,
        "placed_by": hold.placed_by,
        "placed_at": hold.placed_at.isoformat(),
        "released_by": hold.released_by,
        "released_at": None if hold.released_at is None else hold.released_at.isoformat(),
    }
