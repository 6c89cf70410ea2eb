"""Prints on standard error how far a command is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rootcellar.migration.progress import Progress as Measured

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


#: the seconds between two lines that are not on a terminal
_INTERVAL_OF_A_PIPE = 5.0


class Lines:
    """Shows on standard error how far work is: on a terminal in one line, elsewhere in a new line every five seconds.

    Args:
        progress: what is measured.
        what: what was done with what, such as ``results copied``.
    """

    def __init__(self, progress: Measured, what: str) -> None:
        self._progress = progress
        self._what = what
        self._is_terminal = sys.stderr.isatty()
        self._interval = INTERVAL if self._is_terminal else _INTERVAL_OF_A_PIPE
        self._next = time.monotonic() + self._interval
        self._is_shown = False

    def show(self) -> None:
        """Show a line, if the last one is old enough."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        line = self._progress.line(self._what)
        if self._is_terminal:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = True
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Remove the line from the terminal."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False
