"""Connects to MySQL and MariaDB: the driver, the settings of a session, and the limit for statements."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from rootcellar import errors
from rootcellar.support.imports import import_failure
from rootcellar.support.interruptions import Moment, raise_interruption

try:
    import pymysql
    from pymysql.constants import SERVER_STATUS
    from pymysql.cursors import DictCursor
except ImportError as exc:
    raise import_failure(
        exc, ["pymysql"], "the MySQL driver PyMySQL", where="result_backend", install="pip install 'rootcellar[mysql]'"
    ) from exc

from rootcellar.stores.mysql.failures import translate
from rootcellar.stores.mysql.url import current_parameters

T = TypeVar("T")

#: the errors of PyMySQL, in addition to its own, for an answer that is cut off or a socket that was closed
UNEXPECTED_ERRORS = (AttributeError, AssertionError, IndexError, OSError, struct.error)

OLDEST_MARIADB = (10, 5)
OLDEST_MYSQL = (8, 0)
#: seconds that a statement waits for a row that another transaction has locked
LOCK_TIMEOUT = 5
#: seconds that a statement waits for a table that another session alters
TABLE_LOCK_TIMEOUT = 30

#: strict, so that the server refuses a value that it would cut; without ANSI_QUOTES and NO_BACKSLASH_ESCAPES, because
#: the statements are quoted for that
SESSION = (
    f"SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
    f"innodb_lock_wait_timeout = {LOCK_TIMEOUT}, lock_wait_timeout = {TABLE_LOCK_TIMEOUT}",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)
_ABOUT = "SELECT VERSION(), @@max_allowed_packet"


class Connection(pymysql.connections.Connection):
    """A connection in autocommit mode, with the settings that the statements need."""

    #: the most bytes that the server accepts in one statement
    packet_limit = 0
    #: the status flags in the server's last answer; the driver sets them
    server_status: int
    #: the server's name and version; the driver sets it
    server_version: str
    #: whether a command was begun whose answer was not read to its end
    is_busy = False
    _write_timeout: float | None
    _sock: Any

    def execute(self, statement: str, params: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed; an upsert counts 1 for a new row, 2 for a changed one.

        Raises:
            PayloadTooLarge: the statement is longer than the server accepts.
            pymysql.Error: the server refused it, or the connection was lost.
        """
        with self.cursor() as cursor:
            return int(cursor.execute(self._filled_in(cursor, statement, params)))

    def rows(self, statement: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows. Raises as :meth:`execute` does."""
        with self.cursor() as cursor:
            cursor.execute(self._filled_in(cursor, statement, params))
            return list(cursor.fetchall())

    def dicts(self, statement: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run a query and return its rows as dicts. Raises as :meth:`execute` does."""
        with self.cursor(DictCursor) as cursor:
            cursor.execute(self._filled_in(cursor, statement, params))
            return list(cursor.fetchall())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a ``with`` block in a transaction."""
        self.begin()
        try:
            yield
        except (pymysql.Error, errors.RootcellarError, ValueError):
            with suppress(pymysql.Error):
                self.rollback()
            raise
        self.commit()

    @property
    def connected_socket(self) -> Any:
        """The socket; an ``ssl.SSLSocket`` if the connection is encrypted."""
        return self._sock

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB, and not MySQL."""
        return "mariadb" in self.server_version.lower()

    @property
    def can_skip_locked(self) -> bool:
        """Whether the server can leave out rows that another transaction has locked: not MariaDB 10.5."""
        return not self.is_mariadb or _numbers_of(self.server_version) >= (10, 6)

    def is_usable(self) -> bool:
        """Return, without a round trip, whether it is open, not in a transaction, and not waiting for an answer."""
        is_idle = not self.is_busy and not self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS
        return bool(self.open and is_idle)

    def is_alive(self) -> bool:
        try:
            self.ping(reconnect=False)
        except pymysql.Error:
            return False
        return True

    def end(self) -> None:
        """Close it, in any state, without an error."""
        with suppress(pymysql.Error):
            self.close()

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        self.is_busy = True
        super()._execute_command(command, sql)  # type: ignore[misc]

    def _read_query_result(self, unbuffered: bool = False) -> int:
        read: Callable[[], int] = partial(super()._read_query_result, unbuffered)  # type: ignore[misc]
        return self._answer(read)

    def _read_ok_packet(self) -> Any:
        return self._answer(super()._read_ok_packet)  # type: ignore[misc]

    def _answer(self, read: Callable[[], T]) -> T:
        """Read an answer, and clear :attr:`is_busy` if it was complete. An error of the server is a complete answer."""
        try:
            answer = read()
        except pymysql.Error:
            self.is_busy = False
            raise
        self.is_busy = False
        return answer

    def set_timeouts(self, *, read_timeout: float, write_timeout: float) -> None:
        """Set the timeouts for answers, in seconds. The driver's own parameters also apply to the handshake."""
        self._read_timeout, self._write_timeout = read_timeout, write_timeout

    def _filled_in(self, cursor: Any, statement: str, params: Mapping[str, Any] | None) -> str:
        if params is None:
            return statement
        text: str = cursor.mogrify(statement, params)
        # no character takes more than four bytes
        if self.packet_limit and len(text) * 4 >= self.packet_limit:
            size = len(text.encode()) + 1
            if size > self.packet_limit:
                raise errors.PayloadTooLarge(
                    f"a statement of {size:,} bytes, and the server takes {self.packet_limit:,}",
                    where=f"{self.host}:{self.port}",
                    remedy="store less in one result, or raise the server's max_allowed_packet",
                )
        return text


def connect(settings: Mapping[str, Any], where: str) -> Connection:
    """Open a connection.

    Raises:
        StoreError: no connection is possible.
    """
    timeouts = {"read_timeout": settings["connect_timeout"], "write_timeout": settings["connect_timeout"]}
    moment = Moment()
    try:
        parameters = {"program_name": "rootcellar", **current_parameters(settings), **timeouts}
        connection = Connection(**parameters, charset="utf8mb4", autocommit=True)
        version, connection.packet_limit = _set_up(connection)
    except pymysql.Error as exc:
        raise_interruption(exc, moment)
        raise translate(exc, where) from exc
    except (RuntimeError, ValueError, NotImplementedError) as exc:
        raise _unusable(exc, where) from exc
    connection.set_timeouts(read_timeout=settings["read_timeout"], write_timeout=settings["write_timeout"])
    _refuse_old(connection, version, where)
    return connection


def _set_up(connection: Connection) -> tuple[str, int]:
    """Set up the session; return the server's version and its largest packet in bytes."""
    try:
        for statement in SESSION:
            connection.execute(statement)
        ((version, limit),) = connection.rows(_ABOUT)
    except BaseException:
        connection.end()
        raise
    return version, limit


def _refuse_old(connection: Connection, version: str, where: str) -> None:
    is_mariadb = "mariadb" in version.lower()
    name, oldest = ("MariaDB", OLDEST_MARIADB) if is_mariadb else ("MySQL", OLDEST_MYSQL)
    if _numbers_of(version) < oldest:
        connection.end()
        raise errors.ServerTooOld(
            f"{name} {version} is too old",
            where=where,
            remedy=f"upgrade the server to {name} {'.'.join(map(str, oldest))} or later",
        )


def _numbers_of(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a server's version. A MariaDB may begin with 5.5.5-, for old clients."""
    return tuple(int(number) for number in re.findall(r"\d+", version.removeprefix("5.5.5-"))[:2])


def _unusable(exc: Exception, where: str) -> errors.RootcellarError:
    """Return the error for settings that the driver refuses."""
    if "cryptography" in str(exc):
        return errors.DriverMissing(
            "the server wants the password encrypted, and the Python package cryptography is not installed",
            where=where,
            remedy="pip install 'PyMySQL[rsa]', or connect by TLS",
        )
    return errors.ConfigurationError(f"the driver refuses the settings: {exc}", where=where, remedy="see connect_args")


def in_list(ids: Sequence[str]) -> tuple[str, ...]:
    """Return ids as a parameter after ``IN``, sorted, so that all transactions lock rows in the same order."""
    return tuple(sorted(ids))
