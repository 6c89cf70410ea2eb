"""Moves what waits in the journal to the durable store, one batch at a time, whoever else tries to.

What a batch writes was read from the journal after the durable store had begun its transaction, beside which there is
no other. So a batch can only write what is newer than what earlier ones wrote, whatever stands still, dies or is
repeated. A task leaves the journal after the commit, and only if it has not changed since it was read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.records import Stored, TaskRecord
from rootcellar.stores.fields import unreadable
from rootcellar.stores.hybrid.exactness import survives_round_trip
from rootcellar.stores.journal import DRAIN_BATCH, Batch, Journal, Outcome, Pending, Settlement, TakesBatches
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds between two looks whether somebody else has moved what waits
_LOOK_AGAIN = 0.02


class Drainer:
    """Moves tasks.

    Args:
        journal: where they wait.
        durable: where they go.
        expires: seconds for which the quick store keeps what was moved, at most.
    """

    def __init__(self, journal: Journal, durable: TakesBatches, expires: float) -> None:
        self._journal = journal
        self._durable = durable
        self._expires = timedelta(seconds=expires)

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """Move up to ``limit`` tasks; return how many, 0 also while somebody else does so.

        Raises:
            StoreError: one of the two stores failed; what was not moved waits on.
        """
        if self._journal.last_entry() is None:
            return 0
        with self._durable.exclusive_batch() as batch:
            if batch is None:
                return 0
            pending = self._journal.oldest(limit)
            settlements = self._move(batch, pending)
        self._journal.settle(settlements)
        return len(pending)

    def drain_all(self, note: Callable[[int], object], patience: float | None = None) -> int:
        """Move what waits at this moment, or wait until others have; return how many were moved here.

        Args:
            note: called with the number of each batch.
            patience: seconds after which it is given up; ``None`` for never.

        Raises:
            StoreError: as :meth:`drain`.
            StoreUnavailable: also where it was given up.
        """
        total = 0
        last = self._journal.last_entry()
        deadline = None if patience is None else time.monotonic() + patience
        while last is not None and not self._journal.is_moved(last):
            if deadline is not None and time.monotonic() > deadline:
                raise StoreUnavailable(f"not all was moved within {patience:g} s", remedy="see `rootcellar drain`")
            moved = self.drain()
            if moved:
                total += moved
                note(moved)
            else:
                time.sleep(_LOOK_AGAIN)
        return total

    def _move(self, batch: Batch, pending: Sequence[Pending]) -> list[Settlement]:
        """Write a batch; return what the journal is to be told of it."""
        batch.delete([one.task_id for one in pending if one.was_forgotten])
        records = [one.record for one in pending if one.record is not None and not unreadable(one.record)]
        answers = dict(zip((record.task_id for record in records), batch.put(records), strict=True))
        doubtful = [record.task_id for record in records if not _is_kept_as_given(record, answers[record.task_id])]
        kept = batch.get_many(doubtful) if doubtful else {}
        return [
            self._settlement(one, answers.get(one.task_id) or _refusal(one), kept.get(one.task_id)) for one in pending
        ]

    def _settlement(
        self, pending: Pending, answer: Stored | RecordRefused | None, kept: TaskRecord | None
    ) -> Settlement:
        if pending.record is None:
            return Settlement(pending=pending, outcome=Outcome.GONE)
        if isinstance(answer, RecordRefused):
            logger.error(
                "The result of task %s stays in Redis, for the durable store refuses it: %s", pending.task_id, answer
            )
            return Settlement(pending=pending, outcome=Outcome.REFUSED)
        left = _left(kept or pending.record)
        return Settlement(
            pending=pending,
            outcome=Outcome.MOVED,
            lasts=self._expires if left is None else min(self._expires, left),
            kept=None if kept == pending.record else kept,
        )


def _is_kept_as_given(record: TaskRecord, answer: Stored | RecordRefused) -> bool:
    """Tell whether the durable store certainly has what was given, or nothing."""
    if isinstance(answer, RecordRefused):
        return True
    return answer.written and answer.inserted and survives_round_trip(record)


def _refusal(pending: Pending) -> RecordRefused | None:
    """Return why a record stays where it is: moved without what cannot be read, it would pass for whole."""
    fields = [] if pending.record is None else unreadable(pending.record)
    return RecordRefused(f"its {', '.join(fields)} cannot be read") if fields else None


def _left(record: TaskRecord) -> timedelta | None:
    """Return how long a record is to be kept, ``None`` for ever."""
    if record.expires_at is None:
        return None
    return max(record.expires_at - datetime.now(timezone.utc), timedelta(milliseconds=1))
