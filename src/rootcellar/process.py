"""The life of a process that has a backend: what it notes of its tasks, what a worker does at its start and end.

The sent time travels in a header that the client adds; stock workers take it along unread. On a retry it stays that of
the first sending, so that ``started - sent`` is all the time the task has waited. The started time is that of the last
start.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from datetime import datetime, timezone
from typing import Any, Protocol

from billiard import current_process
from celery import signals
from celery._state import get_current_task
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError
from rootcellar.retrying import is_patient
from rootcellar.stores.base import Store
from rootcellar.waiting import Waiter

logger = get_logger(__name__)

#: the message header, and so the attribute of ``task.request``, that says when the task was sent
SENT_AT = "rootcellar_sent_at"
#: the attribute of ``task.request`` that says when the task was started
STARTED_AT = "rootcellar_started_at"


def read_moment(value: Any) -> datetime | None:
    """Return an aware datetime of what a header or attribute holds, ``None`` if that is no time."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    # a header may come from anybody
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def is_in_task() -> bool:
    """Tell whether this thread or greenlet runs a task."""
    return get_current_task() is not None


def is_in_pool() -> bool:
    """Tell whether this is a worker's pool, which has nothing better to do than to wait until a result is stored."""
    return is_in_task() or (_is_worker() and current_process().name != "MainProcess")


def is_worker_main() -> bool:
    """Tell whether this is a worker's main process, outside its tasks: it must not be kept waiting."""
    return _is_worker() and not is_in_pool() and not is_patient()


def _is_worker() -> bool:
    return "celery.apps.worker" in sys.modules


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _note_sent(headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict) and not (headers.get("retries") and headers.get(SENT_AT)):
        headers[SENT_AT] = _now().isoformat()


def _note_started(task: Any = None, **_: Any) -> None:
    setattr(task.request, STARTED_AT, _now())


class Life(Protocol):
    """What a backend lets the process's life do with it."""

    app: Any
    store: Store
    waiter: Waiter

    def start_background(self) -> None:
        """Begin, in threads, what a worker's main process does beside its work."""

    def give_up(self) -> None:
        """Say what will not be stored because this process ends."""


_alive: weakref.WeakSet[Life] = weakref.WeakSet()


def live_with(backend: Life) -> None:
    """Check the backend's store when the worker is ready, and close it when the process ends."""
    _alive.add(backend)


def _on_worker_ready(sender: Any = None, **_: Any) -> None:
    """Refuse to work where no result could ever be stored, and begin what goes on in the background."""
    # the first look at app.backend makes it, where `worker -q` did not
    sender.app.backend  # noqa: B018
    for backend in [backend for backend in _alive if backend.app is sender.app]:
        try:
            backend.store.check()
        except RootcellarError as exc:
            if not exc.retryable:
                logger.critical("No result could be stored, so this worker stops: %s", exc)
                raise WorkerShutdown(1) from None
            logger.error("The result store is out of reach: %s. Results will be stored when it is back.", exc)
        backend.start_background()


def _on_worker_shutdown(**_: Any) -> None:
    for backend in list(_alive):
        backend.give_up()


def close_all(**_: Any) -> None:
    """Close the connections of every backend of this process."""
    for backend in list(_alive):
        backend.waiter.close()
        backend.store.close()


def connect_signals() -> None:
    """Connect what this module does to Celery's signals; to be called any number of times."""
    signals.before_task_publish.connect(_note_sent, weak=False, dispatch_uid="rootcellar.sent")
    signals.task_prerun.connect(_note_started, weak=False, dispatch_uid="rootcellar.started")
    signals.worker_ready.connect(_on_worker_ready, weak=False, dispatch_uid="rootcellar.ready")
    signals.worker_shutdown.connect(_on_worker_shutdown, weak=False, dispatch_uid="rootcellar.end")
    signals.worker_process_shutdown.connect(close_all, weak=False, dispatch_uid="rootcellar.shutdown")
    atexit.register(close_all)


connect_signals()
