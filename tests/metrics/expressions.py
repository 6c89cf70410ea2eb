"""Reads the names of metrics and labels in an expression of PromQL."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from rootcellar.metrics.catalogue import ALL

#: labels that Prometheus adds
ADDED = {"job", "instance"}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\$?\d[\w.]*|\$__\w+|[A-Za-z_:][\w:]*|=~|!~|!=|==|>=|<=|[^\s\w]')
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_OPERATORS = {"and", "or", "unless", "offset", "bool"}
_IN_TEXT = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


@dataclass
class Names:
    """The names in an expression.

    Attributes:
        metrics: each name of a metric or series, with the labels of its conditions.
        grouped: the labels by which series are grouped or matched.
    """

    metrics: dict[str, set[str]] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)


def names_in(expression: str) -> Names:
    """Return the names in an expression."""
    found = Names()
    tokens = _TOKEN.findall(expression)
    place = 0
    while place < len(tokens):
        token = tokens[place]
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if token in _GROUPING:
            labels, place = _inside(tokens, place + 1, "(", ")")
            found.grouped |= {label for label in labels if label != ","}
        elif token == "[":
            _, place = _inside(tokens, place, "[", "]")
        elif re.match(r"[A-Za-z_:]", token) and token not in _OPERATORS and after not in ("(", "by", "without"):
            conditions: list[str] = []
            if after == "{":
                conditions, place = _inside(tokens, place + 1, "{", "}")
            else:
                place += 1
            found.metrics.setdefault(token, set()).update(
                name for name, sign in itertools.pairwise(conditions) if sign in ("=", "=~", "!=", "!~")
            )
        else:
            place += 1
    return found


def _inside(tokens: list[str], place: int, opening: str, closing: str) -> tuple[list[str], int]:
    """Return the tokens between brackets, and the place after them."""
    assert tokens[place] == opening, f"{opening} is missing before {tokens[place:]}"
    end = tokens.index(closing, place)
    return tokens[place + 1 : end], end + 1


def problems(expression: str, *texts: str, recorded: frozenset[str] = frozenset()) -> list[str]:
    """Return what is wrong with the names in an expression, and in the texts that show its labels.

    Args:
        expression: the expression.
        texts: a legend, or texts with ``{{ $labels.name }}``.
        recorded: names of rules that record other expressions.
    """
    labels_of = {series: set(labels) for metric in ALL for series, labels in metric.series()}
    names = names_in(expression)
    wrong = [f"unknown metric {name}" for name in names.metrics if name not in {*labels_of, *recorded}]
    wrong += [f"no metric in {expression!r}"] if not names.metrics else []
    for name, used in names.metrics.items():
        wrong += [f"unknown label {label} of {name}" for label in used - labels_of.get(name, set()) - ADDED]
    possible = set().union(ADDED, *(labels_of.get(name, set()) for name in names.metrics))
    wrong += [f"unknown label {label} in {expression!r}" for label in names.grouped - possible]
    for text in texts:
        wrong += [f"unknown label {label} in {text!r}" for label in set(_IN_TEXT.findall(text)) - names.grouped]
    return wrong
