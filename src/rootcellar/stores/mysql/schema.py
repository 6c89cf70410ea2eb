"""The tables in MySQL: created at the first use or by hand, with versions, also by several processes at once.

MySQL commits at every CREATE. So each step may be repeated, and each is recorded as soon as it is done.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pymysql
from pymysql.converters import escape_string

from rootcellar import errors
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.mysql.driver import Connection
from rootcellar.stores.mysql.failures import code_of
from rootcellar.stores.sql import counting, migration_tables, retention_tables
from rootcellar.stores.sql.celery_tables import ADOPTED_SUFFIX
from rootcellar.stores.sql.grants import Role, on_tables
from rootcellar.stores.sql.schema import Run, SqlSchema
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements

PACKAGE = "rootcellar.stores.mysql"
MIGRATIONS = (
    *("001_results.sql", "002_chords.sql", "003_history.sql", "004_statistics.sql", "005_retention.sql"),
    "006_migration.sql",
)
#: seconds to wait for another process that creates the tables
LOCK_SECONDS = 30
#: the most characters of a name
LONGEST_NAME = 64
_WITH_PARAMETERS = ("read_registry", "register", "unregister", "count_registered", "count_task", "count_group")
_ADMIN_RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX"
NO_SUCH_TABLE, NO_SUCH_DATABASE, COLUMN_EXISTS = 1146, 1049, 1060


def quote(name: str) -> str:
    """Quote a name for SQL."""
    return "`" + name.replace("`", "``") + "`"


def unquoted(name: str) -> str:
    """Return the name of a table without its schema, of a name that :func:`quote` has quoted."""
    return name.rpartition("`.`")[2].strip("`").replace("``", "`")


def qualified(schema: str | None, name: str) -> str:
    """Quote a table's name with its database, if it is in another one than the URL's."""
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


def table_names(options: StoreOptions) -> dict[str, str]:
    """Return the quoted names for each ``{key}`` in the SQL.

    Raises:
        ConfigurationError: MySQL does not accept one of the names.
    """
    task, group, schema = options.task_table, options.group_table, options.task_schema
    for name in (task, group, schema, options.group_schema):
        _check_name(name or "none")
    names = {
        "task": qualified(schema, task),
        "group": qualified(options.group_schema, group),
        "chord": qualified(schema, _derived(task, "_chord")),
        "part": qualified(schema, _derived(task, "_chord_part")),
        "registry": qualified(schema, "rootcellar_schema"),
    }
    for index in ("date_done", "name", "expires", "status"):
        names[f"task_{index}_index"] = quote(_derived(task, f"_{index}_idx"))
    for tables in (counting, retention_tables, migration_tables):
        names.update({key: qualified(schema, _derived(task, suffix)) for key, suffix in tables.TABLES.items()})
        names.update({key: quote(_derived(task, suffix)) for key, suffix in tables.INDEXES.items()})
    names["group_expires_index"] = quote(_derived(group, "_expires_idx"))
    for index in ("open", "expires"):
        names[f"chord_{index}_index"] = quote(_derived(task, f"_chord_{index}_idx"))
    return names


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or name.endswith(" ") or any(ord(character) > 0xFFFF for character in name):
        raise errors.ConfigurationError(
            f"MySQL takes no table or database of the name {name!r}",
            where="database_table_names, database_table_schemas",
            remedy=f"use up to {LONGEST_NAME} characters, no emoji, and no space at the end",
        )


def _derived(name: str, suffix: str) -> str:
    """Return ``name`` with ``suffix``, shortened to a unique name if that is too long."""
    if len(name + suffix) <= LONGEST_NAME:
        return name + suffix
    ending = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
    return name[: LONGEST_NAME - len(ending)] + ending


class MySQLSchema(SqlSchema[Connection]):
    """The tables of :class:`~rootcellar.stores.mysql.MySQLStore`."""

    def __init__(self, options: StoreOptions, run: Run[Connection], where: str, database: str) -> None:
        names = table_names(options)
        self._database = database
        literals = {
            "task_literal": _literal(options.task_table),
            "group_literal": _literal(options.group_table),
            "version_literal": str(len(MIGRATIONS)),
        }
        statements = load_statements(PACKAGE, "schema.sql", {**names, **literals})
        super().__init__(
            options, run, where=where, package=PACKAGE, migrations=MIGRATIONS, names=names, statements=statements
        )
        with_parameters = load_statements(PACKAGE, "schema.sql", in_parameterized(names))
        self._sql.update({name: with_parameters[name] for name in _WITH_PARAMETERS})

    def sql(self) -> str:
        databases = sorted({name for name in (self._options.task_schema, self._options.group_schema) if name})
        made = [f"CREATE DATABASE IF NOT EXISTS {quote(name)};" for name in databases]
        return "\n".join(["SET NAMES utf8mb4;", *made, super().sql()])

    def grants(self, role: Role, user: str) -> str:
        name, _, host = user.rpartition("@") if "@" in user else (user, "", "%")
        account = f"{_literal(name)}@{_literal(host)}"
        lines = [f"-- CREATE USER {account} IDENTIFIED BY '...';"]
        options = self._options
        databases = dict.fromkeys(given or self._database for given in (options.task_schema, options.group_schema))
        if role == "admin":
            # only in a GRANT on a database, _ and % are wildcards
            patterns = [re.sub(r"([_%\\])", r"\\\1", database) for database in databases]
            lines += [f"GRANT {_ADMIN_RIGHTS} ON {quote(pattern)}.* TO {account};" for pattern in patterns]
        else:
            there = replace(
                options,
                task_schema=options.task_schema or self._database,
                group_schema=options.group_schema or self._database,
            )
            lines += on_tables(role, table_names(there), account)
        return "\n".join([*lines, ""])

    @contextmanager
    def _exclusive(self, connection: Connection) -> Iterator[None]:
        if self._all(connection, "lock", {"seconds": LOCK_SECONDS}) != [(1,)]:
            raise errors.StoreUnavailable(
                f"another process has been creating the tables for {LOCK_SECONDS} s",
                where=self._where,
                remedy="see SHOW PROCESSLIST",
            )
        try:
            yield
        finally:
            with suppress(pymysql.Error):
                connection.rows(self._sql["unlock"])

    def _all(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.rows(self._sql[statement], params)

    def _script(self, connection: Connection, text: str) -> None:
        for statement in text.split(";\n"):
            if statement.strip():
                self._step(connection, statement)

    def _step(self, connection: Connection, statement: str) -> None:
        try:
            connection.execute(statement)
        except pymysql.Error as exc:
            # the process that added the column died before it recorded that
            if code_of(exc) != COLUMN_EXISTS:
                raise

    def _exists(self, connection: Connection, table: str) -> bool:
        try:
            connection.execute(fill_in(self._sql["probe_table"], {"table": table}))
        except pymysql.Error as exc:
            if code_of(exc) in (NO_SUCH_TABLE, NO_SUCH_DATABASE):
                return False
            raise
        return True

    def _rename_adopted(self, connection: Connection, schema: str | None, name: str) -> None:
        connection.execute(f"RENAME TABLE {qualified(schema, name)} TO {qualified(schema, name + ADOPTED_SUFFIX)}")

    def _columns(self, connection: Connection, table: str) -> set[str]:
        return {str(row[0]) for row in connection.rows(fill_in(self._sql["columns_of"], {"table": table}))}

    def _rename_back(self, connection: Connection, schema: str | None, name: str) -> None:
        connection.execute(f"RENAME TABLE {qualified(schema, name + ADOPTED_SUFFIX)} TO {qualified(schema, name)}")

    def _qualified(self, schema: str | None, name: str) -> str:
        return qualified(schema, name)

    def _make_schemas(self, connection: Connection) -> None:
        for schema in {self._options.task_schema, self._options.group_schema} - {None}:
            connection.execute(f"CREATE DATABASE IF NOT EXISTS {quote(str(schema))}")


def _literal(text: str) -> str:
    """Return a text as an SQL literal, for the script that a DBA runs."""
    return f"'{escape_string(text)}'"
