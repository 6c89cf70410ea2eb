"""Sends commands to the nodes of a Redis Cluster, and follows the changes of its slots."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from zlib import crc32

from rootcellar import errors
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.redis import driver, mastership
from rootcellar.stores.redis.address import Address
from rootcellar.stores.redis.connection import Call, Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.driver import Redirected
from rootcellar.stores.redis.keys import SLOTS, slot_of
from rootcellar.stores.redis.mastership import Ask, Mastership, Opinion
from rootcellar.stores.redis.replication import Replication
from rootcellar.stores.redis.servers import OneServer, Servers
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: how many redirections a command follows before it gives up
_MAX_REDIRECTIONS = 8
#: seconds between two refreshes of the slots, if a node cannot be reached
_REFRESH_SECONDS = 0.1
#: how many other masters are asked whether one is still a master
_MAX_ASKED = 5
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")

Host = tuple[str, int]


class Cluster(Servers):
    """Sends each command to the node that has its key, and refreshes the slots when that changes.

    Args:
        address: some nodes, and how to connect.
        options: the options of the store.
    """

    #: a chord and the set that finds it as an orphan share a slot; this is the number of slots for all chords
    chord_tags = 32
    #: a task and its chord are in different slots
    shares_scripts = False
    #: a message goes to every node, so it does not contain the result
    message = b"1"
    #: a message between nodes may be lost if one of them fails
    safety_read_seconds = 5.0
    may_be_replaced = True

    def __init__(self, address: Address, options: StoreOptions) -> None:
        super().__init__()
        self._address = address
        self._options = options
        self._nodes: dict[Host, OneServer] = {}
        #: the master of each slot; empty before the first use
        self._masters: list[OneServer | None] = []
        #: masters, and the text that describes them
        self._described: tuple[list[OneServer | None] | None, str] = (None, "")
        self._last_refresh = float("-inf")
        self._mastership = Mastership(self._others)

    def call(self, key: bytes, packed: bytes, *, durable: bool = False) -> Reply:
        return self._at(key, lambda node: node.call(key, packed, durable=durable), packed)

    def run(self, key: bytes, call: Call, *, durable: bool = False) -> Reply:
        return self._at(key, lambda node: node.run(key, call, durable=durable), call.in_full())

    def call_many(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for node, places in self._by_node([key for key, _ in commands]):
            answers: Sequence[Reply]
            try:
                answers = node.send_many([commands[place][1] for place in places])
            except errors.StoreUnavailable:
                answers = [None] * len(places)
                self._refresh(last=node)
            for place, answer in zip(places, answers, strict=True):
                # a command that was redirected, or whose node did not answer, is sent alone
                alone = answer is None or isinstance(answer, ServerError)
                replies[place] = self.call(*commands[place]) if alone else answer
        return [replies[place] for place in range(len(commands))]

    def run_many(self, calls: Sequence[tuple[bytes, Call]], *, durable: bool = False) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for node, places in self._by_node([key for key, _ in calls]):
            answers: Sequence[Reply]
            try:
                answers = node.run_scripts([calls[place][1] for place in places], durable=durable)
            except errors.StoreUnavailable:
                answers = [None] * len(places)
                self._refresh(last=node)
            for place, answer in zip(places, answers, strict=True):
                # as in call_many; a script that may have run already must have the same effect again
                alone = answer is None or isinstance(answer, ServerError)
                replies[place] = self.run(*calls[place], durable=durable) if alone else answer
        return [replies[place] for place in range(len(calls))]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[int, bytes | None] = {}
        for node, places in self._by_node(keys):
            try:
                answers = node.send_many([pack(b"GET", keys[place]) for place in places])
            except errors.StoreUnavailable:
                self._refresh(last=node)
                answers = [ServerError("")] * len(places)
            for place, answer in zip(places, answers, strict=True):
                if isinstance(answer, ServerError):
                    # as MGET answers for another kind of value
                    is_other_kind = str(answer).startswith("WRONGTYPE")
                    answer = None if is_other_kind else self.call(keys[place], pack(b"GET", keys[place]))
                found[place] = answer
        return [found[place] for place in range(len(keys))]

    def by_server(self, keys: Sequence[bytes]) -> list[tuple[Hashable, list[int]]]:
        masters: Sequence[OneServer | None] = [None] * SLOTS
        with contextlib.suppress(errors.StoreUnavailable):
            masters = self._known_masters()
        places: defaultdict[OneServer | None, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            places[masters[slot_of(key)]].append(place)
        return list(places.items())

    def is_replaced(self, address: str) -> bool:
        return self._mastership.of(address, time.monotonic()) is False

    def keys(self, pattern: bytes) -> Iterator[list[bytes]]:
        # the keys of a slot that moves to a node which was already read would be missed, so the masters are read again
        asked: list[OneServer | None] = []
        while asked != (masters := self._known_masters()):
            if None in masters:
                self._masters = []
                raise self._unavailable("some slots have no node, so not all keys can be read")
            asked = masters
            for node in dict.fromkeys(node for node in asked if node is not None):
                yield from node.keys(pattern)
            self._refresh()

    def listen(self) -> RespConnection:
        nodes = list(dict.fromkeys(node for node in self._known_masters() if node is not None))
        random.shuffle(nodes)
        failure: errors.StoreError | None = None
        for node in nodes:
            try:
                return node.listen()
            except errors.StoreUnavailable as exc:
                failure = exc
                with contextlib.suppress(errors.StoreUnavailable):
                    self._refresh(last=node)
        raise failure or self._unavailable("no node has any slot")

    def pools(self) -> list[ConnectionPool[RespConnection]]:
        return [pool for node in list(self._nodes.values()) for pool in node.pools()]

    def servers(self) -> list[OneServer]:
        return [node for node in dict.fromkeys(self._known_masters()) if node is not None]

    def layout(self, *, now: bool = False) -> str:
        masters = self._refresh() if now else self._known_masters()
        described, text = self._described
        if described is not masters:
            places = "\n".join("" if node is None else node.address for node in masters)
            text = f"{crc32(places.encode()):08x}"
            self._described = masters, text
        return text

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    # -- which node

    def _at(self, key: bytes, work: Callable[[OneServer], Reply], packed: bytes) -> Reply:
        """Call ``work`` with the node that has ``key``, and follow redirections."""
        slot = slot_of(key)
        node = self._master_of(slot)
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return work(node)
            except Redirected as redirected:
                elsewhere = self._node(redirected.host or node.host, redirected.port)
                if redirected.is_for_once:
                    return elsewhere.send_asking(packed)
                self._refresh(elsewhere)
                node = elsewhere
            except errors.StoreUnavailable:
                # its replica may be the master now
                before = node
                if time.monotonic() - self._last_refresh < _REFRESH_SECONDS:
                    raise
                self._refresh(last=before)
                node = self._master_of(slot)
                if node is before:
                    raise
        raise self._unavailable(f"the nodes redirect in a circle for slot {slot}")

    def _by_node(self, keys: Sequence[bytes], size: int = 500) -> Iterator[tuple[OneServer, list[int]]]:
        """Yield nodes, each with the indexes in ``keys`` of at most ``size`` keys that it has."""
        places: defaultdict[OneServer, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            places[self._master_of(slot_of(key))].append(place)
        for node, whole in places.items():
            for start in range(0, len(whole), size):
                yield node, whole[start : start + size]

    def _master_of(self, slot: int) -> OneServer:
        node = self._known_masters()[slot]
        if node is None:
            self._masters = []
            raise self._unavailable(f"no node has slot {slot}")
        return node

    def _known_masters(self) -> list[OneServer | None]:
        """Return the master of each slot; a refresh in another thread makes a new list and does not change this one."""
        return self._masters or self._refresh()

    def _node(self, host: str, port: int) -> OneServer:
        known = self._nodes.get((host, port))
        if known is None:
            where = f"redis cluster node {host}:{port}"
            made = OneServer(
                lambda: driver.connect(self._address, host, port),
                self._options,
                where,
                host=host,
                port=port,
                idle_before_ping=self._address.idle_before_ping,
                replication=Replication(
                    self._options,
                    where,
                    default=1,
                    answer_timeout=self._address.answer_timeout,
                    mastership=self._mastership,
                ),
            )
            made.on_replaced = self._forward_replaced
            known = self._nodes.setdefault((host, port), made)
        return known

    def _forward_replaced(self, address: str) -> None:
        self.on_replaced(address)

    # -- mastership

    def _others(self, address: str) -> Sequence[Ask]:
        """Return questions to some other masters: is the node at ``address`` a master?"""
        masters = dict.fromkeys(node for node in self._known_masters() if node is not None)
        others = [node for node in masters if node.address != address]
        if not others:
            # there is no master that could elect another one
            return [lambda: Opinion(True)]
        random.shuffle(others)
        return [partial(self._opinion, node, address) for node in others[:_MAX_ASKED]]

    def _opinion(self, node: OneServer, address: str) -> Opinion:
        """Ask a node whether the node at ``address`` is a master. It has no opinion if it does not reach that node."""
        quick = {name: min(float(self._address.connect[name]), mastership.ANSWER_SECONDS) for name in _TIMEOUTS}
        settings = {**self._address.connect, **quick}
        try:
            connection = driver.open_connection(settings, self._address.tls, node.host, node.port, "", node.address)
        except errors.RootcellarError:
            return Opinion(None)
        try:
            ranges, nodes_reply, now = connection.call_all(
                [pack(b"CLUSTER", b"SLOTS"), pack(b"CLUSTER", b"NODES"), pack(b"TIME")]
            )
        except OSError:
            return Opinion(None)
        finally:
            connection.close()
        if not isinstance(ranges, list) or not ranges:
            return Opinion(None)
        ids = [
            bytes(master[2]) for _, _, master, *_ in ranges if driver.address_of(*_place_of(master, node)) == address
        ]
        if not ids:
            return Opinion(False)
        # the user may not be allowed to read more than the slots
        is_known = isinstance(nodes_reply, bytes) and isinstance(now, list)
        return Opinion(True if not is_known or _is_reached(nodes_reply, ids[0], int(now[0])) else None)

    def _refresh(self, first: OneServer | None = None, last: OneServer | None = None) -> list[OneServer | None]:
        """Ask nodes which node has which slot, until one knows the masters of all slots.

        Args:
            first: the node to ask before all others.
            last: the node to ask after all others, because it did not answer a moment ago.

        Raises:
            StoreUnavailable: no node answers.
        """
        failure: errors.StoreError | None = None
        found: list[OneServer | None] = []
        for node in self._to_ask(first, last):
            try:
                ranges = node.send(pack(b"CLUSTER", b"SLOTS"))
            except errors.StoreError as exc:
                if not isinstance(exc, errors.StoreUnavailable) and len(self._nodes) <= len(self._address.hosts):
                    raise
                failure = exc
                continue
            masters = self._masters_in(ranges, node)
            # a node that was removed from the Cluster may still run, and knows no slot
            if not found or masters.count(None) < found.count(None):
                found = masters
            if None not in found:
                self._forget_all_but(found)
                break
        if not any(found):
            raise failure or self._unavailable("no node has any slot")
        self._masters = found
        self._last_refresh = time.monotonic()
        return found

    def _to_ask(self, first: OneServer | None, last: OneServer | None) -> list[OneServer]:
        """Return all nodes. Those that will probably answer come first, because each other one costs a timeout."""
        nodes = dict.fromkeys(
            [first, *dict.fromkeys(self._masters), *(self._node(*host) for host in self._address.hosts)]
        )
        nodes.update(dict.fromkeys(list(self._nodes.values())))
        nodes.pop(last, None)
        return [node for node in (*nodes, last) if node is not None]

    def _forget_all_but(self, masters: Collection[OneServer | None]) -> None:
        """Remove the nodes that have no slot any more: if addresses change, there would be more and more of them."""
        kept = set(masters)
        for host, node in list(self._nodes.items()):
            if node not in kept and host not in self._address.hosts:
                self._nodes.pop(host, None)
                node.close()

    def _masters_in(self, ranges: Sequence[Reply], reported_by: OneServer) -> list[OneServer | None]:
        """Return the master of each slot, from the reply of a node."""
        masters: list[OneServer | None] = [None] * SLOTS
        for start, end, master, *_ in ranges:
            masters[start : end + 1] = [self._node(*_place_of(master, reported_by))] * (end + 1 - start)
        return masters

    def _unavailable(self, what: str) -> errors.StoreUnavailable:
        return errors.StoreUnavailable(what, where=self._address.where, remedy="see `redis-cli cluster info`")


def _place_of(master: Sequence[Reply], reported_by: OneServer) -> Host:
    # a node that does not know its own host name sends an empty one
    return (master[0].decode() if master[0] else reported_by.host), int(master[1])


def _is_reached(nodes_reply: bytes, node_id: bytes, now: int) -> bool:
    """Return whether a node answers another node, according to that node.

    Args:
        nodes_reply: the other node's reply to CLUSTER NODES.
        node_id: the node.
        now: the other node's time, in seconds since 1970.
    """
    for entry in nodes_reply.splitlines():
        found, _, flags, _, pinged_at, *_ = entry.split(b" ")
        if found == node_id:
            # the time of a ping that was not answered yet, in milliseconds; 0 for none
            is_silent = pinged_at != b"0" and now - int(pinged_at) / 1000 > mastership.UNREACHABLE_SECONDS
            return not is_silent and b"fail" not in flags
    return False
