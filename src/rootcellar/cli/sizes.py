"""Reads sizes that a user gives."""

from __future__ import annotations

import re

import typer

from rootcellar.cli.output import visible

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str, option: str) -> int:
    """Return the bytes of a size such as ``50GB``.

    Args:
        text: the size.
        option: the option that has it, for the message.

    Raises:
        typer.BadParameter: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"not a size: {visible(text)}; write 50GB, 800MB or bytes", param_hint=option)
    return round(float(match[1]) * _UNITS[match[2].upper()])
