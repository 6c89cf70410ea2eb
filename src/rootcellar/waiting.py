"""Waiting for results, in threads and greenlets: told by the store's watcher, not by looking again and again."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as NotInTime

from celery.exceptions import TimeoutError
from celery.utils.log import get_logger

from rootcellar.aside import Aside
from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store, Watchable
from rootcellar.stores.forking import PerProcess
from rootcellar.stores.watching import PollingWatcher, Tell, Told, Watcher

logger = get_logger(__name__)

#: seconds in which the one look of a timeout of 0 must be answered
ONE_LOOK = 5.0


class Waiter:
    """Waits for results of one store.

    Args:
        store: where the results will be.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._polling = PerProcess(lambda: PollingWatcher(store.get_many))
        #: for what must not be waited for beyond a deadline
        self.aside = Aside()

    def watcher(self) -> Watcher:
        """Return the one watcher of this process: the store's own, or one that polls."""
        if isinstance(self._store, Watchable):
            return self._store.watcher()
        return self._polling.get()

    def close(self) -> None:
        """End the thread of a watcher that polls."""
        if (polling := self._polling.take()) is not None:
            polling.close()

    def wait_for(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: Callable[[], object] | None = None,
        on_change: Callable[[TaskRecord], object] | None = None,
    ) -> Iterator[TaskRecord]:
        """Yield the record of each task as it becomes ready. An outage of the store is waited out.

        Args:
            task_ids: the tasks.
            timeout: seconds to wait for all of them; 0 looks once; ``None`` for ever.
            interval: seconds between two calls of ``on_interval``.
            on_interval: called at first when something is left to wait for, and then at every interval.
            on_change: called with each record that is new or changed since it was last seen.

        Raises:
            celery.exceptions.TimeoutError: they were not all ready in time.
        """
        waiting = dict.fromkeys(task_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        for record in self._look(list(waiting), deadline, is_last=timeout is not None and timeout <= 0):
            if record.done_at is not None:
                del waiting[record.task_id]
                if on_change:
                    on_change(record)
                yield record
        if not waiting:
            return
        if timeout is not None and timeout <= 0:
            raise timed_out()
        told: queue.Queue[Told] = queue.Queue()
        tell = Tell.CHANGES if on_change else Tell.RECORD
        subscription = self.watcher().subscribe(waiting, told.put, tell)
        try:
            while waiting:
                for record in _records(self._next(told, deadline, interval, on_interval)):
                    if on_change:
                        on_change(record)
                    if record.done_at is not None and record.task_id in waiting:
                        del waiting[record.task_id]
                        yield record
        finally:
            subscription.cancel()

    def _next(
        self,
        told: queue.Queue[Told],
        deadline: float | None,
        interval: float,
        on_interval: Callable[[], object] | None,
    ) -> Told:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise timed_out(self.watcher().outage)
            pause = interval if left is None else min(interval, left)
            try:
                return told.get_nowait() if not told.empty() else told.get(timeout=pause)
            except queue.Empty:
                if on_interval:
                    on_interval()

    def _look(self, task_ids: list[str], deadline: float | None, *, is_last: bool) -> Iterable[TaskRecord]:
        """Read the records; in an outage find nothing, unless there will be no second look."""
        try:
            if deadline is None:
                return self._read(task_ids)
            # a server that is frozen answers nobody
            left = ONE_LOOK if is_last else deadline - time.monotonic()
            return self.aside.call(lambda: self._read(task_ids), left)
        except NotInTime:
            silent = StoreUnavailable(f"no answer within {ONE_LOOK:g} s", where=self._store.where) if is_last else None
            raise timed_out(silent) from silent
        except RootcellarError as exc:
            if is_last or not exc.retryable:
                raise
            logger.warning("Could not look for %d results: %s. Waiting for the store.", len(task_ids), exc)
            return ()

    def _read(self, task_ids: list[str]) -> Iterable[TaskRecord]:
        if len(task_ids) == 1:
            record = self._store.get(task_ids[0])
            return () if record is None else (record,)
        return self._store.get_many(task_ids).values()


def _records(told: Told) -> Iterable[TaskRecord]:
    if isinstance(told, RootcellarError):
        raise told
    return [record for record in told if isinstance(record, TaskRecord)]


def timed_out(outage: RootcellarError | None = None) -> TimeoutError:
    """Return the error of a wait that was too short, which says so where the store was out of reach."""
    if outage is None:
        return TimeoutError("The operation timed out.")
    error = TimeoutError(f"The operation timed out. Meanwhile: {outage}")
    error.__cause__ = outage
    return error
