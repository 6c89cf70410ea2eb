"""``rootcellar.as_completed``: results in the order in which they come, without a cache.

It gets only ids from the watcher, and reads the records in batches, so that it never has more than one batch in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.states import PROPAGATE_STATES

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.fields import text_id
from rootcellar.stores.watching import Notification, NotifyOn, Watcher
from rootcellar.waiting import callbacks
from rootcellar.waiting.arguments import backend_of, members_of, needs_no_wait, value_without_wait
from rootcellar.waiting.deadlines import await_before, deadline_after, next_before, pause_after, timed_out
from rootcellar.waiting.notifications import ids_of, on_loop, records_of
from rootcellar.waiting.parents import ByBackend, Parents, Readable
from rootcellar.waiting.result import raise_parents_failure
from rootcellar.waiting.values import value_or_failure

#: the most records that :func:`as_completed` reads at a time
READ_BATCH = 500


class as_completed:
    """Yield ``(id, value)`` of each task as it becomes ready, in ``async for`` as in ``for``.

    Unlike ``join``, it does not keep the results that it has yielded: it has one batch of records in memory.

    Args:
        results: a group, or any number of results of tasks, chains, groups and chords, also mixed with ids of tasks.
            Only the memory for their ids limits their number. Each is awaited in its own backend. Results that need no
            wait come first: those of tasks that ran eagerly, and of tasks that ignore their result.
        timeout: seconds until all must be ready; ``None`` for ever.
        propagate: raise the first failed task's exception, or that of a parent which failed before it; otherwise its
            exception is the value.
        app: the app of the tasks whose ids are given; by default the current app.

    Raises:
        celery.exceptions.TimeoutError: not all of them were ready in time.
        ConfigurationError: the result backend of an app is not rootcellar's.
        NotAResult: one of them is neither a result nor an id.
    """

    def __init__(
        self, results: Any, timeout: float | None = None, *, propagate: bool = True, app: Celery | None = None
    ) -> None:
        #: results that need no wait, by their ids
        self._without_wait: dict[str, Any] = {}
        self._ids: dict[Readable, dict[str, None]] = {}
        #: the results that have parents, by backend and id
        self._with_parents: dict[tuple[Readable, str], Any] = {}
        for member in members_of(results, app):
            if needs_no_wait(member):
                self._without_wait[text_id(member.id)] = member
                continue
            backend = backend_of(member)
            task_id = text_id(member.id)
            self._ids.setdefault(backend, {})[task_id] = None
            if propagate and member.parent is not None:
                self._with_parents[backend, task_id] = member
        self._timeout = timeout
        self._propagate = propagate

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self._values_without_wait()
        notifications: queue.SimpleQueue[_Delivery] = queue.SimpleQueue()
        deadline = deadline_after(self._timeout)
        with self._subscribed(notifications.put) as remaining:
            while remaining.left:
                while not remaining.ready:
                    remaining.receive(next_before(notifications, deadline, self._watchers()))
                backend, batch = remaining.next_batch()
                found = self._read(backend, batch, deadline)
                for task_id, record in _take_records(batch, found):
                    if self._must_raise(record):
                        self._parents_of(backend, task_id).raise_failure()
                    yield task_id, value_or_failure(backend, record, propagate=self._propagate)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        for pair in self._values_without_wait():
            yield pair
        notifications: asyncio.Queue[_Delivery] = asyncio.Queue()
        put = on_loop(asyncio.get_running_loop(), notifications.put_nowait)
        deadline = deadline_after(self._timeout)
        with self._subscribed(put) as remaining:
            while remaining.left:
                while not remaining.ready:
                    remaining.receive(await await_before(deadline, notifications.get(), self._watchers()))
                backend, batch = remaining.next_batch()
                found = await self._read_in_thread(backend, batch, deadline)
                for task_id, record in _take_records(batch, found):
                    if self._must_raise(record):
                        await raise_parents_failure(self._parents_of(backend, task_id))
                    yield task_id, value_or_failure(backend, record, propagate=self._propagate)

    def _values_without_wait(self) -> Iterator[tuple[str, Any]]:
        for task_id, one in self._without_wait.items():
            yield task_id, value_without_wait(one, propagate=self._propagate)

    @contextlib.contextmanager
    def _subscribed(self, put: Callable[[_Delivery], None]) -> Iterator[_Remaining]:
        """Subscribe to all results in each backend, and to those with callbacks. ``put`` gets the notifications."""
        others = callbacks.without(callbacks.waiting(), self._ids)

        def subscribe(backend: Readable, ids: Iterable[str], notify_on: NotifyOn, *, is_other: bool = False) -> None:
            waiter = backend.waiter
            stack.enter_context(
                waiter.subscribed(ids, lambda delivery: put(_Delivery(backend, delivery, is_other)), notify_on)
            )

        with contextlib.ExitStack() as stack:
            for backend, ids in self._ids.items():
                subscribe(backend, ids, NotifyOn.ID)
            for readable, by_id in others.items():
                subscribe(readable, by_id, NotifyOn.RECORD, is_other=True)
            yield _Remaining(sum(map(len, self._ids.values())), others)

    def _watchers(self) -> list[Watcher]:
        return [backend.waiter.watcher() for backend in self._ids]

    def _must_raise(self, record: TaskRecord) -> bool:
        return self._propagate and record.state in PROPAGATE_STATES

    def _parents_of(self, backend: Readable, task_id: str) -> Parents:
        return Parents(self._with_parents.get((backend, task_id)))

    def _read(self, backend: Readable, task_ids: list[str], deadline: float | None) -> dict[str, TaskRecord]:
        """Read the records. In an outage wait for its end."""
        fetch, executor = backend.waiter.fetch, backend.waiter.executor
        while True:
            try:
                if deadline is None:
                    return fetch(task_ids)
                return executor.call(lambda: fetch(task_ids), max(0.0, deadline - time.monotonic()))
            except NotInTime:
                raise timed_out() from None
            except RootcellarError as exc:
                time.sleep(pause_after(exc, deadline))

    async def _read_in_thread(
        self, backend: Readable, task_ids: list[str], deadline: float | None
    ) -> dict[str, TaskRecord]:
        """Read the records in a thread, which may run longer than the event loop if the server does not answer."""
        fetch, executor = backend.waiter.fetch, backend.waiter.executor
        while True:
            reading = executor.submit(lambda: fetch(task_ids))
            try:
                found: dict[str, TaskRecord] = await await_before(deadline, asyncio.wrap_future(reading))
                return found
            except RootcellarError as exc:
                await asyncio.sleep(pause_after(exc, deadline))
            finally:
                reading.cancel()


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A notification of the watcher of a backend.

    Attributes:
        backend: the backend.
        notification: the notification.
        is_other: whether it is for results that are not awaited, but have callbacks.
    """

    backend: Any
    notification: Notification
    is_other: bool


class _Remaining:
    """The results that :class:`as_completed` has not yielded yet.

    Args:
        left: how many results are left.
        others: results that are not awaited, but have callbacks.
    """

    def __init__(self, left: int, others: ByBackend) -> None:
        self.left = left
        #: ids of results that are ready, each with its backend
        self.ready: deque[tuple[Readable, deque[str]]] = deque()
        self._others = others

    def receive(self, delivery: _Delivery) -> None:
        """Add the results that are ready, or call the callbacks of other results."""
        if not delivery.is_other:
            self.ready.append((delivery.backend, deque(ids_of(delivery.notification))))
        elif not isinstance(delivery.notification, RootcellarError):
            for record in records_of(delivery.notification):
                callbacks.call(self._others, delivery.backend, record)

    def next_batch(self) -> tuple[Readable, list[str]]:
        """Return the next ids of one backend, at most :data:`READ_BATCH`."""
        backend, ids = self.ready[0]
        while len(self.ready) > 1 and len(ids) < READ_BATCH and self.ready[1][0] is backend:
            ids.extend(self.ready[1][1])
            del self.ready[1]
        batch = _batch(ids)
        if not ids:
            self.ready.popleft()
        self.left -= len(batch)
        return backend, batch


def _take_records(task_ids: list[str], found: dict[str, TaskRecord]) -> Iterator[tuple[str, TaskRecord]]:
    """Yield the existing records in the order of the ids, without keeping them."""
    for task_id in task_ids:
        if (record := found.pop(task_id, None)) is not None:
            yield task_id, record


def _batch(ready: deque[str]) -> list[str]:
    return [ready.popleft() for _ in range(min(READ_BATCH, len(ready)))]
