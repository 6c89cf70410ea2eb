"""Walks over all keys of a pattern, a page at a time, with a cursor that another process can use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from rootcellar.errors import ConfigurationError, StoreUnavailable
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import ServerError, pack
from rootcellar.stores.redis.server_info import parsed_info
from rootcellar.stores.redis.servers import OneServer, Servers


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a walk.

    Attributes:
        layout: which server has which keys; see :meth:`Servers.layout`. If this changes, the walk begins again.
        server: the number of the server, in the order of their addresses.
        run: the run of the server; a cursor of SCAN is valid in one run only. Empty at the server's beginning, and if
            the user may not run INFO.
        cursor: the cursor of SCAN.
    """

    layout: str
    server: int = 0
    run: str = ""
    cursor: str = "0"

    def text(self) -> str:
        return f"{self.layout}/{self.server}/{self.run}/{self.cursor}"


class Walk:
    """Reads pages of keys with SCAN: of one server after the other, each from its beginning to its end.

    If a server was restarted or replaced, its keys are read again from the beginning; if keys have moved between
    servers, those of all servers. So each key that exists all the time is found at least once.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def page(self, pattern: bytes, cursor: str | None, limit: int) -> tuple[list[bytes], str | None]:
        """Return some keys, each once, and the next cursor; ``None`` at the end. Only the last page may be empty.

        Args:
            pattern: the pattern of the keys.
            cursor: what the previous call returned; ``None`` from the beginning.
            limit: about how many keys the server looks at in one step.

        Raises:
            ConfigurationError: the cursor is not one of this method.
        """
        while True:
            keys, cursor = self._step(pattern, cursor, limit)
            if keys or cursor is None:
                return list(dict.fromkeys(keys)), cursor

    def _step(self, pattern: bytes, cursor: str | None, limit: int) -> tuple[list[bytes], str | None]:
        layout = self._servers.layout()
        place = _Place(layout) if cursor is None else _read_place(cursor)
        servers = sorted(self._servers.servers(), key=lambda server: (server.host, server.port))
        if place.layout != layout or place.server >= len(servers):
            place = _Place(layout)
        server = servers[place.server]
        try:
            run, scanned, keys = self._scan(server, place, pattern, limit)
        except StoreUnavailable:
            # its replica may be the master now; the next call asks that one
            with suppress(StoreUnavailable):
                self._servers.layout(now=True)
            raise
        if scanned != "0":
            return keys, _Place(layout, place.server, run, scanned).text()
        if place.server + 1 < len(servers):
            return keys, _Place(layout, place.server + 1).text()
        now = self._servers.layout(now=True)
        return keys, None if now == layout else _Place(now).text()

    def _scan(self, server: OneServer, place: _Place, pattern: bytes, limit: int) -> tuple[str, str, list[bytes]]:
        """Return the server's run, the next cursor of SCAN and some keys."""
        cursor = place.cursor
        while True:
            info, found = server.send_many(
                [pack(b"INFO", b"server"), pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", limit)]
            )
            if type(found) is ServerError:
                raise driver.translate(found, server.where)
            run = "" if type(info) is ServerError else parsed_info(info).get("run_id", "")
            if place.run in ("", run) or cursor == "0":
                return run, found[0].decode(), found[1]
            cursor = "0"


def foreign_cursor(cursor: str) -> ConfigurationError:
    """Return the error for a cursor that no walk over Redis has returned."""
    return ConfigurationError(
        f"not a cursor of Redis: {cursor[:100]!r}", where="cursor", remedy="begin the walk again, without a cursor"
    )


def _read_place(cursor: str) -> _Place:
    try:
        layout, server, run, scanned = cursor.split("/")
        return _Place(layout, int(server), run, str(int(scanned)))
    except ValueError:
        raise foreign_cursor(cursor) from None
