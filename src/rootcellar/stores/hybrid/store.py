"""A cache in front of a durable store, written through: whatever is acknowledged is in the durable store.

The durable store decides everything: what is written, which SUCCESS stays, who counts a chord's part. The cache only
spares it reads, and may be flushed or gone at any time. Groups and chords are not copied: they change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime

from rootcellar.errors import PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import (
    DELETE_BATCH,
    HasSchema,
    Queryable,
    Replaceable,
    ReportsInserts,
    Store,
    StoreOptions,
    Watchable,
)
from rootcellar.stores.hybrid.cache import Cache
from rootcellar.stores.hybrid.exactness import survives_round_trip
from rootcellar.stores.hybrid.settings import read_settings
from rootcellar.stores.journal import KeepsJournal
from rootcellar.stores.watching import PollingWatcher, Watcher
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the most copies that one call of get_many makes: what is left is read from the durable store again
COPIES_AT_ONCE = 200


class HybridStore(Store):
    """The store for ``rootcellar+hybrid://``; the transport options say which two it is made of."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        settings = read_settings(url, self.options)
        self.durable = open_store(settings.durable_url, self.options)
        cache = open_store(settings.cache_url, settings.cache_options)
        self._cache_store = cache
        self.cache = Cache(cache, settings.cache_expires)
        self._where = f"{self.durable.where}, cache {cache.where}"
        self.expires_by_itself = self.durable.expires_by_itself
        self._polling = PerProcess(lambda: PollingWatcher(self.get_many))
        if isinstance(self.durable, ReportsInserts):
            self.durable.report_inserts()
        # abilities of the durable store are ours
        if isinstance(self.durable, Queryable):
            self.query = self.durable.query
        if isinstance(self.durable, Replaceable):
            self.replace = self._replace
        if isinstance(self.durable, HasSchema):
            self.schema = self.durable.schema

    @property
    def where(self) -> str:
        return self._where

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store in the durable store, then copy a result that is there exactly as it was given."""
        started = time.monotonic()
        stored = self.durable.put(record, part, lease=lease, durable=durable)
        if stored.written and stored.inserted and survives_round_trip(record):
            self.cache.keep(record, started)
        return stored

    def get(self, task_id: str) -> TaskRecord | None:
        copies, barred = self.cache.get([task_id])
        if task_id in copies:
            return copies[task_id]
        started = time.monotonic()
        record = self.durable.get(task_id)
        if record is not None and task_id not in barred:
            self.cache.keep(record, started)
        return record

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = list(dict.fromkeys(task_ids))
        copies, barred = self.cache.get(ids)
        missed = [task_id for task_id in ids if task_id not in copies]
        if not missed:
            return copies
        started = time.monotonic()
        found = self.durable.get_many(missed)
        done = [one for one in found.values() if one.state == "SUCCESS" and one.task_id not in barred]
        for record in done[:COPIES_AT_ONCE]:
            self.cache.keep(record, started)
        return {**copies, **found}

    def delete(self, task_ids: Iterable[str]) -> int:
        """Delete in the durable store, then in the cache.

        Raises:
            StoreUnavailable: also where only the cache is out of reach: a copy may show what was forgotten, until it
                expires. Repeat it.
        """
        ids = list(dict.fromkeys(task_ids))
        count = self.durable.delete(ids)
        try:
            self.cache.forget(ids)
        except RootcellarError as exc:
            raise StoreUnavailable(
                f"deleted, but the cache could not be told and may still show it: {exc.what}",
                where=exc.where,
                remedy="delete it again when the cache is back",
            ) from exc
        return count

    def _replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`; the cache's copy goes, and none is made for a while."""
        assert isinstance(self.durable, Replaceable)
        replaced = self.durable.replace(old, new)
        # also where it was not, for the last try may have been and died before this
        self.cache.forget([old.task_id])
        return replaced

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        return self.durable.scan(after, limit)

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        self.durable.put_group(group)

    def get_group(self, group_id: str) -> GroupRecord | None:
        return self.durable.get_group(group_id)

    def delete_group(self, group_id: str) -> None:
        self.durable.delete_group(group_id)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self.durable.begin_chord(chord)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self.durable.size_chord(group_id, size, relative=relative, key=key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self.durable.count_part(part, lease=lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self.durable.claim_chord(group_id, claimant, lease=lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        return self.durable.get_chord(group_id)

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return self.durable.chord_parts(group_id)

    def finish_chord(self, group_id: str) -> None:
        self.durable.finish_chord(group_id)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return self.durable.orphaned_chords(owner, limit)

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete in the durable store; no copy outlives its record's expiry."""
        return self.durable.delete_expired(now, limit)

    def watcher(self) -> Watcher:
        """Return the durable store's: it is the first to know, and loses no wake-up with the cache."""
        if isinstance(self.durable, Watchable):
            return self.durable.watcher()
        return self._polling.get()

    def check(self) -> None:
        """Look at both; a cache that is only out of reach is no reason not to work."""
        self.durable.check()
        try:
            self._cache_store.check()
            self._warn_of_what_was_left()
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("The cache is out of reach, results come from the durable store meanwhile: %s", exc)

    def _warn_of_what_was_left(self) -> None:
        """Say so if results are in the cache alone, from the time of another mode."""
        if not isinstance(self._cache_store, KeepsJournal):
            return
        # the user of a cache need not have the right to look
        with suppress(PermissionDenied):
            if count := self._cache_store.unmoved():
                logger.warning(
                    "Results of the mode write-behind are not moved, and not seen in this one: %d. Run "
                    "`rootcellar drain --once` with the mode that was. [%s]",
                    count,
                    self._where,
                )

    def close(self) -> None:
        if (polling := self._polling.take()) is not None:
            polling.close()
        self.cache.close()
        self.durable.close()
