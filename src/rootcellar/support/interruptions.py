"""Exceptions that come from outside the code in which they are raised, and must go through unchanged.

A soft time limit, a web server that gives a request up, and Ctrl-C raise an exception wherever a thread is: also while
a value is encoded or a class of the user's is called, where any other exception is taken for an error of the data.
Most of them do not extend ``Exception`` and pass every handler. Those that extend it are recognised here:

- by their class: :data:`CLASSES` names those of the libraries that are known to do so;
- by their origin: what a handler of a signal raised, of whatever class, has that handler in its traceback.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

#: module and name of each class; with what extends it
CLASSES = frozenset(
    {
        # Celery's are the same
        ("billiard.exceptions", "SoftTimeLimitExceeded"),
        ("billiard.exceptions", "TimeLimitExceeded"),
        ("stopit.utils", "TimeoutException"),
        ("rq.timeouts", "BaseTimeoutException"),
        ("timeout_decorator.timeout_decorator", "TimeoutError"),
        ("wrapt_timeout_decorator.wrapt_timeout_decorator", "TimeoutError"),
    }
)


class Moment:
    """The beginning of a call of a library that makes errors of its own of any exception, also of one from outside."""

    def __init__(self) -> None:
        #: what the caller is handling: it came from outside before, and has nothing to do with the call
        self.handled = sys.exc_info()[1]


def raise_interruption(exc: BaseException, since: Moment | None = None) -> None:
    """Raise what came from outside, if that is what ``exc`` is or wraps; otherwise do nothing.

    To be called first in a handler that takes any exception for an error of the data.

    Args:
        exc: what was raised.
        since: when the call began, to find also what was replaced by ``exc`` (its ``__context__``).
    """
    found = interruption_in(exc, since)
    if found is not None:
        raise found


def interruption_in(exc: BaseException, since: Moment | None = None) -> BaseException | None:
    """Return what came from outside: ``exc`` itself, or what a library wrapped in it; ``None`` if nothing did.

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
    # what is wrapped before what wraps it: kombu hands it over as an argument, with its traceback
    wrapped = [arg for arg in exc.args if isinstance(arg, BaseException)]
    for one in (*wrapped, exc.__cause__, exc.__context__ if with_contexts else None):
        if one is not None and (found := _found_in(one, handlers, seen, with_contexts=with_contexts)) is not None:
            return found
    is_from_outside = not isinstance(exc, Exception) or _is_known(type(exc)) or _is_raised_by(exc, handlers)
    return exc if is_from_outside else None


def _is_known(cls: type) -> bool:
    return any((base.__module__, base.__qualname__) in CLASSES for base in cls.__mro__)


def _is_raised_by(exc: BaseException, handlers: frozenset[CodeType]) -> bool:
    """Tell whether one of these functions is in the traceback."""
    trace = exc.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    """Yield the code of the functions that handle signals in this process."""
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if isinstance(handler, MethodType):
            handler = handler.__func__
        elif callable(handler) and not isinstance(handler, FunctionType):
            handler = type(handler).__dict__.get("__call__")
        if isinstance(handler, FunctionType):
            yield handler.__code__
