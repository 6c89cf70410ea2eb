"""The data that all layers use: records of tasks, groups and chords. Frozen, without behaviour.

All datetimes are aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

#: the prefixes of ``Payload.key_id``
ENCRYPTED, SIGNED = "aes-256-gcm:", "hmac-sha256:"
#: the content type of typed JSON: JSON text with our markers in it
TYPED_JSON = "application/x-rootcellar-json"
#: the content type of a stored payload that cannot be read
DAMAGED = "application/x-rootcellar-damaged"
#: the content type of a task's whole record as Celery stored it with another serializer than JSON
FOREIGN = "application/x-celery-meta"
#: the states in which a task has ended, even if no date is stored: clients in other languages store none
ENDS = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: the state of a task that a client has sent and no worker has started
SENT = "SENT"
#: the date of a task that has ended at an unknown time
NO_DATE = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Payload:
    """An encoded value. ``payloads/`` writes and reads payloads; stores only keep them.

    Attributes:
        body: the encoded bytes.
        content_type: the type of the bytes, in kombu's terms (``application/json``).
        content_encoding: ``utf-8`` for text, ``binary`` otherwise.
        compression: name of the compression of ``body``; empty for none.
        key_id: the algorithm and the id of the key that encrypted or signed ``body``, with a signature after them
            (:data:`ENCRYPTED`, :data:`SIGNED`); empty for none.
    """

    body: bytes
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    compression: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task: its call, its state and result, its times, and its expiry.

    Attributes:
        task_id: the task's id.
        state: a Celery state or a custom one.
        result: the return value, the exception or the meta of a custom state.
        traceback: the text of the traceback of a failure.
        name, args, kwargs, queue, worker, retries: the call; ``args`` and ``kwargs`` only with ``result_extended``.
        children: the results of the task's own subtasks, as Celery's tuples.
        stamps: the stamped headers and their values.
        group_id, group_index: the group that the task belongs to and its place in it.
        parent_id, root_id: the task that sent it, and the first one of the workflow.
        failure_group: the number of the group of similar failures that this failure belongs to, a signed integer of 64
            bits. It belongs to the state: a later state without it removes it.
        sent_at, started_at, done_at: when it was first sent, last started, and finished (:data:`NO_DATE` if it ended at
            an unknown time).
        expires_at: when the record may be deleted; ``None`` for never.
        damage: the names of stored fields that cannot be read; they are ``None`` here. A payload that cannot be read is
            not named: its content type is :data:`DAMAGED`.
    """

    task_id: str
    state: str
    result: Payload | None = None
    traceback: str | None = None
    name: str | None = None
    args: Payload | None = None
    kwargs: Payload | None = None
    queue: str | None = None
    worker: str | None = None
    retries: int | None = None
    children: Payload | None = None
    stamps: Payload | None = None
    group_id: str | None = None
    group_index: int | None = None
    parent_id: str | None = None
    root_id: str | None = None
    failure_group: int | None = None
    sent_at: datetime | None = None
    started_at: datetime | None = None
    done_at: datetime | None = None
    expires_at: datetime | None = None
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadRecord(TaskRecord):
    """Stands for a record that exists and cannot be read, so that only its own readers get the error.

    Attributes:
        error: why it cannot be read.
    """

    error: Exception
    damage: tuple[str, ...] = ("state",)


def was_only_sent(record: TaskRecord) -> bool:
    """Return whether a client has recorded this task as sent, and nothing is known of a worker.

    A task may have a state of this name of its own; then it has started.
    """
    return record.state == SENT and record.started_at is None and record.sent_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """A saved group.

    Attributes:
        group_id: the group's id.
        result: the tuple of ``GroupResult.as_tuple``, encoded.
        done_at: when it was saved (:data:`NO_DATE` if unknown).
        expires_at: when it may be deleted; ``None`` for never.
    """

    group_id: str
    result: Payload
    done_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordRecord:
    """A chord that waits for its header.

    Attributes:
        group_id: id of the header group.
        body: the signature of the body, frozen, encoded.
        header: the header's tuple if it contains groups; ``None`` for a flat header.
        expires_at: when it may be deleted; ``None`` for never.
    """

    group_id: str
    body: Payload | None = None
    header: Payload | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordPart:
    """One finished task of a chord's header.

    Attributes:
        group_id: id of the header group.
        task_id: the finished task.
        group_index: its place in the header; a signature used twice has one task id and two places.
        state: the state that it finished in.
        result: its result, which the chord keeps; ``None`` means the result of the record that is stored with it.
        owner: a fingerprint of the broker to which the body must be sent, because two apps may share a store.
        expires_at: the chord is kept at least until this date; ``None`` leaves the chord's own date unchanged.
        delivery: identifies the run of the task that counts this part. The run that claimed the chord may claim it
            again, because the answer may have been lost; another run of the same task at the same time may not.
    """

    group_id: str
    task_id: str
    group_index: int | None
    state: str
    result: Payload | None = None
    owner: str = ""
    expires_at: datetime | None = None
    delivery: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """The ``state`` and ``result`` of a chord's part, the task at ``group_index`` of the header."""

    task_id: str
    group_index: int | None
    state: str
    result: Payload | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordProgress:
    """The progress of a chord, as read in the transaction that counted a part.

    Attributes:
        size: the number of parts, once known.
        counted: the number of parts counted so far.
        claimed: whether the caller must now call the body.
        finished: whether the body has been called already.
    """

    size: int | None
    counted: int
    claimed: bool
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The answer of :meth:`Store.put`.

    Attributes:
        written: ``False`` if an earlier record had to stay, such as a SUCCESS.
        chord: the chord's progress if a part was counted.
        inserted: whether the task had no record before; ``False`` also if the store does not report it.
    """

    written: bool
    chord: ChordProgress | None = None
    inserted: bool = field(default=False, compare=False)
