"""The rules by which processes archive, beside the results: an ability of the SQL stores.

Each process that deletes reads them. So it also leaves what only the rules of another process archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class RulesText:
    """Rules on record. The store does not read them.

    Attributes:
        key: their short hash.
        text: the rules.
        seen_at: when a process last said that it has them, by the clock of the store's server.
    """

    key: str
    text: str
    seen_at: datetime


@runtime_checkable
class KeepsRules(Protocol):
    """A store that keeps the rules of its processes on record."""

    def put_rules(self, key: str, text: str) -> None:
        """Put rules on record, or note that they are still in use."""

    def rules_on_record(self) -> Sequence[RulesText]:
        """Return all rules on record, also those that no process has used for long."""

    def drop_rules(self, key: str) -> bool:
        """Remove rules from the record; return whether they were there."""
