"""Checks PostgreSQL, and PgBouncer in front of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import uuid4

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import judge_clock, judge_connections
from rootcellar.checks.network import Host, ServerChecks
from rootcellar.checks.steps import Step, passed, problem
from rootcellar.checks.tables import Tables
from rootcellar.checks.target import Target
from rootcellar.checks.trial import Trial
from rootcellar.checks.upkeep import upkeep_of
from rootcellar.stores.postgres import PostgresStore, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.options import read_options
from rootcellar.stores.postgres.pgbouncer import SESSION, PoolerPolicy, sessions_are_shared
from rootcellar.stores.postgres.tls import SSL_REQUEST

#: a shorter statement_timeout is a warning
_MIN_STATEMENT_TIMEOUT_MS = 5_000

_CONNECTION_LIMITS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
"""
_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'statement_timeout', 'server_encoding')
"""
#: the settings of the database and the role; the most specific one comes last
_OWN_SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
ORDER BY setrole <> 0, setdatabase <> 0
"""
#: environment variables that libpq reads as settings
_SETTING_BY_VARIABLE = {"PGCLIENTENCODING": "client_encoding", "PGDATESTYLE": "datestyle", "PGTZ": "timezone"}


class PostgresChecks(ServerChecks):
    """PostgreSQL, directly or through a pooler."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options
        self._own = read_options(self._options)
        self._settings = driver.connection_settings(target.url, self._own.connect_args)
        self._store = PostgresStore(target.url, self._options)
        self._pooler_policy = PoolerPolicy(self._own.prepared_statements, self.where)
        self._tables = Tables(target, self._store, self._may_do)
        self._trial = Trial(self._tables.backend)
        self._connection: Connection | None = None

    @property
    def where(self) -> str:
        return driver.describe(self._settings)

    def steps(self) -> Sequence[Step]:
        return [
            *self.connection_steps(),
            Step("server", self._server, stops_on_failure=True),
            Step("clock", self._clock),
            Step("pooler", self._pooler),
            Step("connections", self._connections),
            Step("durability", self._durability),
            *self._tables.steps(),
            Step("upkeep", lambda: upkeep_of(self._store)),
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        self._tables.close()
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return driver.translate(exc, self.where) if isinstance(exc, psycopg.Error) else None

    # -- the connection

    @property
    def hosts(self) -> Sequence[Host]:
        names = str(self._settings.get("hostaddr") or self._settings.get("host") or "").split(",")
        ports = str(self._settings.get("port") or "5432").split(",")
        if any(not name or name.startswith(("/", "@")) for name in names):
            return []
        return [(name, int(ports[min(place, len(ports) - 1)] or 5432)) for place, name in enumerate(names)]

    @property
    def socket_path(self) -> str:
        folder = str(self._settings.get("host") or "/var/run/postgresql")
        return f"{folder}/.s.PGSQL.{self._settings.get('port') or 5432}"

    @property
    def service(self) -> str:
        return "PostgreSQL"

    @property
    def wants_tls(self) -> bool | None:
        mode = str(self._settings.get("sslmode") or "prefer")
        return None if mode in ("allow", "prefer") else mode != "disable"

    @property
    def is_verified(self) -> bool:
        return str(self._settings.get("sslmode") or "").startswith("verify-")

    def is_encrypted(self) -> bool:
        return bool(self._connection and self._connection.pgconn.ssl_in_use)

    def begin_tls(self, connection: socket.socket) -> None:
        connection.sendall(SSL_REQUEST)
        if connection.recv(1) != b"S":
            raise OSError("no TLS")

    def client_certificate(self) -> tuple[str, str] | None:
        ours = self._settings.get("sslcert"), self._settings.get("sslkey")
        return (str(ours[0]), str(ours[1])) if all(ours) else None

    def log_in(self) -> str:
        self._connection = self._pooler_policy.configure(driver.connect(self._settings, self.where))
        return str(self._connection.info.user)

    # -- steps

    def _server(self) -> Iterator[Finding]:
        version, in_recovery, read_only = self._row(
            "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('transaction_read_only')"
        )
        if in_recovery:
            yield problem("store-read-only", "it is a standby", "set DB_HOST (or the URL) to the primary")
        elif read_only == "on":
            yield problem(
                "store-read-only",
                "default_transaction_read_only is on for this database or user",
                "ALTER DATABASE … (or ROLE …) RESET default_transaction_read_only",
            )
        else:
            yield passed(f"PostgreSQL {str(version).split()[0]}")

    def _clock(self) -> Iterator[Finding]:
        def ask() -> datetime:
            (moment,) = self._row("SELECT clock_timestamp()")
            assert isinstance(moment, datetime)
            return moment

        yield judge_clock(ask)

    def _pooler(self) -> Iterator[Finding]:
        listen_url = self._own.listen_url
        if listen_url:
            yield from self._listening(listen_url)
        if not self._link.is_pooled:
            yield passed("none")
            return
        with self._connect() as another:
            if not sessions_are_shared(self._link, another):
                yield passed("keeps a session for each connection")
                return
            if self._own.prepared_statements == "on" and not _keeps_statements(self._link):
                yield problem("pooler-prepared", "prepared_statements is on, and they are lost")
        if not listen_url:
            yield problem("pooler-no-listen-url", "a pooler in transaction mode, and no listen_url is set")
        else:
            yield passed("in transaction mode; statements are not prepared, notifications bypass it")

    def _listening(self, url: str) -> Iterator[Finding]:
        settings = driver.connection_settings(url, self._own.connect_args)
        try:
            with self._pooler_policy.configure(driver.connect(settings, driver.describe(settings))) as connection:
                if connection.is_pooled:
                    yield problem("listen-unusable", f"{driver.describe(settings)} is a pooler, too")
        except errors.RootcellarError as exc:
            yield problem("listen-unusable", exc.what, exc.remedy)

    def _connections(self) -> Iterator[Finding]:
        if self._link.is_pooled:
            yield passed("the pooler shares its connections")
            return
        limits = [int(limit) for limit in self._row(_CONNECTION_LIMITS) if limit is not None and int(limit) >= 0]
        yield judge_connections(
            "postgres", min(limits), self._target.processes, self._options.pool_size, self._target.is_pool_size_set
        )

    def _durability(self) -> Iterator[Finding]:
        found: Mapping[str, str] = dict(self._link.execute(_SETTINGS, prepare=False).fetchall())
        problems = []
        if found["fsync"] == "off":
            problems.append(problem("postgres-fsync", "fsync is off"))
        if found["full_page_writes"] == "off":
            problems.append(problem("postgres-full-page-writes", "full_page_writes is off"))
        if found["synchronous_commit"] == "off":
            problems.append(problem("postgres-synchronous-commit", "synchronous_commit is off"))
        if 0 < int(found["statement_timeout"]) < _MIN_STATEMENT_TIMEOUT_MS:
            seen = f"statement_timeout is {found['statement_timeout']} ms"
            problems.append(problem("postgres-statement-timeout", seen))
        if found["server_encoding"] != "UTF8":
            problems.append(problem("postgres-encoding", f"server_encoding is {found['server_encoding']}"))
        if others := self._overridden():
            yield passed(
                f"rootcellar's sessions override settings of the role, the database or the environment: {others}"
            )
        yield from problems or [passed(f"fsync on, synchronous_commit {found['synchronous_commit']}")]

    def _overridden(self) -> str:
        """Return the settings of the role, the database or the environment that each session overrides."""
        found = {}
        for (entry,) in self._link.execute(_OWN_SETTINGS, prepare=False).fetchall():
            name, _, value = str(entry).partition("=")
            found[name.lower()] = value
        found |= {
            name: os.environ[variable] for variable, name in _SETTING_BY_VARIABLE.items() if os.environ.get(variable)
        }
        ours = {name.lower(): value for name, value in SESSION.items()}
        return ", ".join(
            f"{name}={found[name]}" for name in sorted(found.keys() & ours.keys()) if found[name] != ours[name]
        )

    # -- asking

    @property
    def _link(self) -> Connection:
        assert self._connection is not None, "only after the login"
        return self._connection

    def _connect(self) -> Connection:
        return self._pooler_policy.configure(driver.connect(self._settings, self.where))

    def _row(self, statement: str, params: Sequence[Any] = ()) -> tuple[Any, ...]:
        return self._link.execute(statement.encode(), params, prepare=False).fetchone() or ()

    def _may_do(self, table: str, right: str) -> bool:
        (has_it,) = self._row("SELECT has_table_privilege(%s, %s)", (table, right))
        return bool(has_it)


def _keeps_statements(connection: Connection) -> bool:
    """Return True if a pooler in transaction mode keeps prepared statements. It then gives them names of its own."""
    name = f"rootcellar_check_{uuid4().hex[:8]}"
    with connection.transaction():
        connection.pgconn.prepare(name.encode(), b"SELECT 1")
        query = "SELECT 1 FROM pg_prepared_statements WHERE name = %s"
        if connection.execute(query, [name], prepare=False).fetchone() is None:
            return True
        connection.execute(f"DEALLOCATE {name}".encode(), prepare=False)
    return False


#: what :mod:`rootcellar.checks.choosing` calls
checks = PostgresChecks
