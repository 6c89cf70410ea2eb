"""When a listener reads: soon after a notification, and from time to time without one."""

from __future__ import annotations

import time

#: the least and the most seconds between two reads of all tasks without a notification: a writer may die after its
#: commit and before it notifies
SAFETY_READ_SECONDS = 5.0
LONGEST_SAFETY_READ_SECONDS = 60.0
#: between these limits, the pause is this many times the duration of the last read
SAFETY_READ_SHARE = 100.0
#: seconds between a read and the next one after a notification: for each task, and at most. With this delay, one read
#: finds many results that are stored at the same moment
DELAY_SECONDS_PER_TASK = 0.0001
LONGEST_DELAY_SECONDS = 0.02
#: after a long read, the delay may be this many times its duration, so that the server has time to store results
DELAY_SHARE = 4.0


class Pacing:
    """Decides when the next read is due. All times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._began = 0.0
        self._took = 0.0

    def begin_read(self) -> None:
        """Record that a read of all tasks begins."""
        self._began = time.monotonic()

    def end_read(self) -> None:
        """Record that this read has ended."""
        self._took = time.monotonic() - self._began

    def until_read(self, tasks: int) -> float:
        """Return the seconds until the read that follows a notification; 0 or less if it is due.

        Args:
            tasks: the number of tasks that have a waiter.
        """
        longest = max(LONGEST_DELAY_SECONDS, self._took * DELAY_SHARE)
        return self._began + min(tasks * DELAY_SECONDS_PER_TASK, longest) - time.monotonic()

    def until_safety_read(self) -> float:
        """Return the seconds until all tasks are read without a notification; 0 or less if that is due."""
        pause = max(SAFETY_READ_SECONDS, min(self._took * SAFETY_READ_SHARE, LONGEST_SAFETY_READ_SECONDS))
        return self._began + pause - time.monotonic()
