"""Searches in a SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar

from rootcellar.stores.search import Search
from rootcellar.stores.sql.loose_json import LooseJsonRenderer
from rootcellar.stores.sql.search import glob_of


class SQLiteRenderer(LooseJsonRenderer):
    """Renders one search. See :class:`~rootcellar.stores.sql.search.Renderer`.

    Args:
        search: the search.
        task: the quoted name of the table.
        select: returns the SQL that reads a column.
        date: converts a date to the text of a column.
        read_date: reads it.
    """

    true: ClassVar[str] = "1"
    false: ClassVar[str] = "0"

    def __init__(
        self,
        search: Search,
        task: str,
        select: Callable[[str], str],
        date: Callable[[datetime], str],
        read_date: Callable[[Any], datetime],
    ) -> None:
        super().__init__(search, task, select)
        self._date = date
        self._read_date = read_date

    def placeholder(self, name: str) -> str:
        return f":{name}"

    def date(self, moment: datetime) -> str:
        return self._date(moment)

    def read_date(self, value: Any) -> datetime:
        return self._read_date(value)

    def segment(self) -> str:
        # an id that is no text belongs to no task
        return " AND ".join(filter(None, (super().segment(), "task_id < x''")))

    def is_like(self, column: str, parts: Sequence[str]) -> str:
        # LIKE would ignore the case of letters
        return f"{column} GLOB {self.param(glob_of(parts))}"

    def is_one_of(self, column: str, texts: Sequence[str]) -> str:
        if len(texts) == 1:
            return f"{column} = {self.param(texts[0])}"
        return f"{column} IN ({', '.join(map(self.param, texts))})"

    def has_text(self, column: str, text: str) -> str:
        return f"instr(lower({column}), {self.param(text)}) > 0"

    def is_beyond_ascii(self, column: str) -> str:
        return f"length(CAST({column} AS BLOB)) <> length({column})"

    def size_of(self, column: str) -> str:
        return f"length(CAST({column} AS BLOB))"

    def span_between(self, start: str, end: str) -> str:
        return f"({_microseconds(end)} - {_microseconds(start)})"

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        return {
            "text": ("text",),
            "number": ("integer", "real"),
            "true": ("true",),
            "false": ("false",),
            "null": ("null",),
        }

    def is_valid_json(self, column: str) -> str:
        return f"json_valid({column})"

    def kind_at(self, column: str, path: str) -> str:
        return f"json_type({column}, {self.param(path)})"

    def text_at(self, column: str, path: str) -> str:
        return f"json_extract({column}, {self.param(path)})"

    def number_at(self, column: str, path: str) -> str:
        return f"CAST(json_extract({column}, {self.param(path)}) AS REAL)"

    def text_matches(self, text: str, parts: Sequence[str]) -> str:
        return f"{text} = {self.param(parts[0])}" if len(parts) == 1 else self.is_like(text, parts)

    def joined(self, module: str, name: str) -> str:
        return f"({module} || '.' || {name})"


def _microseconds(column: str) -> str:
    # the function reads milliseconds only, and rounds them
    seconds = f"CAST(strftime('%s', substr({column}, 1, 19)) AS INTEGER)"
    return f"({seconds} * 1000000 + CAST(substr({column}, 21, 6) AS INTEGER))"
