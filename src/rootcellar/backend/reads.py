"""The part of the result backend that reads and waits, for ``get``, ``join`` and ``ready`` of results."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from celery import states
from celery.backends.base import Backend

from rootcellar.backend.exceptions import TaskFailed
from rootcellar.backend.recorder import Recorder
from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord, was_only_sent
from rootcellar.stores import Store
from rootcellar.stores.fields import text_id
from rootcellar.stores.watching import Fetch
from rootcellar.waiting import callbacks
from rootcellar.waiting.blocking import Waiter, wait_everywhere
from rootcellar.waiting.parents import Parents, follows_parents, is_group, leaves_of

#: the message of a failure without an error
UNSTORED = "the error is not stored, because the task ignores its result"
#: a key in the meta of a record that cannot be read
_UNREADABLE = "rootcellar_unreadable"


class ReadingBackend(Backend):  # type: ignore[misc]
    """Reads and waits. :class:`rootcellar.backend.backend.ResultBackend` sets its attributes."""

    store: Store
    waiter: Waiter
    recorder: Recorder
    #: whether a task that was sent and not started is in state SENT for Celery, and not PENDING
    shows_sent: bool
    #: reads archived results by their ids; ``None`` if the process names no archive
    read_archived: Fetch | None
    #: seconds between two searches of a waiting client for orphaned chords
    chord_sweep_interval: float

    @abstractmethod
    def waiting_as_sent(self, task_id: str) -> TaskRecord | None:
        """Return the record of a task that this process has sent, if it is not stored yet."""

    @abstractmethod
    def sweep_in_thread(self) -> None:
        """Search for orphaned chords without blocking the caller."""

    def _ensure_not_eager(self) -> None:
        """Do nothing. Celery's method warns that eager tasks store nothing; it is called where no record is found.

        Celery calls this before each read, and to look up the setting takes as long as a tenth of a read.
        """

    def _warn_if_eager(self) -> None:
        """Warn, as Celery does, that eager tasks store nothing."""
        super()._ensure_not_eager()

    # -- reading

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """Return the stored state of a task as Celery's dict.

        Raises:
            PayloadError: the record cannot be read.
            ResultNotRead: the store cannot be reached.
        """
        key = task_id if type(task_id) is str else text_id(task_id)
        return super().get_task_meta(key, cache)  # type: ignore[no-any-return]

    def reload_task_result(self, task_id: str) -> None:
        """Read a task again, even if its result is in the cache."""
        super().reload_task_result(text_id(task_id))

    def forget(self, task_id: str) -> None:
        """Delete the record of a task.

        Raises:
            ResultHeld: a hold keeps it.
        """
        super().forget(text_id(task_id))

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        # first, because it may be stored between the two looks
        waiting = self.waiting_as_sent(task_id)
        key = task_id if type(task_id) is str else text_id(task_id)
        record = self.store.get(key) or waiting
        if record is None and self.read_archived is not None:
            # a restore may have moved it to the store between the two looks
            record = self.read_archived([key]).get(key) or self.store.get(key)
        if record is None:
            self._warn_if_eager()
            return {"status": states.PENDING, "result": None}
        return self.meta_of(record)

    def meta_of(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as Celery's dict for results.

        A task that was sent and not started is PENDING, as without a record, unless ``result_sent_state`` is on.
        """
        meta: dict[str, Any] = self.meta_from_decoded(self.recorder.meta(record))
        if record.result is None and record.state in states.PROPAGATE_STATES:
            meta["result"] = TaskFailed(UNSTORED)
        elif was_only_sent(record) and not self.shows_sent:
            meta["status"], meta["result"] = states.PENDING, None
        return meta

    def meta_or_failure(self, record: TaskRecord) -> dict[str, Any]:
        """Like :meth:`meta_of`, but an unreadable record becomes a failure with the error as its exception.

        So a client that reads many results gets the others.

        Raises:
            StoreError: the blob store cannot be reached.
        """
        try:
            return self.meta_of(record)
        except RootcellarError as exc:
            if exc.retryable:
                raise
            return {
                "task_id": record.task_id,
                "status": states.FAILURE,
                "result": exc,
                "traceback": None,
                "children": [],
                "date_done": None,
                _UNREADABLE: True,
            }

    def task_result_exists(self, task_id: str) -> bool:
        """Return True if the store has a record of the task."""
        key = text_id(task_id)
        if self._ensure_retryable(self.store.get, key) is not None:
            return True
        if self.read_archived is None:
            return False
        # see _get_task_meta_for
        is_archived = bool(self._ensure_retryable(self.read_archived, [key]))
        return is_archived or self._ensure_retryable(self.store.get, key) is not None

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(id, meta)`` of each task that becomes ready; with ``max_iterations`` only of those ready now.

        A task with an unreadable record is a FAILURE here, with the error as its result.
        """
        ids = {text_id(task_id) for task_id in task_ids}
        if max_iterations:
            found = self._ensure_retryable(self.waiter.fetch, ids)
            ready = (record for record in found.values() if record.state in states.READY_STATES)
            yield from ((record.task_id, self.meta_or_failure(record)) for record in ready)
            return
        for _, record in self._wait({self: ids}, timeout, interval, on_message, on_interval):
            yield record.task_id, self.meta_or_failure(record)

    # -- waiting

    @property
    def is_async(self) -> bool:
        """Whether the callbacks of a group are called when its last result has been read."""
        return True

    def add_pending_result(self, result: Any, weak: bool = False, **kwargs: Any) -> Any:
        """Record, only in this process, that a result gets a callback. Building a group sends nothing to the store."""
        callbacks.remember(result)
        return result

    #: removes a result that :meth:`add_pending_result` recorded, and returns it. Bound here, because results are also
    #: deleted at the interpreter's end, when this module has no names any more
    remove_pending_result = staticmethod(callbacks.drop)

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float | None = 0.5,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[Any], object] | None = None,
        callback: Callable[[str, Any], object] | None = None,
        propagate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Wait for one result and return its value, or raise its exception or that of a parent."""
        self._warn_if_eager()
        for _, record in self._wait({self: [text_id(result.id)]}, timeout, interval, on_message, on_interval):
            result._maybe_set_cache(self.meta_of(record))
        if propagate and result.state in states.PROPAGATE_STATES and follows_parents(result, on_interval):
            Parents(result).raise_failure()
        return result.maybe_throw(callback=callback, propagate=propagate)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> dict[str, Any]:
        """Wait for one task and return its meta."""
        self._warn_if_eager()
        ((_, record),) = self._wait({self: [text_id(task_id)]}, timeout, interval, None, on_interval)
        return self.meta_of(record)

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield ``(id, meta)`` of each result as it becomes ready, and ``(id, results)`` of each group in it.

        It waits for all results at once, for each in its own backend; ``timeout`` is for all of them together. A task
        with an unreadable record is a FAILURE here, with the error as its result. The ids are those of the results,
        and have the same type.
        """
        self._warn_if_eager()
        deadline = None if timeout is None else time.monotonic() + timeout
        leaves: dict[ReadingBackend, dict[str, list[tuple[Any, bool]]]] = {}
        elsewhere, groups = [], []
        for node in result.results:
            # of the results within a group, only the group is yielded
            is_direct = not is_group(node)
            if not is_direct:
                groups.append(node)
            for leaf in (node,) if is_direct else leaves_of(node.results):
                if isinstance(leaf.backend, ReadingBackend):
                    leaves.setdefault(leaf.backend, {}).setdefault(text_id(leaf.id), []).append((leaf, is_direct))
                else:
                    elsewhere.append((leaf, is_direct))
        for backend, record in self._wait(leaves, timeout, interval, on_message, on_interval):
            metas = []
            for leaf, is_direct in leaves[backend][record.task_id]:
                meta = backend.meta_or_failure(record)
                if _UNREADABLE not in meta:
                    meta = leaf._maybe_set_cache(meta)
                if is_direct:
                    metas.append((leaf.id, meta))
            yield from metas
        for leaf, is_direct in elsewhere:
            _wait_elsewhere(leaf, deadline, interval, on_interval)
            if is_direct:
                yield leaf.id, leaf._cache
        for group in groups:
            yield group.id, group.results

    def _wait(
        self,
        task_ids: Mapping[ReadingBackend, Iterable[str]],
        timeout: float | None,
        interval: float | None,
        on_message: Callable[[Any], object] | None,
        on_interval: Callable[[], object] | None,
    ) -> Iterator[tuple[ReadingBackend, TaskRecord]]:
        """Yield the record of each task as it becomes ready, with its backend."""
        pending = callbacks.without(callbacks.waiting(), task_ids)
        backends: dict[Waiter, Any] = {backend.waiter: backend for backend in (*task_ids, *pending)}

        def on_change(waiter: Waiter, record: TaskRecord) -> None:
            if on_message is not None:
                on_message(backends[waiter].meta_or_failure(record))

        def sweep() -> None:
            for backend in task_ids:
                backend.sweep_in_thread()

        found = wait_everywhere(
            {backend.waiter: ids for backend, ids in task_ids.items()},
            timeout=timeout,
            interval=0.5 if interval is None else interval,
            on_interval=_call_both(on_interval, _every(self.chord_sweep_interval, sweep)),
            on_change=None if on_message is None else on_change,
            others={backend.waiter: ids for backend, ids in pending.items()},
            on_other=lambda waiter, record: callbacks.call(pending, backends[waiter], record),
        )
        for waiter, record in found:
            yield backends[waiter], record


def _wait_elsewhere(
    leaf: Any, deadline: float | None, interval: float | None, on_interval: Callable[[], object] | None
) -> None:
    """Wait for a result of another kind of backend, by that backend's own method.

    Our own results have ended already, so waiting for one result after another loses no time.
    """
    leaf.get(
        timeout=None if deadline is None else max(0.0, deadline - time.monotonic()),
        propagate=False,
        interval=0.5 if interval is None else interval,
        on_interval=on_interval,
        disable_sync_subtasks=False,
    )


def _call_both(first: Callable[[], object] | None, second: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        if first is not None:
            first()
        second()

    return call


def _every(seconds: float, work: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls ``work`` if ``seconds`` have passed since its creation or the last call."""
    last = time.monotonic()

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            work()

    return call
