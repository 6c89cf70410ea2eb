"""Holds: what must not be deleted, by filters that are read when something would be deleted.

What deletes many records gives the store a condition that every held record meets, and perhaps others do. The store
leaves these records. Where the condition is not exact, the caller reads them, asks :meth:`Holds.held`, and deletes the
others. The condition also spares everything if a hold was placed after the holds were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from functools import partial

from rootcellar.errors import AbilityMissing, ResultHeld, RootcellarError
from rootcellar.history.filters import Clock, FilterWrong, Matcher, parse
from rootcellar.history.filters.conditions import Limits, every, limits, negated, some
from rootcellar.history.filters.pinned import pinned
from rootcellar.history.lists import opened
from rootcellar.payloads import Codec
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Hold, Holding, HoldReader, Placed, Removed
from rootcellar.stores.search import Always, Condition, Dated, Equal, Has, MoreHolds, OneOf
from rootcellar.text.escaping import visible

#: how many records one statement tests and deletes, if it names the state of each
_BATCH = 100
#: how often the holds are read again because one was placed meanwhile
_TRIES = 5
_TRUE, _FALSE = Always(True), Always(False)
#: the clock of stored filters: their moments are absolute
_CLOCK = Clock(datetime(2000, 1, 1, tzinfo=timezone.utc), timezone.utc)


class Why(Enum):
    """Why a record is held."""

    MATCHES = "the filter finds it"
    UNREAD = "a value that the filter asks for cannot be read here, so it counts as held"
    UNPARSED = "the filter cannot be understood any more, so it holds everything"


@dataclass(frozen=True, slots=True)
class HeldBy:
    """A hold that holds a record, and why."""

    hold: Hold
    why: Why


@dataclass(frozen=True, slots=True)
class _Rule:
    """An active hold. Without a matcher it holds everything."""

    hold: Hold
    limits: Limits
    matcher: Matcher | None
    problem: str = ""

    def answer(self, record: TaskRecord) -> Why | None:
        if self.matcher is None:
            return Why.UNPARSED
        answer = self.matcher.answer(record)
        if answer is None or (not answer and record.damage):
            return Why.UNREAD
        return Why.MATCHES if answer else None


class Holds:
    """The holds of a store. Each method reads them again if they were read more than ``max_age`` seconds ago.

    Args:
        store: the store.
        codec: opens values that filters ask for.
        max_age: the seconds for which what was read counts; 0 for never.
        reader: reads the holds, instead of a new reader with ``max_age``.
    """

    def __init__(self, store: Store, codec: Codec, *, max_age: float = 0.0, reader: HoldReader | None = None) -> None:
        self._store = store
        self._codec = codec
        self._reader = reader or HoldReader(store, max_age)
        self._made: tuple[Placed, tuple[_Rule, ...]] | None = None

    # -- what spares many records at once

    def condition(self) -> Condition | None:
        """Return a condition that every held record meets; ``None`` if the store keeps no holds.

        It must spare what meets it. It also spares everything as soon as one more hold is placed, until the next call.
        If :attr:`is_exact` is false, some of the records that meet it are not held.
        """
        if self._reader.holding is None:
            return None
        placed, rules = self._read()
        return some(MoreHolds(placed.count), *(rule.limits.at_most for rule in rules))

    def doubtful(self) -> Condition | None:
        """Return a condition for the records that meet :meth:`condition` and may not be held; ``None`` for none.

        Read them with their values, and ask :meth:`held`.
        """
        _, rules = self._read()
        if all(rule.limits.is_exact for rule in rules):
            return None
        surely = some(*(rule.limits.at_least for rule in rules))
        found = every(some(*(rule.limits.at_most for rule in rules)), negated(surely))
        return None if found == _FALSE else found

    @property
    def is_exact(self) -> bool:
        """Whether only held records meet :meth:`condition`."""
        return all(rule.limits.is_exact for rule in self._read()[1])

    # -- what decides about single records

    def held(self, records: Iterable[TaskRecord]) -> set[str]:
        """Return the ids of those of these records, read with their values, that are held."""
        return set(self.reasons(records))

    def reasons(self, records: Iterable[TaskRecord]) -> dict[str, HeldBy]:
        """Return the first hold that holds each record, by the task's id; records that are not held are left out."""
        _, rules = self._read()
        return _reasons(records, rules)

    def check(self, records: Iterable[TaskRecord]) -> None:
        """Do nothing if none of these records is held.

        Raises:
            ResultHeld: one is held.
        """
        records = list(records)
        found = self.reasons(records)
        if found and self._reader.max_age:
            # a hold may have been released since it was read
            found = _reasons(records, self._read(fresh=True)[1])
        if found:
            raise self._refusal(found, 0)

    def delete(self, task_ids: Iterable[str]) -> Removed:
        """Delete the records of these tasks, except those that are held when they are deleted.

        Raises:
            StoreError: the store cannot be used.
        """
        ids = list(dict.fromkeys(task_ids))
        holding = self._reader.holding
        if holding is None:
            return Removed(self._store.delete(ids))
        removed = Removed(0)
        for start in range(0, len(ids), _BATCH):
            done = self._delete(holding, ids[start : start + _BATCH])
            removed = Removed(removed.count + done.count, removed.kept | done.kept)
        return removed

    def forget(self, task_ids: Iterable[str]) -> int:
        """Delete the records of these tasks; return how many there were.

        Raises:
            ResultHeld: some are held. The others are deleted.
            StoreError: the store cannot be used.
        """
        removed = self.delete(task_ids)
        if removed.kept:
            raise self.refusal(removed)
        return removed.count

    def refusal(self, removed: Removed) -> ResultHeld:
        """Return the error for records that were not deleted."""
        return self._refusal(self.reasons(self._store.get_many(removed.kept).values()), removed.count, removed.kept)

    def _delete(self, holding: Holding, ids: Sequence[str]) -> Removed:
        count, left = 0, list(ids)
        for _ in range(_TRIES):
            placed, rules = self._read()
            records = self._store.get_many(left) if rules else {}
            held = _reasons(records.values(), rules)
            if held and self._reader.max_age:
                # a hold may have been released since it was read
                placed, rules = self._read(fresh=True)
                held = _reasons(records.values(), rules)
            free = [task_id for task_id in left if task_id not in held]
            spared = _spared(placed, rules, [records[task_id] for task_id in free if task_id in records])
            removed = holding.delete_spared(free, spared)
            count += removed.count
            left = [task_id for task_id in left if task_id in held or task_id in removed.kept]
            if not removed.kept:
                break
            # a hold was placed, or a task was stored again, between the reading and the deletion
            self._read(fresh=True)
        return Removed(count, frozenset(left))

    # -- what can be said about holds

    def active(self) -> Sequence[Hold]:
        """Return the holds that were not released."""
        return self._read()[0].active

    def problems(self) -> Mapping[int, str]:
        """Return why a filter cannot be understood any more, by the number of its hold: this hold holds everything."""
        return {rule.hold.id: rule.problem for rule in self._read()[1] if rule.problem}

    # -- inside

    def _read(self, *, fresh: bool = False) -> tuple[Placed, tuple[_Rule, ...]]:
        placed = self._reader.placed(fresh=fresh)
        made = self._made
        if made is None or made[0].active != placed.active:
            opener = partial(opened, self._codec)
            made = (placed, tuple(_rule(hold, opener) for hold in placed.active))
        self._made = made = (placed, made[1])
        return made

    def _refusal(self, found: Mapping[str, HeldBy], deleted: int, kept: Iterable[str] = ()) -> ResultHeld:
        ids = tuple(sorted({*found, *kept}))
        if not found:
            return ResultHeld(
                f"{_tasks(ids)} changed while it was deleted, and was not deleted",
                where=self._store.where,
                remedy="delete it again",
                task_ids=ids,
                deleted=deleted,
            )
        first = next(each for each in ids if each in found)
        hold, why = found[first].hold, found[first].why
        explained = "" if why is Why.MATCHES else f" ({why.value})"
        return ResultHeld(
            f"{_tasks(ids)} held by hold {hold.id}{explained}: {hold.reason} (placed by {hold.placed_by} at "
            f"{hold.placed_at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC)",
            where=self._store.where,
            remedy=f"if the reason no longer applies, and you may decide that, run `rootcellar hold release {hold.id}`",
            task_ids=ids,
            deleted=deleted,
        )


def place_hold(store: Store, text: str, clock: Clock, *, reason: str, by: str) -> Hold:
    """Place a hold.

    Args:
        store: the store.
        text: the filter: which tasks, also those that are stored later. Relative times become absolute.
        clock: the present and the zone of its moments.
        reason: why.
        by: who places it.

    Raises:
        AbilityMissing: the store keeps no holds, or the filter compares tasks with each other.
        FilterWrong: the filter cannot be understood, is empty or has an order.
    """
    holding = must_hold(store)
    query = parse(text, clock)
    if not text.strip() or query.condition is None:
        raise FilterWrong(
            "no filter is given", text, 0, "say which tasks, such as task:shop.*; state:any is every task"
        )
    if query.sort:
        raise FilterWrong("a hold has no order", text, text.rindex("sort:"), "leave out sort:")
    # raises an error for is:late and is:stuck, which one record does not show
    Matcher(query.condition, clock)
    return holding.place_hold(str(pinned(query, clock)), reason, by, clock.now)


def must_hold(store: Store) -> Holding:
    """Return the ability of a store to keep holds.

    Raises:
        AbilityMissing: the store keeps no holds.
    """
    holding = store.ability(Holding)
    if holding is None:
        raise AbilityMissing(
            "this store keeps no holds, because its server deletes results by itself",
            where=store.where,
            remedy="write what must stay to a file (`rootcellar export`), or use the hybrid, whose durable store keeps "
            "holds",
        )
    return holding


def _tasks(ids: Sequence[str]) -> str:
    return f"task {visible(ids[0])} is" if len(ids) == 1 else f"{len(ids):,} tasks, such as {visible(ids[0])}, are"


def _rule(hold: Hold, opener: partial[TaskRecord]) -> _Rule:
    try:
        condition = parse(hold.filter, _CLOCK).condition
        return _Rule(hold, limits(condition, _CLOCK), Matcher(condition, _CLOCK, opener))
    except (RootcellarError, ValueError) as exc:
        return _Rule(hold, Limits(_TRUE, _TRUE), None, str(exc))


def _reasons(records: Iterable[TaskRecord], rules: Sequence[_Rule]) -> dict[str, HeldBy]:
    found: dict[str, HeldBy] = {}
    for record in records:
        for rule in rules:
            if (why := rule.answer(record)) is not None:
                found[record.task_id] = HeldBy(rule.hold, why)
                break
    return found


def _spared(placed: Placed, rules: Sequence[_Rule], free: Sequence[TaskRecord]) -> Condition:
    """Return what a deletion must spare, after it was decided of some records that they are not held."""
    held = some(*(rule.limits.at_most for rule in rules))
    if not all(rule.limits.is_exact for rule in rules):
        # the server would spare records that are not held: it spares them only if they have changed since
        held = every(held, negated(some(*map(_as_read, free))))
    return some(MoreHolds(placed.count), held)


def _as_read(record: TaskRecord) -> Condition:
    """Return the condition that a task is still in the state that was read."""
    done = record.done_at
    is_done = negated(Has("date_done"))
    if done is not None and done != NO_DATE:
        is_done = Dated("date_done", done, done + datetime.resolution)
    retries = negated(Has("retries")) if record.retries is None else Equal("retries", (record.retries,))
    return every(OneOf("task_id", (record.task_id,)), OneOf("status", (record.state,)), is_done, retries)
