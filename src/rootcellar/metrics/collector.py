"""Asks a store for its figures at each scrape, and goes on serving the last ones while it cannot be asked.

A scrape takes no longer than a time limit. A call that hangs is not interrupted, and the next scrape waits for it
instead of beginning another one, so a slow server gets at most one call at a time::

    scrape ──> no call is running: begin one ──┐
           └─> a call is running ──────────────┴─> it ends in time ──> its figures, up 1
                                                └─> it fails, or does not ──> the last figures, up 0

The figures that may cost more have a call of their own, which begins when the others are read, and uses the rest of the
time. If it does not end in time, they stay as they were, and the store is up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress

from rootcellar.errors import AbilityMissing, PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.history.history import History
from rootcellar.metrics import catalogue, readings, retention
from rootcellar.metrics.families import Family, build_info
from rootcellar.metrics.migration import migration
from rootcellar.metrics.statistics import FailureStatistics, Statistics
from rootcellar.stores import Store
from rootcellar.stores.search import SearchTooSlow
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds that a scrape waits for the store, by default; Prometheus itself waits for 10 seconds
TIMEOUT = 5.0
#: seconds for which figures are kept that cost more: sizes of tables, the use of memory, stuck tasks, failures
SLOW_SECONDS = 60.0

Read = Callable[[History], Iterable[Family]]


class StoreCollector:
    """The metrics of one store. Safe to use from any thread.

    Args:
        history: the stored results.
        must_exist: checks that the store has tables, without creating any.
        timeout: seconds that a scrape waits for the store.
        table_limit: the size of all tables at which an alert is wanted, in bytes; ``None`` for none.
        on_change: called when the store cannot be asked any more, with the reason, and with ``None`` when it can again.
    """

    def __init__(
        self,
        history: History,
        must_exist: Callable[[Store], object],
        *,
        timeout: float = TIMEOUT,
        table_limit: int | None = None,
        on_change: Callable[[RootcellarError | None], object] = lambda failure: None,
    ) -> None:
        self._history = history
        self._store = history.store
        self._on_change = on_change
        self._must_exist = must_exist
        self._timeout = timeout
        self._constant = [build_info(history.store.url)]
        if table_limit is not None:
            self._constant.append(Family(catalogue.TABLE_LIMIT, {(): float(table_limit)}))
        executor = DeadlineExecutor()
        #: held during a scrape
        self._scraping = threading.Lock()
        statistics = Statistics()
        fast = (_Reader(readings.activity), _Reader(readings.journal), _Reader(statistics.read), _Reader(migration))
        slow = (
            _Reader(FailureStatistics(statistics.tasks).read, SLOW_SECONDS),
            _Reader(readings.stuck, SLOW_SECONDS),
            _Reader(readings.sizes, SLOW_SECONDS),
            _Reader(readings.memory, SLOW_SECONDS),
            *(_Reader(read, SLOW_SECONDS) for read in _of_retention(table_limit)),
        )
        self._readers: Sequence[_Reader] = (*fast, *slow)
        self._fast = _Asked(executor, lambda: self._ask(fast))
        self._slow = _Asked(executor, lambda: self._ask(slow))
        self._does_exist = False
        #: why the store could not be asked in the last scrape; ``None`` if it was asked
        self.failure: RootcellarError | None = None

    def families(self) -> list[Family]:
        """Return all metrics of the store."""
        with self._scraping:
            began = time.monotonic()
            self._refresh(began + self._timeout)
            up = Family(catalogue.UP, {(): float(self.failure is None)})
            duration = Family(catalogue.SCRAPE_DURATION, {(): time.monotonic() - began})
            return [up, duration, *self._constant, *self._fast.last, *self._slow.last]

    def _refresh(self, deadline: float) -> None:
        try:
            self._fast.refresh(self._timeout)
            with suppress(NotInTime):
                # they cost much at times, and are served as they were until they are read
                self._slow.refresh(deadline - time.monotonic())
        except NotInTime:
            self._note(_too_slow(self._store.where, self._timeout))
        except RootcellarError as exc:
            self._note(exc)
        except Exception as exc:  # a scrape must be answered, whatever the driver of a store raises
            logger.warning("The store could not be asked: %s", exc, exc_info=True)
            self._note(_unexpected(self._store.where, exc))
        else:
            self._note(next((reader.failure for reader in self._readers if reader.failure is not None), None))

    def _note(self, failure: RootcellarError | None) -> None:
        has_changed = (failure is None) != (self.failure is None)
        self.failure = failure
        if has_changed:
            self._on_change(failure)

    def _ask(self, readers: Iterable[_Reader]) -> list[Family]:
        if not self._does_exist:
            self._must_exist(self._store)
            self._does_exist = True
        try:
            return [family for reader in readers for family in reader.read(self._history)]
        except Exception:
            self._does_exist = False
            raise


def _of_retention(limit: int | None) -> Sequence[Read]:
    """Return what reads the figures of retention and maintenance."""
    own = (retention.jobs, retention.due, retention.holds, retention.older, retention.archive)
    return (*own, retention.forecast(limit))


class _Asked:
    """Asks for figures in a thread of its own, one call at a time, and keeps the last ones.

    Args:
        executor: has the threads.
        ask: reads the figures.
    """

    def __init__(self, executor: DeadlineExecutor, ask: Callable[[], list[Family]]) -> None:
        self._executor = executor
        self._ask = ask
        self._answer: Future[list[Family]] | None = None
        #: the figures that were read last
        self.last: list[Family] = []

    def refresh(self, seconds: float) -> None:
        """Read the figures, or wait for the call that reads them already.

        Args:
            seconds: the most seconds to wait.

        Raises:
            NotInTime: they are not read yet.
            Exception: the call failed.
        """
        answer = self._answer = self._answer or self._executor.submit(self._ask)
        try:
            self.last = answer.result(max(0.0, seconds))
        finally:
            if answer.done():
                self._answer = None


class _Reader:
    """Reads one group of figures.

    Args:
        read: reads them.
        kept: seconds for which they are kept.
    """

    def __init__(self, read: Read, kept: float = 0.0) -> None:
        self._read = read
        self._kept = kept
        self._at = float("-inf")
        self._families: list[Family] = []
        self._is_reported = False
        #: the error that is none of ours with which the last reading ended
        self.failure: RootcellarError | None = None

    def read(self, history: History) -> list[Family]:
        """Return the figures. If this store or this user cannot answer the question, return the last ones, or none.

        The same after an error that is none of ours, so that the other figures are read.
        """
        if time.monotonic() - self._at < self._kept:
            return self._families
        try:
            self._families = list(self._read(history))
        except (PermissionDenied, AbilityMissing, SearchTooSlow) as exc:
            self._report(exc)
            self.failure = None
        except RootcellarError:
            raise
        except Exception as exc:  # a figure that cannot be read must not take the others along
            self._report(exc, with_traceback=True)
            self.failure = _unexpected(history.store.where, exc)
        else:
            self.failure = None
        self._at = time.monotonic()
        return self._families

    def _report(self, exc: Exception, *, with_traceback: bool = False) -> None:
        level = logging.DEBUG if self._is_reported else logging.WARNING
        logger.log(level, "Some metrics are missing or old: %s", exc, exc_info=with_traceback)
        self._is_reported = True


def _unexpected(where: str, exc: Exception) -> RootcellarError:
    return RootcellarError(
        f"metrics could not be read: an unexpected {type(exc).__name__}",
        where=where,
        remedy="see the log; this is an error of rootcellar or of a driver",
    )


def _too_slow(where: str, seconds: float) -> RootcellarError:
    return StoreUnavailable(
        f"no answer within {seconds:g} s",
        where=where,
        remedy="see whether the server is overloaded, or raise --timeout",
    )
