"""Moves records from the journal to the durable store, one batch at a time, also if several processes do so.

A batch reads the journal only after it has the exclusive transaction in the durable store. Each batch is therefore
newer than the previous ones, even if a drainer hangs, dies or runs twice. A task leaves the journal after the commit,
and only if it has not changed since it was read.
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
from rootcellar.stores.journal import DRAIN_BATCH, Batch, Journal, MoveResult, Outcome, Pending, TakesBatches
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds between two checks whether another drainer has moved the records
_CHECK_SECONDS = 0.02


class Drainer:
    """Moves records.

    Args:
        journal: the journal of the fast store.
        durable: the durable store.
        expires: the most seconds for which the fast store keeps a moved record.
    """

    def __init__(self, journal: Journal, durable: TakesBatches, expires: float) -> None:
        self._journal = journal
        self._durable = durable
        self._expires = timedelta(seconds=expires)

    def drain(self, limit: int = DRAIN_BATCH) -> int:
        """Move up to ``limit`` records; return how many, and 0 also if another drainer has the transaction.

        Raises:
            StoreError: one of the two stores failed; the records that were not moved stay in the journal.
        """
        if self._journal.last_entry() is None:
            return 0
        with self._durable.exclusive_batch() as batch:
            if batch is None:
                return 0
            pending = self._journal.oldest(limit)
            move_results = self._move(batch, pending)
        self._journal.remove_moved(move_results)
        return len(pending)

    def drain_all(self, on_batch: Callable[[int], object], timeout: float | None = None) -> int:
        """Move all records that are in the journal now, or wait until other processes have moved them.

        Args:
            on_batch: called with the number of records of each batch.
            timeout: the most seconds to try; ``None`` for no limit.

        Returns:
            how many this process has moved.

        Raises:
            StoreError: as :meth:`drain`.
            StoreUnavailable: also if not all records were moved in time.
        """
        total = 0
        last = self._journal.last_entry()
        deadline = None if timeout is None else time.monotonic() + timeout
        while last is not None and not self._journal.is_moved(last):
            if deadline is not None and time.monotonic() > deadline:
                raise StoreUnavailable(f"not all was moved within {timeout:g} s", remedy="see `rootcellar drain`")
            moved = self.drain()
            if moved:
                total += moved
                on_batch(moved)
            else:
                time.sleep(_CHECK_SECONDS)
        return total

    def _move(self, batch: Batch, pending: Sequence[Pending]) -> list[MoveResult]:
        """Write a batch to the durable store; return the result for each record."""
        batch.delete([one.task_id for one in pending if one.was_forgotten])
        records = [one.record for one in pending if one.record is not None and not unreadable(one.record)]
        answers = dict(zip((record.task_id for record in records), batch.put(records), strict=True))
        doubtful = [record.task_id for record in records if not _is_kept_as_given(record, answers[record.task_id])]
        kept = batch.get_many(doubtful) if doubtful else {}
        return [
            self._move_result(one, answers.get(one.task_id) or _refusal(one), kept.get(one.task_id)) for one in pending
        ]

    def _move_result(
        self, pending: Pending, answer: Stored | RecordRefused | None, kept: TaskRecord | None
    ) -> MoveResult:
        if pending.record is None:
            return MoveResult(pending=pending, outcome=Outcome.GONE)
        if isinstance(answer, RecordRefused):
            logger.error(
                "The result of task %s stays in Redis, because the durable store refuses it: %s",
                pending.task_id,
                answer,
            )
            return MoveResult(pending=pending, outcome=Outcome.REFUSED)
        left = _left(kept or pending.record)
        return MoveResult(
            pending=pending,
            outcome=Outcome.MOVED,
            ttl=self._expires if left is None else min(self._expires, left),
            kept=None if kept == pending.record else kept,
        )


def _is_kept_as_given(record: TaskRecord, answer: Stored | RecordRefused) -> bool:
    """Return whether the durable store has exactly this record, or refused it."""
    if isinstance(answer, RecordRefused):
        return True
    return answer.written and answer.inserted and survives_round_trip(record)


def _refusal(pending: Pending) -> RecordRefused | None:
    """Return why a record must stay in the fast store: without its unreadable fields it would look complete."""
    fields = [] if pending.record is None else unreadable(pending.record)
    return RecordRefused(f"its {', '.join(fields)} cannot be read") if fields else None


def _left(record: TaskRecord) -> timedelta | None:
    """Return how long a record is kept from now; ``None`` for ever."""
    if record.expires_at is None:
        return None
    return max(record.expires_at - datetime.now(timezone.utc), timedelta(milliseconds=1))
