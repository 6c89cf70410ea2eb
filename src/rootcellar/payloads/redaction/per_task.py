"""Chooses the patterns for each task, and warns if a stored result differs from the returned one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rootcellar.payloads.errors import NotEncodable
from rootcellar.payloads.redaction.cards import MASK
from rootcellar.payloads.redaction.patterns import STANDARD, Patterns, read_patterns
from rootcellar.payloads.redaction.redaction import Redaction
from rootcellar.records import Payload
from rootcellar.support.interruptions import raise_interruption
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: a task's attribute: its own patterns, see :func:`rootcellar.payloads.redaction.patterns.read_patterns`
ATTRIBUTE = "result_redact"
_SCALARS = (float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Call:
    """The task and the call to which a value belongs, as far as they are known.

    Attributes:
        task: the task, whose attributes may override the settings (``result_serializer``, …).
        args, kwargs: its arguments.
    """

    task: Any = None
    args: Any = None
    kwargs: Any = None


class _Redactions:
    """The redaction for a task: of its calls and failures, and of its results."""

    __slots__ = ("calls", "patterns", "results")

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.calls, self.results = Redaction(patterns.calls), Redaction(patterns.results)


class Redactor:
    """Redacts the values of tasks. Safe to use from any thread.

    Args:
        patterns: the patterns for tasks without patterns of their own.
    """

    def __init__(self, patterns: Patterns = STANDARD) -> None:
        self._default = _Redactions(patterns)
        self._by_task: dict[Any, _Redactions] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._warned: set[str] = set()

    def encoded(
        self, value: Any, call: Call, serialise: Callable[[Any], Payload], *, is_result: bool, is_failure: bool = False
    ) -> Payload:
        """Return ``value`` serialized, with secrets masked.

        Args:
            value: a task's result, or its keyword arguments or stamps.
            call: the task.
            serialise: turns a value into a payload.
            is_result: whether clients or other tasks use the value: then only patterns that were set explicitly apply.
            is_failure: whether it is an exception.
        """
        redactions = self._of(call)
        redaction = redactions.results if is_result and not is_failure else redactions.calls
        if not redaction or isinstance(value, _SCALARS):
            return serialise(value)
        if is_failure:
            value = redaction.failure(value, self._secrets(redaction, call))
        payload = serialise(value)
        if not redaction.may_match(payload):
            return payload
        found: list[str] = []
        try:
            redacted = redaction.value(value, found)
            if redacted is not value:
                payload = serialise(redacted)
            if payload.content_type.endswith("json"):
                payload = redaction.payload(payload, found)
        except NotEncodable:
            raise
        except Exception as exc:  # a user's class may raise any exception, such as one that cannot be copied
            raise_interruption(exc)
            raise NotEncodable(
                f"a value of type {type(value).__name__} cannot be redacted: {type(exc).__name__}",
                where=ATTRIBUTE,
                remedy="return plain data, or turn off redaction for this task",
            ) from None
        if found and is_result and not is_failure:
            self._warn(call, found)
        return payload

    def arguments(self, args: Any, call: Call) -> Any:
        """Return positional arguments, redacted by the names of the task's parameters."""
        redaction = self._of(call).calls
        names = self._names_of(call) if redaction else ()
        # names inside the arguments are found when their values are encoded
        return redaction.arguments(args, names) if names and redaction.concerns(names) else args

    def masks(self, path: Sequence[str]) -> bool:
        """Return whether the keyword argument at a path is masked, for tasks without patterns of their own."""
        nested: Any = "a value"
        for name in reversed(path):
            nested = {name: nested}
        redaction = self._default.calls
        return bool(redaction) and redaction.value(nested) != nested

    def shown(self, value: Any, call: Call, *, is_args: bool) -> str:
        """Return the ``repr`` of a value, redacted."""
        redaction = self._of(call).calls
        redacted = redaction.arguments(value, self._names_of(call)) if is_args else redaction.value(value)
        return redaction.text(repr(redacted), self._secrets(redaction, call))

    def text(self, text: str, call: Call) -> str:
        """Return the text of a traceback, redacted."""
        redaction = self._of(call).calls
        return redaction.text(text, self._secrets(redaction, call)) if redaction else text

    def _of(self, call: Call) -> _Redactions:
        own = getattr(call.task, ATTRIBUTE, None)
        if own is None:
            return self._default
        key = own if isinstance(own, (str, bool)) else tuple(own)
        found = self._by_task.get(key)
        if found is None:
            where = f"{ATTRIBUTE} of task {getattr(call.task, 'name', '')}"
            found = self._by_task[key] = _Redactions(read_patterns(own, where, self._default.patterns))
        return found

    def _secrets(self, redaction: Redaction, call: Call) -> set[str] | None:
        try:
            return redaction.secrets(call.args, self._names_of(call), call.kwargs)
        except Exception as exc:  # a user's class may raise any exception, and the failure must still be stored
            raise_interruption(exc)
            name = getattr(call.task, "name", None)
            logger.warning("The arguments of task %s cannot be searched for secrets: its whole error is masked.", name)
            return None

    def _names_of(self, call: Call) -> tuple[str, ...]:
        """Return the names of a task's positional arguments."""
        name = getattr(call.task, "name", None)
        if name is None:
            return ()
        if name not in self._names:
            self._names[name] = _positional(call.task.run)
        return self._names[name]

    def _warn(self, call: Call, found: Sequence[str]) -> None:
        """Warn once for each task that its stored result differs from the returned one."""
        name = getattr(call.task, "name", None) or "of unknown name"
        if name in self._warned:
            return
        self._warned.add(name)
        names = ", ".join(dict.fromkeys(found))
        logger.warning(
            "The result of task %s contains %s, which is stored as %r: clients that wait for it get only that. "
            'Keep it by @app.task(%s=["-%s"]), or everything by %s=False. (Logged once for each task.)',
            *(name, names, MASK, ATTRIBUTE, found[0], ATTRIBUTE),
        )


def is_failure(value: Any) -> bool:
    """Return True if a value is an exception or its stored form. A returned value may look the same."""
    return isinstance(value, BaseException) or (isinstance(value, dict) and "exc_type" in value)


def _positional(run: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in parameters if each.kind in kinds)
