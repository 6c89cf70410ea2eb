"""A store that is migrated: it stores in a source and in a target, by the phase of the migration.

It knows no particular store. What each phase does is in ``writing``, ``reading``, ``forgetting``, ``chords`` and
``groups``; each of their steps calls one store once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar, cast

from rootcellar.errors import RootcellarError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.base import (
    DELETE_BATCH,
    Queryable,
    RecordsSent,
    ReportsInserts,
    Store,
    StoreOptions,
    TaskQuery,
    Watchable,
)
from rootcellar.stores.counting import Counted
from rootcellar.stores.dual.abilities import (
    DualExpiring,
    DualHolding,
    Forwarded,
    ability_of,
    put_sent,
    replace_on_both,
)
from rootcellar.stores.dual.chords import Chords
from rootcellar.stores.dual.forgetting import Forgetting
from rootcellar.stores.dual.groups import Groups
from rootcellar.stores.dual.mirror_breaker import MIRROR_TIMEOUT, MirrorBreaker
from rootcellar.stores.dual.phases import Phase, Phases
from rootcellar.stores.dual.reading import Reading
from rootcellar.stores.dual.sampling import Samples
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.unmirrored import Unmirrored
from rootcellar.stores.dual.verbs import Verb, is_double
from rootcellar.stores.dual.watcher import DualWatcher, Listened
from rootcellar.stores.dual.writing import Put, Writing
from rootcellar.stores.expiring import Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.journal import KeepsJournal, KeepsRefused, TakesBatches, WritesBehind
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.older import Older
from rootcellar.stores.pool import ConnectionPool, Pooled
from rootcellar.stores.rules_on_record import KeepsRules
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.stores.watching import Watcher
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs

A = TypeVar("A")

logger = visible_logs(logging.getLogger(__name__))

#: abilities of one store alone: nothing may use them through the store that is migrated
_NEVER = (Mirrored, Streamed, SharesValues, ReportsInserts, KeepsJournal, KeepsRefused, TakesBatches, WritesBehind)
#: abilities that it has with any two stores
_ALWAYS = (Watchable, Pooled)
#: abilities that a backend asks for when it is made, and keeps
_ASKED_EARLY = (RecordsSent, Holding, Counted, Older, KeepsRules, Manifest)
#: abilities that work on both stores, and need only one that has them
_OF_EITHER = (Holding, Expiring)
#: tasks that are forgotten in one verb
DELETED_AT_ONCE = 1_000
#: how many batches of expired records one call deletes at most in the store that does not decide
MAX_ROUNDS = 10
#: the shared value that is written to find out whether a store can be written
PROBE_KEY = "migration/probe"


class DualStore(Store):
    """The store of an application that is migrated from one store to another.

    Args:
        source: the store that has the results before the migration.
        target: the store that has them afterwards.
        phases: knows the phase.
        url: the URL of the source.
        options: the options.
        mirror_timeout: seconds that a task waits for the store that does not decide; ``None`` to call it in the thread
            of the caller, without a limit.
        unmirrored: gets the results that are perhaps in one of the stores only; by default one of its own.
        samples: gets some of the reads while the source is read and the target is written; by default one of its own.

    Attributes:
        source, target: the two stores.
        phases: knows the phase.
        writing, reading, forgetting, chords, groups: what is done in each phase.
        unmirrored: the results that are perhaps in one of the stores only.

    Raises:
        MigrationRefused: one of the stores cannot be migrated from or to.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        phases: Phases,
        *,
        url: str = "",
        options: StoreOptions | None = None,
        mirror_timeout: float | None = MIRROR_TIMEOUT,
        unmirrored: Unmirrored | None = None,
        samples: Samples | None = None,
    ) -> None:
        super().__init__(url or source.url, options or source.options)
        self.source = source
        self.target = target
        self.phases = phases
        self._source_side, self._target_side = Side(source), Side(target)
        self.to_source = MirrorBreaker(lambda: probe(self._source_side), source.where, mirror_timeout)
        self.to_target = MirrorBreaker(lambda: probe(self._target_side), target.where, mirror_timeout)
        self.unmirrored = unmirrored or Unmirrored()
        self.writing = Writing(self.to_source, self.to_target, self.unmirrored)
        self.reading = Reading(samples or Samples())
        self.forgetting = Forgetting()
        self.chords = Chords(self.writing, self.to_target)
        self.groups = Groups(self.writing)
        self._listened = Listened(source), Listened(target)
        self._watcher = PerProcess(lambda: DualWatcher(self.get_many, phases.now, *self._listened))

    @property
    def where(self) -> str:
        return f"{self.source.where} -> {self.target.where}"

    def verb(self) -> Verb:
        """Begin a verb. Use it as a context manager."""
        return Verb(self._source_side, self._target_side, self.phases)

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        with self.verb() as verb:
            put = Put(record, part, lease, durable)
            return self.writing.put(verb, put) if part is None else self.chords.put(verb, put, part)

    def get(self, task_id: str) -> TaskRecord | None:
        with self.verb() as verb:
            return self.reading.get(verb, task_id)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        with self.verb() as verb:
            return self.reading.get_many(verb, task_ids)

    def delete(self, task_ids: Iterable[str]) -> int:
        """Delete in both stores, and leave burials, so that no copy that is on its way brings a record back.

        Raises:
            StoreUnavailable: also if only one of the stores cannot be reached. Repeat the call.
        """
        count = 0
        remaining = iter(dict.fromkeys(task_ids))
        while batch := list(islice(remaining, DELETED_AT_ONCE)):
            # a verb for each batch: it must not take long
            with self.verb() as verb:
                count += self.forgetting.delete(verb, batch)
        return count

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        with self.verb() as verb:
            return verb.decider.store.scan(after, limit)

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        with self.verb() as verb:
            self.groups.put(verb, group)

    def get_group(self, group_id: str) -> GroupRecord | None:
        with self.verb() as verb:
            return self.groups.get(verb, group_id)

    def delete_group(self, group_id: str) -> None:
        with self.verb() as verb:
            self.groups.delete(verb, group_id)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        with self.verb() as verb:
            self.chords.begin(verb, chord)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        with self.verb() as verb:
            self.chords.size(verb, group_id, size, relative=relative, key=key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        with self.verb() as verb:
            return self.chords.count_part(verb, part, lease=lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        with self.verb() as verb:
            return self.chords.claim(verb, group_id, claimant, lease=lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        with self.verb() as verb:
            return self.chords.get(verb, group_id)

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        with self.verb() as verb:
            return self.chords.parts(verb, group_id)

    def finish_chord(self, group_id: str) -> None:
        with self.verb() as verb:
            self.chords.finish(verb, group_id)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        with self.verb() as verb:
            return self.chords.orphaned(verb, owner, limit)

    # -- abilities

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability that asks the phase at each call; ``None`` if the store that decides now lacks it.

        Before the first call of this process the phase is not known. For what a backend asks when it is made, no store
        is asked then: it is enough if one of the two stores has the ability.
        """
        if protocol in _NEVER or not self._has(protocol):
            return None
        if protocol is Holding:
            return cast("A", DualHolding(self))
        if protocol is Expiring:
            return cast("A", DualExpiring(self))
        return self if isinstance(self, protocol) else cast("A", Forwarded(self, protocol))

    def _has(self, protocol: type[Any]) -> bool:
        if protocol in _ALWAYS:
            return True
        if protocol in _ASKED_EARLY and self.phases.known() is None:
            return any(store.ability(protocol) is not None for store in (self.source, self.target))
        phase = self.phases.now().phase
        first, second = (self.target, self.source) if phase.target_decides else (self.source, self.target)
        if first.ability(protocol) is not None:
            return True
        return protocol in _OF_EITHER and is_double(phase) and second.ability(protocol) is not None

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        with self.verb() as verb:
            put_sent(self.writing, verb, records)

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""
        with self.verb() as verb:
            return replace_on_both(self.writing, verb, old, new)

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.base.Queryable`."""
        with self.verb() as verb:
            return ability_of(verb.decider, Queryable).query(query)

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`."""
        with self.verb() as verb:
            return self.chords.living_parts(verb, task_ids)

    def watcher(self) -> Watcher:
        """See :class:`~rootcellar.stores.base.Watchable`. It listens to each store that may be written first."""
        return self._watcher.get()

    def pools(self) -> Sequence[ConnectionPool[Any]]:
        """See :class:`~rootcellar.stores.pool.Pooled`."""
        pooled = filter(None, (store.ability(Pooled) for store in (self.source, self.target)))
        return [pool for each in pooled for pool in each.pools()]

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete in both stores; return how many were in the one that decides."""
        with self.verb() as verb:
            # before the deletion, which may take longer than a verb: what has expired may be deleted late
            other = verb.other.store if verb.is_double else None
            deleted = verb.decider.store.delete_expired(now, limit)
        # a cleanup that knows the holds has the ability Expiring
        if other is not None and not _has_holds(other):
            # when nothing is left in the deciding store, the caller does not call again
            rounds = 1 if deleted else MAX_ROUNDS
            while rounds and other.delete_expired(now, limit):
                rounds -= 1
        return deleted

    def check(self) -> None:
        """Check both stores. If the one that does not decide cannot be used, this is only logged.

        Before the migration begins, a target that can never be used is an error, too.
        """
        with self.verb() as verb:
            verb.decider.store.check()
            if verb.is_retired:
                return
            try:
                verb.other.store.check()
            except RootcellarError as exc:
                if verb.phase is Phase.PREPARED and not exc.retryable:
                    raise
                logger.error("One store of the migration cannot be used; results are in the other one: %s", exc)

    def close(self) -> None:
        if (watcher := self._watcher.take()) is not None:
            watcher.close()
        for listened in self._listened:
            listened.close()
        self.phases.close()
        self.to_source.close()
        self.to_target.close()
        self.source.close()
        self.target.close()


def probe(side: Side) -> None:
    """Write to a store, so that a full or slow one is found out too."""
    side.shared.share(PROBE_KEY, '"written to find out whether this store can be written"')


def _has_holds(store: Store) -> bool:
    holding = store.ability(Holding)
    return holding is not None and bool(holding.holds())
