"""Deletes what has expired in a hybrid of the mode write-behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.expiring import Deleted, Due, Expiring
from rootcellar.stores.journal import Journal
from rootcellar.stores.search import Condition


class BehindExpiring:
    """Deletes in the durable store, and chords in Redis. Redis itself deletes expired copies.

    A record that the durable store refused stays until it is deleted with
    :class:`~rootcellar.stores.journal.KeepsRefused`, because a hold may hold it.

    Args:
        durable: the ability of the durable store.
        journal: the journal in Redis.
        catch_up: moves the journal, so that the durable store knows the last expiry of each record.
    """

    def __init__(self, durable: Expiring, journal: Journal, catch_up: Callable[[], object]) -> None:
        self._durable = durable
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

    def count_expired_chords(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.count_expired_chords(now)

    def count_expired_adopted(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.count_expired_adopted(now)

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`. Also delete those in Redis."""
        self._journal.delete_expired_chords(now)
        return self._durable.delete_expired_chords(now, limit)

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._durable.delete_expired_adopted(now, limit)
