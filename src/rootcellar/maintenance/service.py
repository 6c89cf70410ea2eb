"""The base class of every background service.

A service is a class with a name, a frozen configuration and ``run_once``. The base class has the rest: a thread that
repeats ``run_once`` with pauses, a stop after which nothing runs, the log of an outage, a leader if only one process
may run the service, and signals for tests::

               start()              first_pause
    stopped ───────────> started ──────────────────> running ──> pause_after() ──┐
       ^                                               ^                         |
       |                                               └─────────────────────────┘
       |                                                 the pause is over, or wake()
       └── stop(): a pause ends at once; a run that has begun is finished

A thread does not survive a fork. So each process has its own state: in a forked child the service exists, but is
stopped.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.maintenance.batches import BatchSize
from rootcellar.maintenance.signals import Signal, Signals
from rootcellar.support.backoff import Backoff
from rootcellar.support.blocking import allow_blocking
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the most seconds that a thread can wait
LONGEST = threading.TIMEOUT_MAX
#: the most seconds that a stop waits for a run that has begun
STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """The pauses after failed runs. Each is twice as long as the one before.

    Attributes:
        first: the most seconds after the first failure.
        longest: the most seconds after any failure.

    Raises:
        ConfigurationError: one of them is not a number of seconds.
    """

    first: float = 0.1
    longest: float = 5.0

    def __post_init__(self) -> None:
        check_seconds(self.first, "first")
        check_seconds(self.longest, "longest")


def check_seconds(value: float, setting: str, *, least: float = 0.0, longest: float = LONGEST) -> None:
    """Check a time in a service's configuration.

    Args:
        value: the time in seconds.
        setting: the name of the setting.
        least: the shortest allowed time, in seconds.
        longest: the longest allowed time, in seconds.

    Raises:
        ConfigurationError: the value is not a number from ``least`` to ``longest``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= longest:
        raise ConfigurationError(
            f"{setting} is {value!r}",
            where=setting,
            remedy=f"give a number of seconds from {least:g} to {longest:.0f}",
        )


class Leader(Protocol):
    """Decides which process runs a service, if only one may."""

    #: seconds after which another process takes over from a leader that has died
    lease: float

    def hold(self) -> bool:
        """Become or stay the leader; return whether this process is the leader.

        Raises:
            StoreUnavailable: it cannot be found out.
        """

    def release(self) -> None:
        """Let another process take over at once, if this one is the leader."""


class _Loop:
    """One thread of a service, from its start to its end."""

    __slots__ = ("_entry", "changed", "ended", "is_stopping", "thread_id")

    def __init__(self) -> None:
        self.is_stopping = False
        #: set when a pause must end at once
        self.changed = threading.Event()
        self.ended = threading.Event()
        self.thread_id: int | None = None
        self._entry = threading.Lock()

    def enter(self) -> bool:
        """Return whether this thread is the first one: after an interruption at its start, there may be a second."""
        return self._entry.acquire(blocking=False)

    def wait(self, seconds: float) -> bool:
        """Wait for ``seconds``, or until ``changed`` is set; return whether it was set."""
        if not self.changed.wait(min(seconds, LONGEST)):
            return False
        self.changed.clear()
        return True


class _Process:
    """The state of a service in one process."""

    def __init__(self) -> None:
        self.signals = Signals()
        #: held while the loop is replaced
        self.lock = threading.Lock()
        #: held during a run, by the thread with the id ``running_in``
        self.running = threading.Lock()
        self.running_in: int | None = None
        self.loop: _Loop | None = None
        self.failures = 0


class Service(ABC):
    """A background service. Safe to use from any thread, and in a forked child.

    Args:
        retries: the pauses after failed runs.
        backoff: the same, if it is shared with other services.
        outage: logs that runs fail, and that they succeed again; ``None`` for an outage of this service alone.

    Attributes:
        leader: decides whether this process runs the service, if ``is_single`` is set. A runner sets it before the
            start.
    """

    #: the name of the service and of its thread
    name: ClassVar[str]
    #: what a run does, for the log: the words after "Could not …"
    action: ClassVar[str]
    #: whether only one process at a time may run the service
    is_single: ClassVar[bool] = False

    def __init__(
        self, *, retries: Retries | None = None, backoff: Backoff | None = None, outage: Outage | None = None
    ) -> None:
        retries = retries or Retries()
        self._longest_retry = retries.longest
        # the longest first pause of a Backoff is twice its base
        self._backoff = backoff or Backoff(retries.first * 500, retries.longest * 1000)
        self._outage = outage or Outage()
        self._process = PerProcess(_Process)
        self.leader: Leader | None = None

    # -- for subclasses

    @abstractmethod
    def run_once(self) -> int:
        """Do the work once.

        Returns:
            how much was done; 0 if there was nothing to do.

        Raises:
            RootcellarError: it could not be done.
        """

    @abstractmethod
    def pause_after(self, done: int) -> float:
        """Return the seconds to wait after a run that has returned ``done``; infinity to wait for :meth:`wake`."""

    @property
    def first_pause(self) -> float:
        """The seconds between the start and the first run."""
        return 0.0

    # -- start and stop

    @property
    def signals(self) -> Signals:
        """What the service has done in this process."""
        return self._process.get().signals

    @property
    def is_running(self) -> bool:
        """Whether the service was started in this process and not stopped since."""
        here = self._process.peek()
        return here is not None and here.loop is not None and not here.loop.is_stopping

    def start(self) -> None:
        """Start the thread, unless it runs already.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        here = self._process.get()
        if self.is_running:
            return
        with here.lock:
            if here.loop is None or here.loop.is_stopping:
                loop = _Loop()
                try:
                    here.loop = loop
                    start_thread(lambda: self._run_loop(here, loop), f"rootcellar-{self.name.replace(' ', '-')}")
                except BaseException:
                    # after an interruption, the thread may exist or not: the next start must start another one
                    loop.is_stopping = True
                    raise

    def run_here(self, on_run: Callable[[int], object]) -> None:
        """Run the service in this thread, until another thread stops it, or an interruption.

        Args:
            on_run: called with the result of each run. An error that it raises ends the service, and is raised here.
        """
        here = self._process.get()
        with here.lock:
            loop = here.loop = _Loop()
        self._run_loop(here, loop, on_run)

    def ask_to_stop(self) -> None:
        """Tell the thread to end, at once or after the run or batch that has begun. Does not wait."""
        here = self._process.peek()
        if here is not None and here.loop is not None:
            here.loop.is_stopping = True
            here.loop.changed.set()

    def stop(self, timeout: float = STOP_TIMEOUT) -> bool:
        """End the thread. After this has returned ``True``, nothing runs. May be called again, and before a start.

        A pause ends at once. A run that has begun is not interrupted.

        Args:
            timeout: the most seconds to wait for the end of a run.

        Returns:
            whether the thread has ended. If not, it ends after the run or batch that has begun.
        """
        self.ask_to_stop()
        here = self._process.peek()
        if here is None or here.running_in == threading.get_ident():
            return True
        deadline = time.monotonic() + timeout
        if here.loop is not None and not here.loop.ended.wait(timeout):
            return False
        # there may also be a run outside of the thread
        if not here.running.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        here.running.release()
        return True

    def wake(self) -> None:
        """End the pause, because there is something to do. A pause after a failure goes on, to spare the server."""
        here = self._process.peek()
        if here is not None and here.loop is not None and not here.failures:
            here.loop.changed.set()

    def run_in_thread(self) -> None:
        """Run once in another thread, unless this process runs the service at this moment. Does not wait.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        here = self._process.get()
        if not here.running.locked():
            start_thread(lambda: self._run_single(here), f"rootcellar-{self.name.replace(' ', '-')}-once")

    # -- its log

    def log_failure(self, exc: RootcellarError, *, is_first: bool) -> None:
        """Log that a run failed.

        Args:
            exc: the error.
            is_first: whether the previous run succeeded.
        """
        self._outage.log_failure(self.action, exc, is_first=is_first)

    def log_recovery(self) -> None:
        """Log that a run succeeded after failed ones."""
        self._outage.log_end()

    # -- for the work

    def continue_run(self) -> bool:
        """Stay the leader, between two parts of a run; return whether to continue.

        A run ends early if the service stops, or another process has become the leader.
        """
        here = self._process.get()
        if here.loop is not None and here.loop.is_stopping and here.loop.thread_id == threading.get_ident():
            return False
        return self._hold_lead()

    def _hold_lead(self) -> bool:
        """Stay the leader, if only one process may do this work; return whether this process may do it."""
        return self.leader is None or self.leader.hold()

    def run_in_batches(
        self, size: BatchSize, work: Callable[[int], int], *, pause: float | Callable[[], float] = 0.0, tries: int = 1
    ) -> int:
        """Do batches until one has nothing to do, the service stops, or another process leads.

        Args:
            size: the number of rows in a batch; it shrinks after errors.
            work: called with the size; processes up to this many rows, and returns how many.
            pause: seconds between two batches, in which replicas and other clients catch up; or returns them.
            tries: how many times in a row a batch may fail with a retryable error before the run fails.

        Returns:
            how many rows were processed.

        Raises:
            RootcellarError: the error of a batch. The work of earlier batches is done.
        """
        total = failures = 0
        while self.continue_run():
            try:
                done = size.run(work)
            except RootcellarError as exc:
                failures += 1
                if not exc.retryable or failures >= tries:
                    raise
                self._pause(self._backoff.before(failures))
                continue
            failures = 0
            if not done:
                break
            total += done
            self._pause(pause() if callable(pause) else pause)
        return total

    def _pause(self, seconds: float) -> None:
        """Wait within a run. A stop ends the wait."""
        loop = self._process.get().loop
        if loop is not None and loop.thread_id == threading.get_ident():
            if not loop.is_stopping:
                loop.wait(seconds)
        elif seconds:
            time.sleep(seconds)

    # -- the thread

    def _run_loop(self, here: _Process, loop: _Loop, on_run: Callable[[int], object] | None = None) -> None:
        if not loop.enter():
            return
        loop.thread_id = threading.get_ident()
        allow_blocking()
        here.signals.send(Signal.STARTED)
        try:
            pause = self.first_pause
            while True:
                self._wait_as_leader(loop, pause)
                if loop.is_stopping:
                    return
                pause = self._run_if_leader(here, loop, on_run)
        finally:
            # also after an interruption, so that the next start starts another thread
            loop.is_stopping = True
            self._release()
            here.signals.send(Signal.STOPPED)
            loop.ended.set()

    def _wait_as_leader(self, loop: _Loop, seconds: float) -> None:
        """Wait, and stay the leader meanwhile, so that no other process does the same work again."""
        longest = LONGEST if self.leader is None else self.leader.lease / 3
        deadline = time.monotonic() + seconds
        while not loop.is_stopping and (left := deadline - time.monotonic()) > 0:
            if loop.wait(min(left, longest)):
                return
            # the next run will have the same error, and logs it
            with suppress(RootcellarError):
                self._hold_lead()

    def _run_if_leader(self, here: _Process, loop: _Loop, on_run: Callable[[int], object] | None) -> float:
        """Run once if this process may; return the seconds until the next time."""
        with self._running(here):
            if loop.is_stopping:
                return 0.0
            try:
                if self.leader is not None and not self.leader.hold():
                    here.signals.send(Signal.FOLLOWED)
                    return self.leader.lease / 3
                done = self.run_once()
            except Exception as exc:  # any error: if the thread ended, no later work would be done
                return self._failed(here, exc)
            self._succeeded(here, done)
            if on_run is not None:
                on_run(done)
            return self.pause_after(done)

    def _run_single(self, here: _Process) -> None:
        allow_blocking()
        with self._running(here, blocking=False) as is_free:
            if not is_free:
                return
            try:
                done = self.run_once()
            except Exception as exc:  # any error: no caller would get it
                self._failed(here, exc)
            else:
                self._succeeded(here, done)

    @contextmanager
    def _running(self, here: _Process, *, blocking: bool = True) -> Iterator[bool]:
        """Hold the lock of a run for the ``with`` block; yield whether it was free."""
        if not here.running.acquire(blocking):
            yield False
            return
        here.running_in = threading.get_ident()
        try:
            yield True
        finally:
            here.running_in = None
            here.running.release()

    def _succeeded(self, here: _Process, done: int) -> None:
        if here.failures:
            here.failures = 0
            self.log_recovery()
        here.signals.send(Signal.RAN, done)

    def _failed(self, here: _Process, exc: Exception) -> float:
        """Log the first error of several; return the seconds until the next try."""
        here.failures += 1
        is_first = here.failures == 1
        if isinstance(exc, RootcellarError):
            self.log_failure(exc, is_first=is_first)
            pause = self._backoff.before(here.failures) if exc.retryable else self._longest_retry
        else:
            logger.error("Could not %s", self.action, exc_info=exc if is_first else None)
            pause = self._longest_retry
        here.signals.send(Signal.FAILED)
        return pause

    def _release(self) -> None:
        """Give up the lease, so that another process can lead at once."""
        if self.leader is None:
            return
        try:
            self.leader.release()
        except RootcellarError as exc:
            logger.debug("Could not end the lease of %s: %s. It will end by itself.", self.name, exc)
