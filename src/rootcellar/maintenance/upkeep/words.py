"""Numbers in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_POWERS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
#: the most names in one sentence
_MAX_NAMES = 4


def read_bytes(text: str) -> int:
    """Return the bytes of a size such as ``50GB``, in powers of 1,000.

    Raises:
        ValueError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 50GB, 800MB or bytes")
    return round(float(match[1]) * _POWERS[match[2].upper()])


def show_bytes(count: float) -> str:
    """Return ``999 B``, ``1.2 kB``, ``45 MB``, in powers of 1,000."""
    size, unit = float(abs(count)), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    sign = "-" if count < 0 else ""
    return f"{sign}{size:.0f} {_UNITS[unit]}" if size >= 10 or unit == 0 else f"{sign}{size:.1f} {_UNITS[unit]}"


def show_seconds(seconds: float) -> str:
    """Return ``12 s``, ``3 min``, ``5 h`` or ``41 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"


def show_ago(moment: datetime | None) -> str:
    """Return ``3 min ago``, or ``never``."""
    if moment is None:
        return "never"
    return f"{show_seconds(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


def number_of(count: int, one: str, many: str | None = None) -> str:
    """Return ``1 table`` or ``1,234 tables``."""
    return f"1 {one}" if count == 1 else f"{count:,} {many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    shown = ", ".join(names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} others"
