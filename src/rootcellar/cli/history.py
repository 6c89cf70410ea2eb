"""``rootcellar history``: lists tasks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from rootcellar.cli.damage import print_damage
from rootcellar.cli.filters import ShortForms, narrowed
from rootcellar.cli.options import ArchivedOption, Choice, FilterArgument, JsonOption, store_options
from rootcellar.cli.output import console, left_out, number_of_tasks, print_json, say, say_beside, visible
from rootcellar.cli.stores import check_archive, existing_history
from rootcellar.cli.table import print_tasks
from rootcellar.cli.times import full_moment
from rootcellar.cli.values import json_object
from rootcellar.history.filters import Clock, Filter
from rootcellar.history.history import History
from rootcellar.history.lists import MAX_SIZE
from rootcellar.records import TaskRecord
from rootcellar.stores.search import Searchable

EXAMPLES = """\b
Examples:
  rootcellar history --backend postgresql://user:password@host/database
  rootcellar history state:failed since:24h -A shop.celery
  rootcellar history 'task:shop.* runtime:>30s -queue:low' -A shop.celery
  rootcellar history -A shop.celery --state FAILURE --since 2h
  rootcellar history -b sqlite:///results.sqlite3 --task 'shop.*' --json
  rootcellar history 'task:shop.* done:2025-11' --archive -A shop.celery
"""
#: seconds to search, if there are indexes and none of them helps
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class _Listed:
    """What was found: the tasks, where the list goes on, and what is said about it."""

    records: list[TaskRecord]
    cursor: str | None
    searched_back_to: datetime | None
    sentence: str
    notes: tuple[str, ...]
    unread: int
    problems: tuple[str, ...]


@store_options
def history(
    choice: Choice,
    words: FilterArgument = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The most tasks to list")] = 20,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="TEXT", help="Show the page after this text, which the last page printed"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            min=0.01,
            metavar="SECONDS",
            help="How long to search if no index helps [3; without any, and in an archive, 10]",
        ),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Short for state:STATE; may be repeated")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Short for task:NAME, * for any text; may be repeated"),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME", help="Short for queue:NAME, * for any text; may be repeated"),
    ] = None,
    worker: Annotated[
        list[str] | None,
        typer.Option("--worker", metavar="NAME", help="Short for worker:NAME, * for any text; may be repeated"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Short for since:WHEN: 30m, 2h, 3d ago, or a date")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Short for until:WHEN, written as for --since")
    ] = None,
    archive: ArchivedOption = False,
    as_json: JsonOption = False,
) -> None:
    """List tasks, the most recent first.

    FILTER is explained in docs/filters.md. Without it, every task is listed. Unfinished tasks come before all finished
    ones, unless the filter has a sort: of its own. WAIT is the time from sent to started, RUN from started to done. On
    a terminal, ids are shortened; `show` takes the beginning of an id.

    The filter in English, how far back it was searched, and the option for the next page are printed on standard error.
    """
    forms = ShortForms(
        state=state or (), task=task or (), queue=queue or (), worker=worker or (), since=since, until=until
    )
    query = narrowed(words, forms, Clock.local())
    with existing_history(choice) as opened:
        if archive:
            check_archive(opened)
        found = _list(opened, query, limit, after, budget, archive=archive)
        where = opened.archive.where if archive and opened.archive is not None else opened.store.where
    print_damage(found.records)
    if as_json:
        print_json([json_object(record) for record in found.records])
    elif found.records:
        print_tasks(found.records, console())
    elif found.cursor is None:
        say(_nothing(query != Filter() or after is not None, where))
    if not as_json and query != Filter():
        say_beside(f"{found.sentence[:1].upper()}{found.sentence[1:]}.")
    _print_end(found, limit)
    left_out(found.problems)


def _list(
    history: History, query: Filter, limit: int, after: str | None, budget: float | None, *, archive: bool
) -> _Listed:
    """Return up to ``limit`` tasks, from several pages if they do not fit into one."""
    if budget is None and not archive and history.store.ability(Searchable) is not None:
        budget = _PATIENCE
    records: list[TaskRecord] = []
    unread = 0
    problems: dict[str, None] = {}
    while True:
        size = min(limit - len(records), MAX_SIZE)
        page = history.tasks(query, size=size, after=after, budget=budget, archive=archive).page()
        records += page.records
        unread += page.unread
        problems |= dict.fromkeys(map(str, page.problems))
        after = page.cursor
        if after is None or page.searched_back_to is not None or len(records) >= limit:
            return _Listed(records, after, page.searched_back_to, page.sentence, page.notes, unread, tuple(problems))


def _print_end(found: _Listed, limit: int) -> None:
    """Print on standard error whether the list is complete, and how to see more."""
    if found.unread:
        say_beside(
            f"{number_of_tasks(found.unread)} left out: the filter asks for a value that cannot be read here. It is "
            "encrypted and its key is missing, it is damaged or in a blob, or it is not JSON."
        )
    if found.searched_back_to is not None:
        back = full_moment(found.searched_back_to)
        say_beside(
            f"Searched back to {back}, then the time was over. --budget gives more time, and this continues the search:"
        )
    elif found.cursor is not None:
        say_beside(f"There are more. --limit {limit * 5} shows up to {limit * 5}, and this shows the next page:")
    if found.cursor is not None:
        # a line of its own: a terminal must not break it between words
        print(f"  --after {found.cursor}", file=sys.stderr)
    for note in () if found.records else found.notes:
        print(f"rootcellar: {visible(note)}", file=sys.stderr)


def _nothing(is_narrowed: bool, where: str) -> str:
    if is_narrowed:
        return f"No task matches in {where}. Leave out a part of the filter to see more."
    return f"No results yet in {where}. They appear here as soon as a worker has run a task."
