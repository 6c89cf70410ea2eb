"""Recognizes exceptions that come from outside the running code, which must pass unchanged.

A soft time limit, a web server that cancels a request, and Ctrl-C raise an exception at any line of the code: also
while a value is encoded or a user's class is called, where every other exception counts as an error of the data.
Most of these exceptions do not extend ``Exception``, and so no handler catches them. Those that extend it are
recognized here:

- by their class: :data:`CLASSES` has the known classes of libraries;
- by their origin: the traceback of an exception that a signal handler raised contains the handler.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

#: module and name of each class; subclasses are included
CLASSES = frozenset(
    {
        # Celery raises these, too
        ("billiard.exceptions", "SoftTimeLimitExceeded"),
        ("billiard.exceptions", "TimeLimitExceeded"),
        ("stopit.utils", "TimeoutException"),
        ("rq.timeouts", "BaseTimeoutException"),
        ("timeout_decorator.timeout_decorator", "TimeoutError"),
        ("wrapt_timeout_decorator.wrapt_timeout_decorator", "TimeoutError"),
    }
)

#: packages whose exceptions that do not extend ``Exception`` end or cancel what runs
_ENDING = frozenset({"asyncio", "concurrent", "eventlet", "gevent", "greenlet", "trio"})


class Moment:
    """Marks the start of a call to a library that wraps every exception, also one from outside, in its own errors."""

    def __init__(self) -> None:
        #: the exception that the caller handles, which is older than the call
        self.handled = sys.exc_info()[1]


def raise_interruption(exc: BaseException, since: Moment | None = None) -> None:
    """Raise the exception from outside that ``exc`` is or wraps. Do nothing if there is none.

    Call this first in a handler that treats any exception as an error of the data.

    Args:
        exc: the exception that was raised.
        since: the start of the call, to find also an exception that ``exc`` replaced (its ``__context__``).
    """
    found = interruption_in(exc, since)
    if found is not None:
        raise found


def raise_ending(exc: BaseException) -> None:
    """Raise the exception from outside that ``exc`` is or wraps, but not one with which a user's function itself ended.

    Call this first in a handler of ``BaseException`` around a user's function whose failure must not matter: its own
    ``sys.exit()`` is a failure like any other. Ctrl-C, a time limit and a signal handler's exception are from outside.

    Args:
        exc: the exception that was raised.
    """
    if isinstance(exc, Exception):
        raise_interruption(exc)
        return
    classes = type(exc).__mro__
    is_ending = isinstance(exc, KeyboardInterrupt) or any(cls.__module__.split(".")[0] in _ENDING for cls in classes)
    if is_ending or _is_raised_by(exc, frozenset(_handlers())):
        raise exc


def interruption_in(exc: BaseException, since: Moment | None = None) -> BaseException | None:
    """Return the exception from outside: ``exc`` itself or one that a library wrapped in it; ``None`` if there is none.

    See :func:`raise_interruption` for the arguments.
    """
    seen = set() if since is None else {id(since.handled)}
    return _found_in(exc, frozenset(_handlers()), seen, with_contexts=since is not None)


def _found_in(
    exc: BaseException, handlers: frozenset[CodeType], seen: set[int], *, with_contexts: bool
) -> BaseException | None:
    if id(exc) in seen:
        return None
    seen.add(id(exc))
    # the wrapped exception first: kombu passes it on as an argument, with its traceback
    wrapped = [arg for arg in exc.args if isinstance(arg, BaseException)]
    for one in (*wrapped, exc.__cause__, exc.__context__ if with_contexts else None):
        if one is not None and (found := _found_in(one, handlers, seen, with_contexts=with_contexts)) is not None:
            return found
    is_from_outside = not isinstance(exc, Exception) or _is_known(type(exc)) or _is_raised_by(exc, handlers)
    return exc if is_from_outside else None


def _is_known(cls: type) -> bool:
    return any((base.__module__, base.__qualname__) in CLASSES for base in cls.__mro__)


def _is_raised_by(exc: BaseException, handlers: frozenset[CodeType]) -> bool:
    """Return True if one of these functions is in the traceback."""
    trace = exc.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    """Yield the code of the signal handlers of this process."""
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if isinstance(handler, MethodType):
            handler = handler.__func__
        elif callable(handler) and not isinstance(handler, FunctionType):
            handler = type(handler).__dict__.get("__call__")
        if isinstance(handler, FunctionType):
            yield handler.__code__
