"""Leads all processes through the phases of a migration.

Each step waits until every process has confirmed the phase, makes the pass that the next phase needs, compares both
stores, and only then stores the next phase. The state of the migration says how far it is: a coordinator that was
killed in any place is started again, by the same command, on any machine::

    wait until all have confirmed ─> pass ─> compare ─> the next phase ─> wait until all have confirmed
           |                          |         |            |
           └ names who is silent      |         |            └ not while it is postponed
                                      |         └ a list, and an end, if the stores differ
                                      └ goes on where a killed one was
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from rootcellar.errors import (
    MigrationBusy,
    MigrationChordsOpen,
    MigrationDiffers,
    MigrationRefused,
    MigrationUnconfirmed,
)
from rootcellar.migration import passes
from rootcellar.migration.beside_results import copy_holds
from rootcellar.migration.comparing import Comparing
from rootcellar.migration.confirmations import (
    Process,
    left_out,
    named,
    processes_in,
    processes_of,
    remove_dead,
    remove_silent,
    unconfirmed,
)
from rootcellar.migration.operator import RENEWAL, SILENT, OperatorLock
from rootcellar.migration.pair import Pair, Side
from rootcellar.migration.passes import NEEDED, Hooks, Pass
from rootcellar.migration.plan import has_results
from rootcellar.migration.state import (
    NAMES,
    STATE,
    Direction,
    PassKind,
    PassState,
    State,
    StateBook,
    VerifiedState,
    is_over,
)
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.walking import persistent
from rootcellar.stores.dual.phases import Phase

#: seconds between two looks at the confirmations
LOOK_EVERY = 0.5
#: a process that is named with --without gets so many seconds to confirm after all
LEAVE_OUT_FROM = 5.0
#: for so many seconds after the begin of a phase, a process that is left out may still call a store: its knowledge of
#: the phase is valid for 10 s, a call that it has begun for 10 s more, and the last answer of a server takes up to 10 s
LEFT_OUT_AFTER = 30.0
#: the class of results that came only to the source while every process that follows the migration stored in the target
UNFOLLOWED = "stored by a process without ROOTCELLAR_MIGRATION"
#: the clock of a worker may differ from that of the target by so much
CLOCKS_DIFFER = timedelta(seconds=30)
#: a process that was heard of so many seconds ago exists
ALIVE = 30.0
#: for how long a comparison counts, if nothing was noted meanwhile
VERIFIED_FOR = timedelta(minutes=10)


class Watching:
    """What a coordinator tells its caller. Every method does nothing; a command shows what it is called with."""

    def waits(self, state: State, silent: Sequence[Process], seconds: float) -> None:
        """Called about twice a second while processes have not confirmed the phase.

        Args:
            state: the state of the migration.
            silent: the processes that have not confirmed.
            seconds: for how long the coordinator has waited.
        """

    def waits_for_left_out(self, state: State, processes: Sequence[Process], seconds: float) -> None:
        """Called while the coordinator waits until a process that was left out cannot call a store any more.

        Args:
            state: the state of the migration.
            processes: the processes that the operator has left out.
            seconds: for how long it goes on to wait.
        """

    def passes(self, work: PassState) -> None:
        """Called after each batch of a pass."""

    def passed(self, work: PassState) -> None:
        """Called at the end of a pass."""

    def compares(self, records: int) -> None:
        """Called after each batch of a comparison, with the records that were read on both sides."""

    def compared(self, verified: VerifiedState) -> None:
        """Called at the end of a comparison."""

    def entered(self, state: State) -> None:
        """Called when a phase begins."""

    def confirmed(self, state: State, processes: Sequence[Process]) -> None:
        """Called when all processes have confirmed a phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the operator says with a command.

    Attributes:
        rate: the most rows a second of a pass; ``None`` to leave it as it is, 0 for no limit.
        without: hosts, or processes as ``host/pid``, that need not confirm.
        patience: seconds to wait for confirmations; ``None`` for as long as it takes.
        accept_differences: whether the next phase may begin although the stores differ.
        abandon_chords: whether a store may be left although chords are open in it.
        look_every: seconds between two looks at the confirmations.
        leave_out_from: seconds for which a process that is named with ``without`` may still confirm.
        left_out_after: seconds after which a process that is left out cannot call a store any more.
        silent, renewal: see :class:`~rootcellar.migration.operator.OperatorLock`.
    """

    rate: float | None = None
    without: tuple[str, ...] = ()
    patience: float | None = None
    accept_differences: bool = False
    abandon_chords: bool = False
    look_every: float = LOOK_EVERY
    leave_out_from: float = LEAVE_OUT_FROM
    left_out_after: float = LEFT_OUT_AFTER
    silent: float = SILENT
    renewal: float = RENEWAL


class Coordinator:
    """Makes the steps of a migration. Only one coordinator at a time works; see :class:`OperatorLock`.

    Args:
        pair: both stores.
        options: what the operator says.
        watching: gets what happens.
        by: who the operator is.
    """

    def __init__(
        self,
        pair: Pair,
        options: Options | None = None,
        *,
        watching: Watching | None = None,
        by: str | None = None,
    ) -> None:
        self.pair = pair
        self.options = options or Options()
        self.book = StateBook(pair, by)
        self._watching = watching or Watching()
        self._throttle = Throttle()

    # -- the commands

    def prepare(self) -> State:
        """Store that the migration begins, if it has not begun; return its state.

        Raises:
            MigrationRefused: the target has results of something else, or takes part in another migration.
        """
        state = self.book.find()
        if state is not None and not is_over(state):
            return state
        self._check_target_is_empty()
        self._check_nobody_follows_another()
        return self.book.create()

    def start(self, *, postponed: str | None = None) -> State:
        """Begin the migration: everything is written to both stores, and everything old is copied and compared.

        Args:
            postponed: why no other phase begins before an operator says so; ``None`` if it may begin.

        Raises:
            MigrationRefused: a migration goes on already, in a later phase.
            MigrationUnconfirmed: processes have not confirmed in time.
            MigrationDiffers: the stores differ after the pass.
        """
        self.prepare()
        with self._lock("starts the migration") as lock:
            state = self.book.read()
            if state.phase > Phase.DUAL or (state.phase is Phase.DUAL and state.direction is Direction.BACK):
                raise self._wrong(state, "it has begun already", "`rootcellar migrate advance` makes the next step")
            if postponed is not None:
                postpone(self.book, postponed)
            if state.phase is Phase.PREPARED:
                if state.direction is Direction.BACK:
                    # chords of the first try: on the way forth, processes do not look for them in the target
                    self._check_chords(self.pair.target)
                copy_holds(self.pair)
                self._to(lock, Phase.DUAL, Direction.FORTH)
            state = self._confirmed(lock)
            return self._equalize(lock, state, NEEDED[Phase.DUAL, Phase.SWITCHING])

    def advance(self, asked: Phase | None = None) -> State:
        """Make one step towards the target. What was postponed goes on: this is the word of the operator.

        If the last step was interrupted after the next phase had begun, this finishes that step, and makes no other.

        Args:
            asked: the phase in which the operator was asked; ``None`` if nobody was asked.

        Raises:
            MigrationRefused: no migration has begun, or there is no next phase.
            MigrationBusy: another operator has changed the phase since the question.
            MigrationUnconfirmed, MigrationDiffers: as for :meth:`start`.
        """
        self.book.read()
        with self._lock("goes to the next phase") as lock:
            # read again: another operator may have made a step before this one got the lock
            state = self._as_asked(asked)
            if state.phase is Phase.PREPARED:
                raise self._wrong(state, "nothing is written to the target yet", "run `rootcellar migrate start` first")
            if state.phase > Phase.TARGET_ONLY or (state.phase is Phase.TARGET_ONLY and not state.is_step_unfinished):
                raise self._wrong(state, "this is the last phase", "run `rootcellar migrate retire`")
            go_on(self.book)
            if state.is_step_unfinished:
                return self._confirmed(lock)
            return self._to(lock, Phase(state.phase + 1), Direction.FORTH)

    def finish_step(self) -> State:
        """Wait until all processes have confirmed the phase.

        Raises:
            MigrationUnconfirmed: processes have not confirmed in time.
        """
        with self._lock("waits until all processes have confirmed the phase") as lock:
            go_on(self.book)
            return self._confirmed(lock)

    def rollback(self, to: Phase = Phase.PREPARED, asked: Phase | None = None) -> State:
        """Go back to the source, phase by phase.

        Args:
            to: where to stop.
            asked: the phase in which the operator was asked; ``None`` if nobody was asked.

        Raises:
            MigrationRefused: there is no way back from this phase.
            MigrationBusy: another operator has changed the phase since the question.
            MigrationUnconfirmed, MigrationDiffers: as for :meth:`start`.
        """
        self.book.read()
        with self._lock("goes back to the source") as lock:
            state = self._as_asked(asked)
            if state.phase >= Phase.TARGET_ONLY:
                raise self._wrong(
                    state,
                    "there is no way back: results are only in the target",
                    "to go back to the source's system, migrate in the other direction, after `rootcellar migrate "
                    "retire`",
                )
            while state.phase > to:
                state = self._to(lock, Phase(state.phase - 1), Direction.BACK)
            return self._confirmed(lock)

    def retire(self, asked: Phase | None = None) -> State:
        """End the migration: the source is not called any more. After a rollback, the target is not.

        The state stays, because a process that still has the variable must know that the migration is over.

        Args:
            asked: the phase in which the operator was asked; ``None`` if nobody was asked.

        Returns:
            the last state; its phase is *retired*, or *prepared* after a rollback, and then it is not stored any more.

        Raises:
            MigrationRefused: both stores are in use.
            MigrationBusy: another operator has changed the phase since the question.
            MigrationChordsOpen: chords are open in the store that would be left.
            MigrationDiffers: processes that do not follow the migration store results in the source. What they have
                stored is in the target now.
        """
        self.book.read()
        with self._lock("ends the migration") as lock:
            state = self._as_asked(asked)
            if state.phase is Phase.PREPARED:
                return self._give_up(lock)
            if state.phase < Phase.TARGET_ONLY:
                raise self._wrong(
                    state,
                    "the source is still in use",
                    "run `rootcellar migrate advance` until the phase is 'target only', or `rootcellar migrate "
                    "rollback`",
                )
            if state.phase is Phase.TARGET_ONLY:
                state = self._confirmed(lock)
                self._check_chords(self.pair.source)
                copy_holds(self.pair)
                state = self._work(lock, state, PassKind.FORTH)
                self._check_nobody_is_left(state)
                self._enter(lock, Phase.RETIRED, Direction.FORTH)
            state = self._confirmed(lock)
            self._clean(lock)
            return state

    def _give_up(self, lock: OperatorLock) -> State:
        """Remove everything of a migration that nobody writes to the target for."""
        state = self._confirmed(lock)
        self._check_chords(self.pair.target)
        self._clean(lock)
        for side in (self.pair.source, self.pair.target):
            side.values.unshare([STATE])
        return state

    def _as_asked(self, asked: Phase | None) -> State:
        """Return the newest state.

        Raises:
            MigrationBusy: it has another phase than the one in which the operator was asked.
        """
        state = self.book.read()
        if asked is not None and state.phase is not asked:
            raise MigrationBusy(
                f"another operator has changed the phase meanwhile: it is {NAMES[state.phase]!r}",
                where=self.pair.target.where,
                remedy="see `rootcellar migrate status`, and run the command again",
            )
        return state

    # -- the parts of a step

    def _lock(self, work: str) -> OperatorLock:
        options = self.options
        return OperatorLock(
            self.book, work, silent=options.silent, renewal=options.renewal, on_renewal=self._follow_rate
        )

    def _follow_rate(self, state: State) -> None:
        self._throttle.rate = state.rate

    def _to(self, lock: OperatorLock, following: Phase, direction: Direction) -> State:
        """Make a step: wait, pass, compare, enter the next phase, wait again."""
        state = self._confirmed(lock)
        if state.phase is following:
            return state
        needed = NEEDED.get((state.phase, following))
        if needed is not None:
            state = self._equalize(lock, state, needed)
        if state.postponed is not None and direction is Direction.FORTH and state.phase is not Phase.PREPARED:
            raise MigrationRefused(
                f"the next phase is postponed: {state.postponed}",
                where=self.pair.target.where,
                remedy="everything is copied; run `rootcellar migrate advance` to go on",
            )
        if needed is not None:
            # also what was placed during a long pass
            copy_holds(self.pair, is_back=needed is PassKind.BACK)
        self._enter(lock, following, direction)
        return self._confirmed(lock)

    def _equalize(self, lock: OperatorLock, state: State, needed: PassKind) -> State:
        """Make the pass and the comparison that the next phase needs, unless they are made.

        Raises:
            MigrationDiffers: the stores differ.
        """
        # again before each step: one may have been placed by a process that does not follow the migration
        copy_holds(self.pair, is_back=needed is PassKind.BACK)
        done = state.finished_pass
        if done is None or done.kind is not needed or self._has_failed(state) or self._is_too_old(state, done):
            state = self._work(lock, state, needed)
        if not self._is_verified(state):
            state = self._verify(lock, state, is_back=needed is PassKind.BACK)
        verified = state.verified
        assert verified is not None, "it was made"
        if verified.is_clean or verified.is_accepted:
            return state
        if not self.options.accept_differences:
            raise MigrationDiffers(
                f"the stores differ: {differences_text(verified)}",
                where=f"{self.pair.source.where} and {self.pair.target.where}",
                remedy="see `rootcellar migrate status`, repair them and run this again, or give --accept-differences",
            )
        now = self.book.now()
        accepted = replace(verified, is_accepted=True)
        return self.book.change(
            lambda state: replace(lock.fenced(state), verified=accepted).noted(
                now, f"accepts that the stores differ: {differences_text(verified)}", self.book.by
            )
        )

    def _confirmed(self, lock: OperatorLock) -> State:
        """Wait until every process has confirmed the phase; return the state.

        Raises:
            MigrationUnconfirmed: some have not, and the operator does not wait for longer.
        """
        began = time.monotonic()
        while True:
            lock.check()
            state = persistent(self.book.read)
            persistent(partial(remove_dead, self.pair))
            processes = persistent(partial(processes_of, self.pair))
            silent = unconfirmed(state, processes)
            waited = time.monotonic() - began
            if silent and self.options.without and waited >= self.options.leave_out_from:
                state = self._leave_out(lock, silent, processes)
                silent = unconfirmed(state, processes)
            if not silent:
                remaining = self._seconds_left_out(state, processes)
                if remaining <= 0.0:
                    self._watching.confirmed(state, processes)
                    return self._note_confirmed(lock, state, processes)
                self._watching.waits_for_left_out(state, left_out(state, processes), remaining)
            else:
                self._watching.waits(state, silent, waited)
                if self.options.patience is not None and waited >= self.options.patience:
                    raise self._unconfirmed(state, silent)
            time.sleep(self.options.look_every)

    def _leave_out(self, lock: OperatorLock, silent: Sequence[Process], processes: Sequence[Process]) -> State:
        """Note that the silent processes that the operator has named need not confirm."""
        meant = named(self.options.without, processes, self.pair.target.where)
        found = [each for each in silent if each in meant]
        if not found:
            return self.book.read()
        keys = [each.key for each in found]
        now = self.book.now()
        text = f"goes on without {', '.join(each.name for each in found)}"
        return self.book.change(
            lambda state: replace(lock.fenced(state), without=tuple(dict.fromkeys((*state.without, *keys)))).noted(
                now, text, self.book.by
            )
        )

    def _note_confirmed(self, lock: OperatorLock, state: State, processes: Sequence[Process]) -> State:
        """Note that the phase is confirmed.

        Processes that were left out, and have confirmed after all, count again in the next phase.
        """
        still = {each.key for each in left_out(state, processes)}
        if still.issuperset(state.without) and state.confirmed_epoch == state.epoch:
            return state
        return self.book.change(
            lambda state: replace(
                lock.fenced(state),
                without=tuple(key for key in state.without if key in still),
                confirmed_epoch=state.epoch,
            )
        )

    def _seconds_left_out(self, state: State, processes: Sequence[Process]) -> float:
        """Return for how long a process that is left out may still call a store; 0 if there is none."""
        if not left_out(state, processes):
            return 0.0
        passed = (self.book.now() - state.phase_since).total_seconds()
        return max(0.0, self.options.left_out_after - passed)

    def _work(self, lock: OperatorLock, state: State, kind: PassKind) -> State:
        """Make a pass, or go on with the one that was not finished."""
        work = state.work
        if work is None or work.epoch != state.epoch or work.kind is not kind or work.finished_at is not None:
            work = passes.begin(self.pair, kind, state.epoch, self.book.now())
            self._keep(lock, work)
        self._follow_rate(state)
        lock.say(f"pass {kind.value}")
        hooks = Hooks(keep=lambda work: self._keep(lock, work), check=lock.check, show=self._watching.passes)
        is_target_first = state.phase >= Phase.TARGET_FIRST and kind is PassKind.FORTH
        since = state.phase_since + CLOCKS_DIFFER if is_target_first else None
        done = Pass(self.pair, state.phase, work, throttle=self._throttle, hooks=hooks, unfollowed_from=since).run()
        finished = replace(done, cursor=None, finished_at=self.book.now(), seconds_left=None)
        self._watching.passed(finished)
        return self._keep(lock, finished)

    def _keep(self, lock: OperatorLock, work: PassState) -> State:
        return persistent(lambda: self.book.change(lambda state: replace(lock.fenced(state), work=work)))

    def _has_failed(self, state: State) -> bool:
        """Return whether the last comparison in this phase found differences, which nobody has accepted."""
        verified = state.verified
        return (
            verified is not None and verified.epoch == state.epoch and not (verified.is_clean or verified.is_accepted)
        )

    def _is_too_old(self, state: State, done: PassState) -> bool:
        """Return whether a process that does not follow the migration may have stored results since a pass.

        In the other phases, it would store them in the store that decides, as every process does.
        """
        if state.phase is not Phase.TARGET_FIRST or done.finished_at is None:
            return False
        return self.book.now() - done.finished_at > VERIFIED_FOR

    def _is_verified(self, state: State) -> bool:
        verified = state.verified
        work = state.finished_pass
        if verified is None or verified.epoch != state.epoch or self._has_failed(state):
            return False
        if work is not None and work.finished_at is not None and work.finished_at > verified.at:
            return False
        if self.book.now() - verified.at > VERIFIED_FOR:
            return False
        return not any(passes.noted(side.values) for side in (self.pair.source, self.pair.target))

    def _verify(self, lock: OperatorLock, state: State, *, is_back: bool) -> State:
        lock.say("comparison of both stores")
        # read before: what is noted later is not compared
        noted = [(side, key) for side in (self.pair.source, self.pair.target) for key in passes.noted(side.values)]
        found = Comparing(
            self.pair,
            state.phase,
            is_back=is_back,
            throttle=self._throttle,
            check=lock.check,
            show=self._watching.compares,
        ).run()
        left = dict(found.left)
        examples = {kind: tuple(ids) for kind, ids in found.examples.items()}
        work = state.finished_pass
        if work is not None and work.unfollowed:
            left[UNFOLLOWED], examples[UNFOLLOWED] = work.unfollowed, work.unfollowed_examples
        verified = VerifiedState(
            epoch=state.epoch,
            at=self.book.now(),
            compared=found.records,
            repaired=found.repaired,
            left=left,
            unfinished=found.unfinished,
            only_in_target=found.only_in_target,
            examples=examples,
        )
        self._watching.compared(verified)
        for side, key in noted:
            lock.check()
            passes.repair_noted(self.pair, state.phase, side, key)
        return persistent(lambda: self.book.change(lambda state: replace(lock.fenced(state), verified=verified)))

    def _enter(self, lock: OperatorLock, phase: Phase, direction: Direction) -> State:
        """Store the next phase, for all processes to follow."""
        lock.check()
        lock.say(f"phase {NAMES[phase]}")
        now = self.book.now()
        entered = self.book.change(lambda state: _with_phase(lock.fenced(state), phase, direction, now, self.book.by))
        self._watching.entered(entered)
        return entered

    def _clean(self, lock: OperatorLock) -> None:
        """Remove what the migration has left in both stores, except its state."""
        lock.say("removes burials")
        for side in (self.pair.target, self.pair.source):
            lock.check()
            side.mirrored.forget_burials(None)
            side.values.unshare(passes.noted(side.values))
            remove_silent(side.values, ALIVE)

    # -- refusals

    def _check_target_is_empty(self) -> None:
        if has_results(self.pair.target):
            raise MigrationRefused(
                "the target has results already, and not those of this migration: they would be mixed, and those that "
                "the source lacks would be deleted",
                where=self.pair.target.where,
                remedy="name an empty target, or delete its results with `rootcellar forget state:any`",
            )

    def _check_nobody_follows_another(self) -> None:
        """Check that no process follows an ended migration to the source: it would take this one for its own."""
        values = self.pair.source.values
        since = values.server_time() - timedelta(seconds=ALIVE)
        remove_dead(self.pair)
        remove_silent(values, ALIVE)
        found = [each for each in processes_in([values]) if each.phase == Phase.RETIRED and each.heard_at > since]
        if found:
            raise MigrationRefused(
                f"{processes_text(found)} still the variable of an ended migration to this source: "
                f"{', '.join(each.name for each in found[:10])}",
                where=self.pair.source.where,
                remedy="remove ROOTCELLAR_MIGRATION there, or name the new target, and restart these processes",
            )

    def _check_chords(self, side: Side) -> None:
        """Check that no chord is open in a store in which processes will not look for it any more.

        Raises:
            MigrationChordsOpen: some are, and the operator does not abandon them.
        """
        if self.options.abandon_chords:
            return
        count = persistent(side.streamed.open_chords)
        if count:
            raise MigrationChordsOpen(
                f"{count:,} chord{'s are' if count > 1 else ' is'} open in the {side.name}",
                where=side.where,
                remedy="run this again when their tasks have ended, or give --abandon-chords",
            )

    def _check_nobody_is_left(self, state: State) -> None:
        """Check that the pass has found no result of a process that does not follow the migration.

        Raises:
            MigrationDiffers: it has, and the operator does not accept that.
        """
        work = state.finished_pass
        if work is None or not work.unfollowed or self.options.accept_differences:
            return
        raise MigrationDiffers(
            f"{work.unfollowed:,} results {UNFOLLOWED} (such as {work.unfollowed_examples[0]})",
            where=self.pair.source.where,
            remedy="they are in the target now; restart that worker with the target's URL, and run this again, or give "
            "--accept-differences",
        )

    def _unconfirmed(self, state: State, silent: Sequence[Process]) -> MigrationUnconfirmed:
        names = tuple(each.name for each in silent)
        return MigrationUnconfirmed(
            f"{processes_text(silent)} not confirmed the phase {NAMES[state.phase]!r}: {', '.join(names[:10])}",
            where=self.pair.target.where,
            remedy="start or stop what is silent, or say that it need not confirm: --without HOST or HOST/PID",
            processes=names,
        )

    def _wrong(self, state: State, what: str, remedy: str) -> MigrationRefused:
        return MigrationRefused(
            f"the phase of the migration is {NAMES[state.phase]!r}: {what}",
            where=self.pair.target.where,
            remedy=remedy,
        )


def postpone(book: StateBook, reason: str) -> State:
    """Let no phase begin before an operator says so. What is copied or compared meanwhile goes on."""
    now = book.now()
    return book.change(lambda state: replace(state, postponed=reason).noted(now, f"postpones: {reason}", book.by))


def go_on(book: StateBook) -> State:
    """Let the next phase begin."""
    now = book.now()
    return book.change(
        lambda state: (
            state
            if state.postponed is None
            else replace(state, postponed=None).noted(now, "the next phase may begin", book.by)
        )
    )


def set_rate(book: StateBook, rate: float | None) -> State:
    """Change the most rows a second of a pass; ``None`` for no limit. A pass that runs follows within seconds."""
    now = book.now()
    text = "no limit of the rate" if rate is None else f"rate of {rate:g} rows a second"
    return book.change(
        lambda state: state if state.rate == rate else replace(state, rate=rate).noted(now, text, book.by)
    )


def differences_text(verified: VerifiedState) -> str:
    """Return the differences that are left, with one id of each class."""
    parts = []
    for kind, count in verified.left.items():
        if count:
            example = next(iter(verified.examples.get(kind, ())), None)
            parts.append(f"{count:,} {kind}" + (f" (such as {example})" if example else ""))
    return ", ".join(parts) or "nothing"


def processes_text(processes: Sequence[Process]) -> str:
    """Return ``1 process has`` or ``3 processes have``."""
    return "1 process has" if len(processes) == 1 else f"{len(processes):,} processes have"


def _with_phase(state: State, phase: Phase, direction: Direction, now: datetime, by: str) -> State:
    if state.phase is phase:
        return state
    if phase - state.phase != (1 if direction is Direction.FORTH else -1):
        raise MigrationRefused(
            f"the phase {NAMES[phase]!r} cannot follow {NAMES[state.phase]!r}",
            where=state.target,
            remedy="see `rootcellar migrate status`, and run the command again",
        )
    text = f"phase {NAMES[phase]!r}" if direction is Direction.FORTH else f"back to the phase {NAMES[phase]!r}"
    return replace(state, phase=phase, epoch=state.epoch + 1, direction=direction, phase_since=now, by=by).noted(
        now, text, by
    )
