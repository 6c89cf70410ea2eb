"""Makes a tree of the text of a filter.

The grammar, from the loosest to the tightest::

    filter = either                             at its top level also sort:FIELD or sort:-FIELD
    either = all { "OR" all }
    all    = one { [ "AND" ] one }
    one    = ( "-" | "NOT" ) one | "(" either ")" | name { "." step } ":" value { "," value } | text
    value  = ( ">" | ">=" | "<" | "<=" | "=" ) scalar | [ scalar ] ".." [ scalar ] | scalar | pattern | "any" | "none"

There are no regular expressions in it, and every term is understood or is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from rootcellar.history.filters.errors import FilterWrong
from rootcellar.history.filters.fields import FIELDS, MESSAGE, STATE_GROUPS, FieldType, Kind
from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.quantities import duration, looks_like_number, number, size
from rootcellar.history.filters.scanner import Char, Mark, Token, scan
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
    Scalar,
    Step,
    Text,
    Value,
)
from rootcellar.history.grouping.identity import group_of_text, text_of_group

#: the most terms of a filter
MAX_TERMS = 64
#: the most brackets and negations inside each other
MAX_DEPTH = 5
#: the most stars in one value
MAX_STARS = 8
#: the most steps of a path
MAX_STEPS = 8

_LITERALS = {"true": True, "false": False, "null": None}
#: kinds whose values have an order
_ORDERED = frozenset({Kind.NUMBER, Kind.DURATION, Kind.SIZE, Kind.TIMES, Kind.JSON})
_TO_QUOTE = "for the text, put it in quotes"


def parse(text: str, clock: Clock | None = None) -> Filter:
    """Return the tree of a filter.

    Args:
        text: the filter; an empty one matches every record.
        clock: the present and the zone in which moments are checked; ``None`` for those of this process.

    Raises:
        FilterWrong: a term cannot be understood. The error has its position and says what to write.
    """
    return _Parser(text, clock or Clock.local()).filter()


class _Parser:
    def __init__(self, text: str, clock: Clock) -> None:
        self._text = text
        self._clock = clock
        self._tokens: Sequence[Token] = list(scan(text))
        self._next = 0
        self._terms = 0
        self._sort: tuple[str, bool] | None = None

    # -- the grammar

    def filter(self) -> Filter:
        if self._is_at(Mark.END):
            return Filter()
        condition = self._either(0)
        if not self._is_at(Mark.END):
            raise self._wrong("a bracket is closed that was not opened", self._token.position, "leave it out")
        sort, is_descending = self._sort or ("", False)
        return Filter(condition, sort, is_descending)

    def _either(self, depth: int) -> Node | None:
        first = self._all(depth)
        nodes = [first]
        while self._token.mark is Mark.OR:
            position = self._take().position
            if nodes[-1] is None:
                raise self._wrong("sort: is one side of OR", position, "write sort: outside of OR")
            nodes.append(self._all(depth))
        if len(nodes) > 1 and None in nodes:
            raise self._wrong("sort: is one side of OR", self._token.position, "write sort: outside of OR")
        return _joined(Or, [node for node in nodes if node is not None])

    def _all(self, depth: int) -> Node | None:
        nodes: list[Node | None] = [self._one(depth)]
        while self._token.mark not in (Mark.END, Mark.CLOSE, Mark.OR):
            if self._token.mark is Mark.AND:
                self._take()
            nodes.append(self._one(depth))
        return _joined(And, [node for node in nodes if node is not None])

    def _one(self, depth: int) -> Node | None:
        """Return one term, or ``None`` for a ``sort:``, which is no condition."""
        token = self._take()
        match token.mark:
            case Mark.TERM:
                return self._term(token, depth)
            case Mark.OPEN:
                return self._group(token, depth)
            case Mark.MINUS | Mark.NOT:
                return self._negation(token, depth)
        where = "the end" if token.mark is Mark.END else self._text[token.position : token.position + 3].strip()
        raise self._wrong(
            f"a term is missing before {where}", token.position, "write a term there, or leave out the operator"
        )

    def _group(self, token: Token, depth: int) -> Node:
        self._check_depth(token, depth)
        if self._is_at(Mark.CLOSE):
            raise self._wrong("the brackets are empty", token.position, "write a term between them")
        node = self._either(depth + 1)
        if not self._is_at(Mark.CLOSE):
            raise self._wrong("a bracket is not closed", token.position, "write ) at the end of the group")
        self._take()
        assert node is not None  # sort: is refused within brackets
        return node

    def _negation(self, token: Token, depth: int) -> Node:
        self._check_depth(token, depth)
        following = self._token
        is_blank_between = following.position > token.position + 1
        if token.mark is Mark.MINUS and (following.mark is Mark.END or is_blank_between):
            raise self._wrong("nothing follows the minus", token.position, f"write a term right after it; {_TO_QUOTE}")
        if following.mark in (Mark.MINUS, Mark.NOT):
            raise self._wrong("a negation is negated", following.position, "leave out both")
        node = self._one(depth + 1)
        assert node is not None  # sort: is refused within a negation
        return Not(node)

    def _check_depth(self, token: Token, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise self._wrong(
                "brackets and negations are nested too deep",
                token.position,
                f"write at most {MAX_DEPTH} inside each other",
            )

    # -- terms

    def _term(self, token: Token, depth: int) -> Node | None:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(f"the filter has more than {MAX_TERMS} terms", token.position, "write a shorter filter")
        colon = _find(token.chars, ":")
        if token.is_quoted or colon is None:
            return self._free_text(token)
        name, rest = token.chars[:colon], token.chars[colon + 1 :]
        if not _is_name(name) or _is_text_after_colon(name, rest):
            return self._free_text(token)
        kind, path = self._field(token, name)
        if not rest:
            raise self._wrong(
                f"{_raw(name)}: has no value",
                token.position,
                'write one right after the colon, or "" for the empty text',
            )
        if kind.kind is Kind.SORT:
            self._set_sort(token, rest, depth)
            return None
        values = tuple(self._value(kind, piece, token) for piece in _split(rest, ","))
        return Field(kind.name, values, path, token.position)

    def _free_text(self, token: Token) -> Text:
        text = _raw(token.chars)
        if not text:
            raise self._wrong("the text is empty", token.position, "write a text between the quotes")
        return Text(text, token.position)

    def _field(self, token: Token, name: Sequence[Char]) -> tuple[FieldType, tuple[Step, ...]]:
        """Return the field that a name means, and the path after it."""
        pieces = _split(name, ".")
        first = _raw(pieces[0])
        kind = FIELDS.get(first)
        if kind is None:
            raise self._unknown(first, name, token)
        if first == "error" and [_raw(piece) for piece in pieces[1:]] == ["message"]:
            return MESSAGE, ()
        if len(pieces) > 1 and kind.kind is not Kind.JSON:
            raise self._wrong(f"{first}: has no parts", token.position, f"write {first}: alone")
        if len(pieces) > MAX_STEPS + 1:
            raise self._wrong("the path is too long", token.position, f"write at most {MAX_STEPS} steps")
        if first == "stamp" and len(pieces) == 1:
            raise self._wrong("stamp: needs a name", token.position, "write stamp.NAME:value")
        return kind, tuple(self._step(piece, token) for piece in pieces[1:])

    def _step(self, piece: Sequence[Char], token: Token) -> Step:
        name = _raw(piece)
        if name == "*" and not piece[0].is_quoted:
            return Step(None)
        if not name and not any(char.is_quoted for char in piece):
            raise self._wrong("a step of the path is empty", token.position, "write a name between the dots")
        return Step(name)

    def _unknown(self, first: str, name: Sequence[Char], token: Token) -> FilterWrong:
        whole = _raw(token.chars)
        close = difflib.get_close_matches(first.lower(), FIELDS, n=1, cutoff=0.7)
        if len(name) + 1 == len(token.chars) and not close:
            # such as a line of a traceback
            remedy = "put a text with a colon in quotes as a whole"
        else:
            known = f"did you mean {close[0]}:?" if close else f"the fields are {', '.join(FIELDS)};"
            remedy = f'{known} {_TO_QUOTE}: "{whole}"'
        return self._wrong(f"{first}: is no field", token.position, remedy)

    def _set_sort(self, token: Token, rest: Sequence[Char], depth: int) -> None:
        if depth:
            raise self._wrong(
                "sort: is inside brackets or a negation", token.position, "write it at the end of the filter"
            )
        if self._sort is not None:
            raise self._wrong("sort: is there twice", token.position, "write it once")
        text = _raw(rest)
        name = text.removeprefix("-")
        if name not in FIELDS["sort"].words:
            raise self._wrong(
                f"nothing can be sorted by {text}", token.position, f"write {_any_of(FIELDS['sort'].words)}"
            )
        self._sort = name, text.startswith("-")

    # -- values

    def _value(self, kind: FieldType, piece: Sequence[Char], token: Token) -> Value:
        text = _raw(piece)
        is_bare = not any(char.is_quoted for char in piece)
        position = piece[0].position if piece else token.position
        if not piece:
            raise self._wrong(f"a value of {kind.name}: is empty", position, "write one on each side of the comma")
        if is_bare and text in ("any", "none"):
            return Presence(text == "any")
        try:
            return self._readers[kind.kind](self, kind, piece, text, is_bare)
        except ValueError as exc:
            raise self._wrong(f"{kind.name}:{text} is no {kind.kind.value}", position, str(exc)) from None

    def _state(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        _refuse_order(kind, piece)
        if is_bare and text.lower() in STATE_GROUPS:
            return Pattern((text.lower(),))
        return _pattern_of(piece)

    def _pattern(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        _refuse_order(kind, piece)
        return _pattern_of(piece)

    def _text_value(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        if not text:
            raise ValueError("write a text")
        return Pattern((text,), is_quoted=True)

    def _word(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        if text not in kind.words:
            raise ValueError(f"write {_any_of(kind.words)}")
        return Pattern((text,))

    def _group_of_failures(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        try:
            return Pattern((text_of_group(group_of_text(text)),))
        except ValueError:
            raise ValueError("write the 8 letters and digits of a group, as `rootcellar failures` shows them") from None

    def _ordered(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        return self._range(piece, self._scalars[kind.kind])

    def _single_moment(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        if text[:1] in "<>=" or ".." in text:
            raise ValueError("write one moment, or use sent:, started: or done:")
        return self._moment(text)

    def _json(self, kind: FieldType, piece: Sequence[Char], text: str, is_bare: bool) -> Value:
        if not is_bare:
            return _pattern_of(piece)
        if text in _LITERALS:
            return Literal(_LITERALS[text])
        if text[:1] in ("<", ">", "=") or ".." in text:
            return self._range(piece, number)
        return number(text) if looks_like_number(text) else _pattern_of(piece)

    def _range(self, piece: Sequence[Char], read: Callable[[str], Scalar]) -> Value:
        """Return a comparison, a range or a scalar."""
        text = _raw(piece)
        if match := re.match(r"[<>]=?|=", text):
            if match.end() == len(text):
                raise ValueError(f"write a value after {match[0]}")
            return Comparison(match[0], read(text[match.end() :]))
        if ".." in text:
            low, _, high = text.partition("..")
            if not low and not high:
                raise ValueError("write a value on one side of ..")
            return Range(read(low) if low else None, read(high) if high else None)
        scalar: Value = read(text)
        return scalar

    def _moment(self, text: str) -> Moment:
        moment = Moment(text.upper() if re.match(r"\d{4}-.*[tz]", text) else text.lower() if text.isalpha() else text)
        self._clock.extent(moment)
        return moment

    _readers: ClassVar[dict[Kind, Callable[..., Value]]] = {
        Kind.STATE: _state,
        Kind.PATTERN: _pattern,
        Kind.TEXT: _text_value,
        Kind.WORD: _word,
        Kind.GROUP: _group_of_failures,
        Kind.NUMBER: _ordered,
        Kind.DURATION: _ordered,
        Kind.SIZE: _ordered,
        Kind.TIMES: _ordered,
        Kind.MOMENT: _single_moment,
        Kind.JSON: _json,
    }

    @property
    def _scalars(self) -> dict[Kind, Callable[[str], Scalar]]:
        return {Kind.NUMBER: number, Kind.DURATION: duration, Kind.SIZE: size, Kind.TIMES: self._moment}

    # -- tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _is_at(self, mark: Mark) -> bool:
        return self._token.mark is mark

    def _take(self) -> Token:
        token = self._token
        if token.mark is not Mark.END:
            self._next += 1
        return token

    def _wrong(self, what: str, position: int, remedy: str) -> FilterWrong:
        return FilterWrong(what, self._text, position, remedy)


def _joined(kind: type[And] | type[Or], nodes: Sequence[Node]) -> Node | None:
    """Return one node of several: without a node of the same kind inside, so that a tree has one form."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.terms if isinstance(node, kind) else [node])
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def _raw(chars: Sequence[Char]) -> str:
    return "".join(char.text for char in chars)


def _find(chars: Sequence[Char], text: str) -> int | None:
    """Return where a character stands outside quotes, or ``None``."""
    return next((index for index, char in enumerate(chars) if char.text == text and not char.is_quoted), None)


def _split(chars: Sequence[Char], at: str) -> list[Sequence[Char]]:
    """Return the pieces between a character that stands outside quotes."""
    pieces: list[list[Char]] = [[]]
    for char in chars:
        if char.text == at and not char.is_quoted:
            pieces.append([])
        else:
            pieces[-1].append(char)
    return list(pieces)


def _is_name(chars: Sequence[Char]) -> bool:
    """Return True if the text before a colon looks like the name of a field."""
    first = _raw(_split(chars, ".")[0])
    return bool(chars) and not chars[0].is_quoted and bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", first))


def _is_text_after_colon(name: Sequence[Char], rest: Sequence[Char]) -> bool:
    """Return True for ``http://x`` and ``C:\\x``, which are text."""
    return _raw(name) not in FIELDS and (_raw(rest).startswith(("//", "\\")) or _raw(name).isdigit())


def _pattern_of(chars: Sequence[Char]) -> Pattern:
    """Return the pattern of a value: a star outside quotes is any text.

    Raises:
        ValueError: it has too many stars.
    """
    parts = _split(chars, "*")
    if len(parts) - 1 > MAX_STARS:
        raise ValueError(f"write at most {MAX_STARS} stars")
    texts = [_raw(part) for part in parts]
    # two stars in a row mean the same as one
    kept = [text for index, text in enumerate(texts) if text or index in (0, len(texts) - 1)]
    if len(parts) == 1:
        return Pattern((texts[0],), is_quoted=all(char.is_quoted for char in chars))
    return Pattern(tuple(kept if len(kept) > 1 else ("", "")))


def _refuse_order(kind: FieldType, chars: Sequence[Char]) -> None:
    if chars and chars[0].text in "<>=" and not chars[0].is_quoted:
        raise ValueError(f"a text has no order: leave out the {chars[0].text}, or put the value in quotes")


def _any_of(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]
