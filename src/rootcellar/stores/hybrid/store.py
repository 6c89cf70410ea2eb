"""Write-through: a cache before a durable store. The durable store has every acknowledged record.

The durable store makes every decision: whether a record is written, whether a SUCCESS stays, whether a part counts. The
cache only reduces its reads, and may be flushed or stopped at any time. Groups and chords are not copied, because they
change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar, cast

from rootcellar.errors import PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.records import ChordPart, Stored, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import (
    DELETE_BATCH,
    ReportsInserts,
    Store,
    StoreOptions,
    Watchable,
)
from rootcellar.stores.holding import Removed
from rootcellar.stores.hybrid.cache import Cache
from rootcellar.stores.hybrid.exactness import survives_round_trip
from rootcellar.stores.hybrid.forwarding import ForwardingStore
from rootcellar.stores.hybrid.mirroring import ThroughMirror
from rootcellar.stores.hybrid.settings import read_settings
from rootcellar.stores.journal import KeepsJournal
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.search import Condition
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.stores.watching import PollingWatcher, Watcher
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

A = TypeVar("A")

#: the most copies that one call of get_many makes; the other records are copied by a later read
MAX_COPIES = 200


class HybridStore(ForwardingStore):
    """The store for ``rootcellar+hybrid://``; the transport options name the two stores."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        options = options or StoreOptions()
        settings = read_settings(url, options)
        super().__init__(url, options, durable=open_store(settings.durable_url, options))
        cache = open_store(settings.cache_url, settings.cache_options)
        self._cache_store = cache
        self.cache = Cache(cache, settings.cache_expires)
        self._where = f"{self.durable.where}, cache {cache.where}"
        self._polling = PerProcess(lambda: PollingWatcher(self.get_many))
        if (durable := self.durable.ability(ReportsInserts)) is not None:
            durable.report_inserts()

    @property
    def where(self) -> str:
        return self._where

    def parts(self) -> tuple[Store, ...]:
        return self.durable, self._cache_store

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability, or ``None``. Those that a migration needs are those of the durable store."""
        if protocol is Mirrored:
            mirrored = self.durable.ability(Mirrored)
            return None if mirrored is None else cast("A", ThroughMirror(mirrored, self.cache))
        if protocol in (Streamed, SharesValues):
            return self.durable.ability(protocol)
        return super().ability(protocol)

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store in the durable store, then copy a result that is there exactly as it was passed."""
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
        for record in done[:MAX_COPIES]:
            self.cache.keep(record, started)
        return {**copies, **found}

    def delete(self, task_ids: Iterable[str]) -> int:
        """Delete in the durable store, then in the cache.

        Raises:
            StoreUnavailable: also if only the cache cannot be reached: until it expires, a copy may show a deleted
                result. Repeat the call.
        """
        ids = list(dict.fromkeys(task_ids))
        count = self.durable.delete(ids)
        self._forget_copies(ids)
        return count

    def delete_spared(self, task_ids: Iterable[str], spared: Condition) -> Removed:
        """See :class:`~rootcellar.stores.holding.Holding`. A copy in the cache stays if its record stays.

        Raises:
            StoreUnavailable: as for :meth:`delete`.
        """
        assert self._holding is not None, "ability() returns None"
        ids = list(dict.fromkeys(task_ids))
        removed = self._holding.delete_spared(ids, spared)
        self._forget_copies([task_id for task_id in ids if task_id not in removed.kept])
        return removed

    def _forget_copies(self, ids: Sequence[str]) -> None:
        try:
            self.cache.forget(ids)
        except RootcellarError as exc:
            raise StoreUnavailable(
                f"deleted, but the cache cannot be reached and may still show it: {exc.what}",
                where=exc.where,
                remedy="delete it again when the cache is back",
            ) from exc

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`. After that, the cache has no copy for a while."""
        replaced = super().replace(old, new)
        # even if nothing was replaced: an earlier try may have replaced the record, and died before this line
        self.cache.forget([old.task_id])
        return replaced

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete in the durable store; no copy outlives its record's expiry."""
        return self.durable.delete_expired(now, limit)

    def watcher(self) -> Watcher:
        """Return the durable store's watcher: a notification does not depend on the cache."""
        if (durable := self.durable.ability(Watchable)) is not None:
            return durable.watcher()
        return self._polling.get()

    def check(self) -> None:
        """Check both stores; a cache that cannot be reached is only logged."""
        self.durable.check()
        try:
            self._cache_store.check()
            self._warn_of_unmoved_results()
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            logger.warning("The cache cannot be reached; results come from the durable store meanwhile: %s", exc)

    def _warn_of_unmoved_results(self) -> None:
        """Log a warning if the cache has results that the mode write-behind has not moved."""
        cache = self._cache_store.ability(KeepsJournal)
        if cache is None:
            return
        # the user of a cache does not need the right to read the journal
        with suppress(PermissionDenied):
            if count := cache.unmoved():
                logger.warning(
                    "Results of the mode write-behind are not moved and cannot be read in this mode: %d. Run "
                    "`rootcellar drain --once` with the earlier mode. [%s]",
                    count,
                    self._where,
                )

    def close(self) -> None:
        if (polling := self._polling.take()) is not None:
            polling.close()
        self.cache.close()
        self.durable.close()
