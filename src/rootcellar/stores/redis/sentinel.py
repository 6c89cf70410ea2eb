"""Finds the master by asking Sentinels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rootcellar import errors
from rootcellar.stores.redis import driver, mastership
from rootcellar.stores.redis.address import Address
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.stores.redis.mastership import Ask, Opinion
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")


class Sentinels:
    """Asks the Sentinels for the master at each connect, because the last one may be a replica now.

    Args:
        address: the Sentinels, the master's name, and how to connect.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)
        #: the newest configuration epoch that each Sentinel has reported
        self._epochs: dict[tuple[str, int], int] = {}
        given = dict(address.sentinel)
        is_tls = bool(given.pop("ssl", any(name.startswith("ssl_") for name in given)))
        tls = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
        self._tls: dict[str, Any] | None = {"ssl_check_hostname": True, **tls} if is_tls else None
        self._settings = given
        quick = {name: min(float(given[name]), mastership.ANSWER_SECONDS) for name in _TIMEOUTS if given.get(name)}
        #: the same with short timeouts, for questions that must be answered soon
        self._quick = {**given, **quick}

    def connect(self) -> RespConnection:
        """Open a connection to the master.

        Raises:
            StoreUnavailable: there is none now, or no Sentinel answers.
            DatabaseMissing: the Sentinels know of no such master.
        """
        host, port = self._master()
        connection = driver.connect(self._address, host, port)
        try:
            role = connection.call(pack(b"ROLE"))[0]
        except ServerError:
            # the user may not run ROLE; a replica will refuse writes by itself
            return connection
        except OSError as exc:
            connection.close()
            raise driver.translate(exc, self._address.where) from exc
        if role != b"master":
            connection.close()
            raise errors.StoreUnavailable(
                f"{host}:{port} is not the master any more",
                where=self._address.where,
                remedy="wait until the failover ends",
            )
        return connection

    def open(self, host: str, port: int) -> RespConnection:
        """Open a connection to one of the Sentinels.

        Raises:
            StoreError: it is not possible.
        """
        return driver.open_connection(self._settings, self._tls, host, port, "", f"sentinel {host}:{port}")

    def others(self, address: str) -> Sequence[Ask]:
        """Return a function for each Sentinel that asks it whether the server at ``address`` is the master."""
        return [partial(self._opinion, host, port, address) for host, port in self._hosts]

    def _opinion(self, host: str, port: int, address: str) -> Opinion:
        """Ask a Sentinel whether ``address`` is the master. It has no opinion if it does not reach the server."""
        try:
            connection = driver.open_connection(self._quick, self._tls, host, port, "", f"sentinel {host}:{port}")
        except errors.RootcellarError:
            return Opinion(None)
        try:
            found, master_reply = connection.call_all(
                [
                    pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._address.master),
                    pack(b"SENTINEL", b"MASTER", self._address.master),
                ]
            )
        except OSError:
            return Opinion(None)
        finally:
            connection.close()
        if not isinstance(found, list):
            return Opinion(None)
        # the user may not be allowed to read more than the address
        facts = dict(zip(master_reply[::2], master_reply[1::2], strict=False)) if isinstance(master_reply, list) else {}
        epoch = int(facts.get(b"config-epoch", 0))
        self._epochs[host, port] = epoch
        if driver.address_of(found[0].decode(), int(found[1])) != address:
            return Opinion(False, epoch)
        return Opinion(True if _is_reached(facts) else None, epoch)

    def _master(self) -> tuple[str, int]:
        failures: list[errors.StoreError] = []
        # in a network partition, a Sentinel on the side of the old master does not know the new one
        for host, port in sorted(self._hosts, key=lambda known: -self._epochs.get(known, 0)):
            try:
                found = self._ask(host, port)
            except errors.StoreError as exc:
                failures.append(exc)
                continue
            if found is not None:
                # the next time, the Sentinel that answered is asked first
                self._hosts = sorted(self._hosts, key=lambda known: known != (host, port))
                return found
        if failures:
            worst = next((exc for exc in failures if not exc.retryable), failures[0])
            raise type(worst)(
                f"no Sentinel knows the master {self._address.master}: {worst.what}",
                where=self._address.where,
                remedy=worst.remedy,
            )
        raise errors.DatabaseMissing(
            f"the Sentinels know of no master called {self._address.master}",
            where=self._address.where,
            remedy="see `sentinel monitor` in sentinel.conf, and set master_name to the same",
        )

    def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        where = f"sentinel {host}:{port}"
        connection = self.open(host, port)
        try:
            found = connection.call(pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._address.master))
        except driver.FAILURES as exc:
            raise driver.translate(exc, where) from exc
        finally:
            connection.close()
        return (found[0].decode(), int(found[1])) if found else None


def _is_reached(master_reply: Mapping[bytes, bytes]) -> bool:
    """Return whether the master answers a Sentinel, according to the Sentinel's reply about it."""
    if b"_down" in master_reply.get(b"flags", b""):
        return False
    return int(master_reply.get(b"last-ok-ping-reply", 0)) < mastership.UNREACHABLE_SECONDS * 1000
