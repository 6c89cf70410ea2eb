"""Connects to MongoDB: the client and its settings. Converts its errors to errors of rootcellar."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from rootcellar import errors
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.passwords import current, source_of
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.urls import SETTING, ServerUrl, UrlForm, read_url
from rootcellar.support.forking import PerProcess
from rootcellar.support.imports import import_failure

try:
    import bson.errors
    import pymongo
    from pymongo import errors as mongo
    from pymongo.uri_parser import parse_uri
except ImportError as exc:
    # the package has both modules
    raise import_failure(
        exc,
        ["pymongo", "bson"],
        "the MongoDB driver PyMongo",
        where="result_backend",
        install="pip install 'rootcellar[mongodb]'",
    ) from exc

Document = dict[str, Any]
Client = pymongo.MongoClient[Document]

_EXAMPLE = "rootcellar+mongodb://user:password@host:27017/database"
URL_FORM = UrlForm(example=_EXAMPLE, secrets="mongodb_backend_settings")
#: the database if the URL names none, as in Celery
DATABASE = "celery"
#: milliseconds; if a server cannot be reached, the backend retries, not the driver
_TIMEOUTS = {"serverSelectionTimeoutMS": 3_000, "connectTimeoutMS": 3_000, "socketTimeoutMS": 30_000}
#: milliseconds that a write waits for the majority of the servers of the servers
_WRITE_TIMEOUT = 10_000
#: seconds to wait for a connection if the settings have no limit
_NO_LIMIT = 86_400.0
_HOSTS = ("host", "port", "mongo_host")
#: words of the driver's errors for a server that cannot be reached
_OUT_OF_REACH = re.compile(r"refused|timed out|unreachable|reset by peer|closed|Errno", re.IGNORECASE)

#: the server's error codes
_BY_CODE: dict[int, tuple[type[errors.StoreError], str]] = {
    13: (errors.PermissionDenied, "grant the user the role readWrite on the database"),
    18: (errors.AuthenticationFailed, "check the user, the password and authSource"),
    8000: (errors.AuthenticationFailed, "check the user, the password and authSource"),
    10334: (errors.RecordRefused, "store less in one result: a document of MongoDB has at most 16 MB"),
    14031: (errors.DiskFull, "give the server's disk room; results are retried meanwhile"),
    20: (errors.StoreError, "see the server's log"),
    64: (errors.StoreUnavailable, "see whether a majority of the replica set runs"),
    100: (errors.StoreUnavailable, "see whether a majority of the replica set runs"),
}
_REFUSED_LOGINS = {18, 8000}
_REFUSALS = (errors.AuthenticationFailed, errors.CertificateRefused)
_OUTAGES = {6, 7, 24, 50, 89, 91, 112, 134, 189, 202, 262, 317, 9001, 10058, 10107, 11600, 11602, 13435, 13436}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to connect, and which collections to use.

    Attributes:
        hosts: the URL, or the hosts in ``mongodb_backend_settings``, which take precedence.
        database, task_collection, group_collection: the database and the collections.
        client: options of the client, as PyMongo names them.
        where: the place, for messages, without secrets.
    """

    hosts: str | list[str]
    database: str
    task_collection: str
    group_collection: str
    client: Mapping[str, Any]
    where: str


def read_settings(url: str, options: StoreOptions) -> Settings:
    """Return the settings of a URL and of Celery's ``mongodb_backend_settings``.

    Raises:
        ConfigurationError: it is not a MongoDB URL, or the settings cannot be used.
    """
    parts = _read_url(url)
    given = dict(options.section("mongodb"))
    hosts, place = _hosts(url, parts, given)
    # MongoDB's own URLs may name a collection after a dot
    database = given.pop("database", None) or parts.path.partition(".")[0] or DATABASE
    task_collection = given.pop("taskmeta_collection", None) or options.task_table
    group_collection = given.pop("groupmeta_collection", None) or options.group_table
    client: dict[str, Any] = {}
    for name, ours in (("user", "username"), ("password", "password"), ("max_pool_size", "maxPoolSize")):
        if (value := given.pop(name, None)) is not None:
            client[ours] = value
    if (password := source_of(options.password, "mongodb")) is not None:
        client["password"] = password
    client |= given.pop("options", None) or {}
    client |= given
    return Settings(
        hosts=hosts,
        database=database,
        task_collection=task_collection,
        group_collection=group_collection,
        client=_with_defaults(client, set(parts.query), options),
        where=f"mongodb {place}/{database}",
    )


def _with_defaults(client: dict[str, Any], in_url: set[str], options: StoreOptions) -> dict[str, Any]:
    """Add the defaults."""
    defaults: dict[str, Any] = {
        **_TIMEOUTS,
        "maxPoolSize": options.pool_size,
        "waitQueueTimeoutMS": int(options.pool_timeout * 1000),
        "appname": "rootcellar",
        "w": "majority",
        "journal": True,
        "wTimeoutMS": _WRITE_TIMEOUT,
    }
    if options.pool_recycle > 0:
        defaults["maxIdleTimeMS"] = max(1, int(options.pool_recycle * 1000))
    set_names = {name.lower() for name in client} | in_url
    # two names of one option
    set_names |= {"wtimeoutms"} if "wtimeout" in set_names else set()
    client = {**{name: value for name, value in defaults.items() if name.lower() not in set_names}, **client}
    return {**client, "tz_aware": True, "connect": False}


def _read_url(url: str) -> ServerUrl:
    """Return the parts of a URL that PyMongo can read, without a DNS query."""
    parts = read_url(url, URL_FORM)
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[2] != "srv":
        try:
            parse_uri(f"mongodb://{rest or 'localhost'}")
        except (mongo.PyMongoError, ValueError, TypeError):
            # its words may quote a part of the password
            raise errors.ConfigurationError(
                "not a MongoDB URL: PyMongo cannot read it",
                where=SETTING,
                remedy=f"write {_EXAMPLE}, with special characters as %XX",
            ) from None
    return parts


def _hosts(url: str, parts: ServerUrl, given: dict[str, Any]) -> tuple[str | list[str], str]:
    """Return the URL to connect to, and the place, for messages; ``mongodb_backend_settings`` takes precedence."""
    host, port, several = (given.pop(name, None) for name in _HOSTS)
    if several:
        return several, ",".join([several] if isinstance(several, str) else several)
    if host is None and port is None:
        scheme, _, rest = url.partition("://")
        scheme = "mongodb+srv" if scheme.endswith("+srv") else "mongodb"
        return f"{scheme}://{rest or 'localhost'}", parts.places or "localhost"
    if host is not None and not isinstance(host, str):
        return list(host), ",".join(host)
    if host is not None and "://" in host:
        return host, read_url(host, URL_FORM).places
    place = f"{host or 'localhost'}:{port or 27017}"
    return f"mongodb://{place}", place


class _Permit:
    """The right to use one of the connections of a client."""


class _SharedClient:
    """A client that is closed when nothing refers to it any more."""

    def __init__(self, client: Client, where: str) -> None:
        self.client = client
        self._pid = os.getpid()
        #: ``None`` if there is no limit
        self.permits = _permit_pool(client, where)

    def __del__(self) -> None:
        # in a forked child it would end the sessions of the parent
        if self._pid == os.getpid():
            self.client.close()


def _permit_pool(client: Client, where: str) -> ConnectionPool[_Permit] | None:
    """Return a fair queue before PyMongo's own pool, which prefers threads that ask again and again."""
    limits = client.options.pool_options
    if not limits.max_pool_size or math.isinf(limits.max_pool_size):
        return None
    return ConnectionPool(
        _Permit,
        close=_close_nothing,
        alive=bool,
        usable=bool,
        size=int(limits.max_pool_size),
        timeout=limits.wait_queue_timeout or _NO_LIMIT,
        recycle=-1.0,
        ping=False,
        where=where,
        remedy="raise max_pool_size in mongodb_backend_settings",
    )


def _close_nothing(place: _Permit) -> None:
    """Do nothing: a permit has no connection of its own."""


class Clients:
    """The client of this process: created at the first use, not used after a fork, closed after its last use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared = PerProcess(lambda: _SharedClient(self._open(), settings.where))

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Return the client for the length of a ``with`` block; it is not closed before the end of the block.

        Raises:
            ConfigurationError: PyMongo refuses an option.
        """
        shared = self._shared.get()
        try:
            with shared.permits.connection() if shared.permits else nullcontext():
                yield shared.client
        except (errors.RootcellarError, mongo.PyMongoError) as exc:
            is_refused = isinstance(exc, _REFUSALS) or getattr(exc, "code", None) in _REFUSED_LOGINS
            if is_refused and self._shared.peek() is shared:
                # a client never changes its password and certificates, so the next call needs a new client
                self._shared.take()
            raise
        except BaseException:
            # the interruption may have damaged the state of PyMongo's own pool: other callers get a new client
            if self._shared.peek() is shared:
                self._shared.take()
            raise

    def pools(self) -> list[ConnectionPool[Any]]:
        """Return the queue of this process; empty without a limit, and before the first use."""
        shared = self._shared.peek()
        return [] if shared is None or shared.permits is None else [shared.permits]

    def close(self) -> None:
        """Close the client after its last use. The next call opens another one."""
        self._shared.take()

    def _open(self) -> Client:
        try:
            options = dict(self._settings.client)
            if "password" in options:
                options["password"] = current(options["password"])
            return pymongo.MongoClient(self._settings.hosts, **options)
        except (mongo.PyMongoError, ValueError, TypeError) as exc:
            raise translate(exc, self._settings.where) from None


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Convert the driver's errors to errors of rootcellar."""
    try:
        yield
    except (mongo.PyMongoError, bson.errors.BSONError, OverflowError, UnicodeEncodeError) as exc:
        raise translate(exc, where) from exc


def translate(exc: Exception, where: str) -> errors.RootcellarError:
    """Return the error of rootcellar for ``exc``."""
    text = str(exc).partition(", full error:")[0]
    code = getattr(exc, "code", None)
    kind: type[errors.RootcellarError]
    if isinstance(exc, (bson.errors.BSONError, OverflowError, UnicodeEncodeError, mongo.DocumentTooLarge)):
        kind, remedy = errors.RecordRefused, "store less in one result: a document of MongoDB has at most 16 MB"
        if not isinstance(exc, mongo.DocumentTooLarge):
            remedy = "see which field it is"
    elif isinstance(exc, mongo.ServerSelectionTimeoutError):
        return _unreachable(text, where)
    elif isinstance(exc, mongo.ConnectionFailure) and "authentication failed" in text.lower():
        # raised when the driver connects in the background
        kind, remedy = _BY_CODE[18]
    elif code in _OUTAGES:
        kind, remedy = errors.StoreUnavailable, "wait for the server; if it lasts, see rs.status() and its log"
    elif code in _BY_CODE:
        kind, remedy = _BY_CODE[code]
    elif isinstance(exc, mongo.ConfigurationError) and "wire version" in text:
        kind, remedy = errors.ServerTooOld, "upgrade the server to 4.2 or later"
    elif isinstance(exc, (mongo.ConfigurationError, mongo.InvalidURI, mongo.InvalidName, ValueError, TypeError)):
        kind, remedy = errors.ConfigurationError, "see PyMongo's documentation of the option"
    elif isinstance(exc, (mongo.WTimeoutError, mongo.WriteConcernError)):
        kind, remedy = errors.StoreUnavailable, "see whether a majority of the replica set runs"
    elif isinstance(exc, mongo.WaitQueueTimeoutError):
        kind, remedy = errors.StoreUnavailable, "raise max_pool_size in mongodb_backend_settings"
    elif isinstance(exc, (mongo.ConnectionFailure, mongo.ExecutionTimeout)):
        kind, remedy = errors.StoreUnavailable, "see whether the server runs and can be reached"
    else:
        kind, remedy = errors.StoreError, "see the server's log"
    return kind(text, where=where, remedy=remedy)


def _unreachable(text: str, where: str) -> errors.StoreError:
    # the rest of the text is the whole topology
    reason = text.partition(", Timeout:")[0].partition(" (configured timeouts:")[0]
    # with several servers, some may have an outage, and others a bad certificate
    if "certificate" in reason.lower() and not _OUT_OF_REACH.search(reason):
        is_expired = "has expired" in reason or "not yet valid" in reason
        kind = errors.CertificateExpired if is_expired else errors.CertificateRefused
        return kind(reason, where=where, remedy="check tlsCAFile, the server's certificate and the host's name")
    return errors.StoreUnavailable(reason, where=where, remedy="see whether the server runs and can be reached")
