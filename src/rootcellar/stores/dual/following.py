"""How a process follows the phase of a migration without a restart.

A thread of each process reads the phase every second, from the target or, if that cannot be reached, from the copy in
the source. It also stores what this process has confirmed, which the coordinator waits for::

    first verb ──> register ──> read the phase ──> verbs run ──> another phase is read ──> its verbs run
                   (confirms                                     (confirms it when no verb of an earlier
                    nothing)                                      phase runs any more)

    no read succeeded for LEASE_SECONDS: no verb begins before the phase is read again

A target that can be reached and has no phase, although the source has one, is not the target of that migration: the
variable of this process names another store. No verb begins then, and the value of this process stays in the source,
so that the coordinator waits for it and names it.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TypeVar

from rootcellar.errors import MigrationPhaseUnknown, MigrationRefused, RootcellarError, StoreUnavailable
from rootcellar.stores.dual.phases import STATE_KEY, UNMIRRORED_PREFIX, Known, Phase, Running
from rootcellar.stores.dual.presence import Identity
from rootcellar.stores.dual.sampling import Samples
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.state import StoredState, stored_state
from rootcellar.stores.dual.unmirrored import Unmirrored
from rootcellar.support.backoff import Backoff
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact

logger = visible_logs(logging.getLogger(__name__))

T = TypeVar("T")

#: seconds for which what a process knows of the phase counts
LEASE_SECONDS = 10.0
#: seconds between two reads of the phase
PAUSE_SECONDS = 1.0
#: seconds between two tries to confirm a phase, while verbs of an earlier one run
CONFIRM_PAUSE_SECONDS = 0.1
#: seconds after which a process stores its value again, so that it is not taken for a silent one
HEARTBEAT_SECONDS = 3.0
#: seconds to wait for an answer of the target, before the source is asked
ANSWER_SECONDS = 1.0
#: the pauses before the target is asked again
_PAUSES = Backoff(1_000.0, 4_000.0)
#: all that exist in this process; what is not closed when it ends is closed then
_alive: weakref.WeakSet[Following] = weakref.WeakSet()


class Following:
    """Knows the phase of each process, see :class:`~rootcellar.stores.dual.phases.Phases`.

    Args:
        source, target: the two stores.
        unmirrored: the results to note in the shared values.
        samples: the reads to compare.
    """

    def __init__(self, source: Side, target: Side, unmirrored: Unmirrored, samples: Samples) -> None:
        self._followers = PerProcess(lambda: Follower(source, target, unmirrored, samples))
        _alive.add(self)

    def now(self) -> Known:
        """See :class:`~rootcellar.stores.dual.phases.Phases`."""
        return self._followers.get().now()

    def known(self) -> Known | None:
        """See :class:`~rootcellar.stores.dual.phases.Phases`."""
        follower = self._followers.peek()
        return None if follower is None else follower.known

    def begin(self) -> Running:
        """See :class:`~rootcellar.stores.dual.phases.Phases`."""
        return self._followers.get().begin()

    def add(self, running: Running) -> None:
        """See :class:`~rootcellar.stores.dual.phases.Phases`."""
        self._followers.get().add(running)

    def close(self) -> None:
        """See :class:`~rootcellar.stores.dual.phases.Phases`."""
        if (follower := self._followers.take()) is not None:
            follower.close()


class Follower:
    """Follows the phase in one process. Thread-safe.

    Args:
        source, target: the two stores.
        unmirrored: the results to note in the shared values.
        samples: the reads to compare.
    """

    def __init__(self, source: Side, target: Side, unmirrored: Unmirrored, samples: Samples) -> None:
        self._source, self._target = source, target
        self._unmirrored, self._samples = unmirrored, samples
        self._executor = DeadlineExecutor()
        self._me = Identity()
        self._lock = threading.Lock()
        #: held while a thread reads the phase for all
        self._reading = threading.Lock()
        self._known: Known | None = None
        self._running: weakref.WeakSet[Running] = weakref.WeakSet()
        #: held while the value of this process is stored or removed
        self._storing = threading.Lock()
        self._stop = threading.Event()
        self._has_thread = False
        self._rounds = 0
        #: what was stored last as confirmed, and the monotonic time
        self._stored: Known | None = None
        self._stored_at = 0.0
        #: why the phase could not be read, and the monotonic time
        self._failure: tuple[MigrationPhaseUnknown, float] | None = None
        #: how often in a row the target could not be asked, and the monotonic time until which it is not asked again
        self._failed = 0
        self._asks_again_at = 0.0
        #: whether the value of this process may be in the target, and in the source
        self._is_in: dict[Side, bool] = {target: False, source: False}
        #: whether the value of this process is stored in both: no migration to this target is known
        self._is_in_both = False
        self._target_url = redact(target.store.url.removeprefix("rootcellar+"))

    # -- for verbs

    @property
    def known(self) -> Known | None:
        """What was read last; ``None`` if nothing was."""
        return self._known

    def now(self) -> Known:
        """Return what is known; read it if it is too old."""
        known = self._known
        if known is None or time.monotonic() - known.read_at > LEASE_SECONDS:
            return self._read_again()
        return known

    def begin(self) -> Running:
        """Return what stands for a verb that runs in the phase of this moment."""
        while True:
            self.now()
            with self._lock:
                known = self._known
                # between the two lines above, another phase may have been confirmed
                if known is not None and time.monotonic() - known.read_at <= LEASE_SECONDS:
                    running = Running(known)
                    self._running.add(running)
                    return running

    def add(self, running: Running) -> None:
        """Count something else as running."""
        with self._lock:
            self._running.add(running)

    def _read_again(self) -> Known:
        """Read the phase in this thread, once for all threads that need it."""
        asked = time.monotonic()
        with self._reading:
            known, failure = self._known, self._failure
            if known is not None and time.monotonic() - known.read_at <= LEASE_SECONDS:
                return known
            if failure is not None and failure[1] >= asked:
                # another thread has just tried; otherwise each of many threads would wait for an answer in turn
                raise copy(failure[0])
            known = self._read()
            if not self._has_thread:
                start_thread(self._run, "rootcellar-phase")
                self._has_thread = True
            return known

    # -- reading the phase

    def _read(self) -> Known:
        began = time.monotonic()
        try:
            if not self._has_thread:
                # first, so that the coordinator knows of this process before it has confirmed anything
                self._register()
            stored = self._state_of_either(began)
        except RootcellarError as exc:
            is_refused = isinstance(exc, MigrationRefused)
            unknown = MigrationPhaseUnknown(
                exc.what if is_refused else f"the phase of the migration cannot be read: {exc.what}",
                where=exc.where,
                remedy=exc.remedy if is_refused else "try again",
            )
            # what was refused by a server after it had worked is an outage
            unknown.retryable = exc.retryable or (self._known is not None and not is_refused)
            self._failure = (unknown, time.monotonic())
            raise unknown from exc
        return self._adopt(stored)

    def _state_of_either(self, began: float) -> StoredState:
        try:
            text = self._in_time(partial(_state_in, self._target))
        except RootcellarError as exc:
            logger.debug("The phase of the migration is read from the source: %s", exc)
            return self._state_without_target(began)
        stored = self._state_of_target(text, began)
        if stored is not None:
            self._is_in_both = False
            return stored
        self._is_in_both = True
        # before the source is read, so that a coordinator that begins now waits for this process
        self._guarded(self._store_in_source)
        stored = self._state_of_source(began)
        if stored.has_begun and stored.known.migration != self._migration:
            # perhaps the migration has begun between the two reads
            in_target = self._state_of_target(self._in_time(partial(_state_in, self._target)), began)
            if in_target is None:
                raise _wrong_target(
                    f"has no migration, and that of the source goes to {stored.target}", self._target.where
                )
            return in_target
        return stored

    def _state_of_target(self, text: str | None, began: float) -> StoredState | None:
        """Return what the target says; ``None`` if no migration to this store has begun.

        Raises:
            MigrationRefused: this store is the source of a migration.
        """
        stored = None if text is None else stored_state(text, began, self._target.where)
        if stored is None or (stored.is_of_source and stored.is_over):
            return None
        if stored.is_of_source:
            raise _wrong_target(f"is the source of the migration to {stored.target}", self._target.where)
        return stored

    def _state_of_source(self, began: float) -> StoredState:
        """Return what the source says of a migration from it.

        Raises:
            MigrationRefused: this store is the target of another migration.
        """
        stored = stored_state(_state_in(self._source), began, self._source.where)
        if not stored.is_of_target:
            return stored
        if stored.is_over:
            # the results came to this store by an earlier migration
            return stored_state(None, began, self._source.where)
        raise MigrationRefused(
            "the store of the results is the target of another migration, which is not over",
            where=self._source.where,
            remedy="end that one first; until then, name the stores of that one (ROOTCELLAR_MIGRATION)",
        )

    def _state_without_target(self, began: float) -> StoredState:
        """Return what the source says, while the target cannot be reached.

        Where the target decides, this process must know that it means the same target.
        """
        stored = self._state_of_source(began)
        is_known = stored.known.migration == self._migration or stored.target in ("", self._target_url)
        if stored.known.phase.target_decides and not is_known:
            raise StoreUnavailable(
                f"the target cannot be reached, and the migration goes to {stored.target}", where=self._target.where
            )
        return stored

    @property
    def _migration(self) -> str:
        """The name of the migration that this process follows; empty if it follows none."""
        known = self._known
        return "" if known is None else known.migration

    def _adopt(self, stored: StoredState) -> Known:
        """Begin verbs in another phase from now on; return what is known now."""
        with self._lock:
            known, earlier = stored.known, self._known
            if earlier is not None and not known.epoch and earlier.epoch:
                logger.warning("The phase of the migration is not stored any more: %s goes on.", earlier.phase.name)
                known = replace(earlier, read_at=known.read_at)
            elif earlier is not None and known.migration == earlier.migration and known.epoch < earlier.epoch:
                # an old copy in the source: what this process has confirmed must stay true
                known = replace(earlier, read_at=max(known.read_at, earlier.read_at))
            if earlier is None or known.read_at >= earlier.read_at:
                self._known = known
            adopted = self._known or known
        self._samples.begin_again((stored.known.epoch, stored.finished_pass))
        self._unmirrored.begin_again((adopted.epoch, stored.finished_pass, stored.verified_at))
        return adopted

    def confirmed(self) -> Known | None:
        """Return the phase in which everything runs that runs in this process; ``None`` if there are two."""
        with self._lock:
            known = self._known
            if known is None:
                return None
            of_others = [each for each in self._running if not each.is_over and each.known.epoch != known.epoch]
            return None if of_others else known

    # -- the thread

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            self._rounds += 1
            for work in (self._read, self._note_unmirrored, self._compare, self._report):
                self._guarded(work)

    def _pause(self) -> float:
        confirmed = self.confirmed()
        is_stored = confirmed is not None and _epoch(confirmed) == _epoch(self._stored)
        return PAUSE_SECONDS if is_stored else CONFIRM_PAUSE_SECONDS

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RootcellarError as exc:
            logger.debug("Following the migration: %s", exc)
        except Exception:
            # this thread must continue: without it, every verb reads the phase
            logger.exception("Following the migration failed. Trying again.")

    def _note_unmirrored(self) -> None:
        known = self._known
        if known is None:
            return
        decider = self._target if known.phase.target_decides else self._source
        for task_id in self._unmirrored.waiting():
            decider.shared.share(UNMIRRORED_PREFIX + task_id, "{}")
            self._unmirrored.written(task_id)

    def _compare(self) -> None:
        known = self._known
        if known is not None and known.phase is Phase.DUAL:
            self._in_time(lambda: self._samples.compare(self._source, self._target))

    # -- the value of this process

    def _register(self) -> None:
        """Store that this process exists, and remove what dead processes of this host have left."""
        self._store(None)
        for side, is_there in self._is_in.items():
            if is_there:
                self._guarded(partial(self._remove_dead, side))

    def _remove_dead(self, side: Side) -> None:
        if dead := self._me.dead(side.shared.shared(self._me.keys_of_host)):
            side.shared.unshare(dead)

    def _report(self) -> None:
        """Store what this process has confirmed, if it has changed or was stored some seconds ago."""
        # while verbs of an earlier phase run, what was confirmed last is still true
        confirmed = self.confirmed() or self._stored
        is_new = _epoch(confirmed) != _epoch(self._stored)
        if is_new or time.monotonic() - self._stored_at >= HEARTBEAT_SECONDS:
            self._store(confirmed)

    def _store(self, confirmed: Known | None) -> None:
        """Store the value of this process in the target.

        It is stored in the source if the target cannot be reached, and in both before the migration has begun: perhaps
        the coordinator knows another target.
        """
        text = self._value(confirmed)
        with self._storing:
            if self._stop.is_set():
                # the value has been removed
                return
            self._store_text(text)
            self._stored, self._stored_at = confirmed, time.monotonic()

    def _store_text(self, text: str) -> None:
        try:
            self._is_in[self._target] = True
            self._in_time(lambda: self._target.shared.share(self._me.key, text))
        except RootcellarError as exc:
            logger.debug("The phase is confirmed in the source: %s", exc)
            self._share_with_source(text)
        else:
            if self._is_in_both:
                self._guarded(partial(self._share_with_source, text))
            elif self._is_in[self._source]:
                self._source.shared.unshare([self._me.key])
                self._is_in[self._source] = False

    def _store_in_source(self) -> None:
        """Store the value of this process in the source, if it is not there."""
        with self._storing:
            if not self._stop.is_set() and not self._is_in[self._source]:
                self._share_with_source(self._value(self._stored))

    def _share_with_source(self, text: str) -> None:
        self._is_in[self._source] = True
        self._source.shared.share(self._me.key, text)

    def _value(self, confirmed: Known | None) -> str:
        compared, differing = self._samples.counts
        return json.dumps(
            {
                "phase": None if confirmed is None else int(confirmed.phase),
                "epoch": None if confirmed is None else confirmed.epoch,
                "role": self._me.role,
                "namespace": self._me.namespace,
                "counters": {
                    "unmirrored": self._unmirrored.count,
                    "sampled": compared,
                    "differing": dict(differing),
                    "rounds": self._rounds,
                },
            }
        )

    # -- both

    def _in_time(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, which asks the target. After a failure it is not asked for a while.

        Raises:
            StoreUnavailable: it failed, took too long, or is not asked.
        """
        if time.monotonic() < self._asks_again_at:
            raise StoreUnavailable("it could not be reached a moment ago", where=self._target.where)
        try:
            answer = self._executor.call(work, ANSWER_SECONDS)
        except (RootcellarError, NotInTime) as exc:
            self._failed += 1
            self._asks_again_at = time.monotonic() + _PAUSES.before(self._failed)
            if isinstance(exc, NotInTime):
                exc = StoreUnavailable(f"no answer within {ANSWER_SECONDS:g} s", where=self._target.where)
            raise exc from None
        self._failed = 0
        return answer

    def close(self) -> None:
        """End the thread, note what is not mirrored, and remove the value of this process."""
        self._stop.set()
        self._guarded(self._note_unmirrored)
        # not while the thread stores the value: it would be there again
        with self._storing:
            for side, is_there in self._is_in.items():
                if is_there:
                    self._guarded(partial(self._remove, side))

    def _remove(self, side: Side) -> None:
        try:
            self._executor.call(partial(side.shared.unshare, [self._me.key]), ANSWER_SECONDS)
        except (NotInTime, RuntimeError) as exc:
            # at the end of the interpreter no thread can be started
            logger.debug("The value of this process stays in %s: %s", side.where, exc)


def _epoch(known: Known | None) -> int:
    """Return the epoch of a phase; -1 for nothing."""
    return -1 if known is None else known.epoch


def _wrong_target(problem: str, where: str) -> MigrationRefused:
    return MigrationRefused(
        f"the store that this process names as the target {problem}",
        where=where,
        remedy="correct ROOTCELLAR_MIGRATION (or the transport option migrate_to), and restart this process",
    )


def _state_in(side: Side) -> str | None:
    found = side.shared.shared(STATE_KEY).get(STATE_KEY)
    return None if found is None else found.value


def _close_all() -> None:
    """Remove the value of this process, so that nobody waits for it."""
    for each in list(_alive):
        each.close()


atexit.register(_close_all)
