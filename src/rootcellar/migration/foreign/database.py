"""Reads and writes tables that rootcellar did not make, on PostgreSQL, MySQL and SQLite."""

from __future__ import annotations

import json
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from rootcellar.errors import ConfigurationError, DatabaseMissing, SchemaMissing
from rootcellar.migration.endpoint import Spec
from rootcellar.urls import redact

T = TypeVar("T")
Row = dict[str, Any]


class Session(ABC):
    """A transaction."""

    @abstractmethod
    def rows(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        """Run a query. A parameter is written ``%(name)s``."""

    @abstractmethod
    def change(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run a statement for each of some rows; return how many rows it changed."""


class Database(ABC):
    """A database, with one connection, which is opened at the first use and again after an error.

    Attributes:
        where: the database, for messages.
        url: its URL without a password.
        unit: the smallest difference between two times in a column without a precision.
    """

    where: str
    url: str
    unit = timedelta(microseconds=1)
    #: whether times of other programs have a time zone
    has_zones = False
    #: whether a missing database is made; only that of SQLite can be
    may_create = False
    #: follows a SELECT whose rows will be changed
    for_update = ""

    def __init__(self) -> None:
        self._lock = Lock()

    @abstractmethod
    def _session(self, work: Callable[[Session], T]) -> T:
        """Call a function in a transaction. After an error, the connection is closed."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of the server: ``postgres``, ``mysql``, ``mariadb`` or ``sqlite``."""

    def next_of(self, sequence: str) -> str:
        """Return the SQL of the next number of a sequence, by its quoted name."""
        return "nextval('{}')".format(sequence.replace("'", "''"))

    @abstractmethod
    def columns(self, schema: str | None, table: str) -> Mapping[str, bool]:
        """Return the columns of a table, each with whether the server can fill it in; none if there is no table."""

    @abstractmethod
    def quoted(self, name: str) -> str:
        """Return a quoted name."""

    @abstractmethod
    def among(self, column: str) -> str:
        """Return the condition that a column is one of the ids in the parameter ``ids``, see :meth:`ids`."""

    @abstractmethod
    def ids(self, ids: Sequence[str]) -> Any:
        """Return ids as the parameter ``ids``."""

    @abstractmethod
    def insertion(self, table: str, columns: Sequence[str], values: Sequence[str], key: str) -> str:
        """Return the statement that inserts a row if no row has its key."""

    def moment(self, moment: datetime | None, *, zoned: bool = False) -> Any:
        """Return a moment as a parameter: without a zone it is in UTC."""
        return moment if moment is None or zoned else moment.replace(tzinfo=None)

    def run(self, work: Callable[[Session], T]) -> T:
        """Call a function in a transaction.

        Raises:
            RootcellarError: the server cannot be reached, or refuses.
        """
        with self._lock:
            return self._session(work)

    def name_of(self, schema: str | None, table: str) -> str:
        """Return the quoted name of a table."""
        return self.quoted(table) if schema is None else f"{self.quoted(schema)}.{self.quoted(table)}"

    def execute(self, statements: Sequence[str]) -> None:
        """Run statements without parameters."""

        def work(session: Session) -> None:
            for statement in statements:
                session.change(statement, [{}])

        self.run(work)


def open_database(url: str, spec: Spec) -> tuple[Database, Mapping[str, str]]:
    """Return the database of a URL such as SQLAlchemy reads it, and the options for rootcellar in its query.

    Args:
        url: the URL, from the name of the database system on. A driver after a ``+`` is ignored.
        spec: the other options.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[0].lower()
    makers: dict[str, Callable[[str, Spec], Database]] = {
        "postgresql": _Postgres,
        "postgres": _Postgres,
        "mysql": _MySQL,
        "mariadb": _MySQL,
        "sqlite": _SQLite,
    }
    if kind not in makers:
        raise ConfigurationError(
            f"a database of the kind {kind[:30]!r} cannot be read",
            where="result_backend",
            remedy="name a PostgreSQL, MySQL, MariaDB or SQLite",
        )
    place, mark, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in pairs if name in OPTIONS}
    left = urlencode([(name, value) for name, value in pairs if name not in OPTIONS]) if own else query
    return makers[kind](f"{kind}://{place}{mark if left else ''}{left}", spec), own


#: options in the query of a URL that are not for the driver
OPTIONS = ("task_table", "group_table", "task_schema", "group_schema", "serializer")


def missing(table: str, where: str, remedy: str) -> SchemaMissing:
    """Return the error for a table that does not exist."""
    return SchemaMissing(f"there is no table {table}", where=where, remedy=remedy)


def inserted(table: str, columns: Sequence[str], values: Sequence[str]) -> str:
    """Return the beginning of a statement that inserts a row."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(values)})"  # noqa: S608 - quoted names


class _Postgres(Database):
    kind = "postgres"
    has_zones = True
    for_update = " FOR UPDATE"

    def __init__(self, url: str, spec: Spec) -> None:
        super().__init__()
        from rootcellar.stores.postgres import driver

        self._driver = driver
        self._settings = driver.connection_settings(url, spec.options.connect_args)
        self.where = driver.describe(self._settings)
        self.url = redact(url)
        self._connection: driver.Connection | None = None

    def _session(self, work: Callable[[Session], T]) -> T:
        driver = self._driver
        try:
            if self._connection is None:
                self._connection = driver.connect(self._settings, self.where)
            with self._connection.transaction():
                return work(_PostgresSession(self._connection))
        except driver.psycopg.Error as exc:
            self.close()
            raise driver.translate(exc, self.where) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def columns(self, schema: str | None, table: str) -> Mapping[str, bool]:
        found = self.run(
            lambda session: session.rows(
                "SELECT a.attname AS name, a.atthasdef OR a.attidentity <> '' OR NOT a.attnotnull AS fills"
                " FROM pg_attribute a WHERE a.attrelid = to_regclass(%(name)s) AND a.attnum > 0 AND NOT a.attisdropped",
                {"name": self.name_of(schema, table)},
            )
        )
        return {row["name"]: row["fills"] for row in found}

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def among(self, column: str) -> str:
        return f"{column} = ANY(%(ids)s)"

    def ids(self, ids: Sequence[str]) -> Any:
        return [*ids]

    def insertion(self, table: str, columns: Sequence[str], values: Sequence[str], key: str) -> str:
        return f"{inserted(table, columns, values)} ON CONFLICT ({key}) DO NOTHING"


class _PostgresSession(Session):
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        from psycopg.rows import dict_row

        with self._connection.cursor(row_factory=dict_row) as cursor:
            return list(cursor.execute(statement, params).fetchall())

    def change(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, rows)
            return int(cursor.rowcount)


class _MySQL(Database):
    #: SQLAlchemy and Celery make DATETIME without a fraction
    unit = timedelta(seconds=1)
    for_update = " FOR UPDATE"

    def __init__(self, url: str, spec: Spec) -> None:
        super().__init__()
        from rootcellar.stores.mysql import driver
        from rootcellar.stores.mysql.url import connection_settings, describe

        self._driver = driver
        self._settings = connection_settings(url, spec.options.connect_args)
        self.where = describe(url, self._settings)
        self.url = redact(url)
        self._connection: driver.Connection | None = None

    def _session(self, work: Callable[[Session], T]) -> T:
        driver = self._driver
        try:
            if self._connection is None:
                self._connection = driver.connect(self._settings, self.where)
            with self._connection.transaction():
                return work(_MySQLSession(self._connection))
        except driver.pymysql.Error as exc:
            self.close()
            raise driver.translate(exc, self.where) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.end()
            self._connection = None

    @property
    def kind(self) -> str:
        """See :class:`Database`."""
        self.run(lambda session: session.rows("SELECT 1 AS one", {}))
        return "mariadb" if self._connection is not None and self._connection.is_mariadb else "mysql"

    def next_of(self, sequence: str) -> str:
        return f"nextval({sequence})"

    def columns(self, schema: str | None, table: str) -> Mapping[str, bool]:
        found = self.run(
            lambda session: session.rows(
                "SELECT column_name AS name, is_nullable = 'YES' OR column_default IS NOT NULL OR extra <> '' AS fills"
                " FROM information_schema.columns"
                " WHERE table_schema = COALESCE(%(schema)s, DATABASE()) AND table_name = %(table)s",
                {"schema": schema, "table": table},
            )
        )
        return {row["name"]: bool(row["fills"]) for row in found}

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def among(self, column: str) -> str:
        return f"{column} IN %(ids)s"

    def ids(self, ids: Sequence[str]) -> Any:
        return self._driver.in_list(ids)

    def insertion(self, table: str, columns: Sequence[str], values: Sequence[str], key: str) -> str:
        # IGNORE would also cut what is too long
        return f"{inserted(table, columns, values)} ON DUPLICATE KEY UPDATE {key} = {key}"


class _MySQLSession(Session):
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        found: list[Row] = self._connection.dicts(statement, params)
        return found

    def change(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
        # pymysql's executemany would join rows into one statement, whose count does not show which rows there were
        return sum(self._connection.execute(statement, row) for row in rows)


class _SQLite(Database):
    kind = "sqlite"

    def __init__(self, url: str, spec: Spec) -> None:
        super().__init__()
        from rootcellar.stores.sqlite import driver

        self._driver = driver
        self._path = driver.database_path(url)
        self.where = f"sqlite {self._path}"
        self.url = redact(url)
        self._connection: sqlite3.Connection | None = None

    def _session(self, work: Callable[[Session], T]) -> T:
        driver = self._driver
        try:
            connection = self._connection = self._connection or self._opened()
            connection.execute("BEGIN" if not self.may_create else "BEGIN IMMEDIATE")
            found = work(_SQLiteSession(connection))
            connection.execute("COMMIT")
            return found
        except sqlite3.Error as exc:
            self.close()
            raise driver.translate(exc, self._path) from exc
        except BaseException:
            self.close()
            raise

    def _opened(self) -> sqlite3.Connection:
        # the mode of the journal stays: the file belongs to another program
        if not self._path.exists() and not self.may_create:
            raise DatabaseMissing("there is no such file", where=self.where, remedy="correct the path")
        connection = sqlite3.connect(
            self._path, timeout=self._driver.BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def columns(self, schema: str | None, table: str) -> Mapping[str, bool]:
        if not self.may_create and not self._path.exists():
            return {}
        found = self.run(
            lambda session: session.rows(
                'SELECT name, "notnull" = 0 OR pk > 0 OR dflt_value IS NOT NULL AS fills FROM pragma_table_info(%(t)s)',
                {"t": table},
            )
        )
        return {row["name"]: bool(row["fills"]) for row in found}

    def name_of(self, schema: str | None, table: str) -> str:
        return self.quoted(table)

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def among(self, column: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(%(ids)s))"  # noqa: S608 - quoted names

    def ids(self, ids: Sequence[str]) -> Any:
        return json.dumps([*ids])

    def insertion(self, table: str, columns: Sequence[str], values: Sequence[str], key: str) -> str:
        return f"{inserted(table, columns, values)} ON CONFLICT ({key}) DO NOTHING"

    def moment(self, moment: datetime | None, *, zoned: bool = False) -> Any:
        # as SQLAlchemy and Django write it
        return None if moment is None else moment.replace(tzinfo=None).strftime("%Y-%m-%d %H:%M:%S.%f")


class _SQLiteSession(Session):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        with closing(self._connection.execute(_colons(statement), params)) as cursor:
            return [dict(row) for row in cursor]

    def change(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
        with closing(self._connection.executemany(_colons(statement), rows)) as cursor:
            return max(cursor.rowcount, 0)


def _colons(statement: str) -> str:
    """Return a statement with its parameters as SQLite writes them."""
    return re.sub(r"%\((\w+)\)s", r":\1", statement)
