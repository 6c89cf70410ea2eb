"""Writing behind: a quick store notes in a journal what was stored in it, and the notes are moved to a durable store.

Here is what the two sides are asked for. The quick store *keeps a journal* (:class:`KeepsJournal`): a task is in it
from the moment in which it was stored or forgotten, in the same step, until the durable store has that. The durable
store *takes batches* (:class:`TakesBatches`): what is moved is written in one transaction, and no other such
transaction runs beside it. So whatever is read from the journal inside of it is newer than what any earlier batch has
written.
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
    """A task that was stored or forgotten and not moved since.

    Attributes:
        task_id: the task.
        entry: its place in the journal.
        version: another one after every change of the task.
        was_forgotten: whether it was forgotten since it was last moved: what the durable store has must go first.
        record: what is stored of it now; ``None`` where that is forgotten or gone.
    """

    task_id: str
    entry: str
    version: str
    was_forgotten: bool
    record: TaskRecord | None


class Outcome(Enum):
    """What became of a pending task in the durable store."""

    MOVED = b"moved"
    GONE = b"gone"  #: there is nothing of it any more
    REFUSED = b"refused"  #: the durable store does not take it


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What the journal is told of a pending task.

    Attributes:
        pending: as it was read.
        outcome: what became of it.
        lasts: how long the quick store goes on keeping it; ``None`` for ever, as what was refused is kept in any case.
        kept: what the durable store has of it, where that is something else.
    """

    pending: Pending
    outcome: Outcome
    lasts: timedelta | None = None
    kept: TaskRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far the durable store is behind.

    Attributes:
        waiting: tasks that were stored or forgotten and not moved yet.
        oldest: seconds for which the oldest of them has waited; 0 where there is none.
        refused: tasks whose results the durable store refused; they stay in the quick store.
    """

    waiting: int
    oldest: float
    refused: int


class Journal(Protocol):
    """What a store keeps of the tasks that wait to be moved."""

    def look(self, task_ids: Sequence[str]) -> tuple[dict[str, TaskRecord], set[str]]:
        """Return the records that there are of these tasks, and the ids of those that are forgotten."""

    def forget(self, task_ids: Sequence[str]) -> None:
        """Leave a mark in place of each of these tasks, until the durable store has forgotten it too."""

    def oldest(self, limit: int) -> Sequence[Pending]:
        """Return the tasks that have waited longest; fewer than ``limit`` also where they are large."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Take out of the journal what was moved and has not changed since it was read."""

    def release(self, task_id: str) -> bool:
        """Take away what was moved of a task; return whether nothing of it is left here that others do not have."""

    def delete_expired(self, now: datetime) -> int:
        """Delete what expired before ``now`` and is in no other store: chords, and tasks that were refused.

        Such things do not expire in the server by themselves, for that may evict what does. This looks through all
        keys, so it is meant for the end of a cleanup.

        Returns:
            how many tasks; chords are not counted.
        """

    def lag(self) -> Lag:
        """Look how much waits to be moved."""

    def last_entry(self) -> str | None:
        """Return the youngest entry of the journal, ``None`` where it is empty."""

    def is_moved(self, entry: str) -> bool:
        """Tell whether no entry waits that is as old as ``entry``."""

    def check_journal(self) -> None:
        """Look whether the journal survives a crash.

        Raises:
            ConfigurationError: it does not survive.
        """

    def move_only(self) -> None:
        """From now on, also use a server that would lose the journal in a crash: for who only moves what is there."""

    def window(self) -> str | None:
        """Say what of that which was acknowledged a crash may lose, ``None`` for nothing."""


@runtime_checkable
class KeepsJournal(Protocol):
    """A store that can have results before a durable one does."""

    def keep_journal(self) -> Journal:
        """From now on, note what is stored, and keep it until it was moved.

        Raises:
            ConfigurationError: this store cannot do so.
        """

    def unmoved(self) -> int:
        """Return how many tasks are in a journal that was kept here before."""

    def watcher_over(self, fetch: Fetch) -> Watcher:
        """Return the one watcher of this process, which reads by ``fetch``."""


class Batch(Protocol):
    """What is written in one transaction."""

    def put(self, records: Sequence[TaskRecord]) -> Sequence[Stored | RecordRefused]:
        """Store as :meth:`~rootcellar.stores.base.Store.put` does; tell of each, also whether it was the first."""

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records that exist of these tasks, as this transaction leaves them."""

    def delete(self, task_ids: Iterable[str]) -> None:
        """Delete these tasks' records."""


@runtime_checkable
class TakesBatches(Protocol):
    """A durable store that another one may be drained into."""

    def exclusive_batch(self) -> AbstractContextManager[Batch | None]:
        """Begin a transaction beside which no other one of this kind runs, and commit it at the end of the ``with``.

        It is ``None`` where somebody else has one. Whoever stands still in it loses it.

        Raises:
            StoreUnavailable: nothing, or not all, was committed.
        """


@runtime_checkable
class WritesBehind(Protocol):
    """A store that has results before its durable store does."""

    def check(self) -> None:
        """See :meth:`~rootcellar.stores.base.Store.check`."""

    def check_journal(self) -> None:
        """See :meth:`Journal.check_journal`."""

    def move_only(self) -> None:
        """See :meth:`Journal.move_only`."""

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """Move some tasks to the durable store; return how many, 0 also while somebody else does so."""

    def drain_all(self, note: Callable[[int], object] = lambda moved: None) -> int:
        """Move what waits at this moment, or wait until others have; return how many were moved here.

        Args:
            note: called with the number of each batch.
        """

    def lag(self) -> Lag:
        """Look how much waits to be moved."""
