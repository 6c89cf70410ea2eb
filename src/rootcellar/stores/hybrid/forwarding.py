"""Forwards groups, chords and searches to one of two stores, for both hybrid stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, TaskRecord
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.base import (
    HasSchema,
    KnowsParts,
    Queryable,
    RecordsSent,
    Replaceable,
    Store,
    StoreOptions,
    TaskQuery,
)
from rootcellar.stores.counting import Counted
from rootcellar.stores.expiring import Expiring, Postponable, Replicated
from rootcellar.stores.holding import Hold, Holding
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.measures import Active, InMemory, Sized
from rootcellar.stores.older import Older
from rootcellar.stores.pool import ConnectionPool, Pooled
from rootcellar.stores.rules_on_record import KeepsRules
from rootcellar.stores.search import Searchable
from rootcellar.stores.upkeep import Compactable, KnowsDisk, Vacuums

A = TypeVar("A")

#: abilities that need the tables of the durable store
_OF_THE_DURABLE_STORE = (
    *(HasSchema, Sized, Active, Counted, Searchable),
    *(Jobs, KeepsRules, Expiring, Postponable, Replicated, Manifest, Older),
)


class ForwardingStore(Store):
    """Forwards groups and searches to one store, and chords to one.

    Args:
        url: the URL of the hybrid.
        options: its options.
        durable: the store that gets every record, at once or later, and keeps groups.
        chords: the store that keeps chords; by default the durable one.

    Attributes:
        durable, chords: these stores.
    """

    def __init__(self, url: str, options: StoreOptions, *, durable: Store, chords: Store | None = None) -> None:
        super().__init__(url, options)
        self.durable = durable
        self.chords = chords or durable
        self.expires_by_itself = durable.expires_by_itself
        self._queryable = durable.ability(Queryable)
        self._replaceable = durable.ability(Replaceable)
        self._records_sent = durable.ability(RecordsSent)
        self._holding = durable.ability(Holding)

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability, or ``None``. It needs that of the durable store, whose tables and searches it returns."""
        if protocol in (
            HasSchema,
            Sized,
            Active,
            Counted,
            Searchable,
            Jobs,
            KeepsRules,
            Expiring,
            Postponable,
            Replicated,
            Manifest,
            Vacuums,
            Compactable,
            KnowsDisk,
            Older,
        ):
            return self.durable.ability(protocol)
        if protocol is KnowsParts:
            return self.chords.ability(protocol)
        if protocol is InMemory:
            return next(filter(None, (store.ability(protocol) for store in self.parts()[1:])), None)
        if protocol is Queryable and self._queryable is None:
            return None
        if protocol is Replaceable and self._replaceable is None:
            return None
        if protocol is RecordsSent and self._records_sent is None:
            return None
        if protocol is Holding and self._holding is None:
            return None
        return super().ability(protocol)

    def parts(self) -> tuple[Store, ...]:
        """Return the stores that this one combines, the durable one first."""
        return tuple(dict.fromkeys((self.durable, self.chords)))

    def pools(self) -> Sequence[ConnectionPool[Any]]:
        """See :class:`~rootcellar.stores.pool.Pooled`."""
        pooled = filter(None, (store.ability(Pooled) for store in self.parts()))
        return [pool for each in pooled for pool in each.pools()]

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        return self.durable.scan(after, limit)

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.base.Queryable`."""
        assert self._queryable is not None, "ability() returns None"
        return self._queryable.query(query)

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""
        assert self._replaceable is not None, "ability() returns None"
        return self._replaceable.replace(old, new)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        assert self._records_sent is not None, "ability() returns None"
        self._records_sent.put_sent(records)

    def place_hold(self, filter_text: str, reason: str, by: str, at: datetime) -> Hold:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        assert self._holding is not None, "ability() returns None"
        return self._holding.place_hold(filter_text, reason, by, at)

    def release_hold(self, number: int, by: str, at: datetime) -> Hold | None:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        assert self._holding is not None, "ability() returns None"
        return self._holding.release_hold(number, by, at)

    def holds(self, with_released: bool = False) -> Sequence[Hold]:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        assert self._holding is not None, "ability() returns None"
        return self._holding.holds(with_released)

    def put_group(self, group: GroupRecord) -> None:
        self.durable.put_group(group)

    def get_group(self, group_id: str) -> GroupRecord | None:
        return self.durable.get_group(group_id)

    def delete_group(self, group_id: str) -> None:
        self.durable.delete_group(group_id)

    def begin_chord(self, chord: ChordRecord) -> None:
        self.chords.begin_chord(chord)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self.chords.size_chord(group_id, size, relative=relative, key=key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self.chords.count_part(part, lease=lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self.chords.claim_chord(group_id, claimant, lease=lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        return self.chords.get_chord(group_id)

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return self.chords.chord_parts(group_id)

    def finish_chord(self, group_id: str) -> None:
        self.chords.finish_chord(group_id)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return self.chords.orphaned_chords(owner, limit)
