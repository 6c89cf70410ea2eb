"""Says whether a record matches a filter: for what no server can search, and as the meaning of every other reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from rootcellar.history.filters.fields import STATE_GROUPS
from rootcellar.history.filters.moments import Clock, Extent
from rootcellar.history.filters.tree import (
    And,
    Comparison,
    Duration,
    Field,
    Literal,
    Moment,
    Node,
    Not,
    Number,
    Or,
    Pattern,
    Presence,
    Range,
    Size,
    Step,
    Text,
    Value,
)
from rootcellar.records import DAMAGED, NO_DATE, Payload, TaskRecord

Test = Callable[["Row"], bool]

_JSON_TYPES = ("application/json", "application/x-rootcellar-json")
#: fields that are a text of the record
_TEXTS: dict[str, Callable[[TaskRecord], str | None]] = {
    "task": lambda record: record.name,
    "queue": lambda record: record.queue,
    "worker": lambda record: record.worker,
    "id": lambda record: record.task_id,
    "group": lambda record: record.group_id,
    "root": lambda record: record.root_id,
    "parent": lambda record: record.parent_id,
}


class Row:
    """A record as a filter reads it.

    Args:
        record: with payloads that were decrypted and decompressed.
    """

    def __init__(self, record: TaskRecord) -> None:
        self.record = record

    @cached_property
    def args(self) -> Any:
        return _json(self.record.args)

    @cached_property
    def kwargs(self) -> Any:
        return _json(self.record.kwargs)

    @cached_property
    def result(self) -> Any:
        return _json(self.record.result)

    @cached_property
    def stamps(self) -> Any:
        return _json(self.record.stamps)

    @property
    def exception(self) -> dict[str, Any]:
        """The stored exception; empty where the task did not fail."""
        is_failure = self.record.state in ("FAILURE", "RETRY", "REVOKED")
        found = self.result if is_failure and isinstance(self.result, dict) else {}
        return found if "exc_type" in found else {}

    @property
    def error_names(self) -> tuple[str, ...]:
        """The name of the exception's type, alone and with its module."""
        name, module = self.exception.get("exc_type"), self.exception.get("exc_module")
        if not isinstance(name, str):
            return ()
        return (name, f"{module}.{name}") if isinstance(module, str) else (name,)

    @cached_property
    def error_message(self) -> str | None:
        found = self.exception.get("exc_message")
        if found is None:
            return None
        return found if isinstance(found, str) else " ".join(map(str, found)) if isinstance(found, list) else str(found)

    @property
    def done_at(self) -> datetime | None:
        return None if self.record.done_at == NO_DATE else self.record.done_at

    @property
    def moment(self) -> datetime | None:
        """When it ended, or else started, or else was sent."""
        return self.record.done_at or self.record.started_at or self.record.sent_at

    def seconds(self, name: str) -> Decimal | None:
        """Return ``runtime``, ``wait`` or ``total``; ``None`` where one of the two times is unknown."""
        start = self.record.started_at if name == "runtime" else self.record.sent_at
        end = self.record.started_at if name == "wait" else self.done_at
        if start is None or end is None:
            return None
        return (
            (Decimal((end - start).days) * 86_400)
            + Decimal((end - start).seconds)
            + Decimal((end - start).microseconds) / 1_000_000
        )


def matcher(condition: Node | None, clock: Clock) -> Callable[[TaskRecord], bool]:
    """Return the function that says whether a record matches.

    Args:
        condition: the filter's; ``None`` for every record.
        clock: the present and the zone of its moments.

    Raises:
        ValueError: a moment cannot be understood in this zone.
    """
    if condition is None:
        return lambda record: True
    test = _test(condition, clock)
    return lambda record: test(Row(record))


def _test(node: Node, clock: Clock) -> Test:
    match node:
        case And(terms):
            tests = [_test(term, clock) for term in terms]
            return lambda row: all(test(row) for test in tests)
        case Or(terms):
            tests = [_test(term, clock) for term in terms]
            return lambda row: any(test(row) for test in tests)
        case Not(term):
            negated = _test(term, clock)
            return lambda row: not negated(row)
        case Text(text):
            wanted = text.casefold()
            return lambda row: any(wanted in found.casefold() for found in _free_texts(row))
        case Field():
            tests = [_field(node, value, clock) for value in node.values]
            return lambda row: any(test(row) for test in tests)


def _free_texts(row: Row) -> Iterator[str]:
    yield row.record.task_id
    yield row.record.name or ""
    yield from row.error_names
    yield row.error_message or ""


def _field(field: Field, value: Value, clock: Clock) -> Test:
    name = field.name
    if name in _TEXTS:
        return _text(_TEXTS[name], value)
    if name == "state":
        return _state(value)
    if name == "error":
        return _error(value)
    if name == "error.message":
        return _message(value)
    if name in ("is", "has"):
        return _property(name, value)
    if name == "retries":
        return _ordered(lambda row: None if row.record.retries is None else Decimal(row.record.retries), value)
    if name in ("runtime", "wait", "total"):
        return _ordered(lambda row: row.seconds(name), value)
    if name == "size":
        return _ordered(lambda row: None if row.record.result is None else Decimal(len(row.record.result.body)), value)
    if name in ("since", "until"):
        return _bound(name, value, clock)
    if name in ("sent", "started", "done", "expires"):
        return _time(name, value, clock)
    return _json_field(field, value)


def _text(get: Callable[[TaskRecord], str | None], value: Value) -> Test:
    match value:
        case Presence(is_there):
            return lambda row: (get(row.record) is not None) == is_there
        case Pattern() as pattern:
            expression = pattern.expression
            return lambda row: (found := get(row.record)) is not None and bool(expression.fullmatch(found))
    raise AssertionError(value)


def _state(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: value.is_there
    assert isinstance(value, Pattern)
    if value.text in STATE_GROUPS:
        states = STATE_GROUPS[value.text]
        return lambda row: (row.record.state in states) != (value.text == "unfinished")
    expression = value.expression
    return lambda row: bool(expression.fullmatch(row.record.state)) or row.record.state == (value.text or "").upper()


def _error(value: Value) -> Test:
    match value:
        case Presence(is_there):
            return lambda row: bool(row.error_names) == is_there
        case Pattern() as pattern:
            expression = pattern.expression
            return lambda row: any(expression.fullmatch(name) for name in row.error_names)
    raise AssertionError(value)


def _message(value: Value) -> Test:
    match value:
        case Presence(is_there):
            return lambda row: (row.error_message is not None) == is_there
        case Pattern() as pattern:
            wanted = (pattern.text or "").casefold()
            return lambda row: row.error_message is not None and wanted in row.error_message.casefold()
    raise AssertionError(value)


_PROPERTIES: dict[tuple[str, str], Callable[[TaskRecord], bool]] = {
    ("is", "child"): lambda record: record.parent_id is not None and record.parent_id != record.task_id,
    ("is", "damaged"): lambda record: (
        bool(record.damage) or any(each.content_type == DAMAGED for each in _payloads(record))
    ),
    ("is", "encrypted"): lambda record: any(each.key_id for each in _payloads(record)),
    ("is", "retried"): lambda record: bool(record.retries),
    ("has", "args"): lambda record: record.args is not None or record.kwargs is not None,
    ("has", "children"): lambda record: record.children is not None,
    ("has", "result"): lambda record: record.result is not None,
    ("has", "stamps"): lambda record: record.stamps is not None,
    ("has", "traceback"): lambda record: record.traceback is not None,
}


def _property(name: str, value: Value) -> Test:
    if isinstance(value, Presence):
        every = [test for (field, _), test in _PROPERTIES.items() if field == name]
        return lambda row: any(test(row.record) for test in every) == value.is_there
    assert isinstance(value, Pattern)
    holds = _PROPERTIES[name, value.text or ""]
    return lambda row: holds(row.record)


def _payloads(record: TaskRecord) -> list[Payload]:
    found = (record.result, record.args, record.kwargs, record.children, record.stamps)
    return [payload for payload in found if payload is not None]


# -- values with an order


def _amount(value: Any) -> Decimal:
    match value:
        case Number(number):
            return number
        case Duration(seconds):
            return seconds
        case Size(size):
            return Decimal(size)
    raise AssertionError(value)


def _ordered(get: Callable[[Row], Decimal | None], value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: (get(row) is not None) == value.is_there
    holds = _comparison(value)
    return lambda row: (found := get(row)) is not None and holds(found)


def _comparison(value: Value) -> Callable[[Decimal], bool]:
    match value:
        case Range(low, high):
            least = None if low is None else _amount(low)
            most = None if high is None else _amount(high)
            return lambda found: (least is None or found >= least) and (most is None or found <= most)
        case Comparison(operator, scalar):
            amount = _amount(scalar)
            return {
                ">": lambda found: found > amount,
                ">=": lambda found: found >= amount,
                "<": lambda found: found < amount,
                "<=": lambda found: found <= amount,
                "=": lambda found: found == amount,
            }[operator]
    amount = _amount(value)
    return lambda found: found == amount


def _bound(name: str, value: Value, clock: Clock) -> Test:
    if isinstance(value, Presence):
        return lambda row: (row.moment is not None) == value.is_there
    assert isinstance(value, Moment)
    start = clock.extent(value).start
    if name == "since":
        return lambda row: (found := row.moment) is not None and found >= start
    return lambda row: (found := row.moment) is not None and found < start


def _time(name: str, value: Value, clock: Clock) -> Test:
    def get(row: Row) -> datetime | None:
        return row.done_at if name == "done" else getattr(row.record, f"{name}_at")

    if isinstance(value, Presence):
        return lambda row: (get(row) is not None) == value.is_there
    start, end = bounds(value, clock)
    return lambda row: (
        (found := get(row)) is not None and (start is None or found >= start) and (end is None or found < end)
    )


def bounds(value: Value, clock: Clock) -> tuple[datetime | None, datetime | None]:
    """Return from when, included, to when, excluded, a moment, comparison or range of time is; ``None`` for no bound.

    Raises:
        ValueError: a moment cannot be understood.
    """
    match value:
        case Range(low, high):
            start = None if low is None else _extent(low, clock).start
            return start, None if high is None else _after(_extent(high, clock))
        case Comparison(operator, scalar):
            extent = _extent(scalar, clock)
            return {
                ">": (_after(extent), None),
                ">=": (extent.start, None),
                "<": (None, extent.start),
                "<=": (None, _after(extent)),
                "=": (extent.start, _after(extent)),
            }[operator]
    extent = _extent(value, clock)
    return extent.start, _after(extent)


def _extent(value: Any, clock: Clock) -> Extent:
    assert isinstance(value, Moment)
    return clock.extent(value)


def _after(extent: Extent) -> datetime:
    """Return the first moment after an extent; a point in time is included in what ends with it."""
    return extent.end if extent.end > extent.start else extent.start + datetime.resolution


# -- values of JSON


def _json(payload: Payload | None) -> Any:
    """Return the value of a payload of JSON with exact numbers; a missing one for what cannot be read."""
    if payload is None or payload.content_type not in _JSON_TYPES or payload.compression or payload.key_id:
        return _MISSING
    try:
        return json.loads(payload.body, parse_float=Decimal, parse_constant=str)
    except (ValueError, RecursionError, ArithmeticError):
        return _MISSING


_MISSING = object()


def _json_field(field: Field, value: Value) -> Test:
    path = field.path
    holds = _json_test(value)

    def places(row: Row) -> Iterator[Any]:
        match field.name:
            case "args" if path and not (path[0].name or "*").isdigit() and path[0].name is not None:
                # positional arguments have no names: a name is a keyword argument's, or a key of an object in the list
                yield from _found(row.kwargs, path)
                yield from _found(row.args, (Step(None), *path))
            case "args":
                yield from _found(row.args, path)
            case "kwargs":
                yield from _found(row.kwargs, path)
            case "stamp":
                yield from _found(row.stamps, path)
            case _:
                yield from _found(row.result, path)

    if isinstance(value, Presence):
        return lambda row: any(True for _ in places(row)) == value.is_there
    if not path:
        return lambda row: any(holds(leaf) for place in places(row) for leaf in _leaves(place))
    return lambda row: any(holds(found) for found in places(row))


def _found(value: Any, path: tuple[Step, ...]) -> Iterator[Any]:
    """Yield every value at a path."""
    if value is _MISSING:
        return
    if not path:
        yield value
        return
    name, rest = path[0].name, path[1:]
    if name is None:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from _found(each, rest)
    elif isinstance(value, dict):
        if name in value:
            yield from _found(value[name], rest)
    elif isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(value):
        yield from _found(value[int(name)], rest)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every value that is no list and no object, at any depth."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
        else:
            yield each


def _json_test(value: Value) -> Callable[[Any], bool]:
    match value:
        case Literal(wanted):
            return lambda found: found is wanted
        case Number(number):
            text = str(value)
            return lambda found: (
                (_is_number(found) and Decimal(found) == number) or (found == text and isinstance(found, str))
            )
        case Pattern() as pattern:
            expression = pattern.expression
            return lambda found: isinstance(found, str) and bool(expression.fullmatch(found))
        case Presence():
            return lambda found: True
    holds = _comparison(value)
    return lambda found: _is_number(found) and holds(Decimal(found))


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, Decimal)) and not isinstance(found, bool)
