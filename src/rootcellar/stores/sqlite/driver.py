"""Opens a SQLite file, with the settings of a connection, and converts its errors to errors of rootcellar."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from rootcellar import errors
from rootcellar.support.backoff import Backoff
from rootcellar.urls import redact

OLDEST = (3, 35, 0)
#: seconds that a writer waits for other writers
BUSY_TIMEOUT = 30.0
_MODE_PAUSES = Backoff(base_ms=2.5, limit_ms=20.0)
#: the permissions of a new file: results may contain data that other users must not read
OWNER_ONLY = 0o600


def database_path(url: str) -> Path:
    """Return the file of ``sqlite:///relative`` or ``sqlite:////absolute``.

    Raises:
        ConfigurationError: the URL names no file.
    """
    path = unquote(url.partition("://")[2].partition("?")[0])
    if not path.startswith("/") or path in ("/", "/:memory:"):
        raise errors.ConfigurationError(
            "the SQLite URL names no file, and a database in memory is seen by one process only",
            where=redact(url),
            remedy="write rootcellar+sqlite:///results.sqlite3, or four slashes before an absolute path",
        )
    return Path(path[1:])


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for durable use by many processes. Create it if it is missing.

    Raises:
        StoreError: it cannot be opened.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise errors.ServerTooOld(
            f"SQLite {sqlite3.sqlite_version} is too old",
            where=str(path),
            remedy="use a Python built with SQLite 3.35 or later",
        )
    _create_file(path)
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            _set_up(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    return connection


def _create_file(path: Path) -> None:
    """Create the file if it is missing, for its owner alone. SQLite gives -wal and -shm the same permissions."""
    if path.exists():
        return
    # if the folder cannot be created, SQLite's own error explains it
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY))


def _set_up(connection: sqlite3.Connection) -> None:
    connection.text_factory = _text
    deadline = time.monotonic() + BUSY_TIMEOUT
    tries = 0
    while not _set_wal_mode(connection):
        # SQLite itself does not wait for other processes that change the mode at the same moment
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        tries += 1
        time.sleep(_MODE_PAUSES.before(tries))
    # in WAL mode, a crash of the machine may lose the last commits with NORMAL, and none with FULL
    connection.execute("PRAGMA synchronous=FULL")


def _text(stored: bytes) -> str | bytes:
    """Read a text. Bytes that are not UTF-8 stay bytes, because sqlite3 would fail the whole query."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def _set_wal_mode(connection: sqlite3.Connection) -> bool:
    """Set the journal mode if it is not set; return whether it is set, or cannot be set by a reader."""
    try:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as exc:
        # a reader may open a file that it cannot write to
        if "readonly" not in str(exc) and "locked" not in str(exc):
            raise
        return "readonly" in str(exc)
    return True


def translate(exc: sqlite3.Error, path: Path) -> errors.StoreError:
    """Return the error of rootcellar for ``exc``."""
    text = str(exc)
    kind: type[errors.StoreError] = errors.StoreError
    remedy = "see SQLite's documentation of the message"
    if "locked" in text or "busy" in text:
        kind, remedy = errors.StoreUnavailable, "see which process holds the file for so long"
    elif "full" in text:
        kind, remedy = errors.DiskFull, "give the disk room; results are retried meanwhile"
    elif "readonly" in text or "read-only" in text:
        kind, remedy = (
            errors.StoreReadOnly,
            "make the file, its -wal and -shm and their folder writable",
        )
    elif "unable to open" in text:
        return _unopenable(text, path)
    elif "disk I/O" in text:
        kind, remedy = errors.StoreUnavailable, "see the system's log"
    elif "no such table" in text:
        kind, remedy = errors.SchemaMissing, "run `rootcellar schema status`, then `rootcellar schema create`"
    elif "no such column" in text or "has no column" in text:
        kind, remedy = errors.SchemaOutdated, "run `rootcellar schema status`: it says how to put the column back"
    elif isinstance(exc, (sqlite3.DataError, sqlite3.IntegrityError)) or "too big" in text:
        kind, remedy = errors.RecordRefused, "store less in one result"
    elif "not a database" in text:
        kind, remedy = errors.StoreError, "name another file: this one is something else"
    return kind(text, where=f"sqlite {path}", remedy=remedy)


def _unopenable(text: str, path: Path) -> errors.StoreError:
    where = f"sqlite {path}"
    if not path.parent.is_dir():
        return errors.DatabaseMissing(text, where=where, remedy=f"make the folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        return errors.PermissionDenied(text, where=where, remedy="make the file and its folder writable")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        remedy = "let this user read and write the file: a new one is made for its owner alone, see docs/sqlite.md"
        return errors.PermissionDenied(text, where=where, remedy=remedy)
    return errors.StoreUnavailable(text, where=where, remedy="see whether the file can be opened")
