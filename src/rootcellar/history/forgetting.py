"""Deletes the records of the tasks that a filter finds: first a preview, then batch by batch.

It can be interrupted after any batch and run again: what is deleted is not found again. Tasks that are held stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rootcellar.errors import ResultHeld
from rootcellar.history.filters import Filter
from rootcellar.history.history import History
from rootcellar.history.holds import Holds
from rootcellar.history.lists import MAX_SIZE, Page, Tasks
from rootcellar.payloads.forgetting import forget_tasks
from rootcellar.records import TaskRecord
from rootcellar.stores.search import Searchable

#: how many tasks a preview counts
CAP = 10_000
#: how many examples a preview has
EXAMPLES = 5
#: how many records one statement deletes
_BATCH = 500
#: how many records are read at a time for the preview, and for how long
_PAGE, _PREVIEW_SECONDS = 5_000, 10.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be deleted.

    Attributes:
        count: how many tasks, up to :data:`CAP`.
        is_all: whether there are no more than ``count``; otherwise there are at least as many.
        examples: a few of them, with their values, the first ones of the list.
        sentence: what was asked, in English.
        unread: how many tasks are left out because a value that the filter asks for cannot be read.
        held: how many of ``count`` are held, and stay.
    """

    count: int
    is_all: bool
    examples: tuple[TaskRecord, ...]
    sentence: str
    unread: int
    held: int = 0


class Forgetting:
    """Deletes the tasks that a filter finds. Its moments count from now; tasks that end later are not deleted.

    Args:
        history: the stored results.
        query: which tasks.

    Attributes:
        forgotten: how many records :meth:`run` has deleted.
        held: how many tasks it has left, because a hold keeps them.

    Raises:
        FilterWrong: a term of the filter cannot be understood.
    """

    def __init__(self, history: History, query: str | Filter) -> None:
        self._history = history
        self._clock = history.clock
        self._query = history.parsed(query, self._clock)
        self._holds = Holds(history.store, history.codec)
        self.forgotten = 0
        self.held = 0

    @property
    def query(self) -> Filter:
        """The tree of the filter."""
        return self._query

    def preview(self) -> Preview:
        """Count the tasks, and read a few of them. It stops after some seconds, or at :data:`CAP` tasks."""
        deadline = time.monotonic() + _PREVIEW_SECONDS
        found: list[str] = []
        unread, after = 0, None
        while True:
            page = self._tasks(_PAGE, after).page()
            found += self._ids(page)
            unread += page.unread
            after = page.cursor
            if after is None or len(found) >= CAP or time.monotonic() > deadline:
                break
        is_all = after is None and len(found) <= CAP
        held = self._count_held(found[:CAP], deadline)
        return Preview(min(len(found), CAP), is_all, self._examples(found[:EXAMPLES]), page.sentence, unread, held)

    def _count_held(self, ids: Sequence[str], deadline: float) -> int:
        """Return how many tasks are held; at least so many if there is no time to read all."""
        held = 0
        for start in range(0, len(ids), _BATCH) if self._holds.active() else ():
            held += len(self._holds.held(self._history.store.get_many(ids[start : start + _BATCH]).values()))
            if time.monotonic() > deadline:
                break
        return held

    def _examples(self, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
        store, codec = self._history.store, self._history.codec
        records = store.get_many(ids)
        return tuple(codec.opened(records[one])[0] for one in ids if one in records)

    def run(self, on_progress: Callable[[int], object] = lambda count: None) -> int:
        """Delete every task that the filter finds; return how many records there were.

        Each task is read again just before it is deleted, and stays if the filter does not find it any more.

        Args:
            on_progress: is called after each batch, with the number that it deleted.

        Raises:
            StoreError: the store, or the blob store, cannot be used. What was deleted stays deleted.
        """
        store, spiller, after = self._history.store, self._history.codec.spiller, None
        while True:
            tasks = self._tasks(self._page_size, after)
            page = tasks.page()
            ids = self._ids(page)
            for start in range(0, len(ids), _BATCH):
                # a task may have changed since the page was read
                again = tasks.still_matching(ids[start : start + _BATCH])
                due = [record.task_id for record in again if self._is_due(record)]
                try:
                    count = forget_tasks(store, spiller, due, self._holds)
                except ResultHeld as exc:
                    count = exc.deleted
                    self.held += len(exc.task_ids)
                self.forgotten += count
                on_progress(count)
            after = page.cursor
            if after is None:
                return self.forgotten

    @property
    def _page_size(self) -> int:
        # a store without an index reads every record for each page
        return _BATCH if self._history.store.ability(Searchable) is not None else MAX_SIZE

    def _tasks(self, size: int, after: str | None) -> Tasks:
        history = self._history
        return Tasks(history.store, history.codec, self._query, self._clock, size=size, after=after, with_values=False)

    def _ids(self, page: Page) -> list[str]:
        return [record.task_id for record in page.records if self._is_due(record)]

    def _is_due(self, record: TaskRecord) -> bool:
        """Return False for a task that ended, or else started or was sent, after the preview began."""
        moment: datetime | None = record.done_at or record.started_at or record.sent_at
        return moment is None or moment <= self._clock.now
