"""The pauses before retries."""

from __future__ import annotations

import random


class Backoff:
    """The pauses before retries: each is twice as long as the last, with jitter, up to a limit.

    Args:
        base_ms: the longest pause before the first retry, in milliseconds.
        limit_ms: the longest pause before any retry, in milliseconds.
    """

    def __init__(self, base_ms: float, limit_ms: float) -> None:
        self._base = base_ms / 1000
        self._limit = limit_ms / 1000

    def before(self, attempt: int) -> float:
        """Return the seconds to wait before retry number ``attempt``, counted from 1."""
        longest = min(self._limit, self._base * 2.0 ** min(attempt, 30))
        return random.uniform(longest / 2, longest)
