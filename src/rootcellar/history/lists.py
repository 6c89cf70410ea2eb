"""Lists of tasks: page by page, by place and not by number, so that a later page costs what the first one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from rootcellar.errors import PayloadError
from rootcellar.history.cursors import Cursor, from_text, to_text
from rootcellar.history.filters import Clock, Filter, Matcher, sentence
from rootcellar.history.scanning import scan
from rootcellar.payloads import SEALED_FIELDS, Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.search import Sort

#: seconds for one page of a store with indexes, and of another one
BUDGET, SCAN_BUDGET = 0.3, 10.0
#: the most records of a page
MAX_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list.

    Attributes:
        records: the tasks, with values that are decrypted and verified if there is a key.
        cursor: the text with which the list goes on; ``None`` at its end.
        searched_back_to: until when records were looked at, if the time was over before the page was full; ``None`` if
            it is full or the list has ended. In UTC.
        sentence: what was asked, in English, with the moments that it means.
        unread: how many records were left out because a value that the filter asks for cannot be read: it is
            encrypted and there is no key, it is damaged or in a blob, or it is no JSON.
    """

    records: Sequence[TaskRecord]
    cursor: str | None
    searched_back_to: datetime | None
    sentence: str
    unread: int = 0


class Tasks:
    """The tasks that a filter finds. Nothing is read before a page is asked for, or the first task.

    Iterating yields every task, page by page. Relative moments of the filter count from the first page on.

    Args:
        store: the store.
        codec: opens values.
        query: the filter.
        clock: the present and the zone of the reader.
        size: the most records of a page.
        after: the cursor of an earlier page; ``None`` from the beginning.
        budget: seconds for a page; ``None`` for the default of the store.
        with_values: whether results, tracebacks, children and stamps are read; without them a page takes less time.

    Raises:
        ValueError: ``size`` is not between 1 and 10,000.
        CursorWrong: ``after`` is damaged, or belongs to another filter.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        query: Filter,
        clock: Clock,
        *,
        size: int = 50,
        after: str | None = None,
        budget: float | None = None,
        with_values: bool = True,
    ) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"size is {size}: give a number between 1 and {MAX_SIZE:,}")
        self._store = store
        self._codec = codec
        self._query = query
        self._size = size
        self._budget = budget
        self._with_values = with_values
        self._zone = str(clock.zone)
        self._after = None if after is None else from_text(after, query, self._zone)
        self._clock = clock if self._after is None else replace(clock, now=self._after.now)

    def __iter__(self) -> Iterator[TaskRecord]:
        cursor = self._after
        while True:
            page, cursor = self._read(cursor)
            yield from page.records
            if cursor is None:
                return

    def page(self) -> Page:
        """Return the page that begins at the place that was given, or the first page.

        Raises:
            AbilityMissing: the store cannot answer this.
            StoreError: the store cannot be read.
        """
        return self._read(self._after)[0]

    def _read(self, after: Cursor | None) -> tuple[Page, Cursor | None]:
        query, clock = self._query, self._clock
        matches = Matcher(query.condition, clock, partial(opened, self._codec))
        sort = Sort(by=query.sort, is_descending=query.is_descending) if query.sort else None
        place = None if after is None else after.position
        budget = SCAN_BUDGET if self._budget is None else self._budget
        found = scan(self._store, matches, sort, place, self._size + 1, budget)
        is_full = len(found) > self._size
        found = found[: self._size]
        going_on = Cursor(found[-1].position, clock.now) if is_full else None
        page = Page(
            records=[self._codec.opened(each.record)[0] for each in found],
            cursor=None if going_on is None else to_text(going_on, query, self._zone),
            searched_back_to=None,
            sentence=sentence(query, clock),
            unread=matches.unread,
        )
        return page, going_on


def opened(codec: Codec, record: TaskRecord) -> TaskRecord:
    """Return a record with decrypted and decompressed values; a value that cannot be opened stays as it is."""
    plain, _ = codec.opened(record)
    changed: dict[str, Any] = {}
    for field in SEALED_FIELDS:
        payload = getattr(plain, field)
        if payload is None or not payload.compression or payload.key_id:
            continue
        try:
            changed[field] = codec.compressor.decompress(payload)
        except PayloadError:
            continue
    return replace(plain, **changed)
