"""Results whose ``then`` was called: their callbacks are called while any result is waited for, in the same thread.

Celery tells a backend of every result that has a ``then``, and every group has one on each of its members, so that it
knows when it is complete. Only callbacks of a program are worth a look at the store. So the results are noted here, and
those with such a callback are found when a thread waits.

What is noted belongs to the thread (or greenlet) in which ``then`` was called: no other thread calls its callbacks.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from celery.result import ResultSet
from celery.utils.log import get_logger
from vine import barrier

from rootcellar.errors import PayloadError
from rootcellar.records import TaskRecord
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.parents import ByBackend, Readable, by_backend, leaves_of

logger = visible_logs(get_logger(__name__))


class _Noted(threading.local):
    """What one thread has noted."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._pid = os.getpid()
        #: the result that was noted last: its callback is added only after it was noted
        self.latest: Any = None
        #: results with a callback of the program, alive as long as nobody knows their end
        self.results: dict[int, Any] = {}
        #: what makes a group complete, alive as long as the group
        self.barriers: weakref.WeakValueDictionary[int, barrier] = weakref.WeakValueDictionary()

    def leave_inherited(self) -> None:
        """Forget what the parent process waits for; looked at here, because a fork in C runs no hooks."""
        if self._pid != os.getpid():
            self.clear()

    def sort_latest(self) -> None:
        """Find out why the latest result was noted."""
        result, self.latest = self.latest, None
        if result is None or result._cache is not None:
            return
        for listener in _listeners(result.on_ready):
            if isinstance(listener, barrier):
                self.barriers[id(listener)] = listener
            else:
                self.results[id(result)] = result


_noted = _Noted()


def note(result: Any) -> None:
    """Note a result whose ``then`` is about to get a callback."""
    _noted.leave_inherited()
    _noted.sort_latest()
    _noted.latest = result


def drop(result: Any, noted: _Noted = _noted) -> None:
    """Forget a result that is over, or that nobody has any more.

    Results are also deleted when the interpreter ends and the names of this module are gone; so ``noted`` is bound.
    """
    if noted.latest is result:
        noted.latest = None
    noted.results.pop(id(result), None)


def waiting() -> ByBackend:
    """Return the results that are not over and have callbacks, their own or those of a group they are in."""
    noted = _noted
    noted.leave_inherited()
    noted.sort_latest()
    if not noted.results and not noted.barriers:
        return {}
    single = [result for result in noted.results.values() if result._cache is None]
    members = [leaf for group in _groups_with_callbacks() for leaf in leaves_of([group]) if leaf._cache is None]
    unique = {id(result): result for result in (*single, *members)}
    return by_backend(unique.values())


def call(results: ByBackend, backend: Readable, record: TaskRecord) -> None:
    """Call the callbacks of the results that a record is the end of."""
    for result in results.get(backend, {}).get(record.task_id, ()):
        if result._cache is not None:
            continue
        try:
            result._maybe_set_cache(backend.meta_of(record))
        except PayloadError as exc:
            drop(result)
            logger.error("The callbacks of task %s are not called, because its result cannot be read: %s", result, exc)


def besides(results: ByBackend, awaited: Mapping[Any, Any]) -> ByBackend:
    """Return ``results`` without those that are waited for anyway."""
    kept: ByBackend = {}
    for backend, by_id in results.items():
        ids = awaited.get(backend, ())
        if others := {task_id: some for task_id, some in by_id.items() if task_id not in ids}:
            kept[backend] = others
    return kept


def waiting_besides(awaited: Any) -> ByBackend:
    """Return the results of :func:`waiting` without those in ``awaited``, a result or a group."""
    found = waiting()
    return besides(found, by_backend(leaves_of([awaited]))) if found else found


def _groups_with_callbacks() -> Iterator[Any]:
    for one in list(_noted.barriers.values()):
        if one.ready:
            _noted.barriers.pop(id(one), None)
            continue
        for group in _groups_of(one):
            if _has_callback(group.on_ready):
                yield group


def _has_callback(promise: Any) -> bool:
    """Tell whether a promise has a callback of the program, also by way of groups in groups."""
    for listener in _listeners(promise):
        if not isinstance(listener, barrier):
            return True
        groups = list(_groups_of(listener))
        if not groups or any(_has_callback(group.on_ready) for group in groups):
            return True
    return False


def _groups_of(one: barrier) -> Iterator[Any]:
    """Yield the groups that are complete when a barrier is."""
    for listener in _listeners(one.p):
        called = getattr(listener, "fun", None)
        called = called() if isinstance(called, weakref.ReferenceType) else called
        group = getattr(called, "__self__", None)
        if isinstance(group, ResultSet):
            yield group


def _listeners(promise: Any) -> list[Any]:
    return [listener for listener in promise.listeners if listener is not None]
