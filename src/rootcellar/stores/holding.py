"""The ability to keep holds: what must not be deleted, and who placed and released each hold.

A store keeps the filter of a hold as a text, which it does not understand. What deletes records passes the condition
that was made of the filters; see :class:`rootcellar.history.holds.Holds`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rootcellar.stores.search import Condition

if TYPE_CHECKING:
    from rootcellar.stores.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold. It is released, and never deleted, so that it stays on record.

    Attributes:
        id: its number, from 1.
        filter: which tasks, in the filter language, with absolute times.
        reason: why it was placed.
        placed_by, placed_at: who placed it, and when.
        released_by, released_at: who released it, and when; ``None`` while it is active.
    """

    id: int
    filter: str
    reason: str
    placed_by: str
    placed_at: datetime
    released_by: str | None = None
    released_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether it was not released."""
        return self.released_at is None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion did.

    Attributes:
        count: how many records were deleted.
        kept: the ids of the tasks whose records stay.
    """

    count: int
    kept: frozenset[str] = frozenset()


@runtime_checkable
class Holding(Protocol):
    """A store that keeps holds."""

    def place_hold(self, filter_text: str, reason: str, by: str, at: datetime) -> Hold:
        """Store a hold, and return it with its number."""

    def release_hold(self, number: int, by: str, at: datetime) -> Hold | None:
        """Release a hold; return it, or ``None`` if there is no active hold with this number."""

    def holds(self, with_released: bool = False) -> Sequence[Hold]:
        """Return the holds in the order in which they were placed; by default only the active ones."""

    def delete_spared(self, task_ids: Iterable[str], spared: Condition) -> Removed:
        """Delete the records of these tasks, except those that meet a condition when they are deleted.

        The condition is not tested for records in a table that Celery created.
        """


@dataclass(frozen=True, slots=True)
class Placed:
    """The holds of a store, as they were read.

    Attributes:
        active: those that were not released.
        count: how many were ever placed.
    """

    active: tuple[Hold, ...] = ()
    count: int = 0


class HoldReader:
    """Reads the holds of a store, again only if they were read too long ago.

    Args:
        store: the store.
        max_age: the seconds for which what was read counts; 0 for never.

    Attributes:
        holding: the store's ability; ``None`` if it keeps no holds.
    """

    def __init__(self, store: Store, max_age: float = 0.0) -> None:
        self.holding = store.ability(Holding)
        self.max_age = max_age
        self._read: tuple[float, Placed] | None = None

    def placed(self, *, fresh: bool = False) -> Placed:
        """Return the holds.

        Args:
            fresh: whether they are read in any case.
        """
        if self.holding is None:
            return Placed()
        known = self._read
        if known is not None and not fresh and time.monotonic() - known[0] < self.max_age:
            return known[1]
        # before they are read, so that what is placed meanwhile is not known later than promised
        began = time.monotonic()
        found = self.holding.holds(with_released=True)
        placed = Placed(tuple(hold for hold in found if hold.is_active), len(found))
        self._read = (began, placed)
        return placed
