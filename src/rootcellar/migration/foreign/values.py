"""Reads values that another system stored with any of Celery's serializers, and returns them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.payloads import Compressor, content_type_of, deserialise, serialise
from rootcellar.payloads.pickles import PICKLE, Named, read_old_pickle
from rootcellar.payloads.typed import NAME
from rootcellar.records import DAMAGED, ENDS, FOREIGN, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import FieldReader, clamped, number_of

#: the states in which a task has ended: a date that Celery stores with another state is that of the last change
READY = ENDS | {"REJECTED", "IGNORED"}
_JSON, _MSGPACK, _YAML = "application/json", "application/x-msgpack", "application/x-yaml"
_FIELDS = ("result", "args", "kwargs", "children", "stamps")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
#: the first bytes of a map or a list of MessagePack
_COLLECTIONS = frozenset({*range(0x80, 0xA0), *range(0xDC, 0xE0)})
_TEXTS = ("name", "worker", "queue", "group_id", "parent_id")
_compressor = Compressor()


@dataclass(frozen=True, slots=True)
class Values:
    """How values are read.

    Attributes:
        allow_pickle: whether pickles are read, as plain data: no code of theirs is run.
        content_type: the type of values that neither a description nor their first bytes show; ``None`` for JSON.
        has_yaml: whether a text that is not JSON is YAML. It must be false where a value may also be
            bytes: the number 65 in MessagePack is the letter A in YAML.
    """

    allow_pickle: bool = False
    content_type: str | None = None
    has_yaml: bool = False

    def task(self, record: TaskRecord) -> TaskRecord:
        """Return a record with its values as JSON. A value that cannot be read keeps the type FOREIGN."""
        changed: dict[str, Any] = {}
        for name in _FIELDS:
            payload = getattr(record, name)
            if payload is None:
                continue
            read = self.payload(payload, is_error=_is_error(name, record), has_tuples=name == "children")
            if read is not payload:
                changed[name] = read
        return replace(record, **changed) if changed else record

    def group(self, group: GroupRecord) -> GroupRecord:
        """Return a saved group with its result as JSON."""
        return replace(group, result=self.payload(group.result, has_tuples=True))

    def payload(self, payload: Payload, *, is_error: bool = False, has_tuples: bool = False) -> Payload:
        """Return a value as JSON.

        Args:
            payload: the value.
            is_error: whether the value may be an exception, which becomes Celery's description of it.
            has_tuples: whether the value is made of Celery's tuples of results, which become lists.
        """
        if payload.content_type in (DAMAGED, FOREIGN):
            return payload
        try:
            plain = _compressor.decompress(payload) if payload.compression else payload
            content_type = self._type_of(plain)
            if content_type == _JSON:
                return Payload(plain.body) if plain is payload and plain.content_type != _JSON else plain
            value = self._value(plain.body, content_type)
            return self._encoded(value, payload, is_error=is_error, has_tuples=has_tuples)
        except RootcellarError:
            return _unread(payload)

    def _type_of(self, payload: Payload) -> str:
        body = payload.body
        if body[:2] in _PICKLES and body.endswith(b"."):
            return PICKLE
        if payload.content_type != _JSON:
            return payload.content_type
        if self.content_type is not None:
            return self.content_type
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            return _YAML if self.has_yaml else FOREIGN
        return _JSON

    def _value(self, body: bytes, content_type: str) -> Any:
        """Return a value.

        Raises:
            RootcellarError: it cannot be read.
        """
        if content_type == PICKLE:
            if not self.allow_pickle:
                raise ConfigurationError("a pickle", where="SOURCE", remedy="allow pickles with --allow-pickle")
            return read_old_pickle(Payload(body, PICKLE, "binary"), names=True)
        encoding = "binary" if content_type == _MSGPACK else "utf-8"
        return deserialise(Payload(body, content_type, encoding), {content_type})

    def _encoded(self, value: Any, stored: Payload, *, is_error: bool = False, has_tuples: bool = False) -> Payload:
        """Return a value as JSON, or the stored one as unread if it is not plain data."""
        try:
            if has_tuples:
                return serialise(_as_tuples(value), "json")
            return serialise(_described(value) if is_error else value, NAME)
        except RootcellarError:
            return _unread(stored)

    # -- records that were stored as one value

    def whole_task(self, record: TaskRecord) -> TaskRecord:
        """Return the record of what Celery stored as one value that is not JSON, which is in the record's result."""
        stored = record.result
        return record if stored is None or stored.content_type != FOREIGN else self._whole(record, stored)

    def whole_group(self, group: GroupRecord) -> GroupRecord:
        """Do the same for a saved group."""
        result = group.result
        if result.content_type != FOREIGN or not isinstance(meta := self._meta(result.body), Mapping):
            return group
        return replace(group, result=self._encoded(meta.get("result"), result, has_tuples=True))

    def group_of_ids(self, group: GroupRecord) -> GroupRecord:
        """Do the same for a group that is stored as a list of its tasks' ids."""
        result = group.result
        if result.content_type != FOREIGN or not isinstance(ids := self._meta(result.body), (list, tuple)):
            return group
        members = [[[task_id, None], None] for task_id in ids]
        return replace(group, result=self._encoded([[group.group_id, None], members], result, has_tuples=True))

    def _whole(self, record: TaskRecord, stored: Payload) -> TaskRecord:
        meta = self._meta(stored.body)
        if not isinstance(meta, Mapping) or "status" not in meta:
            return record
        reader = FieldReader()
        state = reader.state(meta["status"])
        done = reader.moment("done_at", meta.get("date_done"), _moment) if state in READY else None
        is_error = state != "SUCCESS"
        payloads: dict[str, Any] = {
            name: self._encoded(meta[name], stored, has_tuples=name == "children")
            for name in ("args", "kwargs", "children")
            if meta.get(name) not in (None, [])
        }
        names = meta.get("stamped_headers")
        if isinstance(names, (list, tuple)):
            payloads["stamps"] = self._encoded({name: meta.get(name) for name in names}, stored)
        texts: dict[str, Any] = {name: reader.text(name, meta.get(name)) for name in _TEXTS}
        traceback = meta.get("traceback")
        return TaskRecord(
            task_id=record.task_id,
            state=state,
            result=self._encoded(meta.get("result"), stored, is_error=is_error),
            traceback=None if traceback is None else str(traceback),
            retries=number_of(meta.get("retries")),
            done_at=done or (NO_DATE if state in ENDS else None),
            expires_at=record.expires_at,
            **payloads,
            **texts,
            damage=tuple(reader.damage),
        )

    def _meta(self, body: bytes) -> Any:
        """Return what Celery stored as one value; ``None`` if it cannot be read."""
        content_type = _MSGPACK if body and body[0] in _COLLECTIONS else _YAML
        if body[:2] in _PICKLES and body.endswith(b"."):
            content_type = PICKLE
        try:
            return self._value(body, content_type)
        except RootcellarError:
            return None


def content_type_named(name: str | None, where: str) -> str | None:
    """Return the content type of the serializer that a URL names; ``None`` for none.

    Raises:
        ConfigurationError: there is no such serializer.
    """
    if name is None:
        return None
    if name not in ("json", "pickle", "yaml", "msgpack"):
        raise ConfigurationError(
            f"unknown serializer {name[:50]!r}", where=where, remedy="write json, pickle, yaml or msgpack"
        )
    return content_type_of(name)


def reason(record: TaskRecord) -> str:
    """Return what to do about a record with values that were not read; empty if nothing can be done."""
    payloads = [getattr(record, name) for name in _FIELDS]
    unread = [each for each in payloads if each is not None and each.content_type == FOREIGN]
    if any(each.body[:2] in _PICKLES for each in unread):
        return "it is a pickle; --allow-pickle reads plain data in it, if SOURCE begins with celery+, db+ or django-db+"
    if unread:
        return "it is not JSON; name SOURCE with celery+ before redis:// or mongodb://, or add ?serializer=… to db+"
    return ""


def _is_error(name: str, record: TaskRecord) -> bool:
    return name == "result" and record.state != "SUCCESS"


def _unread(payload: Payload) -> Payload:
    return Payload(payload.body, FOREIGN, "binary", payload.compression)


def _moment(value: Any) -> datetime:
    return clamped(datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value)


def _described(value: Any) -> Any:
    """Return an exception as Celery describes it in JSON; another value unchanged."""
    if isinstance(value, Named):
        name, module, args = value.name, value.module, value.args
        if name == "UnpickleableExceptionWrapper" and len(args) >= 3:
            # Celery's stand-in for an exception that could not be pickled
            module, name, args = args[:3]
    elif isinstance(value, BaseException):
        name, module, args = type(value).__name__, type(value).__module__, value.args
    else:
        return value
    return {"exc_type": name, "exc_message": [_plain(each) for each in args], "exc_module": module}


def _plain(value: Any) -> Any:
    try:
        serialise(value, NAME)
    except RootcellarError:
        return value.name if isinstance(value, Named) else repr(value)
    return value


def _as_tuples(value: Any) -> Any:
    """Return a pickled result, such as a saved group, as Celery's tuple; another value unchanged."""
    if not isinstance(value, Named):
        return value
    name, args = value.name, value.args
    if name == "_unpickle_appattr" and len(args) == 2:
        # an app has classes of its own, which are pickled by their names
        name, args = args
    result_id, *rest = args or (None,)
    if name == "GroupResult":
        members = rest[0] if rest and isinstance(rest[0], (list, tuple)) else []
        return [[result_id, None], [_as_tuples(member) for member in members]]
    return [[result_id, None], None] if name in ("AsyncResult", "EagerResult") else value
