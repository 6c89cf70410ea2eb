"""The registered types of an application."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rootcellar.errors import ConfigurationError
from rootcellar.payloads.typed.builtins import BUILT_IN

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][\w.:/-]*")


class Registered(NamedTuple):
    """An application's own type, and the functions that encode and decode its values."""

    cls: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_by_class: dict[type, Registered] = {}
_by_name: dict[str, Registered] = {}
#: called after each registration
on_change: list[Callable[[], None]] = []


def register_type(cls: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let ``rootcellar-json`` store and restore values of ``cls`` and its subclasses.

    Call it in both workers and clients, for example in the module of the class.

    Args:
        cls: the type.
        name: marks the values in stored results; choose it once and never change it.
        encode: turns a value into something that can be stored.
        decode: turns the result of ``encode`` into a value again. It is called with data from stored rows.

    Raises:
        ConfigurationError: the name is not valid, or taken by rootcellar or another type.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a type",
            where="rootcellar.register_type",
            remedy="begin with a letter; go on with letters, digits and _ . : / -",
        )
    known = _by_name.get(name)
    is_other = known is not None and (known.cls.__module__, known.cls.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    )
    if name in BUILT_IN or is_other:
        raise ConfigurationError(
            f"the name {name!r} is taken by {'rootcellar' if known is None else known.cls.__qualname__}",
            where="rootcellar.register_type",
            remedy="choose another, such as yourapp.name",
        )
    if known is not None:
        _by_class.pop(known.cls, None)
    _by_class[cls] = _by_name[name] = Registered(cls, name, encode, decode)
    for listener in on_change:
        listener()


def of_class(cls: type) -> Registered | None:
    """Return the registration of ``cls``, or that of its nearest base."""
    return next((_by_class[base] for base in cls.__mro__ if base in _by_class), None)


def of_name(name: str) -> Registered | None:
    """Return the registration of ``name``."""
    return _by_name.get(name)
