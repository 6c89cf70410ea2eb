"""Limits how many rows a second are read and written, so that the servers have time for their other clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rootcellar.errors import ConfigurationError

#: the part of a second for which one batch lasts at most, and the longest wait before the rate is read again (seconds)
_SHARE, _SLICE = 0.25, 0.5


class Throttle:
    """Limits the rows a second of one process. Its rate may change at any time, also while somebody waits.

    A batch is passed on at once if the batches before it are paid for: their rows divided by the rate is the time that
    they take. So the rate holds on average, whatever the sizes of the batches are.

    Args:
        rate: rows a second; ``None`` for no limit.
        clock: returns seconds; only its differences count.
        wait: waits for seconds, and returns true if the work must stop; by default it only waits.

    Raises:
        ConfigurationError: the rate is not greater than 0.
    """

    def __init__(
        self,
        rate: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._rate = checked_rate(rate)
        self._clock = clock
        self._wait = wait if wait is not None else _sleep
        self._lock = threading.Lock()
        #: the rows that are passed on and not paid for yet
        self._debt = 0.0
        self._at = clock()

    @property
    def rate(self) -> float | None:
        """Rows a second; ``None`` for no limit. Setting it takes effect within half a second."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        checked = checked_rate(rate)
        with self._lock:
            self._pay()
            self._rate = checked

    def batch(self, most: int) -> int:
        """Return how many rows to read at a time: at most ``most``, and about a quarter of a second's rows."""
        rate = self._rate
        return most if rate is None else max(1, min(most, int(rate * _SHARE)))

    def take(self, rows: int) -> bool:
        """Wait until these rows may be passed on.

        Returns:
            ``False`` if ``wait`` said that the work must stop.
        """
        while (seconds := self._due()) > 0.0:
            if self._wait(min(seconds, _SLICE)):
                return False
        with self._lock:
            self._debt += rows
        return True

    def _due(self) -> float:
        """Return the seconds until all rows are paid for."""
        with self._lock:
            self._pay()
            return 0.0 if self._rate is None else self._debt / self._rate

    def _pay(self) -> None:
        now = self._clock()
        elapsed, self._at = now - self._at, now
        self._debt = 0.0 if self._rate is None else max(0.0, self._debt - elapsed * self._rate)


def checked_rate(rate: float | None) -> float | None:
    """Return a rate in rows a second.

    Raises:
        ConfigurationError: it is not greater than 0.
    """
    if rate is not None and not 0.0 < rate < float("inf"):
        raise ConfigurationError(
            f"{rate:g} rows a second is no rate", where="--rate", remedy="give a number greater than 0"
        )
    return rate


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
