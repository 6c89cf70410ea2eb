"""Groups that the application chooses: ``exc.failure_group``, and functions given to ``group_failures``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rootcellar.support.interruptions import raise_ending
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: in a list, this text stands for the group that would be computed
DEFAULT = "{default}"
#: the most texts of a list, and characters of a text
_MAX_PARTS, _LONGEST = 20, 500

F = TypeVar("F", bound=Callable[[BaseException, "str | None"], "str | Sequence[str] | None"])

_functions: list[Callable[[BaseException, str | None], Any]] = []
#: those that have failed; a list, because a callable need not be hashable
_failed: list[Any] = []


def group_failures(function: F) -> F:
    """Ask a function for the group of each failure, in the worker. It can be used as a decorator.

    The function gets the exception and the name of the task, or ``None`` if the name is not known. It returns a text
    that identifies the group, or a list of texts, in which ``"{default}"`` stands for the group that rootcellar would
    compute; or ``None`` to leave the choice to the functions that were given before, and then to rootcellar. If it
    raises an exception or exits, that is logged once, and the function is ignored for this failure.

    Args:
        function: ``function(exc, task) -> str | list[str] | None``.

    Returns:
        the same function.
    """
    _functions.append(function)
    return function


def own_parts(exc: Any, task: str | None, attribute: Any) -> tuple[str, ...]:
    """Return the texts that the application chose for a failure; none if it did not choose.

    Args:
        exc: the exception, or anything else if it is not at hand.
        task: the name of the task.
        attribute: the value of the exception's attribute ``failure_group``; it counts before the functions.
    """
    if parts := _parts(attribute):
        return parts
    if isinstance(exc, BaseException):
        for function in reversed(_functions):
            if parts := _parts(_called(function, exc, task)):
                return parts
    return ()


def _called(function: Callable[[BaseException, str | None], Any], exc: BaseException, task: str | None) -> Any:
    try:
        return function(exc, task)
    except BaseException as problem:  # the application's function may raise or exit, and the failure must be stored
        raise_ending(problem)
        if not any(each is function for each in _failed):
            _failed.append(function)
            logger.warning(
                "%s, given to rootcellar.group_failures, failed and is ignored for such failures (logged once): %r",
                getattr(function, "__qualname__", function),
                problem,
                exc_info=True,
            )
        return None


def _parts(chosen: Any) -> tuple[str, ...]:
    """Return the texts of a choice; none for a value of another type."""
    if isinstance(chosen, str):
        return (chosen[:_LONGEST],) if chosen else ()
    if isinstance(chosen, (list, tuple)) and chosen and all(isinstance(part, (str, int)) for part in chosen):
        return tuple(str(part)[:_LONGEST] for part in chosen[:_MAX_PARTS])
    return ()
