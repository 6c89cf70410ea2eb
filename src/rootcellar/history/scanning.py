"""Lists the tasks of a store without an index: reads all of its records, as far as there is time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from rootcellar.errors import AbilityMissing
from rootcellar.history.filters import Filter
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.search import Found, Position, Segment, Sort

#: the most records that are read for one page: more would take too long, also for other clients of the server
MAX_RECORDS = 100_000
_BATCH = 1_000
_MICROSECOND = timedelta(microseconds=1)


def scan(
    store: Store,
    matches: Callable[[TaskRecord], bool],
    query: Filter,
    after: Position | None,
    limit: int,
    budget: float,
) -> list[Found]:
    """Return the next matching records of a list.

    Args:
        store: the store.
        matches: says whether a record is wanted.
        query: the filter, for its order.
        after: only records after this place.
        limit: the most records.
        budget: seconds.

    Raises:
        AbilityMissing: the store has more records than can be read in this time.
    """
    sort = Sort(by=query.sort, is_descending=query.is_descending) if query.sort else None
    is_descending = sort is None or sort.is_descending
    best: list[Found] = []
    for batch in _batches(store, budget):
        places = (Found(record, place) for record in batch if (place := place_of(record, sort)) is not None)
        wanted = [
            found
            for found in places
            if (after is None or order(found.position, is_descending) > order(after, is_descending))
            and matches(found.record)
        ]
        best = heapq.nsmallest(limit, [*best, *wanted], key=lambda found: order(found.position, is_descending))
    return best


def _batches(store: Store, budget: float) -> Iterator[list[TaskRecord]]:
    deadline = time.monotonic() + budget
    after: str | None = None
    count = 0
    while True:
        batch = list(store.scan(after, _BATCH))
        yield batch
        count += len(batch)
        if len(batch) < _BATCH:
            return
        after = batch[-1].task_id
        if count >= MAX_RECORDS or time.monotonic() > deadline:
            raise AbilityMissing(
                f"this store has no index, and {count:,} results were read without coming to the end",
                where=store.where,
                remedy="give more time (budget), or keep results that you want to ask about in PostgreSQL, MySQL, "
                f"SQLite or the hybrid of Redis and PostgreSQL; more than {MAX_RECORDS:,} results are never read",
            )


def order(place: Position, is_descending: bool = True) -> tuple[int, int, tuple[int, ...]]:
    """Return a key by which places sort in the order of the list."""
    sign = -1 if is_descending else 1
    letters = tuple(sign * ord(letter) for letter in place.task_id)
    # a shorter id is smaller than a longer one that begins with it
    return place.segment, sign * place.moment, (*letters, sign * -1)


def place_of(record: TaskRecord, sort: Sort | None) -> Position | None:
    """Return the place of a record in a list; ``None`` if it has no value to sort by."""
    if sort is not None:
        # only tasks that have ended are sorted
        value = _value(record, sort.by)
        return None if value is None else Position(Segment.FINISHED, value, record.task_id)
    if record.done_at is not None:
        return Position(Segment.FINISHED, _microseconds(record.done_at), record.task_id)
    moment = record.started_at or record.sent_at
    if moment is None:
        return Position(Segment.TIMELESS, 0, record.task_id)
    return Position(Segment.UNFINISHED, _microseconds(moment), record.task_id)


def _value(record: TaskRecord, by: str) -> int | None:
    if record.done_at is None:
        return None
    if by == "retries":
        return record.retries
    if by == "done":
        return _microseconds(record.done_at)
    start, end = (record.started_at, record.done_at) if by == "runtime" else (record.sent_at, record.started_at)
    return None if start is None or end in (None, NO_DATE) else (end - start) // _MICROSECOND


def _microseconds(moment: datetime) -> int:
    return (moment - NO_DATE) // _MICROSECOND
