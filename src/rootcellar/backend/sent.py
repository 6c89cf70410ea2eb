"""Records tasks when they are sent, in state SENT, so that a task that waits in a queue differs from an unknown id.

The client that sends a task makes its record and puts it into a queue of its process. A thread takes all records that
are there and stores them in one round trip, so a group of 1,000 tasks needs a few round trips, and no sending waits for
the store. In an outage the records wait, up to :data:`MAX_WAITING`, and their arguments up to :data:`MAX_BYTES`. The
store never replaces an existing record by one of these, so it does not matter how late they arrive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery.app.task import Context
from celery.utils.log import get_logger

from rootcellar.backend import lifecycle
from rootcellar.backend.recorder import Recorder
from rootcellar.errors import RootcellarError
from rootcellar.maintenance.service import Service
from rootcellar.records import TaskRecord
from rootcellar.support.backoff import Backoff
from rootcellar.support.forking import PerProcess
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the setting, and the attribute of a task that overrides it
TRACK_SENT = "result_track_sent"
#: the most records of one process that wait for the store; in a longer outage, more tasks are not recorded
MAX_WAITING = 10_000
#: the most bytes of their arguments; records beyond it wait without their arguments
MAX_BYTES = 64 * 2**20
#: the most records that are stored in one call
BATCH = 500
#: seconds between two calls, in which more tasks are sent: a group is stored in few round trips
LINGER_SECONDS = 0.02
#: seconds that a process waits at its end until its records are stored
END_SECONDS = 2.0

#: stores records of tasks that have none; see :class:`~rootcellar.stores.base.RecordsSent`
PutSent = Callable[[Sequence[TaskRecord]], None]


class _Waiting:
    """The records of one process that are not stored yet."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        #: the records by the ids of their tasks, the oldest first
        self.records: dict[str, TaskRecord] = {}
        #: those that are being stored at this moment
        self.under_way: dict[str, TaskRecord] = {}
        #: whether the thread will look again by itself
        self.is_attended = False
        #: whether the last call of the store failed
        self.is_failing = False
        #: how many records were not kept because too many waited
        self.dropped = 0
        #: the bytes of the arguments of all these records
        self.size = 0

    def add(self, record: TaskRecord) -> None:
        """Let a record wait; without its arguments if those of the others are too large."""
        self.remove(record.task_id)
        if self.size + _size(record) > MAX_BYTES:
            record = replace(record, args=None, kwargs=None)
        self.records[record.task_id] = record
        self.size += _size(record)

    def remove(self, task_id: str) -> None:
        """Let a record wait no longer."""
        record = self.records.pop(task_id, None)
        if record is not None:
            self.size -= _size(record)

    def take(self) -> list[TaskRecord]:
        """Return the oldest records, which are now under way."""
        with self.changed:
            ids = list(self.records)[:BATCH]
            self.under_way = {task_id: self.records.pop(task_id) for task_id in ids}
            self.is_attended = bool(ids)
            return list(self.under_way.values())

    def give_back(self) -> None:
        """Let the records that were under way wait again: they were not stored."""
        with self.changed:
            self.records = {**self.under_way, **self.records}
            self.under_way = {}
            self.size = sum(map(_size, self.records.values()))
            self.is_failing = True
            self.changed.notify_all()

    def end(self) -> int:
        """Note that the records that were under way are stored; return how many records were dropped before that."""
        with self.changed:
            self.size -= sum(map(_size, self.under_way.values()))
            self.under_way = {}
            self.is_failing = False
            dropped, self.dropped = self.dropped, 0
            self.changed.notify_all()
            return dropped


def _size(record: TaskRecord) -> int:
    """Return the bytes of a record's arguments."""
    return sum(len(value.body) for value in (record.args, record.kwargs) if value is not None)


class _Writer(Service):
    """Stores the records of a process.

    Args:
        put: stores records of tasks that have none.
        backoff: the pauses between two attempts.
        outage: logs that the store fails, and that it works again.
    """

    name = "sent tasks"
    action = "record sent tasks"

    def __init__(self, put: PutSent, backoff: Backoff, outage: Outage) -> None:
        super().__init__(backoff=backoff, outage=outage)
        self._put = put
        self.waiting = PerProcess(_Waiting)

    def run_once(self) -> int:
        waiting = self.waiting.get()
        records = waiting.take()
        if not records:
            return 0
        try:
            self._put_each(records)
        except BaseException:
            waiting.give_back()
            raise
        if dropped := waiting.end():
            logger.warning("%d sent tasks were not recorded, because too many waited for the store.", dropped)
        return len(records)

    def pause_after(self, done: int) -> float:
        if not done:
            return float("inf")
        return 0.0 if done == BATCH else LINGER_SECONDS

    def _put_each(self, records: Sequence[TaskRecord]) -> None:
        """Store records; if the store refuses one of them, store the others.

        Raises:
            RootcellarError: retryable: the store cannot be reached.
        """
        try:
            self._put(records)
        except RootcellarError as exc:
            if exc.retryable:
                raise
            if len(records) > 1:
                for record in records:
                    self._put_each([record])
            elif records[0].args is not None or records[0].kwargs is not None:
                # the arguments may be too large for the store
                self._put_each([replace(records[0], args=None, kwargs=None)])
            else:
                logger.error("Task %s is not recorded as sent: %s", records[0].task_id, exc)


class SentTasks:
    """Records the tasks that this process sends.

    Args:
        put: stores records of tasks that have none.
        recorder: makes the records.
        backoff: the pauses between two attempts in an outage.
        outage: logs the outage.
        is_on: whether a task without the attribute ``result_track_sent`` is recorded.
        task_named: returns the task of a name, or ``None`` if this process does not know it.
    """

    def __init__(
        self,
        put: PutSent,
        recorder: Recorder,
        backoff: Backoff,
        outage: Outage,
        *,
        is_on: bool,
        task_named: Callable[[str], Any],
    ) -> None:
        self._writer = _Writer(put, backoff, outage)
        self._recorder = recorder
        self._is_on = is_on
        self._task_named = task_named

    def on_sent(self, name: Any, headers: Any, body: Any, routing_key: Any) -> None:
        """Record a task whose message was sent, unless that is not wanted. Does not wait for the store.

        Args:
            name: the task's name.
            headers, body: the headers and the body of the message, before it was serialized.
            routing_key: the routing key of the message.
        """
        task = self._task_named(name) if isinstance(name, str) else None
        if not getattr(task, TRACK_SENT, self._is_on):
            return
        request = _request_of(headers, body, routing_key)
        # a task that is run again is known already, and a task that ignores its result may never get another state
        if request is None or request.retries or lifecycle.ignores_result(request, task):
            return
        try:
            record = self._recorder.sent(request)
        except RootcellarError as exc:
            logger.warning("Task %s is not recorded as sent: %s", request.id, exc)
            return
        self._add(record)

    def _add(self, record: TaskRecord) -> None:
        waiting = self._writer.waiting.get()
        with waiting.changed:
            if len(waiting.records) >= MAX_WAITING:
                waiting.dropped += 1
                return
            waiting.add(record)
            is_attended = waiting.is_attended
        if is_attended:
            return
        try:
            self._writer.start()
        except RuntimeError as exc:
            # no thread can be started: the next task that is sent tries again
            logger.warning("Sent tasks are recorded later: %s", exc)
        self._writer.wake()

    def waiting(self, task_id: str) -> TaskRecord | None:
        """Return the record of a task that this process has sent and not stored yet."""
        waiting = self._writer.waiting.peek()
        if waiting is None:
            return None
        with waiting.changed:
            return waiting.records.get(task_id) or waiting.under_way.get(task_id)

    def drop(self, task_id: str) -> None:
        """Do not store the record of a task any more, because the task is forgotten. Wait if it is being stored."""
        waiting = self._writer.waiting.peek()
        if waiting is None:
            return
        with waiting.changed:
            waiting.remove(task_id)
            waiting.changed.wait_for(lambda: task_id not in waiting.under_way, END_SECONDS)
            waiting.remove(task_id)

    def flush(self, timeout: float = END_SECONDS) -> bool:
        """Wait until all records are stored; return whether they are. Does not wait in an outage.

        Args:
            timeout: the most seconds to wait.
        """
        waiting = self._writer.waiting.peek()
        if waiting is None:
            return True
        deadline = time.monotonic() + timeout
        self._writer.wake()
        with waiting.changed:
            waiting.changed.wait_for(
                lambda: waiting.is_failing or not (waiting.records or waiting.under_way),
                max(0.0, deadline - time.monotonic()),
            )
            left = len(waiting.records) + len(waiting.under_way)
        if left:
            logger.warning("%d sent tasks are not recorded yet.", left)
        return not left


def _request_of(headers: Any, body: Any, routing_key: Any) -> Context | None:
    """Return the request that a worker will make of a message; ``None`` if it has no id."""
    if isinstance(body, (list, tuple)) and len(body) == 3 and isinstance(headers, Mapping):
        args, kwargs, _ = body
        fields = {**headers, "args": args, "kwargs": kwargs}
    elif isinstance(body, Mapping):
        # protocol 1 has everything in the body, but our own header
        fields = {**(headers if isinstance(headers, Mapping) else {}), **body}
    else:
        return None
    if not fields.get("id"):
        return None
    # the worker's name is not known, and these are not the fields of a record
    return Context({**fields, "delivery_info": {"routing_key": routing_key}, "hostname": None})
