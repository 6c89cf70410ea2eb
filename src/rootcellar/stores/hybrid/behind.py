"""A quick store before a durable one, which is filled behind: a result is acknowledged when the quick store has it.

Redis keeps tasks and chords; a task waits in its journal until a drainer has moved it to PostgreSQL, and stays for a
while after that. Where both have a task, Redis has the newer one, or the same. What Redis does not have, PostgreSQL
does. Saved groups are in PostgreSQL alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import DELETE_BATCH, HasSchema, Queryable, Replaceable, Store, StoreOptions, TaskQuery
from rootcellar.stores.hybrid.drainer import Drainer
from rootcellar.stores.hybrid.settings import WHERE, read_settings
from rootcellar.stores.journal import DRAIN_BATCH, KeepsJournal, Lag, TakesBatches
from rootcellar.stores.sql.rows import checked_id, findable
from rootcellar.stores.watching import Watcher
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds for which a question that only the durable store can answer waits until that has what is asked for
PATIENCE = 10.0


class WriteBehindStore(Store):
    """The store for ``rootcellar+hybrid://`` with ``mode=write-behind``."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        settings = read_settings(url, self.options)
        self.durable = open_store(settings.durable_url, self.options)
        # what was moved may be evicted, and the journal refuses a server that evicts the rest
        self.front = open_store(settings.cache_url, replace(self.options, holds_copies=True))
        if not isinstance(self.durable, TakesBatches):
            raise _unfit("durable_url", "postgresql://")
        if not isinstance(self.front, KeepsJournal):
            raise _unfit("cache_url", "redis://")
        self._journal = self.front.keep_journal()
        self._watch = self.front.watcher_over
        self.check_journal, self.window = self._journal.check_journal, self._journal.window
        self.move_only = self._journal.move_only
        self._drainer = Drainer(self._journal, self.durable, settings.cache_expires)
        self.expires_by_itself = self.durable.expires_by_itself
        if isinstance(self.durable, Queryable):
            self.query = self._query
        if isinstance(self.durable, Replaceable):
            self.replace = self._replace
        if isinstance(self.durable, HasSchema):
            self.schema = self.durable.schema

    @property
    def where(self) -> str:
        return f"{self.front.where}, behind it {self.durable.where}"

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store in Redis. Where that has nothing of the task, PostgreSQL decides when it is moved what stays."""
        checked_id(record.task_id)
        return self.front.put(record, part, lease=lease, durable=durable)

    def get(self, task_id: str) -> TaskRecord | None:
        found, forgotten = self._journal.look([task_id])
        if task_id in found:
            return found[task_id]
        return None if forgotten else self.durable.get(task_id)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        found, missed = self._look(task_ids)
        return {**found, **self.durable.get_many(missed)} if missed else found

    def _look(self, task_ids: Iterable[str]) -> tuple[dict[str, TaskRecord], list[str]]:
        """Return the records that Redis has, and the ids of those that PostgreSQL may have."""
        ids = list(dict.fromkeys(task_ids))
        if not ids:
            return {}, []
        found, forgotten = self._journal.look(ids)
        return found, [task_id for task_id in ids if task_id not in found and task_id not in forgotten]

    def delete(self, task_ids: Iterable[str]) -> int:
        """Leave a mark in Redis for each, which stands until PostgreSQL has forgotten it too.

        Returns:
            how many records there were; without those that only PostgreSQL had while it is out of reach.
        """
        ids = findable(task_ids)
        found, missed = self._look(ids)
        count = len(found) + len(self._durable_if_in_reach(missed))
        self._journal.forget(ids)
        return count

    def _replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`; what waits is moved, and what was moved leaves Redis."""
        assert isinstance(self.durable, Replaceable)
        self._drainer.drain_all(lambda moved: None, PATIENCE)
        # before it is replaced: who dies between the two leaves nothing that is no longer true
        return self._journal.release(old.task_id) and self.durable.replace(old, new)

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        self._catch_up()
        return self.durable.scan(after, limit)

    def _query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        self._catch_up()
        return cast("Queryable", self.durable).query(query)

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        self.durable.put_group(group)

    def get_group(self, group_id: str) -> GroupRecord | None:
        return self.durable.get_group(group_id)

    def delete_group(self, group_id: str) -> None:
        self.durable.delete_group(group_id)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self.front.begin_chord(chord)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self.front.size_chord(group_id, size, relative=relative, key=key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self.front.count_part(part, lease=lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self.front.claim_chord(group_id, claimant, lease=lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        return self.front.get_chord(group_id)

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        """Return them with the results that Redis has, and those that PostgreSQL has by now."""
        parts = self.front.chord_parts(group_id)
        _, missed = self._look(part.task_id for part in parts if part.result is None)
        records = self.durable.get_many(missed) if missed else {}
        return [
            replace(part, result=records[part.task_id].result) if part.task_id in records else part for part in parts
        ]

    def finish_chord(self, group_id: str) -> None:
        self.front.finish_chord(group_id)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return self.front.orphaned_chords(owner, limit)

    # -- moving

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """See :class:`~rootcellar.stores.journal.WritesBehind`."""
        return self._drainer.drain(limit)

    def drain_all(self, note: Callable[[int], object] = lambda moved: None) -> int:
        """See :class:`~rootcellar.stores.journal.WritesBehind`."""
        return self._drainer.drain_all(note)

    def lag(self) -> Lag:
        """Look how much waits to be moved."""
        return self._journal.lag()

    def _catch_up(self) -> None:
        """Move what waits, so that an answer of the durable store has it; say so where it has not."""
        try:
            self._drainer.drain_all(lambda moved: None, PATIENCE)
        except RootcellarError as exc:
            logger.warning("The last results may be missing from the answer, for they are not moved yet: %s", exc)

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete in the durable store what was moved, then in Redis what is only there; copies expire by themselves."""
        self._catch_up()
        while self.front.delete_expired(now, limit):
            pass
        return self.durable.delete_expired(now, limit) or self._journal.delete_expired(now)

    def watcher(self) -> Watcher:
        """Return one that is told by Redis, the first to know."""
        return self._watch(self._watched)

    def _watched(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Read what somebody waits for. What only PostgreSQL has is found later while that is out of reach."""
        found, missed = self._look(task_ids)
        return {**found, **self._durable_if_in_reach(missed)}

    def _durable_if_in_reach(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        try:
            return self.durable.get_many(task_ids) if task_ids else {}
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("%d results were looked for in Redis alone: %s", len(task_ids), exc)
            return {}

    def check(self) -> None:
        """Look at both, and say in the log what a crash may lose; results are stored also without PostgreSQL.

        Raises:
            ConfigurationError: Redis would not survive a crash with what it has acknowledged.
        """
        self.check_journal()
        if window := self.window():
            logger.warning("%s [%s]", window, self.front.where)
        try:
            self.durable.check()
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("PostgreSQL is out of reach, results wait in Redis meanwhile: %s", exc)

    def close(self) -> None:
        self.front.close()
        self.durable.close()


def _unfit(name: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} names a store that write-behind cannot use",
        where=WHERE,
        remedy=f"use {wanted} there, or set mode to write-through",
    )
