"""The size of a batch: smaller while the server struggles, and slowly back."""

from __future__ import annotations

from collections.abc import Callable

from rootcellar.errors import ConfigurationError, RootcellarError

#: batches that must succeed in a row before the size grows
BEFORE_GROWTH = 3


class BatchSize:
    """How many rows one batch has. It is halved after a retryable error, and grows by a quarter after three successes.

    Args:
        most: rows in a batch while all is well.
        least: rows below which the size never falls.

    Raises:
        ConfigurationError: not ``1 <= least <= most``.
    """

    def __init__(self, most: int, least: int = 1) -> None:
        if not 1 <= least <= most:
            raise ConfigurationError(
                f"the size of a batch is from {least!r} to {most!r}",
                where="batch size",
                remedy="give a smallest size of at least 1, and a largest size that is not smaller",
            )
        self._most = most
        self._least = least
        self._size = most
        self._successes = 0

    @property
    def size(self) -> int:
        """Rows in the next batch."""
        return self._size

    def run(self, work: Callable[[int], int]) -> int:
        """Do one batch.

        Args:
            work: does up to so many rows, and returns how many it did.

        Raises:
            RootcellarError: what ``work`` raised. If it is retryable, the next batch is half as large.
        """
        try:
            done = work(self._size)
        except RootcellarError as exc:
            if exc.retryable:
                self._size = max(self._least, self._size // 2)
                self._successes = 0
            raise
        self._successes += 1
        if self._successes >= BEFORE_GROWTH:
            self._size = min(self._most, self._size + max(1, self._size // 4))
            self._successes = 0
        return done
