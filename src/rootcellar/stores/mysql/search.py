"""Searches on MySQL and MariaDB."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime

from rootcellar.stores.search import Search
from rootcellar.stores.sql.loose_json import LooseJsonRenderer
from rootcellar.stores.sql.search import like_of


class MySQLRenderer(LooseJsonRenderer):
    """Renders one search. See :class:`~rootcellar.stores.sql.search.Renderer`.

    Args:
        search: the search.
        task: the quoted name of the table.
        select: returns the SQL that reads a column.
        date: converts a date to the text of a parameter.
    """

    def __init__(
        self, search: Search, task: str, select: Callable[[str], str], date: Callable[[datetime], str]
    ) -> None:
        super().__init__(search, task, select)
        self._date = date

    def placeholder(self, name: str) -> str:
        return f"%({name})s"

    def date(self, moment: datetime) -> str:
        return self._date(moment)

    def is_like(self, column: str, parts: Sequence[str]) -> str:
        return f"{column} LIKE {self.param(like_of(parts))}"

    def is_one_of(self, column: str, texts: Sequence[str]) -> str:
        # the index finds texts with any number of spaces at their end, and LIKE compares them exactly
        exactly = " OR ".join(self.is_like(column, (text,)) for text in texts)
        return f"({column} IN ({', '.join(map(self.param, texts))}) AND ({exactly}))"

    def has_text(self, column: str, text: str) -> str:
        return f"LOWER({column}) LIKE {self.param(like_of(('', text, '')))}"

    def is_beyond_ascii(self, column: str) -> str:
        return f"LENGTH({column}) <> CHAR_LENGTH({column})"

    def size_of(self, column: str) -> str:
        return f"LENGTH({column})"

    def span_between(self, start: str, end: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {start}, {end})"

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        return {
            "text": ("STRING",),
            "number": ("INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL"),
            "true": ("BOOLEAN",),
            "false": ("BOOLEAN",),
            "null": ("NULL",),
        }

    def is_valid_json(self, column: str) -> str:
        return f"JSON_VALID({column})"

    def kind_at(self, column: str, path: str) -> str:
        return f"JSON_TYPE({self._at_place(column, path)})"

    def text_at(self, column: str, path: str) -> str:
        return f"JSON_UNQUOTE({self._at_place(column, path)})"

    def number_at(self, column: str, path: str) -> str:
        return f"({self._at_place(column, path)} + 0e0)"

    def text_matches(self, text: str, parts: Sequence[str]) -> str:
        return f"{text} COLLATE utf8mb4_bin LIKE {self.param(like_of(parts))}"

    def may_be_escaped(self, column: str) -> str:
        # servers of different versions read escaped letters in different ways
        return f" OR LOCATE({self.param(chr(92))}, {column}) > 0"

    def joined(self, module: str, name: str) -> str:
        return f"CONCAT({module}, '.', {name})"

    def _at_place(self, column: str, path: str) -> str:
        return f"JSON_EXTRACT({column}, {self.param(path)})"


def limited(statement: str, seconds: float, *, is_mariadb: bool) -> str:
    """Return a query that the server ends after some time; infinity for never."""
    if math.isinf(seconds):
        return statement
    if is_mariadb:
        return f"SET STATEMENT max_statement_time = {seconds:.3f} FOR {statement}"
    return statement.replace("SELECT ", f"SELECT /*+ MAX_EXECUTION_TIME({max(1, round(seconds * 1000))}) */ ", 1)
