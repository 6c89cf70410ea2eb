"""Counts what a service has done, so that a test can wait for it instead of sleeping."""

from __future__ import annotations

import threading
from collections import Counter
from enum import Enum


class Signal(Enum):
    """An event of a service."""

    STARTED = "started"
    RAN = "ran"  #: a run succeeded
    FAILED = "failed"  #: a run raised an error
    FOLLOWED = "followed"  #: a run was skipped, because another process is the leader
    STOPPED = "stopped"  #: the thread ended


class Signals:
    """The signals of one service in one process."""

    def __init__(self) -> None:
        self._counts: Counter[Signal] = Counter()
        self._changed = threading.Condition()
        #: the sum of what all runs have returned
        self.done = 0

    def count(self, signal: Signal) -> int:
        """Return how many times this event has happened."""
        with self._changed:
            return self._counts[signal]

    def send(self, signal: Signal, done: int = 0) -> None:
        """Count an event, and wake all threads that wait for it.

        Args:
            signal: the event.
            done: for ``RAN``: what the run has returned.
        """
        with self._changed:
            self._counts[signal] += 1
            self.done += done
            self._changed.notify_all()

    def wait(self, signal: Signal, count: int = 1, timeout: float = 30.0) -> None:
        """Wait until an event has happened ``count`` times since the service was created.

        Args:
            signal: the event.
            count: how many times.
            timeout: seconds.

        Raises:
            TimeoutError: it has not happened this many times in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts[signal] >= count, timeout):
                raise TimeoutError(
                    f"{signal.value} {self._counts[signal]} times, not {count} times, within {timeout:g} s"
                )

    def wait_for_done(self, count: int, timeout: float = 30.0) -> None:
        """Wait until the sum of what all runs have returned is at least ``count``.

        Raises:
            TimeoutError: the sum is lower when the time has passed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done >= count, timeout):
                raise TimeoutError(f"{self.done} done, not {count}, within {timeout:g} s")
