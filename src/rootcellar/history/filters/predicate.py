"""Says whether a record matches a filter: where no server can search, and as the definition of what a filter means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rootcellar.errors import AbilityMissing
from rootcellar.history.filters.fields import LOOKED_UP, STATE_GROUPS
from rootcellar.history.filters.moments import Clock, Extent
from rootcellar.history.filters.rows import MISSING, UNREAD, Opener, Row, as_it_is, folded
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
    is_findable,
    leaves,
)
from rootcellar.history.grouping.identity import group_of_text
from rootcellar.records import DAMAGED, TaskRecord

#: ``None``: unknown, because a value that the filter asks for cannot be read
Test = Callable[[Row], "bool | None"]

#: fields that are a text of the record
TEXT_ATTRIBUTES: dict[str, str] = {
    "task": "name",
    "queue": "queue",
    "worker": "worker",
    "id": "task_id",
    "group": "group_id",
    "root": "root_id",
    "parent": "parent_id",
}
#: fields that read values, which may be encrypted
_VALUE_FIELDS = frozenset({"error", "error.message", "args", "kwargs", "result", "stamp"})


class Matcher:
    """Says whether records match a condition, and counts those whose values cannot be read.

    Args:
        condition: the filter's; ``None`` for every record.
        clock: the present and the zone of its moments.
        opener: opens a record when one of its values is read.

    Attributes:
        unread: how many records were not found because a value that the filter asks for is encrypted with another key,
            damaged, in a blob, or no JSON.

    Raises:
        ValueError: a moment cannot be understood in this zone.
    """

    def __init__(self, condition: Node | None, clock: Clock, opener: Opener = as_it_is) -> None:
        self._test: Test = (lambda row: True) if condition is None else _test(condition, clock)
        self._opener = opener
        self.unread = 0

    def __call__(self, record: TaskRecord) -> bool:
        answer = self.answer(record)
        self.unread += answer is None
        return bool(answer)

    def answer(self, record: TaskRecord) -> bool | None:
        """Return whether a record matches; ``None`` if a value that the filter asks for cannot be read."""
        return self._test(Row(record, self._opener))


def _test(node: Node, clock: Clock) -> Test:
    match node:
        case And(terms):
            return _every([_test(term, clock) for term in _cheapest_first(terms)])
        case Or(terms):
            return _some([_test(term, clock) for term in _cheapest_first(terms)])
        case Not(term):
            negated = _test(term, clock)
            return lambda row: None if (answer := negated(row)) is None else not answer
        case Text(text):
            return _free_text(text)
        case Field():
            return _some([_field(node, value, clock) for value in node.values])


def _cheapest_first(terms: tuple[Node, ...]) -> list[Node]:
    """Return the terms that read values last, so that a record that another term decides is not counted as unread."""
    return sorted(terms, key=_reads_values)


def _reads_values(node: Node) -> bool:
    return any(isinstance(leaf, Text) or leaf.name in _VALUE_FIELDS for leaf in leaves(node))


def _every(tests: Sequence[Test]) -> Test:
    def test(row: Row) -> bool | None:
        answer: bool | None = True
        for each in tests:
            found = each(row)
            if found is False:
                return False
            if found is None:
                answer = None
        return answer

    return tests[0] if len(tests) == 1 else test


def _some(tests: Sequence[Test]) -> Test:
    def test(row: Row) -> bool | None:
        answer: bool | None = False
        for each in tests:
            found = each(row)
            if found:
                return True
            if found is None:
                answer = None
        return answer

    return tests[0] if len(tests) == 1 else test


def _free_text(text: str) -> Test:
    wanted = folded(text)

    def test(row: Row) -> bool | None:
        if any(wanted in folded(found) for found in _free_texts(row)):
            return True
        return None if row.is_exception_unread else False

    return test


def _free_texts(row: Row) -> Iterator[str]:
    yield row.record.task_id
    yield row.record.name or ""
    yield from row.error_names
    yield row.error_message or ""


def _field(field: Field, value: Value, clock: Clock) -> Test:
    name = field.name
    if name in TEXT_ATTRIBUTES:
        return _text(TEXT_ATTRIBUTES[name], value)
    if name == "state":
        return _state(value)
    if name == "error":
        return _error(value)
    if name == "error.message":
        return _message(value)
    if name == "failure":
        return _failure(value)
    if name in ("is", "has"):
        return _property(name, value)
    if name == "retries":
        return _ordered(lambda row: row.record.retries, value)
    if name in ("runtime", "wait", "total"):
        return _ordered(lambda row: row.microseconds(name), value)
    if name == "size":
        return _ordered(lambda row: None if row.record.result is None else len(row.record.result.body), value)
    if name in ("since", "until"):
        return _bound(name, value, clock)
    if name in ("sent", "started", "done", "expires"):
        return _time(name, value, clock)
    return _json_field(field, value)


def _text(attribute: str, value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: (getattr(row.record, attribute) is not None) == value.is_there
    assert isinstance(value, Pattern)
    if not is_findable(value):
        return lambda row: False
    expression = value.expression
    return lambda row: (found := getattr(row.record, attribute)) is not None and expression.fullmatch(found) is not None


def states_of(value: Pattern) -> tuple[tuple[str, ...], bool] | None:
    """Return the states that a word such as ``failed`` means, and whether it means all others; ``None`` for a glob."""
    text = value.text
    if text is None:
        return None
    if not value.is_quoted and text in STATE_GROUPS:
        return STATE_GROUPS[text], text == "unfinished"
    return tuple(dict.fromkeys((text, text.upper()))), False


def _state(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: value.is_there
    assert isinstance(value, Pattern)
    if not is_findable(value):
        return lambda row: False
    if (states := states_of(value)) is None:
        expression = value.expression
        return lambda row: expression.fullmatch(row.record.state) is not None
    wanted, is_negated = states
    return lambda row: (row.record.state in wanted) != is_negated


def _error(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: None if row.is_exception_unread else bool(row.error_names) == value.is_there
    assert isinstance(value, Pattern)
    expression = value.expression
    return lambda row: None if row.is_exception_unread else any(map(expression.fullmatch, row.error_names))


def _message(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: None if row.is_exception_unread else (row.error_message is not None) == value.is_there
    assert isinstance(value, Pattern)
    wanted = folded(value.text or "")
    return lambda row: (
        None if row.is_exception_unread else row.error_message is not None and wanted in folded(row.error_message)
    )


def _failure(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: (row.record.failure_group is not None) == value.is_there
    assert isinstance(value, Pattern)
    group = group_of_text(value.text or "")
    return lambda row: row.record.failure_group == group


_PROPERTIES: dict[tuple[str, str], Callable[[Row], bool]] = {
    ("is", "child"): lambda row: row.record.parent_id is not None and row.record.parent_id != row.record.task_id,
    ("is", "damaged"): lambda row: (
        bool(row.record.damage) or any(each.content_type == DAMAGED for each in row.payloads)
    ),
    ("is", "encrypted"): lambda row: row.is_encrypted,
    ("is", "retried"): lambda row: bool(row.record.retries),
    ("has", "args"): lambda row: row.record.args is not None or row.record.kwargs is not None,
    ("has", "children"): lambda row: row.record.children is not None,
    ("has", "result"): lambda row: row.record.result is not None,
    ("has", "stamps"): lambda row: row.record.stamps is not None,
    ("has", "traceback"): lambda row: row.record.traceback is not None,
}


def _property(name: str, value: Value) -> Test:
    if isinstance(value, Presence):
        every = [test for (field, _), test in _PROPERTIES.items() if field == name]
        return lambda row: any(test(row) for test in every) == value.is_there
    assert isinstance(value, Pattern)
    if value.text in LOOKED_UP:
        raise AbilityMissing(
            f"is:{value.text} compares a task with all others, so one record does not show it",
            remedy="ask a history for it: history.tasks(…), history.stuck(…)",
        )
    return _PROPERTIES[name, value.text or ""]


# -- values with an order


def amount(value: Any) -> Decimal:
    """Return a number, a duration in microseconds, or a size in bytes."""
    match value:
        case Number(number):
            return number
        case Duration(seconds):
            return seconds * 1_000_000
        case Size(size):
            return Decimal(size)
    raise AssertionError(value)


def _ordered(get: Callable[[Row], int | None], value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda row: (get(row) is not None) == value.is_there
    holds = _comparison(value)
    return lambda row: (found := get(row)) is not None and holds(Decimal(found))


def _comparison(value: Value) -> Callable[[Decimal], bool]:
    match value:
        case Range(low, high):
            least = None if low is None else amount(low)
            most = None if high is None else amount(high)
            return lambda found: (least is None or found >= least) and (most is None or found <= most)
        case Comparison(operator, scalar):
            limit = amount(scalar)
            return {
                ">": lambda found: found > limit,
                ">=": lambda found: found >= limit,
                "<": lambda found: found < limit,
                "<=": lambda found: found <= limit,
                "=": lambda found: found == limit,
            }[operator]
    wanted = amount(value)
    return lambda found: found == wanted


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


def is_keyword_path(field: Field) -> bool:
    """Return True for ``args.NAME``: positional arguments have no names, so this is a keyword argument's name, or a key
    of an object among the positional ones."""
    first = field.path[0].name if field.name == "args" and field.path else None
    return first is not None and not (first.isascii() and first.isdigit())


def _json_field(field: Field, value: Value) -> Test:
    path = field.path
    holds = _json_test(value)

    def places(row: Row) -> list[tuple[Any, tuple[Step, ...]]]:
        match field.name:
            case "args" if is_keyword_path(field):
                return [(row.kwargs, path), (row.args, (Step(None), *path))]
            case "args":
                # without a path, keyword arguments are arguments too
                return [(row.args, path), *([] if path else [(row.kwargs, path)])]
            case "kwargs":
                return [(row.kwargs, path)]
            case "stamp":
                return [(row.stamps, path)]
        return [(row.result, path)]

    def test(row: Row) -> bool | None:
        answer: bool | None = False
        for value, steps in places(row):
            if value is UNREAD:
                if is_whole_there:
                    return True
                answer = None
            elif any(holds(found) for place in _found(value, steps) for found in inside(place)):
                return True
        return answer

    # that there is a value is known also if it cannot be read
    is_whole_there = isinstance(value, Presence) and not path

    def inside(place: Any) -> Iterator[Any]:
        return iter((place,)) if path or isinstance(value, Presence) else _leaves(place)

    if isinstance(value, Presence) and not value.is_there:
        return lambda row: None if (answer := test(row)) is None else not answer
    return test


def _found(value: Any, path: tuple[Step, ...]) -> Iterator[Any]:
    """Yield every value at a path."""
    if value is MISSING:
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
            return lambda found: isinstance(found, str) and expression.fullmatch(found) is not None
        case Presence():
            return lambda found: True
    holds = _comparison(value)
    return lambda found: _is_number(found) and holds(Decimal(found))


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, Decimal)) and not isinstance(found, bool)
