"""Escapes text from outside, so that in terminals, logs and errors it can neither control nor hide anything."""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import Any

#: control characters, characters that change the direction of text, lone surrogates, and invisible characters
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U00013430-\U0001345f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Return ``text`` as one line that cannot control a terminal. Invisible characters become escapes."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """Return ``text`` like :func:`visible`, but keep its lines."""
    return "\n".join(visible(line.expandtabs()) for line in text.split("\n"))


def escaped(text: str) -> str:
    """Return a JSON text in which invisible characters are JSON escapes. Line ends between its values are kept."""
    return "\n".join(_UNSAFE.sub(_json_escape, line) for line in text.split("\n"))


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def visible_logs(logger: logging.Logger) -> logging.Logger:
    """Make one of our loggers escape its arguments (ids, names, messages of servers and errors); return it."""
    if _make_visible not in logger.filters:
        logger.addFilter(_make_visible)
    return logger


class _Visible:
    """An argument of a log message. Its text is made only when the message is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        return visible(str(self._value))

    def __repr__(self) -> str:
        return visible(repr(self._value))


def _make_visible(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_shown, record.args))
    elif record.args:
        record.args = {name: _shown(value) for name, value in record.args.items()}
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        lines = "".join(traceback.format_exception(*record.exc_info))
        record.exc_text = visible_lines(lines.rstrip("\n"))
    return True


def _shown(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else _Visible(value)
