"""Says in English what a filter finds, with the moments that it means."""

from __future__ import annotations

from datetime import datetime, timezone

from rootcellar.history.filters.fields import FIELDS, MESSAGE, Kind
from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.predicate import bounds
from rootcellar.history.filters.tree import (
    And,
    Comparison,
    Field,
    Filter,
    Literal,
    Moment,
    Node,
    Not,
    Or,
    Pattern,
    Presence,
    Range,
    Text,
    Value,
    quoted,
)
from rootcellar.text.escaping import visible

_ORDER = {
    "": "the newest first",
    "done": "by their end",
    "runtime": "by runtime",
    "wait": "by wait",
    "retries": "by retries",
}
_OPERATORS = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most", "=": ""}
_PROPERTIES = {
    "child": "sent by another task",
    "damaged": "damaged",
    "encrypted": "encrypted",
    "late": "late (unfinished for longer than any earlier task of the name)",
    "retried": "retried",
    "stuck": "stuck (late, and nothing shows that they will end)",
}


def sentence(query: Filter, clock: Clock) -> str:
    """Return a filter as an English sentence.

    Args:
        query: the filter.
        clock: the present and the zone of its moments.

    Raises:
        ValueError: a moment cannot be understood in this zone.
    """
    what = "every task" if query.condition is None else f"tasks {_node(query.condition, clock)}"
    order = _ORDER[query.sort]
    if query.sort:
        order += ", the largest first" if query.is_descending else ", the smallest first"
    return visible(f"{what}; {order}")


def _node(node: Node, clock: Clock) -> str:
    match node:
        case And(terms):
            return ", and ".join(
                f"({_node(term, clock)})" if isinstance(term, Or) else _node(term, clock) for term in terms
            )
        case Or(terms):
            return " or ".join(
                f"({_node(term, clock)})" if isinstance(term, And) else _node(term, clock) for term in terms
            )
        case Not(term):
            return f"that are not ({_node(term, clock)})"
        case Text(text):
            return f"with the text {quoted(text)} in the id, the name or the error"
        case Field():
            return _field(node, clock)


def _field(field: Field, clock: Clock) -> str:
    kind = MESSAGE if field.name == MESSAGE.name else FIELDS[field.name]
    values = " or ".join(_value(field, value, clock) for value in field.values)
    match kind.kind:
        case Kind.STATE:
            return f"in state {values}"
        case Kind.WORD:
            return f"that are {values}" if field.name == "is" else f"that have {values}"
        case Kind.MOMENT | Kind.TIMES:
            return f"{kind.title} {values}"
        case Kind.JSON:
            path = "".join(f" {step}" for step in field.path)
            return f"whose {kind.title}{path} is {values}"
    return f"whose {kind.title} is {values}"


def _value(field: Field, value: Value, clock: Clock) -> str:
    kind = MESSAGE.kind if field.name == MESSAGE.name else FIELDS[field.name].kind
    if isinstance(value, Presence):
        return "known" if value.is_there else "unknown"
    if kind is Kind.MOMENT:
        assert isinstance(value, Moment)
        return _shown(clock.extent(value).start, clock)
    if kind is Kind.TIMES:
        start, end = bounds(value, clock)
        parts = (f"from {_shown(start, clock)}" if start else "", f"until before {_shown(end, clock)}" if end else "")
        return " ".join(filter(None, parts))
    if kind is Kind.WORD:
        word = str(value)
        return _PROPERTIES.get(word, word)
    match value:
        case Comparison(operator, scalar):
            return f"{_OPERATORS[operator]} {scalar}".strip()
        case Range(low, high):
            return " and ".join(filter(None, (f"at least {low}" if low else "", f"at most {high}" if high else "")))
        case Pattern() | Literal():
            return str(value)
    return str(value)


def _shown(moment: datetime, clock: Clock) -> str:
    try:
        local = moment.astimezone(clock.zone)
    except (OverflowError, ValueError):
        local = moment.astimezone(timezone.utc)
    return local.isoformat(sep=" ", timespec="microseconds" if local.microsecond else "seconds")
