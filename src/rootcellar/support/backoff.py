"""The pauses between tries."""

from __future__ import annotations

import random


class Backoff:
    """How long to wait before each new try: twice as long each time, with jitter, up to a limit.

    Args:
        base_ms: milliseconds before the first new try, at most.
        limit_ms: the most milliseconds before any.
    """

    def __init__(self, base_ms: float, limit_ms: float) -> None:
        self._base = base_ms / 1000
        self._limit = limit_ms / 1000

    def before(self, attempt: int) -> float:
        """Return the seconds to wait before new try number ``attempt``, counted from 1."""
        longest = min(self._limit, self._base * 2.0 ** min(attempt, 30))
        return random.uniform(longest / 2, longest)
