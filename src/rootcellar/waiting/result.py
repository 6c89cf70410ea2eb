"""``rootcellar.result``: awaits a result on asyncio, without a thread for each waiter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError
from celery.result import ResultSet
from celery.states import PROPAGATE_STATES

from rootcellar.errors import RootcellarError
from rootcellar.stores.fields import text_id
from rootcellar.stores.watching import Notification
from rootcellar.waiting.arguments import as_result, backend_of, needs_no_wait, value_without_wait
from rootcellar.waiting.callbacks import callbacks_called
from rootcellar.waiting.deadlines import timed_out
from rootcellar.waiting.notifications import on_loop, records_of
from rootcellar.waiting.parents import LATE_PAUSE_SECONDS, Parents, Readable, raise_failure_of
from rootcellar.waiting.values import value_of

#: if a result has more parents, their failures are noticed only when the result is ready
MAX_WATCHED_PARENTS = 1_000


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
    awaited = as_result(async_result, app)
    with callbacks_called(asyncio.get_running_loop(), awaited):
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
    if needs_no_wait(async_result):
        return value_without_wait(async_result, propagate=propagate)
    backend = backend_of(async_result)
    loop = asyncio.get_running_loop()
    notifications: asyncio.Future[Notification] = loop.create_future()

    def set_first(notification: Notification) -> None:
        if not notifications.done():
            notifications.set_result(notification)

    deliver = on_loop(loop, set_first)
    watcher = backend.waiter.watcher()
    subscription = backend.waiter.subscribe([text_id(async_result.id)], deliver)
    try:
        await asyncio.wait({notifications, failed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        subscription.cancel()
    if not notifications.done():
        if failed.done():
            raise_failure_of(failed.result())
        raise timed_out(watcher.outage) from watcher.outage
    (record,) = records_of(notifications.result())
    if propagate and record.state in PROPAGATE_STATES:
        await raise_parents_failure(parents)
    return value_of(backend, record, propagate=propagate)


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
    all_values = asyncio.gather(*waiting)
    try:
        await asyncio.wait({all_values, failed}, return_when=asyncio.FIRST_COMPLETED)
        if not all_values.done():
            raise_failure_of(failed.result())
        error = all_values.exception()
        if error is not None and not isinstance(error, (TimeoutError, RootcellarError)):
            # a member may have failed because of a parent whose record was not delivered yet
            await raise_parents_failure(parents)
        return list(await all_values)
    finally:
        all_values.cancel()
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
        if (parent := parents.failed_among({backend: records_of(notification)})) is not None:
            failed.set_result(parent)

    with contextlib.ExitStack() as stack:
        if sum(map(len, unknown.values())) <= MAX_WATCHED_PARENTS:
            for backend, ids in unknown.items():
                deliver = on_loop(loop, partial(receive, backend))
                stack.callback(backend.waiter.subscribe(ids, deliver).cancel)
        yield failed


async def raise_parents_failure(parents: Parents) -> None:
    """Read the parents in threads, and raise the exception of the first one that failed."""
    while True:
        asked = {
            backend: asyncio.wrap_future(backend.waiter.executor.submit(partial(backend.waiter.try_read, ids)))
            for backend, ids in parents.unknown().items()
        }
        raise_failure_of(parents.failed_among({backend: await answer for backend, answer in asked.items()}))
        if not parents.wait_for_late_record():
            return
        await asyncio.sleep(LATE_PAUSE_SECONDS)
