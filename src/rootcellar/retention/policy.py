"""How long a result is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rootcellar.errors import ConfigurationError

#: the states to which ``result_failure_expires`` applies
FAILED = frozenset({"FAILURE", "REVOKED"})

#: the longest time, a thousand years: every server can store such a date
MAX_SECONDS = 1_000 * 365.25 * 86_400
#: an unfinished chord is kept at least this long if there is no setting for chords
MIN_CHORD_SECONDS = 86_400.0

#: how long a blob without a record is kept: at least, and if unfinished chords are kept for ever
MIN_BLOB_SECONDS, MAX_BLOB_SECONDS = 3_600.0, 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention rules of the settings. ``None`` or 0 means for ever.

    Attributes:
        results: how long a result is kept, in seconds (``result_expires``).
        failures: how long a failure is kept, in seconds (``result_failure_expires``); ``None``: as long as any result.
        chords: how long an unfinished chord is kept after its last part was stored, in seconds
            (``result_chord_expires``); ``None``: as long as any result, but at least a day, because a chord may run
            longer than results are kept.
    """

    results: float | None
    failures: float | None = None
    chords: float | None = None

    def result_expiry(self, state: str, now: datetime) -> datetime | None:
        """Return when a result that is stored ``now`` in ``state`` may be deleted, or ``None`` for never."""
        seconds = self.failures if state in FAILED and self.failures is not None else self.results
        return _after(now, seconds)

    def chord_expiry(self, now: datetime) -> datetime | None:
        """Return when a chord may be deleted whose start or last part is ``now``; ``None`` for never."""
        return _after(now, self._chord_seconds())

    def blob_grace(self) -> float:
        """Return how many seconds a blob without a record is kept, because a part of a chord may refer to it."""
        return max(MIN_BLOB_SECONDS, self._chord_seconds() or MAX_BLOB_SECONDS)

    def _chord_seconds(self) -> float | None:
        if self.chords is not None:
            return self.chords
        return max(self.results, MIN_CHORD_SECONDS) if self.results else None


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds else None


def read_seconds(value: Any, setting: str, *, longest: float = MAX_SECONDS) -> float:
    """Return a setting's time in seconds.

    Args:
        value: a number of seconds, or a timedelta.
        setting: the setting's name.
        longest: the longest time that is possible, in seconds.

    Raises:
        ConfigurationError: it is not a time from 0 to ``longest``.
    """
    try:
        seconds = float(value.total_seconds() if isinstance(value, timedelta) else value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds <= longest:
        raise ConfigurationError(
            f"{setting} is {value!r}",
            where=setting,
            remedy=f"give a number of seconds from 0 to {longest:.0f}, or a timedelta",
        )
    return seconds


def read_optional_seconds(value: Any, setting: str) -> float | None:
    """Return a setting's time in seconds, or ``None`` if it is not set. Raises like :func:`read_seconds`."""
    return None if value is None else read_seconds(value, setting)
