"""Converts the errors of the server and the driver to errors of rootcellar."""

from __future__ import annotations

import pymysql

from rootcellar import errors
from rootcellar.stores import tls

Kind = tuple[type[errors.StoreError], str]

#: a deadlock, a wait for a row that took too long, a row that was changed meanwhile: the same call works if repeated
DEADLOCK, LOCK_WAIT, RECORD_CHANGED = 1213, 1205, 1020
CONFLICTS = {DEADLOCK, LOCK_WAIT, RECORD_CHANGED}
#: the server ends the session
LOST = {1053, 1077, 1079, 1927, 4031}
#: a table or a column is missing: what we know of the tables is outdated
STALE = {1054, 1146}
#: the server accepts no writes; a session that got this error may stay read-only
READ_ONLY = {1290, 1792, 1836}

#: a statement took longer than it was allowed to: MariaDB, MySQL
TOO_SLOW = {1969, 3024}

#: the user lacks a right on a table or a column
DENIED = {1142, 1143}
#: the session has no database, because it was dropped
NO_DATABASE = 1046

_BUSY = "see the server's log: it is short of a resource"
_GONE = "see whether the server runs and can be reached"
_LATER = "wait for the server; if it lasts, see its log for shutdowns and limits on statements"
_LOCKED = "wait for the others; if it lasts, see which session holds locks: SHOW ENGINE INNODB STATUS"
_SMALLER = "store less in one result"
_GRANT = "GRANT the right (`rootcellar schema grants`), or let a DBA run what `rootcellar schema sql` prints"

_BY_CODE: dict[int, Kind] = {
    **dict.fromkeys(CONFLICTS, (errors.StoreUnavailable, _LOCKED)),
    **dict.fromkeys(READ_ONLY, (errors.StoreReadOnly, "connect to the primary, or wait until the failover ends")),
    **dict.fromkeys((1021, 1114), (errors.DiskFull, "give the server's disk room; results are retried meanwhile")),
    **dict.fromkeys(
        (1045, 1698, 1130, 1251, 1275, 1862, 3118, 3955, 4151),
        (
            errors.AuthenticationFailed,
            "check the user, the password and the host that the user may come from",
        ),
    ),
    1049: (errors.DatabaseMissing, "CREATE DATABASE, or correct its name"),
    NO_DATABASE: (errors.DatabaseMissing, "CREATE DATABASE, or correct its name"),
    **dict.fromkeys((1044, 1142, 1143, 1227, 1370), (errors.PermissionDenied, _GRANT)),
    1054: (errors.SchemaOutdated, "run `rootcellar schema status`: it says how to put the column back"),
    1146: (errors.SchemaMissing, "run `rootcellar schema status`, then `rootcellar schema create`"),
    # the server refuses it if its limit was lowered after the connection was opened
    1153: (errors.PayloadTooLarge, "store less in one result, or raise max_allowed_packet in the server's settings"),
    1118: (errors.PayloadTooLarge, "store less in one result, or raise innodb_log_file_size in the server's settings"),
    **dict.fromkeys((1264, 1292, 1300, 1366, 1406, 1265), (errors.RecordRefused, "see which column the server names")),
    **dict.fromkeys((1037, 1038, 1040, 1041, 1203, 1226, 1129), (errors.StoreUnavailable, _BUSY)),
    **dict.fromkeys((*LOST, 1047, 1317, *TOO_SLOW), (errors.StoreUnavailable, _LATER)),
    **dict.fromkeys((1158, 1159, 1160, 1161, 1184), (errors.StoreUnavailable, _GONE)),
}
_NO_SPACE = ("errno: 28", "Got error 28", "No space left")


def code_of(exc: pymysql.Error) -> int:
    """Return the number of an error; 0 if it has none."""
    code = exc.args[0] if exc.args else 0
    return code if isinstance(code, int) else 0


def cut_off(exc: Exception, where: str) -> errors.StoreUnavailable:
    """Return the error for an answer that the driver could not read to its end."""
    return errors.StoreUnavailable(
        f"the server's answer was cut off: {type(exc).__name__}: {exc}", where=where, remedy=_GONE
    )


def translate(exc: pymysql.Error, where: str) -> errors.StoreError:
    """Return the error of rootcellar for ``exc``."""
    text = str(exc.args[1]) if len(exc.args) > 1 and exc.args[1] else str(exc) or type(exc).__name__
    if refused := tls.explain(exc, where):
        return refused
    code = code_of(exc)
    if any(words in text for words in _NO_SPACE):
        kind, remedy = _BY_CODE[1021]
    elif code in _BY_CODE:
        kind, remedy = _BY_CODE[code]
    elif code == 2026:
        kind, remedy = errors.CertificateRefused, "turn TLS on in the server, or write ssl_disabled=true"
    elif code >= 2000 or isinstance(exc, pymysql.err.InterfaceError):
        kind, remedy = errors.StoreUnavailable, _GONE
    elif isinstance(exc, pymysql.err.DataError):
        kind, remedy = errors.RecordRefused, _SMALLER
    else:
        kind, remedy = errors.StoreError, "see the server's log"
    return kind(text, where=where, remedy=remedy)
