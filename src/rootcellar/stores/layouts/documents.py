"""Converts records to MongoDB documents in Celery's own layout, and back. Uses plain dicts and no driver.

Celery's fields have the values that its own backend writes, so that Celery can read our results: ``result`` is the
encoded text (bytes for a binary serializer); ``children``, ``args`` and ``kwargs`` are plain values. BSON stores
milliseconds only, and neither large integers nor the exact text of JSON. So the subdocument ``rootcellar`` has the
exact form of these values. A document without this subdocument is Celery's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.errors import PayloadUnreadable
from rootcellar.records import ENDS, NO_DATE, TYPED_JSON, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import EARLIEST, FAILURES, LATEST, FieldReader, clamped
from rootcellar.stores.framing import frame, unframe_loosely

#: the subdocument of rootcellar
OURS = "rootcellar"

#: the most ids in one command
MAX_IDS = 2_000

#: the prefix of a payload that Celery compressed
COMPRESSED = b"\x00celery-compressed\x00"
PICKLE = "application/x-python-serialize"
#: an empty list of children, pickled with any protocol
_PICKLED_EMPTY = (
    b"\x80\x02]q\x00.",
    b"\x80\x03]q\x00.",
    b"\x80\x04].",
    b"\x80\x05].",
    b"\x80\x04]\x94.",
    b"\x80\x05]\x94.",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TEXTS = {"name": "name", "queue": "queue", "worker": "worker", "group_id": "group_id"} | {
    "parent_id": "parent_id",
    "root_id": "root_id",
}
_NUMBERS = ("retries", "group_index")
_DATES = {"date_sent": "sent_at", "date_started": "started_at"}
_DESCRIBED = ("content_type", "content_encoding", "compression", "key_id")
_STATE_DATES = {"date_done": "done_at", "expires_at": "expires_at"}
_VALUES = ("args", "kwargs", "children")
#: the most characters of a value in a filter
_LARGEST_IN_FILTER = 1 << 20
#: values that nest deeper are shown as text, because servers refuse documents that nest deeper than 100
_DEEPEST = 50


def task_update(record: TaskRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that a state sets, by dotted path, and the additional fields of a new document."""
    result, described = _result(record.result)
    update: dict[str, Any] = {
        "status": storable(record.state),
        "result": result,
        "traceback": storable(record.traceback),
        "failure_group": record.failure_group,
        f"{OURS}.result": described,
    }
    for field, name in _STATE_DATES.items():
        update |= _date(field, getattr(record, name))
    for field, name in _TEXTS.items():
        if (text := getattr(record, name)) is not None:
            update[field] = storable(text)
    for name in _NUMBERS:
        if (number := getattr(record, name)) is not None:
            update[name] = number
    for field, name in _DATES.items():
        if (when := getattr(record, name)) is not None:
            update |= _date(field, when)
    for name in _VALUES:
        if (payload := getattr(record, name)) is not None:
            update[name], update[f"{OURS}.{name}"] = _plain(payload), frame(payload)
    if record.children is None and record.done_at is not None:
        # the children of an earlier run are not those of the run that ended
        update["children"], update[f"{OURS}.children"] = [], None
    if record.stamps is not None:
        update[f"{OURS}.stamps"] = frame(record.stamps)
    # Celery reads this field without a check that it exists
    return update, {} if "children" in update else {"children": []}


def whole_update(record: TaskRecord) -> dict[str, Any]:
    """Return the update with which no field of an earlier record stays, but the notes of a chord's parts."""
    update, on_insert = task_update(record)
    update |= on_insert
    unset = [field for field, name in {**_TEXTS, **_DATES}.items() if getattr(record, name) is None]
    unset += [f"{OURS}.{field}" for field, name in _DATES.items() if getattr(record, name) is None]
    unset += [name for name in _NUMBERS if getattr(record, name) is None]
    unset += [
        field for name in ("args", "kwargs") if getattr(record, name) is None for field in (name, f"{OURS}.{name}")
    ]
    unset += [f"{OURS}.{name}" for name in ("children", "stamps") if f"{OURS}.{name}" not in update]
    return {"$set": update, **({"$unset": dict.fromkeys(unset, "")} if unset else {})}


def insertion(record: TaskRecord) -> dict[str, Any]:
    """Return the update that stores a record only if there is no document."""
    update, on_insert = task_update(record)
    return {"$setOnInsert": {**update, **on_insert}}


def same_result(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter for a document that still has this state and result."""
    found = document.get(OURS)
    ours: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    same = {name: document.get(name) for name in ("_id", "status", "traceback", "date_done", "result")}
    if isinstance(found, Mapping) or found is None:
        same |= {f"{OURS}.{name}": ours.get(name) for name in ("date_done", "result")}
    return _without_large(same)


def same_written(record: TaskRecord) -> dict[str, Any]:
    """Return the filter for a document that still has the state and result that were just written."""
    update, _ = task_update(record)
    names = ("status", "traceback", "date_done", "result", f"{OURS}.date_done", f"{OURS}.result")
    return _without_large({"_id": record.task_id, **{name: update[name] for name in names}})


def _without_large(same: dict[str, Any]) -> dict[str, Any]:
    """Return a filter without values that are too large for one: a filter has at most 16 MB."""
    return {
        name: value
        for name, value in same.items()
        if not isinstance(value, (str, bytes)) or len(value) <= _LARGEST_IN_FILTER
    }


def task_record(document: Mapping[str, Any]) -> TaskRecord:
    """Return the record of a document that rootcellar or Celery wrote. Its fields may be damaged."""
    ours = document.get(OURS)
    if not isinstance(ours, Mapping):
        return _celerys_task(document)
    reader = FieldReader()
    state = reader.state(document.get("status"))
    fields: dict[str, Any] = {name: reader.text(name, document.get(field)) for field, name in _TEXTS.items()}
    fields |= {name: reader.number(name, document.get(name)) for name in _NUMBERS}
    fields |= {name: reader.moment(name, ours.get(field), _moment) for field, name in _DATES.items()}
    fields |= {name: unframe_loosely(ours[name]) if ours.get(name) else None for name in (*_VALUES, "stamps")}
    stored, described = document.get("result"), ours.get("result")
    return TaskRecord(
        task_id=document["_id"],
        state=state,
        result=reader.payload(stored, lambda: _read_result(stored, described)),
        traceback=reader.text("traceback", document.get("traceback")),
        done_at=reader.done_at(ours.get("date_done"), _moment),
        expires_at=reader.moment("expires_at", ours.get("expires_at"), _moment),
        failure_group=reader.failure_group(document.get("failure_group")),
        **fields,
        damage=tuple(reader.damage),
    )


def replacement(document: Mapping[str, Any], new: TaskRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the filter for a document that has not changed since it was read, and the update to ``new``."""
    update, _ = task_update(new)
    found = document.get(OURS)
    ours: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    names = ("result", "args", "kwargs", "stamps")
    same = {name: document.get(name) for name in ("_id", "status", "result", "traceback")}
    if not ours:
        # a document of Celery, or one whose subdocument is damaged, becomes one of rootcellar
        prefix = f"{OURS}."
        own = {name.removeprefix(prefix): value for name, value in update.items() if name.startswith(prefix)}
        plain = {name: value for name, value in update.items() if not name.startswith(prefix)}
        return same | {OURS: found}, {**plain, OURS: own}
    same |= {f"{OURS}.{name}": ours.get(name) for name in names}
    changed = {"traceback", *names, *(f"{OURS}.{name}" for name in names)}
    return same, {name: value for name, value in update.items() if name in changed}


def group_document(group: GroupRecord) -> dict[str, Any]:
    """Return a group's document, in which Celery finds the ids of the members."""
    ours: dict[str, Any] = {"result": frame(group.result)}
    document: dict[str, Any] = {"_id": group.group_id, "result": json.dumps(_member_ids(group.result))}
    for field, name in _STATE_DATES.items():
        dates = _date(field, getattr(group, name))
        document[field], ours[field] = dates[field], dates[f"{OURS}.{field}"]
    return {**document, OURS: ours}


def group_record(document: Mapping[str, Any]) -> GroupRecord:
    """Return the record of a document that rootcellar or Celery wrote.

    Raises:
        PayloadUnreadable: Celery wrote it with a serializer that is not JSON.
    """
    group_id, ours = document["_id"], document.get(OURS)
    reader = FieldReader()
    if isinstance(ours, Mapping):
        return GroupRecord(
            group_id=group_id,
            result=unframe_loosely(ours.get("result")),
            done_at=reader.moment("done_at", ours.get("date_done"), _moment) or NO_DATE,
            expires_at=reader.moment("expires_at", ours.get("expires_at"), _moment),
        )
    try:
        ids = [id_text for id_text in json.loads(document["result"]) if isinstance(id_text, str)]
    except FAILURES as exc:
        raise PayloadUnreadable(
            f"the group {group_id} was saved by Celery with another serializer than JSON",
            remedy="read it with Celery's own backend, or save it again",
        ) from exc
    members = [[[task_id, None], None] for task_id in ids]
    return GroupRecord(
        group_id=group_id,
        result=Payload(json.dumps([[group_id, None], members]).encode()),
        done_at=reader.moment("done_at", document.get("date_done")) or NO_DATE,
    )


def storable(text: str | None) -> str | None:
    """Return a text with lone surrogates as escapes, so that BSON can store it."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def findable(ids: Iterable[str]) -> list[str]:
    """Return each of these ids once, without those that BSON cannot store, which no document has."""
    return [text for text in dict.fromkeys(ids) if storable(text) == text]


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut ids into pieces that each fit into one command."""
    for start in range(0, len(ids), MAX_IDS):
        yield ids[start : start + MAX_IDS]


def microseconds(when: datetime) -> int:
    """Return the microseconds since 1970."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def moment(since_1970: Any) -> datetime | None:
    """Return the moment that :func:`microseconds` wrote; ``None`` for anything else."""
    return FieldReader().moment("", since_1970, _moment)


def _moment(since_1970: int) -> datetime:
    return _EPOCH + timedelta(microseconds=min(max(since_1970, microseconds(EARLIEST)), microseconds(LATEST)))


def _result(payload: Payload | None) -> tuple[str | bytes | None, dict[str, str] | None]:
    """Return a result for Celery's field, and its description: ``None`` if it is plain JSON."""
    if payload is None:
        return None, None
    body: str | bytes = payload.body
    if payload.compression and not payload.key_id:
        body = COMPRESSED + payload.compression.encode() + b"\x00" + payload.body
    elif not payload.key_id and payload.content_encoding == "utf-8":
        body = _text(payload.body)
    described = {name: getattr(payload, name) for name in _DESCRIBED}
    is_plain = isinstance(body, str) and payload.content_type == "application/json"
    return body, None if is_plain else described


def _text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _read_result(stored: Any, described: Mapping[str, str] | None) -> Payload | None:
    if stored is None:
        return None
    if not isinstance(stored, (str, bytes)):
        raise TypeError("neither text nor bytes")
    body = stored.encode() if isinstance(stored, str) else bytes(stored)
    if described is None:
        return Payload(body)
    content_type, content_encoding, compression, key_id = (described[name] for name in _DESCRIBED)
    if not all(isinstance(text, str) for text in (content_type, content_encoding, compression, key_id)):
        raise TypeError("no description")
    if compression and not key_id:
        body = body.removeprefix(COMPRESSED).partition(b"\x00")[2]
    return Payload(body, content_type, content_encoding, compression, key_id)


def _celerys_task(document: Mapping[str, Any]) -> TaskRecord:
    """Return the record of a document that Celery's own backend wrote, of any version since 4.0."""
    reader = FieldReader()
    state = reader.state(document.get("status"))
    done_at = reader.done_at(document.get("date_done")) or (NO_DATE if state in ENDS else None)
    names = document.get("stamped_headers")
    stamps = {name: document.get(name) for name in names if isinstance(name, str)} if isinstance(names, list) else None
    texts: dict[str, Any] = {name: reader.text(name, document.get(field)) for field, name in _TEXTS.items()}
    return TaskRecord(
        task_id=document["_id"],
        state=state,
        result=_loosely(document.get("result"), _celerys_result),
        traceback=_celerys_traceback(document.get("traceback"), reader),
        args=_loosely(document.get("args")),
        kwargs=_loosely(document.get("kwargs")),
        children=_celerys_children(document.get("children")),
        stamps=_loosely(stamps or None),
        retries=reader.number("retries", document.get("retries")),
        done_at=done_at,
        **texts,
        damage=tuple(reader.damage),
    )


def _celerys_traceback(stored: Any, reader: FieldReader) -> str | None:
    """Return a traceback: Celery before 4.3 encoded it, as a text in JSON or, if there is none, as a null."""
    if isinstance(stored, bytes):
        return None if _is_pickled_none(stored) else reader.text("traceback", stored)
    if isinstance(stored, str) and (stored == "null" or (stored[:1] == stored[-1:] == '"')):
        try:
            return reader.text("traceback", json.loads(stored))
        except ValueError:
            return stored
    return reader.text("traceback", stored)


def _celerys_children(stored: Any) -> Payload | None:
    """Return the children: Celery before 4.3 encoded them, by the serializer of its results."""
    if isinstance(stored, (str, bytes)):
        payload = _loosely(stored, _celerys_result)
        return None if payload is None or payload.body in (b"[]", b"null", *_PICKLED_EMPTY) else payload
    return _loosely(stored or None)


def _is_pickled_none(stored: bytes) -> bool:
    return len(stored) == 4 and stored[:1] == b"\x80" and stored.endswith(b"N.")


def _celerys_result(stored: Any) -> Payload | None:
    """Return the payload of a result. Its first bytes show the content type, because Celery does not store it."""
    if stored is None:
        return None
    if isinstance(stored, str):
        return Payload(stored.encode())
    if not isinstance(stored, bytes):
        # the serializer "bson" leaves values as they are
        return _json_payload(stored)
    if stored.startswith(COMPRESSED):
        compression, _, body = stored[len(COMPRESSED) :].partition(b"\x00")
        return Payload(body, compression=compression.decode())
    if stored[:1] == b"\x80" and stored[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and stored.endswith(b"."):
        return Payload(stored, PICKLE, "binary")
    return Payload(stored, "application/x-msgpack", "binary")


def _json_payload(value: Any) -> Payload | None:
    return None if value is None else Payload(json.dumps(value, ensure_ascii=False, default=str).encode())


def _loosely(value: Any, read: Callable[[Any], Payload | None] | None = None) -> Payload | None:
    return FieldReader().payload(value, lambda: (read or _json_payload)(value))


def _plain(payload: Payload) -> Any:
    """Return the value of a payload for people and Celery, or a text if BSON cannot represent it."""
    if payload.content_type not in ("application/json", TYPED_JSON) or payload.compression or payload.key_id:
        return f"<{payload.content_type}, {len(payload.body)} bytes>"
    try:
        value = json.loads(payload.body.decode(payload.content_encoding))
        if _is_bson(value, _DEEPEST):
            return value
    except (LookupError, ValueError, RecursionError):
        pass
    return f"<application/json, {len(payload.body)} bytes>"


def _is_bson(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return storable(value) == value
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, list):
        return depth > 0 and all(_is_bson(item, depth - 1) for item in value)
    if isinstance(value, dict):
        # servers before 5.0 refuse dots and dollars in names
        names_fit = all(storable(key) == key and not set(key) & set(".$\x00") for key in value)
        return depth > 0 and names_fit and all(_is_bson(item, depth - 1) for item in value.values())
    return True


def _member_ids(result: Payload) -> list[Any]:
    """Return the ids in the tuple of a saved group; an empty list if it is not such a tuple."""
    try:
        _, members = json.loads(result.body)
        return [member[0][0] for member in members]
    except (ValueError, TypeError, LookupError, RecursionError):
        return []


def _date(field: str, when: datetime | None) -> dict[str, Any]:
    """Return a date for Celery and the server, in milliseconds, and the exact one for rootcellar."""
    clamped_date = None if when is None else clamped(when)
    return {field: clamped_date, f"{OURS}.{field}": None if clamped_date is None else microseconds(clamped_date)}
