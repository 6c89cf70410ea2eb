"""Short forms in which the register is written."""

from __future__ import annotations

from rootcellar.checks.findings import Level, Problem


def failure(code: str, title: str, *, why: str, remedy: str) -> Problem:
    """Return a problem because of which results cannot be stored or read, or get lost."""
    return Problem(code=code, level=Level.FAILURE, title=title, why=why, remedy=remedy)


def warning(code: str, title: str, *, why: str, remedy: str) -> Problem:
    """Return a problem that can cause a failure later."""
    return Problem(code=code, level=Level.WARNING, title=title, why=why, remedy=remedy)
