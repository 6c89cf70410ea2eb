"""Converts values to bytes and back, with the serializers that kombu knows.

The serializer ``rootcellar-json`` is our own (:mod:`rootcellar.payloads.typed`). A value that plain JSON represents
exactly is written as plain JSON, with the content type of JSON.

The ``json`` serializer supports the same types as kombu's (plain JSON, and datetimes, decimals, UUIDs and bytes). There
are two differences: it writes readable text instead of escapes, and a plain dict that looks like kombu's type marker is
read back as this dict.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from kombu.exceptions import ContentDisallowed, EncodeError, SerializerNotInstalled
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads
from kombu.serialization import registry
from kombu.utils import json as kombu_json

from rootcellar.errors import ConfigurationError, ContentRefused, PayloadError, PayloadUnreadable
from rootcellar.payloads import typed
from rootcellar.payloads.errors import NotEncodable
from rootcellar.records import TYPED_JSON, Payload
from rootcellar.support.interruptions import raise_interruption

_JSON = "application/json"
_READER = typed.Reader()
#: content types without a decoder: the bytes are the value
_RAW = ("application/data", "application/text")
_MARKER = {"__type__", "__value__"}
_LITERAL = "rootcellar.dict"


def content_type_of(serializer: str) -> str:
    """Return the content type of a serializer.

    Raises:
        ConfigurationError: kombu knows no serializer of that name.
    """
    try:
        return str(registry.name_to_type[serializer])
    except KeyError:
        known = ", ".join(sorted(registry.name_to_type))
        raise ConfigurationError(
            f"unknown serializer {serializer!r}",
            where="result_serializer",
            remedy=f"use one of {known}, or register it with kombu",
        ) from None


def serialise(value: Any, serializer: str, field: str = "value") -> Payload:
    """Encode ``value``.

    Args:
        value: a task's result or arguments.
        serializer: a name that kombu knows.
        field: the name of the value in errors.

    Raises:
        NotEncodable: the serializer cannot encode it.
    """
    try:
        if serializer == "json":
            return Payload(_json_bytes(value))
        if serializer == typed.NAME:
            return _typed(value, field)
        content_type, content_encoding, body = kombu_dumps(value, serializer=serializer)
    except typed.Unstorable as exc:
        # one text, because only the arguments of an exception are stored for the client
        remedy = exc.remedy or "return plain data, or register the type"
        raise NotEncodable(f"{exc}: {remedy}", where="result_serializer") from exc
    except (EncodeError, TypeError, ValueError, OverflowError, RecursionError, SerializerNotInstalled) as exc:
        raise_interruption(exc)
        depth = " (nested too deeply)" if isinstance(exc, RecursionError) else ""
        raise NotEncodable(
            f"a value of type {type(value).__name__} cannot be encoded as {serializer}{depth}: {exc}",
            where="result_serializer",
            remedy="return plain data, or choose a serializer that knows the type",
        ) from exc
    if isinstance(body, str):
        body = body.encode(content_encoding)
    return Payload(body, content_type, content_encoding)


def deserialise(payload: Payload, accept: Collection[str] | None, reader: typed.Reader = _READER) -> Any:
    """Return the value of a payload that is neither compressed nor encrypted.

    Args:
        payload: the result of :func:`serialise`.
        accept: the content types that may be read (typed JSON includes plain JSON); ``None`` for those that
            kombu trusts.
        reader: reads typed JSON.

    Raises:
        ContentRefused: its content type is not among ``accept``.
        TypeRefused: it names a class that is not allowed.
        PayloadUnreadable: it is damaged, or no decoder is installed.
    """
    try:
        if payload.content_type == TYPED_JSON:
            if accept is None or TYPED_JSON not in accept:
                raise ContentDisallowed(TYPED_JSON)
            return reader.read(payload.body.decode(payload.content_encoding))
        if payload.content_type == _JSON:
            if accept is not None and _JSON not in accept and TYPED_JSON not in accept:
                raise ContentDisallowed(_JSON)
            return _json_value(payload.body.decode(payload.content_encoding))
        if payload.content_type not in registry.type_to_name and payload.content_type not in _RAW:
            # kombu would return the bytes unchanged
            raise LookupError("no decoder is installed")
        body: bytes | str = payload.body
        if payload.content_encoding not in ("binary", "ascii-8bit"):
            body = payload.body.decode(payload.content_encoding)
        return kombu_loads(body, payload.content_type, payload.content_encoding, accept=accept)
    except ContentDisallowed:
        raise ContentRefused(
            f"a stored result is {payload.content_type}, which is not accepted",
            where="result_accept_content",
            remedy=f"add {payload.content_type} to result_accept_content if you trust its origin",
        ) from None
    except PayloadError:
        raise
    except Exception as exc:
        raise_interruption(exc)
        raise PayloadUnreadable(
            f"a stored result of {payload.content_type} cannot be decoded: {type(exc).__name__}: {str(exc)[:300]}",
            remedy="check whether it was written by another serializer, or is damaged",
        ) from exc


def _typed(value: Any, field: str) -> Payload:
    text, has_markers = typed.write(value, field)
    content_type = TYPED_JSON if has_markers else _JSON
    try:
        return Payload(text.encode(), content_type)
    except UnicodeEncodeError:
        # a lone surrogate has no UTF-8 form, but an escape can represent it
        return Payload(json.dumps(json.loads(text)).encode(), content_type)


def _json_bytes(value: Any) -> bytes:
    text: str = kombu_json.dumps(value, ensure_ascii=False)
    if '"__type__"' in text:
        text = kombu_json.dumps(_escape_markers(value), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # a lone surrogate has no UTF-8 form, but an escape can represent it
        text = kombu_json.dumps(_escape_markers(value), ensure_ascii=True)
        return text.encode()


def _json_value(text: str) -> Any:
    if '"__type__"' in text:
        return json.loads(text, object_hook=_read_marker)
    try:
        # what json.loads does besides takes longer than to read a small value
        value, end = _raw_decode(text)
    except ValueError:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


_raw_decode = json.JSONDecoder().raw_decode


def _escape_markers(value: Any) -> Any:
    """Write a plain dict that looks like a type marker as a marker. Not recursive, because values may be deep."""
    whole = [value]
    todo: list[tuple[Any, Any]] = [(whole, 0)]
    while todo:
        holder, place = todo.pop()
        item = holder[place]
        if isinstance(item, dict) and item.keys() == _MARKER:
            pairs = [[key, part] for key, part in item.items()]
            holder[place] = {"__type__": _LITERAL, "__value__": pairs}
            todo.extend((pair, 1) for pair in pairs)
        elif isinstance(item, dict):
            copy = holder[place] = dict(item)
            todo.extend((copy, key) for key in copy)
        elif isinstance(item, (list, tuple)):
            row = holder[place] = list(item)
            todo.extend((row, index) for index in range(len(row)))
    return whole[0]


def _read_marker(found: dict[str, Any]) -> Any:
    if found.keys() == _MARKER and found["__type__"] == _LITERAL:
        return dict(found["__value__"])
    return kombu_json.object_hook(found)
