"""Reads the parents of a result: the exception of a failed parent is raised instead of the result's own failure.

If the header of a chord failed, the chord's own failure is a ``ChordError``, and the header has the original exception.
``get(follow_parents=True)``, Celery's default, raises the original one. The result's own failure may arrive before the
records of its parents, so these are then read once more.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from celery.states import PROPAGATE_STATES
from celery.utils.log import get_logger

from rootcellar.errors import PayloadError
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.fields import text_id
from rootcellar.text.escaping import visible_logs
from rootcellar.waiting.blocking import Waiter

logger = visible_logs(get_logger(__name__))

#: the record of a failed task in a chord's header may be stored this many seconds after the chord's failure
LATE_SECONDS = 0.5
#: seconds between two reads of such a record
LATE_PAUSE_SECONDS = 0.02


@runtime_checkable
class Readable(Protocol):
    """A result backend of rootcellar: its records can be read and awaited."""

    store: Store
    waiter: Waiter

    def meta_of(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as Celery's dict for results."""

    def meta_or_failure(self, record: TaskRecord) -> dict[str, Any]:
        """Like :meth:`meta_of`, but an unreadable record becomes a failure with the error as its exception."""


#: the results of tasks, by their backend and id
ByBackend = dict[Readable, dict[str, list[Any]]]


class Parents:
    """The parents of one result whose results rootcellar has.

    Args:
        result: an ``AsyncResult`` or a group.
    """

    def __init__(self, result: Any) -> None:
        nodes = []
        while (result := getattr(result, "parent", None)) is not None:
            nodes.append(result)
        # the failure of the task that was sent first is the cause of later failures
        self._leaves = list(leaves_of(reversed(nodes)))
        self._is_header = bool(nodes) and is_group(nodes[0])
        self._deadline: float | None = None

    def unknown(self) -> ByBackend:
        """Return the parents whose end is not known yet."""
        return by_backend(leaf for leaf in self._leaves if leaf._cache is None)

    def raise_failure(self) -> None:
        """Read the parents, and raise the exception of the first one that failed. Do nothing if none failed."""
        while self._leaves:
            found = {backend: backend.waiter.try_read(ids) for backend, ids in self.unknown().items()}
            raise_failure_of(self.failed_among(found))
            if not self.wait_for_late_record():
                return
            time.sleep(LATE_PAUSE_SECONDS)

    def wait_for_late_record(self) -> bool:
        """Begin a short wait for the end of a task in a chord's header; return whether it goes on.

        On a Redis Cluster the chord can fail a moment before the record of the task that failed is stored.
        """
        if not self._is_header or not self.unknown():
            return False
        if self._deadline is None:
            self._deadline = time.monotonic() + LATE_SECONDS
        return time.monotonic() < self._deadline

    def failed_among(self, found: Mapping[Readable, Iterable[TaskRecord]]) -> Any:
        """Return the first parent that failed according to these records and earlier ones, or ``None``."""
        records = {(backend, record.task_id): record for backend, some in found.items() for record in some}
        for leaf in self._leaves:
            record = records.get((leaf.backend, text_id(leaf.id))) if leaf._cache is None else None
            if record is not None and record.state in PROPAGATE_STATES:
                _set_state(leaf, record)
            if leaf._cache is not None and leaf._cache["status"] in PROPAGATE_STATES:
                return leaf
        return None


def raise_failure_of(failed: Any) -> None:
    """Raise the exception of a result that failed; do nothing for ``None``."""
    if failed is not None:
        failed.maybe_throw()


def _set_state(leaf: Any, record: TaskRecord) -> None:
    """Set the stored state of a result."""
    try:
        leaf._maybe_set_cache(leaf.backend.meta_of(record))
    except PayloadError as exc:
        # the result's own failure is raised instead
        logger.warning("The failure of task %s, a parent of the awaited result, cannot be read: %s", leaf.id, exc)


def follows_parents(result: Any, on_interval: Any) -> bool:
    """Return True if Celery's ``get`` was asked to follow parents. Only its ``on_interval`` shows this."""
    called = getattr(on_interval, "fun", None)
    if isinstance(called, weakref.ReferenceType):
        called = called()
    return called is not None and called == getattr(result, "_maybe_reraise_parent_error", None)


def by_backend(leaves: Iterable[Any]) -> ByBackend:
    """Return results of tasks by their backend and id, without those of a backend that is not rootcellar's."""
    found: ByBackend = {}
    for leaf in leaves:
        if isinstance(leaf.backend, Readable):
            found.setdefault(leaf.backend, {}).setdefault(text_id(leaf.id), []).append(leaf)
    return found


def leaves_of(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of tasks in a tree of results and groups, in their order."""
    for node in nodes:
        if is_group(node):
            yield from leaves_of(node.results)
        else:
            yield node


def is_group(node: Any) -> bool:
    """Return True if a result is that of a group."""
    return not hasattr(node, "_cache")
