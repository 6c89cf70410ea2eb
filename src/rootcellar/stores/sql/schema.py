"""The common part of the schemas of all SQL stores: versions, first use, refusals, and Celery's own tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from rootcellar import errors
from rootcellar.stores.base import SchemaStatus, StoreOptions
from rootcellar.stores.sql.celery_tables import ADOPTED_SUFFIX, GROUP_TABLES, Adopted
from rootcellar.stores.sql.statements import columns_made_by, fill_in, qualified, read_sql

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")


class Run(Protocol[C_co]):
    """Calls ``work`` with a connection."""

    def __call__(self, work: Callable[[C_co], T], /) -> T: ...


class SqlSchema(ABC, Generic[C]):
    """See :class:`rootcellar.stores.base.Schema`.

    Args:
        options: the tables' names, and whether the tables may be created.
        run: calls a function with a connection.
        where: the store, for messages.
        package: the package with the ``.sql`` files.
        migrations: the files of the steps from an empty database to this release; a released step never changes.
        names: the quoted names that replace ``{key}`` in these files.
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

    # -- different for each server

    @abstractmethod
    def _exclusive(self, connection: C) -> AbstractContextManager[object]:
        """Begin a transaction that excludes other processes that create, upgrade or adopt."""

    @abstractmethod
    def _all(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one of the statements of ``schema.sql`` and return its rows."""

    @abstractmethod
    def _script(self, connection: C, text: str) -> None:
        """Run several statements without parameters."""

    @abstractmethod
    def _exists(self, connection: C, table: str) -> bool:
        """Return whether a table with this quoted name exists."""

    @abstractmethod
    def _columns(self, connection: C, table: str) -> set[str]:
        """Return the names of the columns of an existing table with this quoted name."""

    @abstractmethod
    def _rename_adopted(self, connection: C, schema: str | None, name: str) -> None:
        """Rename a table of Celery, and its indexes if another table of its name could not be created with them."""

    @abstractmethod
    def _rename_back(self, connection: C, schema: str | None, name: str) -> None:
        """Undo :meth:`_rename_adopted`. No table has the original name."""

    def _qualified(self, schema: str | None, name: str) -> str:
        """Quote a table's name with its schema, if it has one."""
        return qualified(schema, name)

    def _make_schemas(self, connection: C) -> None:
        """Create the schemas of the tables, if the server has schemas."""

    def _to_run_now(self, connection: C, step: str) -> str:
        """Return the part of a step that upgrades existing tables at once; :meth:`create` does the rest.

        Args:
            connection: a connection.
            step: the text of the step, with ``{key}`` for the tables' names.
        """
        return step

    def _missing_indexes(self, connection: C, version: int) -> Iterable[str]:
        """Return the statements that create the indexes that :meth:`_to_run_now` left out."""
        return ()

    def _create_missing_indexes(self, connection: C) -> None:
        """Create the indexes that :meth:`_to_run_now` left out."""

    # -- the interface

    def status(self) -> SchemaStatus:
        return self._run(self._status)

    def create(self) -> None:
        self._run(self._create)
        self._run(self._create_missing_indexes)

    def sql(self) -> str:
        made = self._sql["make_registry"] + ";"
        return "\n".join(["BEGIN;", made, "", *self._steps(0), self._sql["register_literally"] + ";", "COMMIT;", ""])

    def adopt(self, keep: timedelta | None) -> Sequence[str]:
        return self._run(lambda connection: self._adopt(connection, keep))

    def to_adopt(self) -> Sequence[tuple[str, str]]:
        return self._run(self._to_adopt)

    def to_unadopt(self) -> tuple[Sequence[tuple[str, str]], int]:
        return self._run(self._to_unadopt)

    def unadopt(self, *, drop_results: bool = False) -> Sequence[str]:
        return self._run(lambda connection: self._unadopt(connection, drop_results))

    @property
    def tables(self) -> Mapping[str, str]:
        """The quoted names of the tables, by their keys, such as ``task``."""
        return {key: name for key, name in self._names.items() if not key.endswith("_index")}

    def drop(self) -> None:
        """Delete the tables that :meth:`create` created for a test, with their rows."""
        self._run(self._drop)

    def ensure(self, connection: C) -> Adopted | None:
        """Create the tables if they are missing and may be created; return Celery's tables if they were adopted.

        Raises:
            SchemaMissing: they are missing and may not be created.
            ForeignTables: tables that are not rootcellar's have the names.
            SchemaOutdated: they are of an older release and may not be changed.
        """
        version, adopted = self._registered(connection)
        if version < len(self._migrations):
            if not self._options.create_tables:
                self._refuse_to_create(connection, version)
            self._create(connection)
            version, adopted = self._registered(connection)
        return adopted

    # -- the steps, with a connection

    def _status(self, connection: C) -> SchemaStatus:
        version, adopted = self._registered(connection)
        is_known = version <= len(self._migrations)
        damaged, repairs = self._damage(connection, version) if is_known else ((), ())
        return SchemaStatus(
            version=version,
            wanted=len(self._migrations),
            foreign=() if version or self._is_begun(connection) else tuple(self._foreign(connection)),
            adopted=tuple(_tables(adopted)),
            damaged=damaged,
            repairs=repairs,
            missing_indexes=tuple(self._missing_indexes(connection, version)) if is_known and not damaged else (),
        )

    def _damage(self, connection: C, version: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return which tables and columns of a version are missing, and the statements that put columns back."""
        damaged, repairs = [], []
        steps = [read_sql(self._package, name) for name in self._migrations[:version]]
        for key, columns in columns_made_by(steps).items():
            table = self._names[key]
            if not self._exists(connection, table):
                damaged.append(f"the table {table} is missing")
                continue
            missing = [name for name in columns if name not in self._columns(connection, table)]
            if missing:
                damaged.append(f"{table} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
            repairs += [f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]};" for name in missing]
        return tuple(damaged), tuple(repairs)

    def _registered(self, connection: C) -> tuple[int, Adopted | None]:
        """Return the version of the tables (0 if there are none), and the tables of Celery that were adopted."""
        found = self._registry_row(connection)
        if not found:
            return 0, None
        version, old_task, old_group, keep = found[0]
        if not old_task and not old_group:
            return version, None
        kept = None if keep is None else timedelta(seconds=keep)
        return version, Adopted(task_table=old_task, group_table=old_group, keep=kept)

    def _is_begun(self, connection: C) -> bool:
        """Return whether the tables that exist are rootcellar's."""
        return bool(self._registry_row(connection))

    def _registry_row(self, connection: C) -> list[tuple[Any, ...]]:
        if not self._exists(connection, self._names["registry"]):
            return []
        return self._all(connection, "read_registry", {"task": self._options.task_table})

    def _create(self, connection: C) -> None:
        with self._exclusive(connection):
            version, _ = self._registered(connection)
            self._migrate(connection, version, None)

    def _drop(self, connection: C) -> None:
        with self._exclusive(connection):
            self._drop_tables(connection)
            self._unregister(connection)

    def _drop_tables(self, connection: C, but: Collection[str] = ()) -> None:
        for key, name in self.tables.items():
            if key != "registry" and key not in but:
                self._script(connection, f"DROP TABLE IF EXISTS {name}")

    def _unregister(self, connection: C) -> None:
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
        # recorded after each step: if there is no transaction around all of them, the next process continues there
        self._register(connection, version, adopted)
        for number, name in enumerate(self._migrations[version:], version + 1):
            step = read_sql(self._package, name)
            self._script(connection, fill_in(self._to_run_now(connection, step) if version else step, self._names))
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
        with self._exclusive(connection):
            version, adopted = self._registered(connection)
            if version:
                return _tables(adopted)
            adopted = adopted or Adopted(
                task_table=self._adopt_table(connection, self._options.task_schema, [self._options.task_table]),
                group_table=self._adopt_table(connection, self._options.group_schema, self._group_tables()),
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

    def _group_tables(self) -> Iterable[str]:
        """Return the names that Celery's group table may have."""
        return dict.fromkeys((self._options.group_table, *GROUP_TABLES))

    def _to_adopt(self, connection: C) -> list[tuple[str, str]]:
        version, _ = self._registered(connection)
        if version:
            return []
        options = self._options
        found = []
        for schema, names in (
            (options.task_schema, [options.task_table]),
            (options.group_schema, self._group_tables()),
        ):
            for name in names:
                if self._exists(connection, self._qualified(schema, name)):
                    found.append((self._qualified(schema, name), self._qualified(schema, name + ADOPTED_SUFFIX)))
                    break
        return found

    def _adopted_places(self, adopted: Adopted) -> Iterator[tuple[str, str | None, str]]:
        """Yield the key of each table that replaces an adopted one, and the schema and original name of that one."""
        if adopted.task_table:
            yield "task", self._options.task_schema, self._options.task_table
        for name in self._group_tables():
            if adopted.group_table == self._qualified(self._options.group_schema, name + ADOPTED_SUFFIX):
                yield "group", self._options.group_schema, name

    def _to_unadopt(self, connection: C) -> tuple[list[tuple[str, str]], int]:
        _, adopted = self._registered(connection)
        if not adopted:
            return [], 0
        places = {key: (schema, name) for key, schema, name in self._adopted_places(adopted)}
        renamed = [
            (self._qualified(schema, name + ADOPTED_SUFFIX), self._qualified(schema, name))
            for schema, name in places.values()
        ]
        ours = [key for key in ("task", "group") if self._is_still_ours(connection, places.get(key), self._names[key])]
        return renamed, sum(self._all(connection, f"count_{key}", {})[0][0] for key in ours)

    def _is_still_ours(self, connection: C, place: tuple[str | None, str] | None, table: str) -> bool:
        """Return whether a table is rootcellar's: Celery's table was renamed, or there was none."""
        if not self._exists(connection, table):
            return False
        return place is None or self._exists(connection, self._qualified(place[0], place[1] + ADOPTED_SUFFIX))

    def _unadopt(self, connection: C, drop_results: bool) -> list[str]:
        with self._exclusive(connection):
            _, adopted = self._registered(connection)
            if not adopted:
                raise errors.SchemaMissing(
                    "nothing was adopted here",
                    where=self._where,
                    remedy="see `rootcellar schema status`",
                )
            renamed, results = self._to_unadopt(connection)
            if results and not drop_results:
                raise errors.ResultsInTheWay(
                    f"the tables that would be dropped have {results:,} results that were stored since",
                    where=self._where,
                    remedy="give --drop-results if they are not needed",
                )
            self._refuse_held(connection)
            self._give_back(connection, adopted)
            self._drop_tables(connection, but=("task", "group"))
            self._unregister(connection)
        return [name for _, name in renamed]

    def _refuse_held(self, connection: C) -> None:
        """Raise an error while a hold is active: results, and the record of all holds, would be dropped."""
        # an older release has no such table, nor has a run that was killed while it dropped the tables
        if not self._exists(connection, self._names["hold"]):
            return
        ((count,),) = self._all(connection, "count_holds", {})
        if count:
            raise errors.ResultHeld(
                f"the tables that would be dropped have {count:,} active hold{'s' * (count > 1)}",
                where=self._where,
                remedy="see `rootcellar hold list`; write what must stay to a file (`rootcellar export`), and release "
                "the holds",
            )

    def _give_back(self, connection: C, adopted: Adopted) -> None:
        """Drop our tables of tasks and groups, and rename Celery's back.

        Without a transaction around the steps, it may be repeated. A table that was already renamed back is Celery's,
        and is not dropped.
        """
        places = {key: (schema, name) for key, schema, name in self._adopted_places(adopted)}
        for key in ("task", "group"):
            if self._is_still_ours(connection, places.get(key), self._names[key]):
                self._script(connection, f"DROP TABLE {self._names[key]}")
        for schema, name in places.values():
            if self._exists(connection, self._qualified(schema, name + ADOPTED_SUFFIX)):
                self._rename_back(connection, schema, name)

    def _adopt_table(self, connection: C, schema: str | None, names: Iterable[str]) -> str | None:
        """Rename the first of these tables that exists; return its new name, quoted, or ``None`` if none exists."""
        for name in names:
            new_name = self._qualified(schema, name + ADOPTED_SUFFIX)
            if self._exists(connection, self._qualified(schema, name)):
                self._rename_adopted(connection, schema, name)
                return new_name
            if self._exists(connection, new_name):
                # the process that renamed it died before it recorded that
                return new_name
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
