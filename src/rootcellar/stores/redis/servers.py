"""Sends commands: to one server, or the master of several, in this module; to a Cluster in ``cluster.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter

from rootcellar.errors import StoreError, StoreReadOnly, StoreUnavailable
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import Call, Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.options import pool_size
from rootcellar.stores.redis.replication import MasterReplaced, Replication
from rootcellar.stores.redis.server_info import check_server_once
from rootcellar.stores.replaced import report_replaced, when_replaced

#: about how many keys the server reads for one reply to SCAN
SCAN_COUNT = 1_000
#: the most commands that are sent together
MAX_PIPELINE = 500


class Servers(ABC):
    """Sends each command to the server that has its key, and raises errors of rootcellar.

    Attributes:
        chord_tags: the number of hash tags for chords; one server has all chords of a tag, and finds the orphans.
        shares_scripts: whether one script may use the keys of a task and of its chord.
        message: what is published when a result is stored; empty for the result itself.
        safety_read_seconds: seconds after which a waiting process reads all of its tasks, even without a message.
        may_be_replaced: whether there can be a failover, and other servers can be asked about it.
    """

    chord_tags: int = 1
    shares_scripts: bool = True
    message: bytes = b""
    safety_read_seconds: float = 60.0
    may_be_replaced: bool = False

    def __init__(self) -> None:
        #: called with the address of a server that is not the master any more; empty if the address is not known
        self.on_replaced: Callable[[str], None] = report_replaced

    @abstractmethod
    def call(self, key: bytes, packed: bytes, *, durable: bool = False) -> Reply:
        """Send a command to the server that has ``key``; with ``durable``, wait until its replicas have the change."""

    @abstractmethod
    def run(self, key: bytes, call: Call, *, durable: bool = False) -> Reply:
        """Run a script on the server that has ``key``; with ``durable``, wait until its replicas have the change."""

    @abstractmethod
    def call_many(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        """Send commands together, each to the server that has its key; return the replies in order."""

    @abstractmethod
    def run_many(self, calls: Sequence[tuple[bytes, Call]], *, durable: bool = False) -> list[Reply]:
        """Run scripts together, each on the server that has its key; return the replies in order.

        With ``durable``, wait until the replicas have all changes.
        """

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of strings, in as few round trips as possible; ``None`` for other kinds of values."""

    def by_server(self, keys: Sequence[bytes]) -> list[tuple[Hashable, list[int]]]:
        """Return the servers that have the keys, each with the indexes of its keys in ``keys``."""
        return [(None, list(range(len(keys))))]

    def is_replaced(self, address: str) -> bool:
        """Ask the other servers whether the one at ``address`` was replaced; takes seconds if they do not answer."""
        return False

    @abstractmethod
    def keys(self, pattern: bytes) -> Iterator[list[bytes]]:
        """Yield all keys that match, some at a time. Keys that exist all the time are never missed; some come twice."""

    @abstractmethod
    def listen(self) -> RespConnection:
        """Open a connection for subscriptions. Messages that are published on any of the servers arrive on it."""

    @abstractmethod
    def pools(self) -> list[ConnectionPool[RespConnection]]:
        """Return the pool of each server."""

    @abstractmethod
    def servers(self) -> list[OneServer]:
        """Return each server that keeps keys, as far as it is known."""

    def layout(self, *, now: bool = False) -> str:
        """Return a text that changes when keys move to other servers; with ``now``, after asking the servers."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Close all connections that are not in use."""


class OneServer(Servers):
    """One server, or the master of several.

    Args:
        connect: opens a connection.
        options: the options of the store, for the pool.
        where: the server, for messages.
        replication: waits for the replicas.
        host, port: the server's name and port, if it is always the same one.
        idle_before_ping: see :class:`~rootcellar.stores.pool.ConnectionPool`.
    """

    def __init__(
        self,
        connect: Callable[[], RespConnection],
        options: StoreOptions,
        where: str,
        *,
        replication: Replication,
        host: str = "",
        port: int = 0,
        idle_before_ping: float | None = None,
    ) -> None:
        super().__init__()
        self._connect = connect
        self.where = self._where = where
        self._may_evict = options.holds_copies
        self.host, self.port = host, port
        self._replication = replication
        #: checks the server of each new connection, and raises if it cannot be used
        self.on_connect: Callable[[RespConnection, str], None] = _accept_any
        self._pool: ConnectionPool[RespConnection] = ConnectionPool(
            self._open,
            close=RespConnection.close,
            alive=driver.is_alive,
            usable=attrgetter("is_clean"),
            size=pool_size(options),
            timeout=options.pool_timeout,
            recycle=options.pool_recycle,
            ping=options.pool_pre_ping,
            idle_before_ping=idle_before_ping,
            where=where,
            remedy="raise redis_max_connections",
            harmless=(ServerError,),
        )
        #: the address of the newest connection
        self._leads_to = ""
        self.may_be_replaced = replication.has_others
        when_replaced(self._drop_replaced)

    def _drop_replaced(self, address: str) -> None:
        """Close the idle connections to a server that was replaced."""
        if address == self._leads_to:
            self._leads_to = ""
            self._pool.drop_idle()

    @property
    def address(self) -> str:
        """The server's address, as in :attr:`RespConnection.address`."""
        return driver.address_of(self.host, self.port)

    def _open(self) -> RespConnection:
        connection = self._connect()
        try:
            check_server_once(connection, self._where, may_evict=self._may_evict)
            self.on_connect(connection, self._where)
        except BaseException:
            connection.close()
            raise
        former, self._leads_to = self._leads_to, connection.address
        if former not in ("", connection.address):
            self._pool.drop_idle()
            self.on_replaced(former)
        return connection

    def call(self, key: bytes, packed: bytes, *, durable: bool = False) -> Reply:
        if not durable:
            return self.send(packed)
        return self._change(lambda connection: self._replication.run(connection, packed))

    def send(self, packed: bytes) -> Reply:
        """Send a command; return the reply."""
        try:
            with self._pool.connection() as connection:
                return connection.call(packed)
        except driver.FAILURES as exc:
            return self._retry(exc, lambda connection: connection.call(packed))

    def run(self, key: bytes, call: Call, *, durable: bool = False) -> Reply:
        replication = self._replication if durable else None
        return self._change(lambda connection: run_on(connection, call, replication))

    def _change(self, work: Callable[[RespConnection], Reply]) -> Reply:
        """Call ``work``, which changes something on the server."""
        try:
            try:
                with self._pool.connection() as connection:
                    return work(connection)
            except driver.FAILURES as exc:
                return self._retry(exc, work)
            except StoreUnavailable:
                # the other connections lead to the same server
                self._pool.drop_idle()
                raise
        except MasterReplaced as exc:
            self._drop_replaced(exc.address)
            self.on_replaced(exc.address)
            raise

    def send_asking(self, packed: bytes) -> Reply:
        """Send a command for a key that is being moved to this node of a Cluster."""
        _, reply = self.send_many([pack(b"ASKING"), packed])
        if type(reply) is ServerError:
            raise self._failed(reply) from reply
        return reply

    def call_many(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(commands), MAX_PIPELINE):
            replies += self.send_many([packed for _, packed in commands[start : start + MAX_PIPELINE]])
        for reply in replies:
            if type(reply) is ServerError:
                raise self._failed(reply) from reply
        return replies

    def send_many(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together; an error among the replies is returned, not raised."""
        try:
            with self._pool.connection() as connection:
                return connection.call_all(commands)
        except driver.FAILURES as exc:
            return self._retry(exc, lambda connection: connection.call_all(commands))  # type: ignore[no-any-return]

    def run_many(self, calls: Sequence[tuple[bytes, Call]], *, durable: bool = False) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(calls), MAX_PIPELINE):
            replies += self.run_scripts([call for _, call in calls[start : start + MAX_PIPELINE]], durable=durable)
        for reply in replies:
            if type(reply) is ServerError:
                raise self._failed(reply) from reply
        return replies

    def run_scripts(self, calls: Sequence[Call], *, durable: bool = False) -> list[Reply]:
        """Run scripts together; an error among the replies is returned, not raised."""
        replies = self._change_many([call.packed for call in calls], durable)
        unknown = [place for place, reply in enumerate(replies) if is_unknown_script(reply)]
        if unknown:
            # after the first call, which has the text, the server knows the script
            first, *others = unknown
            again = [calls[first].in_full(), *(calls[place].packed for place in others)]
            for place, reply in zip(unknown, self._change_many(again, durable), strict=True):
                replies[place] = reply
        return replies

    def _change_many(self, commands: Sequence[bytes], durable: bool) -> list[Reply]:
        if not durable:
            return self.send_many(commands)
        replies: list[Reply] = self._change(lambda connection: self._replication.run_all(connection, commands))
        return replies

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), MAX_PIPELINE):
            found += self.send(pack(b"MGET", *keys[start : start + MAX_PIPELINE]))
        return found

    def keys(self, pattern: bytes) -> Iterator[list[bytes]]:
        cursor = b"0"
        while True:
            cursor, found = self.send(pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_COUNT))
            yield found
            if cursor == b"0":
                return

    def listen(self) -> RespConnection:
        return self._connect()

    def is_replaced(self, address: str) -> bool:
        return self._replication.is_replaced(address)

    def pools(self) -> list[ConnectionPool[RespConnection]]:
        return [self._pool]

    def servers(self) -> list[OneServer]:
        return [self]

    def close(self) -> None:
        self._pool.drop_idle()

    def _retry(self, exc: BaseException, work: Callable[[RespConnection], Reply]) -> Reply:
        """Call ``work`` once more, on a new connection, if the old one was lost: the server may have been restarted.

        So every command may run twice. After a timeout there is no second try.
        """
        error = self._failed(exc)
        if not isinstance(exc, OSError) or isinstance(exc, TimeoutError):
            raise error from exc
        try:
            with self._pool.connection(fresh=True) as connection:
                return work(connection)
        except driver.FAILURES as again:
            raise self._failed(again) from again

    def _failed(self, exc: BaseException) -> StoreError:
        error = driver.translate(exc, self._where)
        if isinstance(exc, OSError) or isinstance(error, StoreReadOnly):
            # the other connections are probably lost too, or lead to a server that is not the master any more
            self._pool.drop_idle()
        if isinstance(error, StoreReadOnly):
            self.on_replaced("")
        return error


def run_on(connection: RespConnection, call: Call, replication: Replication | None = None) -> Reply:
    """Run a script by its hash, or by its text if the server does not have it; then wait for the replicas."""
    try:
        return _run(connection, call.packed, replication)
    except ServerError as exc:
        if not is_unknown_script(exc):
            raise
        return _run(connection, call.in_full(), replication)


def is_unknown_script(reply: Reply) -> bool:
    """Return whether a reply says that the server does not know the script."""
    return type(reply) is ServerError and str(reply).startswith("NOSCRIPT")


def _run(connection: RespConnection, packed: bytes, replication: Replication | None) -> Reply:
    return connection.call(packed) if replication is None else replication.run(connection, packed)


def _accept_any(connection: RespConnection, where: str) -> None:
    """Accept every server."""
