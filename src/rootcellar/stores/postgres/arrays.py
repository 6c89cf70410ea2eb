"""Arrays in PostgreSQL's binary form: one statement can take many records, each column as one array."""

from __future__ import annotations

import struct
from collections.abc import Sequence

#: the numbers of the types of elements
TEXT, JSON, BYTEA, TIMESTAMPTZ = 25, 114, 17, 1184

_HEAD = struct.Struct(">iiiii").pack
_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
_ONE_DIMENSION, _HAS_NULLS, _FROM_ONE = 1, 1, 1


def array(values: Sequence[bytes | None], element: int) -> bytes:
    """Return an array of values, each in its type's binary form.

    Args:
        values: the values, at least one.
        element: the number of their type.
    """
    head = _HEAD(_ONE_DIMENSION, _HAS_NULLS, element, len(values), _FROM_ONE)
    if values.count(None) == len(values):
        return head + _NULL * len(values)
    return head + b"".join([_NULL if value is None else _LENGTH(len(value)) + value for value in values])
