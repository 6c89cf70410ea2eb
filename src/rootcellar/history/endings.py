"""Finds the tasks that have ended since they were last asked for, without reading what ended long before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from rootcellar.history.filters import Filter, FilterWrong
from rootcellar.history.filters.tree import And, Comparison, Field, Moment
from rootcellar.history.history import History
from rootcellar.history.streaming import stream
from rootcellar.records import TaskRecord

#: a task is found if it is stored this long after its end at most: clocks differ, and a commit takes a moment
OVERLAP = timedelta(seconds=10)


class Endings:
    """The tasks that a filter finds, each when it has ended.

    Each reading is one search of the tasks that ended in the last seconds, by the index on their ends.

    Args:
        history: the stored results.
        query: which tasks.
        since: begin with the tasks that ended then; ``None`` for those that end from now on.

    Raises:
        FilterWrong: a term of the filter cannot be understood, or it asks for an order.
    """

    def __init__(self, history: History, query: str | Filter, since: datetime | None = None) -> None:
        self._history = history
        self._query = history.parsed(query)
        if self._query.sort:
            text = str(self._query)
            raise FilterWrong(
                "tasks are listed in the order in which they end", text, text.rindex("sort:"), "leave out sort:"
            )
        #: the ends of the tasks that were found, by their ids, as long as a search may find them again
        self._seen: dict[str, datetime] = {}
        self._newest = since or datetime.now(timezone.utc)
        self._first = since or self._newest - OVERLAP
        if since is None:
            for record in self._found(self._first):
                self._note(record)

    def read(self) -> Iterator[TaskRecord]:
        """Yield the tasks that have ended since the last reading, in the order of their ends."""
        horizon = max(self._first, self._newest - OVERLAP)
        self._seen = {task_id: ended for task_id, ended in self._seen.items() if ended >= horizon}
        for record in self._found(horizon):
            if self._seen.get(record.task_id) != record.done_at:
                self._note(record)
                yield record

    def _note(self, record: TaskRecord) -> None:
        if record.done_at is None:
            return
        self._seen[record.task_id] = record.done_at
        # the clock of a worker may be ahead: its tasks must not hide those of the others
        self._newest = max(self._newest, min(record.done_at, datetime.now(timezone.utc)))

    def _found(self, since: datetime) -> Iterator[TaskRecord]:
        moment = Moment(since.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        ended = Field("done", (Comparison(">=", moment),))
        condition = self._query.condition
        terms = () if condition is None else condition.terms if isinstance(condition, And) else (condition,)
        return stream(self._history, Filter(And((*terms, ended)) if terms else ended, "done"))
