"""The tables in PostgreSQL: created at the first use or by hand, with versions, also by several processes at once."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rootcellar.stores.base import SchemaStatus, StoreOptions
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.sql import counting, migration_tables, retention_tables
from rootcellar.stores.sql.celery_tables import ADOPTED_SUFFIX, Adopted
from rootcellar.stores.sql.grants import Role, on_tables, rights_of
from rootcellar.stores.sql.schema import Run, SqlSchema
from rootcellar.stores.sql.statements import (
    columns_made_by,
    fill_in,
    in_parameterized,
    load_statements,
    qualified,
    quote_identifier,
    read_sql,
)
from rootcellar.text.escaping import visible_logs

_PACKAGE = "rootcellar.stores.postgres"
MIGRATIONS = (
    *("001_results.sql", "002_chords.sql", "003_waiting.sql", "004_history.sql", "005_statistics.sql"),
    *("006_retention.sql", "007_migration.sql"),
)
#: the number of the first steps whose indexes were created with their tables
WITHOUT_LATER_INDEXES = 3
#: the bytes of a table whose new indexes are created in the transaction that upgrades it: it takes less than a second
LARGEST_TO_INDEX_AT_ONCE = 64 * 1024 * 1024
_INDEX = re.compile(r"^CREATE INDEX \{(\w+)\} ON \{(\w+)\} (.+);\n", re.MULTILINE)
#: seconds to wait for a lock: behind this wait, every process that stores would also wait for a slow reader
LOCK_TIMEOUT = 5
#: the most bytes of a name; PostgreSQL cuts longer ones
LONGEST_NAME = 63
logger = visible_logs(logging.getLogger(__name__))

_WITH_PARAMETERS = ("read_registry", "register", "unregister", "count_registered", "count_task", "count_group")


def table_names(options: StoreOptions) -> dict[str, str]:
    """Return the quoted names for each ``{key}`` in the SQL."""
    task, schema = options.task_table, options.task_schema
    names = {
        "task": qualified(schema, task),
        "group": qualified(options.group_schema, options.group_table),
        "chord": qualified(schema, derived(task, "_chord")),
        "part": qualified(schema, derived(task, "_chord_part")),
        "listener": qualified(schema, derived(task, "_listener")),
        "waiter": qualified(schema, derived(task, "_waiter")),
        "registry": qualified(schema, "rootcellar_schema"),
    }
    for index in ("date_done", "name", "expires", "failures", "changed", "failure_group", "unfinished"):
        names[f"task_{index}_index"] = quote_identifier(derived(task, f"_{index}_idx"))
    names.update(
        {
            key: qualified(schema, derived(task, suffix))
            for key, suffix in (counting.TABLES | retention_tables.TABLES | migration_tables.TABLES).items()
        }
    )
    indexes = counting.INDEXES | retention_tables.INDEXES | migration_tables.INDEXES
    names.update({key: quote_identifier(derived(task, suffix)) for key, suffix in indexes.items()})
    names["group_expires_index"] = quote_identifier(derived(options.group_table, "_expires_idx"))
    names["chord_open_index"] = quote_identifier(derived(task, "_chord_open_idx"))
    return names


def older_names(options: StoreOptions) -> dict[str, str]:
    """Return the quoted names of the older table and what belongs to it, which few databases have."""
    task, schema = options.task_table, options.task_schema
    names = {key: qualified(schema, derived(task, f"_{key}")) for key in ("older", "moved", "all")}
    for index in ("date_done", "name"):
        names[f"older_{index}_index"] = quote_identifier(derived(task, f"_older_{index}_idx"))
    return names


def derived(name: str, suffix: str) -> str:
    """Return ``name`` with ``suffix``, shortened to a unique name if PostgreSQL would cut it off."""
    if len((name + suffix).encode()) <= LONGEST_NAME:
        return name + suffix
    ending = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
    return name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table: its name, without and with quotes, its definition, and its type."""

    name: str
    quoted: str
    definition: str
    type: str

    @property
    def added(self) -> str:
        """What follows ADD COLUMN."""
        return f"{self.quoted} {self.definition}"


class PostgresSchema(SqlSchema[Connection]):
    """The tables of :class:`~rootcellar.stores.postgres.PostgresStore`."""

    def __init__(self, options: StoreOptions, run: Run[Connection], where: str) -> None:
        names = table_names(options)
        statements = load_statements(_PACKAGE, "schema.sql", {**names, **_literals(options)})
        super().__init__(
            options, run, where=where, package=_PACKAGE, migrations=MIGRATIONS, names=names, statements=statements
        )
        with_parameters = load_statements(_PACKAGE, "schema.sql", in_parameterized(names))
        self._sql.update({name: with_parameters[name] for name in _WITH_PARAMETERS})
        self._older_sql = load_statements(_PACKAGE, "older.sql", {**names, **older_names(options)})

    def sql(self) -> str:
        schemas = sorted({name for name in (self._options.task_schema, self._options.group_schema) if name})
        made = [f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(name)};" for name in schemas]
        return "\n".join([*made, super().sql()])

    def task_columns(self) -> list[str]:
        """Return the columns of the table of tasks that this release creates."""
        return [*columns_made_by(read_sql(_PACKAGE, name) for name in MIGRATIONS)["task"]]

    @contextmanager
    def alone(self, connection: Connection) -> Iterator[None]:
        """Begin a transaction that excludes other processes that create or change tables."""
        with self._exclusive(connection):
            yield

    def grants(self, role: Role, user: str) -> str:
        name = quote_identifier(user)
        schemas = dict.fromkeys(quote_identifier(given or "public") for given in self._schemas_given())
        rights = "USAGE, CREATE" if role in ("admin", "maintainer") else "USAGE"
        lines = [
            f"-- CREATE ROLE {name} LOGIN PASSWORD '...';",
            *(f"GRANT {rights} ON SCHEMA {schema} TO {name};" for schema in schemas),
        ]
        if role != "admin":
            # a maintainer may not be the one who owns the older table, and must read it to place a hold
            lines += [*on_tables(role, self._names, name), *self._rights_on_older(role, name)]
        if role == "maintainer":
            lines += self._handed_over(name)
        return "\n".join([*lines, ""])

    def _rights_on_older(self, role: Role, user: str) -> list[str]:
        """Return the statement for the older table, if there is one: a grant on a missing table would be an error."""
        names = older_names(self._options)
        rights = ", ".join(rights_of(role)["task"])
        grants = [f"GRANT {rights} ON {names['older']}, {names['moved']} TO {user};"]
        grants.append(f"GRANT SELECT ON {names['all']} TO {user};")
        table = psycopg.sql.Literal(names["older"]).as_string(None)
        text = psycopg.sql.Literal(" ".join(grants)).as_string(None)
        return [f"DO 'BEGIN IF to_regclass({_doubled(table)}) IS NOT NULL THEN EXECUTE {_doubled(text)}; END IF; END';"]

    def _handed_over(self, user: str) -> list[str]:
        """Return comments with the statements that give an existing older table to another user."""
        names = older_names(self._options)
        lines = [
            "-- Run `rootcellar partitions enable` as this user, which then owns the older table. If another user did:"
        ]
        lines += [f"-- ALTER TABLE {names[key]} OWNER TO {user};" for key in ("older", "moved")]
        return [*lines, f"-- ALTER VIEW {names['all']} OWNER TO {user};", "-- and the same for each partition of it."]

    def _schemas_given(self) -> tuple[str | None, str | None]:
        return self._options.task_schema, self._options.group_schema

    @contextmanager
    def _exclusive(self, connection: Connection) -> Iterator[None]:
        with connection.without_timeout(), connection.transaction():
            connection.execute(self._sql["lock"])
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'")
            yield

    def _to_run_now(self, connection: Connection, step: str) -> str:
        def unless_large(statement: re.Match[str]) -> str:
            return "" if self._is_large(connection, self._names[statement[2]]) else statement[0]

        now = _INDEX.sub(unless_large, step)
        if now != step:
            logger.warning(
                "%s is large, so it has no indexes for history yet. Run `rootcellar schema upgrade`: it creates them "
                "while workers store results.",
                self._names["task"],
            )
        return now

    def _is_large(self, connection: Connection, table: str) -> bool:
        # the size of a table that this step creates is NULL
        ((size,),) = self._all(connection, "size_of", {"table": table})
        return (size or 0) > LARGEST_TO_INDEX_AT_ONCE

    def _missing_indexes(self, connection: Connection, version: int) -> list[str]:
        return [f"{create};" for _, _, create in self._indexes_to_create(connection, version)]

    def _create_missing_indexes(self, connection: Connection) -> None:
        version, _ = self._registered(connection)
        if self._damage(connection, version)[0]:
            return
        to_create = self._indexes_to_create(connection, version)
        with connection.without_timeout():
            for table, index, create in to_create:
                if self._all(connection, "indexing", {"table": table}):
                    # another process has begun to create them
                    return
                # an interrupted creation leaves an index that nothing uses
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}", prepare=False)
                connection.execute(create, prepare=False)
            for table in {table for table, _, _ in to_create}:
                # without statistics of the new columns, the planner would rather read the whole table
                connection.execute(f"ANALYZE {table}", prepare=False)

    def _indexes_to_create(self, connection: Connection, version: int) -> list[tuple[str, str, str]]:
        """Return the missing indexes: the table, the index with its schema, and the statement that creates it."""
        found = []
        for name in self._migrations[WITHOUT_LATER_INDEXES:version]:
            for index_key, table_key, definition in _INDEX.findall(read_sql(_PACKAGE, name)):
                index, table = self._names[index_key], self._names[table_key]
                complete = self._all(connection, "complete_indexes_of", {"table": table})
                if index in {quote_identifier(name) for (name,) in complete}:
                    continue
                create = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} {definition}"
                found.append((table, self._in_schema_of(table_key, index), create))
        return found

    def _in_schema_of(self, table_key: str, index: str) -> str:
        schema = self._options.group_schema if table_key == "group" else self._options.task_schema
        return f"{quote_identifier(schema)}.{index}" if schema else index

    def _all(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        cursor = connection.execute(self._sql[statement], params)
        return cursor.fetchall() if cursor.description else []

    def _script(self, connection: Connection, text: str) -> None:
        connection.execute(text, prepare=False)
        # one of its statements may have altered a table
        connection.note_discarded()

    def _exists(self, connection: Connection, table: str) -> bool:
        return self._all(connection, "find_table", {"table": table}) != [(None,)]

    def _rename_adopted(self, connection: Connection, schema: str | None, name: str) -> None:
        table = qualified(schema, name)
        for (index,) in self._all(connection, "indexes_of", {"table": table}):
            new = quote_identifier(index[: LONGEST_NAME - len(ADOPTED_SUFFIX)] + ADOPTED_SUFFIX)
            connection.execute(f"ALTER INDEX {qualified(schema, index)} RENAME TO {new}")
        connection.execute(f"ALTER TABLE {table} RENAME TO {quote_identifier(name + ADOPTED_SUFFIX)}")

    def _columns(self, connection: Connection, table: str) -> set[str]:
        return {name for (name,) in self._all(connection, "columns_of", {"table": table})}

    def _rename_back(self, connection: Connection, schema: str | None, name: str) -> None:
        table = qualified(schema, name + ADOPTED_SUFFIX)
        connection.execute(f"ALTER TABLE {table} RENAME TO {quote_identifier(name)}")
        for (index,) in self._all(connection, "indexes_of", {"table": qualified(schema, name)}):
            if index.endswith(ADOPTED_SUFFIX):
                new = quote_identifier(index.removesuffix(ADOPTED_SUFFIX))
                connection.execute(f"ALTER INDEX {qualified(schema, index)} RENAME TO {new}")

    def _status(self, connection: Connection) -> SchemaStatus:
        found = super()._status(connection)
        names = older_names(self._options)
        if not self._exists(connection, names["older"]):
            return found
        damaged = [*found.damaged]
        if not self._exists(connection, names["moved"]):
            damaged.append(f"the table {names['moved']} is missing")
        differences, repairs = self._differences(connection)
        return replace(
            found,
            older=names["older"],
            damaged=(*damaged, *differences),
            repairs=(*found.repairs, *(f"{each};" for each in repairs)),
        )

    def _differences(self, connection: Connection) -> tuple[list[str], list[str]]:
        """Return what the older table and the view lack of rootcellar's columns of the live table.

        Returns:
            sentences, and the statements that put the columns back.
        """
        names, ours = older_names(self._options), set(self.task_columns())
        live = {each.name: each for each in self._typed(connection, self._names["task"]) if each.name in ours}
        older = {each.name: each for each in self._typed(connection, names["older"])}
        view = {each.name for each in self._typed(connection, names["all"])}
        said, repairs = [], []
        if missing := [each for each in live.values() if each.name not in older]:
            said.append(f"{names['older']} lacks {_listed(each.name for each in missing)}")
            repairs += [f"ALTER TABLE {names['older']} ADD COLUMN {each.added}" for each in missing]
        for each in live.values():
            if each.name in older and older[each.name].type != each.type:
                said.append(
                    f"{each.name} is {older[each.name].type} in {names['older']}, and {each.type} in the others"
                )
        if not_seen := [name for name in live if name not in view]:
            missing_view = f"the view {names['all']} is missing"
            said.append(f"{names['all']} lacks {_listed(not_seen)}" if view else missing_view)
            repairs += [self._older_sql["drop_all"], self._view(connection, "replace_all")]
        return said, repairs

    def _migrate(self, connection: Connection, version: int, adopted: Adopted | None) -> None:
        super()._migrate(connection, version, adopted)
        if 0 < version < len(self._migrations) and self._exists(connection, older_names(self._options)["older"]):
            self._follow(connection)

    def _follow(self, connection: Connection) -> None:
        """Give the older table and the view the columns that the live table has after an upgrade."""
        names, ours = older_names(self._options), set(self.task_columns())
        live = self._typed(connection, self._names["task"])
        older = self._typed(connection, names["older"])
        old_view = [each.name for each in self._typed(connection, names["all"])]
        kept = {*(each.name for each in live), *ours, "drop_after"}
        added = [each for each in live if each.name not in {one.name for one in older}]
        dropped = [each for each in older if each.name not in kept]
        new_view = [each.name for each in live]
        if not added and not dropped and old_view == new_view:
            return
        rights = self._all_of_older(connection, "copy_rights", {"task": names["all"]})
        is_longer = new_view[: len(old_view)] == old_view
        if not is_longer:
            # a view cannot lose a column
            connection.execute(self._older_sql["drop_all"], prepare=False)
        for each in added:
            connection.execute(f"ALTER TABLE {names['older']} ADD COLUMN {each.added}", prepare=False)
        for each in dropped:
            connection.execute(f"ALTER TABLE {names['older']} DROP COLUMN {each.quoted}", prepare=False)
        connection.execute(self._view(connection, "replace_all"), prepare=False)
        if not is_longer:
            for grantee, granted in rights:
                connection.execute(f"GRANT {granted} ON {names['all']} TO {grantee}", prepare=False)

    def _view(self, connection: Connection, statement: str) -> str:
        """Return a statement that creates the view, with the columns of the live table."""
        columns = ", ".join(each.quoted for each in self._typed(connection, self._names["task"]))
        return fill_in(self._older_sql[statement], {"columns": columns}).strip()

    def _typed(self, connection: Connection, table: str) -> list[_Column]:
        return [_Column(*row) for row in self._all(connection, "typed_columns_of", {"table": table})]

    def _all_of_older(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.execute(self._older_sql[statement], params).fetchall()

    def _to_unadopt(self, connection: Connection) -> tuple[list[tuple[str, str]], int]:
        renamed, results = super()._to_unadopt(connection)
        if renamed and self._exists(connection, older_names(self._options)["older"]):
            results += connection.execute(self._older_sql["count_older"], prepare=False).fetchall()[0][0]
        return renamed, results

    def _give_back(self, connection: Connection, adopted: Adopted) -> None:
        connection.execute(self._older_sql["drop_older"], prepare=False)
        super()._give_back(connection, adopted)

    def _drop_tables(self, connection: Connection, but: Collection[str] = ()) -> None:
        # the view of both tables prevents that the table of tasks is dropped
        connection.execute(self._older_sql["drop_older"], prepare=False)
        super()._drop_tables(connection, but)

    def _make_schemas(self, connection: Connection) -> None:
        for schema in {self._options.task_schema, self._options.group_schema} - {None}:
            if not self._all(connection, "find_schema", {"schema": schema}):
                connection.execute(f"CREATE SCHEMA {quote_identifier(str(schema))}")


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return f"the column{'s' * (len(found) > 1)} {', '.join(found)}"


def _doubled(text: str) -> str:
    """Return a literal for the inside of another one."""
    return text.replace("'", "''")


def _literals(options: StoreOptions) -> dict[str, str]:
    """Return the literal that replaces a parameter in the script for a DBA."""

    def literal(text: str) -> str:
        return psycopg.sql.Literal(text).as_string(None)

    return {
        "task_literal": literal(options.task_table),
        "group_literal": literal(options.group_table),
        "version_literal": str(len(MIGRATIONS)),
    }
