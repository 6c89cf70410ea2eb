"""Compares both stores of a migration while results are stored, and lets them agree on what differs.

What differs in the first comparison may have changed in one store a moment before. So both stores agree on each of
these tasks, and are compared again. Only what still differs counts. A task that has not ended does not count: its next
state comes to both stores.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial

from rootcellar.errors import RecordRefused
from rootcellar.migration.agreeing import agree_on_group, agreeing, bring_over
from rootcellar.migration.checksums import Difference, differences, same_group
from rootcellar.migration.pair import Pair
from rootcellar.migration.progress import Progress
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.verifying import Found
from rootcellar.migration.walking import persistent
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.dual.phases import Phase

#: how many differences are looked at again one by one, and how many ids of each class are named
MOST, NAMED = 20_000, 10
#: how often, and after how many seconds, both stores agree on a task and are compared again
LOOKS, PAUSE = 3, 0.3
#: the clocks of two servers differ a little: what expires in this time may be deleted in one of them
_SOON = timedelta(seconds=2)
_BATCH = 500
_MORE = frozenset({Difference.ONLY_IN_TARGET, Difference.GROUP_ONLY_IN_TARGET})
_OF_GROUPS = frozenset({Difference.GROUP_MISSING, Difference.GROUP_ONLY_IN_TARGET, Difference.GROUP})


@dataclass(slots=True)
class Compared:
    """What a comparison found.

    Attributes:
        records: how many records of the source were compared.
        repaired: how many tasks were different, and are the same now.
        left: how many are different, by class.
        unfinished: how many tasks differ that have not ended.
        only_in_target: how many tasks and groups only the target has, and may have: on the way to the target, nothing
            is lost by that. The source may have evicted them.
        examples: ids of some of them, by class.
    """

    records: int = 0
    repaired: int = 0
    left: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    only_in_target: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: Difference, record_id: str) -> None:
        """Count a difference."""
        self.left[kind.value] += 1
        known = self.examples.setdefault(kind.value, [])
        if len(known) < NAMED:
            known.append(record_id)


class Comparing:
    """One comparison.

    Args:
        pair: both stores.
        phase: the phase that all processes have confirmed; both stores are written in it.
        is_back: whether the migration goes back to the source: then nothing may be only in the target.
        throttle: limits the records a second of each store.
        check: raises an error if the comparison must end; it is called after each batch.
        show: shows how many records were read on both sides.
        pause: seconds between two looks at what differs.
    """

    def __init__(
        self,
        pair: Pair,
        phase: Phase,
        *,
        is_back: bool = False,
        throttle: Throttle,
        check: Callable[[], object] = lambda: None,
        show: Callable[[int], object] = lambda rows: None,
        pause: float = PAUSE,
    ) -> None:
        self._pair = pair
        self._phase = phase
        self._is_back = is_back
        self._agree = agreeing(pair, phase)
        self._throttle = throttle
        self._check = check
        self._show = show
        self._pause = pause

    def run(self) -> Compared:
        """Compare everything.

        Raises:
            RootcellarError: a server cannot be reached for about a minute, or refuses.
        """
        found: dict[str, Found] = {}
        groups: dict[str, Found] = {}
        beyond: list[Found] = []

        def note(each: Found) -> None:
            noted = groups if each.kind in _OF_GROUPS else found
            if len(noted) >= MOST and each.record_id not in noted:
                # only counted, and repaired by the next comparison
                beyond.append(each)
            else:
                # the first difference of a record is the most important one
                noted.setdefault(each.record_id, each)

        progress = Progress()

        def on_batch() -> None:
            self._check()
            self._show(progress.done)

        verified = self._pair.verifying(note, throttle=self._throttle, progress=progress, on_batch=on_batch).run()
        compared = Compared(records=verified.source_total)
        for each in beyond:
            self._count(compared, each.kind, each.record_id)
        self._look_again(list(found), compared)
        self._look_at_groups(list(groups), compared)
        return compared

    def _look_again(self, ids: Sequence[str], compared: Compared) -> None:
        remaining = ids
        for look in range(LOOKS):
            if not remaining:
                break
            if look:
                time.sleep(self._pause)
            for task_id in remaining:
                self._check()
                # what a store refuses stays different
                with suppress(RecordRefused):
                    self._agree_on(task_id)
            remaining = [task_id for task_id, _, _ in self._differing(remaining)]
        compared.repaired = len(ids) - len(remaining)
        for task_id, kind, is_over in self._differing(remaining):
            if is_over:
                self._count(compared, kind, task_id)
            else:
                compared.unfinished += 1

    def _look_at_groups(self, ids: Sequence[str], compared: Compared) -> None:
        for group_id in ids:
            self._check()
            with suppress(RecordRefused):
                agree_on_group(self._pair, self._phase, group_id, is_back=self._is_back)
            in_source = persistent(partial(self._pair.source.get_group, group_id))
            in_target = persistent(partial(self._pair.target.get_group, group_id))
            kind = _difference_of_groups(in_source, in_target)
            if kind is None:
                compared.repaired += 1
            else:
                self._count(compared, kind, group_id)

    def _agree_on(self, task_id: str) -> None:
        if self._is_back:
            # the target decided before, so a newer result of it comes first
            bring_over(self._pair, self._pair.target, task_id)
        self._agree(task_id)

    def _count(self, compared: Compared, kind: Difference, record_id: str) -> None:
        if kind in _MORE and not self._is_back:
            compared.only_in_target += 1
        else:
            compared.add(kind, record_id)

    def _differing(self, ids: Sequence[str]) -> Iterator[tuple[str, Difference, bool]]:
        """Yield the tasks that differ, with the class, and whether the task has ended."""
        for begin in range(0, len(ids), _BATCH):
            batch = ids[begin : begin + _BATCH]
            in_source = persistent(partial(self._pair.source.get_many, batch))
            in_target = persistent(partial(self._pair.target.get_many, batch))
            for task_id in batch:
                one, other = in_source.get(task_id), in_target.get(task_id)
                kind = _difference(one, other)
                if kind is not None:
                    yield task_id, kind, any(each is not None and each.done_at is not None for each in (one, other))


def _difference(one: TaskRecord | None, other: TaskRecord | None) -> Difference | None:
    """Return in what the source's record differs from the target's; ``None`` if it does not, or is about to expire."""
    soon = datetime.now(timezone.utc) + _SOON
    if any(each is not None and each.expires_at is not None and each.expires_at <= soon for each in (one, other)):
        return None
    if one is None:
        return None if other is None else Difference.ONLY_IN_TARGET
    if other is None:
        return Difference.MISSING
    found = differences(one, other)
    return found[0] if found else None


def _difference_of_groups(one: GroupRecord | None, other: GroupRecord | None) -> Difference | None:
    if one is None:
        return None if other is None else Difference.GROUP_ONLY_IN_TARGET
    if other is None:
        return Difference.GROUP_MISSING
    return None if same_group(one, other) else Difference.GROUP
