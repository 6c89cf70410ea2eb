"""Limits the size of results. A larger result is refused, truncated, or stored in a blob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.payloads.errors import NotEncodable
from rootcellar.payloads.redaction.redaction import MORE, exception_with
from rootcellar.records import Payload
from rootcellar.support.sizes import read_size

REFUSE, TRUNCATE, SPILL = "refuse", "truncate", "spill"
TOO_LARGE_CHOICES = (REFUSE, TRUNCATE, SPILL)
#: a task's attributes that override the settings of the same name
MAX_SIZE, TOO_LARGE = "result_max_size", "result_too_large"
#: the only key of the value that is stored instead of a truncated result
TRUNCATED = "rootcellar.truncated"
#: the most characters of a truncated value, and the least to which a failure's text is truncated
_MAX_TRUNCATED_CHARACTERS, _MIN_FAILURE_CHARACTERS = 10_000, 200
#: the most arguments of a truncated failure
_MAX_ARGUMENTS = 20
#: the fields with the class of a failure
_CLASS_FIELDS = ("exc_type", "exc_module")


class ResultTooLarge(NotEncodable):
    """A result is larger than ``result_max_size`` allows. Not retryable; Celery records the task as a FAILURE."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on the size of results.

    Attributes:
        max_size: the most bytes of a serialized result; ``None`` for no limit.
        too_large: what happens to a larger one.
    """

    max_size: int | None = None
    too_large: str = REFUSE

    def of(self, task: Any) -> Limit:
        """Return the limit for a task."""
        size, choice = getattr(task, MAX_SIZE, None), getattr(task, TOO_LARGE, None)
        if size is None and choice is None:
            return self
        where = f"task {getattr(task, 'name', '')}"
        return Limit(
            self.max_size if size is None else read_size(size, f"{MAX_SIZE} of {where}"),
            self.too_large if choice is None else read_choice(choice, f"{TOO_LARGE} of {where}"),
        )

    def exceeded_by(self, payload: Payload) -> bool:
        """Return True if a serialized value is too large."""
        return self.max_size is not None and len(payload.body) > self.max_size

    def refusal(self, payload: Payload, name: str, why: str = "") -> ResultTooLarge:
        """Return the error with the size of a result and its limit."""
        return ResultTooLarge(
            f"the result of task {name} has {len(payload.body):,} bytes as {payload.content_type}, "
            f"of {self.max_size:,} that it may have{why}",
            where=MAX_SIZE,
            remedy=f"return less, or only a reference to the data; raise {MAX_SIZE}; or set {TOO_LARGE} to truncate "
            "or spill",
        )

    def cut(self, payload: Payload) -> dict[str, Any]:
        """Return the value that is stored instead of a truncated one."""
        beginning = ""
        if payload.content_type.endswith("json"):
            cut_to = min(_MAX_TRUNCATED_CHARACTERS, self.max_size or 0)
            beginning = payload.body[:cut_to].decode(payload.content_encoding, "ignore")
        return {TRUNCATED: {"size": len(payload.body), "limit": self.max_size, "beginning": beginning}}

    def cut_failure(self, failure: Any) -> Any:
        """Return an exception with truncated arguments. A failure is always stored."""
        cut_to = max(_MIN_FAILURE_CHARACTERS, self.max_size or 0)

        def cut(argument: Any) -> Any:
            shown = argument if isinstance(argument, str) else repr(argument)
            return shown if len(shown) <= cut_to else f"{shown[:cut_to]}… [{len(shown):,} characters]"

        if isinstance(failure, BaseException):
            copied = exception_with(failure, cut)
            copied.args = copied.args[:_MAX_ARGUMENTS]
            return copied

        def cut_all(value: Any) -> Any:
            return list(map(cut, value[:_MAX_ARGUMENTS])) if isinstance(value, (list, tuple)) else cut(value)

        # the other details of the exception are left out, because they may be as long
        kept = {name: each for name, each in failure.items() if name != MORE}
        return {name: each if name in _CLASS_FIELDS else cut_all(each) for name, each in kept.items()}


def cut_middle(text: str, cut_to: int) -> str:
    """Return a text without its middle if it is longer than ``cut_to``: the end of a traceback is most important."""
    if len(text) <= cut_to:
        return text
    return f"{text[: cut_to // 2]}\n… [{len(text):,} characters] …\n{text[-(cut_to - cut_to // 2) :]}"


def read_choice(given: Any, where: str) -> str:
    """Return what happens to a result that is too large.

    Raises:
        ConfigurationError: it is none of the allowed values.
    """
    choice = str(given).strip().lower()
    if choice not in TOO_LARGE_CHOICES:
        raise ConfigurationError(
            f"{given!r} is not known", where=where, remedy=f"use one of {', '.join(TOO_LARGE_CHOICES)}"
        )
    return choice
