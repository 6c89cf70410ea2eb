"""Deletes what has expired in a hybrid of the mode write-behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH, Store
from rootcellar.stores.expiring import Deleted, Due, Expiring
from rootcellar.stores.journal import Journal
from rootcellar.stores.search import Condition


class BehindExpiring:
    """Deletes in the durable store, and in Redis what was not moved. Redis itself deletes expired copies.

    Args:
        durable: the ability of the durable store.
        front: Redis.
        journal: its journal.
        catch_up: moves the journal, so that the durable store knows the last expiry of each record.
    """

    def __init__(self, durable: Expiring, front: Store, journal: Journal, catch_up: Callable[[], object]) -> None:
        self._durable = durable
        self._front = front
        self._journal = journal
        self._catch_up = catch_up

    def delete_expired_tasks(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        self._catch_up()
        return self._durable.delete_expired_tasks(due)

    def count_expired(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.count_expired(due)

    def expired(self, due: Due) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.expired(due)

    def delete_unchanged(
        self, records: Sequence[TaskRecord], spared: Condition | None = None, timeout: float = 30.0
    ) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        self._catch_up()
        return self._durable.delete_unchanged(records, spared, timeout)

    def count_expired_groups(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.count_expired_groups(now)

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.delete_expired_groups(now, limit)

    def delete_expired_chords(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`. Also delete the tasks that the durable store refused."""
        while self._front.delete_expired(now):
            pass
        self._journal.delete_expired(now)
        return self._durable.delete_expired_chords(now)

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.delete_expired_adopted(now, limit)
