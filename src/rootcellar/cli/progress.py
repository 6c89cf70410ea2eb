"""Prints on standard error how far a command is."""

from __future__ import annotations

import sys
import time

#: the seconds between two lines
INTERVAL = 1.0


class Progress:
    """Counts, and prints a line from time to time.

    Args:
        what: what is counted, for the line: ``1,234 tasks exported``.
    """

    def __init__(self, what: str) -> None:
        self.count = 0
        self._what = what
        self._next = time.monotonic() + INTERVAL

    def add(self, count: int, beside: str = "") -> None:
        """Count, and print a line if the last one is old enough.

        Args:
            count: how many more.
            beside: a text for the end of the line.
        """
        self.count += count
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            print(f"{self.count:,} {self._what}{beside}", file=sys.stderr, flush=True)
