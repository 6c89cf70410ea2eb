"""How long a result is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rootcellar.errors import ConfigurationError

#: the states whose results ``result_failure_expires`` is for
FAILED = frozenset({"FAILURE", "REVOKED"})

#: the longest time, in seconds: a thousand years; every server holds a date so far away
LONGEST = 1_000 * 365.25 * 86_400
#: seconds for which an unfinished chord is kept at least, where no setting is for chords
LEAST_FOR_CHORDS = 86_400.0

#: seconds for which a blob without a record is left alone: at least, and where an unfinished chord is kept for ever
LEAST_FOR_BLOBS, LONGEST_FOR_BLOBS = 3_600.0, 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """The settings' rules. A rule of ``None`` or 0 keeps for ever.

    Attributes:
        results: how long a result is kept, in seconds (``result_expires``).
        failures: how long a failure is kept, in seconds (``result_failure_expires``); ``None`` as long as any result.
        chords: how long an unfinished chord is kept after its last part came, in seconds (``result_chord_expires``);
            ``None`` for as long as any result, but a day at least: a chord may run for longer than results are kept.
    """

    results: float | None
    failures: float | None = None
    chords: float | None = None

    def result_expiry(self, state: str, now: datetime) -> datetime | None:
        """Return when a result stored ``now`` in ``state`` may be deleted, ``None`` for never."""
        seconds = self.failures if state in FAILED and self.failures is not None else self.results
        return _after(now, seconds)

    def chord_expiry(self, now: datetime) -> datetime | None:
        """Return when a chord may be deleted if it began, or its last part came, ``now``; ``None`` for never."""
        return _after(now, self._chord_seconds())

    def blob_grace(self) -> float:
        """Return the seconds for which a blob without a record is left alone: a part of a chord may refer to it."""
        return max(LEAST_FOR_BLOBS, self._chord_seconds() or LONGEST_FOR_BLOBS)

    def _chord_seconds(self) -> float | None:
        if self.chords is not None:
            return self.chords
        return max(self.results, LEAST_FOR_CHORDS) if self.results else None


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds else None


def read_seconds(value: Any, setting: str, *, longest: float = LONGEST) -> float:
    """Return a setting's time in seconds.

    Args:
        value: a number of seconds, or a timedelta.
        setting: the setting's name.
        longest: the longest time that is possible, in seconds.

    Raises:
        ConfigurationError: it is no time from 0 to ``longest``.
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
    """Return a setting's time in seconds, ``None`` where it is not set. Raises as :func:`read_seconds` does."""
    return None if value is None else read_seconds(value, setting)
