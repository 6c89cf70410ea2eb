"""The parents of a result: what they raised is raised in place of the result's own failure.

A chord whose header failed has a failure of its own, a ``ChordError``, and its header has the exception that a program
asks for by name. ``get(follow_parents=True)``, Celery's default, raises the latter. The result's own failure may be
there before anybody looked at the parents, so they are looked at once more when it is.
"""

from __future__ import annotations

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


@runtime_checkable
class Readable(Protocol):
    """A result backend whose records can be read and waited for: one of rootcellar's."""

    store: Store
    waiter: Waiter

    def meta_of(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as the dict that Celery's results are made of."""

    def meta_or_failure(self, record: TaskRecord) -> dict[str, Any]:
        """Return the same; for a record that cannot be read, the dict of a task that failed with the reason."""


#: a backend, and the ids of tasks whose results it has
ByBackend = dict[Readable, dict[str, list[Any]]]


class Parents:
    """The parents of one result, as far as rootcellar has their results.

    Args:
        result: an ``AsyncResult`` or a group.
    """

    def __init__(self, result: Any) -> None:
        nodes = []
        while (result := getattr(result, "parent", None)) is not None:
            nodes.append(result)
        # the task that was sent first is the cause of the failures that follow
        self._leaves = list(leaves_of(reversed(nodes)))

    def unknown(self) -> ByBackend:
        """Return the parents that are not known to be over."""
        return by_backend(leaf for leaf in self._leaves if leaf._cache is None)

    def raise_failure(self) -> None:
        """Look at the parents, and raise what the first of them raised that failed; do nothing if none did."""
        if self._leaves:
            found = {backend: backend.waiter.glance(ids) for backend, ids in self.unknown().items()}
            raise_failure_of(self.failed_among(found))

    def failed_among(self, found: Mapping[Readable, Iterable[TaskRecord]]) -> Any:
        """Return the first parent that failed, by records that were read and by what is known; ``None`` for none."""
        records = {(backend, record.task_id): record for backend, some in found.items() for record in some}
        for leaf in self._leaves:
            record = records.get((leaf.backend, text_id(leaf.id))) if leaf._cache is None else None
            if record is not None and record.state in PROPAGATE_STATES:
                _note(leaf, record)
            if leaf._cache is not None and leaf._cache["status"] in PROPAGATE_STATES:
                return leaf
        return None


def raise_failure_of(failed: Any) -> None:
    """Raise the exception of a result that failed; do nothing for ``None``."""
    if failed is not None:
        failed.maybe_throw()


def _note(leaf: Any, record: TaskRecord) -> None:
    """Give a result what is stored of it."""
    try:
        leaf._maybe_set_cache(leaf.backend.meta_of(record))
    except PayloadError as exc:
        # the failure of the result itself says what else is known
        logger.warning("The failure of task %s, a parent of what is waited for, cannot be read: %s", leaf.id, exc)


def follows_parents(result: Any, on_interval: Any) -> bool:
    """Tell whether Celery's ``get`` was asked to follow parents: it says so only by what it calls at intervals."""
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
    """Tell whether a result is that of a group."""
    return not hasattr(node, "_cache")
