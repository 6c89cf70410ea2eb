"""The register of an application's own types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rootcellar.errors import ConfigurationError
from rootcellar.payloads.typed.builtins import BUILT_IN

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][\w.:/-]*")


class Registered(NamedTuple):
    """A type of an application's own, and how its values become others and come back."""

    cls: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_by_class: dict[type, Registered] = {}
_by_name: dict[str, Registered] = {}
#: called after each registration
on_change: list[Callable[[], None]] = []


def register_type(cls: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let ``rootcellar-json`` store values of ``cls`` and of its subclasses, and give them back.

    Do it where both workers and clients do, such as in the module of the class.

    Args:
        cls: the type.
        name: what marks its values in what is stored; choose it once and keep it.
        encode: makes of a value something that can be stored.
        decode: makes a value again of what ``encode`` returned. It is given what a stored row says.

    Raises:
        ConfigurationError: the name is no name, one of ours, or another type's.
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
    """Return how values of ``cls`` are stored: by its own registration, or that of its nearest base."""
    return next((_by_class[base] for base in cls.__mro__ if base in _by_class), None)


def of_name(name: str) -> Registered | None:
    """Return what is registered under ``name``."""
    return _by_name.get(name)
