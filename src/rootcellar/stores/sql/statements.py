"""Loads SQL from ``.sql`` files, in which each statement has a name and a description.

A statement begins at a line ``-- name: what it does`` and ends at the next such line or the end of the file.
``{task}``, ``{group}`` and similar keys are replaced by quoted table names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources

_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?\{(\w+)\} \(\n(.*?)^\)", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    ([a-z_]+) +(.+?),?$", re.MULTILINE)
_ADDED = re.compile(r"^ALTER TABLE \{(\w+)\} ADD COLUMN (?:IF NOT EXISTS )?([a-z_]+) +(.+?);?$", re.MULTILINE)
_DROPPED = re.compile(r"^ALTER TABLE \{(\w+)\} DROP COLUMN (?:IF EXISTS )?([a-z_]+)", re.MULTILINE)
#: keys of tables that hold nothing of a result
_SHORT_LIVED = ("registry", "listener", "waiter")
_HEADING = re.compile(r"^-- (\w+): .*$", re.MULTILINE)


def load_statements(package: str, name: str, tables: Mapping[str, str]) -> dict[str, str]:
    """Return the statements of the file ``name`` in ``package``, by their names, with the tables filled in."""
    text = read_sql(package, name)
    pieces = _HEADING.split(text)[1:]
    return {statement: fill_in(body, tables).strip() for statement, body in zip(pieces[::2], pieces[1::2], strict=True)}


def read_sql(package: str, name: str) -> str:
    """Return the text of a file in ``package``."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def fill_in(text: str, tables: Mapping[str, str]) -> str:
    """Replace each ``{key}`` in ``text`` by its name. A key without a name stays, to be filled in later."""
    return re.sub(r"\{(\w+)\}", lambda match: tables.get(match[1], match[0]), text)


def columns_made_by(steps: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the columns that the steps of a schema create, each with its definition, by the key of the table.

    Args:
        steps: the texts of the steps, with ``{key}`` for the tables' names.
    """
    found: dict[str, dict[str, str]] = {}
    for text in steps:
        for key, body in _TABLE.findall(text):
            found[key] = dict(_COLUMN.findall(body))
        for key, name, definition in _ADDED.findall(text):
            found[key][name] = definition
        for key, name in _DROPPED.findall(text):
            del found[key][name]
    return found


def measured_tables(names: Mapping[str, str]) -> list[str]:
    """Return the quoted names of the tables that keep results, and not those of indexes and of short-lived rows."""
    return [name for key, name in names.items() if not key.endswith("_index") and key not in _SHORT_LIVED]


def in_parameterized(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names for a statement with parameters, in which the driver reads a single % as a parameter."""
    return {key: name.replace("%", "%%") for key, name in names.items()}


def quote_identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """Quote a table's name with its schema, if it has one."""
    quoted = quote_identifier(name)
    return f"{quote_identifier(schema)}.{quoted}" if schema else quoted
