"""Writes runs into any store, one ``put`` for each: for small numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.history.postgres import KEPT
from benchmarks.history.runs import Run, at
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import Store

#: after how many rows the progress is reported
_STEP = 1_000


def record_of(run: Run) -> TaskRecord:
    """Return a run as a record."""
    return TaskRecord(
        task_id=run.task_id,
        state=run.state,
        result=_payload(run.result),
        traceback=run.traceback,
        name=run.name,
        args=_payload(run.args),
        kwargs=_payload(run.kwargs),
        queue=run.queue,
        worker=run.worker,
        retries=run.retries,
        children=_payload(run.children),
        group_id=run.group_id,
        group_index=run.group_index,
        parent_id=run.parent_id,
        root_id=run.root_id,
        sent_at=at(run.sent),
        started_at=None if run.started is None else at(run.started),
        done_at=None if run.done is None else at(run.done),
        expires_at=None if run.done is None else at(run.done + KEPT),
        failure_group=run.failure_group,
    )


def write(store: Store, runs: Iterable[Run], progress: Callable[[int], None]) -> int:
    """Write runs; return how many there were.

    Args:
        store: the store.
        runs: the runs.
        progress: called from time to time with the number of rows.
    """
    count = 0
    for count, run in enumerate(runs, 1):
        store.put(record_of(run))
        if count % _STEP == 0:
            progress(count)
    return count


def _payload(text: str | None) -> Payload | None:
    return None if text is None else Payload(text.encode())
