"""Lets both stores agree on single tasks, by the rules by which the processes themselves store a result.

While the source decides, its record is mirrored, and a SUCCESS that the target has already wins. While the target
decides, it is the other way round. Both ways end only when the deciding store has not changed meanwhile. A record that
cannot be read is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rootcellar.migration.pair import Pair, Side
from rootcellar.migration.walking import persistent
from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.mirroring import fingerprint, is_buried, moment

#: how often a task is looked at again because it has changed meanwhile; then its own processes are at work
TRIES = 5

#: makes both stores agree on the task of an id
Agree = Callable[[str], None]


def agreeing(pair: Pair, phase: Phase) -> Agree:
    """Return what makes both stores agree on a task, in a phase in which both are written."""
    if phase >= Phase.TARGET_FIRST:
        return lambda task_id: _by_target(pair, task_id)
    return lambda task_id: _by_source(pair, task_id, phase)


def bring_over(pair: Pair, side: Side, task_id: str) -> None:
    """Bring a result over that a store has stored, as the one that decided, and the other one does not have.

    Args:
        pair: both stores.
        side: the store that decided then, and perhaps does not any more. A newer result of it comes first.
        task_id: the task.
    """
    other = pair.source if side is pair.target else pair.target
    record = persistent(lambda: side.get(task_id))
    if record is None or damaged_fields(record):
        return
    stored = persistent(lambda: other.get(task_id))
    if stored is None or (stored.state != "SUCCESS" and moment(record) > moment(stored)):
        persistent(partial(other.mirrored.mirror, record))


def agree_on_group(pair: Pair, phase: Phase, group_id: str, *, is_back: bool = False) -> None:
    """Make both stores agree on a saved group: the store that decides has the one that counts, if it has one.

    Args:
        pair: both stores.
        phase: the phase that all processes have confirmed.
        group_id: the group.
        is_back: whether the migration goes back to the source.
    """
    decider, other = (pair.target, pair.source) if phase >= Phase.TARGET_FIRST else (pair.source, pair.target)
    decided = persistent(lambda: decider.get_group(group_id))
    if decided is not None:
        persistent(partial(other.store.put_group, decided))
        return
    left = persistent(lambda: other.get_group(group_id))
    if left is not None and (decider is pair.target or is_back):
        persistent(partial(decider.streamed.copy_groups, [left]))


def is_success(record: TaskRecord | None) -> bool:
    """Return whether a record is a SUCCESS, which nothing but another SUCCESS may replace."""
    return record is not None and record.state == "SUCCESS"


def are_same(one: TaskRecord | None, other: TaskRecord | None) -> bool:
    """Return whether two records have the same result."""
    if one is None or other is None:
        return one is other
    return fingerprint(one) == fingerprint(other)


def _by_source(pair: Pair, task_id: str, phase: Phase) -> None:
    source, target = pair.source, pair.target
    decided = persistent(lambda: source.get(task_id))
    for _ in range(TRIES):
        if decided is None:
            _bury_in_target(pair, task_id, phase)
            return
        if damaged_fields(decided):
            return
        mirrored = persistent(partial(target.mirrored.mirror, decided)).record
        if mirrored is not None and mirrored.state == "SUCCESS" and not are_same(mirrored, decided):
            decided = persistent(partial(source.mirrored.settle, mirrored)).record
        if decided is not None and is_success(mirrored) and is_success(decided):
            if mirrored != decided and are_same(mirrored, decided):
                # the same result, such as with another expiry: nothing but a burial can follow it, which is refused
                persistent(partial(target.mirrored.settle, decided))
            return
        again = persistent(lambda: source.get(task_id))
        if are_same(again, decided):
            return
        decided = again


def _bury_in_target(pair: Pair, task_id: str, phase: Phase) -> None:
    """Remove from the target what was forgotten in the source.

    As long as nobody reads the target, this is everything that the source lacks.
    """
    left = persistent(lambda: pair.target.get(task_id))
    if left is None:
        return
    if phase is not Phase.DUAL:
        burial = persistent(lambda: pair.source.mirrored.burials_of([task_id])).get(task_id)
        if not is_buried(left, burial):
            return
    persistent(partial(pair.target.mirrored.bury_same, [left]))


def _by_target(pair: Pair, task_id: str) -> None:
    source, target = pair.source, pair.target
    for _ in range(TRIES):
        decided = persistent(lambda: target.get(task_id))
        if decided is not None and damaged_fields(decided):
            return
        if decided is not None and decided.state == "SUCCESS":
            persistent(partial(source.mirrored.settle, decided))
            return
        if decided is None:
            other = persistent(lambda: source.get(task_id))
        else:
            other = persistent(partial(source.mirrored.mirror, decided)).record
        if other is not None and (decided is None or other.state == "SUCCESS"):
            persistent(partial(target.mirrored.copy, [other]))
        if are_same(persistent(lambda: target.get(task_id)), decided):
            return
