"""One of the two stores of a migration, with its abilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from rootcellar.errors import MigrationRefused
from rootcellar.records import ChordPart, GroupRecord, Stored, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.mirroring import CopyReport, Held, Mirrored
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import ReadsWhole, Streamed

A = TypeVar("A")


class Side:
    """A store, and the calls that a migration makes to it.

    Args:
        store: the store.

    Raises:
        MigrationRefused: the store cannot be migrated from or to.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._mirrored = self._required(Mirrored)
        self.shared = self._required(SharesValues)
        self._whole = store.ability(ReadsWhole)

    def _required(self, protocol: type[A]) -> A:
        if (found := self.store.ability(protocol)) is None:
            raise MigrationRefused(
                "this store can be neither the source nor the target of a migration",
                where=self.store.where,
                remedy="copy its results with `rootcellar copy`; a hybrid must be in the mode write-through",
            )
        return found

    @property
    def where(self) -> str:
        """The store, for messages."""
        return self.store.where

    @cached_property
    def streamed(self) -> Streamed:
        """The ability to take saved groups."""
        return self._required(Streamed)

    # -- a store's own calls

    def put(self, record: TaskRecord, part: ChordPart | None = None, *, lease: float, durable: bool) -> Stored:
        """See :class:`~rootcellar.stores.base.Store`."""
        return self.store.put(record, part, lease=lease, durable=durable)

    def get(self, task_id: str) -> TaskRecord | None:
        """See :class:`~rootcellar.stores.base.Store`."""
        return self.store.get(task_id)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """See :class:`~rootcellar.stores.base.Store`."""
        return self.store.get_many(task_ids)

    def with_expiry(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Return records of this store that go to the other one, with the expiry that only the server knows."""
        silent = [record.task_id for record in records if record.expires_at is None]
        if not silent or self._whole is None or self._whole is self.store:
            return list(records)
        found = self._whole.get_many(silent)
        return [found.get(record.task_id, record) for record in records]

    # -- the ability to be mirrored

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._mirrored.mirror(record)

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._mirrored.settle(record)

    def copy(self, records: Sequence[TaskRecord]) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._mirrored.copy(records)

    def bury(self, task_ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]]) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._mirrored.bury(task_ids, known)

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._mirrored.bury_same(records)

    def copy_groups(self, groups: Sequence[GroupRecord]) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        return self.streamed.copy_groups(groups)
