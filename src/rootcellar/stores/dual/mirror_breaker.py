"""Calls to the store that does not decide: it may fail, hang or be slow, and no task waits for it for long.

::

              a call failed, or took too long          a probe was answered in time, or close()
    closed ─────────────────────────────────> open ────────────────────────────────────────> closed
                                               |  ^
                                               └──┘ a probe failed: the pause grows

A probe is small, so it may be answered although the calls fail (a full disk, a locked table, one node of a cluster). A
breaker that opens soon after it was closed therefore waits longer each time.

What is not mirrored meanwhile is noted (:class:`Unmirrored`), and a pass of the migration brings it over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from functools import partial
from typing import TypeVar

from rootcellar.errors import PayloadError, RecordRefused, RootcellarError, StoreUnavailable
from rootcellar.stores.dual.phases import Running
from rootcellar.stores.dual.verbs import Verb
from rootcellar.support.backoff import Backoff
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

T = TypeVar("T")

#: seconds that a task waits for the store that does not decide
MIRROR_TIMEOUT = 1.0
#: milliseconds between two tests whether the store answers again: the first pause, and the longest one
FIRST_PROBE_MS = 100.0
LONGEST_PROBE_MS = 5_000.0
#: the shortest pauses in seconds after an opening, if the breaker opens again and again; the last one stays
REOPENED_SECONDS = (0.0, 2.0, 10.0, 60.0)
#: seconds after which a closed breaker has been closed for long
STABLE_SECONDS = 30.0


class NotMirrored(Exception):
    """The store that does not decide was not called, failed, or refused the record. Never leaves the dual store."""


class _Switch:
    """Whether the breaker is open, in one process.

    Attributes:
        reopened: how often it was opened soon after it had been closed.
        closed_at: the monotonic time when it was closed; 0 before.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_open = False
        self.reopened = 0
        self.closed_at = 0.0
        self.stop = threading.Event()


class MirrorBreaker:
    """Calls one store until a call fails, and again after a thread has found that it answers in time.

    Args:
        probe: raises if the store cannot be written.
        where: the store, for messages.
        timeout: seconds that a caller waits; ``None`` to call in its own thread, and to wait for the answer.
    """

    def __init__(self, probe: Callable[[], object], where: str, timeout: float | None = MIRROR_TIMEOUT) -> None:
        self._probe = probe
        self._where = where
        self._timeout = timeout
        self._executor = DeadlineExecutor()
        self._pauses = Backoff(FIRST_PROBE_MS, LONGEST_PROBE_MS)
        self._switches = PerProcess(_Switch)

    @property
    def is_open(self) -> bool:
        """Whether the store is not called at present."""
        return self._switches.get().is_open

    def call(self, verb: Verb, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, which calls the store.

        Raises:
            NotMirrored: it failed, took too long, or the breaker is open.
        """
        if self.is_open:
            raise NotMirrored
        try:
            return self._call_in_time(verb, work)
        except (RecordRefused, PayloadError) as exc:
            # the store works, but cannot keep this record
            logger.warning("A result cannot be kept by the other store of the migration: %s", exc)
            raise NotMirrored from exc
        except RootcellarError as exc:
            self.open(exc)
            raise NotMirrored from exc

    def _call_in_time(self, verb: Verb, work: Callable[[], T]) -> T:
        if self._timeout is None:
            return work()
        call = verb.new_call()
        try:
            return self._executor.call(partial(_run, work, call), self._timeout)
        except NotInTime:
            verb.leave(call)
            raise StoreUnavailable(f"no answer within {self._timeout:g} s", where=self._where) from None

    def open(self, exc: RootcellarError) -> None:
        """Stop calling the store, because a call failed, until it works again."""
        switch = self._switches.get()
        with switch.lock:
            if switch.is_open:
                return
            was_closed = time.monotonic() - switch.closed_at if switch.closed_at else STABLE_SECONDS
            switch.reopened = switch.reopened + 1 if was_closed < STABLE_SECONDS else 0
            stop = switch.stop = threading.Event()
            start_thread(partial(self._wait_until_back, switch, stop), "rootcellar-mirror")
            # set last: after an interruption, the breaker must not stay open without a thread that closes it
            switch.is_open = True
        logger.warning("Results are not mirrored until this store works again, and are noted meanwhile: %s", exc)

    def _wait_until_back(self, switch: _Switch, stop: threading.Event) -> None:
        tries = 1
        while not stop.wait(self._pause(switch, tries)):
            if self._works():
                break
            tries += 1
        with switch.lock:
            if switch.stop is stop:
                switch.is_open, switch.closed_at = False, time.monotonic()
        if not stop.is_set():
            logger.warning("Results are mirrored again. [%s]", self._where)

    def _pause(self, switch: _Switch, tries: int) -> float:
        """Return the seconds to wait before a probe, counted from 1 since the breaker was opened."""
        shortest = REOPENED_SECONDS[min(switch.reopened, len(REOPENED_SECONDS) - 1)]
        return max(self._pauses.before(tries), shortest)

    def _works(self) -> bool:
        try:
            self._executor.call(self._probe, self._timeout or MIRROR_TIMEOUT)
        except (RootcellarError, NotInTime):
            return False
        except Exception:
            # this thread must continue: nothing else closes the breaker
            logger.exception("The store %s could not be tested. Trying again.", self._where)
            return False
        return True

    def close(self) -> None:
        """Stop the thread, and let the next call try the store again."""
        if (switch := self._switches.take()) is not None:
            switch.stop.set()


def _run(work: Callable[[], T], call: Running) -> T:
    """Run ``work``. As long as it runs, ``call`` exists, so the process does not confirm a new phase."""
    try:
        return work()
    finally:
        call.is_over = True
