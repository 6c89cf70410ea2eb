"""Reads sizes in bytes, such as ``10MB``."""

from __future__ import annotations

import re
from typing import Any

from rootcellar.errors import ConfigurationError

_SIZE = re.compile(r"(\d+)\s*(|[kKmMgG])(?:i?[bB])?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def read_size(given: Any, where: str) -> int | None:
    """Return the number of bytes of ``1000000``, ``512KB`` or ``10MB``; ``None`` for 0, none and never.

    Raises:
        ConfigurationError: it is not a size.
    """
    text = str(given).strip()
    if given is None or text.lower() in ("", "0", "none", "never"):
        return None
    found = _SIZE.fullmatch(text)
    if not found or isinstance(given, bool):
        raise ConfigurationError(f"{given!r} is not a size", where=where, remedy="write bytes, or 512KB, 10MB, 1GB")
    return int(found[1]) * _UNITS[found[2].lower()]
