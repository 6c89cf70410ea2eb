"""Connecting to PostgreSQL: the driver, the settings of a connection, and its errors as errors of rootcellar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from rootcellar import errors
from rootcellar.stores.passwords import current
from rootcellar.stores.postgres import tls
from rootcellar.stores.urls import SETTING, UrlForm, misplaced_at, read_url
from rootcellar.support.imports import import_failure
from rootcellar.support.interruptions import Moment, raise_interruption


def _prepare_for_eventlet() -> None:
    """Make psycopg wait in a way that eventlet supports. It detects gevent, but would block eventlet's hub."""
    if "eventlet" not in sys.modules or "psycopg" in sys.modules:
        return
    from eventlet import patcher

    if patcher.is_monkey_patched("select"):
        os.environ.setdefault("PSYCOPG_WAIT_FUNC", "wait_selector")


_prepare_for_eventlet()
try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    from rootcellar.stores.postgres.dates import read_all_moments
except ImportError as exc:
    raise import_failure(
        exc,
        ["psycopg"],
        "the PostgreSQL driver psycopg 3",
        where="result_backend",
        install="pip install 'rootcellar[postgres]'",
    ) from exc

__all__ = [
    "OLDEST_SERVER",
    "SILENCE",
    "STALE",
    "Connection",
    "connect",
    "connection_settings",
    "describe",
    "psycopg",
    "translate",
]


T = TypeVar("T")

#: seconds to wait for an answer of the server: a frozen server keeps the connection open
SILENCE = 30.0
#: how the answer to a statement begins after which psycopg deletes all prepared statements of the session
_DISCARDING = ("ALTER", "DROP")


class Silent(psycopg.OperationalError):
    """The server has not answered in time."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that remembers what it left in its session.

    Attributes:
        prepared: the names of the statements that ``pipeline.py`` prepared on it.
        may_prepare: whether statements may be prepared on it, see ``pgbouncer.py``.
        is_pooled: whether a connection pooler is between this process and the server.
        silence: seconds to wait for an answer; ``None`` for no limit.
        server: the host and the port of the server.
        is_given_up: whether a thread that waits for an answer must stop waiting.
        is_outdated: whether it may not be used again, because psycopg has deleted all prepared statements of the
            session, also those in :attr:`prepared`. It does so after a rollback, and after a statement that drops or
            alters something.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: set[bytes] = set()
        self.may_prepare = True
        self.is_pooled = False
        self.silence: float | None = SILENCE
        self.server = ""
        self.is_given_up = False
        self.is_outdated = False

    def give_up(self) -> None:
        """Make a thread that waits for an answer stop waiting, because the server was replaced."""
        self.is_given_up = True

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Wait for an answer.

        Raises:
            Silent: nothing arrived for :attr:`silence` seconds, or the connection was given up.
        """
        return super().wait(gen if self.silence is None else _unless_silent(gen, self, self.silence), *args, **kwargs)

    def __exit__(self, *_: object) -> None:
        # psycopg would roll back first, and wait for a server that may not answer
        self.close()

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Transaction]:
        """Begin a transaction. If a statement is interrupted while it runs, the connection is closed.

        After a rollback, the connection is not used again if statements were prepared on it.
        """
        try:
            with super().transaction(*args, **kwargs) as transaction:
                try:
                    yield transaction
                except BaseException:
                    if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                        # this ends the session and its transaction
                        self.close()
                    raise
        except BaseException:
            self.note_discarded()
            raise

    def execute(self, *args: Any, **kwargs: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run a statement. If it drops or alters something, the connection is not used again, as after a rollback."""
        cursor = super().execute(*args, **kwargs)
        if (cursor.statusmessage or "").startswith(_DISCARDING):
            self.note_discarded()
        return cursor

    def note_discarded(self) -> None:
        """Note that psycopg has deleted all prepared statements, if it prepares any on this connection itself."""
        if self.prepared and self.prepare_threshold is not None:
            self.is_outdated = True

    @contextmanager
    def without_timeout(self) -> Iterator[None]:
        """Wait without a limit within a ``with`` block, for statements that may take long."""
        before, self.silence = self.silence, None
        try:
            yield
        finally:
            self.silence = before


def _unless_silent(work: Generator[Any, Any, T], connection: Connection, seconds: float) -> Generator[Any, Any, T]:
    """Run a generator of psycopg; each time that it waits, check whether the server has been silent for too long."""
    since: float | None = None
    try:
        wanted = next(work)
        while True:
            if ready := (yield wanted):
                since = None
            elif connection.is_given_up:
                raise Silent(f"{connection.server} is silent, and was replaced")
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > seconds:
                raise Silent(f"the server has been silent for {seconds:g} s")
            wanted = work.send(ready)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


OLDEST_SERVER = 13

_EXAMPLE = "rootcellar+postgresql://user:password@host:5432/database"
URL_FORM = UrlForm(example=_EXAMPLE, secrets="connect_args, or name a passfile")

_DEFAULTS: dict[str, Any] = {
    "application_name": "rootcellar",
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    # a server that disappeared without closing the connection is noticed in seconds, not in a quarter of an hour
    "tcp_user_timeout": 15_000,
}

_LOCKED = "wait for the others; if it lasts, see which session holds locks: pg_stat_activity, pg_locks"
_INTERRUPTED = "wait for the server; if it lasts, see its log for shutdowns, and its statement_timeout"
READ_ONLY = "25006"
#: the server ends the session
ENDED = {"57P01", "57P02", "57P05", "25P03", "25P04"}
#: the prepared statements of the connection, or what we know of the tables, are outdated; a new connection corrects it
STALE = {"0A000", "26000", "42P01", "42P05", "42P10"}

_BY_STATE: dict[str, tuple[type[errors.StoreError], str]] = {
    READ_ONLY: (errors.StoreReadOnly, "connect to the primary, or wait until the failover ends"),
    "28P01": (errors.AuthenticationFailed, "check the user and the password, and pg_hba.conf"),
    "28000": (
        errors.AuthenticationFailed,
        "check the user, pg_hba.conf, and whether it asks for TLS (sslmode)",
    ),
    "3D000": (errors.DatabaseMissing, "CREATE DATABASE, or correct its name"),
    "42501": (
        errors.PermissionDenied,
        "let a DBA run what `rootcellar schema grants` prints, after each upgrade too; `rootcellar schema sql` prints "
        "the tables",
    ),
    "42P01": (errors.SchemaMissing, "run `rootcellar schema status`, then `rootcellar schema create`"),
    "42703": (errors.SchemaOutdated, "run `rootcellar schema status`: it says how to put the column back"),
    "53100": (errors.DiskFull, "give the server's disk room; results are retried meanwhile"),
    "54000": (errors.RecordRefused, "store less in one result"),
    "54001": (errors.RecordRefused, "nest the result less deeply"),
    # a lock_timeout, and limits on how long a transaction may last or be idle
    **dict.fromkeys(("55P03", "25P03", "25P04"), (errors.StoreUnavailable, _LOCKED)),
}
_BY_CLASS: dict[str, tuple[type[errors.StoreError], str]] = {
    "08": (errors.StoreUnavailable, "see whether the server runs and can be reached"),
    "22": (errors.RecordRefused, "see which field the server names"),
    "40": (errors.StoreUnavailable, _LOCKED),
    "53": (errors.StoreUnavailable, "see the server's log: it is short of a resource"),
    "57": (errors.StoreUnavailable, _INTERRUPTED),
    "58": (errors.StoreUnavailable, "see the server's log: its system failed it"),
}
#: words in the errors of a connection pooler
_BY_WORDS: dict[str, tuple[type[errors.StoreError], str]] = {
    "statement pooling mode": (errors.PoolerUnfit, "set pool_mode to transaction or session in pgbouncer.ini"),
    "unsupported startup parameter": (
        errors.PoolerUnfit,
        "take it out of the URL (ALTER ROLE … SET gives a role its settings), or name it in ignore_startup_parameters "
        "in pgbouncer.ini",
    ),
    "SASL authentication failed": (errors.AuthenticationFailed, "check the user and the password"),
    "query_wait_timeout": (errors.StoreUnavailable, "give the pooler more connections, or see whether the server runs"),
    "no more connections allowed": (errors.StoreUnavailable, "raise max_client_conn in pgbouncer.ini"),
    "no such database": (errors.DatabaseMissing, "name the database in pgbouncer.ini, or correct its name"),
    "not allowed to connect": (errors.AuthenticationFailed, "check the user"),
    "no such user": (errors.AuthenticationFailed, "check the user, and the pooler's auth_file"),
}
_REFUSALS = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ('role "', "28000"),
    ('database "', "3D000"),
    ("permission denied for database", "42501"),
)


def connection_settings(url: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters for a URL.

    Raises:
        ConfigurationError: it is not such a URL, or it has a secret in a part that logs would show.
    """
    read_url(url, URL_FORM)
    try:
        found = conninfo_to_dict("postgresql://" + url.partition("://")[2])
    except psycopg.ProgrammingError as exc:
        reason = str(exc).split(":")[0]
        raise errors.ConfigurationError(
            f"not a PostgreSQL URL: {reason}",
            where=SETTING,
            remedy=f"write {_EXAMPLE}, with special characters as %XX",
        ) from None
    if "@" in str(found.get("host", "")):
        # for libpq, the password ends at the first raw @
        raise misplaced_at(URL_FORM)
    settings = {**_DEFAULTS, **found, **extra}
    # overrides PGCLIENTENCODING and the settings of the role and the database: rootcellar uses UTF-8
    settings["client_encoding"] = "UTF8"
    if "," in str(settings.get("host", "")):
        settings.setdefault("target_session_attrs", "read-write")
    return tls.with_defaults(settings, psycopg.pq.version())


def describe(settings: Mapping[str, Any]) -> str:
    """Return user, host and database, for messages."""
    user = f"{settings['user']}@" if settings.get("user") else ""
    hosts = str(settings.get("host") or "local socket").split(",")
    ports = str(settings.get("port") or "5432").split(",")
    places = [f"{host}:{ports[min(i, len(ports) - 1)]}" for i, host in enumerate(hosts)]
    return f"postgresql {user}{','.join(places)}/{settings.get('dbname') or settings.get('user') or ''}"


def connect(settings: Mapping[str, Any], where: str) -> Connection:
    """Open a connection in autocommit mode.

    Raises:
        StoreError: no connection is possible.
        ConfigurationError: a file or a mode for TLS cannot be used.
    """
    settings = {**settings, "password": current(settings.get("password"))}
    moment = Moment()
    try:
        connection = Connection.connect(autocommit=True, prepare_threshold=0, **settings)
    except psycopg.Error as exc:
        raise_interruption(exc, moment)
        raise tls.explain(str(exc), settings, where) or translate(exc, where) from exc
    connection.server = f"{connection.info.host}:{connection.info.port}"
    read_all_moments(connection)
    tls.warn_if_unverified(settings, connection.pgconn.ssl_in_use, where)
    try:
        refuse_old(connection.info.server_version, where)
    except errors.ServerTooOld:
        connection.close()
        raise
    return connection


def refuse_old(version: int, where: str) -> None:
    """Refuse a server that rootcellar does not support.

    Args:
        version: the server's version, such as 130021.
        where: the server, for messages.

    Raises:
        ServerTooOld: it is older than :data:`OLDEST_SERVER`.
    """
    if version < OLDEST_SERVER * 10_000:
        raise errors.ServerTooOld(
            f"PostgreSQL {version // 10_000} is too old",
            where=where,
            remedy=f"upgrade the server to {OLDEST_SERVER} or later",
        )


def translate(exc: psycopg.Error, where: str) -> errors.RootcellarError:
    """Return the error of rootcellar for ``exc``."""
    text = _reason(exc)
    state = exc.sqlstate or next((state for words, state in _REFUSALS if words in text), "")
    by_words = next((meaning for words, meaning in _BY_WORDS.items() if words in text), None)
    if by_words is not None and state in ("", "08P01"):
        kind, remedy = by_words
    elif state in _BY_STATE:
        kind, remedy = _BY_STATE[state]
    elif state[:2] in _BY_CLASS:
        kind, remedy = _BY_CLASS[state[:2]]
    elif isinstance(exc, psycopg.DataError):
        kind, remedy = errors.RecordRefused, "see which field it is"
    elif isinstance(exc, psycopg.OperationalError) and not state:
        kind, remedy = errors.StoreUnavailable, "see whether the server runs and can be reached"
    elif text.startswith("invalid connection option"):
        return errors.ConfigurationError(text, where=where, remedy="correct connect_args in database_engine_options")
    else:
        kind, remedy = errors.StoreError, "see the server's log"
    return kind(text, where=where, remedy=remedy)


def _reason(exc: psycopg.Error) -> str:
    if exc.diag.message_primary:
        return exc.diag.message_primary
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    reasons = [line.rpartition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return (reasons or lines or [type(exc).__name__])[0]
