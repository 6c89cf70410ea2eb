"""Reads every task that a filter finds, in pages that shrink while the records are large."""

from __future__ import annotations

from collections.abc import Iterator

from rootcellar.history.filters import Filter
from rootcellar.history.history import History
from rootcellar.history.lists import Page
from rootcellar.records import TaskRecord
from rootcellar.stores.search import Searchable

#: the most records of the first page, and of any page
_FIRST, _MOST = 100, 200
#: the same for a store that has no index, and reads every record for each page
_FIRST_SCANNED, _MOST_SCANNED = 1_000, 10_000
#: seconds for a page where no index helps, and in a store without one
_BUDGET, _BUDGET_SCANNED = 5.0, 60.0
#: a page should not contain more than this many bytes
_BYTES = 8_000_000


def pages(
    history: History, query: str | Filter = "", *, first: int | None = None, archive: bool = False
) -> Iterator[Page]:
    """Yield the pages of a list up to its end. The moments of the filter count from the first page on.

    A page may have no record: then its ``searched_back_to`` says how far the search is.

    Args:
        history: the stored results.
        query: which tasks.
        first: the most records of the first page; ``None`` for the default.
        archive: whether the archived tasks are listed, instead of those in the store.
    """
    if archive:
        yield from history.tasks(query, size=first or _FIRST, budget=_BUDGET, archive=True).pages()
        return
    has_index = history.store.ability(Searchable) is not None
    size, after = first or (_FIRST if has_index else _FIRST_SCANNED), None
    budget = _BUDGET if has_index else _BUDGET_SCANNED
    query = history.parsed(query)
    while True:
        page = history.tasks(query, size=size, after=after, budget=budget).page()
        yield page
        after = page.cursor
        if after is None:
            return
        size = _next_size(size, page, _MOST if has_index else _MOST_SCANNED)


def stream(history: History, query: str | Filter = "") -> Iterator[TaskRecord]:
    """Yield every task that a filter finds, with its values, in constant memory."""
    for page in pages(history, query):
        yield from page.records


def _next_size(size: int, page: Page, most: int) -> int:
    read = sum(map(_bytes_of, page.records))
    if read > _BYTES:
        return max(1, size * _BYTES // read)
    return min(most, size * 2) if read * 2 < _BYTES else size


def _bytes_of(record: TaskRecord) -> int:
    payloads = (record.result, record.args, record.kwargs, record.children, record.stamps)
    return sum(len(payload.body) for payload in payloads if payload is not None) + len(record.traceback or "")
