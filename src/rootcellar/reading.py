"""The half of the result backend that reads and waits: what ``get``, ``join`` and ``ready`` of results call."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery import states
from celery.backends.base import Backend
from kombu.utils.encoding import bytes_to_str

from rootcellar.recording import Recorder
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.waiting import Waiter


class ReadingBackend(Backend):  # type: ignore[misc]
    """Reads and waits; :class:`rootcellar.backend.ResultBackend` makes what it works with."""

    store: Store
    waiter: Waiter
    recorder: Recorder
    #: seconds between two looks of a waiting client for orphaned chords
    chord_sweep_interval: float

    @abstractmethod
    def sweep_aside(self) -> None:
        """Look for orphaned chords without keeping the caller waiting."""

    # -- reading

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        record = self.store.get(bytes_to_str(task_id))
        return {"status": states.PENDING, "result": None} if record is None else self.meta_of(record)

    def meta_of(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as the dict that Celery's results are made of."""
        return self.meta_from_decoded(self.recorder.meta(record))  # type: ignore[no-any-return]

    def task_result_exists(self, task_id: str) -> bool:
        """Tell whether the store holds anything of the task."""
        return self._ensure_retryable(self.store.get, bytes_to_str(task_id)) is not None

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
        """Yield ``(id, meta)`` of each task as it becomes ready; with ``max_iterations`` only of those ready now."""
        ids = {bytes_to_str(task_id) for task_id in task_ids}
        if max_iterations:
            found = self._ensure_retryable(self.store.get_many, ids)
            ready = (record for record in found.values() if record.state in states.READY_STATES)
            yield from ((record.task_id, self.meta_of(record)) for record in ready)
            return
        for record in self._wait(ids, timeout, interval, on_message, on_interval):
            yield record.task_id, self.meta_of(record)

    # -- waiting

    @property
    def is_async(self) -> bool:
        """Whether ``then`` of a group is called when its last result was fetched."""
        return True

    def add_pending_result(self, result: Any, weak: bool = False, **kwargs: Any) -> Any:
        """Nothing to do: who waits is known while it waits, and building a group must cost the store nothing."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nothing to do, see :meth:`add_pending_result`."""
        return result

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
        """Wait for one result and return its value, or raise its exception."""
        self._ensure_not_eager()
        for record in self._wait([bytes_to_str(result.id)], timeout, interval, on_message, on_interval):
            result._maybe_set_cache(self.meta_of(record))
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
        self._ensure_not_eager()
        (record,) = self._wait([bytes_to_str(task_id)], timeout, interval, None, on_interval)
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
        """Yield ``(id, meta)`` of each result as it becomes ready, and ``(id, results)`` of each group in it."""
        self._ensure_not_eager()
        leaves: dict[str, list[Any]] = {}
        for leaf in _leaves(result.results):
            leaves.setdefault(bytes_to_str(leaf.id), []).append(leaf)
        groups = [node for node in result.results if _is_group(node)]
        direct = {node.id for node in result.results if not _is_group(node)}
        for record in self._wait(leaves, timeout, interval, on_message, on_interval):
            for leaf in leaves[record.task_id]:
                leaf._maybe_set_cache(self.meta_of(record))
            if record.task_id in direct:
                yield record.task_id, leaves[record.task_id][0]._cache
        for group in groups:
            yield group.id, group.results

    def _wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        interval: float | None,
        on_message: Callable[[Any], object] | None,
        on_interval: Callable[[], object] | None,
    ) -> Iterator[TaskRecord]:
        return self.waiter.wait_for(
            task_ids,
            timeout=timeout,
            interval=0.5 if interval is None else interval,
            on_interval=_both(on_interval, _every(self.chord_sweep_interval, self.sweep_aside)),
            on_change=None if on_message is None else (lambda record: on_message(self.meta_of(record))),
        )


def _is_group(node: Any) -> bool:
    return not hasattr(node, "_cache")


def _leaves(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        if _is_group(node):
            yield from _leaves(node.results)
        else:
            yield node


def _both(first: Callable[[], object] | None, second: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        if first is not None:
            first()
        second()

    return call


def _every(seconds: float, work: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does ``work`` when ``seconds`` have passed since it was made or last did."""
    last = time.monotonic()

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            work()

    return call
