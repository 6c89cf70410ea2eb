"""A circuit breaker: a cache that is out of reach costs one timeout, not one for each call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from rootcellar.errors import PayloadError, RecordRefused, RootcellarError
from rootcellar.support.forking import PerProcess
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

T = TypeVar("T")

#: seconds between two looks whether the cache is back, at first and at most
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class _Switch:
    """Whether calls are let through, in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_open = False
        self.stop = threading.Event()


class Breaker:
    """Lets calls through until one fails, and again when a thread has found that the cache answers.

    Args:
        probe: raises while the cache is out of reach.
        where: the cache, for people.
    """

    def __init__(self, probe: Callable[[], object], where: str) -> None:
        self._probe = probe
        self._where = where
        self._switches = PerProcess(_Switch)

    @property
    def is_open(self) -> bool:
        """Whether calls are kept from the cache."""
        return self._switches.get().is_open

    def call(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what ``work`` returns, or ``otherwise`` while the cache is out of reach or where it fails."""
        if self.is_open:
            return otherwise
        try:
            return work()
        except (RecordRefused, PayloadError) as exc:
            # of this one record
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
            # not before: who is interrupted here must not leave it open with nobody to close it
            switch.is_open = True
        logger.warning("The cache is out of use, results come from the durable store meanwhile: %s", exc)

    def _wait_until_back(self, switch: _Switch, stop: threading.Event) -> None:
        pause = FIRST_PAUSE
        while not stop.wait(pause):
            try:
                self._probe()
            except Exception as exc:
                if not isinstance(exc, RootcellarError):
                    # this thread must go on: nothing else closes the breaker
                    logger.exception("The cache %s cannot be tried: it is tried again.", self._where)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                break
        with switch.lock:
            if switch.stop is stop:
                switch.is_open = False
        if not stop.is_set():
            logger.warning("The cache %s is in use again.", self._where)

    def close(self) -> None:
        """Stop looking; the next call tries the cache again."""
        if (switch := self._switches.take()) is not None:
            switch.stop.set()
