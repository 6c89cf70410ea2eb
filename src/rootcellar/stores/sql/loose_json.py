"""Conditions on JSON for servers whose JSON functions are not exact: MySQL, MariaDB and SQLite.

Their numbers are floating point, and they read escaped letters and paths in different ways. So a condition holds for
every wanted record, and may hold for others. Inside a negation, it holds for no others.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from decimal import Decimal

from rootcellar.stores.search import Bounds
from rootcellar.stores.sql.search import Path, Renderer, is_index

#: a step that every server reads in the same way inside double quotes
_PLAIN_STEP = re.compile(r"[A-Za-z0-9_ .-]+")
#: how far a number of floating point may be from the exact one, as a part of it
_TOLERANCE = 1e-12
_LARGEST_FLOAT = Decimal("1e300")


class LooseJsonRenderer(Renderer):
    """Renders conditions on JSON for a server that cannot say them exactly."""

    @abstractmethod
    def is_valid_json(self, column: str) -> str:
        """Return the condition that a column is JSON."""

    @abstractmethod
    def kind_at(self, column: str, path: str) -> str:
        """Return the SQL of the name of a value's type at a path; NULL if there is none."""

    @abstractmethod
    def text_at(self, column: str, path: str) -> str:
        """Return the SQL of the text at a path."""

    @abstractmethod
    def number_at(self, column: str, path: str) -> str:
        """Return the SQL of the number at a path, as floating point."""

    @abstractmethod
    def text_matches(self, text: str, parts: Sequence[str]) -> str:
        """Return the condition that a text of JSON consists of parts, with any text between them."""

    def may_be_escaped(self, column: str) -> str:
        """Return what to add to a condition on a text if the server may misread escaped letters, with its ``OR``."""
        return ""

    @property
    @abstractmethod
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The names of types: of ``text``, ``number``, ``true``, ``false`` and ``null``."""

    def json_has(self, column: str, path: Path, is_widened: bool) -> str:
        return self._at(column, path, is_widened, lambda place: f"{self.kind_at(column, place)} IS NOT NULL")

    def json_text(self, column: str, path: Path, parts: Sequence[str], is_widened: bool) -> str:
        return self._at(column, path, is_widened, lambda place: self._text(column, place, parts))

    def json_number(self, column: str, path: Path, bounds: Bounds, is_widened: bool) -> str:
        return self._at(column, path, is_widened, lambda place: self._number(column, place, bounds))

    def json_literal(self, column: str, path: Path, value: bool | None, is_widened: bool) -> str:
        kind = {True: "true", False: "false", None: "null"}[value]
        return self._at(column, path, is_widened, lambda place: self._is_kind(column, place, kind))

    def error_type(self, parts: Sequence[str], is_widened: bool) -> str:
        if not is_widened:
            return self.false
        name, module = (self.text_at("result", f'$."{step}"') for step in ("exc_type", "exc_module"))
        kind = self._is_kind("result", '$."exc_type"', "text")
        joined = self.joined(module, name)
        texts = f"{self.text_matches(name, parts)} OR {self.text_matches(joined, parts)}"
        matches = f"({kind} AND ({texts}{self.may_be_escaped('result')}))"
        return self._if_valid("result", matches)

    @abstractmethod
    def joined(self, module: str, name: str) -> str:
        """Return the SQL of a module's and a type's name with a dot between them."""

    def _is_kind(self, column: str, place: str, kind: str) -> str:
        names = ", ".join(f"'{name}'" for name in self.kinds[kind])
        return f"{self.kind_at(column, place)} IN ({names})"

    def _text(self, column: str, place: str, parts: Sequence[str]) -> str:
        matches = self.text_matches(self.text_at(column, place), parts)
        return f"({self._is_kind(column, place, 'text')} AND ({matches}{self.may_be_escaped(column)}))"

    def _number(self, column: str, place: str, bounds: Bounds) -> str:
        found = [self._is_kind(column, place, "number")]
        number = self.number_at(column, place)
        if bounds.low is not None and abs(bounds.low) < _LARGEST_FLOAT:
            found.append(f"{number} >= {self.param(_below(bounds.low))}")
        if bounds.high is not None and abs(bounds.high) < _LARGEST_FLOAT:
            found.append(f"{number} <= {self.param(-_below(-bounds.high))}")
        return f"(CASE WHEN {found[0]} THEN {' AND '.join(found[1:]) or self.true} END)"

    def _at(self, column: str, path: Path, is_widened: bool, condition: Callable[[str], str]) -> str:
        """Return a condition on a value at a path; where a path can be read in several ways, on any of them."""
        if not is_widened:
            return self.false
        places = _places(path)
        if places is None:
            # what is below every element is looked for by the caller
            return f"{column} IS NOT NULL"
        return self._if_valid(column, f"({' OR '.join(map(condition, places))})")

    def _if_valid(self, column: str, condition: str) -> str:
        # a text that is no JSON is damaged, and its functions would be errors
        return f"(CASE WHEN {self.is_valid_json(column)} THEN {condition} ELSE {column} IS NOT NULL END)"


def _below(number: Decimal) -> float:
    """Return a number of floating point that is less than a number, by more than its error."""
    nearest = float(number)
    return math.nextafter(nearest - abs(nearest) * _TOLERANCE, -math.inf)


def _places(path: Path) -> list[str] | None:
    """Return a path in the servers' words; several if a step may be an index or a key. ``None`` if there are none."""
    places = ["$"]
    for step in path:
        if step is None or not _PLAIN_STEP.fullmatch(step) or len(places) > 2:
            return None
        keys = [f'{place}."{step}"' for place in places]
        places = [*keys, *(f"{place}[{int(step)}]" for place in places)] if is_index(step) else keys
    return places
