"""Reads sizes that a user gives."""

from __future__ import annotations

import typer

from rootcellar.cli.output import visible
from rootcellar.maintenance.upkeep.words import read_bytes


def parse_size(text: str, option: str) -> int:
    """Return the bytes of a size such as ``50GB``.

    Args:
        text: the size.
        option: the option that has it, for the message.

    Raises:
        typer.BadParameter: it is not a size.
    """
    try:
        return read_bytes(text)
    except ValueError:
        raise typer.BadParameter(
            f"not a size: {visible(text)}; write 50GB, 800MB or bytes", param_hint=option
        ) from None
