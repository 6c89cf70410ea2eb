"""Stores a record. Makes it again if its blob has become too old, or if the store refuses its size."""

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

#: if a store refuses a record, all fields except a returned value are cut: first to this size, then to this
FIELD_LIMITS_BYTES = (65_536, 2_048)
#: a blob is written again after this time without a record, because the sweep deletes old blobs without one
RENEW_AFTER_SECONDS = MIN_BLOB_SECONDS / 2
_FIELDS = ("result", "args", "kwargs", "children", "stamps", "traceback")


class Outgoing:
    """A record of a task that is being stored.

    Args:
        record: the task's record, whose blob has just been written.
        make: makes it again, with all fields except a returned value cut to this size in bytes; ``None``: not cut.
    """

    def __init__(self, record: TaskRecord, make: Callable[[int | None], TaskRecord]) -> None:
        self.record = record
        self._make = make
        self._cut_sizes: tuple[int, ...] = FIELD_LIMITS_BYTES
        #: when its blob was written; ``None`` without a blob
        self._made_at = None if blob_of(record) is None else _clocks()

    def put(self, put: Callable[[TaskRecord], T]) -> T:
        """Store the record.

        Args:
            put: stores a record in one statement.

        Raises:
            RecordRefused: the result itself is too large; the error names the largest field.
            RootcellarError: the error of ``put``.
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
        """Write the blob again under another name, before the sweep deletes it as a blob without a record."""
        now = _clocks()
        if max(later - earlier for earlier, later in zip(made_at, now, strict=True)) < RENEW_AFTER_SECONDS:
            return
        self.record = dataclasses.replace(self.record, result=self._make(None).result)
        self._made_at = now

    def _shorten(self, refused: RecordRefused) -> bool:
        while self._cut_sizes:
            cut_to, self._cut_sizes = self._cut_sizes[0], self._cut_sizes[1:]
            if all(
                size <= cut_to for name, size in _sizes(self.record).items() if name != "result" or self._has_failed
            ):
                continue
            before = _sizes(self.record)
            record = self._make(cut_to)
            self.record = dataclasses.replace(record, done_at=self.record.done_at, expires_at=self.record.expires_at)
            after = _sizes(self.record)
            cut = [f"{name} ({size:,} bytes)" for name, size in before.items() if after.get(name, 0) < size]
            if cut:
                task = self.record.task_id
                logger.warning("The record of task %s is stored with %s truncated: %s", task, ", ".join(cut), refused)
                return True
        return False

    @property
    def _has_failed(self) -> bool:
        return self.record.state != "SUCCESS"

    def _named(self, exc: RecordRefused) -> RecordRefused:
        sizes = _sizes(self.record)
        largest = max(sizes, key=sizes.__getitem__, default="")
        if not largest or sizes[largest] <= min(FIELD_LIMITS_BYTES):
            return exc
        what = (
            f"{exc.what} (the largest field of task {self.record.task_id} is its {largest}: {sizes[largest]:,} bytes)"
        )
        return type(exc)(what, where=exc.where, remedy=exc.remedy)


def _sizes(record: TaskRecord) -> dict[str, int]:
    """Return the size in bytes of each field that may be large."""
    values = {name: getattr(record, name) for name in _FIELDS}
    return {
        name: len(value) if isinstance(value, str) else len(value.body)
        for name, value in values.items()
        if value is not None
    }


def _clocks() -> tuple[float, float]:
    """Return the times of two clocks: one stops while the machine sleeps, the other may be changed."""
    return time.monotonic(), time.time()
