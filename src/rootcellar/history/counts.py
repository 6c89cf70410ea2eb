"""How many tasks a filter finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from rootcellar.history.filters import Clock, Filter
from rootcellar.history.lists import Tasks
from rootcellar.history.selections import Selection, counted_cells, selection_of, total, unfinished_cells
from rootcellar.payloads import Codec
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted
from rootcellar.stores.search import Searchable

#: the most records that are counted one by one
CAP = 10_000
#: seconds for that
BUDGET = 1.0
_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of tasks.

    Attributes:
        value: how many there are.
        is_exact: whether this is the number, and not only a part of it.
        at_least: whether there may be more: the limit or the time was over, or older tasks are not counted yet.
        as_of: the moment at which the numbers were right.
        behind_by: how old the newest counted results are, if the newest ones are missing; otherwise 0.
    """

    value: int
    is_exact: bool
    at_least: bool
    as_of: datetime
    behind_by: timedelta = timedelta(0)

    def __str__(self) -> str:
        return f"{'at least ' if self.at_least else ''}{self.value:,}"


def count(store: Store, codec: Codec, query: Filter, clock: Clock, cap: int = CAP) -> Count:
    """Count the tasks that a filter finds.

    A filter that names only tasks, queues, states and times is answered by the counts beside the rows. Any other is
    answered by a search, which stops after ``cap`` tasks or a second.

    Args:
        store: the store.
        codec: opens values.
        query: the filter.
        clock: the present and the zone of the reader.
        cap: the most tasks that a search counts, and the most unfinished tasks.

    Raises:
        AbilityMissing: the store has neither counts nor an index, and too many records.
    """
    counted = store.ability(Counted)
    selection = None if counted is None else selection_of(query, clock)
    if counted is None or selection is None:
        return _searched(store, codec, query, clock, cap)
    found = _counted(counted, selection, cap)
    searchable = store.ability(Searchable)
    if searchable is not None and searchable.has_adopted():
        # the table that Celery created is not counted
        return Count(value=found.value, is_exact=False, at_least=True, as_of=found.as_of, behind_by=found.behind_by)
    return found


def _counted(counted: Counted, selection: Selection, cap: int) -> Count:
    answer = counted_cells(counted, selection)
    value, is_exact = total(answer.cells).count, answer.is_exact
    if not selection.is_finished:
        running = unfinished_cells(counted, selection, cap)
        value += total(running.cells).count
        is_exact = is_exact and running.is_exact
    return Count(value=value, is_exact=is_exact, at_least=not is_exact, as_of=answer.as_of, behind_by=answer.behind_by)


def _searched(store: Store, codec: Codec, query: Filter, clock: Clock, cap: int) -> Count:
    """Count the records of a list, page by page."""
    deadline = datetime.now(timezone.utc) + timedelta(seconds=BUDGET)
    value, cursor = 0, None
    while True:
        page = Tasks(
            store, codec, query, clock, size=min(_PAGE, cap), after=cursor, budget=BUDGET, with_values=False
        ).page()
        value, cursor = value + len(page.records), page.cursor
        is_whole = cursor is None and page.searched_back_to is None and not page.unread
        is_over = cursor is None or value >= cap or datetime.now(timezone.utc) > deadline
        if is_over or page.searched_back_to is not None:
            value = min(value, cap)
            return Count(value=value, is_exact=is_whole, at_least=not is_whole, as_of=clock.now)
