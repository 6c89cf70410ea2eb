"""Limits how many groups one task can make: code with generated names would make a group of each failure."""

from __future__ import annotations

import time
from collections.abc import Callable

#: the most groups of one task in an hour, in one process
MOST = 200
_MAX_TASKS = 1_000
_HOUR_SECONDS = 3_600.0


class NewGroups:
    """Remembers the groups of each task for an hour. Safe to use from any thread.

    Args:
        most: the most groups of one task.
        clock: returns seconds that only grow.
    """

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._since = clock()
        self._groups: dict[str, set[int]] = {}

    def is_too_many(self, task: str, group: int) -> bool:
        """Return whether this group is one too many of a task; otherwise remember it."""
        now = self._clock()
        if now - self._since >= _HOUR_SECONDS or len(self._groups) > _MAX_TASKS:
            self._since, self._groups = now, {}
        known = self._groups.setdefault(task, set())
        if group in known:
            return False
        if len(known) >= self._most:
            return True
        known.add(group)
        return False
