"""Connects to one of several servers, and notices a failover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.driver import Connection
from rootcellar.stores.replaced import report_replaced


class Route:
    """Opens connections with the same settings, and reports when a server was replaced by another one.

    Args:
        settings: libpq's parameters.

    Attributes:
        leads_to: the server that the newest connection leads to; empty if there is none yet.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._where = driver.describe(settings)
        # if each connection may take any of the servers, another one does not mean a failover
        self._is_balanced = settings.get("load_balance_hosts", "disable") != "disable"
        self.leads_to = ""

    def connect(self) -> Connection:
        """Open a connection.

        Raises:
            StoreError: it is not possible.
            ConfigurationError: a file or a mode for TLS cannot be used.
        """
        connection = driver.connect(self._settings, self._where)
        former, self.leads_to = self.leads_to, connection.server
        if former not in ("", connection.server) and not self._is_balanced:
            report_replaced(former)
        return connection
