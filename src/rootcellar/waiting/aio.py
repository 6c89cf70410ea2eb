"""Results on asyncio, and results as they come: no thread for each waiter, no cache of what was handed out.

``result`` and ``watch`` are told by the one watcher of the process; ``as_completed`` is told ids only and reads the
records in batches, so that it holds no more than a batch however many results there are.

All three take what Celery returns for a task that was sent, and plain ids. A result that is there already (of a task
that was run eagerly, or whose result is ignored) is returned without a look at the store.
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
from rootcellar.waiting.parents import ByBackend, Parents, Readable, leaves_of, raise_failure_of

T = TypeVar("T")

#: the most records that :func:`as_completed` holds at a time
BATCH = 500
#: the most parents of a result that are watched while it is awaited; of more it is seen at its end that one failed
MOST_PARENTS = 1_000
#: seconds between two tries to read them in an outage
OUTAGE_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state of a task, as :func:`watch` yields it.

    Attributes:
        task_id: the id of the task.
        state: a Celery state or a custom one. PENDING means that nothing is stored of the task: it waits for a worker,
            or there is no such task.
        info: the meta of a custom state, the result of a SUCCESS, the exception of a FAILURE, a RETRY or a REVOKED;
            ``None`` for PENDING.
        is_ready: whether the task is over: this is its last state.
        done_at: when the task was over, aware and in UTC; ``None`` before that, for a task that was run eagerly, and
            where nobody stored when.
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
    """Await a task's result, as ``async_result.get()`` would wait for it; of a group, the list of its results.

    Args:
        async_result: what ``delay``, ``apply_async``, ``apply`` or ``send_task`` returned for a task, a chain, a group
            or a chord; or the id of a task. The result of a task that ignores its result is ``None``, at once.
        timeout: seconds to wait; ``None`` for ever.
        propagate: raise a failed task's exception, of a group the first that there is; otherwise return it. In a group,
            a result that cannot be read is taken as a failure with the error that says why.
        follow_parents: with ``propagate``, raise what a parent raised, also in place of the result's own failure: of a
            chord the exception of its header. Otherwise its own failure is raised, of a chord a ``ChordError``.
        app: the app of the task where its id is given; by default the current app.

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
            return await _results(async_result, timeout, failed, propagate=propagate, follow_parents=follow_parents)
        return await _result(async_result, timeout, failed, parents, propagate=propagate)


async def _result(
    async_result: Any, timeout: float | None, failed: asyncio.Future[Any], parents: Parents, *, propagate: bool
) -> Any:
    if _is_there(async_result):
        return _value_there(async_result, propagate=propagate)
    backend = _backend_of(async_result)
    loop = asyncio.get_running_loop()
    told: asyncio.Future[Notification] = loop.create_future()

    def settle(news: Notification) -> None:
        if not told.done():
            told.set_result(news)

    deliver = _on_loop(loop, settle)
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([text_id(async_result.id)], deliver)
    try:
        await asyncio.wait({told, failed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        subscription.cancel()
    if not told.done():
        if failed.done():
            raise_failure_of(failed.result())
        raise timed_out(watcher.outage) from watcher.outage
    (record,) = _records(told.result())
    if propagate and record.state in PROPAGATE_STATES:
        await _raise_failure(parents)
    return _value(backend, record, propagate=propagate)


async def _results(
    group: ResultSet, timeout: float | None, failed: asyncio.Future[Any], *, propagate: bool, follow_parents: bool
) -> list[Any]:
    """Await every member of a group, and no more of them once one, or a parent of the group, has failed."""
    waiting = [
        asyncio.ensure_future(_outcome_of_many(member, timeout, propagate=propagate, follow_parents=follow_parents))
        for member in group.results
    ]
    all_of_them = asyncio.gather(*waiting)
    try:
        await asyncio.wait({all_of_them, failed}, return_when=asyncio.FIRST_COMPLETED)
        if not all_of_them.done():
            raise_failure_of(failed.result())
        return list(await all_of_them)
    finally:
        all_of_them.cancel()
        for one in waiting:
            one.cancel()
        # what the others raise because they are cancelled is of no interest
        await asyncio.gather(*waiting, return_exceptions=True)


async def _outcome_of_many(member: Any, timeout: float | None, *, propagate: bool, follow_parents: bool) -> Any:
    """Await a member of a group; where no failure is raised, the error of one that cannot be read is its value."""
    try:
        return await _outcome(member, timeout, propagate=propagate, follow_parents=follow_parents)
    except RootcellarError as exc:
        if propagate or exc.retryable:
            raise
        return exc


@contextlib.contextmanager
def _first_failure(loop: asyncio.AbstractEventLoop, parents: Parents) -> Iterator[asyncio.Future[Any]]:
    """Give a future of the first parent that is seen to have failed; it is never done if none does."""
    failed: asyncio.Future[Any] = loop.create_future()
    unknown = parents.unknown()

    def receive(backend: Readable, told: Notification) -> None:
        if failed.done() or isinstance(told, RootcellarError):
            return
        if (parent := parents.failed_among({backend: _records(told)})) is not None:
            failed.set_result(parent)

    with contextlib.ExitStack() as stack:
        if sum(map(len, unknown.values())) <= MOST_PARENTS:
            for backend, ids in unknown.items():
                deliver = _on_loop(loop, partial(receive, backend))
                stack.callback(backend.waiter.watcher().subscribe(ids, deliver).cancel)
        yield failed


async def _raise_failure(parents: Parents) -> None:
    """Look at the parents, in threads, and raise what the first of them raised that failed."""
    asked = {
        backend: asyncio.wrap_future(backend.waiter.aside.submit(partial(backend.waiter.glance, ids)))
        for backend, ids in parents.unknown().items()
    }
    raise_failure_of(parents.failed_among({backend: await answer for backend, answer in asked.items()}))


@contextlib.contextmanager
def _callbacks_called(loop: asyncio.AbstractEventLoop, awaited: Any) -> Iterator[None]:
    """Call, on the loop, the callbacks of other results that are over meanwhile."""
    ids = callbacks.waiting_besides(awaited)

    def receive(backend: Readable, told: Notification) -> None:
        if not isinstance(told, RootcellarError):
            for record in _records(told):
                callbacks.call(ids, backend, record)

    with contextlib.ExitStack() as stack:
        for backend, by_id in ids.items():
            deliver = _on_loop(loop, partial(receive, backend))
            stack.callback(backend.waiter.watcher().subscribe(by_id, deliver).cancel)
        yield


async def watch(task: Any, timeout: float | None = None, *, app: Celery | None = None) -> AsyncIterator[StateChange]:
    """Follow a task: yield the state that it is in, and every one that it comes into until it is over.

    The first state is PENDING while nothing is stored of the task. A state that lasts for less time than a notification
    takes may be left out; the last one never is.

    Args:
        task: what ``delay``, ``apply_async``, ``apply`` or ``send_task`` returned for a task or a chain; or the id of a
            task. The SUCCESS of a task that ignores its result is not stored: give a timeout.
        timeout: seconds until it must be over; ``None`` for ever.
        app: the app of the task where its id is given; by default the current app.

    Raises:
        NotAResult: it is neither a result nor an id, or it is a group: :class:`as_completed` follows one.
        ConfigurationError: the app's result backend is not rootcellar's.
        celery.exceptions.TimeoutError: it was not over in time.
    """
    task = _as_result(task, app)
    if isinstance(task, ResultSet):
        raise NotAResult("a group is not a task", remedy="use as_completed(group), or watch each member of the group")
    if isinstance(task, EagerResult):
        yield StateChange(task.id, task.state, task.result, is_ready=True, done_at=None)
        return
    backend = _backend_of(task)
    told: asyncio.Queue[Notification] = asyncio.Queue()
    deliver = _on_loop(asyncio.get_running_loop(), told.put_nowait)
    deadline = _deadline(timeout)
    watcher = backend.waiter.watcher()
    subscription = watcher.subscribe([text_id(task.id)], deliver, NotifyOn.CHANGES)
    calls = contextlib.ExitStack()
    news = asyncio.ensure_future(told.get())
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
            news = asyncio.ensure_future(told.get())
    finally:
        news.cancel()
        calls.close()
        subscription.cancel()


async def _is_pending(
    backend: Readable, task_id: str, news: asyncio.Future[Notification], deadline: float | None
) -> bool:
    """Tell whether nothing is stored of a task; find out no more once there is news of it."""
    while not news.done():
        reading = asyncio.wrap_future(backend.waiter.presence.is_stored(task_id))
        both: set[asyncio.Future[Any]] = {reading, news}
        try:
            await asyncio.wait(both, timeout=_left(deadline), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
        if not reading.done() or reading.cancelled():
            # there is news, or the time is over
            return False
        error = reading.exception()
        if error is None:
            return not (reading.result() or news.done())
        if not (isinstance(error, RootcellarError) and error.retryable):
            # the watcher meets the same error, and ends with it the waits that it concerns
            return False
        left = _left(deadline)
        await asyncio.wait({news}, timeout=OUTAGE_PAUSE if left is None else min(OUTAGE_PAUSE, left))
        if left == 0:
            return False
    return False


class as_completed:
    """Yield ``(id, value)`` of each task as it becomes ready, in ``async for`` as in ``for``.

    Unlike ``join`` it keeps nothing of what it has yielded: a batch of records is all that it holds at a time.

    Args:
        results: a group, or what Celery returned for any number of tasks, chains, groups and chords, also mixed with
            ids of tasks; their number is bounded only by the memory for their ids. Each is waited for in its own
            backend. What needs no wait comes first: tasks that were run eagerly, and those that ignore their result.
        timeout: seconds until all must be ready; ``None`` for ever.
        propagate: raise the first failed task's exception, or that of a parent which failed before it; otherwise its
            exception is the value.
        app: the app of the tasks whose ids are given; by default the current app.

    Raises:
        celery.exceptions.TimeoutError: they were not all ready in time.
        ConfigurationError: the result backend of an app is not rootcellar's.
        NotAResult: one of them is neither a result nor an id.
    """

    def __init__(
        self, results: Any, timeout: float | None = None, *, propagate: bool = True, app: Celery | None = None
    ) -> None:
        #: results that are there without a wait, by their ids
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
        told: queue.SimpleQueue[_News] = queue.SimpleQueue()
        deadline = _deadline(self._timeout)
        with self._subscribed(told.put) as coming:
            while coming.left:
                while not coming.ready:
                    coming.receive(_take(told, deadline, self._watchers()))
                backend, batch = coming.next_batch()
                found = self._read(backend, batch, deadline)
                for task_id, record in _taken(batch, found):
                    if self._is_to_raise(record):
                        self._parents_of(backend, task_id).raise_failure()
                    yield task_id, _value_of_many(backend, record, propagate=self._propagate)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        for pair in self._values_there():
            yield pair
        told: asyncio.Queue[_News] = asyncio.Queue()
        put = _on_loop(asyncio.get_running_loop(), told.put_nowait)
        deadline = _deadline(self._timeout)
        with self._subscribed(put) as coming:
            while coming.left:
                while not coming.ready:
                    coming.receive(await _before(deadline, told.get(), self._watchers()))
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
        """Subscribe to all results, in each backend, and to those with callbacks, and have news ``put``."""
        others = callbacks.besides(callbacks.waiting(), self._ids)

        def subscribe(backend: Readable, ids: Iterable[str], tell: NotifyOn, *, is_other: bool = False) -> None:
            watcher = backend.waiter.watcher()
            stack.enter_context(watcher.subscribed(ids, lambda news: put(_News(backend, news, is_other)), tell))

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
        """Read the records, after an outage if there is one."""
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
        """Do the same in a thread, which outlives the event loop where the server does not answer."""
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
    """What the watcher of a backend tells.

    Attributes:
        backend: whose watcher it is.
        told: what it tells.
        is_other: whether it is about results that are not waited for, but have callbacks.
    """

    backend: Any
    told: Notification
    is_other: bool


class _Coming:
    """What :class:`as_completed` has still to yield.

    Args:
        left: how many results were not yielded.
        others: results that are not waited for, but have callbacks.
    """

    def __init__(self, left: int, others: ByBackend) -> None:
        self.left = left
        #: ids of results that are ready, each with its backend
        self.ready: deque[tuple[Readable, deque[str]]] = deque()
        self._others = others

    def receive(self, news: _News) -> None:
        """Note which results are ready, or call the callbacks of others."""
        if not news.is_other:
            self.ready.append((news.backend, deque(_ids(news.told))))
        elif not isinstance(news.told, RootcellarError):
            for record in _records(news.told):
                callbacks.call(self._others, news.backend, record)

    def next_batch(self) -> tuple[Readable, list[str]]:
        """Return some ids of one backend, as many as may be read at a time."""
        backend, ids = self.ready[0]
        while len(self.ready) > 1 and len(ids) < BATCH and self.ready[1][0] is backend:
            ids.extend(self.ready[1][1])
            del self.ready[1]
        batch = _batch(ids)
        if not ids:
            self.ready.popleft()
        self.left -= len(batch)
        return backend, batch


def _taken(task_ids: list[str], found: dict[str, TaskRecord]) -> Iterator[tuple[str, TaskRecord]]:
    """Yield the records that there are in the order of the ids, and keep none of them."""
    for task_id in task_ids:
        if (record := found.pop(task_id, None)) is not None:
            yield task_id, record


def _as_result(task: Any, app: Celery | None) -> Any:
    """Return a result of Celery as it is, and for an id the ``AsyncResult`` of that task."""
    if isinstance(task, ResultBase):
        return task
    if isinstance(task, str | UUID):
        return (app or current_app._get_current_object()).AsyncResult(str(task))
    # its type only: the arguments of a signature may be secret
    what = f"an object of type {type(task).__name__} is neither a result nor the id of a task"
    if isinstance(task, Signature):
        raise NotAResult(what, remedy="send it first: give what its delay() or apply_async() returns")
    raise NotAResult(what, remedy="give what delay() or apply_async() returned, or the id of a task")


def _is_there(one: Any) -> bool:
    """Tell whether a result is there without a wait, as Celery's ``get`` sees it."""
    return isinstance(one, EagerResult) or bool(getattr(one, "ignored", False))


def _value_there(one: Any, *, propagate: bool) -> Any:
    # it waits for nothing, so there is nothing for Celery to warn of where a task calls this
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
    """Yield the results of tasks among what was given: results, groups and ids, or one of them."""
    if isinstance(results, str | UUID | ResultBase | Signature) or not isinstance(results, Iterable):
        results = [results]
    yield from leaves_of(_as_result(one, app) for one in results)


def _on_loop(loop: asyncio.AbstractEventLoop, receive: Callable[[T], object]) -> Callable[[T], None]:
    """Return a function that a watcher may call in its thread to have ``receive`` called on the loop."""

    def deliver(told: T) -> None:
        # a loop that was closed, which it may be at any moment, has nobody who waits
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(receive, told)

    return deliver


def _records(told: Notification) -> list[TaskRecord]:
    if isinstance(told, RootcellarError):
        raise told
    return [record for record in told if isinstance(record, TaskRecord)]


def _ids(told: Notification) -> list[str]:
    if isinstance(told, RootcellarError):
        raise told
    return [task_id for task_id in told if isinstance(task_id, str)]


def _batch(ready: deque[str]) -> list[str]:
    return [ready.popleft() for _ in range(min(BATCH, len(ready)))]


def _value(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    value = backend.meta_of(record)["result"]
    if propagate and record.state in PROPAGATE_STATES:
        raise value
    return value


def _value_of_many(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    """Return the value, of a record that cannot be read the error, so that one does not end the others."""
    meta = backend.meta_or_failure(record)
    if propagate and meta["status"] in PROPAGATE_STATES:
        raise meta["result"]
    return meta["result"]


def _pause_after(exc: RootcellarError, deadline: float | None) -> float:
    """Return the seconds until it is worth looking again; raise what ends the wait."""
    if not exc.retryable:
        raise exc
    if deadline is not None and time.monotonic() + OUTAGE_PAUSE > deadline:
        raise TimeoutError("The operation timed out.") from exc
    return OUTAGE_PAUSE


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _take(told: queue.SimpleQueue[T], deadline: float | None, watchers: Iterable[Watcher]) -> T:
    try:
        return told.get(timeout=_left(deadline))
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
