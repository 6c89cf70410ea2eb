"""How long work pauses between two batches, so that the clients of a server and its replicas are not delayed."""

from __future__ import annotations

from collections.abc import Callable

#: the most rows a second, so that processors, disk and log of the server are free for its clients most of the time
RATE = 25_000
#: the least pause after a batch, as a part of the time that the batch took: at first, and at most
FIRST_SHARE, LARGEST_SHARE = 0.15, 4.0
#: a batch is slow if a row takes this many times as long as in the fastest batch
SLOW = 3.0
#: a batch of fewer rows says nothing about the speed
LEAST_ROWS = 100
#: the most seconds that replicas may be behind without a longer pause, and the longest pause for them or a slow server
LARGEST_LAG, LONGEST_PAUSE = 1.0, 10.0


class Pace:
    """The pauses between the batches of one run.

    Args:
        lag: returns how many seconds the slowest replica is behind; ``None`` if that is not known.
        rate: the most rows a second.
    """

    def __init__(self, lag: Callable[[], float | None] = lambda: None, rate: int = RATE) -> None:
        self._lag = lag
        self._rate = rate
        self._share = FIRST_SHARE
        self._fastest = float("inf")
        self._seconds = 0.0
        self._rows = 0

    def note(self, rows: int, seconds: float) -> None:
        """Note how long a batch took.

        After a slow one, the least pause is twice as long; after another, half as long.

        Args:
            rows: the rows of the batch.
            seconds: how long it took.
        """
        self._seconds = seconds
        self._rows = rows
        if rows < LEAST_ROWS:
            return
        each = seconds / rows
        self._fastest = min(self._fastest, each)
        factor = 2.0 if each > SLOW * self._fastest else 0.5
        self._share = min(LARGEST_SHARE, max(FIRST_SHARE, self._share * factor))

    def pause(self) -> float:
        """Return the seconds to wait before the next batch."""
        lag = self._lag() or 0.0
        behind = lag if lag > LARGEST_LAG else 0.0
        early = self._rows / self._rate - self._seconds
        return max(early, min(LONGEST_PAUSE, max(self._seconds * self._share, behind)))
