"""The values of records, for a caller that waits."""

from __future__ import annotations

from typing import Any

from celery.states import PROPAGATE_STATES

from rootcellar.records import TaskRecord
from rootcellar.waiting.parents import Readable


def value_of(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    """Return the value of a record; with ``propagate``, raise the exception of a task that failed.

    Raises:
        PayloadError: the value cannot be read.
    """
    value = backend.meta_of(record)["result"]
    if propagate and record.state in PROPAGATE_STATES:
        raise value
    return value


def value_or_failure(backend: Readable, record: TaskRecord, *, propagate: bool) -> Any:
    """Return the value, or for an unreadable record the error, so that it does not end the wait for the others."""
    meta = backend.meta_or_failure(record)
    if propagate and meta["status"] in PROPAGATE_STATES:
        raise meta["result"]
    return meta["result"]
