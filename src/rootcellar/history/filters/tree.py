"""The tree of a filter: frozen, and with one text form, so that two filters that mean the same word by word are equal.

``str`` of a tree is its canonical text: :func:`~rootcellar.history.filters.parser.parse` makes the same tree of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

#: a text that needs no quotes in a value; the words that mean something else are excluded where they are written
_PLAIN = re.compile(r"[^\s\"\\*,:()<>=]+")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[0-9]+")
#: words that have a meaning of their own unless they are quoted
_OPERATORS = frozenset({"AND", "OR", "NOT"})
_VALUES = frozenset({"any", "none"})


def quoted(text: str) -> str:
    """Return a text in double quotes, in which only ``"`` and a backslash need a backslash."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with a ``*`` for any text.

    Attributes:
        parts: the texts between the stars; one part means that the whole text is equal.
        is_quoted: whether it is in quotes as a whole, and therefore only text. It is, if it would mean something else
            without.
    """

    parts: tuple[str, ...]
    is_quoted: bool = False

    def __post_init__(self) -> None:
        text = self.text
        is_quoted = text is not None and (self.is_quoted or not _is_plain(text) or text in _VALUES)
        object.__setattr__(self, "is_quoted", is_quoted)

    @property
    def text(self) -> str | None:
        """The text, if it has no star."""
        return self.parts[0] if len(self.parts) == 1 else None

    @property
    def expression(self) -> re.Pattern[str]:
        """The regular expression of the whole text."""
        return re.compile(".*".join(map(re.escape, self.parts)), re.DOTALL)

    def __str__(self) -> str:
        if self.is_quoted:
            return quoted(self.parts[0])
        return "*".join(part if _is_plain(part) else quoted(part) if part else "" for part in self.parts)


def is_findable(pattern: Pattern) -> bool:
    """Return False for a text that no server can store: with NUL or a lone surrogate. Then it finds nothing."""
    return not any(_UNSTORABLE.search(part) for part in pattern.parts)


def _is_plain(part: str) -> bool:
    return bool(_PLAIN.fullmatch(part)) and ".." not in part


@dataclass(frozen=True, slots=True)
class Number:
    """A number, exact.

    Attributes:
        value: the number.
        text: how it was written, such as ``007``: a text like this is found, too.
    """

    value: Decimal
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text or _decimal(self.value)


@dataclass(frozen=True, slots=True)
class Literal:
    """``true``, ``false`` or ``null`` of JSON."""

    value: bool | None

    def __str__(self) -> str:
        return {True: "true", False: "false", None: "null"}[self.value]


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time, in seconds."""

    seconds: Decimal

    def __str__(self) -> str:
        return f"{_decimal(self.seconds)}s"


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes."""

    bytes: int

    def __str__(self) -> str:
        return str(self.bytes)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point or a stretch of time, as it was written: ``2h``, ``yesterday``, ``2026-11-01``, ``2026-11-01T10:00Z``.

    :class:`~rootcellar.history.filters.moments.Clock` says when that is.
    """

    text: str

    def __str__(self) -> str:
        return self.text if re.fullmatch(r"[^\s\"\\*,()<>=]+", self.text) else quoted(self.text)


Scalar: TypeAlias = "Number | Duration | Size | Moment"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``>5``, ``>=5``, ``<5``, ``<=5`` or ``=5``."""

    operator: str
    value: Scalar

    def __str__(self) -> str:
        return f"{self.operator}{self.value}"


@dataclass(frozen=True, slots=True)
class Range:
    """``low..high``, both included; ``None`` for an open end. The end of a stretch of time is that of the stretch."""

    low: Scalar | None
    high: Scalar | None

    def __str__(self) -> str:
        return f"{'' if self.low is None else self.low}..{'' if self.high is None else self.high}"


@dataclass(frozen=True, slots=True)
class Presence:
    """``any``: there is a value; ``none``: there is no value."""

    is_there: bool

    def __str__(self) -> str:
        return "any" if self.is_there else "none"


Value: TypeAlias = "Pattern | Number | Literal | Duration | Size | Moment | Comparison | Range | Presence"


@dataclass(frozen=True, slots=True)
class Step:
    """One step into a JSON value.

    Attributes:
        name: the key of an object or the index of a list; ``None`` for every element.
    """

    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return "*"
        return self.name if _STEP.fullmatch(self.name) else quoted(self.name)


@dataclass(frozen=True, slots=True)
class Field:
    """``name:value,value``: true if any of the values matches.

    Attributes:
        name: the name of the field.
        path: the way into its JSON value; empty for other fields.
        values: one or more values.
        position: where it is in the text that was parsed; two trees are equal wherever their terms were.
    """

    name: str
    values: tuple[Value, ...]
    path: tuple[Step, ...] = ()
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        name = ".".join([self.name, *map(str, self.path)])
        return f"{name}:{','.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Text:
    """Free text: in the id, the name, or the type and the message of an exception."""

    text: str
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.text if _is_bare(self.text) else quoted(self.text)


def _is_bare(text: str) -> bool:
    return bool(re.fullmatch(r"[^\s\"\\:()*-][^\s\"\\:()]*", text)) and text not in _OPERATORS


@dataclass(frozen=True, slots=True)
class Not:
    """True if ``term`` is false, also if the record has no value."""

    term: Node

    def __str__(self) -> str:
        return f"-({self.term})" if isinstance(self.term, (And, Or, Not)) else f"-{self.term}"


@dataclass(frozen=True, slots=True)
class And:
    """True if every term is true. It has at least two terms, none of them an ``And``."""

    terms: tuple[Node, ...]

    def __str__(self) -> str:
        return " ".join(f"({term})" if isinstance(term, Or) else str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Or:
    """True if at least one term is true. It has at least two terms, none of them an ``Or``."""

    terms: tuple[Node, ...]

    def __str__(self) -> str:
        return " OR ".join(map(str, self.terms))


Node: TypeAlias = "And | Or | Not | Field | Text"


@dataclass(frozen=True, slots=True)
class Filter:
    """A whole filter.

    Attributes:
        condition: what a record must meet; ``None`` for every record.
        sort: the field to sort by; empty for the usual order, the newest first.
        is_descending: whether the largest value comes first.
    """

    condition: Node | None = None
    sort: str = ""
    is_descending: bool = False

    def __str__(self) -> str:
        sort = f"sort:{'-' if self.is_descending else ''}{self.sort}" if self.sort else ""
        condition = "" if self.condition is None else str(self.condition)
        if sort and isinstance(self.condition, Or):
            condition = f"({condition})"
        return f"{condition} {sort}".strip()


def fields_of(node: Node | None) -> Iterator[Field]:
    """Yield every field of a tree, from left to right."""
    return (leaf for leaf in leaves(node) if isinstance(leaf, Field))


def leaves(node: Node | None) -> Iterator[Field | Text]:
    """Yield every field and every text of a tree, from left to right."""
    match node:
        case And(terms) | Or(terms):
            for term in terms:
                yield from leaves(term)
        case Not(term):
            yield from leaves(term)
        case Field() | Text():
            yield node


def _decimal(value: Decimal) -> str:
    """Return a number without an exponent where that is short, and without trailing zeros."""
    text = format(value.normalize(), "f") if -20 < value.adjusted() < 40 else str(value.normalize())
    return text if text != "-0" else "0"
