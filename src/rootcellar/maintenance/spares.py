"""What a cleanup must not delete: results that are held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.search import Condition, MoreHolds

if TYPE_CHECKING:
    from rootcellar.history.holds import Holds


class Spares:
    """The holds of a store, for a process that deletes batches. While there is no hold, it imports no history.

    Args:
        store: the store.
        codec: opens values that the filters of holds ask for.
    """

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec
        self._holding = store.ability(Holding)
        self._holds: Holds | None = None
        self._placed: int | None = None
        #: the ids of the holds that were active when :meth:`condition` was called last
        self.active: tuple[int, ...] = ()

    @property
    def has_holds(self) -> bool:
        """Whether a hold was active when :meth:`condition` was called last."""
        return self._holds is not None

    def condition(self) -> Condition | None:
        """Return what to spare: every held record, and all records as soon as one more hold is placed.

        ``None`` if the store keeps no holds.
        """
        if self._holding is None:
            return None
        placed = self._holding.holds(with_released=True)
        self._placed = len(placed)
        self.active = tuple(hold.id for hold in placed if hold.is_active)
        if not self.active:
            self._holds = None
            return MoreHolds(self._placed)
        # imported late: a worker needs it only while there is a hold
        from rootcellar.history.holds import Holds

        self._holds = Holds(self._store, self._codec)
        return self._holds.condition()

    def doubtful(self) -> Condition | None:
        """Return a condition for the records that meet :meth:`condition` and may not be held; ``None`` for none."""
        return None if self._holds is None else self._holds.doubtful()

    def free(self, records: Sequence[TaskRecord]) -> tuple[Sequence[TaskRecord], Condition | None]:
        """Return those of these records that are not held, and a condition that becomes true if a hold is placed.

        Args:
            records: records with their values.
        """
        if self._holding is None or self._holds is None:
            return records, None if self._placed is None else MoreHolds(self._placed)
        known = len(self._holding.holds(with_released=True))
        held = self._holds.held(records)
        return [record for record in records if record.task_id not in held], MoreHolds(known)
