"""What the schemas of all SQL stores have in common: versions, first use, refusals, and Celery's own tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from rootcellar import errors
from rootcellar.stores.base import SchemaStatus, StoreOptions
from rootcellar.stores.celery_tables import ASIDE, GROUP_TABLES, Adopted
from rootcellar.stores.sqlfiles import fill_in, qualified, read_sql

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")


class Run(Protocol[C_co]):
    """Lends a connection."""

    def __call__(self, work: Callable[[C_co], T], /) -> T: ...


class SqlSchema(ABC, Generic[C]):
    """See :class:`rootcellar.stores.base.Schema`.

    Args:
        options: the tables' names, and whether they may be made.
        run: lends a connection.
        where: the store, for messages.
        package: where the ``.sql`` files lie.
        migrations: the steps from an empty database to this release; one that was released never changes.
        names: the quoted names that stand for ``{key}`` in them.
        statements: the statements of ``schema.sql``.
    """

    def __init__(
        self,
        options: StoreOptions,
        run: Run[C],
        *,
        where: str,
        package: str,
        migrations: Sequence[str],
        names: Mapping[str, str],
        statements: Mapping[str, str],
    ) -> None:
        self._options = options
        self._run = run
        self._where = where
        self._package = package
        self._migrations = migrations
        self._names = names
        self._sql = dict(statements)

    # -- what differs between servers

    @abstractmethod
    def _alone(self, connection: C) -> AbstractContextManager[object]:
        """Begin a transaction in which nobody else creates, upgrades or adopts."""

    @abstractmethod
    def _all(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one of the statements of ``schema.sql`` and return its rows."""

    @abstractmethod
    def _script(self, connection: C, text: str) -> None:
        """Run several statements without parameters."""

    @abstractmethod
    def _exists(self, connection: C, table: str) -> bool:
        """Tell whether there is a table of that quoted name."""

    @abstractmethod
    def _set_aside(self, connection: C, schema: str | None, name: str) -> None:
        """Rename a table, and what would be in the way of another one of its name."""

    def _qualified(self, schema: str | None, name: str) -> str:
        """Quote a table's name with its schema, if it has one."""
        return qualified(schema, name)

    def _make_schemas(self, connection: C) -> None:
        """Make the schemas that the tables shall be in, where the server has such a thing."""

    # -- the interface

    def status(self) -> SchemaStatus:
        return self._run(self._status)

    def create(self) -> None:
        self._run(self._create)

    def sql(self) -> str:
        made = self._sql["make_registry"] + ";"
        return "\n".join(["BEGIN;", made, "", *self._steps(0), self._sql["register_literally"] + ";", "COMMIT;", ""])

    def adopt(self, keep: timedelta | None) -> Sequence[str]:
        return self._run(lambda connection: self._adopt(connection, keep))

    @property
    def tables(self) -> Mapping[str, str]:
        """The quoted names of the tables, by what they are."""
        return {what: name for what, name in self._names.items() if not what.endswith("_index")}

    def drop(self) -> None:
        """Take away tables that :meth:`create` made for a moment, with all that is in them."""
        self._run(self._drop)

    def ensure(self, connection: C) -> Adopted | None:
        """Make the tables if they are missing and may be made; return Celery's tables if they were adopted.

        Raises:
            SchemaMissing: they are missing and may not be made.
            ForeignTables: somebody else's tables have the names.
            SchemaOutdated: they are of an older release and may not be changed.
        """
        version, adopted = self._registered(connection)
        if version < len(self._migrations):
            if not self._options.create_tables:
                self._refuse_to_create(connection, version)
            self._create(connection)
            version, adopted = self._registered(connection)
        return adopted

    # -- how

    def _status(self, connection: C) -> SchemaStatus:
        version, adopted = self._registered(connection)
        return SchemaStatus(
            version=version,
            wanted=len(self._migrations),
            foreign=() if version or self._is_begun(connection) else tuple(self._foreign(connection)),
            adopted=tuple(_tables(adopted)),
        )

    def _registered(self, connection: C) -> tuple[int, Adopted | None]:
        """Return the version of the tables, 0 for none, and what was adopted."""
        found = self._registry_row(connection)
        if not found:
            return 0, None
        version, old_task, old_group, keep = found[0]
        if not old_task and not old_group:
            return version, None
        kept = None if keep is None else timedelta(seconds=keep)
        return version, Adopted(task_table=old_task, group_table=old_group, keep=kept)

    def _is_begun(self, connection: C) -> bool:
        """Tell whether the tables, or those of them that there are, are ours."""
        return bool(self._registry_row(connection))

    def _registry_row(self, connection: C) -> list[tuple[Any, ...]]:
        if not self._exists(connection, self._names["registry"]):
            return []
        return self._all(connection, "read_registry", {"task": self._options.task_table})

    def _create(self, connection: C) -> None:
        with self._alone(connection):
            version, _ = self._registered(connection)
            self._migrate(connection, version, None)

    def _drop(self, connection: C) -> None:
        with self._alone(connection):
            for what, name in self.tables.items():
                if what != "registry":
                    self._script(connection, f"DROP TABLE IF EXISTS {name}")
            self._all(connection, "unregister", {"task": self._options.task_table})
            if self._all(connection, "count_registered", {}) == [(0,)]:
                self._script(connection, f"DROP TABLE {self._names['registry']}")

    def _migrate(self, connection: C, version: int, adopted: Adopted | None) -> None:
        if version >= len(self._migrations):
            return
        if version == 0:
            self._refuse_foreign(connection)
            self._make_schemas(connection)
            self._script(connection, self._sql["make_registry"])
        # noted step by step: where no transaction holds them together, who comes next goes on from there
        self._register(connection, version, adopted)
        for number, step in enumerate(self._steps(version), version + 1):
            self._script(connection, step)
            self._register(connection, number, adopted)

    def _register(self, connection: C, version: int, adopted: Adopted | None) -> None:
        params = {
            "task": self._options.task_table,
            "group": self._options.group_table,
            "version": version,
            "old_task": adopted.task_table if adopted else None,
            "old_group": adopted.group_table if adopted else None,
            "keep": adopted.keep.total_seconds() if adopted and adopted.keep is not None else None,
        }
        self._all(connection, "register", params)

    def _steps(self, version: int) -> list[str]:
        return [fill_in(read_sql(self._package, name), self._names) for name in self._migrations[version:]]

    def _adopt(self, connection: C, keep: timedelta | None) -> list[str]:
        with self._alone(connection):
            version, adopted = self._registered(connection)
            if version:
                return _tables(adopted)
            group_tables = dict.fromkeys((self._options.group_table, *GROUP_TABLES))
            adopted = adopted or Adopted(
                task_table=self._aside(connection, self._options.task_schema, [self._options.task_table]),
                group_table=self._aside(connection, self._options.group_schema, group_tables),
                keep=keep,
            )
            if not _tables(adopted):
                raise errors.SchemaMissing(
                    "there is no table of Celery's own to adopt",
                    where=self._where,
                    remedy="run `rootcellar schema create`",
                )
            self._migrate(connection, 0, adopted)
        return _tables(adopted)

    def _aside(self, connection: C, schema: str | None, names: Iterable[str]) -> str | None:
        """Set the first of these tables aside that there is; return its new name, quoted."""
        for name in names:
            aside = self._qualified(schema, name + ASIDE)
            if self._exists(connection, self._qualified(schema, name)):
                self._set_aside(connection, schema, name)
                return aside
            if self._exists(connection, aside):
                # whoever renamed it did not live to note it
                return aside
        return None

    # -- refusals

    def _foreign(self, connection: C) -> list[str]:
        tables = [self._names["task"], self._names["group"]]
        return [table for table in tables if self._exists(connection, table)]

    def _refuse_foreign(self, connection: C) -> None:
        foreign = [] if self._is_begun(connection) else self._foreign(connection)
        if foreign:
            raise errors.ForeignTables(
                f"table {' and '.join(foreign)} exists and is not rootcellar's (Celery's own, it seems)",
                where=self._where,
                remedy="run `rootcellar schema adopt`: it is renamed aside and its results stay readable; "
                "or set database_table_names",
            )

    def _refuse_to_create(self, connection: C, version: int) -> None:
        if version:
            raise errors.SchemaOutdated(
                f"the tables are of version {version}, this release wants {len(self._migrations)}",
                where=self._where,
                remedy="run `rootcellar schema upgrade`",
            )
        self._refuse_foreign(connection)
        raise errors.SchemaMissing(
            f"table {self._names['task']} is missing and database_create_tables_at_setup is False",
            where=self._where,
            remedy="run `rootcellar schema create`, or let a DBA run what `rootcellar schema sql` prints",
        )


def _tables(adopted: Adopted | None) -> list[str]:
    return [table for table in (adopted.task_table, adopted.group_table) if table] if adopted else []
