"""Deletes the records of tasks together with the blobs of their results."""

from __future__ import annotations

from collections.abc import Iterable

from rootcellar.errors import StoreError
from rootcellar.payloads.blobs import BlobSpiller
from rootcellar.stores.base import Store


def forget_tasks(store: Store, spiller: BlobSpiller | None, task_ids: Iterable[str]) -> int:
    """Delete the records of tasks, then the blobs of their results; return how many records there were.

    If a blob cannot be deleted, the blob sweep deletes it later. The blob of a part of a chord that is not finished
    stays: the chord needs it, and the sweep deletes it afterwards.

    Args:
        store: the store of the records.
        spiller: the blob store; ``None`` without one: then blobs are left to the sweep.
        task_ids: the tasks.

    Raises:
        StoreError: the records, or one of the blobs, cannot be deleted. The others are deleted.
    """
    ids = list(task_ids)
    records = store.get_many(ids) if spiller is not None else {}
    count = store.delete(ids)
    failed: StoreError | None = None
    for record in records.values():
        try:
            if spiller is not None:
                spiller.delete(record, store)
        except StoreError as exc:
            failed = failed or exc
    if failed is not None:
        raise failed
    return count
