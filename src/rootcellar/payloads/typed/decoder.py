"""Converts typed JSON to values."""

from __future__ import annotations

import base64
import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rootcellar.errors import PayloadError, PayloadUnreadable
from rootcellar.payloads.typed import datetimes, registry
from rootcellar.payloads.typed.arrays import read_numpy
from rootcellar.payloads.typed.classes import KINDS, WITH_FIELDS, Classes
from rootcellar.payloads.typed.markers import KOMBU, KOMBU_KEYS, OURS, VALUE, may_hold_markers
from rootcellar.support.interruptions import raise_interruption

_HEX = re.compile(r"-?0x[0-9a-f]+")
#: more members with the same hash are an attack
_MAX_HASH_COLLISIONS = 100
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Reader:
    """Reads typed JSON.

    Args:
        classes: the classes that are allowed; ``None`` for those in modules that are loaded.
    """

    def __init__(self, classes: Classes | None = None) -> None:
        self._classes = classes or Classes()
        self._decode = json.JSONDecoder(object_hook=self._value_of).decode

    def read(self, text: str | bytes) -> Any:
        """Return the value of a text from :func:`rootcellar.payloads.typed.write`.

        Raises:
            TypeRefused: it names a class that is not allowed.
            PayloadUnreadable: a marker in it cannot be read.
            ValueError, RecursionError: it is not JSON, or nests too deeply.
        """
        if isinstance(text, bytes):
            text = text.decode()
        return self._decode(text) if may_hold_markers(text) else json.loads(text)

    def _value_of(self, found: dict[str, Any]) -> Any:
        """Return the value of a JSON object whose inner objects have been read already."""
        if OURS in found:
            name = found[OURS]
        elif found.keys() == KOMBU_KEYS:
            name = found[KOMBU]
        else:
            return found
        try:
            if OURS not in found:
                return _read_kombu(name, found)
            if name in _SIMPLE:
                return _SIMPLE[name](_only(found))
            if name in KINDS:
                return self._object(name, found)
            if name in _WHOLE:
                return _WHOLE[name](found)
        except (PayloadError, RecursionError):
            raise
        except Exception as exc:  # a class's own constructor may raise any exception
            raise_interruption(exc)
            raise _unreadable(name, f"{type(exc).__name__}: {exc}") from exc
        return _registered(name, found)

    def _object(self, kind: str, found: dict[str, Any]) -> Any:
        cls: Any = self._classes.find(kind, found["class"])
        if kind == "enum":
            members = cls.__members__
            return members[found["name"]] if found.get("name") in members else cls(found[VALUE])
        fields = found[VALUE]
        if not isinstance(fields, dict):
            raise ValueError("no fields")
        return WITH_FIELDS[kind].make(cls, fields)


def readable(text: str) -> Any:
    """Return typed JSON as plain JSON, in which each marker is replaced by its value. Creates no objects.

    Raises:
        ValueError, RecursionError: it is not JSON, or nests too deeply.
    """
    return json.loads(text, object_hook=_plain_value)


def _plain_value(found: dict[str, Any]) -> Any:
    if OURS in found:
        value = found.get(VALUE, found.get("name"))
        if (
            found[OURS] == "dict"
            and isinstance(value, list)
            and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        ):
            return {key if isinstance(key, str) else json.dumps(key): item for key, item in value}
        return value
    if found.keys() == KOMBU_KEYS:
        value = found[VALUE]
        return value["hex"] if isinstance(value, dict) and value.keys() == {"hex"} else value
    return found


def _only(found: dict[str, Any]) -> Any:
    if len(found) != 2:
        raise ValueError("it has more than a value")
    return found[VALUE]


def _read_kombu(name: Any, found: dict[str, Any]) -> Any:
    known = _KOMBU.get(name)
    if known is not None:
        return known(found[VALUE])
    from kombu.utils.json import object_hook

    return object_hook(found)


def _registered(name: Any, found: dict[str, Any]) -> Any:
    entry = registry.of_name(name) if isinstance(name, str) else None
    if entry is None:
        raise PayloadUnreadable(
            f"a stored value is of the type {str(name)[:100]!r}, which is not registered here",
            remedy="call rootcellar.register_type here too, as the program that stored it did",
        )
    try:
        return entry.decode(_only(found))
    except RecursionError:
        raise
    except Exception as exc:  # an application's function may raise any exception
        raise_interruption(exc)
        raise _unreadable(name, f"{type(exc).__name__}: {exc}") from exc


def _unreadable(name: Any, why: str) -> PayloadUnreadable:
    return PayloadUnreadable(
        f"a stored value of the type {str(name)[:100]!r} cannot be read: {why[:300]}",
        remedy="check whether it is damaged, or its class has changed since it was stored",
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _pairs(value: Any) -> dict[Any, Any]:
    # dict() would accept a text of two letters as a pair
    if not all(isinstance(pair, list) for pair in value):
        raise TypeError("no pairs")
    _refuse_collisions(pair[0] for pair in value if pair)
    return dict(value)


def _set_members(value: Any) -> list[Any]:
    """Return the members of a set."""
    members = _list(value)
    _refuse_collisions(members)
    return members


def _refuse_collisions(members: Iterable[Any]) -> None:
    """Refuse very many members with the same hash, because creating a set of them takes quadratic time.

    Raises:
        ValueError: there are very many members with the same hash.
    """
    hashes = list(map(hash, members))
    # most sets have no two members with the same hash
    if len(hashes) - len(set(hashes)) < _MAX_HASH_COLLISIONS:
        return
    if max(Counter(hashes).values()) > _MAX_HASH_COLLISIONS:
        raise ValueError("very many members have the same hash, as in an attack that keeps a reader busy")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _int(value: Any) -> int:
    if not _HEX.fullmatch(value):
        raise ValueError("no hexadecimal number")
    return int(value, 16)


def _range(value: Any) -> range:
    start, stop, step = value
    return range(start, stop, step)


def _uuid(value: Any) -> uuid.UUID:
    return uuid.UUID(hex=_text(value["hex"] if isinstance(value, dict) else value))


def _base64(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


#: name -> makes the value from the marked value
_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "dict": lambda value: _pairs(_list(value)),
    "tuple": lambda value: tuple(_list(value)),
    "set": lambda value: set(_set_members(value)),
    "frozenset": lambda value: frozenset(_set_members(value)),
    "int": _int,
    "float": lambda value: _FLOATS[value],
    "complex": lambda value: complex(_text(value)),
    "range": _range,
    "datetime": datetimes.read_zoned_datetime,
    "time": datetimes.read_zoned_time,
    "timedelta": datetimes.read_timedelta,
    "zone": datetimes.read_zone,
    "bytearray": lambda value: bytearray(_base64(value)),
    "path": lambda value: Path(_text(value)),
    "posix-path": lambda value: PurePosixPath(_text(value)),
    "windows-path": lambda value: PureWindowsPath(_text(value)),
}
#: name -> makes the value from the whole marker
_WHOLE: dict[str, Callable[[dict[str, Any]], Any]] = {"ndarray": read_numpy, "numpy": read_numpy}
_KOMBU: dict[Any, Callable[[Any], Any]] = {
    "datetime": datetimes.read_datetime,
    "date": datetimes.read_date,
    "time": datetimes.read_time,
    "decimal": lambda value: Decimal(_text(value)),
    "uuid": _uuid,
    "bytes": lambda value: _text(value).encode(),
    "base64": _base64,
}
