"""Connects a backend to Celery's signals: the times of tasks, and the start and end of a worker.

The client adds the sent time as a header, which workers pass on. A retry keeps the time of the first sending, so that
``started - sent`` is the whole time for which the task has waited. The started time is that of the last start.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from datetime import datetime, timezone
from typing import Any, Protocol

import celery
from billiard import current_process
from celery import signals, states
from celery._state import get_current_task
from celery.app.task import Context, Task
from celery.exceptions import NotRegistered, WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger
from kombu.exceptions import ContentDisallowed, DecodeError

from rootcellar.errors import RootcellarError
from rootcellar.stores.base import Store
from rootcellar.support.blocking import blocking_allowed
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.blocking import Waiter

logger = visible_logs(get_logger(__name__))

#: the message header, and so the attribute of ``task.request``, with the time when the task was sent
SENT_AT = "rootcellar_sent_at"
#: the attribute of ``task.request`` with the time when the task was started
STARTED_AT = "rootcellar_started_at"

#: since Celery 5.7 the worker's main process stores the failure of a task that rejects its message without requeueing
_IS_REJECTION_RECORDED = celery.VERSION >= (5, 7)


def is_in_task() -> bool:
    """Return whether this thread or greenlet runs a task."""
    return get_current_task() is not None


def is_in_pool() -> bool:
    """Return whether this is a worker's pool, which waits until a result is stored."""
    return is_in_task() or (_is_worker() and current_process().name != "MainProcess")


def is_worker_main() -> bool:
    """Return whether this is a worker's main process outside of a task. It must not wait."""
    return _is_worker() and not is_in_pool() and not blocking_allowed()


def _is_worker() -> bool:
    return "celery.apps.worker" in sys.modules


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _add_sent_time(headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict) and not (headers.get("retries") and headers.get(SENT_AT)):
        headers[SENT_AT] = _now().isoformat()


#: the most calls of a thread that are being sent; the oldest ones are those that were never sent
_MAX_CALLS = 16


class _Calls(threading.local):
    """The calls that this thread is sending: Celery's signal for a sent message does not name the app.

    There can be several, because a receiver of ``before_task_publish`` may send another task.
    """

    def __init__(self) -> None:
        #: the backends by the ids of the tasks, the oldest call first
        self.backends: dict[str, ManagedBackend] = {}


_calls = _Calls()


def begin_call(backend: ManagedBackend, task_id: str) -> None:
    """Note that the app of a backend sends a task with this thread's next message."""
    backends = _calls.backends
    backends.pop(task_id, None)
    backends[task_id] = backend
    if len(backends) > _MAX_CALLS:
        del backends[next(iter(backends))]


def _on_task_sent(sender: Any = None, headers: Any = None, body: Any = None, routing_key: Any = None, **_: Any) -> None:
    if not _calls.backends:
        return
    fields = headers if isinstance(headers, dict) and "id" in headers else body
    if isinstance(fields, dict) and (backend := _calls.backends.pop(fields.get("id", ""), None)) is not None:
        backend.record_sent(sender, headers, body, routing_key)


def _add_start_time(task: Any = None, **_: Any) -> None:
    setattr(task.request, STARTED_AT, _now())


def _on_task_end(sender: Any = None, state: Any = None, retval: Any = None, **_: Any) -> None:
    """Count the part of a task that ended by Ignore or Reject, because Celery does not call the backend for these."""
    is_ignored = state == states.IGNORED and not _was_replaced(retval)
    is_rejected = state == states.REJECTED and not _IS_REJECTION_RECORDED and not retval.requeue
    if is_ignored or is_rejected:
        _end_unrecorded(sender.backend, sender.request, retval)


def _was_replaced(exc: BaseException | None) -> bool:
    """Return whether ``self.replace`` raised this: then another task replaces this one in its chord."""
    while exc is not None:
        entry = exc.__traceback__
        while entry is not None:
            if entry.tb_frame.f_code is Task.replace.__code__:
                return True
            entry = entry.tb_next
        exc = exc.__context__
    return False


def _on_task_unknown(sender: Any = None, message: Any = None, name: Any = None, **_: Any) -> None:
    _end_message(sender.app.backend, message, NotRegistered(name))


def _on_task_invalid(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    _end_message(sender.app.backend, message, exc)


def _end_message(backend: Any, message: Any, exc: BaseException) -> None:
    """Count the part of a message that cannot be run as a task."""
    try:
        payload = message.payload
    except (ContentDisallowed, DecodeError) as unreadable:
        logger.error("A message cannot be read; if it is part of a chord, the chord does not end: %s", unreadable)
        return
    # protocol 2 has the chord and the chain next to the arguments, protocol 1 has everything in one mapping
    fields = {**message.headers, **payload[2]} if isinstance(payload, (list, tuple)) else payload
    _end_unrecorded(backend, Context(fields), exc)


def _end_unrecorded(backend: Any, request: Any, exc: BaseException) -> None:
    if backend in _alive:
        backend.end_unrecorded(request, exc)


def _record_end(task: Any = None, state: str | None = None, **_: Any) -> None:
    """Store the end of a task in an exception that is not an ``Exception``. Celery does not, and few pools do."""
    exc = sys.exc_info()[1]
    if state is not None or exc is None or isinstance(exc, Exception) or task.request.is_eager:
        return
    backend = task.backend
    if backend in _alive:
        backend.record_end(task, exc)


def ignores_result(request: Any, task: Any) -> bool:
    """Return whether a call ignores its result: as the call says, or else as the task says."""
    # the class Context has a value of its own, which means nothing
    given = vars(request) if isinstance(request, Context) else {"ignore_result": request.ignore_result}
    ignores = given.get("ignore_result")
    return bool(getattr(task, "ignore_result", False) if ignores is None else ignores)


def is_end_of_run(task: Any, exc: BaseException) -> bool:
    """Return whether such an exception came from the task itself, and not from the pool that stops it."""
    if isinstance(exc, (WorkerShutdown, WorkerTerminate)) or type(exc).__name__ == "GreenletExit":
        return False
    # the pools of gevent and eventlet use their own exception for a time limit, and report the limit themselves
    is_timeout = type(exc).__module__.split(".")[0] in ("gevent", "eventlet") and type(exc).__name__ == "Timeout"
    limits = (*(task.request.timelimit or ()), task.time_limit, task.app.conf.task_time_limit)
    return not (is_timeout and any(limits))


def is_child_of_pool() -> bool:
    """Return whether this is a child of a worker's prefork pool, whose main process notices its end."""
    return _is_worker() and current_process().name != "MainProcess"


class ManagedBackend(Protocol):
    """The methods and attributes of a backend that this module needs."""

    app: Any
    store: Store
    waiter: Waiter

    def start_services(self) -> None:
        """Start the services that a worker's main process runs in the background."""

    def end_unrecorded(self, request: Any, exc: BaseException) -> None:
        """Count the part of a task that has ended and for which Celery records nothing."""

    def stop_services(self) -> None:
        """Stop these services, and log the operations that are lost because the worker ends."""

    def record_sent(self, name: Any, headers: Any, body: Any, routing_key: Any) -> None:
        """Record a task that was sent, if the user wants it. Does not wait for the store."""

    def flush_sent(self) -> None:
        """Wait a moment until the tasks that were sent are recorded."""

    def record_end(self, task: Any, exc: BaseException) -> None:
        """Store that a task ended in an exception that is not an ``Exception``."""


_alive: weakref.WeakSet[ManagedBackend] = weakref.WeakSet()


def register_backend(backend: ManagedBackend) -> None:
    """Check the backend's store when the worker is ready, and close it when the process ends."""
    _alive.add(backend)


def has_backend(app: Any) -> bool:
    """Return whether an app has made a result backend of rootcellar in this process."""
    return any(backend.app is app for backend in _alive)


def _on_worker_ready(sender: Any = None, **_: Any) -> None:
    """Stop the worker if no result can ever be stored; otherwise start the services in the background."""
    # access to app.backend creates the backend, which `worker -q` has not done
    sender.app.backend  # noqa: B018
    for backend in [backend for backend in _alive if backend.app is sender.app]:
        try:
            backend.store.check()
        except RootcellarError as exc:
            if not exc.retryable:
                logger.critical("No result could be stored, so this worker stops: %s", exc)
                raise WorkerShutdown(1) from None
            logger.error("The result store cannot be reached: %s. Results will be stored when it is back.", exc)
        backend.start_services()


def _on_worker_shutdown(**_: Any) -> None:
    for backend in list(_alive):
        backend.stop_services()


def close_all(**_: Any) -> None:
    """Close the connections of every backend of this process."""
    for backend in list(_alive):
        backend.flush_sent()
        backend.waiter.close()
        backend.store.close()


def connect_signals() -> None:
    """Connect the functions of this module to Celery's signals. May be called any number of times."""
    signals.before_task_publish.connect(_add_sent_time, weak=False, dispatch_uid="rootcellar.sent")
    signals.after_task_publish.connect(_on_task_sent, weak=False, dispatch_uid="rootcellar.recorded as sent")
    signals.task_prerun.connect(_add_start_time, weak=False, dispatch_uid="rootcellar.started")
    signals.task_postrun.connect(_on_task_end, weak=False, dispatch_uid="rootcellar.unrecorded")
    signals.task_unknown.connect(_on_task_unknown, weak=False, dispatch_uid="rootcellar.unknown")
    signals.task_rejected.connect(_on_task_invalid, weak=False, dispatch_uid="rootcellar.invalid")
    signals.task_postrun.connect(_record_end, weak=False, dispatch_uid="rootcellar.end of task")
    signals.worker_ready.connect(_on_worker_ready, weak=False, dispatch_uid="rootcellar.ready")
    signals.worker_shutdown.connect(_on_worker_shutdown, weak=False, dispatch_uid="rootcellar.end")
    signals.worker_process_shutdown.connect(close_all, weak=False, dispatch_uid="rootcellar.shutdown")
    atexit.register(close_all)


connect_signals()
