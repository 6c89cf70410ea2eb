"""Reads all that a system holds, batch by batch: in constant memory, at a limited rate, and again after an outage."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.migration.throttle import Throttle
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.support.backoff import Backoff

R = TypeVar("R", TaskRecord, GroupRecord)
T = TypeVar("T")

#: the rows of the first batch and of any batch, and about how many bytes a batch may have
FIRST, MOST, BYTES = 100, 2_000, 4_000_000
#: how often a call is repeated after an error that is retryable: for about a minute
TRIES = 10
_BACKOFF = Backoff(500, 10_000)
#: how many batches are read ahead
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """A batch of a walk.

    Attributes:
        rows: the records, each with another id.
        cursor: where the walk goes on after this batch; ``None`` at the end.
    """

    rows: Sequence[R]
    cursor: str | None


def walk_tasks(
    stream: Callable[[str | None, int], tuple[Sequence[TaskRecord], str | None]],
    cursor: str | None = None,
    *,
    throttle: Throttle | None = None,
    most: int = MOST,
    wait: Callable[[float], bool] | None = None,
) -> Iterator[Batch[TaskRecord]]:
    """Yield all task records in batches. A batch may be empty; it is small while the records are large.

    Args:
        stream: :meth:`~rootcellar.stores.streaming.Streamed.stream` of the system.
        cursor: where to begin; ``None`` for the beginning.
        throttle: limits the rate; ``None`` for no limit.
        most: the most rows of a batch.
        wait: waits for seconds, and returns true if the walk must end; see :func:`persistent`.
    """
    yield from _walk(stream, cursor, lambda record: record.task_id, _bytes_of, throttle or Throttle(), most, wait)


def walk_groups(
    stream: Callable[[str | None, int], tuple[Sequence[GroupRecord], str | None]],
    cursor: str | None = None,
    *,
    throttle: Throttle | None = None,
    most: int = MOST,
    wait: Callable[[float], bool] | None = None,
) -> Iterator[Batch[GroupRecord]]:
    """Do the same for saved groups."""
    yield from _walk(stream, cursor, lambda group: group.group_id, _bytes_of_group, throttle or Throttle(), most, wait)


def _walk(
    stream: Callable[[str | None, int], tuple[Sequence[R], str | None]],
    cursor: str | None,
    id_of: Callable[[R], str],
    bytes_of: Callable[[R], int],
    throttle: Throttle,
    most: int,
    wait: Callable[[float], bool] | None,
) -> Iterator[Batch[R]]:
    size = min(FIRST, most)
    while True:
        rows, cursor = persistent(partial(stream, cursor, throttle.batch(size)), wait)
        # a walk may return a record twice
        distinct = {id_of(row): row for row in rows}
        yield Batch(list(distinct.values()) if len(distinct) < len(rows) else rows, cursor)
        if cursor is None or not throttle.take(len(rows)):
            return
        size = _next_size(size, sum(map(bytes_of, rows)), most)


def _next_size(size: int, read: int, most: int) -> int:
    if read > BYTES:
        return max(1, size * BYTES // read)
    return min(most, size * 2) if read * 2 < BYTES else size


def _bytes_of(record: TaskRecord) -> int:
    payloads = (record.result, record.args, record.kwargs, record.children, record.stamps)
    return sum(len(payload.body) for payload in payloads if payload is not None) + len(record.traceback or "")


def _bytes_of_group(group: GroupRecord) -> int:
    return len(group.result.body)


def persistent(call: Callable[[], T], wait: Callable[[float], bool] | None = None) -> T:
    """Call, and call again while a retryable error is raised, such as that of an outage, for about a minute.

    Args:
        call: may be called again after an error.
        wait: waits for seconds, and returns true if there is no time for another call; by default it only waits.

    Raises:
        RootcellarError: that of the last call.
    """
    attempt = 0
    while True:
        try:
            return call()
        except RootcellarError as exc:
            attempt += 1
            if not exc.retryable or attempt > TRIES or (wait or _sleep)(_BACKOFF.before(attempt)):
                raise


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextmanager
def read_ahead(make: Callable[[Callable[[float], bool]], Iterator[Batch[R]]]) -> Iterator[Iterator[Batch[R]]]:
    """Read batches in a thread of their own, so that the next one is read while the caller works on one.

    At the end of the ``with`` block the thread has ended, after the call that it is in.

    Args:
        make: makes the iterator of the batches. Its argument waits for seconds, and returns true if the walk must end.
    """
    stop = threading.Event()
    waiting: queue.Queue[Batch[R] | BaseException | None] = queue.Queue(_AHEAD)

    def put(item: Batch[R] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            with closing(make(stop.wait)) as batches:  # type: ignore[type-var]
                for batch in batches:
                    if not put(batch):
                        return
            put(None)
        except BaseException as exc:
            # the caller raises it
            put(exc)

    def taken() -> Iterator[Batch[R]]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=read, name="rootcellar-read-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
