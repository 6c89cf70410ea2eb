"""The tables in SQLite: created at the first use or by hand, with versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootcellar.stores.base import SchemaStatus, StoreOptions
from rootcellar.stores.sql import counting, migration_tables, retention_tables
from rootcellar.stores.sql.celery_tables import ADOPTED_SUFFIX
from rootcellar.stores.sql.schema import Run, SqlSchema
from rootcellar.stores.sql.statements import load_statements, quote_identifier

PACKAGE = "rootcellar.stores.sqlite"
MIGRATIONS = (
    *("001_results.sql", "002_chords.sql", "003_history.sql", "004_statistics.sql", "005_retention.sql"),
    "006_migration.sql",
)


def table_names(options: StoreOptions) -> dict[str, str]:
    """Return the quoted names for each ``{key}`` in the SQL. SQLite has no schemas."""
    task, group = options.task_table, options.group_table
    names = {
        "task": task,
        "group": group,
        "chord": f"{task}_chord",
        "part": f"{task}_chord_part",
        "registry": "rootcellar_schema",
        "group_expires_index": f"{group}_expires_idx",
        "chord_open_index": f"{task}_chord_open_idx",
    }
    for index in ("date_done", "name", "expires", "failures", "failure_group", "unfinished"):
        names[f"task_{index}_index"] = f"{task}_{index}_idx"
    for tables in (counting, retention_tables, migration_tables):
        names.update({key: f"{task}{suffix}" for key, suffix in (tables.TABLES | tables.INDEXES).items()})
    return {key: quote_identifier(name) for key, name in names.items()}


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


class SQLiteSchema(SqlSchema[sqlite3.Connection]):
    """The tables of :class:`~rootcellar.stores.sqlite.SQLiteStore`."""

    def __init__(self, options: StoreOptions, run: Run[sqlite3.Connection], path: Path) -> None:
        names = table_names(options)
        literals = {
            "task_literal": literal(options.task_table),
            "group_literal": literal(options.group_table),
            "version_literal": str(len(MIGRATIONS)),
        }
        super().__init__(
            # SQLite has no schemas
            replace(options, task_schema=None, group_schema=None),
            run,
            where=f"sqlite {path}",
            package=PACKAGE,
            migrations=MIGRATIONS,
            names=names,
            statements=load_statements(PACKAGE, "schema.sql", {**names, **literals}),
        )
        self._path = path

    def status(self) -> SchemaStatus:
        # connecting would create the file
        if not self._path.exists():
            return SchemaStatus(version=0, wanted=len(MIGRATIONS))
        return super().status()

    def _exclusive(self, connection: sqlite3.Connection) -> transaction:
        return transaction(connection)

    def _all(self, connection: sqlite3.Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.execute(self._sql[statement], params).fetchall()

    def _script(self, connection: sqlite3.Connection, text: str) -> None:
        # executescript is not used, because it would commit
        for statement in text.split(";\n"):
            connection.execute(statement)

    def _exists(self, connection: sqlite3.Connection, table: str) -> bool:
        return any(quote_identifier(name) == table for (name,) in self._all(connection, "tables", {}))

    def _columns(self, connection: sqlite3.Connection, table: str) -> set[str]:
        plain = table[1:-1].replace('""', '"')
        return {name for (name,) in self._all(connection, "columns_of", {"table": plain})}

    def _rename_back(self, connection: sqlite3.Connection, schema: str | None, name: str) -> None:
        connection.execute(f"ALTER TABLE {quote_identifier(name + ADOPTED_SUFFIX)} RENAME TO {quote_identifier(name)}")

    def _rename_adopted(self, connection: sqlite3.Connection, schema: str | None, name: str) -> None:
        connection.execute(f"ALTER TABLE {quote_identifier(name)} RENAME TO {quote_identifier(name + ADOPTED_SUFFIX)}")


class transaction:
    """A transaction as a ``with`` block. It takes the file's write lock at once, so that its reads stay valid."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
