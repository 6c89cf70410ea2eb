"""Calls to the store that does not decide: it may fail, hang or be slow, and no task waits for it for long.

::

              a call failed, or took too long          a probe was answered in time, or close()
    closed ─────────────────────────────────> open ────────────────────────────────────────> closed
                                               |  ^
                                               └──┘ a probe failed: the pause grows

What is not mirrored meanwhile is noted (:class:`Unmirrored`), and a pass of the migration brings it over.
"""

from __future__ import annotations

import logging
import threading
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


class NotMirrored(Exception):
    """The store that does not decide was not called, failed, or refused the record. Never leaves the dual store."""


class _Switch:
    """Whether the breaker is open, in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_open = False
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
            stop = switch.stop = threading.Event()
            start_thread(partial(self._wait_until_back, switch, stop), "rootcellar-mirror")
            # set last: after an interruption, the breaker must not stay open without a thread that closes it
            switch.is_open = True
        logger.warning("Results are not mirrored until this store works again, and are noted meanwhile: %s", exc)

    def _wait_until_back(self, switch: _Switch, stop: threading.Event) -> None:
        tries = 1
        while not stop.wait(self._pauses.before(tries)):
            if self._works():
                break
            tries += 1
        with switch.lock:
            if switch.stop is stop:
                switch.is_open = False
        if not stop.is_set():
            logger.warning("Results are mirrored again. [%s]", self._where)

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
