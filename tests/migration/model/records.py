"""The records of the model: one task, which has a SUCCESS or a FAILURE of one of the writers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from rootcellar.records import Payload, TaskRecord

TASK_ID = "task"
#: when the first writer's task ended
ENDED = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: the time of the stores' clocks
NOW = ENDED + timedelta(hours=1)


def result(text: str) -> TaskRecord:
    """Return the record of ``"Sa"``, the SUCCESS of a, or of ``"Fb"``, the FAILURE of b."""
    state = {"S": "SUCCESS", "F": "FAILURE"}[text[0]]
    ended = ENDED + timedelta(seconds=ord(text[1]) - ord("a"))
    return TaskRecord(task_id=TASK_ID, state=state, result=Payload(text[1].encode()), done_at=ended)


def letter_of(record: TaskRecord | None) -> str | None:
    """Return the text of a record, as for :func:`result`."""
    if record is None:
        return None
    assert record.result is not None
    return record.state[0] + record.result.body.decode()
