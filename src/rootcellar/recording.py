"""A task's request and outcome into a record, and a record into the dict that Celery's results are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from celery import states

from rootcellar import process
from rootcellar.payloads import ARGS, KWARGS, RESULT, STAMPS, Call, Codec, deserialise, serialise
from rootcellar.records import Payload, TaskRecord
from rootcellar.relations import children_of, other_than
from rootcellar.retention import Retention

#: states whose result is an exception
FAILED = states.EXCEPTION_STATES | {states.REJECTED}
_EMPTY: Mapping[str, Any] = {}


class Recorder:
    """Makes the records of one app's tasks.

    Args:
        codec: encodes the values.
        retention: how long results are kept.
        is_extended: whether arguments are stored.
        task_of: returns the task of a request, ``None`` where it is not known.
    """

    def __init__(self, codec: Codec, retention: Retention, *, is_extended: bool, task_of: Callable[[Any], Any]) -> None:
        self._codec = codec
        self._retention = retention
        self._is_extended = is_extended
        self._task_of = task_of

    def call_of(self, request: Any) -> Call:
        """Return the task and the arguments of a request."""
        if request is None:
            return Call()
        return Call(self._task_of(request), getattr(request, "args", None), getattr(request, "kwargs", None))

    def record(
        self, task_id: str, result: Any, state: str, traceback: Any, request: Any, children: Any = None
    ) -> TaskRecord:
        """Return the record of a task that has come to ``state``.

        Args:
            task_id: the task.
            result: the encodable result.
            state: the new state.
            traceback: the text of a failure's, or ``None``.
            request: the task's request, or ``None``.
            children: the tuples of the results that the task's own subtasks gave.

        Raises:
            NotEncodable: the result cannot be encoded.
        """
        now = datetime.now(timezone.utc)
        call = self.call_of(request)
        fields: dict[str, Any] = {
            "task_id": task_id,
            "state": state,
            "result": self._codec.encode(result, task_id=task_id, field=RESULT, call=call, is_failure=state in FAILED),
            "done_at": now if state in states.READY_STATES else None,
            "expires_at": self._retention.result_expiry(state, now),
        }
        if traceback is not None:
            fields["traceback"] = self._codec.encode_text(str(traceback), task_id=task_id, call=call)
        if children and (others := children_of(task_id, children)):
            fields["children"] = serialise(others, "json")
        if request is not None:
            fields.update(self._told_by(request, task_id, call))
        return TaskRecord(**fields)

    def _told_by(self, request: Any, task_id: str, call: Call) -> dict[str, Any]:
        """Return what the request tells of the call: its name, times and relations; its arguments if extended."""
        fields = {
            "name": getattr(request, "task", None),
            "worker": getattr(request, "hostname", None),
            "queue": (getattr(request, "delivery_info", None) or _EMPTY).get("routing_key"),
            "retries": getattr(request, "retries", None),
            "group_id": getattr(request, "group", None),
            "group_index": getattr(request, "group_index", None),
            "parent_id": other_than(task_id, getattr(request, "parent_id", None)),
            "root_id": getattr(request, "root_id", None),
            "sent_at": process.read_moment(getattr(request, process.SENT_AT, None)),
            "started_at": getattr(request, process.STARTED_AT, None),
        }
        if stamps := getattr(request, "stamps", None):
            names = getattr(request, "stamped_headers", None) or ()
            stamped = {key: stamps[key] for key in names if key in stamps}
            fields["stamps"] = self._codec.encode_loosely(stamped, task_id=task_id, field=STAMPS, call=call)
        if self._is_extended:
            # what came with the message is stored as text where the serializer refuses it: no task fails for that
            for field, value in ((ARGS, call.args), (KWARGS, call.kwargs)):
                if value is not None:
                    # positional ones as a list, as queries and stock readers know them
                    value = list(value) if isinstance(value, tuple) else value
                    fields[field] = self._codec.encode_loosely(value, task_id=task_id, field=field, call=call)
        return fields

    def meta(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as Celery's dict, its exception still plain data.

        Raises:
            PayloadError: a value cannot be read.
        """

        def read(stored: Payload | None, field: str) -> Any:
            return None if stored is None else self._codec.decode(stored, task_id=record.task_id, field=field)

        meta: dict[str, Any] = {
            "task_id": record.task_id,
            "status": record.state,
            "result": read(record.result, RESULT),
            "traceback": self._codec.decode_text(record.traceback, task_id=record.task_id),
            "children": children_of(record.task_id, deserialise(record.children, None)) if record.children else [],
            "date_done": record.done_at,
            "name": record.name,
            "args": read(record.args, ARGS),
            "kwargs": read(record.kwargs, KWARGS),
            "worker": record.worker,
            "retries": record.retries,
            "queue": record.queue,
            "group_id": record.group_id,
            "parent_id": other_than(record.task_id, record.parent_id),
            "root_id": record.root_id,
            "date_sent": record.sent_at,
            "date_started": record.started_at,
        }
        stamps = read(record.stamps, STAMPS)
        if isinstance(stamps, Mapping):
            # beside the fields, as Celery has them; but a stamp that is called as a field does not hide it
            meta = {**stamps, **meta, "stamped_headers": list(stamps)}
        return meta
