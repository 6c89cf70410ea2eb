"""A circuit breaker: an unreachable cache costs one timeout, not one for each call.

::

              a call failed                                  a probe succeeded, or close()
    closed ───────────────────> open, a thread probes ───────────────────────────────────> closed
                                  |    ^
                                  └────┘ a probe failed: the pause grows
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from rootcellar.errors import PayloadError, RecordRefused, RootcellarError
from rootcellar.support.backoff import Backoff
from rootcellar.support.forking import PerProcess
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

T = TypeVar("T")

#: milliseconds between two tests whether the cache answers again: the first pause, and the longest one
FIRST_PROBE_MS = 100.0
LONGEST_PROBE_MS = 5_000.0


class _Switch:
    """Whether the breaker is open, in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_open = False
        self.stop = threading.Event()


class Breaker:
    """Calls the cache until a call fails, and again after a thread has found that the cache answers.

    Args:
        probe: raises if the cache cannot be reached.
        where: the cache, for messages.
    """

    def __init__(self, probe: Callable[[], object], where: str) -> None:
        self._probe = probe
        self._where = where
        self._pauses = Backoff(FIRST_PROBE_MS, LONGEST_PROBE_MS)
        self._switches = PerProcess(_Switch)

    @property
    def is_open(self) -> bool:
        """Whether the cache is not called at present."""
        return self._switches.get().is_open

    def call(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what ``work`` returns, or ``otherwise`` if it fails or the breaker is open."""
        if self.is_open:
            return otherwise
        try:
            return work()
        except (RecordRefused, PayloadError) as exc:
            # the error of one record does not mean that the cache is unreachable
            logger.debug("Not cached: %s", exc)
        except RootcellarError as exc:
            self._open(exc)
        return otherwise

    def _open(self, exc: RootcellarError) -> None:
        switch = self._switches.get()
        with switch.lock:
            if switch.is_open:
                return
            stop = switch.stop = threading.Event()
            start_thread(partial(self._wait_until_back, switch, stop), "rootcellar-cache")
            # set last: after an interruption, the breaker must not stay open without a thread that closes it
            switch.is_open = True
        logger.warning("The cache is out of use, results come from the durable store meanwhile: %s", exc)

    def _wait_until_back(self, switch: _Switch, stop: threading.Event) -> None:
        tries = 1
        while not stop.wait(self._pauses.before(tries)):
            try:
                self._probe()
            except Exception as exc:
                if not isinstance(exc, RootcellarError):
                    # this thread must continue: nothing else closes the breaker
                    logger.exception("The cache %s could not be tested. Trying again.", self._where)
                tries += 1
            else:
                break
        with switch.lock:
            if switch.stop is stop:
                switch.is_open = False
        if not stop.is_set():
            logger.warning("The cache %s is in use again.", self._where)

    def close(self) -> None:
        """Stop the thread, and let the next call try the cache again."""
        if (switch := self._switches.take()) is not None:
            switch.stop.set()
