"""The passes: each reads everything once, while all processes go on storing and reading.

A pass begins after all processes have confirmed a phase, and the next phase begins after its end. So what a process
left behind in one store only, because it was killed between its two writes or because the other store did not answer,
is in both before the stores exchange their roles.

How far a pass is stands in the state of the migration, and is stored at least every two seconds. A pass that was killed
goes on there. All that a pass does may be done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

from rootcellar.errors import RecordRefused
from rootcellar.migration.agreeing import agreeing, are_same, bring_over
from rootcellar.migration.pair import Pair, Side
from rootcellar.migration.progress import Progress
from rootcellar.migration.state import UNMIRRORED, PassKind, PassState
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.walking import persistent, read_ahead, walk_groups, walk_tasks
from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.mirroring import fingerprint, moment
from rootcellar.stores.shared_values import SharesValues

#: seconds after which the place of a pass is stored again
KEEP_EVERY = 1.0
#: how many burials are read at a time
_BURIALS = 1_000
#: how many results of processes that do not follow the migration are named
NAMED = 10

#: the stages of each kind of pass, in their order
FORGOTTEN, RESULTS, BURIALS, GROUPS, NOTED = "forgotten", "results", "burials", "groups", "noted"
STAGES: Mapping[PassKind, tuple[str, ...]] = {
    PassKind.EQUAL: (FORGOTTEN, RESULTS, GROUPS, NOTED),
    PassKind.FORTH: (RESULTS, GROUPS, NOTED),
    PassKind.BACK: (RESULTS, BURIALS, GROUPS, NOTED),
}
#: the pass that is needed before the step from one phase to another
NEEDED: Mapping[tuple[Phase, Phase], PassKind] = {
    (Phase.DUAL, Phase.SWITCHING): PassKind.EQUAL,
    (Phase.SWITCHING, Phase.TARGET_FIRST): PassKind.FORTH,
    (Phase.TARGET_FIRST, Phase.TARGET_ONLY): PassKind.FORTH,
    (Phase.SWITCHING, Phase.DUAL): PassKind.BACK,
}


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a pass calls meanwhile.

    Attributes:
        keep: stores how far the pass is.
        check: raises an error if the pass must end.
        show: shows how far the pass is; it is called after each batch.
    """

    keep: Callable[[PassState], object] = lambda work: None
    check: Callable[[], object] = lambda: None
    show: Callable[[PassState], object] = lambda work: None


def begin(pair: Pair, kind: PassKind, epoch: int, now: datetime) -> PassState:
    """Return the state of a pass that begins."""
    total = persistent(_from(pair, kind).streamed.count_roughly)
    if kind is PassKind.EQUAL:
        total += persistent(pair.target.streamed.count_roughly)
    return PassState(kind=kind, epoch=epoch, stage=STAGES[kind][0], total=total, started_at=now)


class Pass:
    """One pass.

    Args:
        pair: both stores.
        phase: the phase that all processes have confirmed.
        work: how far the pass is.
        throttle: limits the rows a second.
        hooks: what is called meanwhile.
        unfollowed_from: from when on every process that follows the migration has stored its results in the target;
            ``None`` if there is no such moment. A later result that only the source has is counted.
    """

    def __init__(
        self,
        pair: Pair,
        phase: Phase,
        work: PassState,
        *,
        throttle: Throttle,
        hooks: Hooks | None = None,
        unfollowed_from: datetime | None = None,
    ) -> None:
        self._pair = pair
        self._from = _from(pair, work.kind)
        self._to = pair.target if self._from is pair.source else pair.source
        self._phase = phase
        self._throttle = throttle
        self._hooks = hooks or Hooks()
        self._unfollowed_from = unfollowed_from
        self._progress = Progress(work.total, done=work.done)
        self._kept_at = time.monotonic()
        self.work = work

    def run(self) -> PassState:
        """Do what is left of the pass; return its state, without the moment of its end.

        Raises:
            RootcellarError: a server cannot be reached for about a minute, or refuses. The next run goes on there.
        """
        stages = STAGES[self.work.kind]
        run: Mapping[str, Callable[[], object]] = {
            FORGOTTEN: self._bury_forgotten,
            RESULTS: self._copy_results,
            BURIALS: self._apply_burials,
            GROUPS: self._copy_groups,
            NOTED: self._repair_noted,
        }
        for stage in stages[stages.index(self.work.stage) :]:
            if stage != self.work.stage:
                self._keep(replace(self.work, stage=stage, cursor=None))
            run[stage]()
        return self.work

    # -- the stages

    def _bury_forgotten(self) -> None:
        """Remove from the target what the source does not have: it was forgotten, and a late mirror brought it back.

        The target is read first, because a result is stored in the source first.
        """
        for rows in self._walk(self._pair.target):
            in_source = persistent(partial(self._pair.source.get_many, [row.task_id for row in rows]))
            gone = [row for row in rows if row.task_id not in in_source]
            if gone:
                self._add(removed=persistent(partial(self._pair.target.mirrored.bury_same, gone)))

    def _copy_results(self) -> None:
        for rows in self._walk(self._from):
            wanted = self._without_old_states(rows) if self._phase >= Phase.TARGET_ONLY else rows
            if wanted:
                self._copy(wanted)
            if self.work.kind is PassKind.BACK:
                self._settle(rows)

    def _without_old_states(self, rows: Sequence[TaskRecord]) -> Sequence[TaskRecord]:
        """Return the records that may be newer than those of the target, which alone was written since a while.

        These are each SUCCESS, and what the target does not have.
        """
        stored = persistent(partial(self._to.get_many, [row.task_id for row in rows if row.state != "SUCCESS"]))
        return [row for row in rows if row.state == "SUCCESS" or row.task_id not in stored]

    def _settle(self, rows: Sequence[TaskRecord]) -> None:
        """Store each SUCCESS of the target in the source, also where that has another one, and each later end.

        A later FAILURE is in the target only if its writer was killed before it could mirror it.
        """
        done = [row for row in rows if row.done_at is not None]
        stored = persistent(partial(self._to.get_many, [row.task_id for row in done])) if done else {}
        for row in done:
            there = stored.get(row.task_id)
            if there is None or are_same(row, there):
                continue
            is_later = there.state != "SUCCESS" and moment(row) > moment(there)
            if row.state != "SUCCESS" and not is_later:
                continue
            write = self._to.mirrored.settle if row.state == "SUCCESS" else self._to.mirrored.mirror
            with suppress(RecordRefused):
                persistent(partial(write, row))
                self._add(written=1)

    def _apply_burials(self) -> None:
        """Remove from the source what the target has buried."""
        cursor = self.work.cursor
        while True:
            self._hooks.check()
            burials, cursor = persistent(partial(self._from.mirrored.burials, cursor, _BURIALS))
            named = {burial.task_id: burial for burial in burials}
            stored = persistent(partial(self._to.get_many, list(named))) if named else {}
            gone = [row for row in stored.values() if _is_named(row, named[row.task_id].fingerprints)]
            if gone:
                self._add(removed=persistent(partial(self._to.mirrored.bury_same, gone)))
            self._passed(cursor)
            if cursor is None or not self._throttle.take(len(burials)):
                return

    def _copy_groups(self) -> None:
        for batch in walk_groups(self._from.streamed.stream_groups, self.work.cursor, throttle=self._throttle):
            self._hooks.check()
            now = datetime.now(timezone.utc)
            alive = [group for group in batch.rows if group.expires_at is None or group.expires_at > now]
            if alive:
                persistent(partial(self._to.streamed.copy_groups, alive))
            self._passed(batch.cursor)

    def _repair_noted(self) -> None:
        """Let both stores agree on each task that a process has noted because a store did not answer."""
        for side in (self._pair.source, self._pair.target):
            for key in noted(side.values):
                self._hooks.check()
                repair_noted(self._pair, self._phase, side, key)

    # -- reading and writing

    def _walk(self, side: Side) -> Iterator[Sequence[TaskRecord]]:
        """Yield the records of a store that have not expired and can be read."""
        cursor, stream, throttle = self.work.cursor, side.streamed.stream, self._throttle
        with read_ahead(lambda wait: walk_tasks(stream, cursor, throttle=throttle, wait=wait)) as batches:
            for batch in batches:
                self._hooks.check()
                now = datetime.now(timezone.utc)
                alive = [row for row in batch.rows if row.expires_at is None or row.expires_at > now]
                readable = [row for row in alive if not damaged_fields(row)]
                self._add(unreadable=len(alive) - len(readable))
                if readable:
                    yield readable
                self._progress.add(len(batch.rows))
                self._passed(batch.cursor)

    def _copy(self, rows: Sequence[TaskRecord]) -> None:
        try:
            report = persistent(partial(self._to.mirrored.copy, rows))
        except RecordRefused:
            if len(rows) == 1:
                self._add(refused=1)
                return
            # one of them is refused: the halves show which
            middle = len(rows) // 2
            self._copy(rows[:middle])
            self._copy(rows[middle:])
            return
        kept = len(report.kept) + len(report.buried)
        self._add(written=len(report.written), kept=kept, refused=len(report.refused))
        self._count_unfollowed(row for row in rows if row.task_id in report.written)

    def _count_unfollowed(self, written: Iterable[TaskRecord]) -> None:
        """Count the results that a process without the variable has stored: the target did not have them."""
        since = self._unfollowed_from
        if since is None:
            return
        late = [row for row in written if row.done_at is not None and row.done_at > since]
        named = [f"{row.task_id} of {row.worker or 'an unknown worker'}" for row in late]
        examples = (*self.work.unfollowed_examples, *named)[:NAMED]
        self.work = replace(self.work, unfollowed=self.work.unfollowed + len(late), unfollowed_examples=examples)

    # -- how far it is

    def _add(self, **counts: int) -> None:
        self.work = replace(self.work, **{name: getattr(self.work, name) + count for name, count in counts.items()})

    def _passed(self, cursor: str | None) -> None:
        """Note that everything before a cursor is done. At the end of a stage, the next one stores its beginning."""
        done = self._progress.done
        total = max(self.work.total, done)
        self._progress.total = total
        self.work = replace(
            self.work,
            cursor=cursor,
            done=done,
            total=total,
            rate=self._progress.rate,
            seconds_left=self._progress.seconds_left,
        )
        self._hooks.show(self.work)
        if cursor is not None and time.monotonic() - self._kept_at >= KEEP_EVERY:
            self._keep(self.work)

    def _keep(self, work: PassState) -> None:
        self.work = work
        self._hooks.keep(work)
        self._kept_at = time.monotonic()


def repair_noted(pair: Pair, phase: Phase, side: Side, key: str) -> None:
    """Let both stores agree on a task that could not be mirrored, and delete the note.

    Args:
        pair: both stores.
        phase: the phase that all processes have confirmed.
        side: the store that has the note.
        key: the key of the note.
    """
    task_id = key.removeprefix(UNMIRRORED)
    # what a store refuses stays different, and the comparison counts it
    with suppress(RecordRefused):
        bring_over(pair, side, task_id)
        agreeing(pair, phase)(task_id)
    persistent(partial(side.values.unshare, [key]))


def noted(values: SharesValues) -> list[str]:
    """Return the keys of the tasks that could not be mirrored."""
    return list(persistent(partial(values.shared, UNMIRRORED)))


def _from(pair: Pair, kind: PassKind) -> Side:
    return pair.target if kind is PassKind.BACK else pair.source


def _is_named(row: TaskRecord, fingerprints: frozenset[bytes]) -> bool:
    return fingerprint(row) in fingerprints
