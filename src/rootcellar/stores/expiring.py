"""Deleting what has expired, batch by batch, in the order in which it expired.

A batch goes on where the one before ended. So it does not read again the places of deleted rows, which a server must
keep while an old snapshot is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from rootcellar.errors import StoreError
from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.search import Condition

#: parts that are deleted for each chord of a batch
PARTS_OF_A_CHORD = 10


class DeletionTooSlow(StoreError):
    """A batch of expired records was not deleted within its time. Retryable: with a smaller batch, or later."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order in which records expire. It stays valid if the record that was there is deleted.

    Attributes:
        expires_at: when the record expires.
        task_id: its id.
        row: where its row is, in the words of the store: this is the order of records that expire at the same time.
            ``None`` if that is the order of their ids.
    """

    expires_at: datetime
    task_id: str
    row: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which expired records one call reads or deletes.

    Attributes:
        now: only records that expired before this moment.
        limit: the most records that one call looks at. In :meth:`Expiring.expired`: that it returns.
        after: only records after this place; ``None`` from the beginning.
        until: only records up to this place, with the record there; ``None`` up to the last one.
        spared: records that meet this condition are left out; ``None`` for none.
        wanted: only records that meet this condition; ``None`` for all.
        timeout: seconds after which the server gives up; infinity for never.
        with_values: whether results, tracebacks, children and stamps are read.
    """

    now: datetime
    limit: int = DELETE_BATCH
    after: Place | None = None
    until: Place | None = None
    spared: Condition | None = None
    wanted: Condition | None = None
    timeout: float = 30.0
    with_values: bool = True


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one call deleted, or would delete.

    Attributes:
        count: how many records.
        last: the place of the last record that it looked at; the next call begins after it. ``None`` if nothing more
            is due.
        spared: how many records it looked at and left out, because of ``Due.spared`` and ``Due.wanted``.
    """

    count: int
    last: Place | None
    spared: int = 0


@runtime_checkable
class Expiring(Protocol):
    """A store that deletes expired records in batches. Each batch goes on where the one before ended."""

    def delete_expired_tasks(self, due: Due) -> Deleted:
        """Look at the next ``due.limit`` expired records, and delete those that are wanted and not spared.

        A record that is stored again meanwhile, with a later expiry, stays; so does one that another transaction has
        locked. What was counted of the deleted records is kept.

        Raises:
            DeletionTooSlow: it took longer than ``due.timeout``. Nothing was deleted.
        """

    def count_expired(self, due: Due) -> Deleted:
        """Count what :meth:`delete_expired_tasks` would delete; delete nothing."""

    def expired(self, due: Due) -> Sequence[TaskRecord]:
        """Return the next ``due.limit`` expired records that are wanted and not spared, the first to expire first.

        Those that expire at the same time are in the order of their ids.

        Raises:
            DeletionTooSlow: it took longer than ``due.timeout``.
        """

    def delete_unchanged(
        self, records: Sequence[TaskRecord], spared: Condition | None = None, timeout: float = 30.0
    ) -> int:
        """Delete those of these records whose ``expires_at`` is still the same; return how many.

        Each new state of a task sets another ``expires_at``: so a record that was stored again stays.

        Args:
            records: the records, as they were read.
            spared: records that meet this condition stay.
            timeout: seconds after which the server gives up.

        Raises:
            DeletionTooSlow: it took longer than ``timeout``.
        """

    def count_expired_groups(self, now: datetime) -> int:
        """Return how many saved groups expired before ``now``."""

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete up to ``limit`` saved groups that expired before ``now``; return how many."""

    def count_expired_chords(self, now: datetime) -> int:
        """Return how many chords expired before ``now``, or were finished a day before."""

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete up to ``limit`` chords that expired before ``now``, or were finished a day before; return how many.

        Those with many parts are deleted in smaller numbers: about as soon as :data:`PARTS_OF_A_CHORD` for each of
        ``limit`` chords are deleted, the call ends.

        Raises:
            DeletionTooSlow: it took too long. Nothing was deleted.
        """

    def count_expired_adopted(self, now: datetime) -> int:
        """Return how many tasks and groups of the tables that Celery created expired before ``now``."""

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete up to ``limit`` expired tasks, and as many groups, of the tables that Celery created."""


@runtime_checkable
class Replicated(Protocol):
    """A store whose server says how far its replicas are behind."""

    def replica_lag(self) -> float | None:
        """Return the seconds that the slowest replica is behind.

        ``None`` if there is none, or this user may not ask.
        """


@dataclass(frozen=True, slots=True)
class NewExpiry:
    """Another expiry for a stored task.

    Attributes:
        record: the task as it was read. If its state, its end or its expiry is another one now, it stays as it is.
        expires_at: when it may be deleted; ``None`` for never.
    """

    record: TaskRecord
    expires_at: datetime | None


@runtime_checkable
class Postponable(Protocol):
    """A store that can change when stored tasks expire."""

    def set_expiries(self, changes: Sequence[NewExpiry]) -> int:
        """Set other expiries; return how many tasks were changed.

        A task that was stored again after it was read stays as it is, and so does one that another transaction stores
        at this moment.
        """
