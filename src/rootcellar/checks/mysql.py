"""Checks MySQL and MariaDB."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from socket import socket

import pymysql

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import judge_clock, judge_connections
from rootcellar.checks.network import Host, ServerChecks
from rootcellar.checks.steps import Step, failed, passed, problem
from rootcellar.checks.tables import Tables
from rootcellar.checks.target import Target
from rootcellar.checks.trial import Trial
from rootcellar.checks.upkeep import upkeep_of
from rootcellar.stores.mysql import MySQLStore, driver
from rootcellar.stores.mysql.driver import Connection
from rootcellar.stores.mysql.failures import translate
from rootcellar.stores.mysql.schema import MIGRATIONS, PACKAGE
from rootcellar.stores.mysql.url import describe
from rootcellar.stores.sql.statements import columns_made_by, read_sql

#: a smaller max_allowed_packet is a warning
_MIN_PACKET_BYTES = 16 << 20
#: the packet that asks the server for TLS: CLIENT_SSL and the usual capabilities of a client
_TLS_REQUEST = struct.pack("<IIB23x", 0x000A8A00, 1 << 24, 45)
_CODES_OF_REFUSED_RIGHTS = (1044, 1142, 1143, 1227, 1370)
#: statements that need a right but change nothing: EXPLAIN
_RIGHT_PROBES = {
    "SELECT": "EXPLAIN SELECT 1 FROM {table}",
    "INSERT": "EXPLAIN INSERT INTO {table} () VALUES ()",
    "UPDATE": "EXPLAIN UPDATE {table} SET {column} = ''",
    "DELETE": "EXPLAIN DELETE FROM {table}",
}


class MySQLChecks(ServerChecks):
    """MySQL or MariaDB."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._store = MySQLStore(target.url, target.options)
        self._settings = self._store.connection_settings
        self._tables = Tables(target, self._store, self._may_do, self._may_not_drop)
        columns = columns_made_by(read_sql(PACKAGE, name) for name in MIGRATIONS)
        self._first_columns = {
            name: next(iter(columns.get(key, ["task_table"])), None) for key, name in self._store.schema.tables.items()
        }
        self._trial = Trial(self._tables.backend)
        self._connection: Connection | None = None

    @property
    def where(self) -> str:
        return describe(self._target.url, self._settings)

    def steps(self) -> Sequence[Step]:
        return [
            *self.connection_steps(),
            Step("server", self._server, stops_on_failure=True),
            Step("clock", self._clock),
            Step("connections", self._connections),
            Step("packets", self._packets),
            Step("isolation", self._isolation),
            Step("durability", self._durability),
            *self._tables.steps(),
            Step("upkeep", lambda: upkeep_of(self._store)),
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        self._tables.close()
        if self._connection is not None:
            self._connection.end()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return translate(exc, self.where) if isinstance(exc, pymysql.Error) else None

    # -- the connection

    @property
    def hosts(self) -> Sequence[Host]:
        return [] if self._settings.get("unix_socket") else [(self._settings["host"], int(self._settings["port"]))]

    @property
    def socket_path(self) -> str:
        return str(self._settings.get("unix_socket", ""))

    @property
    def service(self) -> str:
        return "MySQL"

    @property
    def wants_tls(self) -> bool | None:
        return True if self._settings.get("ssl") else (False if self._settings.get("ssl_disabled") else None)

    @property
    def is_verified(self) -> bool:
        context = self._settings.get("ssl")
        return isinstance(context, ssl.SSLContext) and context.verify_mode is ssl.CERT_REQUIRED

    def is_encrypted(self) -> bool:
        return self._connection is not None and isinstance(self._connection.connected_socket, ssl.SSLSocket)

    def begin_tls(self, connection: socket) -> None:
        # the server sends the first packet
        header = connection.recv(4)
        size = int.from_bytes(header[:3], "little")
        while size > 0:
            size -= len(connection.recv(size)) or size
        connection.sendall(len(_TLS_REQUEST).to_bytes(3, "little") + b"\x01" + _TLS_REQUEST)

    def log_in(self) -> str:
        self._connection = driver.connect(self._settings, self.where)
        return str(self._settings["user"])

    # -- steps

    def _server(self) -> Iterator[Finding]:
        ((version, read_only, engine),) = self._link.rows(
            "SELECT VERSION(), @@global.read_only, "
            "(SELECT SUPPORT FROM information_schema.ENGINES WHERE ENGINE = 'InnoDB')"
        )
        name = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        if engine not in ("YES", "DEFAULT"):
            yield problem("mysql-engine", f"InnoDB is {engine}")
        elif int(read_only) and not self._may_write_anyway():
            yield problem("store-read-only", "read_only is on", "set DB_HOST (or the URL) to the primary")
        else:
            yield passed(f"{name} {version.partition('-')[0]}")

    def _may_write_anyway(self) -> bool:
        """Return True if the user may write on a read-only server, as a superuser may."""
        grants = " ".join(str(row[0]) for row in self._link.rows("SHOW GRANTS"))
        return any(right in grants for right in ("ALL PRIVILEGES ON *.*", "SUPER", "READ_ONLY ADMIN"))

    def _clock(self) -> Iterator[Finding]:
        def ask() -> datetime:
            ((moment,),) = self._link.rows("SELECT UTC_TIMESTAMP(6)")
            assert isinstance(moment, datetime)
            return moment.replace(tzinfo=timezone.utc)

        yield judge_clock(ask)

    def _connections(self) -> Iterator[Finding]:
        ((most, for_user),) = self._link.rows("SELECT @@max_connections, @@max_user_connections")
        room = min(int(limit) for limit in (most, for_user) if int(limit) > 0)
        options = self._target.options
        yield judge_connections("mysql", room, self._target.processes, options.pool_size, self._target.is_pool_size_set)

    def _packets(self) -> Iterator[Finding]:
        limit = self._link.packet_limit
        seen = f"max_allowed_packet is {limit / (1 << 20):g} MB"
        yield passed(seen) if limit >= _MIN_PACKET_BYTES else problem("mysql-packet", seen)

    def _isolation(self) -> Iterator[Finding]:
        found = dict(self._link.rows("SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"))
        level = str(next(iter(found.values()), "unknown"))
        ((has_log, log_format),) = self._link.rows("SELECT @@log_bin, @@binlog_format")
        if level != "READ-COMMITTED":
            yield problem("mysql-isolation", f"the session has {level}")
        elif int(has_log) and log_format == "STATEMENT":
            yield problem("mysql-binlog-format", "the binary log is on, and binlog_format is STATEMENT")
        else:
            yield passed("READ COMMITTED, by the session")

    def _durability(self) -> Iterator[Finding]:
        ((flush,),) = self._link.rows("SELECT @@global.innodb_flush_log_at_trx_commit")
        seen = f"innodb_flush_log_at_trx_commit is {flush}"
        yield passed(seen) if int(flush) == 1 else problem("mysql-durability", seen)

    # -- asking

    @property
    def _link(self) -> Connection:
        assert self._connection is not None, "only after the login"
        return self._connection

    def _may_do(self, table: str, right: str) -> bool:
        return self._is_allowed(_RIGHT_PROBES[right].format(table=table, column=self._first_columns.get(table)))

    def _may_not_drop(self) -> Finding | None:
        """Return a finding if test tables could not be dropped afterwards."""
        if self._is_allowed("DROP TABLE IF EXISTS rootcellar_check_none"):
            return None
        return failed(
            errors.PermissionDenied(
                "there are no tables yet, and the user may not create and drop tables",
                remedy="run `rootcellar schema create` as a user who may create tables, or give a DBA the output of "
                "`rootcellar schema sql`",
            )
        )

    def _is_allowed(self, statement: str) -> bool:
        try:
            with suppress(pymysql.Warning):
                self._link.rows(statement)
        except pymysql.Error as exc:
            if exc.args and exc.args[0] in _CODES_OF_REFUSED_RIGHTS:
                return False
            raise
        return True


#: what :mod:`rootcellar.checks.choosing` calls
checks = MySQLChecks
