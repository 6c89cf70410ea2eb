"""How soon a listener reads after a notification, and how often it reads without one."""

from __future__ import annotations

import time

#: seconds between two reads of all tasks without a notification, at least and at most: a writer may die after its
#: commit and before it notifies
SAFETY_READ_SECONDS = 5.0
LONGEST_SAFETY_READ_SECONDS = 60.0
#: between these two, the pause is this many times as long as the last read took
SAFETY_READ_SHARE = 100.0
#: seconds between a read and the next one after a notification, for each task, and at most: one read finds the results
#: of a burst
DELAY_SECONDS_PER_TASK = 0.0001
LONGEST_DELAY_SECONDS = 0.02
#: if the read takes long, the delay may be this many times as long, so that the server can also store
DELAY_SHARE = 4.0


class Pacing:
    """Decides when the next read is due. All times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._began = 0.0
        self._took = 0.0

    def begin_read(self) -> None:
        """Note that a read of all tasks begins."""
        self._began = time.monotonic()

    def end_read(self) -> None:
        """Note that this read has ended."""
        self._took = time.monotonic() - self._began

    def until_read(self, tasks: int) -> float:
        """Return the seconds until a notification is followed by a read; not positive if it is due.

        Args:
            tasks: the number of tasks for which somebody waits.
        """
        longest = max(LONGEST_DELAY_SECONDS, self._took * DELAY_SHARE)
        return self._began + min(tasks * DELAY_SECONDS_PER_TASK, longest) - time.monotonic()

    def until_safety_read(self) -> float:
        """Return the seconds until all tasks are read without a notification; not positive if that is due."""
        pause = max(SAFETY_READ_SECONDS, min(self._took * SAFETY_READ_SHARE, LONGEST_SAFETY_READ_SECONDS))
        return self._began + pause - time.monotonic()
