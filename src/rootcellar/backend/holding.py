"""What a backend does about holds when a result is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rootcellar.errors import ResultHeld
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.holding import HoldReader, Removed

if TYPE_CHECKING:
    from rootcellar.history.holds import Holds

#: the most seconds after which a process knows a new hold
MAX_AGE = 60.0


class HoldsOfBackend:
    """Deletes results that are not held. It imports nothing, and asks nothing else, while there is no hold.

    Args:
        store: the store.
        codec: opens values that the filter of a hold asks for.
    """

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec
        self._reader = HoldReader(store, MAX_AGE)

    def delete(self, task_ids: Iterable[str]) -> Removed:
        """Delete the records of these tasks, except those that are held."""
        if not self._reader.placed().active:
            return Removed(self._store.delete(task_ids))
        return self._holds().delete(task_ids)

    def check(self, read: Callable[[], Iterable[TaskRecord]]) -> None:
        """Do nothing if no record is held; read the records only while there is a hold.

        Raises:
            ResultHeld: one is held.
        """
        if self._reader.placed().active:
            self._holds().check(read())

    def refusal(self, removed: Removed) -> ResultHeld:
        """Return the error for records that were not deleted."""
        return self._holds().refusal(removed)

    def _holds(self) -> Holds:
        # imported late: most stores have no holds
        from rootcellar.history.holds import Holds

        return Holds(self._store, self._codec, reader=self._reader)
