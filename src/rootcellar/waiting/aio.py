"""Results on asyncio, and results in the order in which they come, without a thread for each waiter or a cache.

The watcher of the process notifies ``result`` and ``watch``. ``as_completed`` gets only ids and reads the records in
batches, so that it never holds more than one batch.

All three accept the objects that Celery returns for a task, and plain ids. A result that needs no store (of a task that
ran eagerly, or whose result is ignored) is returned at once.
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
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from celery import Celery, Signature, current_app
from celery.exceptions import TimeoutError
from celery.result import EagerResult, ResultBase, ResultSet
from celery.states import PENDING, PROPAGATE_STATES

from rootcellar.errors import ConfigurationError, NotAResult, RootcellarError
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.fields import text_id
from rootcellar.stores.watching import Notification, NotifyOn, Watcher
from rootcellar.waiting import callbacks
from rootcellar.waiting.blocking import timed_out
from rootcellar.waiting.parents import (
    LATE_PAUSE_SECONDS,
    ByBackend,
    Parents,
    Readable,
    leaves_of,
    raise_failure_of,
)

T = TypeVar("T")

#: the maximum of records that :func:`as_completed` reads at a time
READ_BATCH = 500
#: if a result has more parents, their failures are noticed only when the result is ready
MAX_WATCHED_PARENTS = 1_000
#: the pause between two reads in an outage
OUTAGE_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state of a task, yielded by :func:`watch`.

    Attributes:
        task_id: the id of the task.
        state: a Celery state or a custom one. PENDING means that nothing is stored: the task waits for a worker, or
            does not exist.
        info: the meta of a custom state, the result of a SUCCESS, the exception of a FAILURE, a RETRY or a REVOKED;
            ``None`` for PENDING.
        is_ready: whether the task has ended: this is its last state.
        done_at: when the task ended, aware and in UTC; ``None`` before that, for a task that ran eagerly, and if the
            time is unknown.
    """

    task_id: str
    state: str
    info: Any
    is_ready: bool
    done_at: datetime | None


async def result(
    async_result: Any,
    timeout: float | None = None,
    *,
    propagate: bool = True,
    follow_parents: bool = True,
    app: Celery | None = None,
) -> Any:
    """Await a task's result, like ``async_result.get()``; for a group, the list of its results.

    Args:
        async_result: the object that ``delay``, ``apply_async``, ``apply`` or ``send_task`` returned for a task, a
            chain, a group or a chord; or the id of a task. For a task that ignores its result, ``None`` is returned at
            once.
        timeout: seconds to wait; ``None`` for ever.
        propagate: raise a failed task's exception, for a group the first one; otherwise return it. In a group, a result
            that cannot be read counts as a failure with the error as its exception.
        follow_parents: with ``propagate``, raise the exception of a parent instead of the result's own failure: for a
            chord the exception of its header. Otherwise the result's own failure is raised, for a chord a
            ``ChordError``.
        app: the app of the task if its id is given; by default the current app.

    Raises:
        celery.exceptions.TimeoutError: the task was not ready in time.
        ConfigurationError: the app's result backend is not rootcellar's.
        NotAResult: it is neither a result nor an id.
    """
    awaited = _as_result(async_result, app)
    with _callbacks_called(asyncio.get_running_loop(), awaited):
        return await _outcome(awaited, timeout, propagate=propagate, follow_parents=follow_parents)


async def _outcome(async_result: Any, timeout: float | None, *, propagate: bool, follow_parents: bool) -> Any:
    parents = Parents(async_result if propagate and follow_parents else None)
    with _first_failure(asyncio.get_running_loop(), parents) as failed:
        if isinstance(async_result, ResultSet):
            return await _results(
                async_result, timeout, failed, parents, propagate=propagate, follow_parents=follow_parents
            )
        return await _result(async_result, timeout, failed, parents, propagate=propagate)


async def _result(
    async_result: Any, timeout: float | None, failed: asyncio.Future[Any], parents: Parents, *, propagate: bool
) -> Any:
    if _is_there(async_result):
        return _value_there(async_result, propagate=propagate)
    backend = _backend_of(async_result)
    loop = asyncio.get_running_loop()
    notifications: asyncio.Future[Notification] = loop.create_future()

    def settle(news: Notification) -> None:
        if not notifications.done():
            notifications.set_result(news)

    deliver = _on_loop(loop, settle)
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([text_id(async_result.id)], deliver)
    try:
        await asyncio.wait({notifications, failed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        subscription.cancel()
    if not notifications.done():
        if failed.done():
            raise_failure_of(failed.result())
        raise timed_out(watcher.outage) from watcher.outage
    (record,) = _records(notifications.result())
    if propagate and record.state in PROPAGATE_STATES:
        await _raise_failure(parents)
    return _value(backend, record, propagate=propagate)


async def _results(
    group: ResultSet,
    timeout: float | None,
    failed: asyncio.Future[Any],
    parents: Parents,
    *,
    propagate: bool,
    follow_parents: bool,
) -> list[Any]:
    """Await every member of a group, until one of them or a parent of the group fails."""
    waiting = [
        asyncio.ensure_future(_outcome_of_many(member, timeout, propagate=propagate, follow_parents=follow_parents))
        for member in group.results
    ]
    all_of_them = asyncio.gather(*waiting)
    try:
        await asyncio.wait({all_of_them, failed}, return_when=asyncio.FIRST_COMPLETED)
        if not all_of_them.done():
            raise_failure_of(failed.result())
        error = all_of_them.exception()
        if error is not None and not isinstance(error, (TimeoutError, RootcellarError)):
            # a member may have failed because of a parent whose record was not delivered yet
            await _raise_failure(parents)
        return list(await all_of_them)
    finally:
        all_of_them.cancel()
        for one in waiting:
            one.cancel()
        # ignore the exceptions of the others, which come from their cancellation
        await asyncio.gather(*waiting, return_exceptions=True)


async def _outcome_of_many(member: Any, timeout: float | None, *, propagate: bool, follow_parents: bool) -> Any:
    """Await a member of a group. If failures are not raised, the error of an unreadable result is its value."""
    try:
        return await _outcome(member, timeout, propagate=propagate, follow_parents=follow_parents)
    except RootcellarError as exc:
        if propagate or exc.retryable:
            raise
        return exc


@contextlib.contextmanager
def _first_failure(loop: asyncio.AbstractEventLoop, parents: Parents) -> Iterator[asyncio.Future[Any]]:
    """Yield a future with the first parent that fails. It is never done if none fails."""
    failed: asyncio.Future[Any] = loop.create_future()
    unknown = parents.unknown()

    def receive(backend: Readable, notification: Notification) -> None:
        if failed.done() or isinstance(notification, RootcellarError):
            return
        if (parent := parents.failed_among({backend: _records(notification)})) is not None:
            failed.set_result(parent)

    with contextlib.ExitStack() as stack:
        if sum(map(len, unknown.values())) <= MAX_WATCHED_PARENTS:
            for backend, ids in unknown.items():
                deliver = _on_loop(loop, partial(receive, backend))
                stack.callback(backend.waiter.watcher().subscribe(ids, deliver).cancel)
        yield failed


async def _raise_failure(parents: Parents) -> None:
    """Read the parents in threads, and raise the exception of the first one that failed."""
    while True:
        asked = {
            backend: asyncio.wrap_future(backend.waiter.aside.submit(partial(backend.waiter.glance, ids)))
            for backend, ids in parents.unknown().items()
        }
        raise_failure_of(parents.failed_among({backend: await answer for backend, answer in asked.items()}))
        if not parents.may_be_late():
            return
        await asyncio.sleep(LATE_PAUSE_SECONDS)


@contextlib.contextmanager
def _callbacks_called(loop: asyncio.AbstractEventLoop, awaited: Any) -> Iterator[None]:
    """Call, on the loop, the callbacks of other results that end meanwhile."""
    ids = callbacks.waiting_besides(awaited)

    def receive(backend: Readable, notification: Notification) -> None:
        if not isinstance(notification, RootcellarError):
            for record in _records(notification):
                callbacks.call(ids, backend, record)

    with contextlib.ExitStack() as stack:
        for backend, by_id in ids.items():
            deliver = _on_loop(loop, partial(receive, backend))
            stack.callback(backend.waiter.watcher().subscribe(by_id, deliver).cancel)
        yield


async def watch(task: Any, timeout: float | None = None, *, app: Celery | None = None) -> AsyncIterator[StateChange]:
    """Follow a task: yield its current state, and every later one until it ends.

    The first state is PENDING while nothing is stored of the task. A state that lasts for less time than a notification
    takes may be left out; the last one never is.

    Args:
        task: the object that ``delay``, ``apply_async``, ``apply`` or ``send_task`` returned for a task or a chain; or
            the id of a task. The SUCCESS of a task that ignores its result is not stored: give a timeout.
        timeout: seconds until the task must have ended; ``None`` for ever.
        app: the app of the task if its id is given; by default the current app.

    Raises:
        NotAResult: it is neither a result nor an id, or it is a group: :class:`as_completed` follows one.
        ConfigurationError: the app's result backend is not rootcellar's.
        celery.exceptions.TimeoutError: the task did not end in time.
    """
    task = _as_result(task, app)
    if isinstance(task, ResultSet):
        raise NotAResult("a group is not a task", remedy="use as_completed(group), or watch each member of the group")
    if isinstance(task, EagerResult):
        yield StateChange(task.id, task.state, task.result, is_ready=True, done_at=None)
        return
    backend = _backend_of(task)
    notifications: asyncio.Queue[Notification] = asyncio.Queue()
    deliver = _on_loop(asyncio.get_running_loop(), notifications.put_nowait)
    deadline = _deadline(timeout)
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([text_id(task.id)], deliver, NotifyOn.CHANGES)
    calls = contextlib.ExitStack()
    news = asyncio.ensure_future(notifications.get())
    try:
        calls.enter_context(_callbacks_called(asyncio.get_running_loop(), task))
        if await _is_pending(backend, text_id(task.id), news, deadline):
            yield StateChange(text_id(task.id), PENDING, None, is_ready=False, done_at=None)
        while True:
            for record in _records(await _before(deadline, news, [watcher])):
                info = backend.meta_of(record)["result"]
                is_ready = record.done_at is not None
                done_at = None if record.done_at == NO_DATE else record.done_at
                yield StateChange(record.task_id, record.state, info, is_ready, done_at)
                if is_ready:
                    return
            news = asyncio.ensure_future(notifications.get())
    finally:
        news.cancel()
        calls.close()
        subscription.cancel()


async def _is_pending(
    backend: Readable, task_id: str, news: asyncio.Future[Notification], deadline: float | None
) -> bool:
    """Return True if nothing is stored of a task. Stop reading when there is a notification for it."""
    while not news.done():
        reading = asyncio.wrap_future(backend.waiter.presence.is_stored(task_id))
        both: set[asyncio.Future[Any]] = {reading, news}
        try:
            await asyncio.wait(both, timeout=_left(deadline), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
        if not reading.done() or reading.cancelled():
            # there is a notification, or the time is over
            return False
        error = reading.exception()
        if error is None:
            return not (reading.result() or news.done())
        if not (isinstance(error, RootcellarError) and error.retryable):
            # the watcher gets the same error, and passes it to the waiters that it concerns
            return False
        left = _left(deadline)
        await asyncio.wait({news}, timeout=OUTAGE_PAUSE_SECONDS if left is None else min(OUTAGE_PAUSE_SECONDS, left))
        if left == 0:
            return False
    return False


class as_completed:
    """Yield ``(id, value)`` of each task as it becomes ready, in ``async for`` as in ``for``.

    Unlike ``join`` it does not keep the results that it has yielded: it holds one batch of records at a time.

    Args:
        results: a group, or what Celery returned for any number of tasks, chains, groups and chords, also mixed with
            ids of tasks; their number is bounded only by the memory for their ids. Each is waited for in its own
            backend. What needs no wait comes first: tasks that were run eagerly, and those that ignore their result.
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
        self._there: dict[str, Any] = {}
        self._ids: dict[Readable, dict[str, None]] = {}
        #: the results that have parents, by backend and id
        self._with_parents: dict[tuple[Readable, str], Any] = {}
        for member in _members(results, app):
            if _is_there(member):
                self._there[text_id(member.id)] = member
                continue
            backend = _backend_of(member)
            task_id = text_id(member.id)
            self._ids.setdefault(backend, {})[task_id] = None
            if propagate and member.parent is not None:
                self._with_parents[backend, task_id] = member
        self._timeout = timeout
        self._propagate = propagate

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self._values_there()
        notifications: queue.SimpleQueue[_News] = queue.SimpleQueue()
        deadline = _deadline(self._timeout)
        with self._subscribed(notifications.put) as coming:
            while coming.left:
                while not coming.ready:
                    coming.receive(_take(notifications, deadline, self._watchers()))
                backend, batch = coming.next_batch()
                found = self._read(backend, batch, deadline)
                for task_id, record in _taken(batch, found):
                    if self._is_to_raise(record):
                        self._parents_of(backend, task_id).raise_failure()
                    yield task_id, _value_of_many(backend, record, propagate=self._propagate)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        for pair in self._values_there():
            yield pair
        notifications: asyncio.Queue[_News] = asyncio.Queue()
        put = _on_loop(asyncio.get_running_loop(), notifications.put_nowait)
        deadline = _deadline(self._timeout)
        with self._subscribed(put) as coming:
            while coming.left:
                while not coming.ready:
                    coming.receive(await _before(deadline, notifications.get(), self._watchers()))
                backend, batch = coming.next_batch()
                found = await self._read_aside(backend, batch, deadline)
                for task_id, record in _taken(batch, found):
                    if self._is_to_raise(record):
                        await _raise_failure(self._parents_of(backend, task_id))
                    yield task_id, _value_of_many(backend, record, propagate=self._propagate)

    def _values_there(self) -> Iterator[tuple[str, Any]]:
        for task_id, one in self._there.items():
            yield task_id, _value_there(one, propagate=self._propagate)

    @contextlib.contextmanager
    def _subscribed(self, put: Callable[[_News], None]) -> Iterator[_Coming]:
        """Subscribe to all results in each backend, and to those with callbacks. ``put`` gets the notifications."""
        others = callbacks.besides(callbacks.waiting(), self._ids)

        def subscribe(backend: Readable, ids: Iterable[str], notify_on: NotifyOn, *, is_other: bool = False) -> None:
            watcher = backend.waiter.watcher()
            stack.enter_context(watcher.subscribed(ids, lambda news: put(_News(backend, news, is_other)), notify_on))

        with contextlib.ExitStack() as stack:
            for backend, ids in self._ids.items():
                subscribe(backend, ids, NotifyOn.ID)
            for readable, by_id in others.items():
                subscribe(readable, by_id, NotifyOn.RECORD, is_other=True)
            yield _Coming(sum(map(len, self._ids.values())), others)

    def _watchers(self) -> list[Watcher]:
        return [backend.waiter.watcher() for backend in self._ids]

    def _is_to_raise(self, record: TaskRecord) -> bool:
        return self._propagate and record.state in PROPAGATE_STATES

    def _parents_of(self, backend: Readable, task_id: str) -> Parents:
        return Parents(self._with_parents.get((backend, task_id)))

    def _read(self, backend: Readable, task_ids: list[str], deadline: float | None) -> dict[str, TaskRecord]:
        """Read the records. In an outage wait for its end."""
        store, aside = backend.store, backend.waiter.aside
        while True:
            try:
                if deadline is None:
                    return store.get_many(task_ids)
                return aside.call(lambda: store.get_many(task_ids), max(0.0, deadline - time.monotonic()))
            except NotInTime:
                raise timed_out() from None
            except RootcellarError as exc:
                time.sleep(_pause_after(exc, deadline))

    async def _read_aside(
        self, backend: Readable, task_ids: list[str], deadline: float | None
    ) -> dict[str, TaskRecord]:
        """Read the records in a thread, which may run longer than the event loop if the server does not answer."""
        store, aside = backend.store, backend.waiter.aside
        while True:
            reading = aside.submit(lambda: store.get_many(task_ids))
            try:
                found: dict[str, TaskRecord] = await _before(deadline, asyncio.wrap_future(reading))
                return found
            except RootcellarError as exc:
                await asyncio.sleep(_pause_after(exc, deadline))
            finally:
                reading.cancel()


@dataclass(frozen=True, slots=True)
class _News:
    """A notification of the watcher of a backend.

    Attributes:
        backend: the backend.
        notification: the notification.
        is_other: whether it is for results that are not waited for, but have callbacks.
    """

    backend: Any
    notification: Notification
    is_other: bool


class _Coming:
    """The results that :class:`as_completed` has not yielded yet.

    Args:
        left: how many results are left.
        others: results that are not waited for, but have callbacks.
    """

    def __init__(self, left: int, others: ByBackend) -> None:
        self.left = left
        #: ids of results that are ready, each with its backend
        self.ready: deque[tuple[Readable, deque[str]]] = deque()
        self._others = others

    def receive(self, news: _News) -> None:
        """Add the results that are ready, or call the callbacks of other results."""
        if not news.is_other:
            self.ready.append((news.backend, deque(_ids(news.notification))))
        elif not isinstance(news.notification, RootcellarError):
            for record in _records(news.notification):
                callbacks.call(self._others, news.backend, record)

    def next_batch(self) -> tuple[Readable, list[str]]:
        """Return the next ids of one backend, at most a batch."""
        backend, ids = self.ready[0]
        while len(self.ready) > 1 and len(ids) < READ_BATCH and self.ready[1][0] is backend:
            ids.extend(self.ready[1][1])
            del self.ready[1]
        batch = _batch(ids)
        if not ids:
            self.ready.popleft()
        self.left -= len(batch)
        return backend, batch


def _taken(task_ids: list[str], found: dict[str, TaskRecord]) -> Iterator[tuple[str, TaskRecord]]:
    """Yield the existing records in the order of the ids, without keeping them."""
    for task_id in task_ids:
        if (record := found.pop(task_id, None)) is not None:
            yield task_id, record


def _as_result(task: Any, app: Celery | None) -> Any:
    """Return a result of Celery unchanged, and for an id the ``AsyncResult`` of its task."""
    if isinstance(task, ResultBase):
        return task
    if isinstance(task, str | UUID):
        return (app or current_app._get_current_object()).AsyncResult(str(task))
    # only its type, because the arguments of a signature may be secret
    what = f"an object of type {type(task).__name__} is neither a result nor the id of a task"
    if isinstance(task, Signature):
        raise NotAResult(what, remedy="send it first: pass the object that its delay() or apply_async() returns")
    raise NotAResult(what, remedy="pass the object that delay() or apply_async() returned, or the id of a task")


def _is_there(one: Any) -> bool:
    """Return True if a result needs no wait, as in Celery's ``get``."""
    return isinstance(one, EagerResult) or bool(getattr(one, "ignored", False))


def _value_there(one: Any, *, propagate: bool) -> Any:
    # this does not wait, so Celery need not warn if a task calls it
    return one.get(propagate=propagate, disable_sync_subtasks=False)


def _backend_of(async_result: Any) -> Readable:
    backend = async_result.backend
    if not isinstance(backend, Readable):
        raise ConfigurationError(
            f"the result backend of {async_result!r} is {type(backend).__name__}",
            where=f"result_backend of app {async_result.app.main!r}",
            remedy="set result_backend to a rootcellar+ URL; with the id of a task of another app, give app=",
        )
    return backend


def _members(results: Any, app: Celery | None) -> Iterator[Any]:
    """Yield the results of tasks in the argument: results, groups and ids, or one of them."""
    if isinstance(results, str | UUID | ResultBase | Signature) or not isinstance(results, Iterable):
        results = [results]
    yield from leaves_of(_as_result(one, app) for one in results)


def _on_loop(loop: asyncio.AbstractEventLoop, receive: Callable[[T], object]) -> Callable[[T], None]:
    """Return a function that calls ``receive`` on the loop, for a watcher that runs in another thread."""

    def deliver(notification: T) -> None:
        # the loop may be closed at any moment; then nothing waits on it
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(receive, notification)

    return deliver


def _records(notification: Notification) -> list[TaskRecord]:
    if isinstance(notification, RootcellarError):
        raise notification
    return [record for record in notification if isinstance(record, TaskRecord)]


def _ids(notification: Notification) -> list[str]:
    if isinstance(notification, RootcellarError):
        raise notification
    return [task_id for task_id in notification if isinstance(task_id, str)]


def _batch(ready: deque[str]) -> list[str]:
    return [ready.popleft() for _ in range(min(READ_BATCH, len(ready)))]


def _value(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    value = backend.meta_of(record)["result"]
    if propagate and record.state in PROPAGATE_STATES:
        raise value
    return value


def _value_of_many(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    """Return the value, or for an unreadable record the error, so that it does not end the wait for the others."""
    meta = backend.meta_or_failure(record)
    if propagate and meta["status"] in PROPAGATE_STATES:
        raise meta["result"]
    return meta["result"]


def _pause_after(exc: RootcellarError, deadline: float | None) -> float:
    """Return the seconds until the next try. Raise an error that ends the wait."""
    if not exc.retryable:
        raise exc
    if deadline is not None and time.monotonic() + OUTAGE_PAUSE_SECONDS > deadline:
        raise TimeoutError("The operation timed out.") from exc
    return OUTAGE_PAUSE_SECONDS


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _take(notifications: queue.SimpleQueue[T], deadline: float | None, watchers: Iterable[Watcher]) -> T:
    try:
        return notifications.get(timeout=_left(deadline))
    except queue.Empty:
        outage = _outage(watchers)
        raise timed_out(outage) from outage


async def _before(deadline: float | None, waiting: Any, watchers: Iterable[Watcher] = ()) -> Any:
    try:
        return await asyncio.wait_for(waiting, _left(deadline))
    except asyncio.TimeoutError:
        outage = _outage(watchers)
        raise timed_out(outage) from outage


def _outage(watchers: Iterable[Watcher]) -> RootcellarError | None:
    return next((watcher.outage for watcher in watchers if watcher.outage is not None), None)
