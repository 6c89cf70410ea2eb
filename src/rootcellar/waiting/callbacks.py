"""Calls the callbacks of ``then`` while the same thread waits for any result.

Celery passes every result with a ``then`` to its backend. Every group has one on each of its members, to find out when
it is complete. The store must be read only for callbacks of the program itself. So this module records all results,
and finds those with such a callback when a thread waits.

A recorded result belongs to the thread (or greenlet) that called ``then``: no other thread calls its callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from celery.result import ResultSet
from celery.utils.log import get_logger
from vine import barrier

from rootcellar.errors import PayloadError, RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.watching import Notification
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.notifications import on_loop, records_of
from rootcellar.waiting.parents import ByBackend, Readable, by_backend, leaves_of

logger = visible_logs(get_logger(__name__))


class _Recorded:
    """The recorded results of one thread of one process."""

    __slots__ = ("_newest_barrier", "barriers", "latest", "pid", "results")

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: the result that was recorded last: Celery adds its callback only afterwards
        self.latest: Any = None
        #: results with a callback of the program, kept until their end is known
        self.results: dict[int, Any] = {}
        #: the barriers of groups, kept as long as the group
        self.barriers: weakref.WeakValueDictionary[int, barrier] = weakref.WeakValueDictionary()
        #: the barrier that was added last; all members of a group have the same one
        self._newest_barrier: Callable[[], barrier | None] = _nothing

    def sort_latest(self) -> None:
        """Find out whether the last recorded result has a callback of the program."""
        result, self.latest = self.latest, None
        if result is None or result._cache is not None:
            return
        for listener in result.on_ready.listeners:
            if listener is None or listener is self._newest_barrier():
                continue
            if isinstance(listener, barrier):
                self.barriers[id(listener)] = listener
                self._newest_barrier = weakref.ref(listener)
            else:
                self.results[id(result)] = result


class _Local(threading.local):
    """Keeps the recorded results of each thread."""

    def __init__(self) -> None:
        self.recorded = _Recorded()

    def renew(self) -> _Recorded:
        """Replace the results of the parent process, and return the new ones. A fork in C runs no hook for this."""
        self.recorded = _Recorded()
        return self.recorded


def _nothing() -> None:
    """Return ``None``, like a weak reference whose object was deleted."""


_local = _Local()


def remember(result: Any) -> None:
    """Record a result that is about to get a callback by ``then``."""
    recorded = _local.recorded
    if recorded.pid != os.getpid():
        recorded = _local.renew()
    if recorded.latest is not None:
        recorded.sort_latest()
    recorded.latest = result


def drop(result: Any, local: _Local = _local) -> Any:
    """Remove a result that has ended, or that is no longer referenced, and return it.

    ``local`` is bound here, because results are also deleted at the interpreter's end, when this module has no names.
    """
    recorded = local.recorded
    if recorded.latest is result:
        recorded.latest = None
    if recorded.results:
        recorded.results.pop(id(result), None)
    return result


def waiting() -> ByBackend:
    """Return the unfinished results that have callbacks, their own or those of a group that contains them."""
    recorded = _local.recorded
    if recorded.pid != os.getpid():
        recorded = _local.renew()
    recorded.sort_latest()
    if not recorded.results and not recorded.barriers:
        return {}
    single = [result for result in recorded.results.values() if result._cache is None]
    members = [leaf for group in _groups_with_callbacks() for leaf in leaves_of([group]) if leaf._cache is None]
    unique = {id(result): result for result in (*single, *members)}
    return by_backend(unique.values())


def call(results: ByBackend, backend: Readable, record: TaskRecord) -> None:
    """Call the callbacks of the results that end with a record."""
    for result in results.get(backend, {}).get(record.task_id, ()):
        if result._cache is not None:
            continue
        try:
            result._maybe_set_cache(backend.meta_of(record))
        except PayloadError as exc:
            drop(result)
            logger.error("The callbacks of task %s are not called, because its result cannot be read: %s", result, exc)


def without(results: ByBackend, awaited: Mapping[Any, Any]) -> ByBackend:
    """Return ``results`` without those that are awaited anyway."""
    kept: ByBackend = {}
    for backend, by_id in results.items():
        ids = awaited.get(backend, ())
        if others := {task_id: some for task_id, some in by_id.items() if task_id not in ids}:
            kept[backend] = others
    return kept


def waiting_without(awaited: Any) -> ByBackend:
    """Return the results of :func:`waiting` without those in ``awaited``, a result or a group."""
    found = waiting()
    return without(found, by_backend(leaves_of([awaited]))) if found else found


def _groups_with_callbacks() -> Iterator[Any]:
    barriers = _local.recorded.barriers
    for one in list(barriers.values()):
        if one.ready:
            barriers.pop(id(one), None)
            continue
        for group in _groups_of(one):
            if _has_callback(group.on_ready):
                yield group


def _has_callback(promise: Any) -> bool:
    """Return True if a promise has a callback of the program, directly or through groups in groups."""
    for listener in _listeners(promise):
        if not isinstance(listener, barrier):
            return True
        groups = list(_groups_of(listener))
        if not groups or any(_has_callback(group.on_ready) for group in groups):
            return True
    return False


def _groups_of(one: barrier) -> Iterator[Any]:
    """Yield the groups that are complete when a barrier is complete."""
    for listener in _listeners(one.p):
        called = getattr(listener, "fun", None)
        called = called() if isinstance(called, weakref.ReferenceType) else called
        group = getattr(called, "__self__", None)
        if isinstance(group, ResultSet):
            yield group


def _listeners(promise: Any) -> list[Any]:
    return [listener for listener in promise.listeners if listener is not None]


@contextlib.contextmanager
def callbacks_called(loop: asyncio.AbstractEventLoop, awaited: Any) -> Iterator[None]:
    """Call, on the loop, the callbacks of other results that end meanwhile."""
    ids = waiting_without(awaited)

    def receive(backend: Readable, notification: Notification) -> None:
        if not isinstance(notification, RootcellarError):
            for record in records_of(notification):
                call(ids, backend, record)

    with contextlib.ExitStack() as stack:
        for backend, by_id in ids.items():
            deliver = on_loop(loop, partial(receive, backend))
            stack.callback(backend.waiter.subscribe(by_id, deliver).cancel)
        yield
