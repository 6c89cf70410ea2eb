"""The names that markers are made of."""

from __future__ import annotations

from typing import Any

#: the keys of a marker of ours
OURS, VALUE = "__rootcellar__", "__value__"
#: the keys of a marker of kombu's
KOMBU = "__type__"
KOMBU_KEYS = frozenset({KOMBU, VALUE})


def marker(name: str, value: Any) -> dict[str, Any]:
    """Return a marker of ours."""
    return {OURS: name, VALUE: value}


def kombu_marker(name: str, value: Any) -> dict[str, Any]:
    """Return a marker as kombu's JSON has it."""
    return {KOMBU: name, VALUE: value}


def may_hold_markers(text: str) -> bool:
    """Tell whether there may be a marker in a JSON text; ``False`` is certain."""
    return '"__rootcellar__"' in text or '"__type__"' in text
