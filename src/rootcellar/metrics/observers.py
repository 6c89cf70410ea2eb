"""A store, a waiter and an outage that count what they do, for a backend that is observed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from rootcellar.backend.observing import Observed
from rootcellar.errors import RootcellarError
from rootcellar.metrics.recorder import READ, STORED, Recorder
from rootcellar.records import ChordPart, Stored, TaskRecord
from rootcellar.stores.base import DELETE_BATCH, Store
from rootcellar.stores.expiring import Deleted, Due, Expiring
from rootcellar.stores.search import Condition
from rootcellar.stores.watching import Fetch, Watcher
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.waiting.blocking import Waiter

A = TypeVar("A")
T = TypeVar("T")


class BackendObserver:
    """Observes the backends of an app for a recorder. See :class:`rootcellar.backend.observing.Observer`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def store(self, store: Store) -> Store:
        return CountingStore(store, self._recorder)

    def waiter(self, store: Store, archived: Fetch | None = None) -> Waiter:
        return CountingWaiter(store, self._recorder, archived)

    def outage(self) -> Outage:
        return CountingOutage(self._recorder)

    def made(self, backend: Observed) -> None:
        self._recorder.add_backend(backend)


class CountingOutage(Outage):
    """Counts each failure that is followed by another try."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def log_failure(
        self, action: str, error: RootcellarError, *, max_retries: float = float("inf"), is_first: bool = True
    ) -> None:
        self._recorder.retried()
        super().log_failure(action, error, max_retries=max_retries, is_first=is_first)


class CountingWaiter(Waiter):
    """Counts the notifications of its watcher, and the tasks that it waits for."""

    def __init__(self, store: Store, recorder: Recorder, archived: Fetch | None = None) -> None:
        super().__init__(store, archived)
        self._recorder = recorder
        #: the watcher that this process has used last
        self._used: PerProcess[list[Watcher]] = PerProcess(list)
        recorder.add_waiter(self)

    def watcher(self) -> Watcher:
        watcher = super().watcher()
        watcher.on_notified = self._recorder.notified
        self._used.get()[:] = [watcher]
        return watcher

    def awaited(self) -> int:
        """Return for how many tasks this process waits. A process that never waited gets no watcher by this."""
        return sum(len(watcher.awaited_ids()) for watcher in self._used.peek() or ())


def _counted(name: str) -> Callable[..., Any]:
    """Return a method that calls the method of the inner store, and counts the call."""

    def call(self: CountingStore, *args: Any, **kwargs: Any) -> Any:
        return self._count(name, lambda: getattr(self._inner, name)(*args, **kwargs))

    call.__name__ = name
    call.__doc__ = f"See :meth:`rootcellar.stores.base.Store.{name}`."
    return call


class CountingExpiring:
    """Forwards each call to the ability of a store, and counts deleted records.

    Args:
        inner: the ability.
        recorder: counts.
    """

    def __init__(self, inner: Expiring, recorder: Recorder) -> None:
        self._recorder = recorder
        self.count_expired, self.expired = inner.count_expired, inner.expired
        self.count_expired_groups, self.delete_expired_chords = inner.count_expired_groups, inner.delete_expired_chords
        self.count_expired_chords, self.count_expired_adopted = inner.count_expired_chords, inner.count_expired_adopted
        self._inner = inner

    def delete_expired_tasks(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        deleted = self._inner.delete_expired_tasks(due)
        self._recorder.deleted(deleted.count)
        return deleted

    def delete_unchanged(
        self, records: Sequence[TaskRecord], spared: Condition | None = None, timeout: float = 30.0
    ) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._counted(self._inner.delete_unchanged(records, spared, timeout))

    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._counted(self._inner.delete_expired_groups(now, limit))

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._counted(self._inner.delete_expired_adopted(now, limit))

    def _counted(self, count: int) -> int:
        self._recorder.deleted(count)
        return count


class CountingStore(Store):
    """Forwards each call to a store, and counts it. The abilities are those of the store, and are not counted, except
    what deletes expired records.

    Args:
        inner: the store.
        recorder: counts.
    """

    def __init__(self, inner: Store, recorder: Recorder) -> None:
        super().__init__(inner.url, inner.options)
        self.worked = inner.worked
        self.expires_by_itself = inner.expires_by_itself
        self._inner = inner
        self._recorder = recorder

    def ability(self, protocol: type[A]) -> A | None:
        found = self._inner.ability(protocol)
        if protocol is Expiring and found is not None:
            return cast("A", CountingExpiring(cast("Expiring", found), self._recorder))
        return found

    @property
    def where(self) -> str:
        return self._inner.where

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        stored = self._count("put", lambda: self._inner.put(record, part, lease=lease, durable=durable))
        self._recorder.sized(STORED, record)
        return stored

    def get(self, task_id: str) -> TaskRecord | None:
        record = self._count("get", lambda: self._inner.get(task_id))
        if record is not None:
            self._recorder.sized(READ, record)
        return record

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        found = self._count("get_many", lambda: self._inner.get_many(task_ids))
        for record in found.values():
            self._recorder.sized(READ, record)
        return found

    delete = _counted("delete")
    scan = _counted("scan")
    put_group = _counted("put_group")
    get_group = _counted("get_group")
    delete_group = _counted("delete_group")
    begin_chord = _counted("begin_chord")
    size_chord = _counted("size_chord")
    count_part = _counted("count_part")
    claim_chord = _counted("claim_chord")
    get_chord = _counted("get_chord")
    chord_parts = _counted("chord_parts")
    finish_chord = _counted("finish_chord")
    orphaned_chords = _counted("orphaned_chords")
    check = _counted("check")

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        count = self._count("delete_expired", lambda: self._inner.delete_expired(now, limit))
        self._recorder.deleted(count)
        return count

    def close(self) -> None:
        self._inner.close()

    def _count(self, operation: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            answer = work()
        except RootcellarError as exc:
            self._recorder.failed(operation, time.perf_counter() - began, exc)
            raise
        self._recorder.done(operation, time.perf_counter() - began)
        return answer
