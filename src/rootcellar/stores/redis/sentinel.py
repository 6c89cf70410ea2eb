"""The master that Sentinels know of."""

from __future__ import annotations

import logging
from typing import Any

from rootcellar import errors
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.address import Address
from rootcellar.stores.redis.wire import Line, ServerError, pack

logger = logging.getLogger(__name__)


class Sentinels:
    """Asks the Sentinels for the master, each time anew: what was the master may be a replica now.

    Args:
        address: the Sentinels, the master's name, and how to connect.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)
        given = dict(address.sentinel)
        is_tls = bool(given.pop("ssl", any(name.startswith("ssl_") for name in given)))
        tls = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
        self._tls: dict[str, Any] | None = {"ssl_check_hostname": True, **tls} if is_tls else None
        self._settings = given

    def connect(self) -> Line:
        """Open a connection to the master.

        Raises:
            StoreUnavailable: there is none now, or no Sentinel answers.
            DatabaseMissing: the Sentinels know of no such master.
        """
        host, port = self._master()
        line = driver.connect(self._address, host, port)
        try:
            role = line.call(pack(b"ROLE"))[0]
        except ServerError:
            # the user may not ask; then the server itself refuses what is written to it
            return line
        except OSError as exc:
            line.close()
            raise driver.translate(exc, self._address.where) from exc
        if role != b"master":
            line.close()
            raise errors.StoreUnavailable(
                f"{host}:{port} is no master any more", where=self._address.where, remedy="wait until the failover ends"
            )
        return line

    def open(self, host: str, port: int) -> Line:
        """Open a connection to one of the Sentinels.

        Raises:
            StoreError: in our words, why not.
        """
        return driver.open_line(self._settings, self._tls, host, port, "", f"sentinel {host}:{port}")

    def is_master(self, line: Line) -> bool:
        """Tell whether a connection leads to what the Sentinels call the master now; true if none of them answers."""
        try:
            host, port = self._master()
        except errors.StoreError:
            return True
        return line.address == f"{host}:{port}"

    def _master(self) -> tuple[str, int]:
        failures: list[errors.StoreError] = []
        for host, port in self._hosts:
            try:
                found = self._ask(host, port)
            except errors.StoreError as exc:
                failures.append(exc)
                continue
            if found is not None:
                # the one that answered is asked first the next time
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
        line = self.open(host, port)
        try:
            found = line.call(pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._address.master))
        except driver.FAILURES as exc:
            raise driver.translate(exc, where) from exc
        finally:
            line.close()
        return (found[0].decode(), int(found[1])) if found else None
