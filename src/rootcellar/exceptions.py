"""A task's exception into plain data, in the form that Celery stores, and back into an exception.

What is stored names a class; reading it must not run what a stored row chooses. So a class is taken from the modules
that are loaded, or from a module of a package that is; it must be an ``Exception``; and it is made from its arguments
only. Otherwise a stand-in of the same name carries the same arguments.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.serialization import UnpickleableExceptionWrapper, create_exception_cls

from rootcellar.errors import RootcellarError
from rootcellar.interruptions import raise_interruption


class TaskFailed(RootcellarError):
    """Stands for a failure that was stored without an exception, such as by ``update_state``. Not retryable."""


def describe(exc: BaseException, encode: Callable[[Any], Any]) -> dict[str, Any]:
    """Return ``exc`` as Celery's plain form; arguments that ``encode`` refuses become their ``repr``."""
    name, module, args = type(exc).__qualname__, type(exc).__module__, exc.args
    if isinstance(exc, UnpickleableExceptionWrapper):
        # what Celery makes of an exception that cannot be pickled, before a backend sees it
        name, module, args = exc.exc_cls_name, exc.exc_module, exc.exc_args
    # a list, as JSON has it: typed JSON would mark a tuple, and a stock reader not know the arguments
    return {"exc_type": name, "exc_message": [_encodable(arg, encode) for arg in args], "exc_module": module}


def _encodable(value: Any, encode: Callable[[Any], Any]) -> Any:
    try:
        encode(value)
    except Exception as exc:  # of an argument's own class, which may raise anything
        raise_interruption(exc)
        return _shown(value)
    return value


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:  # of its class
        raise_interruption(exc)
        return f"<a {type(value).__name__} that cannot be shown>"


def restore(stored: Any) -> Any:
    """Return the exception that :func:`describe` wrote, its own class where it can be had; ``None`` for nothing."""
    if not stored or isinstance(stored, BaseException):
        return stored or None
    if not isinstance(stored, Mapping) or "exc_type" not in stored:
        return TaskFailed(f"stored without an exception: {stored!r}")
    name, module = str(stored["exc_type"]), stored.get("exc_module")
    message = stored.get("exc_message", ())
    args = tuple(message) if isinstance(message, (list, tuple)) else (message,)
    cls = _find_class(module, name) or create_exception_cls(name, module or "celery.exceptions")
    return _make(cls, args)


def _find_class(module: Any, name: str) -> type[Exception] | None:
    found: Any = _find_module(module) if isinstance(module, str) else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _find_module(name: str) -> Any:
    """Return a module that is loaded, or that belongs to a package which is: importing runs a module's code."""
    if name in sys.modules:
        return sys.modules[name]
    if name.partition(".")[0] not in sys.modules:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _make(cls: type[Exception], args: tuple[Any, ...]) -> Exception:
    try:
        made = cls(*args)
        if made.args == args:
            return made
    except Exception as exc:  # the class's own code, which may raise anything
        raise_interruption(exc)
        made = None
    try:
        # its constructor wants other arguments than it keeps: give it those it kept
        bare = cls.__new__(cls, *args)
        bare.args = args
        # which will not do if it cannot be shown without what its constructor would have set
        str(bare), repr(bare)
        return bare
    except Exception as exc:
        raise_interruption(exc)
        return made or create_exception_cls(cls.__name__, cls.__module__)(*args)
