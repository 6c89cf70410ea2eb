"""Other forms of Redis for the tests: with TLS, users and a Unix socket; with Sentinels; as a Cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from rootcellar.testing.child_processes import poll
from tests.certificates import Authority
from tests.servers import HOST, PASSWORD, START_SECONDS, RedisServer, ServerError, Setting, free_port, take_port

#: the minimal rights of an ACL user, as in docs/redis.md
COMMANDS = (
    "+evalsha +eval +get +set +mget +getrange +unlink +del +exists +type +pttl +pexpire +scan "
    "+hget +hset +hsetnx +hmget +hgetall +hincrby +zadd +zrem +zrangebyscore +time "
    "+publish +subscribe +unsubscribe +ping +select +info"
)
#: what a migration needs in addition
ALSO_MIGRATION = "+hdel +zrangebylex"
KEYS = "~celery-task-meta-* ~celery-taskset-meta-* ~rootcellar-* resetchannels &celery-task-meta-*"


class SecureRedisServer(RedisServer):
    """A Redis with a TLS port that requires client certificates, a Unix socket and a user of least privilege.

    The plain port is for the tests themselves. A Redis that is built without TLS lacks only the TLS port.

    Attributes:
        authority: the authority that issued all certificates.
        certificate: a client's.
    """

    user = "cellar"
    password = PASSWORD

    def __init__(self, *, hosts: tuple[str, ...] = (HOST,), days: int = 30, **settings: Setting) -> None:
        """Prepare the server with a certificate for ``hosts`` that is valid for ``days``."""
        super().__init__(**settings)
        self.authority = Authority(self.folder)
        self._tls_port = free_port()
        self.socket = self.folder / "redis.sock"
        own = self.authority.server("server", *hosts, days=days)
        self.certificate = self.authority.client(self.user)
        self.configure(unixsocket=str(self.socket))
        if self.has_tls:
            self.configure(
                tls_port=self._tls_port,
                tls_cert_file=str(own.certificate),
                tls_key_file=str(own.key),
                tls_ca_cert_file=str(self.authority.certificate),
            )

    def start(self) -> None:
        super().start()
        with redis.Redis.from_url(self.url) as admin:
            rules = [*COMMANDS.split(), *ALSO_MIGRATION.split(), *KEYS.split()]
            admin.execute_command("ACL", "SETUSER", self.user, "reset", "on", f">{self.password}", *rules)

    @property
    def tls_port(self) -> int:
        """The port for TLS; raises BuiltWithoutTls or MissingServer if this Redis has no TLS."""
        self.require_tls()
        return self._tls_port

    def tls_url(self, number: int = 0, **query: Any) -> str:
        """Return the URL over TLS; ``query`` replaces or (``None``) removes its options for certificates."""
        own = {"ssl_certfile": self.certificate.certificate, "ssl_keyfile": self.certificate.key}
        given = {"ssl_ca_certs": self.authority.certificate, **own, **query}
        given = {key: value for key, value in given.items() if value is not None}
        text = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in given.items())
        return f"rediss://{self.user}:{quote(self.password, safe='')}@{HOST}:{self.tls_port}/{number}?{text}"

    def socket_url(self, number: int = 0) -> str:
        """Return the URL over the Unix socket."""
        return f"redis+socket://{self.user}:{quote(self.password, safe='')}@{self.socket}?db={number}"


class SentinelServer(RedisServer):
    """A Sentinel, which watches the master of a :class:`SentinelSet`."""

    name = "sentinel"

    def __init__(
        self,
        master_port: int,
        name: str,
        quorum: int,
        more: Sequence[str] = (),
        *,
        after: Sequence[str] = (),
        down_after: int = 1000,
    ) -> None:
        super().__init__()
        lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.folder}",
            *more,
            f"sentinel monitor {name} {HOST} {master_port} {quorum}",
            f"sentinel down-after-milliseconds {name} {down_after}",
            f"sentinel failover-timeout {name} 2000",
            *after,
        ]
        # the Sentinel changes this file
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [str(self._program), str(self.folder / "sentinel.conf"), "--sentinel"]


class SentinelSet:
    """A master, a replica and three Sentinels; a context manager."""

    master_name = "pantry"

    def __init__(self, **settings: Setting) -> None:
        quick: dict[str, Setting] = {"repl_diskless_sync_delay": 0, "repl_ping_replica_period": 1, **settings}
        self.servers = [self._new_server(quick) for _ in range(2)]
        self.sentinels = [self._new_sentinel() for _ in range(3)]

    def _new_server(self, settings: dict[str, Setting]) -> RedisServer:
        return RedisServer(**settings)

    def _new_sentinel(self) -> SentinelServer:
        return SentinelServer(self.port_of(self.servers[0]), self.master_name, 2)

    def port_of(self, server: RedisServer) -> int:
        """Return the port that the other servers and the clients use."""
        return server.port

    def __enter__(self) -> SentinelSet:
        self._stack = ExitStack()
        for server in self.servers:
            self._stack.enter_context(server)
        with self.servers[1].client() as replica:
            replica.replicaof(HOST, self.port_of(self.servers[0]))
        self.await_replica()
        for sentinel in self.sentinels:
            self._stack.enter_context(sentinel)
        self._await_agreement()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        """Return the URL of a database of the current master."""
        hosts = ";".join(f"sentinel://{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"{hosts}/{number}?master_name={self.master_name}"

    @property
    def master(self) -> RedisServer:
        """The master according to the first Sentinel."""
        with self.sentinels[0].client() as sentinel:
            _, port = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)
        return next(server for server in self.servers if self.port_of(server) == int(port))

    def await_replica(self) -> None:
        """Wait until the master has a replica that follows it."""
        with self.servers[0].client() as master:
            _until(lambda: master.info("replication").get("slave0", {}).get("state") == "online", "a replica")

    def _await_agreement(self) -> None:
        def is_agreed(sentinel: RedisServer) -> bool:
            with sentinel.client() as client:
                about = client.execute_command("SENTINEL", "MASTER", self.master_name)
            known = about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=True))
            known = {_text(key): _text(value) for key, value in known.items()}
            return (known["num-other-sentinels"], known["num-slaves"]) == ("2", "1")

        _until(lambda: all(is_agreed(sentinel) for sentinel in self.sentinels), "Sentinels that know each other")


class TlsSentinelSet(SentinelSet):
    """The same, with TLS and client certificates everywhere; the plain ports are for the tests.

    Attributes:
        authority: the authority that issued all certificates.
        certificate: a client's.
    """

    def __init__(self, **settings: Setting) -> None:
        self._tls_ports: dict[RedisServer, int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="rootcellar-tls-")
        self.authority = Authority(Path(self._folder.name))
        Path(self._folder.name).chmod(0o755)
        self._own = self.authority.server("server", HOST)
        for path in Path(self._folder.name).iterdir():
            path.chmod(0o644)
        self.certificate = self.authority.client("anybody")
        super().__init__(**settings)

    def _new_server(self, settings: dict[str, Setting]) -> RedisServer:
        port = free_port()
        server = RedisServer(**settings, tls_port=port, tls_replication=True, **self._files())
        self._tls_ports[server] = port
        return server

    def _new_sentinel(self) -> SentinelServer:
        port = free_port()
        lines = [f"{name.replace('_', '-')} {value}" for name, value in self._files().items()]
        lines += [f"tls-port {port}", "tls-replication yes"]
        sentinel = SentinelServer(self.port_of(self.servers[0]), self.master_name, 2, lines)
        self._tls_ports[sentinel] = port
        return sentinel

    def _files(self) -> dict[str, Setting]:
        own, ca = self._own, self.authority.certificate
        return {"tls_cert_file": str(own.certificate), "tls_key_file": str(own.key), "tls_ca_cert_file": str(ca)}

    def port_of(self, server: RedisServer) -> int:
        return self._tls_ports[server]

    def database_url(self, number: int) -> str:
        hosts = ";".join(f"sentinel://{HOST}:{self.port_of(sentinel)}" for sentinel in self.sentinels)
        return f"{hosts}/{number}?master_name={self.master_name}"

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self._folder.cleanup()


class GuardedRedisServer(RedisServer):
    """A Redis that requires a password: clients use :data:`PASSWORD`, other users have their own.

    Args:
        users: the others, each with its password.
    """

    def __init__(self, users: dict[str, str], **settings: Setting) -> None:
        super().__init__(**settings, requirepass=PASSWORD)
        self._users = users

    def start(self) -> None:
        super().start()
        with self.client() as admin:
            for user, password in self._users.items():
                admin.execute_command("ACL", "SETUSER", user, "on", f">{password}", "allkeys", "allchannels", "+@all")

    @property
    def url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@{HOST}:{self.port}/0"


class SeveredSentinelSet(SentinelSet):
    """The same, but Sentinels and replicas have their own users, so that a test can cut a master off from them.

    Args:
        down_after: milliseconds after which a Sentinel considers a silent master dead.
    """

    #: the users, and their common password
    watcher, follower, secret = "watcher", "follower", "among-servers"

    def __init__(self, down_after: int = 1000, **settings: Setting) -> None:
        self._down_after = down_after
        super().__init__(**settings, masteruser=self.follower, masterauth=self.secret)

    def _new_server(self, settings: dict[str, Setting]) -> RedisServer:
        return GuardedRedisServer(dict.fromkeys((self.watcher, self.follower), self.secret), **settings)

    def _new_sentinel(self) -> SentinelServer:
        name = self.master_name
        lines = [f"sentinel auth-user {name} {self.watcher}", f"sentinel auth-pass {name} {self.secret}"]
        return SentinelServer(self.port_of(self.servers[0]), name, 2, after=lines, down_after=self._down_after)

    def database_url(self, number: int) -> str:
        return super().database_url(number).replace("sentinel://", f"sentinel://:{quote(PASSWORD, safe='')}@", 1)

    def cut_off(self, server: RedisServer) -> None:
        """Cut a server off from Sentinels and replicas; clients still reach it."""
        with server.client() as admin:
            for user in (self.watcher, self.follower):
                admin.execute_command("ACL", "SETUSER", user, "off")
                admin.execute_command("CLIENT", "KILL", "USER", user)

    def reconnect(self, server: RedisServer) -> None:
        """Let them reach it again."""
        with server.client() as admin:
            for user in (self.watcher, self.follower):
                admin.execute_command("ACL", "SETUSER", user, "on")

    def is_master_for_most(self, server: RedisServer) -> bool:
        """Return whether most Sentinels report a server as the master."""
        votes = 0
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)
            votes += int(port) == server.port
        return votes > len(self.sentinels) / 2


class ClusterNode(RedisServer):
    """A node of a :class:`RedisCluster`."""

    name = "redis-node"

    def __init__(self, **settings: Setting) -> None:
        super().__init__(**settings)
        self.bus_port = self._choose_bus_port()
        self.configure(
            databases=1,
            cluster_enabled=True,
            cluster_node_timeout=1000,
            repl_diskless_sync_delay=0,
            repl_ping_replica_period=1,
        )

    def _choose_bus_port(self) -> int:
        """Return the port of the cluster bus; Redis before 7.0 uses its own port plus 10,000."""
        if self.version >= (7, 0):
            port = free_port()
            self.configure(cluster_port=port)
            return port
        for _ in range(1000):
            # below Linux's range for outgoing connections, like free_port()
            if self.port + 10_000 < 32_768 and take_port(self.port + 10_000):
                return self.port + 10_000
            self.port = free_port()
        raise ServerError("no free TCP port found whose 10,000th above is free too")


class RedisCluster:
    """Three masters, each with a replica; a context manager."""

    def __init__(self, **settings: Setting) -> None:
        self.nodes = [ClusterNode(**settings) for _ in range(6)]

    def __enter__(self) -> RedisCluster:
        self._stack = ExitStack()
        for node in self.nodes:
            self._stack.enter_context(node)
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                if number < 3:
                    client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1]))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                first = self.nodes[0]
                client.execute_command("CLUSTER", "MEET", HOST, first.port, first.bus_port)
        ids = [self._id(node) for node in self.nodes]
        _until(lambda: all(self._knows(node, 6) for node in self.nodes), "nodes that know each other")
        for number, node in enumerate(self.nodes[3:]):
            with node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", ids[number])
        self.await_healthy()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return "redis-cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes[:3])

    def await_healthy(self) -> None:
        """Wait until every slot is served, and every master has a replica that follows it."""

        def is_healthy(node: RedisServer) -> bool:
            with node.client() as client:
                info, replication = client.execute_command("CLUSTER", "INFO"), client.info("replication")
            if "cluster_state:ok" not in _text(info):
                return False
            if replication["role"] == "master":
                return bool(replication.get("slave0", {}).get("state") == "online")
            return bool(replication["master_link_status"] == "up")

        _until(lambda: all(is_healthy(node) for node in self.nodes), "a healthy cluster")

    @property
    def masters(self) -> list[RedisServer]:
        """The current masters."""

        def is_master(node: RedisServer) -> bool:
            with node.client() as client:
                return bool(client.info("replication")["role"] == "master")

        return [node for node in self.nodes if is_master(node)]

    def flush(self) -> None:
        """Remove all keys."""
        for node in self.masters:
            with node.client() as client:
                client.flushall()

    def _id(self, node: RedisServer) -> str:
        with node.client() as client:
            return _text(client.execute_command("CLUSTER", "MYID"))

    def _knows(self, node: RedisServer, count: int) -> bool:
        with node.client() as client:
            return len(client.execute_command("CLUSTER", "SLOTS")) == 3 and len(client.cluster("nodes")) == count


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _until(condition: Callable[[], Any], what: str, timeout: float = START_SECONDS) -> None:
    def is_true() -> bool:
        with contextlib.suppress(redis.RedisError, KeyError):
            return bool(condition())
        return False

    if not poll(is_true, timeout):
        raise ServerError(f"not within {timeout:g} s: {what}")
