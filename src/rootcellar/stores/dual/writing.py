"""Storing a result in both stores of a migration.

One of the two stores *decides*: it is written first, and has the winner of several results of one task. The other one
gets the winner, not the writer's own result. The numbers of the corrections are those of the model in tests/migration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from rootcellar.records import ChordPart, Stored, TaskRecord
from rootcellar.stores.dual.mirror_breaker import MirrorBreaker, NotMirrored
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.unmirrored import Unmirrored
from rootcellar.stores.dual.verbs import MAX_LOOKS, Verb, is_end, is_same, is_success
from rootcellar.stores.mirroring import Held

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Put:
    """The arguments of :meth:`~rootcellar.stores.base.Store.put`."""

    record: TaskRecord
    part: ChordPart | None = None
    lease: float = 30.0
    durable: bool = True

    def to(self, side: Side) -> Stored:
        """Store it in one of the two stores."""
        return side.put(self.record, self.part, lease=self.lease, durable=self.durable)


class Writing:
    """Stores results.

    Args:
        to_source, to_target: call the source or the target while it does not decide.
        unmirrored: gets the ids of results that are perhaps only in the store that decides.

    Attributes:
        unmirrored: the same.
    """

    def __init__(self, to_source: MirrorBreaker, to_target: MirrorBreaker, unmirrored: Unmirrored) -> None:
        self._to_source = to_source
        self._to_target = to_target
        self.unmirrored = unmirrored

    def put(self, verb: Verb, put: Put) -> Stored:
        """Store a record by the rules of the phase. A part is counted in the store that decides."""
        if verb.phase is Phase.PREPARED:
            return put.to(verb.source)
        if verb.phase >= Phase.TARGET_ONLY:
            return put.to(verb.target)
        if verb.phase is Phase.TARGET_FIRST:
            return self.put_target_first(verb, put)
        return self.put_source_first(verb, put)

    # -- DUAL and SWITCHING

    def put_source_first(self, verb: Verb, put: Put) -> Stored:
        """Store in the source, then bring the source's winner to the target."""
        stored = put.to(verb.source)
        if not is_end(put.record):
            self._try(put.record, lambda: self.mirror_interim(stored, lambda: self.mirror_to_target(verb, put.record)))
            return stored
        winner = self.winner(verb.source, put.record, stored)
        if winner is None:
            return stored
        left: list[TaskRecord] = []
        self._try(winner, lambda: left.append(self.bring_to_target(verb, winner)))
        return _as_left(stored, put.record, left)

    def bring_to_target(self, verb: Verb, winner: TaskRecord) -> TaskRecord:
        """Mirror the source's winner, until both stores hold the same result; return what the source holds.

        If the target has another SUCCESS already, that one was perhaps read: it is the winner of both.
        """
        for _ in range(MAX_LOOKS):
            in_target = self.mirror_to_target(verb, winner).record
            if in_target is not None and is_success(in_target) and not is_same(in_target, winner):
                self.settle_in_source(verb, in_target)
            if is_success(winner) and in_target is not None and is_success(in_target):
                # both are a SUCCESS, and only a burial can follow a SUCCESS
                return in_target
            found = self.look_again_in_source(verb, winner, in_target)
            if found is None:
                self.bury_in_target(verb, in_target)
                return winner
            if is_same(found, in_target):
                return found
            winner = found
        return winner

    def mirror_to_target(self, verb: Verb, winner: TaskRecord) -> Held:
        """Store the source's winner in the target, unless it was forgotten; return what the target holds."""
        target = verb.target
        return self._to_target.call(verb, lambda: target.mirror(winner))

    def settle_in_source(self, verb: Verb, in_target: TaskRecord) -> None:
        """Replace whatever the source holds by the SUCCESS that the target has."""
        verb.source.settle(in_target)

    def look_again_in_source(self, verb: Verb, winner: TaskRecord, in_target: TaskRecord | None) -> TaskRecord | None:
        """C5: return what the source holds by now. Another writer may have changed it since it was mirrored."""
        return _whole(verb.source, winner.task_id)

    def bury_in_target(self, verb: Verb, in_target: TaskRecord | None) -> None:
        """Remove from the target what was forgotten while it was mirrored."""
        if in_target is not None:
            target = verb.target
            self._to_target.call(verb, lambda: target.bury_same([in_target]))

    # -- TARGET_FIRST

    def put_target_first(self, verb: Verb, put: Put) -> Stored:
        """Store in the target, then bring the target's winner back to the source, because there is a way back."""
        stored = put.to(verb.target)
        if not is_end(put.record):
            self._try(put.record, lambda: self.mirror_interim(stored, lambda: self.mirror_to_source(verb, put.record)))
            return stored
        winner = self.winner(verb.target, put.record, stored)
        if winner is not None:
            self._try(winner, lambda: self.bring_to_source(verb, winner))
        return stored

    def bring_to_source(self, verb: Verb, winner: TaskRecord) -> None:
        """Mirror the target's winner, until both stores hold the same result."""
        for _ in range(MAX_LOOKS):
            if self.send_back(verb, winner):
                return
            found = self.look_again_in_target(verb, winner)
            if found is None:
                self.bury_in_source(verb, winner)
                return
            if is_same(found, winner):
                return
            winner = found

    def send_back(self, verb: Verb, winner: TaskRecord) -> bool:
        """C3: replace what the source holds only by a SUCCESS; any other state goes there as a put does.

        Returns:
            whether nothing can change it but a burial.
        """
        if is_success(winner):
            self.settle_from_target(verb, winner)
            return True
        in_source = self.mirror_to_source(verb, winner).record
        if in_source is not None and is_success(in_source):
            # a writer of the phase before has stored it, and the target does not have it
            verb.target.copy([in_source])
        return False

    def settle_from_target(self, verb: Verb, winner: TaskRecord) -> Held:
        """Replace whatever the source holds by the target's winner."""
        source = verb.source
        return self._to_source.call(verb, lambda: source.settle(winner))

    def mirror_to_source(self, verb: Verb, winner: TaskRecord) -> Held:
        """Store the target's winner in the source, unless it was forgotten; return what the source holds."""
        source = verb.source
        return self._to_source.call(verb, lambda: source.mirror(winner))

    def look_again_in_target(self, verb: Verb, winner: TaskRecord) -> TaskRecord | None:
        """C5: return what the target holds by now. Another writer may have changed it since it was mirrored."""
        return verb.target.get(winner.task_id)

    def bury_in_source(self, verb: Verb, winner: TaskRecord) -> None:
        """Remove from the source what was forgotten while it was mirrored."""
        source = verb.source
        self._to_source.call(verb, lambda: source.bury_same([winner]))

    # -- both

    def call_other(self, verb: Verb, work: Callable[[Side], T]) -> T:
        """Call the store that does not decide.

        Raises:
            NotMirrored: it failed, took too long, or is not called at present.
        """
        other = verb.other
        breaker = self._to_source if verb.phase.target_decides else self._to_target
        return breaker.call(verb, lambda: work(other))

    def winner(self, decider: Side, record: TaskRecord, stored: Stored) -> TaskRecord | None:
        """Return what the deciding store holds after a put: the record itself, or what had to stay."""
        return record if stored.written else _whole(decider, record.task_id)

    def mirror_interim(self, stored: Stored, mirror: Callable[[], Held]) -> None:
        """Mirror a state that is not the end of a task, without looking again, because it promises nothing."""
        if stored.written:
            mirror()

    def _try(self, record: TaskRecord, work: Callable[[], object]) -> None:
        """Call the other store. If it fails, note the result, and let the task go on."""
        try:
            work()
        except NotMirrored:
            self.unmirrored.note(record.task_id)


def _whole(side: Side, task_id: str) -> TaskRecord | None:
    """Return what a store holds, with its expiry, to bring it to the other store."""
    found = side.get(task_id)
    return None if found is None else side.with_expiry([found])[0]


def _as_left(stored: Stored, record: TaskRecord, left: list[TaskRecord]) -> Stored:
    """Return the answer of a put; it was not written if another result is left."""
    if stored.written and left and not is_same(left[0], record):
        return replace(stored, written=False)
    return stored
