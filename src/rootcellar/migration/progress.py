"""How far work on many rows is: how many are done, how many a second, and how long the rest takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: the seconds of the past from which the speed is computed, and between two moments of it that are kept
_PAST, _STEP = 30.0, 0.5
#: a speed of less time than this is not shown (seconds)
_LEAST = 1.0


class Progress:
    """Counts rows, and measures how many are done a second.

    The speed is that of the last half minute, so that it follows a changed throttle. What earlier runs did counts as
    done, but not for the speed.

    Args:
        total: about how many rows there are; ``None`` if that is not known.
        done: how many rows earlier runs did.
        clock: returns seconds; only its differences count.

    Attributes:
        total: as the argument; it may be changed.
        done: how many rows are done.
    """

    def __init__(self, total: int | None = None, *, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = done
        self._clock = clock
        #: moments of the last half minute, and how many rows were done then
        self._past: deque[tuple[float, int]] = deque([(clock(), done)])

    def add(self, rows: int) -> None:
        """Count rows that are done."""
        self.done += rows
        now = self._clock()
        if now - self._past[-1][0] >= _STEP:
            self._past.append((now, self.done))
        while len(self._past) > 2 and now - self._past[1][0] > _PAST:
            self._past.popleft()

    @property
    def rate(self) -> float | None:
        """Rows a second; ``None`` while less than a second has passed."""
        then, done = self._past[0]
        seconds = self._clock() - then
        return None if seconds < _LEAST else (self.done - done) / seconds

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the rest takes at this speed; ``None`` if the total or the speed is not known."""
        rate = self.rate
        if self.total is None or not rate:
            return None
        return max(0, self.total - self.done) / rate

    def line(self, what: str) -> str:
        """Return a line such as ``123,456 of about 1,000,000 results copied (12 %), 8,000 a second, 2 min left``.

        Args:
            what: what was done with what, such as ``results copied``.
        """
        return progress_line(self.done, what, self.total, self.rate, self.seconds_left)


def progress_line(done: int, what: str, total: int | None, rate: float | None, seconds_left: float | None) -> str:
    """Return the line of :meth:`Progress.line`.

    Args:
        done: how many rows are done.
        what: what was done with what, such as ``results copied``.
        total: about how many there are. It is left out if it is not known, or if more than that are done.
        rate: rows a second, if that is known.
        seconds_left: the seconds that the rest takes, if that is known.
    """
    is_within = total is not None and 0 < done <= total
    parts = [
        f"{done:,} of about {total:,} {what} ({done * 100 // (total or 1)} %)" if is_within else f"{done:,} {what}"
    ]
    if rate is not None:
        parts.append(f"{rate:,.0f} a second" if rate >= 10 or rate == 0 else f"{rate:.1f} a second")
    if seconds_left is not None and is_within:
        parts.append(f"{span(seconds_left)} left")
    return ", ".join(parts)


def span(seconds: float) -> str:
    """Return a time in words, such as ``12 s``, ``2 min 5 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
