"""Checks Redis: one server, the master that the Sentinels name, or a Cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from uuid import uuid4

from rootcellar import errors
from rootcellar.checks import redis_server
from rootcellar.checks.findings import Finding, Level
from rootcellar.checks.measures import judge_clock, judge_connections
from rootcellar.checks.network import Host, ServerChecks
from rootcellar.checks.redis_server import Info, judge_eviction, judge_memory, judge_persistence
from rootcellar.checks.steps import Step, failed, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import PREFIX, Trial
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.address import Address, read_address
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.stores.redis.keys import SLOTS, Keys
from rootcellar.stores.redis.options import pool_size
from rootcellar.stores.redis.sentinel import Sentinels

#: a check waits no longer for an answer, even if the workers' timeout is longer
MAX_ANSWER_SECONDS = 3.0


class RedisChecks(ServerChecks):
    """Checks Redis as one server, with Sentinel or as a Cluster.

    Args:
        target: the settings.
        is_cache: whether it holds only copies, which may be evicted or lost.
    """

    def __init__(self, target: Target, *, is_cache: bool = False) -> None:
        self._target = target
        self._options = target.options
        address = read_address(target.url, self._options)
        answer_timeout = min(address.answer_timeout, MAX_ANSWER_SECONDS)
        self._address: Address = replace(address, connect={**address.connect, "socket_timeout": answer_timeout})
        self._is_cache = is_cache
        self._trial = Trial(target.backend, is_deleted_by_server=True)
        self._connection: RespConnection | None = None
        self._info: Info = {}
        #: connections to every master of a Cluster
        self._masters: list[RespConnection] = []

    @property
    def where(self) -> str:
        return self._address.where

    def steps(self) -> Sequence[Step]:
        form = self._address.form
        connection_steps = self.connection_steps()
        if form == "sentinel":
            # after the ports of the Sentinels, before the connection to the master
            connection_steps.insert(2, Step("sentinels", self._sentinels, stops_on_failure=True))
        return [
            *connection_steps,
            Step("server", self._server, stops_on_failure=True),
            *([Step("cluster", self._cluster, stops_on_failure=True)] if form == "cluster" else []),
            Step("clock", self._clock),
            Step("eviction", self._eviction),
            Step("memory", self._memory),
            Step("persistence", self._persistence),
            *([] if self._is_cache or form == "single" else [Step("replicas", self._replicas)]),
            Step("connections", self._connections),
            Step("rights", self._rights, stops_on_failure=True),
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        for connection in (self._connection, *self._masters):
            if connection is not None:
                connection.close()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return driver.translate(exc, self.where) if isinstance(exc, driver.FAILURES) else None

    # -- the connection

    @property
    def hosts(self) -> Sequence[Host]:
        return self._address.hosts

    @property
    def socket_path(self) -> str:
        return self._address.path

    @property
    def service(self) -> str:
        return "Redis"

    @property
    def wants_tls(self) -> bool:
        return self._address.tls is not None

    @property
    def is_verified(self) -> bool:
        required = (self._address.tls or {}).get("ssl_cert_reqs", "required")
        return str(getattr(required, "name", required)).lower().removeprefix("cert_") in ("required", "2")

    @property
    def tls_host(self) -> Host:
        return self._master() if self._address.form == "sentinel" else self.hosts[0]

    def client_certificate(self) -> tuple[str, str] | None:
        tls = self._address.tls or {}
        ours = tls.get("ssl_certfile"), tls.get("ssl_keyfile")
        return (str(ours[0]), str(ours[1])) if all(ours) else None

    def log_in(self) -> str:
        self._connection = self._connect()
        # a server that needs a password accepts a connection without it, and then refuses every command
        try:
            self._connection.call(pack(b"PING"))
        except ServerError as exc:
            # a server that cannot save refuses even PING; the step "persistence" reports it
            if not str(exc).startswith("MISCONF"):
                raise driver.translate(exc, self.where) from exc
        return str(self._address.connect["username"] or "") or (
            "the default user" if self._address.connect["password"] else ""
        )

    def _connect(self) -> RespConnection:
        try:
            if self._address.form == "sentinel":
                return Sentinels(self._address).connect()
            refusal: errors.StoreError | None = None
            for host, port in self.hosts or [("", 0)]:
                try:
                    return driver.connect(self._address, host, port)
                except errors.StoreUnavailable as exc:
                    refusal = exc
            raise refusal or errors.StoreUnavailable("no node answers", where=self.where)
        except driver.FAILURES as exc:
            raise driver.translate(exc, self.where) from exc

    def _sentinels(self) -> Iterator[Finding]:
        known, silent, quorum = [], [], ""
        for host, port in self._address.hosts:
            try:
                with closing(Sentinels(self._address).open(host, port)) as connection:
                    found = connection.call(pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._address.master))
                    if found:
                        known.append(f"{found[0].decode()}:{found[1].decode()}")
                        connection.call(pack(b"SENTINEL", b"CKQUORUM", self._address.master))
            except ServerError as exc:
                if "NOQUORUM" in str(exc):
                    quorum = str(exc)
                else:
                    silent.append((f"{host}:{port}", driver.translate(exc, self.where)))
            except errors.StoreError as exc:
                silent.append((f"{host}:{port}", exc))
        if len(silent) == len(self._address.hosts):
            yield problem("sentinel-unreachable", "; ".join(f"{place}: {exc.what}" for place, exc in silent))
            return
        if not known:
            yield problem("sentinel-unknown-master", f"no Sentinel knows a master called {self._address.master}")
            return
        if silent:
            yield problem("sentinel-some-unreachable", "; ".join(f"{place}: {exc.what}" for place, exc in silent))
        if quorum:
            yield problem("sentinel-quorum", quorum.removeprefix("NOQUORUM "))
        if not silent and not quorum:
            yield passed(f"{len(known)} know {self._address.master} at {', '.join(dict.fromkeys(known))}")

    def _master(self) -> Host:
        assert self._connection is not None
        host, _, port = self._connection.address.rpartition(":")
        return host, int(port)

    # -- steps

    def _server(self) -> Iterator[Finding]:
        self._info = redis_server.read_info(self._link)
        version = self._info.get("redis_version", "")
        if version and int(version.partition(".")[0]) < redis_server.OLDEST_SERVER:
            yield problem("server-too-old", f"Redis {version}")
            return
        is_node = self._info.get("cluster_enabled") == "1"
        if is_node and self._address.form != "cluster":
            yield problem("cluster-is-one", "cluster_enabled is 1")
        elif not is_node and self._address.form == "cluster" and self._info:
            yield problem("cluster-is-none", "cluster_enabled is 0")
        elif self._info.get("role") == "slave" and self._address.form == "single":
            yield problem(
                "store-read-only", "it is a replica", "set REDIS_HOST (or the URL) to the master, or use Sentinel"
            )
        elif self._info.get("loading") == "1":
            yield problem("store-unavailable", "it is reading its data from disk", "wait until it has finished")
        else:
            yield passed(f"Redis {version}" if version else "the user may not call INFO")

    def _cluster(self) -> Iterator[Finding]:
        about = redis_server.parse(self._link.call(pack(b"CLUSTER", b"INFO")))
        ranges = self._link.call(pack(b"CLUSTER", b"SLOTS"))
        served = sum(end + 1 - start for start, end, *_ in ranges)
        if about.get("cluster_state") != "ok" or served < SLOTS or int(about.get("cluster_slots_fail", 0)):
            state = about.get("cluster_state")
            yield problem("cluster-slots", f"the state is {state}, {served} of {SLOTS} slots have a master")
            return
        for host, port in {(master[0].decode(), int(master[1])) for _, _, master, *_ in ranges}:
            self._masters.append(driver.connect(self._address, host or self.hosts[0][0], port))
        yield passed(f"{len(self._masters)} masters serve all {SLOTS} slots")

    def _clock(self) -> Iterator[Finding]:
        def ask() -> datetime:
            seconds, micros = self._link.call(pack(b"TIME"))
            return datetime.fromtimestamp(int(seconds) + int(micros) / 1e6, timezone.utc)

        yield judge_clock(ask)

    def _eviction(self) -> Iterator[Finding]:
        if self._is_cache:
            yield passed(f"{self._info.get('maxmemory_policy', 'unknown')}: copies may be evicted")
        else:
            yield self._on_all(lambda connection, info: judge_eviction(info, "redis-eviction", "redis-eviction-later"))

    def _memory(self) -> Iterator[Finding]:
        yield self._on_all(
            lambda connection, info: judge_memory(info, "redis-memory", "redis-memory-full", may_evict=self._is_cache)
        )

    def _persistence(self) -> Iterator[Finding]:
        yield passed("a cache needs none") if self._is_cache else self._on_all(judge_persistence)

    def _replicas(self) -> Iterator[Finding]:
        code = "cluster-no-replica" if self._address.form == "cluster" else "redis-no-replica"

        def judge(connection: RespConnection, info: Info) -> Finding:
            count = int(info.get("connected_slaves", 0))
            return passed(f"{count} connected to each master") if count else problem(code, "no replica is connected")

        yield self._on_all(judge)

    def _on_all(self, judge: Callable[[RespConnection, Info], Finding]) -> Finding:
        """Judge every master. Return the first finding that is a problem, else the finding of the last master."""
        finding = judge(self._link, self._info)
        for connection in self._masters:
            finding = judge(connection, redis_server.read_info(connection))
            if finding.level is not Level.OK:
                return replace(finding, seen=f"{connection.address}: {finding.seen}")
        return finding

    def _connections(self) -> Iterator[Finding]:
        room = int(self._info.get("maxclients", 0)) - int(self._info.get("connected_clients", 1)) + 1
        if "maxclients" not in self._info:
            yield passed("the server does not report it")
            return
        pool = pool_size(self._options)
        yield judge_connections("redis", room, self._target.processes, pool, is_pool_size_set=False)

    def _rights(self) -> Iterator[Finding]:
        """Call every command that stores use on test keys, and report all missing rights together."""
        keys = Keys(self._address.prefix, 1)
        name = f"{PREFIX}{uuid4().hex[:12]}"
        key, chord, waiting = keys.task(name), keys.chord(name), keys.waiting(name) + name.encode()
        missing: dict[str, str] = {}
        commands = redis_server.commands(key, chord, waiting)
        if self._address.form == "cluster":
            # a key belongs to one node of a Cluster; here only the right matters, not the answer
            commands = [one for one in commands if one[0] not in redis_server.SUBSCRIBING]
        for command in commands:
            try:
                self._link.call(pack(*command))
            except ServerError as exc:
                if isinstance(driver.translate(exc, ""), errors.PermissionDenied) or "unknown command" in str(exc):
                    missing[command[0].decode()] = str(exc)
                elif not str(exc).startswith(("MOVED ", "ASK ", "ERR")):
                    yield failed(driver.translate(exc, self.where))
                    return
        with suppress(ServerError):
            self._link.call(pack(b"DEL", key, chord, waiting))
        if missing:
            # the server's message about a command is "to run the … command"
            what = "keys or channels" if all(" to access " in text for text in missing.values()) else ""
            yield problem(
                "permission-denied", f"the user may not: {', '.join(missing)}{f' on our {what}' if what else ''}"
            )
        else:
            yield passed(f"all {len(commands)} commands that a worker needs")

    @property
    def _link(self) -> RespConnection:
        assert self._connection is not None, "only after the login"
        return self._connection


#: what :mod:`rootcellar.checks.choosing` calls
checks = RedisChecks
