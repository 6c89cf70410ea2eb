"""The size of a batch: it shrinks while the server is slow or fails, and grows again slowly."""

from __future__ import annotations

from collections.abc import Callable

from rootcellar.errors import ConfigurationError, RootcellarError

#: this many batches in a row must succeed before the size grows
BEFORE_GROWTH = 3
#: after this many retryable errors in a row, a batch has the smallest size
BEFORE_LEAST = 3


class BatchSize:
    """The number of rows in one batch.

    It is halved after a retryable error, and is the smallest one after three of them in a row. It grows by a quarter
    after three successes.

    Args:
        most: the size without errors.
        least: the smallest size.

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
        self._errors = 0

    @property
    def is_least(self) -> bool:
        """Whether the next batch has the smallest size."""
        return self._size == self._least

    @property
    def size(self) -> int:
        """The number of rows in the next batch."""
        return self._size

    def run(self, work: Callable[[int], int]) -> int:
        """Do one batch.

        Args:
            work: called with the size; processes up to this many rows, and returns how many.

        Raises:
            RootcellarError: the error of ``work``. If it is retryable, the next batch is smaller.
        """
        try:
            done = work(self._size)
        except RootcellarError as exc:
            if exc.retryable:
                self._errors += 1
                self._size = self._least if self._errors >= BEFORE_LEAST else max(self._least, self._size // 2)
                self._successes = 0
            raise
        self._errors = 0
        self._successes += 1
        if self._successes >= BEFORE_GROWTH:
            self._size = min(self._most, self._size + max(1, self._size // 4))
            self._successes = 0
        return done
