"""Makes a filter independent of when, and where, it is read: its moments become absolute, in UTC."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.tree import And, Comparison, Field, Filter, Moment, Node, Not, Or, Range, Text, Value

#: fields that count from the beginning of their moment
_BEGINNINGS = frozenset({"since", "until"})


def pinned(query: Filter, clock: Clock) -> Filter:
    """Return a filter that finds the same with every clock.

    Args:
        query: the filter, such as ``since:7d done:monday``.
        clock: the present and the zone of its moments.

    Raises:
        ValueError: a moment cannot be understood in this zone.
    """
    return query if query.condition is None else replace(query, condition=_node(query.condition, clock))


def _node(node: Node, clock: Clock) -> Node:
    match node:
        case And(terms):
            return And(tuple(_node(term, clock) for term in terms))
        case Or(terms):
            return Or(tuple(_node(term, clock) for term in terms))
        case Not(term):
            return Not(_node(term, clock))
        case Text():
            return node
        case Field(name, values) if name in _BEGINNINGS:
            return replace(node, values=tuple(_first(value, clock) for value in values))
        case Field(_, values):
            return replace(node, values=tuple(_value(value, clock) for value in values))


def _first(value: Value, clock: Clock) -> Value:
    return _moment(clock.extent(value).start) if isinstance(value, Moment) else value


def _value(value: Value, clock: Clock) -> Value:
    at = partial(_bounds, clock=clock)
    match value:
        case Moment():
            first, last = at(value)
            return first if first == last else Range(first, last)
        case Comparison("=", Moment() as moment):
            return _value(moment, clock)
        case Comparison(operator, Moment() as moment):
            first, last = at(moment)
            return Comparison(operator, last if operator in (">", "<=") else first)
        case Range(low, high) if isinstance(low, Moment) or isinstance(high, Moment):
            return Range(
                at(low)[0] if isinstance(low, Moment) else low, at(high)[1] if isinstance(high, Moment) else high
            )
    return value


def _bounds(moment: Moment, clock: Clock) -> tuple[Moment, Moment]:
    """Return the first and the last microsecond of a moment."""
    extent = clock.extent(moment)
    return _moment(extent.start), _moment(max(extent.start, extent.end - datetime.resolution))


def _moment(at: datetime) -> Moment:
    return Moment(at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z")
