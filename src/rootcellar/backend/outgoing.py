"""A record on its way into the store: made again where its blob grew old, or where the store refuses its size."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from rootcellar.errors import RecordRefused
from rootcellar.payloads.blobs.references import blob_of
from rootcellar.records import TaskRecord
from rootcellar.retention.policy import MIN_BLOB_SECONDS
from rootcellar.text.escaping import visible_logs

T = TypeVar("T")

logger = visible_logs(logging.getLogger(__name__))

#: bytes that a field beside the outcome may have where a store refuses the whole: first this, then this
ROOMS = (65_536, 2_048)
#: seconds after which a blob without a record is written anew: a sweep deletes those that are older than its grace
RENEW_AFTER_SECONDS = MIN_BLOB_SECONDS / 2
_FIELDS = ("result", "args", "kwargs", "children", "stamps", "traceback")


class Outgoing:
    """What is to be stored of a task.

    Args:
        record: the task's record, whose blob has just been written.
        make: makes it anew, with the fields beside the outcome cut to so many bytes; ``None`` for not cut.
    """

    def __init__(self, record: TaskRecord, make: Callable[[int | None], TaskRecord]) -> None:
        self.record = record
        self._make = make
        self._rooms: tuple[int, ...] = ROOMS
        #: when its blob was written; ``None`` where it has none
        self._made_at = None if blob_of(record) is None else _clocks()

    def put(self, put: Callable[[TaskRecord], T]) -> T:
        """Store it.

        Args:
            put: stores a record in one statement.

        Raises:
            RecordRefused: the outcome itself is too large; it names the largest field.
            RootcellarError: what ``put`` raises.
        """
        if self._made_at is not None:
            self._renew_blob(self._made_at)
        while True:
            try:
                return put(self.record)
            except RecordRefused as exc:
                if not self._shorten(exc):
                    raise self._named(exc) from exc

    def _renew_blob(self, made_at: tuple[float, float]) -> None:
        """Write the blob again, under another name, before a sweep takes it for one that is nobody's."""
        now = _clocks()
        if max(later - earlier for earlier, later in zip(made_at, now, strict=True)) < RENEW_AFTER_SECONDS:
            return
        self.record = dataclasses.replace(self.record, result=self._make(None).result)
        self._made_at = now

    def _shorten(self, refused: RecordRefused) -> bool:
        while self._rooms:
            room, self._rooms = self._rooms[0], self._rooms[1:]
            if all(size <= room for name, size in _sizes(self.record).items() if name != "result" or self._has_failed):
                continue
            before = _sizes(self.record)
            record = self._make(room)
            self.record = dataclasses.replace(record, done_at=self.record.done_at, expires_at=self.record.expires_at)
            after = _sizes(self.record)
            cut = [f"{name} ({size:,} bytes)" for name, size in before.items() if after.get(name, 0) < size]
            if cut:
                task = self.record.task_id
                logger.warning("The record of task %s is stored with %s cut short: %s", task, ", ".join(cut), refused)
                return True
        return False

    @property
    def _has_failed(self) -> bool:
        return self.record.state != "SUCCESS"

    def _named(self, exc: RecordRefused) -> RecordRefused:
        sizes = _sizes(self.record)
        largest = max(sizes, key=sizes.__getitem__, default="")
        if not largest or sizes[largest] <= min(ROOMS):
            return exc
        what = (
            f"{exc.what} (the largest field of task {self.record.task_id} is its {largest}: {sizes[largest]:,} bytes)"
        )
        return type(exc)(what, where=exc.where, remedy=exc.remedy)


def _sizes(record: TaskRecord) -> dict[str, int]:
    """Return the bytes of each field that may be large."""
    values = {name: getattr(record, name) for name in _FIELDS}
    return {
        name: len(value) if isinstance(value, str) else len(value.body)
        for name, value in values.items()
        if value is not None
    }


def _clocks() -> tuple[float, float]:
    """Return the seconds of two clocks: one stands still while the machine sleeps, the other may be set."""
    return time.monotonic(), time.time()
