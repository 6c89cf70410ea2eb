"""Formats numbers that come from the counts beside the results, and says how exact they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from rootcellar.cli.output import say_beside
from rootcellar.cli.times import show_seconds
from rootcellar.history.filters import Filter, sentence
from rootcellar.history.history import History
from rootcellar.stores.counting import QUANTILE_ERROR


class Counts(Protocol):
    """An answer of the counts."""

    @property
    def is_exact(self) -> bool:
        """Whether every finished task is counted."""

    @property
    def behind_by(self) -> timedelta:
        """How old the newest counted results are, if the newest ones are missing."""


def number(count: int, is_exact: bool) -> str:
    """Return a number of tasks, with ``≥`` if there may be more."""
    return f"{'' if is_exact else '≥'}{count:,}"


def about(seconds: float | None) -> str:
    """Return an approximate duration."""
    return "-" if seconds is None else f"≈{show_seconds(seconds)}"


def share(part: int, whole: int) -> str:
    """Return a part of a whole in percent: 0 % only for none, and 100 % only for all."""
    if not part or not whole:
        return "-"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    return f"{min(percent, 99.9) if part < whole else percent:.{0 if part == whole else 1}f}%"


def say_about(history: History, query: Filter, answer: Counts) -> None:
    """Print on standard error the filter in English, and how exact the numbers are."""
    if query.condition is not None:
        what = sentence(query, history.clock).partition(";")[0]
        say_beside(f"{what[:1].upper()}{what[1:]}.")
    if answer.behind_by:
        say_beside(f"Statistics are {_delay(answer.behind_by)} behind: newer results are not counted yet.")
    if not answer.is_exact and not answer.behind_by:
        say_beside("Older results are still being counted: there are at least as many as shown.")
    say_beside(f"A time with ≈ is within {QUANTILE_ERROR:.0%} of the true one.")


def as_object(answer: Counts) -> dict[str, object]:
    """Return how exact the numbers are, for JSON."""
    return {"exact": answer.is_exact, "behind_seconds": answer.behind_by.total_seconds()}


def _delay(delay: timedelta) -> str:
    seconds = delay.total_seconds()
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def size_text(count: int) -> str:
    """Return a number of bytes as a person reads it, such as ``1.2 MB``."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
