"""Write-behind: the interfaces of the fast store, which has a journal, and of the durable store, which takes batches.

The fast store *keeps a journal* (:class:`KeepsJournal`): the operation that stores or deletes a task also adds it to
the journal. The task stays there until the durable store has the change. The durable store *takes batches*
(:class:`TakesBatches`): records are moved in an exclusive transaction. The journal is read inside this transaction, so
each batch is newer than the previous ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, runtime_checkable

from rootcellar.errors import RecordRefused
from rootcellar.records import Stored, TaskRecord
from rootcellar.stores.watching import Fetch, Watcher

#: the most tasks that one call of :meth:`WritesBehind.drain` moves
DRAIN_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A task that was stored or deleted, and was not moved since then.

    Attributes:
        task_id: the task.
        entry: its place in the journal.
        version: changes with every change of the task.
        was_forgotten: whether it was deleted since it was last moved. Then the durable store must delete its record
            before it stores the new one.
        record: the record that the fast store has now; ``None`` if it has none.
    """

    task_id: str
    entry: str
    version: str
    was_forgotten: bool
    record: TaskRecord | None


class Outcome(Enum):
    """What happened to a pending task in the durable store."""

    MOVED = b"moved"
    GONE = b"gone"  #: the fast store has no record of it any more
    REFUSED = b"refused"  #: the durable store refuses it


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveResult:
    """The result of moving a pending task, for the journal.

    Attributes:
        pending: the task, as it was read.
        outcome: what happened to it.
        ttl: how long the fast store keeps the record from now on; ``None`` for ever. A refused record is always kept.
        kept: the record of the durable store, if it differs from that of the fast store.
    """

    pending: Pending
    outcome: Outcome
    ttl: timedelta | None = None
    kept: TaskRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far the durable store is behind.

    Attributes:
        waiting: the number of tasks that were stored or deleted and not moved yet.
        oldest: seconds for which the oldest of them has waited; 0 if there is none.
        refused: the number of tasks whose results the durable store refused; they stay in the fast store.
    """

    waiting: int
    oldest: float
    refused: int


class Journal(Protocol):
    """The tasks of a fast store that are still to be moved."""

    def read(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the records of these tasks, and the ids of those that have a tombstone."""

    def forget(self, task_ids: Sequence[str]) -> None:
        """Replace each of these tasks by a tombstone, until the durable store has deleted it too."""

    def oldest(self, limit: int) -> Sequence[Pending]:
        """Return the tasks that have waited longest: at most ``limit``, and fewer if they are large."""

    def remove_moved(self, move_results: Sequence[MoveResult]) -> None:
        """Remove from the journal the tasks that were moved and have not changed since they were read."""

    def release(self, task_id: str) -> bool:
        """Delete a task that was moved. Return ``False`` if it was not moved, and so was not deleted."""

    def delete_expired(self, now: datetime) -> int:
        """Delete the chords and the refused tasks that expired before ``now``: this store has the only copy of them.

        They have no expiry in the server, because it may evict keys that have one. The call reads all keys, so call it
        once, at the end of a cleanup.

        Returns:
            how many tasks; chords are not counted.
        """

    def delete_expired_chords(self, now: datetime) -> None:
        """Delete the chords that expired before ``now``, and no task."""

    def refused(self) -> Iterator[Sequence[TaskRecord]]:
        """See :class:`KeepsRefused`."""

    def delete_expired_refused(self, now: datetime, task_ids: Sequence[str] | None = None) -> int:
        """See :class:`KeepsRefused`."""

    def lag(self) -> Lag:
        """Return how much is still to be moved."""

    def last_entry(self) -> str | None:
        """Return the newest entry of the journal; ``None`` if it is empty."""

    def is_moved(self, entry: str) -> bool:
        """Return whether every entry up to ``entry`` was moved."""

    def check_journal(self) -> None:
        """Check that the journal survives a crash.

        Raises:
            ConfigurationError: it does not.
        """

    def move_only(self) -> None:
        """From now on, accept a server that may lose the journal in a crash: this process only moves records."""

    def window(self) -> str | None:
        """Return which acknowledged results a crash may lose, as a sentence; ``None`` for none."""


@runtime_checkable
class KeepsJournal(Protocol):
    """A store that can be the fast store of write-behind."""

    def keep_journal(self) -> Journal:
        """From now on, add each stored or deleted task to the journal, and keep it until it was moved.

        Raises:
            ConfigurationError: this store cannot keep a journal.
        """

    def unmoved(self) -> int:
        """Return how many tasks are in the journal, for a process that does not write to it."""

    def watcher_over(self, fetch: Fetch) -> Watcher:
        """Return the one watcher of this process, which reads records with ``fetch``."""


class Batch(Protocol):
    """The records that are written in one transaction."""

    def put(self, records: Sequence[TaskRecord]) -> Sequence[Stored | RecordRefused]:
        """Store as :meth:`~rootcellar.stores.base.Store.put` does; return the outcome of each, with ``inserted``."""

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records that exist of these tasks, as this transaction leaves them."""

    def delete(self, task_ids: Iterable[str]) -> None:
        """Delete these tasks' records."""


@runtime_checkable
class TakesBatches(Protocol):
    """A store that can be the durable store of write-behind."""

    def checked_id(self, task_id: str) -> str:
        """Return the id of a task, if this store can store it.

        Raises:
            RecordRefused: it cannot.
        """

    def findable(self, task_ids: Iterable[str]) -> list[str]:
        """Return each of these ids once, without those that no record of this store can have."""

    def exclusive_batch(self) -> AbstractContextManager[Batch | None]:
        """Begin an exclusive transaction, and commit it at the end of the ``with`` block.

        Yields ``None`` if another process has the exclusive transaction. The server ends the transaction of a process
        that hangs.

        Raises:
            StoreUnavailable: the transaction was not committed, or it is not known whether it was.
        """


@runtime_checkable
class KeepsRefused(Protocol):
    """A store that keeps the records that its durable store refused, where no condition on rows finds them."""

    def refused(self) -> Iterator[Sequence[TaskRecord]]:
        """Yield the refused records with their values, some at a time; a record may come twice.

        A key that holds no record is left out.
        """

    def delete_expired_refused(self, now: datetime, task_ids: Sequence[str] | None = None) -> int:
        """Delete refused records that expired before ``now``; return how many.

        Args:
            now: the moment.
            task_ids: only the records of these tasks; ``None`` for all.
        """


@runtime_checkable
class WritesBehind(Protocol):
    """A store that consists of a fast one and a durable one."""

    def check(self) -> None:
        """See :meth:`~rootcellar.stores.base.Store.check`."""

    def check_journal(self) -> None:
        """See :meth:`Journal.check_journal`."""

    def move_only(self) -> None:
        """See :meth:`Journal.move_only`."""

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """Move some tasks to the durable store; return how many, and 0 also if another process moves some."""

    def drain_all(self, on_batch: Callable[[int], object] = lambda moved: None) -> int:
        """Move all tasks that are in the journal now, or wait until other processes have moved them.

        Args:
            on_batch: called with the number of tasks of each batch.

        Returns:
            how many this process has moved.
        """

    def lag(self) -> Lag:
        """Return how much is still to be moved."""
