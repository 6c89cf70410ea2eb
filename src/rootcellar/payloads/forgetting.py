"""Deletes the records of tasks together with the blobs of their results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rootcellar.errors import ResultHeld, StoreError
from rootcellar.payloads.blobs import BlobSpiller
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Removed


class Keeper(Protocol):
    """Deletes records, except those that a hold keeps, such as :class:`rootcellar.history.holds.Holds`."""

    def delete(self, task_ids: Iterable[str]) -> Removed:
        """Delete the records of these tasks, except those that are held."""

    def refusal(self, removed: Removed) -> ResultHeld:
        """Return the error for records that were not deleted."""


def forget_tasks(
    store: Store, spiller: BlobSpiller | None, task_ids: Iterable[str], keeper: Keeper | None = None
) -> int:
    """Delete the records of tasks, then the blobs of their results; return how many records there were.

    If a blob cannot be deleted, the blob sweep deletes it later. The blob of a part of a chord that is not finished
    stays: the chord needs it, and the sweep deletes it afterwards.

    Args:
        store: the store of the records.
        spiller: the blob store; ``None`` without one: then blobs are left to the sweep.
        task_ids: the tasks.
        keeper: deletes the records that are not held; ``None`` for records that cannot be held, such as those of a
            test.

    Raises:
        ResultHeld: some of the tasks are held. The others are deleted.
        StoreError: the records, or one of the blobs, cannot be deleted. The others are deleted.
    """
    ids = list(task_ids)
    records = store.get_many(ids) if spiller is not None else {}
    removed = Removed(store.delete(ids)) if keeper is None else keeper.delete(ids)
    failed: StoreError | None = None
    for record in records.values():
        try:
            if spiller is not None and record.task_id not in removed.kept:
                spiller.delete(record, store)
        except StoreError as exc:
            failed = failed or exc
    if failed is not None:
        raise failed
    if removed.kept and keeper is not None:
        raise keeper.refusal(removed)
    return removed.count
