"""What is needed to send a task again, from its record; or the reason why it cannot be sent again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rootcellar.errors import KeyMissing, PayloadError, SealBroken, TypeRefused, UnsealedRefused
from rootcellar.payloads import ARGS, KWARGS, STAMPS, Codec
from rootcellar.payloads.pickles import PICKLE
from rootcellar.payloads.redaction.cards import MASK
from rootcellar.payloads.size_limits import TRUNCATED
from rootcellar.payloads.stamps import CUT, OURS, SENT_WITH
from rootcellar.records import DAMAGED, FOREIGN, Payload, TaskRecord

#: new ids are made of old ones with it
_NEW_IDS = uuid.UUID("5d3c2b0e-64f7-4ad5-9d53-1f6f1c3a7b11")


class Refusal(Enum):
    """Why a task is not sent again. The value completes the sentence "a task is not sent again because …"."""

    UNFINISHED = "it has not ended"
    RETRIED = "it was retried before"
    UNSURE = "a retry of it was interrupted, and it is not known whether the task was sent"
    CHANGED = "it changed at this moment, or another process retries it"
    NO_NAME = "its name is not stored"
    NO_QUEUE = "its queue is not stored"
    NO_ARGUMENTS = "its arguments are not stored"
    MASKED = "its arguments, headers or stamps were masked"
    TRUNCATED = "its arguments were truncated"
    AS_TEXT = "its arguments are stored only as a text, because they could not be encoded"
    PICKLED = "its arguments are pickled"
    SEALED = "its arguments are encrypted or signed, and the key is missing or wrong"
    OWN_TYPES = "its arguments contain types that only the application knows"
    UNREADABLE = "its arguments cannot be read"
    ADOPTED = "it is in a table of Celery's own, in which nothing can be recorded"
    NO_ROUTE = "the broker has no queue for it"
    HEADERS_UNKNOWN = "its headers, priority and exchange are not known; give --without-headers to send without them"
    NOT_PRESERVED = "its arguments contain types that the serializer of messages would change"
    NOT_ENCODABLE = "its arguments cannot be encoded for a message"
    CHORD = "it belongs to a chord, which has failed with it"
    OPEN_CHORD = "it belongs to a chord that waits for it, and its new result would not be counted there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A task that can be sent again.

    Attributes:
        old_id, new_id: its id, and the id of its repetition, which follows from it.
        name, args, kwargs: the call.
        exchange, routing_key: where it is sent; the exchange is empty if the routing key is the name of the queue.
        priority: as it was sent; ``None`` if it had none or none is stored.
        headers, stamps: those of the application.
        is_followed: whether other tasks would follow it in its workflow; they are not sent.
    """

    old_id: str
    new_id: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    exchange: str
    routing_key: str
    priority: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Any] = field(default_factory=dict)
    is_followed: bool = False


def new_id_of(old_id: str) -> str:
    """Return the id of the repetition of a task: always the same one."""
    return str(uuid.uuid5(_NEW_IDS, old_id))


def repeat_of(record: TaskRecord, codec: Codec, queue: str | None = None) -> Repeat | Refusal:
    """Return what is needed to send a task again, or why that is not possible.

    Args:
        record: the record, as it is stored.
        codec: opens its values.
        queue: the queue to use instead of the task's own.
    """
    if not record.name:
        return Refusal.NO_NAME
    if record.args is None and record.kwargs is None:
        return Refusal.NO_ARGUMENTS
    if not record.queue and queue is None:
        return Refusal.NO_QUEUE
    stamps = stamps_of(record, codec)
    if isinstance(stamps, Refusal):
        return stamps
    sent_with = stamps.get(SENT_WITH)
    sent_with = sent_with if isinstance(sent_with, Mapping) else {}
    if sent_with.get("chord"):
        return Refusal.CHORD
    if not {"args", "kwargs"}.isdisjoint(stamps.get(CUT) or ()):
        return Refusal.TRUNCATED
    args, kwargs = _argument(record, ARGS, codec), _argument(record, KWARGS, codec)
    for each in (args, kwargs):
        if isinstance(each, Refusal):
            return each
    headers = sent_with.get("headers") or {}
    own_stamps = {name: value for name, value in stamps.items() if name not in OURS}
    if is_masked([args, kwargs, headers, own_stamps]):
        return Refusal.MASKED
    exchange, priority = sent_with.get("exchange"), sent_with.get("priority")
    return Repeat(
        old_id=record.task_id,
        new_id=new_id_of(record.task_id),
        name=record.name,
        args=list(args or ()),
        kwargs=dict(kwargs or {}),
        exchange=exchange if isinstance(exchange, str) and queue is None else "",
        routing_key=queue or record.queue or "",
        priority=priority if isinstance(priority, int) else None,
        headers=headers if isinstance(headers, Mapping) else {},
        stamps=own_stamps,
        is_followed=bool(sent_with.get("followed")),
    )


def stamps_of(record: TaskRecord, codec: Codec) -> Mapping[str, Any] | Refusal:
    """Return the stamps of a record by name, or why they cannot be read."""
    if record.stamps is None:
        return {}
    found = _value(record.stamps, record.task_id, STAMPS, codec)
    if isinstance(found, Refusal):
        return found
    # stamps that could not be encoded are stored as a text
    return found if isinstance(found, Mapping) else Refusal.UNREADABLE


def is_masked(value: Any) -> bool:
    """Return whether a value contains a text that replaces a secret. Not recursive, because values may be deep."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            if MASK in each:
                return True
        elif isinstance(each, Mapping):
            todo.extend(each)
            todo.extend(each.values())
        elif isinstance(each, (list, tuple, set, frozenset)):
            todo.extend(each)
    return False


def _argument(record: TaskRecord, field: str, codec: Codec) -> Any:
    """Return the arguments in a field, ``None`` if there are none, or a refusal."""
    payload: Payload | None = getattr(record, field)
    if payload is None:
        return None
    value = _value(payload, record.task_id, field, codec)
    if isinstance(value, Refusal) or value is None:
        return value
    if isinstance(value, Mapping) and TRUNCATED in value:
        return Refusal.TRUNCATED
    if isinstance(value, str):
        return Refusal.AS_TEXT
    is_fit = (
        isinstance(value, (list, tuple))
        if field == ARGS
        else isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    )
    return value if is_fit else Refusal.UNREADABLE


def _value(payload: Payload, task_id: str, field: str, codec: Codec) -> Any:
    """Return the value of a payload, or why it cannot be read. No pickle is read, and no class is imported."""
    if payload.content_type in (DAMAGED, FOREIGN):
        return Refusal.PICKLED if payload.content_type == FOREIGN else Refusal.UNREADABLE
    if payload.content_type == PICKLE:
        return Refusal.PICKLED
    try:
        # the sealer is asked first, because only then the content type is certain
        content_type = codec.sealer.open(payload, task_id, field).content_type
        if content_type == PICKLE:
            return Refusal.PICKLED
        return codec.decode(payload, task_id=task_id, field=field, accept={content_type})
    except (KeyMissing, SealBroken, UnsealedRefused):
        return Refusal.SEALED
    except TypeRefused:
        return Refusal.OWN_TYPES
    except PayloadError:
        return Refusal.UNREADABLE
