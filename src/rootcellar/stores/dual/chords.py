"""Chords while results are in two stores: each chord ends in the store in which it began, its *home*.

A part is counted in the home alone, in every phase. If it were counted in both stores, the body would be sent twice; if
it were counted in the store that the phase writes first, some parts would be in one store and some in the other, and
the body would never be sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, PartResult, Stored
from rootcellar.stores.base import KnowsParts
from rootcellar.stores.dual.mirror_breaker import MirrorBreaker, NotMirrored
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.verbs import Verb
from rootcellar.stores.dual.writing import Put, Writing
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

T = TypeVar("T")

#: the most chords whose home a process remembers
MAX_REMEMBERED = 1_000


class Chords:
    """Finds the home of each chord, and counts parts there.

    Args:
        writing: stores results.
        to_target: calls the target while it does not decide.
    """

    def __init__(self, writing: Writing, to_target: MirrorBreaker) -> None:
        self._writing = writing
        self._to_target = to_target
        #: whether the home of a chord is the target; a chord that is in neither store is not remembered
        self._in_target: PerProcess[dict[str, bool]] = PerProcess(dict)

    # -- the home

    def home(self, verb: Verb, group_id: str) -> Side:
        """Return the store in which a chord began; for an unknown chord, the one that decides."""
        if verb.phase is Phase.RETIRED:
            return verb.target
        in_target = self._in_target.get().get(group_id)
        if in_target is None:
            in_target = self._find(verb, group_id)
        return verb.target if in_target else verb.source

    def _find(self, verb: Verb, group_id: str) -> bool:
        if self.target_knows(verb, group_id):
            self._remember(group_id, in_target=True)
            return True
        if verb.phase.target_decides and verb.source.store.get_chord(group_id) is None:
            # it is finished, or nobody has begun it
            return True
        if verb.phase.target_decides:
            self._remember(group_id, in_target=False)
        return False

    def target_knows(self, verb: Verb, group_id: str) -> bool:
        """Return whether a chord was begun in the target, and is not finished."""
        if not self._may_be_in_target(verb):
            return False
        target = verb.target
        if verb.phase is not Phase.DUAL or verb.known.is_back:
            return target.store.get_chord(group_id) is not None
        try:
            return self._to_target.call(verb, lambda: target.store.get_chord(group_id)) is not None
        except NotMirrored:
            # on the way to the target, no chord has begun there yet
            return False

    def _may_be_in_target(self, verb: Verb) -> bool:
        return verb.phase is not Phase.PREPARED or verb.known.is_back

    def _remember(self, group_id: str, *, in_target: bool) -> None:
        homes = self._in_target.get()
        if len(homes) >= MAX_REMEMBERED:
            homes.pop(next(iter(homes), ""), None)
        homes[group_id] = in_target

    # -- the calls of a store

    def begin(self, verb: Verb, chord: ChordRecord) -> None:
        """Store a chord in the store that decides, which is its home from then on."""
        verb.decider.store.begin_chord(chord)
        self._remember(chord.group_id, in_target=verb.phase.target_decides)

    def size(self, verb: Verb, group_id: str, size: int, *, relative: bool, key: str | None) -> None:
        """See :meth:`~rootcellar.stores.base.Store.size_chord`."""
        self.home(verb, group_id).store.size_chord(group_id, size, relative=relative, key=key)

    def put(self, verb: Verb, put: Put, part: ChordPart) -> Stored:
        """Store a record and count its part: in one transaction if the home decides, otherwise the part first.

        If the process dies between the two, the task is delivered again, finds no result, and runs again.
        """
        home = self.home(verb, part.group_id)
        if home is verb.decider:
            return self._writing.put(verb, put)
        whole = part if part.result is not None else replace(part, result=put.record.result)
        progress = home.store.count_part(whole, lease=put.lease)
        stored = self._writing.put(verb, replace(put, part=None))
        return replace(stored, chord=progress)

    def count_part(self, verb: Verb, part: ChordPart, *, lease: float) -> ChordProgress:
        """See :meth:`~rootcellar.stores.base.Store.count_part`."""
        return self.home(verb, part.group_id).store.count_part(part, lease=lease)

    def claim(self, verb: Verb, group_id: str, claimant: str, *, lease: float) -> bool:
        """See :meth:`~rootcellar.stores.base.Store.claim_chord`."""
        return self.home(verb, group_id).store.claim_chord(group_id, claimant, lease=lease)

    def get(self, verb: Verb, group_id: str) -> ChordRecord | None:
        """See :meth:`~rootcellar.stores.base.Store.get_chord`."""
        return self.home(verb, group_id).store.get_chord(group_id)

    def parts(self, verb: Verb, group_id: str) -> Sequence[PartResult]:
        """See :meth:`~rootcellar.stores.base.Store.chord_parts`."""
        return self.home(verb, group_id).store.chord_parts(group_id)

    def finish(self, verb: Verb, group_id: str) -> None:
        """See :meth:`~rootcellar.stores.base.Store.finish_chord`."""
        self.home(verb, group_id).store.finish_chord(group_id)

    def orphaned(self, verb: Verb, owner: str, limit: int) -> Sequence[str]:
        """Return orphans of both stores, those of the deciding one first."""
        found = list(verb.decider.store.orphaned_chords(owner, limit))
        if self._other_may_have_chords(verb):
            other = verb.other
            found += self._if_reachable(other, lambda: other.store.orphaned_chords(owner, limit), [])
        return list(dict.fromkeys(found))[:limit]

    def living_parts(self, verb: Verb, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`. Ask both stores."""
        sides = [verb.decider, *([verb.other] if self._other_may_have_chords(verb) else [])]
        knowing = filter(None, (side.store.ability(KnowsParts) for side in sides))
        return {task_id for store in knowing for task_id in store.living_parts(task_ids)}

    def _other_may_have_chords(self, verb: Verb) -> bool:
        if verb.phase is Phase.RETIRED:
            return False
        return verb.phase.target_decides or self._may_be_in_target(verb)

    def _if_reachable(self, side: Side, read: Callable[[], T], otherwise: T) -> T:
        """Return what ``read`` returns. The chords of a store that cannot be reached wait until it is back."""
        try:
            return read()
        except RootcellarError as exc:
            logger.warning("Chords cannot be looked for in the other store of the migration: %s [%s]", exc, side.where)
            return otherwise
