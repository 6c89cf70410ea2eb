"""Compiles a filter to a condition that a store can search by.

Each term becomes two conditions: one that every wanted record meets, and one that only wanted records meet. If a server
can test a term exactly, both are equal. The negation of a term exchanges them, so that a negated filter misses nothing
either. Where they differ, :class:`~rootcellar.history.filters.predicate.Matcher` decides about what the server found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.predicate import TEXT_ATTRIBUTES, amount, bounds, is_keyword_path, states_of
from rootcellar.history.filters.rows import folded
from rootcellar.history.filters.tree import (
    And,
    Comparison,
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
    Text,
    Value,
    is_findable,
)
from rootcellar.history.grouping.identity import group_of_text
from rootcellar.stores.search import (
    Always,
    BeyondAscii,
    Bounds,
    Condition,
    Contains,
    Dated,
    Equal,
    ErrorType,
    Every,
    Failed,
    Has,
    JsonHas,
    JsonLiteral,
    JsonNumber,
    JsonText,
    Lasted,
    Like,
    Negated,
    OneOf,
    Opaque,
    Sized,
    Some,
    Timed,
    Within,
)

_TRUE, _FALSE = Always(True), Always(False)
_COLUMNS = {"task": "name", "queue": "queue", "worker": "worker", "id": "task_id", "group": "group_id"} | {
    "root": "root_id",
    "parent": "parent_id",
}
_DATES = {"sent": "date_sent", "started": "date_started", "done": "date_done", "expires": "expires_at"}
_SPANS = {
    "runtime": ("date_started", "date_done"),
    "wait": ("date_sent", "date_started"),
    "total": ("date_sent", "date_done"),
}
#: letters and digits that a JSON text shows as they are, and that no other letters become when their case is ignored
_RUN = re.compile(r"[a-z0-9]{3,}")


@dataclass(frozen=True, slots=True)
class Limits:
    """The two conditions of a term.

    Attributes:
        at_most: every wanted record meets it.
        at_least: only wanted records meet it.
    """

    at_most: Condition
    at_least: Condition

    @property
    def is_exact(self) -> bool:
        """Whether both are the same."""
        return self.at_most == self.at_least


def limits(node: Node | None, clock: Clock) -> Limits:
    """Return the two conditions by which a server can search for a condition of a filter.

    Args:
        node: the condition; ``None`` for every record.
        clock: the present and the zone of its moments.

    Raises:
        ValueError: a moment cannot be understood in this zone.
    """
    match node:
        case None:
            return _exactly(_TRUE)
        case And(terms):
            inner = [limits(term, clock) for term in terms]
            return Limits(every(*(each.at_most for each in inner)), every(*(each.at_least for each in inner)))
        case Or(terms):
            return _any_of([limits(term, clock) for term in terms])
        case Not(term):
            found = limits(term, clock)
            return Limits(negated(found.at_least), negated(found.at_most))
        case Text(text):
            return _free_text(text)
        case Field():
            return _any_of(_of_field(node, clock))


def _exactly(condition: Condition) -> Limits:
    return Limits(condition, condition)


def _any_of(inner: list[Limits]) -> Limits:
    return Limits(some(*(each.at_most for each in inner)), some(*(each.at_least for each in inner)))


def every(*terms: Condition) -> Condition:
    """Return a condition that all terms meet, in its simplest form."""
    kept: list[Condition] = []
    for term in terms:
        if term == _FALSE:
            return _FALSE
        for each in term.terms if isinstance(term, Every) else (term,):
            if each != _TRUE and each not in kept:
                kept.append(each)
    return _TRUE if not kept else kept[0] if len(kept) == 1 else Every(tuple(kept))


def some(*terms: Condition) -> Condition:
    """Return a condition that one term meets, in its simplest form."""
    kept: list[Condition] = []
    for term in terms:
        if term == _TRUE:
            return _TRUE
        for each in term.terms if isinstance(term, Some) else (term,):
            if each != _FALSE and each not in kept:
                kept.append(each)
    return _FALSE if not kept else kept[0] if len(kept) == 1 else Some(tuple(kept))


def negated(term: Condition) -> Condition:
    """Return the opposite of a condition."""
    match term:
        case Always(holds):
            return Always(not holds)
        case Negated(inner):
            return inner
    return Negated(term)


# -- fields


def _of_field(field: Field, clock: Clock) -> list[Limits]:
    name = field.name
    if name in TEXT_ATTRIBUTES:
        return [_exactly(_texts(_COLUMNS[name], field.values))]
    if name == "failure":
        return [_exactly(_groups(field.values))]
    if name == "state":
        return [_exactly(some(*map(_state, field.values)))]
    return [_value(field, value, clock) for value in field.values]


def _value(field: Field, value: Value, clock: Clock) -> Limits:
    name = field.name
    if name == "error":
        return _error(value)
    if name == "error.message":
        return _message(value)
    if name in ("is", "has"):
        return _property(name, value)
    if name == "retries":
        return _exactly_or_not(
            Has("retries") if isinstance(value, Presence) else Within("retries", whole(value)), value
        )
    if name in _SPANS:
        return _exactly_or_not(Lasted(*_SPANS[name], None if isinstance(value, Presence) else whole(value)), value)
    if name == "size":
        return _size(value)
    if name in ("since", "until"):
        return _bound(name, value, clock)
    if name in _DATES:
        return _date(_DATES[name], value, clock)
    return _json(field, value)


def _exactly_or_not(condition: Condition, value: Value) -> Limits:
    """Return a condition; if the value is ``none``, its opposite."""
    is_opposite = isinstance(value, Presence) and not value.is_there
    return _exactly(negated(condition) if is_opposite else condition)


def _texts(column: str, values: tuple[Value, ...]) -> Condition:
    """Return the condition that a column matches one of several values. Whole texts become one list."""
    whole_texts: list[str] = []
    others: list[Condition] = []
    for value in values:
        match value:
            case Presence(is_there):
                others.append(Has(column) if is_there else negated(Has(column)))
            case Pattern() if not is_findable(value):
                continue
            case Pattern(parts) if value.text is None:
                others.append(Has(column) if parts == ("", "") else Like(column, parts))
            case Pattern():
                whole_texts.append(value.text or "")
    return some(*([OneOf(column, tuple(dict.fromkeys(whole_texts)))] if whole_texts else []), *others)


def _groups(values: tuple[Value, ...]) -> Condition:
    column = "failure_group"
    numbers = tuple(group_of_text(value.text or "") for value in values if isinstance(value, Pattern))
    others = [
        Has(column) if value.is_there else negated(Has(column)) for value in values if isinstance(value, Presence)
    ]
    return some(*([Equal(column, numbers)] if numbers else []), *others)


def _state(value: Value) -> Condition:
    if isinstance(value, Presence):
        return Always(value.is_there)
    assert isinstance(value, Pattern)
    if not is_findable(value):
        return _FALSE
    if (states := states_of(value)) is None:
        return _TRUE if value.parts == ("", "") else Like("status", value.parts)
    texts, is_negated = states
    condition = OneOf("status", texts)
    return negated(condition) if is_negated else condition


def _bound(name: str, value: Value, clock: Clock) -> Limits:
    if isinstance(value, Presence):
        return _exactly_or_not(Timed(None, None), value)
    assert isinstance(value, Moment)
    start = clock.extent(value).start
    return _exactly(Timed(start, None) if name == "since" else Timed(None, start))


def _date(column: str, value: Value, clock: Clock) -> Limits:
    if isinstance(value, Presence):
        return _exactly_or_not(Dated(column, None, None), value)
    return _exactly(Dated(column, *bounds(value, clock)))


# -- numbers


def of_number(value: Value) -> Bounds:
    """Return the bounds that a number, a comparison or a range means."""
    match value:
        case Range(low, high):
            return Bounds(None if low is None else amount(low), None if high is None else amount(high))
        case Comparison(operator, scalar):
            limit = amount(scalar)
            return {
                ">": Bounds(low=limit, has_low=False),
                ">=": Bounds(low=limit),
                "<": Bounds(high=limit, has_high=False),
                "<=": Bounds(high=limit),
                "=": Bounds(limit, limit),
            }[operator]
    wanted = amount(value)
    return Bounds(wanted, wanted)


def whole(value: Value) -> Bounds:
    """Return the whole numbers within the bounds of a value, both ends included."""
    found = of_number(value)
    low, high = found.low, found.high
    if low is not None:
        least = low.to_integral_value(ROUND_CEILING)
        low = least + 1 if least == low and not found.has_low else least
    if high is not None:
        most = high.to_integral_value(ROUND_FLOOR)
        high = most - 1 if most == high and not found.has_high else most
    return Bounds(low, high)


def _size(value: Value) -> Limits:
    if isinstance(value, Presence):
        return _exactly_or_not(_stored("result"), value)
    # exact bytes are stored with a description of them, so that their number differs
    return _unless_opaque(("result",), Sized(whole(value)))


def _stored(column: str) -> Condition:
    """Return the condition that a payload is stored."""
    return some(Has(column), Has(f"{column}_exact"))


def _unless_opaque(columns: tuple[str, ...], condition: Condition, at_least: Condition | None = None) -> Limits:
    """Return a condition on readable JSON, where other bytes may hold the value."""
    opaque = [Opaque(column) for column in columns]
    readable = condition if at_least is None else at_least
    return Limits(some(condition, *opaque), every(readable, *map(negated, opaque)))


# -- properties


def _property(name: str, value: Value) -> Limits:
    if isinstance(value, Presence):
        words = ("child", "damaged", "encrypted", "retried") if name == "is" else tuple(_STORED)
        found = _any_of([_word(name, word) for word in words])
        return found if value.is_there else Limits(negated(found.at_least), negated(found.at_most))
    assert isinstance(value, Pattern)
    return _word(name, value.text or "")


_STORED: dict[str, Condition] = {
    "args": some(_stored("args"), _stored("kwargs")),
    "children": _stored("children"),
    "result": _stored("result"),
    "stamps": _stored("stamps"),
    "traceback": Has("traceback"),
}


def _word(name: str, word: str) -> Limits:
    if name == "has":
        return _exactly(_STORED[word])
    if word == "retried":
        return _exactly(Within("retries", Bounds(Decimal(1), None)))
    if word == "encrypted":
        return Limits(some(*map(Opaque, ("result", "args", "kwargs", "children", "stamps"))), _FALSE)
    if word == "child":
        # that it is its own parent is rare
        return Limits(Has("parent_id"), _FALSE)
    # what is damaged shows only when it is read
    return Limits(_TRUE, _FALSE)


# -- exceptions and free text


def _error(value: Value) -> Limits:
    if isinstance(value, Presence):
        found = _exception(ErrorType(("", "")))
        return found if value.is_there else Limits(negated(found.at_least), negated(found.at_most))
    assert isinstance(value, Pattern)
    return _exception(ErrorType(value.parts) if is_findable(value) else _FALSE)


def _message(value: Value) -> Limits:
    if isinstance(value, Presence):
        return Limits(Failed(), _FALSE) if value.is_there else Limits(_TRUE, negated(Failed()))
    assert isinstance(value, Pattern)
    return _exception(_shows(value.text or ""), at_least=_FALSE)


def _exception(condition: Condition, at_least: Condition | None = None) -> Limits:
    found = _unless_opaque(("result",), condition, at_least)
    return Limits(every(Failed(), found.at_most), every(Failed(), found.at_least))


def _shows(text: str) -> Condition:
    """Return a condition that the JSON text of an exception meets if its type or its message contains a text."""
    runs = [run for run in _RUN.findall(folded(text)) if run not in "none true false null"]
    if not runs:
        return _TRUE
    # a letter may be written as \u0041, and another letter may become it when the case is ignored
    return some(Contains("result", max(runs, key=len)), Contains("result", "\\u"), BeyondAscii("result"))


def _free_text(text: str) -> Limits:
    wanted = folded(text)
    inner = [_in_column(column, wanted) for column in ("task_id", "name")]
    inner.append(_exception(_shows(text), at_least=_FALSE))
    return _any_of(inner)


def _in_column(column: str, wanted: str) -> Limits:
    """Return whether a column contains a text in any case. Only for ASCII do all servers agree about the case."""
    if not is_findable(Pattern((wanted,))):
        return _exactly(_FALSE)
    beyond = BeyondAscii(column)
    if not wanted.isascii():
        return Limits(beyond, _FALSE)
    found = Contains(column, wanted)
    return Limits(some(found, beyond), every(found, negated(beyond)))


# -- values of JSON


def _json(field: Field, value: Value) -> Limits:
    path = tuple(step.name for step in field.path)
    match field.name:
        case "args" if is_keyword_path(field):
            places = [("kwargs", path), ("args", (None, *path))]
        case "args":
            places = [("args", path), *([] if path else [("kwargs", path)])]
        case "stamp":
            places = [("stamps", path)]
        case name:
            places = [(name, path)]
    if not path:
        return _whole_value([column for column, _ in places], value)
    found = _any_of([_unless_opaque((column,), _at(column, steps, value)) for column, steps in places])
    if isinstance(value, Presence) and not value.is_there:
        return Limits(negated(found.at_least), negated(found.at_most))
    return found


def _at(column: str, path: tuple[str | None, ...], value: Value) -> Condition:
    match value:
        case Presence():
            return JsonHas(column, path)
        case Literal(wanted):
            return JsonLiteral(column, path, wanted)
        case Pattern(parts):
            # a text that no server stores can only be in exact bytes
            return JsonText(column, path, parts) if is_findable(value) else _FALSE
        case Number() as number:
            texts = {str(number), number.text}
            return some(
                JsonNumber(column, path, of_number(number)),
                *(JsonText(column, path, (text,)) for text in sorted(texts) if text),
            )
    return JsonNumber(column, path, of_number(value))


def _whole_value(columns: list[str], value: Value) -> Limits:
    """Return a condition for a value at any depth, which no server looks for."""
    stored = some(*map(_stored, columns))
    if isinstance(value, Presence):
        return _exactly_or_not(stored, value)
    return Limits(stored, _FALSE)


def span(node: Node | None, clock: Clock) -> tuple[datetime | None, datetime | None]:
    """Return the stretch of time in which the found tasks ended: from, included, to, excluded.

    Only what every found task meets counts: ``since``, ``until`` and ``done`` outside of ``OR`` and negations.
    """
    since: datetime | None = None
    until: datetime | None = None
    for term in node.terms if isinstance(node, And) else (node,):
        if not isinstance(term, Field) or len(term.values) != 1 or isinstance(term.values[0], Presence):
            continue
        (value,) = term.values
        low: datetime | None = None
        high: datetime | None = None
        if term.name == "done":
            low, high = bounds(value, clock)
        elif term.name in ("since", "until"):
            assert isinstance(value, Moment)
            start = clock.extent(value).start
            low, high = (start, None) if term.name == "since" else (None, start)
        since = low if since is None else since if low is None else max(since, low)
        until = high if until is None else until if high is None else min(until, high)
    return since, until
