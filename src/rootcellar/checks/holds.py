"""Checks the holds of a store."""

from __future__ import annotations

from collections.abc import Iterator

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import problem
from rootcellar.history.holds import Holds
from rootcellar.payloads import codec_of
from rootcellar.stores import Store


def unreadable_holds(store: Store) -> Iterator[Finding]:
    """Yield a finding if the filter of a hold cannot be understood any more."""
    try:
        problems = Holds(store, codec_of({})).problems()
    except errors.PermissionDenied:
        # the check of the rights says so
        return
    if problems:
        seen = "; ".join(f"hold {number}: {why}" for number, why in problems.items())
        yield problem("hold-unreadable", seen)
