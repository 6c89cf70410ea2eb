"""Write-behind: the interfaces of the fast store, which has a journal, and of the durable store, which takes batches.

The fast store *keeps a journal* (:class:`KeepsJournal`): the step that stores or deletes a task also adds it to the
journal, and it stays there until the durable store has the change. The durable store *takes batches*
(:class:`TakesBatches`): records are moved in a transaction that is exclusive. The journal is read inside of it, so each
batch is newer than the previous ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, runtime_checkable

from rootcellar.errors import RecordRefused
from rootcellar.records import Stored, TaskRecord
from rootcellar.stores.watching import Fetch, Watcher

#: tasks that one call of :meth:`WritesBehind.drain` moves at most
DRAIN_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A task that was stored or deleted and not moved since.

    Attributes:
        task_id: the task.
        entry: its place in the journal.
        version: changes with every change of the task.
        was_forgotten: whether it was deleted since it was last moved: the durable store must delete its record first.
        record: the record that is stored now; ``None`` if there is none.
    """

    task_id: str
    entry: str
    version: str
    was_forgotten: bool
    record: TaskRecord | None


class Outcome(Enum):
    """What happened to a pending task in the durable store."""

    MOVED = b"moved"
    GONE = b"gone"  #: it has no record any more
    REFUSED = b"refused"  #: the durable store refuses it


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The result of moving a pending task, for the journal.

    Attributes:
        pending: as it was read.
        outcome: what happened to it.
        lasts: how long the fast store keeps it; ``None`` for ever. A record that was refused is kept in any case.
        kept: the record of the durable store, if it is another one.
    """

    pending: Pending
    outcome: Outcome
    lasts: timedelta | None = None
    kept: TaskRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far the durable store is behind.

    Attributes:
        waiting: tasks that were stored or deleted and not moved yet.
        oldest: seconds for which the oldest of them has waited; 0 if there is none.
        refused: tasks whose results the durable store refused; they stay in the fast store.
    """

    waiting: int
    oldest: float
    refused: int


class Journal(Protocol):
    """The tasks of a fast store that are still to be moved."""

    def look(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the records of these tasks, and the ids of those that have a tombstone."""

    def forget(self, task_ids: Sequence[str]) -> None:
        """Replace each of these tasks by a tombstone, until the durable store has deleted it too."""

    def oldest(self, limit: int) -> Sequence[Pending]:
        """Return the tasks that have waited longest; fewer than ``limit`` if they are large."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Remove from the journal what was moved and has not changed since it was read."""

    def release(self, task_id: str) -> bool:
        """Delete a task that was moved; return whether nothing is left here that the durable store does not have."""

    def delete_expired(self, now: datetime) -> int:
        """Delete what expired before ``now`` and is only in this store: chords, and tasks that were refused.

        These have no expiry in the server, because it may evict keys that have one. This reads all keys, so it is meant
        for the end of a cleanup.

        Returns:
            how many tasks; chords are not counted.
        """

    def lag(self) -> Lag:
        """Return how much is still to be moved."""

    def last_entry(self) -> str | None:
        """Return the newest entry of the journal; ``None`` if it is empty."""

    def is_moved(self, entry: str) -> bool:
        """Return whether every entry up to ``entry`` was moved."""

    def check_journal(self) -> None:
        """Check that the journal survives a crash.

        Raises:
            ConfigurationError: it does not survive.
        """

    def move_only(self) -> None:
        """From now on, accept a server that would lose the journal in a crash: this process only moves records."""

    def window(self) -> str | None:
        """Return which acknowledged results a crash may lose, as a sentence; ``None`` for none."""


@runtime_checkable
class KeepsJournal(Protocol):
    """A store that can be the fast store of write-behind."""

    def keep_journal(self) -> Journal:
        """From now on, add to the journal what is stored, and keep it until it was moved.

        Raises:
            ConfigurationError: this store cannot do so.
        """

    def unmoved(self) -> int:
        """Return how many tasks are in a journal of an earlier time."""

    def watcher_over(self, fetch: Fetch) -> Watcher:
        """Return the one watcher of this process, which reads records by ``fetch``."""


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

    def exclusive_batch(self) -> AbstractContextManager[Batch | None]:
        """Begin an exclusive transaction, and commit it at the end of the ``with`` block.

        Yields ``None`` if another process has it. The server ends the transaction of a process that hangs.

        Raises:
            StoreUnavailable: the transaction was not committed, or that is not known.
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
        """Move some tasks to the durable store; return how many, 0 also if another process does so."""

    def drain_all(self, note: Callable[[int], object] = lambda moved: None) -> int:
        """Move all that is in the journal now, or wait until others have; return how many were moved here.

        Args:
            note: called with the number of each batch.
        """

    def lag(self) -> Lag:
        """Return how much is still to be moved."""
