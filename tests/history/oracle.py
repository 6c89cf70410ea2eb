"""What a filter finds, by brute force: written from docs/filters.md, and without the code that it checks."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.tree import (
    And,
    Comparison,
    Duration,
    Field,
    Literal,
    Moment,
    Not,
    Number,
    Or,
    Pattern,
    Presence,
    Range,
    Size,
    Text,
)
from rootcellar.history.grouping.identity import text_of_group
from rootcellar.records import ENCRYPTED, NO_DATE
from tests.history.filter_trees import Fact


def holds(node: Any, fact: Fact, clock: Clock) -> bool | None:
    """Return whether a task is found; ``None`` if that depends on a value that cannot be read."""
    if node is None:
        return True
    if isinstance(node, Not):
        answer = holds(node.term, fact, clock)
        return None if answer is None else not answer
    if isinstance(node, (And, Or)):
        answers = [holds(term, fact, clock) for term in node.terms]
        decisive = isinstance(node, Or)
        return decisive if decisive in answers else None if None in answers else not decisive
    if isinstance(node, Text):
        return _text(node.text, fact)
    answers = [_value(node, value, fact, clock) for value in node.values]
    return True if True in answers else None if None in answers else False


def _text(text: str, fact: Fact) -> bool | None:
    wanted = _plain(text)
    places = [fact.record.task_id, fact.record.name or ""]
    error = _error(fact)
    if isinstance(error, dict):
        places += [*_names(error), _message(error) or ""]
    if any(wanted in _plain(place) for place in places):
        return True
    return None if error is None else False


def _value(field: Field, value: Any, fact: Fact, clock: Clock) -> bool | None:
    record = fact.record
    plain: dict[str, str | None] = {
        "task": record.name,
        "queue": record.queue,
        "worker": record.worker,
        "id": record.task_id,
        "group": record.group_id,
        "root": record.root_id,
        "parent": record.parent_id,
        "failure": None if record.failure_group is None else text_of_group(record.failure_group),
    }
    if field.name in plain:
        return _matches(value, plain[field.name])
    if field.name == "state":
        return _state(value, record.state)
    if field.name in ("error", "error.message"):
        return _of_error(field.name, value, fact)
    if field.name in ("is", "has"):
        return _property(field.name, value, fact)
    if field.name in ("args", "kwargs", "result", "stamp"):
        return _json(field, value, fact)
    numbers: dict[str, Any] = {
        "retries": record.retries,
        "size": None if record.result is None else len(record.result.body),
        "runtime": _span(record.started_at, _known(record.done_at)),
        "wait": _span(record.sent_at, record.started_at),
        "total": _span(record.sent_at, _known(record.done_at)),
    }
    if field.name in numbers:
        return _number(value, numbers[field.name])
    if field.name in ("since", "until"):
        moment = record.done_at or record.started_at or record.sent_at
        if isinstance(value, Presence) or moment is None:
            return isinstance(value, Presence) and (moment is not None) == value.is_there
        start = clock.extent(value).start
        return moment >= start if field.name == "since" else moment < start
    moments = {
        "sent": record.sent_at,
        "started": record.started_at,
        "done": _known(record.done_at),
        "expires": record.expires_at,
    }
    return _moment(value, moments[field.name], clock)


# -- plain values


def _matches(value: Any, text: str | None) -> bool:
    if isinstance(value, Presence):
        return (text is not None) == value.is_there
    return text is not None and _glob(value.parts, text) and not _is_odd(value.parts)


def _is_odd(parts: tuple[str, ...]) -> bool:
    return any(letter == "\x00" or "\ud800" <= letter <= "\udfff" for part in parts for letter in part)


def _glob(parts: tuple[str, ...], text: str) -> bool:
    if len(parts) == 1:
        return parts[0] == text
    if not text.startswith(parts[0]):
        return False
    rest = text[len(parts[0]) :]
    return any(_glob(parts[1:], rest[skipped:]) for skipped in range(len(rest) + 1))


def _state(value: Any, state: str) -> bool:
    if isinstance(value, Presence):
        return value.is_there
    words = {
        "failed": {"FAILURE"},
        "succeeded": {"SUCCESS"},
        "running": {"STARTED"},
        "done": {"SUCCESS", "FAILURE", "REVOKED"},
    }
    text = value.parts[0] if len(value.parts) == 1 else None
    if text == "unfinished" and not value.is_quoted:
        return state not in words["done"]
    if text in words and not value.is_quoted:
        return state in words[text]
    return not _is_odd(value.parts) and (_glob(value.parts, state) or (text is not None and text.upper() == state))


def _known(moment: datetime | None) -> datetime | None:
    return None if moment == NO_DATE else moment


def _span(start: datetime | None, end: datetime | None) -> Fraction | None:
    if start is None or end is None:
        return None
    length = end - start
    return Fraction(length.days * 86_400 + length.seconds) + Fraction(length.microseconds, 1_000_000)


def _amount(value: Any) -> Fraction:
    match value:
        case Number(number):
            return Fraction(number)
        case Duration(seconds):
            return Fraction(seconds)
        case Size(size):
            return Fraction(size)
    raise AssertionError(value)


def _number(value: Any, found: Any) -> bool:
    if isinstance(value, Presence):
        return (found is not None) == value.is_there
    if found is None:
        return False
    number = Fraction(found)
    match value:
        case Range(low, high):
            return (low is None or number >= _amount(low)) and (high is None or number <= _amount(high))
        case Comparison(operator, scalar):
            other = _amount(scalar)
            return {">": number > other, ">=": number >= other, "<": number < other, "<=": number <= other}.get(
                operator, number == other
            )
    return number == _amount(value)


def _moment(value: Any, found: datetime | None, clock: Clock) -> bool:
    if isinstance(value, Presence):
        return (found is not None) == value.is_there
    if found is None:
        return False

    def first(moment: Moment) -> datetime:
        return clock.extent(moment).start

    def last(moment: Moment) -> datetime:
        extent = clock.extent(moment)
        return max(extent.start, extent.end - timedelta(microseconds=1))

    match value:
        case Range(low, high):
            return (low is None or found >= first(low)) and (high is None or found <= last(high))
        case Comparison(operator, moment):
            return {
                ">": found > last(moment),
                ">=": found >= first(moment),
                "<": found < first(moment),
                "<=": found <= last(moment),
                "=": first(moment) <= found <= last(moment),
            }[operator]
    return first(value) <= found <= last(value)


# -- exceptions


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _error(fact: Fact) -> Any:
    """Return the stored exception, ``False`` if there is none, and ``None`` if it cannot be read."""
    record = fact.record
    if record.state not in ("FAILURE", "REVOKED") and not (record.state == "RETRY" and record.done_at is None):
        return False
    if "result" in fact.unread:
        return None
    found = fact.values.get("result")
    return found if isinstance(found, dict) and "exc_type" in found else False


def _names(error: dict[str, Any]) -> list[str]:
    name, module = error["exc_type"], error.get("exc_module")
    if not isinstance(name, str):
        return []
    return [name, f"{module}.{name}"] if isinstance(module, str) else [name]


def _message(error: dict[str, Any]) -> str | None:
    found = error.get("exc_message")
    if found is None:
        return None
    parts = found if isinstance(found, list) else [found]
    return " ".join(part if isinstance(part, str) else json.dumps(part, default=str) for part in parts)


def _of_error(name: str, value: Any, fact: Fact) -> bool | None:
    error = _error(fact)
    if error is None:
        return None
    texts = [] if error is False else _names(error)
    message = None if error is False else _message(error)
    if name == "error.message":
        if isinstance(value, Presence):
            return (message is not None) == value.is_there
        return message is not None and _plain(value.parts[0]) in _plain(message)
    if isinstance(value, Presence):
        return bool(texts) == value.is_there
    return any(_glob(value.parts, text) for text in texts)


def _property(name: str, value: Any, fact: Fact) -> bool:
    record = fact.record
    payloads = [record.result, record.args, record.kwargs, record.children, record.stamps]
    known = {
        "is": {
            "child": record.parent_id not in (None, record.task_id),
            "damaged": False,
            "encrypted": any(each is not None and each.key_id.startswith(ENCRYPTED) for each in payloads),
            "retried": (record.retries or 0) > 0,
        },
        "has": {
            "args": record.args is not None or record.kwargs is not None,
            "children": record.children is not None,
            "result": record.result is not None,
            "stamps": record.stamps is not None,
            "traceback": record.traceback is not None,
        },
    }[name]
    if isinstance(value, Presence):
        return any(known.values()) == value.is_there
    return known[value.parts[0]]


# -- JSON


def _json(field: Field, value: Any, fact: Fact) -> bool | None:
    path = [step.name for step in field.path]
    column = {"stamp": "stamps"}.get(field.name, field.name)
    places: list[tuple[str, list[str | None]]] = [(column, path)]
    if field.name == "args" and not path:
        places = [("args", []), ("kwargs", [])]
    elif field.name == "args" and path[0] is not None and not path[0].isdigit():
        places = [("kwargs", path), ("args", [None, *path])]
    answers: list[bool | None] = []
    for name, steps in places:
        if name in fact.unread:
            answers.append(True if isinstance(value, Presence) and not steps else None)
        elif name in fact.values:
            found = list(_walk(fact.values[name], steps))
            if not steps and not isinstance(value, Presence):
                found = [leaf for each in found for leaf in _leaves(each)]
            answers.append(any(_is(value, each) for each in found))
    answer = True if True in answers else None if None in answers else False
    if isinstance(value, Presence) and not value.is_there:
        return None if answer is None else not answer
    return answer


def _walk(value: Any, path: list[str | None]) -> Iterator[Any]:
    if not path:
        yield value
        return
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        for key, each in value.items():
            if step is None or key == step:
                yield from _walk(each, rest)
    if isinstance(value, list):
        for place, each in enumerate(value):
            if step is None or (step.isdigit() and int(step) == place):
                yield from _walk(each, rest)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


def _is(value: Any, found: Any) -> bool:
    is_number = isinstance(found, (int, Decimal)) and not isinstance(found, bool)
    match value:
        case Presence():
            return True
        case Literal(literal):
            return found is literal
        case Pattern(parts):
            return isinstance(found, str) and _glob(parts, found)
        case Number():
            return (is_number and _number(value, found)) or (isinstance(found, str) and found == value.text)
    return is_number and _number(value, found)


def place(fact: Fact) -> tuple[int, int]:
    """Return the place of a task in a list: the segment, and its time, the latest first."""
    record = fact.record
    moment = record.done_at or record.started_at or record.sent_at
    if moment is None:
        return (0, 0)
    return (1 if record.done_at is None else 2, (NO_DATE - moment) // timedelta(microseconds=1))
