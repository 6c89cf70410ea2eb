"""The keys of markers."""

from __future__ import annotations

from typing import Any

#: the keys of our markers
OURS, VALUE = "__rootcellar__", "__value__"
#: the keys of kombu's markers
KOMBU = "__type__"
KOMBU_KEYS = frozenset({KOMBU, VALUE})


def marker(name: str, value: Any) -> dict[str, Any]:
    """Return one of our markers."""
    return {OURS: name, VALUE: value}


def kombu_marker(name: str, value: Any) -> dict[str, Any]:
    """Return a marker of kombu's JSON."""
    return {KOMBU: name, VALUE: value}


def may_hold_markers(text: str) -> bool:
    """Return False only if a JSON text certainly contains no marker."""
    return '"__rootcellar__"' in text or '"__type__"' in text
