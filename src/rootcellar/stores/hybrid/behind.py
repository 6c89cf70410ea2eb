"""Write-behind: a result is acknowledged when the fast store has it, and is moved to the durable store later.

Redis keeps tasks and chords. A task is in its journal until a drainer has moved it to PostgreSQL, and stays in Redis
for a while after that. If both have a task, the record in Redis is newer or the same. A record that Redis does not
have is in PostgreSQL. Saved groups are only in PostgreSQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar, cast

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.records import ChordPart, PartResult, Stored, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import DELETE_BATCH, RecordsSent, StoreOptions, TaskQuery
from rootcellar.stores.expiring import Expiring
from rootcellar.stores.holding import Removed
from rootcellar.stores.hybrid.drainer import Drainer
from rootcellar.stores.hybrid.expiring import BehindExpiring
from rootcellar.stores.hybrid.forwarding import ForwardingStore
from rootcellar.stores.hybrid.settings import WHERE, read_settings
from rootcellar.stores.journal import DRAIN_BATCH, KeepsJournal, Lag, TakesBatches
from rootcellar.stores.search import Condition
from rootcellar.stores.watching import Watcher
from rootcellar.text.escaping import visible_logs

A = TypeVar("A")

logger = visible_logs(logging.getLogger(__name__))

#: seconds for which a query waits until the records are moved to the durable store, which alone can answer it
CATCH_UP_SECONDS = 10.0


class WriteBehindStore(ForwardingStore):
    """The store for ``rootcellar+hybrid://`` with ``mode=write-behind``."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        settings = read_settings(url, options)
        # records that were moved may be evicted; the journal refuses a server that evicts others
        self.front = open_store(settings.cache_url, replace(options, holds_copies=True))
        super().__init__(url, options, durable=open_store(settings.durable_url, options), chords=self.front)
        batches, front = self.durable.ability(TakesBatches), self.front.ability(KeepsJournal)
        if batches is None:
            raise _unfit("durable_url", "postgresql://")
        if front is None:
            raise _unfit("cache_url", "redis://")
        self._records_sent = self.front.ability(RecordsSent)
        self._checked_id, self._findable = batches.checked_id, batches.findable
        self._journal = front.keep_journal()
        self._watcher_over = front.watcher_over
        self._drainer = Drainer(self._journal, batches, settings.cache_expires)

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability, or ``None``. What deletes expired records must know what was not moved yet."""
        found = super().ability(protocol)
        if protocol is Expiring and found is not None:
            expiring = BehindExpiring(cast("Expiring", found), self._journal, self._catch_up)
            return cast("A", expiring)
        return found

    @property
    def where(self) -> str:
        return f"{self.front.where}, behind it {self.durable.where}"

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store in Redis. If Redis has no record of the task, PostgreSQL decides at the move which record stays."""
        self._checked_id(record.task_id)
        return self.front.put(record, part, lease=lease, durable=durable)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`. A record that Redis does not have may be in PostgreSQL."""
        _, missed = self._read_front(self._checked_id(record.task_id) for record in records)
        new = set(missed) - self._durable_if_reachable(missed).keys()
        super().put_sent([record for record in records if record.task_id in new])

    def get(self, task_id: str) -> TaskRecord | None:
        found, forgotten = self._journal.read([task_id])
        if task_id in found:
            return found[task_id]
        return None if forgotten else self.durable.get(task_id)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        found, missed = self._read_front(task_ids)
        return {**found, **self.durable.get_many(missed)} if missed else found

    def _read_front(self, task_ids: Iterable[str]) -> tuple[dict[str, TaskRecord], list[str]]:
        """Return the records that Redis has, and the ids of those that PostgreSQL may have."""
        ids = list(dict.fromkeys(task_ids))
        if not ids:
            return {}, []
        found, forgotten = self._journal.read(ids)
        return found, [task_id for task_id in ids if task_id not in found and task_id not in forgotten]

    def delete(self, task_ids: Iterable[str]) -> int:
        """Leave a tombstone in Redis for each, until PostgreSQL has deleted it too.

        Returns:
            how many records there were; without those of PostgreSQL if it cannot be reached.
        """
        ids = self._findable(task_ids)
        found, missed = self._read_front(ids)
        count = len(found) + len(self._durable_if_reachable(missed))
        self._journal.forget(ids)
        return count

    def delete_spared(self, task_ids: Iterable[str], spared: Condition) -> Removed:
        """See :class:`~rootcellar.stores.holding.Holding`. Redis decides and tests no condition: the caller has read
        the records, and deletes only those that may be deleted."""
        return Removed(self.delete(task_ids))

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`; the journal is moved first, and the record leaves Redis."""
        self._drainer.drain_all(lambda moved: None, CATCH_UP_SECONDS)
        # first: if the process dies between the two, Redis has no outdated record
        return self._journal.release(old.task_id) and super().replace(old, new)

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        self._catch_up()
        return super().scan(after, limit)

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.base.Queryable`; the journal is moved first."""
        self._catch_up()
        return super().query(query)

    # -- chords

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        """Return the parts with their results, from Redis or, if they were moved, from PostgreSQL."""
        parts = self.front.chord_parts(group_id)
        _, missed = self._read_front(part.task_id for part in parts if part.result is None)
        records = self.durable.get_many(missed) if missed else {}
        return [
            replace(part, result=records[part.task_id].result) if part.task_id in records else part for part in parts
        ]

    # -- moving

    def check_journal(self) -> None:
        """See :meth:`~rootcellar.stores.journal.Journal.check_journal`."""
        self._journal.check_journal()

    def move_only(self) -> None:
        """See :meth:`~rootcellar.stores.journal.Journal.move_only`."""
        self._journal.move_only()

    def window(self) -> str | None:
        """See :meth:`~rootcellar.stores.journal.Journal.window`."""
        return self._journal.window()

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """See :class:`~rootcellar.stores.journal.WritesBehind`."""
        return self._drainer.drain(limit)

    def drain_all(self, on_batch: Callable[[int], object] = lambda moved: None) -> int:
        """See :class:`~rootcellar.stores.journal.WritesBehind`."""
        return self._drainer.drain_all(on_batch)

    def refused(self) -> Iterator[Sequence[TaskRecord]]:
        """See :class:`~rootcellar.stores.journal.KeepsRefused`."""
        return self._journal.refused()

    def delete_expired_refused(self, now: datetime, task_ids: Sequence[str] | None = None) -> int:
        """See :class:`~rootcellar.stores.journal.KeepsRefused`."""
        return self._journal.delete_expired_refused(now, task_ids)

    def lag(self) -> Lag:
        """Return how much is still to be moved."""
        return self._journal.lag()

    def _catch_up(self) -> None:
        """Move the journal, so that a query of the durable store finds all; log a warning if not all was moved."""
        try:
            self._drainer.drain_all(lambda moved: None, CATCH_UP_SECONDS)
        except RootcellarError as exc:
            logger.warning("The last results may be missing from the answer, because they are not moved yet: %s", exc)

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete in the durable store, and in Redis the records that were not moved. Redis deletes expired copies."""
        self._catch_up()
        while self.front.delete_expired(now, limit):
            pass
        return self.durable.delete_expired(now, limit) or self._journal.delete_expired(now)

    def watcher(self) -> Watcher:
        """Return a watcher that Redis notifies, because results are there first."""
        return self._watcher_over(self._watched)

    def _watched(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Read records for the watcher. If PostgreSQL cannot be reached, its records are found later."""
        found, missed = self._read_front(task_ids)
        return {**found, **self._durable_if_reachable(missed)}

    def _durable_if_reachable(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        try:
            return self.durable.get_many(task_ids) if task_ids else {}
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("%d results were looked up only in Redis: %s", len(task_ids), exc)
            return {}

    def check(self) -> None:
        """Check both stores, and log what a crash may lose. PostgreSQL need not be reachable: Redis keeps the results.

        Raises:
            ConfigurationError: Redis would lose acknowledged results in a crash.
        """
        self.check_journal()
        if window := self.window():
            logger.warning("%s [%s]", window, self.front.where)
        try:
            self.durable.check()
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("PostgreSQL cannot be reached; Redis keeps the results meanwhile: %s", exc)

    def close(self) -> None:
        self.front.close()
        self.durable.close()


def _unfit(name: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} names a store that write-behind cannot use",
        where=WHERE,
        remedy=f"use {wanted} there, or set mode to write-through",
    )
