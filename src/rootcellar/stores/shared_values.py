"""The ability to keep small values that all processes share, such as the phase of a migration.

There are few of them, up to some thousands. Each is a JSON text of at most some kilobytes, under a key such as
``migration/process/host/1234``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedValue:
    """A value that all processes share.

    Attributes:
        key: its key.
        value: a JSON text.
        version: 1 when it is stored for the first time, or again after it was deleted; each change adds 1.
        changed_at: when it was stored last, by the clock of the server.
    """

    key: str
    value: str
    version: int
    changed_at: datetime


@runtime_checkable
class SharesValues(Protocol):
    """A store that keeps values that all processes share."""

    def shared(self, prefix: str) -> Mapping[str, SharedValue]:
        """Return the values whose keys begin with a text, by key."""

    def share(self, key: str, value: str, *, if_version: int | None = None) -> int | None:
        """Store a value.

        Args:
            key: its key.
            value: a JSON text.
            if_version: the version that must be stored by now; 0 if there must be none; ``None`` for any.

        Returns:
            the new version; ``None`` if another version was there, and nothing was stored.
        """

    def unshare(self, keys: Sequence[str]) -> int:
        """Delete values; return how many there were."""

    def server_time(self) -> datetime:
        """Return the time on the clock of the server, in UTC."""
