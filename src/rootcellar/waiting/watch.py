"""``rootcellar.watch``: follows the states of a task on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import Celery
from celery.result import EagerResult, ResultSet
from celery.states import PENDING

from rootcellar.errors import NotAResult, RootcellarError
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores.fields import text_id
from rootcellar.stores.watching import Notification, NotifyOn
from rootcellar.waiting.arguments import as_result, backend_of
from rootcellar.waiting.callbacks import callbacks_called
from rootcellar.waiting.deadlines import OUTAGE_PAUSE_SECONDS, await_before, deadline_after, seconds_left
from rootcellar.waiting.notifications import on_loop, records_of
from rootcellar.waiting.parents import Readable


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state of a task, yielded by :func:`watch`.

    Attributes:
        task_id: the id of the task.
        state: a Celery state or a custom one. PENDING means that no worker has stored anything: the task waits for a
            worker, or does not exist.
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


async def watch(task: Any, timeout: float | None = None, *, app: Celery | None = None) -> AsyncIterator[StateChange]:
    """Follow a task: yield its current state, and every later one until it ends.

    The first state is PENDING if the task has no record. A state that is replaced before its notification arrives may
    be left out; the last state never is.

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
    task = as_result(task, app)
    if isinstance(task, ResultSet):
        raise NotAResult("a group is not a task", remedy="use as_completed(group), or watch each member of the group")
    if isinstance(task, EagerResult):
        yield StateChange(task.id, task.state, task.result, is_ready=True, done_at=None)
        return
    backend = backend_of(task)
    notifications: asyncio.Queue[Notification] = asyncio.Queue()
    deliver = on_loop(asyncio.get_running_loop(), notifications.put_nowait)
    deadline = deadline_after(timeout)
    watcher = backend.waiter.watcher()
    subscription = backend.waiter.subscribe([text_id(task.id)], deliver, NotifyOn.CHANGES)
    calls = contextlib.ExitStack()
    next_one = asyncio.ensure_future(notifications.get())
    try:
        calls.enter_context(callbacks_called(asyncio.get_running_loop(), task))
        was_pending = await _is_pending(backend, text_id(task.id), next_one, deadline)
        if was_pending:
            yield StateChange(text_id(task.id), PENDING, None, is_ready=False, done_at=None)
        while True:
            for record in records_of(await await_before(deadline, next_one, [watcher])):
                change = _change(backend, record)
                # a task that was only sent has a record, and may be PENDING as before
                if not (was_pending and change.state == PENDING):
                    yield change
                was_pending = change.state == PENDING
                if change.is_ready:
                    return
            next_one = asyncio.ensure_future(notifications.get())
    finally:
        next_one.cancel()
        calls.close()
        subscription.cancel()


def _change(backend: Readable, record: TaskRecord) -> StateChange:
    meta = backend.meta_of(record)
    done_at = None if record.done_at == NO_DATE else record.done_at
    return StateChange(record.task_id, meta["status"], meta["result"], record.done_at is not None, done_at)


async def _is_pending(
    backend: Readable, task_id: str, next_one: asyncio.Future[Notification], deadline: float | None
) -> bool:
    """Return True if a task has no record. Stop reading when there is a notification for it."""
    while not next_one.done():
        reading = asyncio.wrap_future(backend.waiter.presence.check(task_id))
        both: set[asyncio.Future[Any]] = {reading, next_one}
        try:
            await asyncio.wait(both, timeout=seconds_left(deadline), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
        if not reading.done() or reading.cancelled():
            # there is a notification, or the deadline has passed
            return False
        error = reading.exception()
        if error is None:
            return not (reading.result() or next_one.done())
        if not (isinstance(error, RootcellarError) and error.retryable):
            # the watcher gets the same error, and sends it to the waiters
            return False
        left = seconds_left(deadline)
        await asyncio.wait(
            {next_one}, timeout=OUTAGE_PAUSE_SECONDS if left is None else min(OUTAGE_PAUSE_SECONDS, left)
        )
        if left == 0:
            return False
    return False
