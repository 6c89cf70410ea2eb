"""The results that are in the store that decides, and perhaps not in the other one, because it failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from rootcellar.support.forking import PerProcess

#: the most ids that a process notes between two comparisons of both stores, which find the others too
MAX_NOTED = 10_000
#: stands for all ids beyond these, so that the coordinator compares again; no task has this id
MORE = "more than one process notes"


class _Notes:
    """The notes of one process.

    Attributes:
        count: how many results were not mirrored since the process began.
        waiting: the ids that are not in the shared values yet.
        written: how many were written into them since the last comparison.
        begun_after: names this comparison.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.waiting: dict[str, None] = {}
        self.written = 0
        self.begun_after: object = None


class Unmirrored:
    """Notes the ids of results that were not mirrored, until they are written into the shared values."""

    def __init__(self) -> None:
        self._notes = PerProcess(_Notes)

    @property
    def count(self) -> int:
        """How many results this process has not mirrored."""
        return self._notes.get().count

    def note(self, task_id: str) -> None:
        """Note that a result is perhaps only in the store that decides."""
        notes = self._notes.get()
        with notes.lock:
            notes.count += 1
            # also if it was written before: the coordinator may have removed that note
            notes.waiting[task_id if notes.written + len(notes.waiting) < MAX_NOTED else MORE] = None

    def waiting(self) -> list[str]:
        """Return the ids that are not in the shared values yet."""
        notes = self._notes.get()
        with notes.lock:
            return list(notes.waiting)

    def written(self, task_id: str) -> None:
        """Note that an id is in the shared values."""
        notes = self._notes.get()
        with notes.lock:
            notes.waiting.pop(task_id, None)
            notes.written += 1

    def begin_again(self, after: object) -> None:
        """Count what is written from zero, if ``after`` is another comparison than before."""
        notes = self._notes.get()
        with notes.lock:
            if notes.begun_after != after:
                notes.begun_after = after
                notes.written = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.waiting())
