"""A circuit breaker: a cache that is out of reach costs one timeout, not one for each call."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from rootcellar.errors import PayloadError, RecordRefused, RootcellarError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds between two looks whether the cache is back, at first and at most
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class Breaker:
    """Lets calls through until one fails, and again when a thread has found that the cache answers.

    Args:
        probe: raises while the cache is out of reach.
        where: the cache, for people.
    """

    def __init__(self, probe: Callable[[], object], where: str) -> None:
        self._probe = probe
        self._where = where
        self._start_afresh()
        _all.add(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._stop = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are kept from the cache."""
        return self._is_open

    def call(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what ``work`` returns, or ``otherwise`` while the cache is out of reach or where it fails."""
        if self._is_open:
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
        with self._lock:
            if self._is_open:
                return
            self._is_open = True
            stop = self._stop = threading.Event()
        logger.warning("The cache is out of use, results come from the durable store meanwhile: %s", exc)
        threading.Thread(target=self._wait_until_back, args=(stop,), name="rootcellar-cache", daemon=True).start()

    def _wait_until_back(self, stop: threading.Event) -> None:
        pause = FIRST_PAUSE
        while not stop.wait(pause):
            try:
                self._probe()
            except RootcellarError:
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                break
        with self._lock:
            if self._stop is stop:
                self._is_open = False
        if not stop.is_set():
            logger.warning("The cache %s is in use again.", self._where)

    def close(self) -> None:
        """Stop looking; the next call tries the cache again."""
        with self._lock:
            self._stop.set()
            self._is_open = False


_all: weakref.WeakSet[Breaker] = weakref.WeakSet()


def _forget_parents_threads() -> None:
    for breaker in list(_all):
        breaker._start_afresh()


os.register_at_fork(after_in_child=_forget_parents_threads)
