"""Searches on PostgreSQL, which can test every condition exactly, also inside JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from rootcellar.stores.search import Bounds
from rootcellar.stores.sql.rows import PAYLOAD_COLUMNS
from rootcellar.stores.sql.search import Path, Renderer, is_index, like_of
from rootcellar.stores.sql.statements import fill_in

#: for one transaction: an index is used even where the server expects many rows, because each page needs only a few;
#: and no time is spent on compiling a statement that ends after some milliseconds
SETTINGS = (
    "SELECT set_config('statement_timeout', %(milliseconds)s, true), set_config('enable_seqscan', 'off', true), "
    "set_config('jit', 'off', true)"
)
_WHOLE = "{}"
#: that any element of a list, or any value of an object, meets a condition
_ANY_ELEMENT = """EXISTS (
    SELECT 1 FROM (
        SELECT value FROM json_each(CASE WHEN json_typeof({value}) = 'object' THEN {value} END)
        UNION ALL
        SELECT value FROM json_array_elements(CASE WHEN json_typeof({value}) = 'array' THEN {value} END)
    ) AS {name}(value) WHERE {inner}
)"""


class PostgresRenderer(Renderer):
    def placeholder(self, name: str) -> str:
        return f"%({name})s"

    def date(self, moment: datetime) -> datetime:
        return moment

    def is_like(self, column: str, parts: Sequence[str]) -> str:
        return f"{column} LIKE {self.param(like_of(parts))}"

    def is_one_of(self, column: str, texts: Sequence[str]) -> str:
        if len(texts) == 1:
            return f"{column} = {self.param(texts[0])}::text"
        return f"{column} = ANY({self.param(list(texts))}::text[])"

    def has_text(self, column: str, text: str) -> str:
        # in the collation C, only ASCII letters have a case
        return f'lower({column} COLLATE "C") LIKE {self.param(like_of(("", text, "")))}'

    def is_beyond_ascii(self, column: str) -> str:
        return f"octet_length({column}) <> length({column})"

    def as_text(self, column: str) -> str:
        return f"{column}::text" if column in PAYLOAD_COLUMNS else column

    def size_of(self, column: str) -> str:
        return f"octet_length({column}::text)"

    def span_between(self, start: str, end: str) -> str:
        # the server refuses to subtract an infinite time
        return (
            f"CASE WHEN isfinite({start}) AND isfinite({end}) THEN "
            f"(extract(epoch FROM ({end} - {start})) * 1000000)::bigint END"
        )

    # -- JSON

    def json_has(self, column: str, path: Path, is_widened: bool) -> str:
        return self._at(column, path, lambda value: f"{value} IS NOT NULL")

    def json_text(self, column: str, path: Path, parts: Sequence[str], is_widened: bool) -> str:
        return self._at(column, path, lambda value: self._typed(value, "string", self._matches(value, parts)))

    def json_number(self, column: str, path: Path, bounds: Bounds, is_widened: bool) -> str:
        return self._at(column, path, lambda value: self._typed(value, "number", self._is_within(value, bounds)))

    def json_literal(self, column: str, path: Path, value: bool | None, is_widened: bool) -> str:
        if value is None:
            return self._at(column, path, lambda found: f"json_typeof({found}) = 'null'")
        text = self.param("true" if value else "false")
        return self._at(column, path, lambda found: self._typed(found, "boolean", f"{found} #>> '{_WHOLE}' = {text}"))

    def error_type(self, parts: Sequence[str], is_widened: bool) -> str:
        name, module = "result -> 'exc_type'", "result -> 'exc_module'"
        alone = self._typed(name, "string", self._matches(name, parts))
        both = "(result ->> 'exc_module') || '.' || (result ->> 'exc_type')"
        joined = self._typed(name, "string", self._typed(module, "string", self._text_matches(both, parts)))
        return f"CASE WHEN json_typeof(result) = 'object' THEN {alone} OR {joined} END"

    def _typed(self, value: str, kind: str, condition: str) -> str:
        # CASE and not AND: the server may test the parts of AND in any order, and would convert a text to a number
        return f"(CASE WHEN json_typeof({value}) = '{kind}' THEN {condition} END)"

    def _matches(self, value: str, parts: Sequence[str]) -> str:
        return self._text_matches(f"({value} #>> '{_WHOLE}')", parts)

    def _text_matches(self, text: str, parts: Sequence[str]) -> str:
        if len(parts) == 1:
            return f"{text} = {self.param(parts[0])}::text"
        return f"{text} LIKE {self.param(like_of(parts))}::text"

    def _is_within(self, value: str, bounds: Bounds) -> str:
        number = f"({value} #>> '{_WHOLE}')::numeric"
        found = []
        if bounds.low is not None:
            found.append(f"{number} {'>=' if bounds.has_low else '>'} {self._number(bounds.low)}")
        if bounds.high is not None:
            found.append(f"{number} {'<=' if bounds.has_high else '<'} {self._number(bounds.high)}")
        return f"({' AND '.join(found) or self.true})"

    def _number(self, number: Decimal) -> str:
        return f"{self.param(format(number, 'f'))}::text::numeric"

    def _at(self, value: str, path: Path, condition: Callable[[str], str], depth: int = 0) -> str:
        """Return the condition that a value at a path below another one meets a condition."""
        for place, step in enumerate(path):
            if step is None:
                name = f"e{depth}"
                inner = self._at(f"{name}.value", path[place + 1 :], condition, depth + 1)
                return fill_in(_ANY_ELEMENT, {"value": value, "name": name, "inner": inner})
            # #> reads the index of a list or the key of an object, and -> only the key
            value = (
                f"({value} #> {self.param([step])}::text[])"
                if is_index(step)
                else f"({value} -> {self.param(step)}::text)"
            )
        return f"({condition(value)})"
