"""Cuts the text of a filter into terms, brackets and operators, each with its position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from rootcellar.history.filters.errors import FilterWrong

#: the most characters of a filter
MAX_LENGTH = 2_048
#: the words that combine terms; in lower case they are text
_OPERATORS = frozenset({"AND", "OR", "NOT"})


class Mark(Enum):
    """What a token is."""

    OPEN = auto()
    CLOSE = auto()
    MINUS = auto()
    AND = auto()
    OR = auto()
    NOT = auto()
    TERM = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a term.

    Attributes:
        text: the character.
        is_quoted: whether it stood in quotes or after a backslash, so that it means itself.
        position: where it is in the filter.
    """

    text: str
    is_quoted: bool
    position: int


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a filter.

    Attributes:
        mark: what it is.
        position: where it begins.
        chars: the characters of a term, without its quotes.
        is_quoted: whether a term is one text in quotes, and nothing else.
    """

    mark: Mark
    position: int
    chars: tuple[Char, ...] = ()
    is_quoted: bool = False


def scan(text: str) -> Iterator[Token]:
    """Yield the tokens of a filter. The last one is ``END``.

    Raises:
        FilterWrong: it is too long, has an open quote, or a bracket within a word.
    """
    if len(text) > MAX_LENGTH:
        raise FilterWrong(
            f"the filter has {len(text):,} characters", text, MAX_LENGTH, f"write at most {MAX_LENGTH:,} characters"
        )
    position = 0
    while position < len(text):
        char = text[position]
        if char.isspace():
            position += 1
        elif char in "()":
            yield Token(Mark.OPEN if char == "(" else Mark.CLOSE, position)
            position += 1
        elif char == "-":
            yield Token(Mark.MINUS, position)
            position += 1
        else:
            token, position = _term(text, position)
            yield token
    yield Token(Mark.END, len(text))


def _term(text: str, start: int) -> tuple[Token, int]:
    """Return the term that begins at a position, and where it ends."""
    chars: list[Char] = []
    quotes = 0
    position = start
    while position < len(text) and not text[position].isspace() and text[position] != ")":
        char = text[position]
        if char == "(":
            raise FilterWrong(
                "a bracket stands within a word", text, position, 'write a blank before it, or quote the text: "f(x)"'
            )
        if char == '"':
            quotes += 1
            position = _quoted(text, position, chars)
        elif char == "\\" and text[position + 1 : position + 2] in ("*", "\\", '"'):
            chars.append(Char(text[position + 1], True, position))
            position += 2
        else:
            chars.append(Char(char, False, position))
            position += 1
    bare = "".join(char.text for char in chars)
    is_quoted = (
        quotes == 1 and text[start] == '"' and all(char.is_quoted for char in chars) and text[position - 1] == '"'
    )
    if not quotes and bare in _OPERATORS and not any(char.is_quoted for char in chars):
        return Token(Mark[bare], start), position
    return Token(Mark.TERM, start, tuple(chars), is_quoted), position


def _quoted(text: str, start: int, chars: list[Char]) -> int:
    """Append the characters of a text in quotes, one empty one for the empty text; return the position after it."""
    position = start + 1
    if text[position : position + 1] == '"':
        chars.append(Char("", True, start))
    while position < len(text):
        char = text[position]
        if char == '"':
            return position + 1
        if char == "\\" and text[position + 1 : position + 2] in ('"', "\\"):
            position += 1
            char = text[position]
        chars.append(Char(char, True, position))
        position += 1
    raise FilterWrong("a quote is not closed", text, start, 'write another " at the end of the text')
