"""Short forms in which the register is written."""

from __future__ import annotations

from rootcellar.checks.findings import Level, Problem


def failure(code: str, title: str, *, why: str, remedy: str) -> Problem:
    """Return a problem that keeps results from being stored or read, or loses them."""
    return Problem(code=code, level=Level.FAILURE, title=title, why=why, remedy=remedy)


def warning(code: str, title: str, *, why: str, remedy: str) -> Problem:
    """Return a problem that can cause a failure later."""
    return Problem(code=code, level=Level.WARNING, title=title, why=why, remedy=remedy)
