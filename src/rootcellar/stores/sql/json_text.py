"""Checks whether a server reads a JSON text like Python, and makes a readable version of any other payload."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rootcellar.records import (
    SIGNED,
    TYPED_JSON,
    Payload,
)

#: a server's JSON parser may refuse a text that nests deeper
_PORTABLE_DEPTH = 512


#: such a number may be too long for a server's numeric type
_LONG_NUMBER = re.compile(r"\d{400}|[eE][+-]?\d{4}")


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


#: a string, also one without an end, so that the search takes linear time
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def is_portable(text: str) -> bool:
    """Return whether a JSON text that Python wrote can be cast to ``jsonb`` and means the same in any language."""
    if "\x00" in text:
        return False
    if "\\u" in text and ("\\u0000" in text or _SURROGATE.search(text)):
        return False
    if ("NaN" in text or "Infinity" in text) and not _is_strict(text):
        return False
    if max(text.count("["), text.count("{")) > _PORTABLE_DEPTH and _depth(text) > _PORTABLE_DEPTH:
        return False
    return not _LONG_NUMBER.search(text) or _is_small_numbered(text)


def _json_text(payload: Payload) -> str | None:
    """Return the text of a payload that is plain, typed or signed JSON; ``None`` for any other."""
    is_open = not payload.key_id or payload.key_id.startswith(SIGNED)
    if payload.content_type not in ("application/json", TYPED_JSON) or payload.compression or not is_open:
        return None
    try:
        return payload.body.decode(payload.content_encoding)
    except (LookupError, UnicodeDecodeError):
        return None


def _is_strict(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _is_small_numbered(text: str) -> bool:
    """Return whether no number of a text is too long. Many digits inside a string are harmless."""
    sizes: list[int] = []

    def record_size(number: str) -> float:
        exponent = re.search(r"[eE]([+-]?\d+)$", number)
        sizes.append(len(number) + abs(int(exponent[1]) if exponent else 0))
        return 0.0

    try:
        json.loads(text, parse_int=record_size, parse_float=record_size)
    except (ValueError, RecursionError):
        return False
    return max(sizes, default=0) < 10_000


def _depth(text: str) -> int:
    """Return how deeply a JSON text is nested."""
    depth = deepest = 0
    for character in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _rendition(text: str) -> str:
    """Return portable JSON with the contents of ``text``, for messages who read the table."""
    try:
        value = json.loads(text, parse_constant=str)
        shown = json.dumps(_presentable(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(f"<application/json, {len(text)} characters>")
    return shown if is_portable(shown) else json.dumps(f"<application/json, {len(text)} characters>")


def _presentable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\u2400").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_presentable(key): _presentable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_presentable(item) for item in value]
    return value
