"""Results on asyncio, and results as they come: no thread for each waiter, no cache of what was handed out.

``result`` and ``watch`` are told by the one watcher of the process; ``as_completed`` is told ids only and reads the
records in batches, so that it holds no more than a batch however many results there are.
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
from datetime import datetime
from typing import Any, TypeVar

from celery import current_app
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, ResultSet
from celery.states import PROPAGATE_STATES

from rootcellar.backend import ResultBackend
from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.watching import Deliver, Tell, Told, Watcher
from rootcellar.waiting import timed_out

T = TypeVar("T")

#: the most records that :func:`as_completed` holds at a time
BATCH = 500
#: seconds between two tries to read them in an outage
OUTAGE_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that a task came into.

    Attributes:
        task_id: the task.
        state: a Celery state or a custom one.
        info: the meta of a custom state, the result of a SUCCESS, the exception of a failure.
        is_ready: whether it is the last one.
        done_at: when the task was over, aware and in UTC.
    """

    task_id: str
    state: str
    info: Any
    is_ready: bool
    done_at: datetime | None


async def result(async_result: Any, timeout: float | None = None, *, propagate: bool = True) -> Any:
    """Await a task's result, as ``async_result.get()`` would wait for it; of a group, the list of its results.

    Args:
        async_result: what ``delay`` or ``apply_async`` returned.
        timeout: seconds to wait; ``None`` for ever.
        propagate: raise a failed task's exception, of a group the first that there is; otherwise return it.

    Raises:
        celery.exceptions.TimeoutError: the task was not ready in time.
        ConfigurationError: the app's result backend is not rootcellar's.
    """
    if isinstance(async_result, ResultSet):
        return await _results(async_result, timeout, propagate=propagate)
    backend = _backend_of(async_result)
    loop = asyncio.get_running_loop()
    told: asyncio.Future[Told] = loop.create_future()
    deliver = _on_loop(loop, lambda what: None if told.done() else told.set_result(what))
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([async_result.id], deliver)
    try:
        (record,) = _records(await asyncio.wait_for(told, timeout))
    except asyncio.TimeoutError:
        raise timed_out(watcher.outage) from watcher.outage
    finally:
        subscription.cancel()
    return _value(backend, record, propagate=propagate)


async def _results(group: ResultSet, timeout: float | None, *, propagate: bool) -> list[Any]:
    """Await every member of a group, and no more of them once one has failed."""
    waiting = [asyncio.ensure_future(result(member, timeout, propagate=propagate)) for member in group.results]
    try:
        return list(await asyncio.gather(*waiting))
    finally:
        for one in waiting:
            one.cancel()


async def watch(task: Any, timeout: float | None = None) -> AsyncIterator[StateChange]:
    """Follow a task: yield the state that it is in, and every one that it comes into until it is over.

    A state that lasts shorter than a wake-up may be passed over; the last one never is.

    Args:
        task: a task id, of the current app, or an ``AsyncResult``.
        timeout: seconds until it must be over; ``None`` for ever.

    Raises:
        TypeError: it is a group: :class:`as_completed` follows one.
        celery.exceptions.TimeoutError: it was not over in time.
    """
    if isinstance(task, ResultSet):
        raise TypeError("a group is no task: use as_completed(group), or watch its members")
    task = AsyncResult(task, app=current_app._get_current_object()) if isinstance(task, str) else task
    backend = _backend_of(task)
    told: asyncio.Queue[Told] = asyncio.Queue()
    deliver = _on_loop(asyncio.get_running_loop(), told.put_nowait)
    deadline = _deadline(timeout)
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([task.id], deliver, Tell.CHANGES)
    try:
        while True:
            for record in _records(await _before(deadline, told.get(), watcher)):
                info = backend.meta_of(record)["result"]
                is_ready = record.done_at is not None
                yield StateChange(record.task_id, record.state, info, is_ready, record.done_at)
                if is_ready:
                    return
    finally:
        subscription.cancel()


class as_completed:
    """Yield ``(id, value)`` of each task as it becomes ready, in ``async for`` as in ``for``.

    Unlike ``join`` it keeps nothing of what it has yielded: a batch of records is all that it holds at a time.

    Args:
        results: ``AsyncResult`` objects or a group; their number is bounded only by the memory for their ids.
        timeout: seconds until all must be ready; ``None`` for ever.
        propagate: raise the first failed task's exception; otherwise its exception is the value.

    Raises:
        celery.exceptions.TimeoutError: they were not all ready in time.
    """

    def __init__(self, results: Iterable[Any], timeout: float | None = None, *, propagate: bool = True) -> None:
        self._backend: ResultBackend | None = None
        self._ids: dict[str, None] = {}
        for member in _members(results):
            self._backend = self._backend or _backend_of(member)
            self._ids[member.id] = None
        self._timeout = timeout
        self._propagate = propagate

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        if self._backend is None:
            return
        told: queue.Queue[Told] = queue.Queue()
        deadline = _deadline(self._timeout)
        watcher = self._backend.waiter.watcher()
        subscription = watcher.subscribe(self._ids, told.put, Tell.ID)
        ready: deque[str] = deque()
        left = len(self._ids)
        try:
            while left:
                while not ready:
                    ready.extend(_ids(_take(told, deadline, watcher)))
                batch = _batch(ready)
                left -= len(batch)
                yield from self._values(batch, self._read(batch, deadline))
        finally:
            subscription.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        if self._backend is None:
            return
        told: asyncio.Queue[Told] = asyncio.Queue()
        deliver = _on_loop(asyncio.get_running_loop(), told.put_nowait)
        deadline = _deadline(self._timeout)
        watcher = self._backend.waiter.watcher()
        subscription = watcher.subscribe(self._ids, deliver, Tell.ID)
        ready: deque[str] = deque()
        left = len(self._ids)
        try:
            while left:
                while not ready:
                    ready.extend(_ids(await _before(deadline, told.get(), watcher)))
                batch = _batch(ready)
                left -= len(batch)
                for pair in self._values(batch, await self._read_aside(batch, deadline)):
                    yield pair
        finally:
            subscription.cancel()

    def _read(self, task_ids: list[str], deadline: float | None) -> dict[str, TaskRecord]:
        """Read the records, after an outage if there is one."""
        assert self._backend is not None
        store, aside = self._backend.store, self._backend.waiter.aside
        while True:
            try:
                if deadline is None:
                    return store.get_many(task_ids)
                return aside.call(lambda: store.get_many(task_ids), max(0.0, deadline - time.monotonic()))
            except NotInTime:
                raise timed_out() from None
            except RootcellarError as exc:
                time.sleep(_pause_after(exc, deadline))

    async def _read_aside(self, task_ids: list[str], deadline: float | None) -> dict[str, TaskRecord]:
        """Do the same in a thread, which outlives the event loop where the server does not answer."""
        assert self._backend is not None
        store, aside = self._backend.store, self._backend.waiter.aside
        while True:
            reading = aside.submit(lambda: store.get_many(task_ids))
            try:
                found: dict[str, TaskRecord] = await _before(deadline, asyncio.wrap_future(reading))
                return found
            except RootcellarError as exc:
                await asyncio.sleep(_pause_after(exc, deadline))
            finally:
                reading.cancel()

    def _values(self, task_ids: list[str], found: dict[str, TaskRecord]) -> Iterator[tuple[str, Any]]:
        """Yield the values one by one: one that is an exception is raised after those before it were yielded."""
        assert self._backend is not None
        for task_id in task_ids:
            record = found.pop(task_id, None)
            if record is not None:
                yield task_id, _value(self._backend, record, propagate=self._propagate)


def _backend_of(async_result: Any) -> ResultBackend:
    backend = async_result.backend
    if not isinstance(backend, ResultBackend):
        raise ConfigurationError(
            f"the result backend of {async_result!r} is {type(backend).__name__}",
            where="result_backend",
            remedy="set result_backend to a rootcellar+ URL",
        )
    return backend


def _members(results: Iterable[Any]) -> Iterator[Any]:
    for member in results.results if isinstance(results, ResultSet) else results:
        if isinstance(member, ResultSet):
            yield from _members(member)
        else:
            yield member


def _on_loop(loop: asyncio.AbstractEventLoop, receive: Callable[[Told], object]) -> Deliver:
    """Return a function that a watcher may call in its thread to have ``receive`` called on the loop."""

    def deliver(told: Told) -> None:
        # a loop that was closed, which it may be at any moment, has nobody who waits
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(receive, told)

    return deliver


def _records(told: Told) -> list[TaskRecord]:
    if isinstance(told, RootcellarError):
        raise told
    return [record for record in told if isinstance(record, TaskRecord)]


def _ids(told: Told) -> list[str]:
    if isinstance(told, RootcellarError):
        raise told
    return [task_id for task_id in told if isinstance(task_id, str)]


def _batch(ready: deque[str]) -> list[str]:
    return [ready.popleft() for _ in range(min(BATCH, len(ready)))]


def _value(backend: ResultBackend, record: TaskRecord, *, propagate: bool) -> Any:
    value = backend.meta_of(record)["result"]
    if propagate and record.state in PROPAGATE_STATES:
        raise value
    return value


def _pause_after(exc: RootcellarError, deadline: float | None) -> float:
    """Return the seconds until it is worth looking again; raise what ends the wait."""
    if not exc.retryable:
        raise exc
    if deadline is not None and time.monotonic() + OUTAGE_PAUSE > deadline:
        raise TimeoutError("The operation timed out.") from exc
    return OUTAGE_PAUSE


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _take(told: queue.Queue[T], deadline: float | None, watcher: Watcher) -> T:
    try:
        return told.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise timed_out(watcher.outage) from watcher.outage


async def _before(deadline: float | None, waiting: Any, watcher: Watcher | None = None) -> Any:
    try:
        return await asyncio.wait_for(waiting, None if deadline is None else max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        outage = watcher.outage if watcher else None
        raise timed_out(outage) from outage
