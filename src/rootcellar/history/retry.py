"""Sends tasks again: the same call, by name, without importing the application.

No task is sent twice, also if this process is killed and started again. For each task:

1. The new id, which follows from the old one, is stored on the old record, unless this record changed or has one. So
   only one process sends a task, and only once.
2. The message is sent. A failed send is never repeated.
3. A record of the new task is stored in the state SENT, unless its worker has stored one already.

If the process dies between the first step and the third, nobody knows whether the broker has the message. The task then
counts as *unsure* until a record of the new task exists, and is not sent again unless this is asked for.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from rootcellar.errors import AbilityMissing, BrokerRefused
from rootcellar.history.filters import Clock, Filter, sentence
from rootcellar.history.lists import MAX_SIZE, Tasks
from rootcellar.history.repeats import Refusal, Repeat, new_id_of, repeat_of, stamps_of
from rootcellar.payloads import ARGS, KWARGS, STAMPS, Codec
from rootcellar.payloads.stamps import RETRIED_AS, RETRY_COUNT, RETRY_OF, STATES_SENT_WITH
from rootcellar.records import NO_DATE, SENT, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.base import RecordsSent, Replaceable
from rootcellar.stores.search import Searchable

if TYPE_CHECKING:
    from rootcellar.history.sending import Sender

#: how many records are read together
_BATCH = 500
_EXAMPLES = 5
#: for how long a preview reads tasks
PREVIEW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RetryPreview:
    """What a retry would do now.

    Attributes:
        sentence: which tasks were asked for, in English.
        found: how many tasks the filter finds, as far as they were read.
        is_all: whether all were read; if not, there may be more of each.
        sendable: how many of them can be sent again.
        refused: how many cannot, by the reason.
        followed: how many of the sendable ones were followed by other tasks in their workflow, which are not sent.
        succeeded: how many of the sendable ones ended with SUCCESS.
        examples: the first sendable ones.
        unread: how many tasks are left out because a value that the filter asks for cannot be read.
    """

    sentence: str
    found: int
    is_all: bool
    sendable: int
    refused: Mapping[Refusal, int]
    followed: int
    succeeded: int
    examples: Sequence[Repeat]
    unread: int


@dataclass(frozen=True, slots=True)
class Resent:
    """A task that was sent again: its id, the id of the new task, and its name."""

    old_id: str
    new_id: str
    name: str


class Retry:
    """A retry of the tasks that a filter finds. Nothing is sent before :meth:`send`.

    Only tasks that ended before this object was made are meant.

    Args:
        store: the store.
        codec: opens and encodes values.
        query: the filter.
        clock: the present, and the reader's time zone.
        app: an app with the broker; it need not know the tasks.
        queue: the queue to use instead of that of each task.
        limit: the most tasks to send.
        unfinished: whether tasks that have not ended are also sent again, such as those whose worker died.
        send_unsure: whether to send again tasks that an interrupted retry may have sent already. Such a task may run
            twice; its second run has the same id.
        without_headers: whether to send tasks whose headers, priority and exchange are not stored without them. They
            are stored for tasks that failed, were rejected or revoked.

    Attributes:
        refused: how many tasks :meth:`send` has not sent so far, by the reason.

    Raises:
        AbilityMissing: the store cannot record a retry.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        query: Filter,
        clock: Clock,
        app: Any,
        *,
        queue: str | None = None,
        limit: int | None = None,
        unfinished: bool = False,
        send_unsure: bool = False,
        without_headers: bool = False,
    ) -> None:
        replaceable, records_sent = store.ability(Replaceable), store.ability(RecordsSent)
        if replaceable is None or records_sent is None:
            raise AbilityMissing(
                "this store cannot record that a task was sent again",
                where=store.where,
                remedy="keep results in another store",
            )
        self._replaceable: Replaceable = replaceable
        self._records_sent: RecordsSent = records_sent
        self._store = store
        self._codec = codec
        self._query = query
        self._clock = clock
        self._app = app
        self._queue = queue
        self._limit = limit
        self._unfinished = unfinished
        self._send_unsure = send_unsure
        self._without_headers = without_headers
        self._unread = 0
        self._open_chords: dict[str, bool] = {}
        self.refused: Counter[Refusal] = Counter()

    def preview(self, *, seconds: float = PREVIEW_SECONDS) -> RetryPreview:
        """Return what :meth:`send` would do now. This changes nothing.

        Args:
            seconds: for how long tasks are read; at least some are.
        """
        # imported late: it imports the drivers of brokers
        from rootcellar.history.sending import why_not_encodable

        refused: Counter[Refusal] = Counter()
        found = sendable = followed = succeeded = 0
        is_all = True
        examples: list[Repeat] = []
        end = time.monotonic() + seconds
        self._unread = 0
        for record, judged in self._judged():
            if found and time.monotonic() > end:
                is_all = False
                break
            found += 1
            if isinstance(judged, Repeat):
                judged = why_not_encodable(self._app, judged) or judged
            if isinstance(judged, Refusal):
                refused[judged] += 1
                continue
            sendable += 1
            followed += judged.is_followed
            succeeded += record.state == "SUCCESS"
            if len(examples) < _EXAMPLES:
                examples.append(judged)
        return RetryPreview(
            sentence=sentence(self._query, self._clock),
            found=found,
            is_all=is_all,
            sendable=sendable,
            refused=dict(refused),
            followed=followed,
            succeeded=succeeded,
            examples=examples,
            unread=self._unread,
        )

    def send(self, *, per_second: float | None = None, stop: threading.Event | None = None) -> Iterator[Resent]:
        """Send the tasks again, and yield each when it was sent and this was recorded.

        It may be stopped after any task and called again, in this process or another one.

        Args:
            per_second: the most tasks that are sent in a second; ``None`` for no limit.
            stop: when this event is set, nothing more is sent.

        Raises:
            BrokerUnavailable: the broker cannot be reached. If the connection was lost, the last task is unsure.
            StoreError: the store cannot be read or written. The last task may be unsure.
        """
        # imported late: it imports the drivers of brokers
        from rootcellar.history.sending import Sender, why_not_encodable

        pace = _Pace(per_second, stop or threading.Event())
        count = 0
        with Sender(self._app) as sender:
            for record, judged in self._judged():
                if (self._limit is not None and count >= self._limit) or not pace.may_go_on():
                    return
                if isinstance(judged, Repeat):
                    judged = why_not_encodable(self._app, judged) or judged
                refusal = judged if isinstance(judged, Refusal) else self._send(record, judged, sender)
                if refusal is not None:
                    self.refused[refusal] += 1
                    continue
                assert isinstance(judged, Repeat)
                count += 1
                pace.note()
                yield Resent(judged.old_id, judged.new_id, judged.name)

    # -- one task

    def _send(self, record: TaskRecord, repeat: Repeat, sender: Sender) -> Refusal | None:
        """Send one task; return why it was not sent, or ``None``."""
        reserved = self._reserved(record, repeat.new_id)
        if not self._replaceable.replace(record, reserved):
            is_same = self._store.get(record.task_id) == record
            return Refusal.ADOPTED if is_same else Refusal.CHANGED
        try:
            sender.send(repeat)
        except BrokerRefused:
            self._replaceable.replace(reserved, replace(record, stamps=record.stamps or self._no_stamps(record)))
            return Refusal.NO_ROUTE
        self._records_sent.put_sent([self._record_of(record, repeat)])
        return None

    def _reserved(self, record: TaskRecord, new_id: str) -> TaskRecord:
        """Return the record with the new id; with a higher count if it has this id, so that it differs in any case."""
        stamps = stamps_of(record, self._codec)
        assert not isinstance(stamps, Refusal)
        changed = {**stamps, RETRIED_AS: new_id}
        if RETRIED_AS in stamps:
            count = stamps.get(RETRY_COUNT)
            changed[RETRY_COUNT] = (count if isinstance(count, int) else 1) + 1
        payload = self._codec.encode_loosely(changed, task_id=record.task_id, field=STAMPS)
        return replace(record, stamps=payload)

    def _no_stamps(self, record: TaskRecord) -> Any:
        return self._codec.encode_loosely({}, task_id=record.task_id, field=STAMPS)

    def _record_of(self, old: TaskRecord, repeat: Repeat) -> TaskRecord:
        """Return the record of the new task: sent now, and kept for as long as the old one was to be kept."""
        now = datetime.now(timezone.utc)
        expires = None
        if old.expires_at is not None:
            kept_from = old.done_at if old.done_at not in (None, NO_DATE) else old.started_at or old.sent_at
            expires = now + max(old.expires_at - (kept_from or now), timedelta())

        def encoded(value: Any, field: str) -> Any:
            return self._codec.encode_loosely(value, task_id=repeat.new_id, field=field)

        return TaskRecord(
            task_id=repeat.new_id,
            state=SENT,
            name=repeat.name,
            args=encoded(repeat.args, ARGS),
            kwargs=encoded(repeat.kwargs, KWARGS),
            queue=repeat.routing_key,
            root_id=repeat.new_id,
            stamps=encoded({**repeat.stamps, RETRY_OF: repeat.old_id}, STAMPS),
            sent_at=now,
            expires_at=expires,
        )

    # -- choosing

    def _judged(self) -> Iterator[tuple[TaskRecord, Repeat | Refusal]]:
        """Yield each task that the filter finds, as it is stored, and whether it can be sent again."""
        ids = self._ids()
        while batch := [*itertools.islice(ids, _BATCH)]:
            stored = self._store.get_many(batch)
            known = self._store.get_many(map(new_id_of, batch))
            for record in filter(None, map(stored.get, batch)):
                if self._is_meant(record):
                    yield record, self._judge(record, known)

    def _ids(self) -> Iterator[str]:
        """Yield the ids of the tasks that the filter finds."""
        # a store without indexes reads every record for each page
        size = _BATCH if self._store.ability(Searchable) is not None else MAX_SIZE
        after = None
        while True:
            page = Tasks(
                self._store, self._codec, self._query, self._clock, size=size, after=after, with_values=False
            ).page()
            self._unread += page.unread
            yield from (record.task_id for record in page.records)
            after = page.cursor
            if after is None:
                return

    def _is_meant(self, record: TaskRecord) -> bool:
        """Return whether a task ended, or at least began, before this retry was made."""
        moment = record.done_at or record.started_at or record.sent_at
        return moment is None or moment < self._clock.now

    def _judge(self, record: TaskRecord, known: Collection[str]) -> Repeat | Refusal:
        if record.done_at is None and not self._unfinished:
            return Refusal.UNFINISHED
        if new_id_of(record.task_id) in known:
            return Refusal.RETRIED
        stamps = stamps_of(record, self._codec)
        if not isinstance(stamps, Refusal) and RETRIED_AS in stamps and not self._send_unsure:
            return Refusal.UNSURE
        judged = repeat_of(record, self._codec, self._queue)
        if isinstance(judged, Repeat) and record.group_id is not None and self._is_open_chord(record.group_id):
            return Refusal.OPEN_CHORD
        if isinstance(judged, Repeat) and record.state not in STATES_SENT_WITH and not self._without_headers:
            return Refusal.HEADERS_UNKNOWN
        return judged

    def _is_open_chord(self, group_id: str) -> bool:
        """Return whether a group is the header of a chord that is not finished; asked once for each group."""
        is_open = self._open_chords.get(group_id)
        if is_open is None:
            is_open = self._open_chords[group_id] = self._store.get_chord(group_id) is not None
        return is_open


class _Pace:
    """Limits how many tasks are sent in a second."""

    def __init__(self, per_second: float | None, stop: threading.Event) -> None:
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._stop = stop
        self._next = time.monotonic()

    def may_go_on(self) -> bool:
        """Wait until the next task may be sent; return whether it may be."""
        wait = self._next - time.monotonic()
        return not (self._stop.wait(wait) if self._interval and wait > 0 else self._stop.is_set())

    def note(self) -> None:
        """Count a sent task."""
        self._next = max(self._next + self._interval, time.monotonic())
