"""Converts records to Celery's layout for key-value stores, and back: one JSON object for each, also for Celery.

A blob is the JSON object that Celery writes, with more fields. Celery ignores fields that it does not know. The first
one, ``"rootcellar"``, has a *mark* of fixed width, which a script in Redis (``lua/tasks.lua``) reads without parsing
the rest, and the lengths of all that follows, so that payloads are read back byte for byte::

    byte  0  1               16    17        25     30               45
          {  "rootcellar":"1  S    00000000  04097  000000000000000  ,103,2,-,-,-,-"  ,"status":…,"result":42,…}
             SIGN             kind  retries  given  expires_at       lengths          fields, payloads

    kind        S: a SUCCESS; D: done otherwise; P: not done; G: a group; F: a tombstone
    retries     8 digits
    given       5 digits: which of the fields in KEPT the record has, one bit each
    expires_at  15 digits: milliseconds since 1970, 0 for never
    lengths     bytes of the fields, then of each payload: ``-`` for none, followed by ``t`` for typed JSON

A record with a payload that is not plain JSON is an *opaque* blob: its first byte is ``!`` instead of ``{``, and its
payloads are framed (``framing.py``). Celery cannot read it, and so does not mistake it for another value.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from rootcellar.errors import PayloadUnreadable
from rootcellar.records import ENDS, FOREIGN, NO_DATE, TYPED_JSON, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import FAILURES, FieldReader, damaged, number_of, text_of
from rootcellar.stores.framing import frame, unframe_loosely

#: the bytes after the first one of a blob; the mark follows them: kind, retries, given fields, expiry
SIGN = b'"rootcellar":"1'
MARK_WIDTH = 1 + 8 + 5 + 15
_MARK_AT = 1 + len(SIGN)
_LENGTHS_AT = _MARK_AT + MARK_WIDTH + 1
_NEVER = b"0" * 15
_EXPIRY_AT = _MARK_AT + MARK_WIDTH - len(_NEVER)

#: the kinds of a record
SUCCESS, DONE, UNFINISHED, GROUP, FORGOTTEN = "S", "D", "P", "G", "F"
_SIGN_OF_TOMBSTONE = SIGN + FORGOTTEN.encode()

#: attribute of the record -> key in the JSON object
_TEXTS = {
    "name": "name",
    "queue": "queue",
    "worker": "worker",
    "group_id": "group_id",
    "parent_id": "parent_id",
    "root_id": "root_id",
}
_NUMBERS = {"retries": "retries", "group_index": "group_index"}
_DATES = {"sent_at": "date_sent", "started_at": "date_started"}
_PAYLOADS = ("result", "args", "kwargs", "children", "stamps")
#: the number of bytes that are written for a missing payload
_LENGTHS_OF_NONE = {"result": len(b',"result":null'), "children": len(b',"children":[]')}
#: fields that a later state keeps if it does not set them; the position here is the bit in the mark
KEPT = (*_TEXTS, *_NUMBERS, *_DATES, "args", "kwargs", "children", "stamps")
_BITS = {name: 1 << place for place, name in enumerate(KEPT)}
#: the texts of a record, their keys, and the types that they and the numbers have unless they are damaged
_TEXT_NAMES, _TEXT_KEYS = (*_TEXTS, "traceback"), (*_TEXTS.values(), "traceback")
_TEXT_TYPES, _NUMBER_TYPES = frozenset({str, type(None)}), frozenset({int, type(None)})

_LARGEST_RETRIES = 99_999_999
#: follows the length of a payload that is typed JSON
_TYPED = "t"
_JSON = "application/json"
_STATUS = re.compile(rb"status.{1,8}?([A-Z][A-Z_]{2,})", re.DOTALL)
_decoder = json.JSONDecoder()
#: a value in a JSON object, and the positions of its first character and after its last one
_Found = tuple[Any, int, int]


def encode_task(record: TaskRecord) -> bytes:
    """Return the blob of a task."""
    given = 0
    fields = [f'"status":{quoted(record.state)},"task_id":{quoted(record.task_id)}']
    # written out, not a loop: every result takes this path
    if (text := record.name) is not None:
        given |= _BITS["name"]
        fields.append(f'"name":{quoted(text)}')
    if (text := record.queue) is not None:
        given |= _BITS["queue"]
        fields.append(f'"queue":{quoted(text)}')
    if (text := record.worker) is not None:
        given |= _BITS["worker"]
        fields.append(f'"worker":{quoted(text)}')
    if (text := record.group_id) is not None:
        given |= _BITS["group_id"]
        fields.append(f'"group_id":{quoted(text)}')
    if (text := record.parent_id) is not None:
        given |= _BITS["parent_id"]
        fields.append(f'"parent_id":{quoted(text)}')
    if (text := record.root_id) is not None:
        given |= _BITS["root_id"]
        fields.append(f'"root_id":{quoted(text)}')
    if (number := record.retries) is not None:
        given |= _BITS["retries"]
        fields.append(f'"retries":{number}')
    if (number := record.group_index) is not None:
        given |= _BITS["group_index"]
        fields.append(f'"group_index":{number}')
    if (date := record.sent_at) is not None:
        given |= _BITS["sent_at"]
        fields.append(f'"date_sent":"{date.isoformat()}"')
    if (date := record.started_at) is not None:
        given |= _BITS["started_at"]
        fields.append(f'"date_started":"{date.isoformat()}"')
    done = "null" if record.done_at is None else f'"{record.done_at.isoformat()}"'
    traceback = "null" if record.traceback is None else quoted(record.traceback)
    fields.append(f'"date_done":{done},"traceback":{traceback}')
    if record.expires_at is not None:
        fields.append(f'"expires_at":"{record.expires_at.isoformat()}"')
    if record.failure_group is not None:
        fields.append(f'"failure_group":{record.failure_group}')

    payloads = (record.result, record.args, record.kwargs, record.children, record.stamps)
    if record.args is not None:
        given |= _BITS["args"]
    if record.kwargs is not None:
        given |= _BITS["kwargs"]
    if record.children is not None or record.done_at is not None:
        given |= _BITS["children"]
    if record.stamps is not None:
        given |= _BITS["stamps"]
        if shown := _stamps_in_celerys_form(record.stamps):
            fields.append(shown)
    kind = SUCCESS if record.state == "SUCCESS" else UNFINISHED if record.done_at is None else DONE
    retries = min(max(record.retries or 0, 0), _LARGEST_RETRIES)
    mark = f"{kind}{retries:08}{given:05}{_milliseconds(record.expires_at):015}"
    return _blob(mark, ",".join(fields), _PAYLOADS, payloads)


def decode_task(task_id: str, blob: bytes, expires_at: datetime | None = None) -> TaskRecord:
    """Return the record of a blob that rootcellar or Celery wrote.

    Any other blob becomes a record with the content type FOREIGN; decoding its result raises an error.

    Args:
        task_id: the task.
        blob: its blob.
        expires_at: when it expires, if the blob does not say that.
    """
    try:
        if blob.startswith(SIGN, 1):
            return _own_task(task_id, blob, expires_at)
        return _celery_task(task_id, blob, expires_at)
    except FAILURES:
        return _foreign_task(task_id, blob, expires_at)


def has_expiry(blob: bytes) -> bool:
    """Return whether a blob says when it expires. One that Celery wrote never does."""
    return blob.startswith(SIGN, 1) and blob[_EXPIRY_AT : _EXPIRY_AT + len(_NEVER)] != _NEVER


def _own_task(task_id: str, blob: bytes, default_expiry: datetime | None) -> TaskRecord:
    fields, payloads = _read(blob, _PAYLOADS)
    reader = FieldReader()
    field = fields.get
    state = reader.state(field("status"))
    done_at = reader.done_at(field("date_done"), _date)
    retries, group_index = field("retries"), field("group_index")
    texts = [*map(field, _TEXT_KEYS)]
    # one test of all: every result that is read takes this path, and nearly none has a damaged field
    if not (_TEXT_TYPES.issuperset(map(type, texts)) and _NUMBER_TYPES.issuperset((type(retries), type(group_index)))):
        texts = [reader.text(name, text) for name, text in zip(_TEXT_NAMES, texts, strict=True)]
        retries, group_index = reader.number("retries", retries), reader.number("group_index", group_index)
    name, queue, worker, group_id, parent_id, root_id, traceback = texts
    expires_at, sent_at, started_at = field("expires_at"), field("date_sent"), field("date_started")
    failure_group = field("failure_group")
    return TaskRecord(
        task_id=task_id,
        state=state,
        traceback=traceback,
        done_at=done_at,
        expires_at=default_expiry if expires_at is None else reader.moment("expires_at", expires_at, _date),
        sent_at=None if sent_at is None else reader.moment("sent_at", sent_at, _date),
        started_at=None if started_at is None else reader.moment("started_at", started_at, _date),
        failure_group=None if failure_group is None else reader.failure_group(failure_group),
        retries=retries,
        group_index=group_index,
        name=name,
        queue=queue,
        worker=worker,
        group_id=group_id,
        parent_id=parent_id,
        root_id=root_id,
        **payloads,
        damage=tuple(reader.damage),
    )


def encode_forgotten(task_id: str) -> bytes:
    """Return the tombstone of a task; Celery reads it as a task that is PENDING."""
    fields = f'"status":"PENDING","task_id":{quoted(task_id)},"date_done":null,"traceback":null'
    return _blob(f"{FORGOTTEN}{0:08}{0:05}{0:015}", fields, _PAYLOADS, (None,) * len(_PAYLOADS))


def is_forgotten(blob: bytes) -> bool:
    """Return whether a blob is a tombstone."""
    return blob.startswith(_SIGN_OF_TOMBSTONE, 1)


def encode_group(group: GroupRecord) -> bytes:
    """Return the blob of a saved group."""
    fields = f'"date_done":"{group.done_at.isoformat()}"'
    if group.expires_at is not None:
        fields += f',"expires_at":"{group.expires_at.isoformat()}"'
    mark = f"{GROUP}{0:08}{0:05}{_milliseconds(group.expires_at):015}"
    return _blob(mark, fields, ("result",), (group.result,))


def decode_group(group_id: str, blob: bytes) -> GroupRecord:
    """Return the group of a blob that rootcellar or Celery wrote.

    Raises:
        PayloadUnreadable: it is another blob.
    """
    try:
        if blob.startswith(SIGN, 1):
            fields, payloads = _read(blob, ("result",))
            reader = FieldReader()
            return GroupRecord(
                group_id=group_id,
                result=payloads["result"] or Payload(b"null"),
                done_at=reader.moment("done_at", fields.get("date_done"), _date) or NO_DATE,
                expires_at=reader.moment("expires_at", fields.get("expires_at"), _date),
            )
        text = blob.decode()
        _, start, end = _values(text)["result"]
    except FAILURES:
        raise PayloadUnreadable(
            f"group {group_id} was saved in a form that is not JSON",
            remedy="read it with the serializer that it was saved with",
        ) from None
    # Celery does not store when the group was saved
    return GroupRecord(group_id=group_id, result=Payload(text[start:end].encode()), done_at=NO_DATE)


def merged(earlier: TaskRecord, later: TaskRecord) -> TaskRecord:
    """Return ``later``, with the fields that it does not set taken from ``earlier``."""
    values = {name: getattr(later, name) for name in TaskRecord.__slots__}
    missing = [name for name in KEPT if values[name] is None]
    if later.done_at is not None and "children" in missing:
        # the children of an earlier run are not those of the run that ended
        missing.remove("children")
    values.update({name: getattr(earlier, name) for name in missing})
    return TaskRecord(**values)


def _blob(mark: str, fields: str, names: tuple[str, ...], payloads: tuple[Payload | None, ...]) -> bytes:
    is_plain = True
    for payload in payloads:
        if payload is not None and not _is_plain(payload):
            is_plain = False
    body: list[bytes] = []
    sizes: list[str] = []
    for name, payload in zip(names, payloads, strict=True):
        if payload is None:
            sizes.append("-")
            # Celery requires these fields
            if name == "result":
                body.append(b',"result":null')
            elif name == "children":
                body.append(b',"children":[]')
            continue
        data = payload.body if is_plain else frame(payload)
        is_typed = is_plain and payload.content_type == TYPED_JSON
        sizes.append(f"{len(data)}{_TYPED if is_typed else ''}")
        body += (b',"', name.encode(), b'":', data)
    encoded = fields.encode()
    lengths = f"{len(encoded)},{','.join(sizes)}"
    head = b"{" if is_plain else b"!"
    return b"".join((head, SIGN, mark.encode(), b",", lengths.encode(), b'",', encoded, *body, b"}"))


def _read(blob: bytes, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Payload | None]]:
    """Return the fields and the payloads of a blob of rootcellar."""
    lengths_end = blob.index(b'"', _LENGTHS_AT)
    fields_length, *sizes = blob[_LENGTHS_AT:lengths_end].decode().split(",")
    at = lengths_end + 2
    end = at + int(fields_length)
    text = f"{{{blob[at:end].decode()}}}"
    fields, length = _decoder.raw_decode(text)
    if length != len(text):
        raise ValueError("the fields are not one JSON object")
    is_plain = blob.startswith(b"{")
    payloads: dict[str, Payload | None] = {}
    for name, size in zip(names, sizes, strict=True):
        if size == "-":
            payloads[name] = None
            end += _LENGTHS_OF_NONE.get(name, 0)
            continue
        start = end + len(name) + 4
        is_typed = size.endswith(_TYPED)
        length = int(size.rstrip(_TYPED) if is_typed else size)
        end = start + length
        data = blob[start:end]
        if len(data) != length:
            raise ValueError("the blob ends too early")
        payloads[name] = Payload(data, TYPED_JSON if is_typed else _JSON) if is_plain else unframe_loosely(data)
    return fields, payloads


def _is_plain(payload: Payload) -> bool:
    return (
        payload.content_type in (_JSON, TYPED_JSON)
        and payload.content_encoding == "utf-8"
        and not payload.compression
        and not payload.key_id
    )


def _stamps_in_celerys_form(payload: Payload) -> str:
    """Return the stamps as fields of the JSON object, without those that have the name of another field."""
    try:
        stamps = json.loads(payload.body) if _is_plain(payload) else None
    except (ValueError, RecursionError):
        return ""
    if not isinstance(stamps, dict):
        return ""
    own = {"status", "task_id", "traceback", "date_done", "expires_at", "rootcellar", "stamped_headers", *_PAYLOADS}
    own |= {"failure_group", *_TEXTS.values(), *_NUMBERS.values(), *_DATES.values()}
    shown = {key: value for key, value in stamps.items() if key not in own}
    return json.dumps({"stamped_headers": list(stamps), **shown})[1:-1]


# -- blobs that Celery wrote


def _celery_task(task_id: str, blob: bytes, expires_at: datetime | None) -> TaskRecord:
    text = blob.decode()
    found = _values(text)
    values = {key: value for key, (value, _, _) in found.items()}
    field = values.get
    reader = FieldReader()
    state = reader.state(values["status"])
    retries, stamped, traceback = field("retries"), field("stamped_headers"), field("traceback")
    done_at = reader.moment("done_at", _marked_date(field("date_done")), _date)
    texts: dict[str, Any] = {name: text_of(values[key]) for name, key in _TEXTS.items() if key in values}
    children = _payload(text, found.get("children"))
    if children is not None and children.body == b"[]":
        children = None
    stamps = None
    if isinstance(stamped, list):
        names = [name for name in stamped if isinstance(name, str)]
        stamps = Payload(json.dumps({name: field(name) for name in names}).encode())
    return TaskRecord(
        task_id=task_id,
        state=state,
        result=_payload(text, found.get("result")) or Payload(b"null"),
        traceback=None if traceback is None else str(traceback),
        done_at=done_at or (NO_DATE if state in ENDS else None),
        retries=None if retries is None else number_of(retries),
        args=_payload(text, found.get("args")),
        kwargs=_payload(text, found.get("kwargs")),
        children=children,
        stamps=stamps,
        expires_at=expires_at,
        **texts,
        damage=tuple(reader.damage),
    )


def _foreign_task(task_id: str, blob: bytes, expires_at: datetime | None) -> TaskRecord:
    """Return the record of an unreadable blob. It counts as ended, so that no client waits, unless it shows a state."""
    shown = _STATUS.search(blob[:256])
    state = shown[1].decode() if shown else "FAILURE"
    is_done = state in ENDS or state in ("REJECTED", "IGNORED")
    result = damaged(blob) if blob.startswith(SIGN, 1) else Payload(blob, FOREIGN, "binary")
    done_at = NO_DATE if is_done else None
    return TaskRecord(task_id=task_id, state=state, result=result, done_at=done_at, expires_at=expires_at)


def _values(text: str) -> dict[str, _Found]:
    """Return the values in a JSON object with their positions, so that they can be copied byte for byte."""
    decode = _decoder.raw_decode
    found: dict[str, _Found] = {}
    at = _skip_spaces(text, 0)
    if text[at] != "{":
        raise ValueError("no object")
    at = _skip_spaces(text, at + 1)
    while text[at] != "}":
        key, at = decode(text, at)
        if text[at] != ":":
            at = _skip_spaces(text, at)
            if text[at] != ":":
                raise ValueError("no colon")
        start = _skip_spaces(text, at + 1)
        value, at = decode(text, start)
        found[key] = value, start, at
        at = _skip_spaces(text, at)
        if text[at] == ",":
            at = _skip_spaces(text, at + 1)
    return found


def _skip_spaces(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _payload(text: str, found: _Found | None) -> Payload | None:
    if found is None or found[0] is None:
        return None
    _, start, end = found
    return Payload(text[start:end].encode())


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else max(1, int(moment.timestamp() * 1000))


def _date(value: Any) -> datetime:
    if type(value) is str and value[-1:] != "Z":
        return datetime.fromisoformat(value)
    # Python 3.10 does not know the Z
    return datetime.fromisoformat(str(value).replace("Z", "+00:00"))


def _marked_date(value: Any) -> Any:
    # kombu wraps a datetime that was not converted to text before
    return value.get("__value__") if isinstance(value, dict) else value
