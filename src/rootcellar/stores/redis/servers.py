"""The servers that a store talks to: one of them here, found by its address or by Sentinels; a Cluster elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence

from rootcellar.errors import StoreError, StoreReadOnly, StoreUnavailable
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import Call, Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.replication import MasterReplaced, Replication
from rootcellar.stores.redis.server_info import look
from rootcellar.stores.replaced import tell_replaced, when_replaced

#: keys that the server looks at for one answer of SCAN
SCAN_COUNT = 1_000
#: commands that are sent together
PIPELINE = 500


class Servers(ABC):
    """Sends commands to whichever server has the key, and raises errors of ours.

    Attributes:
        chord_tags: how many hash tags the chords are spread over; each lies on one server, with what finds its orphans.
        shares_scripts: whether one script may touch a task and its chord.
        news: what is published when a result is stored; empty for the result itself.
        safety_look: seconds between two looks of a waiting process at all that it waits for, although it heard nothing.
        may_be_replaced: whether others may replace a server, and know of it.
    """

    chord_tags: int = 1
    shares_scripts: bool = True
    news: bytes = b""
    safety_look: float = 60.0
    may_be_replaced: bool = False

    def __init__(self) -> None:
        #: called with the address of a server that is seen not to be the master any more; empty if it is not known
        self.on_replaced: Callable[[str], None] = tell_replaced

    @abstractmethod
    def call(self, key: bytes, packed: bytes, *, durable: bool = False) -> Reply:
        """Send a command to the server that has ``key``; with ``durable`` its replicas should have what it did."""

    @abstractmethod
    def run(self, key: bytes, call: Call, *, durable: bool = False) -> Reply:
        """Run a script on the server that has ``key``; with ``durable`` its replicas should have what it did."""

    @abstractmethod
    def call_many(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        """Send commands, each with the key that says where to, together; return their answers in order."""

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of strings, in as few round trips as can be."""

    def by_server(self, keys: Sequence[bytes]) -> list[tuple[Hashable, list[int]]]:
        """Return the servers that have keys, each with the places of its keys in ``keys``."""
        return [(None, list(range(len(keys))))]

    def is_replaced(self, address: str) -> bool:
        """Ask the others whether the server at ``address`` was replaced; takes seconds if they are silent."""
        return False

    @abstractmethod
    def keys(self, pattern: bytes) -> Iterator[list[bytes]]:
        """Yield all keys that match, some at a time, one perhaps twice; none that was there all the while is missed."""

    @abstractmethod
    def listen(self) -> RespConnection:
        """Open a connection on which everything that is published anywhere is heard."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections that are not in use."""


class OneServer(Servers):
    """A server, or the master of several.

    Args:
        connect: opens a connection to it.
        options: the store's, for the pool.
        where: the server, for people.
        replication: how its replicas are waited for.
        host, port: its name and port, where it is always the same.
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
        self._where = where
        self._may_evict = options.holds_copies
        self.host, self.port = host, port
        self._replication = replication
        #: looks at each new connection's server, and raises what speaks against it
        self.on_connect: Callable[[RespConnection, str], None] = _accept_any
        self._pool: ConnectionPool[RespConnection] = ConnectionPool(
            self._open,
            close=RespConnection.close,
            alive=driver.is_alive,
            usable=_is_clean,
            size=int(options.redis.get("max_connections") or options.pool_size),
            timeout=options.pool_timeout,
            recycle=options.pool_recycle,
            ping=options.pool_pre_ping,
            idle_before_ping=idle_before_ping,
            where=where,
            remedy="raise redis_max_connections",
            harmless=(ServerError,),
        )
        #: where the newest connection leads to
        self._leads_to = ""
        self.may_be_replaced = replication.has_others
        when_replaced(self._leave)

    def _leave(self, address: str) -> None:
        """Close the idle connections to a server that was replaced."""
        if address == self._leads_to:
            self._leads_to = ""
            self._pool.drop_idle()

    @property
    def address(self) -> str:
        """How its connections name it."""
        return driver.address_of(self.host, self.port)

    def _open(self) -> RespConnection:
        line = self._connect()
        try:
            look(line, self._where, may_evict=self._may_evict)
            self.on_connect(line, self._where)
        except BaseException:
            line.close()
            raise
        former, self._leads_to = self._leads_to, line.address
        if former not in ("", line.address):
            self._pool.drop_idle()
            self.on_replaced(former)
        return line

    def call(self, key: bytes, packed: bytes, *, durable: bool = False) -> Reply:
        if not durable:
            return self.send(packed)
        return self._change(lambda line: self._replication.run(line, packed))

    def send(self, packed: bytes) -> Reply:
        """Send a command; return the answer."""
        try:
            with self._pool.connection() as line:
                return line.call(packed)
        except driver.FAILURES as exc:
            return self._again(exc, lambda line: line.call(packed))

    def run(self, key: bytes, call: Call, *, durable: bool = False) -> Reply:
        replication = self._replication if durable else None
        return self._change(lambda line: run_on(line, call, replication))

    def _change(self, work: Callable[[RespConnection], Reply]) -> Reply:
        """Do ``work``, which changes something on the server."""
        try:
            try:
                with self._pool.connection() as line:
                    return work(line)
            except driver.FAILURES as exc:
                return self._again(exc, work)
            except StoreUnavailable:
                # what is true of this connection is true of the others
                self._pool.drop_idle()
                raise
        except MasterReplaced as exc:
            self._leave(exc.address)
            self.on_replaced(exc.address)
            raise

    def send_asking(self, packed: bytes) -> Reply:
        """Send a command for a key that is on its way to this node of a Cluster."""
        _, reply = self.send_many([pack(b"ASKING"), packed])
        if type(reply) is ServerError:
            raise self._failed(reply) from reply
        return reply

    def call_many(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(commands), PIPELINE):
            replies += self.send_many([packed for _, packed in commands[start : start + PIPELINE]])
        for reply in replies:
            if type(reply) is ServerError:
                raise self._failed(reply) from reply
        return replies

    def send_many(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together; an answer that is an error is returned as such."""
        try:
            with self._pool.connection() as line:
                return line.call_all(commands)
        except driver.FAILURES as exc:
            return self._again(exc, lambda line: line.call_all(commands))  # type: ignore[no-any-return]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), PIPELINE):
            found += self.send(pack(b"MGET", *keys[start : start + PIPELINE]))
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

    def close(self) -> None:
        self._pool.drop_idle()

    def _again(self, exc: BaseException, work: Callable[[RespConnection], Reply]) -> Reply:
        """Do it once more on a new connection if the old one was lost: the server may have been started anew.

        Doing it twice is harmless. Not where no answer came in time.
        """
        error = self._failed(exc)
        if not isinstance(exc, OSError) or isinstance(exc, TimeoutError):
            raise error from exc
        try:
            with self._pool.connection(fresh=True) as line:
                return work(line)
        except driver.FAILURES as again:
            raise self._failed(again) from again

    def _failed(self, exc: BaseException) -> StoreError:
        error = driver.translate(exc, self._where)
        if isinstance(exc, OSError) or isinstance(error, StoreReadOnly):
            # what happened to this connection happened to the others, or they lead to what was the master
            self._pool.drop_idle()
        if isinstance(error, StoreReadOnly):
            self.on_replaced("")
        return error


def run_on(line: RespConnection, call: Call, replication: Replication | None = None) -> Reply:
    """Run a script by its hash, and by its text where the server does not have it; wait for the replicas."""
    try:
        return _run(line, call.packed, replication)
    except ServerError as exc:
        if not str(exc).startswith("NOSCRIPT"):
            raise
        return _run(line, call.in_full(), replication)


def _run(line: RespConnection, packed: bytes, replication: Replication | None) -> Reply:
    return line.call(packed) if replication is None else replication.run(line, packed)


def _accept_any(line: RespConnection, where: str) -> None:
    """Take a server as it is."""


def _is_clean(line: RespConnection) -> bool:
    return line.is_clean
