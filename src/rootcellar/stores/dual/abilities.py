"""The abilities of a store that is migrated.

What reads asks the store that decides. What deletes what has expired, and what holds it, works on both stores. Many
callers keep an ability for as long as the process lives, so each call of it asks the phase again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from rootcellar.errors import AbilityMissing, RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH, RecordsSent, Replaceable
from rootcellar.stores.dual.forgetting import Forgetting, joined
from rootcellar.stores.dual.mirror_breaker import NotMirrored
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.verbs import Verb, is_same
from rootcellar.stores.dual.writing import Writing
from rootcellar.stores.expiring import Deleted, Due, Expiring, Place
from rootcellar.stores.holding import Hold, Holding, Removed
from rootcellar.stores.search import Condition
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

A = TypeVar("A")
T = TypeVar("T")


class BeginsVerbs(Protocol):
    """What these abilities need from the store."""

    writing: Writing
    forgetting: Forgetting

    def verb(self) -> Verb:
        """Begin a verb."""


def ability_of(side: Side, protocol: type[A]) -> A:
    """Return an ability that a store must have.

    Raises:
        AbilityMissing: it does not have it. This can only be if the phase has changed since the ability was asked for.
    """
    if (found := side.store.ability(protocol)) is None:
        raise AbilityMissing(
            "the store that now decides cannot do this", where=side.where, remedy="end the migration, or go back"
        )
    return found


class Forwarded:
    """Stands for an ability of the store that decides at the moment of each call.

    Args:
        store: the store that is migrated.
        protocol: the ability.
    """

    def __init__(self, store: BeginsVerbs, protocol: type[Any]) -> None:
        self._store = store
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        with self._store.verb() as verb:
            found = verb.decider.store.ability(self._protocol)
            # a service that began in an earlier phase goes on with the store that it began with
            return getattr(ability_of(verb.other, self._protocol) if found is None else found, name)


def put_sent(writing: Writing, verb: Verb, records: Sequence[TaskRecord]) -> None:
    """Store records of tasks that were sent; the other store gets them only where it has nothing."""
    ability_of(verb.decider, RecordsSent).put_sent(records)
    if records and verb.is_double:
        # nothing is noted: these records promise nothing
        try:
            writing.call_other(verb, lambda other: other.copy(records))
        except NotMirrored:
            logger.debug("Sent tasks are recorded in one store of the migration only, until the next pass.")


def replace_on_both(writing: Writing, verb: Verb, old: TaskRecord, new: TaskRecord) -> bool:
    """Replace the payloads of a record where it decides, then in the other store if that has the same result."""
    replaced = ability_of(verb.decider, Replaceable).replace(old, new)
    if not (replaced and verb.is_double):
        return replaced

    def replace_there(other: Side) -> None:
        found, replaceable = other.get(old.task_id), other.store.ability(Replaceable)
        if found is None or replaceable is None or not is_same(found, old):
            return
        payloads = {
            name: getattr(new, name) for name in ("result", "traceback", "args", "kwargs", "children", "stamps")
        }
        replaceable.replace(found, replace(found, **payloads))

    try:
        writing.call_other(verb, replace_there)
    except NotMirrored:
        writing.unmirrored.note(old.task_id)
    return True


class DualHolding:
    """Keeps holds in both stores, so that a hold is there after each step of the migration.

    If only the other store keeps holds, those count; none can be placed until that store decides.

    Args:
        store: the store that is migrated.
    """

    def __init__(self, store: BeginsVerbs) -> None:
        self._store = store

    def place_hold(self, filter_text: str, reason: str, by: str, at: datetime) -> Hold:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        with self._store.verb() as verb:
            placed = ability_of(verb.decider, Holding).place_hold(filter_text, reason, by, at)
            if (other := _other(verb, Holding)) is not None:
                other.place_hold(filter_text, reason, by, at)
            return placed

    def release_hold(self, number: int, by: str, at: datetime) -> Hold | None:
        """See :class:`~rootcellar.stores.holding.Holding`. In the other store it may have another number."""
        with self._store.verb() as verb:
            released = ability_of(verb.decider, Holding).release_hold(number, by, at)
            if released is not None and (other := _other(verb, Holding)) is not None:
                for hold in other.holds():
                    if _is_same_hold(hold, released):
                        other.release_hold(hold.id, by, at)
            return released

    def holds(self, with_released: bool = False) -> Sequence[Hold]:
        """See :class:`~rootcellar.stores.holding.Holding`. A store that keeps no holds has none.

        A process may have asked for this ability before it knew the phase.
        """
        with self._store.verb() as verb:
            holding = _first_if_any(verb, Holding)
            return () if holding is None else holding.holds(with_released)

    def delete_spared(self, task_ids: Iterable[str], spared: Condition) -> Removed:
        """See :class:`~rootcellar.stores.holding.Holding`. Leave burials of what was deleted, in both stores."""
        ids = list(dict.fromkeys(task_ids))
        with self._store.verb() as verb:
            holding = _first_if_any(verb, Holding)
            if holding is None:
                return Removed(self._store.forgetting.delete(verb, ids))
            if verb.is_retired:
                return holding.delete_spared(ids, spared)
            known = joined({}, verb.target.get_many(ids), verb.source.get_many(ids))
            removed = holding.delete_spared(ids, spared)
            gone = [task_id for task_id in ids if task_id not in removed.kept]
            if gone:
                self._store.forgetting.bury(verb, gone, {task_id: known.get(task_id, ()) for task_id in gone})
            return removed


class DualExpiring:
    """Deletes what has expired in both stores, and counts what the one that decides has deleted.

    If only the other store has the ability, it is that one: a server deletes by itself what has expired in the first.

    Args:
        store: the store that is migrated.
    """

    def __init__(self, store: BeginsVerbs) -> None:
        self._store = store

    def delete_expired_tasks(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`. The other store goes as far as the deciding one."""
        with self._store.verb() as verb:
            # before the deletion, which may take longer than a verb: what has expired may be deleted late
            other = _second(verb, Expiring)
            deleted = _first(verb, Expiring).delete_expired_tasks(due)
            if other is None:
                return deleted
            until = deleted.last if deleted.last is not None else due.until
            also = _if_reachable(verb, lambda: other.delete_expired_tasks(replace(due, until=until)))
            last: Place | None = deleted.last
            if last is None and also is not None:
                last = also.last
            return Deleted(deleted.count, last, deleted.spared)

    def count_expired(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._read(lambda expiring: expiring.count_expired(due))

    def expired(self, due: Due) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._read(lambda expiring: expiring.expired(due))

    def delete_unchanged(
        self, records: Sequence[TaskRecord], spared: Condition | None = None, timeout: float = 30.0
    ) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._on_both(lambda expiring: expiring.delete_unchanged(records, spared, timeout))

    def count_expired_groups(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._read(lambda expiring: expiring.count_expired_groups(now))

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._on_both(lambda expiring: expiring.delete_expired_groups(now, limit))

    def count_expired_chords(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._read(lambda expiring: expiring.count_expired_chords(now))

    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._on_both(lambda expiring: expiring.delete_expired_chords(now, limit))

    def count_expired_adopted(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._read(lambda expiring: expiring.count_expired_adopted(now))

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._on_both(lambda expiring: expiring.delete_expired_adopted(now, limit))

    def _read(self, read: Callable[[Expiring], T]) -> T:
        with self._store.verb() as verb:
            return read(_first(verb, Expiring))

    def _on_both(self, delete: Callable[[Expiring], int]) -> int:
        with self._store.verb() as verb:
            other = _second(verb, Expiring)
            count = delete(_first(verb, Expiring))
            if other is not None:
                _if_reachable(verb, lambda: delete(other))
            return count


def _first(verb: Verb, protocol: type[A]) -> A:
    """Return an ability of the store that decides, or else of the other one."""
    found = verb.decider.store.ability(protocol)
    return found if found is not None else ability_of(verb.other if verb.is_double else verb.decider, protocol)


def _first_if_any(verb: Verb, protocol: type[A]) -> A | None:
    """Return an ability of the store that decides, or else of the other one if results are in both; else ``None``."""
    found = verb.decider.store.ability(protocol)
    return found if found is not None else _other(verb, protocol)


def _second(verb: Verb, protocol: type[A]) -> A | None:
    """Return an ability of the other store, if both have it and both are written."""
    return None if verb.decider.store.ability(protocol) is None else _other(verb, protocol)


def _other(verb: Verb, protocol: type[A]) -> A | None:
    """Return an ability of the store that does not decide, if results are in both stores and it has this ability."""
    return verb.other.store.ability(protocol) if verb.is_double else None


def _if_reachable(verb: Verb, work: Callable[[], T]) -> T | None:
    """Return what ``work`` returns; ``None`` if the other store cannot be reached, in which it is done later."""
    try:
        return work()
    except RootcellarError as exc:
        if not exc.retryable:
            raise
        logger.warning("Expired results are not deleted in the other store of the migration: %s", exc)
        return None


def _is_same_hold(one: Hold, other: Hold) -> bool:
    return (one.filter, one.reason, one.placed_by) == (other.filter, other.reason, other.placed_by)
