"""Reads an exception, as it is or as it is stored, for grouping: its type, its message, and the types in a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootcellar.support.interruptions import raise_interruption

#: the key of the details that Celery does not store (rootcellar.payloads.redaction)
_MORE = "rootcellar"
#: names of modules that a type is shown without
_PLAIN_MODULES = ("builtins", "__main__", "exceptiongroup")
#: exceptions of billiard that applications know under Celery's names
_BILLIARD = "billiard.exceptions"
_WRAPPER = "UnpickleableExceptionWrapper"
_MAX_DEPTH, _MAX_LEAVES, _LONGEST = 8, 100, 300


@dataclass(frozen=True, slots=True)
class Described:
    """What grouping needs of an exception.

    Attributes:
        type: the class with its module, except for those of Python itself; empty if there is no exception.
        message: its text.
        leaves: the types of the exceptions in a group of exceptions, sorted, each once.
        own: the value of its attribute ``failure_group``.
    """

    type: str = ""
    message: str = ""
    leaves: tuple[str, ...] = ()
    own: Any = None


def describe(failure: Any) -> Described:
    """Return what grouping needs of an exception, or of its stored form. Anything else has no type."""
    if isinstance(failure, BaseException):
        return _of_exception(failure)
    if not isinstance(failure, Mapping) or "exc_type" not in failure:
        return Described(message=failure[:_LONGEST] if isinstance(failure, str) else "")
    more = failure.get(_MORE)
    more = more if isinstance(more, Mapping) else {}
    state = more.get("state")
    own = state.get("failure_group") if isinstance(state, Mapping) else None
    leaves = sorted(set(_stored_leaves(more.get("exceptions"), 0)))
    return Described(_stored_type(failure), _stored_message(failure, more), tuple(leaves[:_MAX_LEAVES]), own)


def type_name(module: Any, name: Any) -> str:
    """Return the name of a type as people know it: ``KeyError``, ``celery.exceptions.SoftTimeLimitExceeded``."""
    name, module = str(name)[:_LONGEST], str(module)[:_LONGEST] if module else ""
    if module == _BILLIARD:
        module = "celery.exceptions"
    return name if not module or module in _PLAIN_MODULES else f"{module}.{name}"


def printed_type(text: str) -> str:
    """Return the name of a type from the form in which a traceback prints it."""
    module, _, name = text.rpartition(".")
    return type_name(module, name)


def _of_exception(exc: BaseException) -> Described:
    module, name = type(exc).__module__, type(exc).__qualname__
    if name == _WRAPPER and isinstance(getattr(exc, "exc_cls_name", None), str):
        module, name = getattr(exc, "exc_module", ""), exc.exc_cls_name  # type: ignore[attr-defined]
    leaves = sorted(set(_leaves(getattr(exc, "exceptions", None), 0)))
    return Described(type_name(module, name), _text(exc), tuple(leaves[:_MAX_LEAVES]), chosen_group(exc))


def chosen_group(exc: BaseException) -> Any:
    """Return the value of an exception's attribute ``failure_group``; ``None`` without it."""
    try:
        return getattr(exc, "failure_group", None)
    except Exception as problem:  # the class may raise any exception
        raise_interruption(problem)
        return None


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as problem:  # the class may raise any exception
        raise_interruption(problem)
        return ""


def _leaves(members: Any, depth: int) -> list[str]:
    if depth >= _MAX_DEPTH or not isinstance(members, (list, tuple)):
        return []
    found: list[str] = []
    for member in members[:_MAX_LEAVES]:
        if isinstance(member, BaseException):
            inner = _leaves(getattr(member, "exceptions", None), depth + 1)
            found += inner or [type_name(type(member).__module__, type(member).__qualname__)]
    return found


def _stored_leaves(members: Any, depth: int) -> list[str]:
    if depth >= _MAX_DEPTH or not isinstance(members, list):
        return []
    found: list[str] = []
    for member in members[:_MAX_LEAVES]:
        if isinstance(member, Mapping) and "exc_type" in member:
            more = member.get(_MORE)
            inner = _stored_leaves(more.get("exceptions"), depth + 1) if isinstance(more, Mapping) else []
            found += inner or [_stored_type(member)]
    return found


def _stored_type(stored: Mapping[Any, Any]) -> str:
    return type_name(stored.get("exc_module"), stored.get("exc_type"))


def _stored_message(stored: Mapping[Any, Any], more: Mapping[Any, Any]) -> str:
    """Return the text that the exception had, made of its arguments as ``str`` makes it."""
    text, args = more.get("text"), stored.get("exc_message")
    if isinstance(text, str):
        return text
    if not isinstance(args, (list, tuple)):
        return "" if args is None else str(args)
    if len(args) == 1:
        return repr(args[0]) if stored.get("exc_type") == "KeyError" else str(args[0])
    return str(tuple(args)) if args else ""
