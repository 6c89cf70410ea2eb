"""The results that are in the store that decides, and perhaps not in the other one, because it failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from rootcellar.support.forking import PerProcess

#: the most ids that a process notes; the pass finds the others too, because it reads everything
MAX_NOTED = 10_000


class _Notes:
    """The notes of one process.

    Attributes:
        count: how many results were not mirrored since the process began.
        waiting: the ids that are not in the shared values yet.
        noted: those that are, or were.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.waiting: dict[str, None] = {}
        self.noted: set[str] = set()


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
            if task_id not in notes.noted and len(notes.noted) + len(notes.waiting) < MAX_NOTED:
                notes.waiting[task_id] = None

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
            notes.noted.add(task_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.waiting())
