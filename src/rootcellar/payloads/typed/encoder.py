"""Converts values to typed JSON.

First, ``json``'s encoder in C writes the value, and a check in C finds out whether plain JSON represents it exactly.
Only if it does not, the value is walked in Python.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import uuid
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

from rootcellar.payloads.typed import registry
from rootcellar.payloads.typed.arrays import is_numpy, write_numpy
from rootcellar.payloads.typed.classes import WITH_FIELDS, class_name, kind_of
from rootcellar.payloads.typed.datetimes import write_datetime, write_time, write_timedelta, write_zone
from rootcellar.payloads.typed.markers import KOMBU_KEYS, OURS, VALUE, kombu_marker, marker, may_hold_markers
from rootcellar.payloads.typed.unstorable import Unstorable
from rootcellar.support.interruptions import raise_interruption

_SCALARS = frozenset({str, int, float, bool, type(None)})
_PLAIN = _SCALARS | {list, dict}
_TEXT_KEYS = frozenset({str})
#: not every Python can write larger integers as decimal digits
_MAX_DECIMAL_BITS = 14_000
_MAX_KEY_LENGTH = 40

Tree = Any
Writer = Callable[[Any], Tree]


class _NotPlain(Exception):
    """The value contains a value that ``json`` does not support."""


def _stop(value: Any) -> Any:
    raise _NotPlain


def _make_encode() -> Callable[[Any], str]:
    """Return the encoder in C if available, created once. A value that contains itself raises ``RecursionError``."""
    try:
        chunks = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _stop, json.encoder.encode_basestring, None, ": ", ", ", False, False, False
        )
        "".join(chunks([""], 0))
    except (AttributeError, TypeError):
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_stop).encode
    return lambda value: "".join(chunks(value, 0))


_encode = _make_encode()


def write(value: Any, root: str) -> tuple[str, bool]:
    """Return ``value`` as JSON, and whether it contains markers.

    Args:
        value: the value to store.
        root: its name in errors.

    Raises:
        Unstorable: a value in it cannot be stored.
        RecursionError: it is nested too deeply, or contains itself.
    """
    try:
        text = _encode(value)
        if _is_plain(value) and not may_hold_markers(text):
            return text, False
    except (_NotPlain, TypeError, ValueError):
        # the walk below finds out which of many reasons it is
        pass
    walk = _Walk()
    try:
        tree = walk.tree(value)
    except Unstorable as exc:
        exc.within(root)
        raise
    return _encode(tree), walk.has_markers


def _is_plain(value: Any) -> bool:
    """Return True if ``value``, which is finite and has no cycle, contains only values that JSON keeps exactly.

    It checks level by level, each in C. JSON's encoder itself accepts tuples, subclasses and keys that are not texts.
    """
    level: list[Any] = [value]
    kinds = {type(value)}
    while not kinds <= _SCALARS:
        if not kinds <= _PLAIN:
            return False
        below: list[Any] = []
        if list in kinds:
            below += chain.from_iterable(level if len(kinds) == 1 else [x for x in level if type(x) is list])
        if dict in kinds:
            dicts = level if len(kinds) == 1 else [x for x in level if type(x) is dict]
            if not {*map(type, chain.from_iterable(dicts))} <= _TEXT_KEYS:
                return False
            below += chain.from_iterable(map(dict.values, dicts))
        level = below
        kinds = {*map(type, level)}
    return True


class _Walk:
    """Turns one value into a tree of plain JSON with markers in it."""

    def __init__(self) -> None:
        self.has_markers = False

    def tree(self, value: Any) -> Tree:
        """Return the tree of a value."""
        cls = type(value)
        if cls is str or cls is bool or value is None:
            return value
        if cls is dict:
            return self._dict(value)
        if cls is list:
            return self._list(value)
        if cls is int:
            return self._int(value)
        if cls is float:
            return self._float(value)
        return self._other(value, cls)

    def _int(self, value: int) -> Tree:
        return value if value.bit_length() < _MAX_DECIMAL_BITS else self._mark(marker("int", hex(value)))

    def _float(self, value: float) -> Tree:
        return value if math.isfinite(value) else self._mark(marker("float", repr(value)))

    def _mark(self, tree: dict[str, Any]) -> Tree:
        self.has_markers = True
        return tree

    def _list(self, items: Iterable[Any], step: str = "[{}]") -> list[Tree]:
        trees: list[Tree] = []
        try:
            for item in items:
                trees.append(self.tree(item))
        except Unstorable as exc:
            exc.within(step.format(len(trees)))
            raise
        return trees

    def _dict(self, value: dict[Any, Any]) -> Tree:
        if set(map(type, value)) <= _TEXT_KEYS and OURS not in value and value.keys() != KOMBU_KEYS:
            return self._fields(value, "[{}]")
        pairs = [[self._key(key), self._item(key, item)] for key, item in value.items()]
        return self._mark(marker("dict", pairs))

    def _fields(self, value: dict[str, Any], step: str) -> dict[str, Tree]:
        trees: dict[str, Tree] = {}
        key = ""
        try:
            for key, item in value.items():
                trees[key] = self.tree(item)
        except Unstorable as exc:
            exc.within(step.format(_shown(key) if step == "[{}]" else key))
            raise
        return trees

    def _key(self, key: Any) -> Tree:
        try:
            return self.tree(key)
        except Unstorable as exc:
            exc.within("'s key")
            raise

    def _item(self, key: Any, item: Any) -> Tree:
        try:
            return self.tree(item)
        except Unstorable as exc:
            exc.within(f"[{_shown(key)}]")
            raise

    def _other(self, value: Any, cls: type) -> Tree:
        try:
            writer = _writers.get(cls)
            if writer is None:
                writer = _writers[cls] = _writer_of(cls)
            return writer(self, value)
        except (Unstorable, RecursionError):
            raise
        except Exception as exc:  # an application's class may raise any exception
            raise_interruption(exc)
            raise Unstorable(
                f"is a {_named(cls)}, which cannot be written: {type(exc).__name__}: {exc}",
                "repair it, or return plain data",
            ) from exc

    # -- the kinds of value

    def sequence(self, name: str, items: Iterable[Any]) -> Tree:
        """Write a sequence."""
        return self._mark(marker(name, self._list(items)))

    def unordered(self, name: str, items: Iterable[Any]) -> Tree:
        """Write a set, sorted if possible, so that equal sets have equal texts."""
        try:
            items = sorted(items)
        except TypeError:
            items = list(items)
        return self._mark(marker(name, self._list(items, "{{…}}")))

    def leaf(self, tree: dict[str, Any]) -> Tree:
        """Write a value without inner values."""
        return self._mark(tree)

    def as_base(self, value: Any) -> Tree:
        """Write an object of a subclass of a plain type, as JSON does."""
        for base, plain in _BASES.items():
            if isinstance(value, base):
                return self.tree(plain(value))
        raise TypeError("no subclass of a plain type")

    def enum(self, value: enum.Enum) -> Tree:
        """Write a member of an enum by its name and, if plain, its value for readers and queries."""
        cls = type(value)
        tree: dict[str, Any] = {OURS: "enum", "class": class_name(cls)}
        if value.name in cls.__members__:
            tree["name"] = value.name
        raw = value.value
        if type(raw) in (str, bool, int, type(None)) or (type(raw) is float and math.isfinite(raw)):
            tree[VALUE] = self.tree(raw)
        elif "name" not in tree:
            raise ValueError("it has neither a name nor a plain value")
        return self._mark(tree)

    def object(self, kind: str, value: Any) -> Tree:
        """Write an object by its fields."""
        fields = self._fields(WITH_FIELDS[kind].fields(value), ".{}")
        return self._mark({OURS: kind, "class": class_name(type(value)), VALUE: fields})

    def registered(self, entry: registry.Registered, value: Any) -> Tree:
        """Write an object of a registered type."""
        return self._mark(marker(entry.name, self.tree(entry.encode(value))))

    def through_kombu(self, value: Any) -> Tree:
        """Write a value with kombu's JSON, in which an application may have registered the type."""
        from kombu.utils.json import JSONEncoder

        try:
            tree = JSONEncoder().default(value)
        except TypeError:
            raise _unknown(type(value)) from None
        if isinstance(tree, dict) and tree.keys() == KOMBU_KEYS:
            return self._mark({key: self.tree(item) for key, item in tree.items()})
        return self.tree(tree)


def _writer_of(cls: type) -> Callable[[_Walk, Any], Tree]:
    """Return the function that writes objects of ``cls``.

    Raises:
        Unstorable: objects of ``cls`` cannot be stored.
    """
    entry = registry.of_class(cls)
    if entry is not None:
        return lambda walk, value: walk.registered(entry, value)
    kind = kind_of(cls)
    if kind == "enum":
        return _Walk.enum
    if kind is not None:
        return lambda walk, value: walk.object(kind, value)
    if is_numpy(cls):
        return lambda walk, value: walk.leaf(write_numpy(value))
    for base in cls.__mro__:
        if base in _LEAVES:
            write_leaf = _LEAVES[base]
            return lambda walk, value: walk.leaf(write_leaf(value))
        if base in _ROWS:
            return _ROWS[base]
        if base in _BASES:
            return _Walk.as_base
    return _Walk.through_kombu


def _write_bytes(value: bytes) -> dict[str, Any]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    # jsonb accepts no NUL
    return kombu_marker("bytes", text) if "\x00" not in text else kombu_marker("base64", _base64(value))


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_LEAVES: dict[type, Callable[[Any], dict[str, Any]]] = {
    datetime: write_datetime,
    date: lambda value: kombu_marker("date", value.isoformat()),
    time: write_time,
    timedelta: write_timedelta,
    timezone: write_zone,
    ZoneInfo: write_zone,
    Decimal: lambda value: kombu_marker("decimal", str(value)),
    uuid.UUID: lambda value: kombu_marker("uuid", {"hex": value.hex}),
    bytes: _write_bytes,
    bytearray: lambda value: marker("bytearray", _base64(value)),
    complex: lambda value: marker("complex", repr(value)),
    Path: lambda value: marker("path", str(value)),
    PurePosixPath: lambda value: marker("posix-path", str(value)),
    PureWindowsPath: lambda value: marker("windows-path", str(value)),
    PurePath: lambda value: marker("path", str(value)),
    range: lambda value: marker("range", [value.start, value.stop, value.step]),
}
_ROWS: dict[type, Callable[[_Walk, Any], Tree]] = {
    tuple: lambda walk, value: walk.sequence("tuple", value),
    set: lambda walk, value: walk.unordered("set", value),
    frozenset: lambda walk, value: walk.unordered("frozenset", value),
}
#: an object of a subclass of a plain type is read back as the plain type, as with any JSON
_BASES: dict[type, Callable[[Any], Any]] = {
    str: lambda value: str.__str__(value),
    int: int.__int__,
    float: float.__float__,
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
}
_writers: dict[type, Callable[[_Walk, Any], Tree]] = {}
# after a registration, objects of the class are written in another way
registry.on_change.append(_writers.clear)


def _unknown(cls: type) -> Unstorable:
    return Unstorable(
        f"is a {_named(cls)}, which rootcellar-json does not know",
        f"return plain data, make {cls.__name__} a dataclass, or give it to rootcellar.register_type",
    )


def _named(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _shown(key: Any) -> str:
    """Return a key as in Python code, with double quotes, and truncated."""
    if isinstance(key, str):
        text = json.dumps(key, ensure_ascii=False)
        return text if len(text) <= _MAX_KEY_LENGTH else f'{text[:_MAX_KEY_LENGTH]}…"'
    text = repr(key)
    return text if len(text) <= _MAX_KEY_LENGTH else f"{text[:_MAX_KEY_LENGTH]}…"
