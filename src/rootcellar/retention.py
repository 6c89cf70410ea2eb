"""How long a result is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: the states whose results ``result_failure_expires`` is for
FAILED = frozenset({"FAILURE", "REVOKED"})


@dataclass(frozen=True, slots=True)
class Retention:
    """The settings' rules. A rule of ``None`` or 0 keeps for ever.

    Attributes:
        results: how long a result is kept, in seconds (``result_expires``).
        failures: how long a failure is kept, in seconds (``result_failure_expires``); ``None`` as long as any result.
        chords: how long an unfinished chord is kept, in seconds (``result_chord_expires``); ``None`` as any result.
    """

    results: float | None
    failures: float | None = None
    chords: float | None = None

    def result_expiry(self, state: str, now: datetime) -> datetime | None:
        """Return when a result stored ``now`` in ``state`` may be deleted, ``None`` for never."""
        seconds = self.failures if state in FAILED and self.failures is not None else self.results
        return _after(now, seconds)

    def chord_expiry(self, now: datetime) -> datetime | None:
        """Return when a chord that began ``now`` may be deleted, ``None`` for never."""
        return _after(now, self.results if self.chords is None else self.chords)


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds else None
