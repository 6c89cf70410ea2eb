"""What the tests of several folders have in common, beside :mod:`rootcellar.testing.helpers`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.helpers import new_id, wait_until

__all__ = ["PATIENCE", "new_id", "now", "record", "wait_until"]

#: seconds that a test waits for what should come at once
PATIENCE = 20.0
ENDS = ("SUCCESS", "FAILURE", "REVOKED")


def now() -> datetime:
    return datetime.now(timezone.utc)


def record(task_id: str = "", value: Any = 42, state: str = "SUCCESS", **given: Any) -> TaskRecord:
    """Return a record, with a new id unless one is given, of a task that ended now unless its state says otherwise."""
    done_at = now() if state in ENDS else None
    values = {"result": Payload(json.dumps(value).encode()), "done_at": done_at, **given}
    return TaskRecord(task_id=task_id or new_id(), state=state, **values)
