"""Checks a server by its reply to INFO, once in each process: its version, and whether it may evict results."""

from __future__ import annotations

import logging

from rootcellar import errors
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.support.forking import PerProcess
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

OLDEST_SERVER = 6

#: the servers that this process has checked
_checked: PerProcess[set[str]] = PerProcess(set)


def check_server_once(connection: RespConnection, where: str, *, may_evict: bool = False) -> None:
    """Check a server, unless this process did so before; log a warning if it may evict results and must not.

    Raises:
        ServerTooOld: it is older than 6.0.
        OSError: the connection was lost.
    """
    checked = _checked.get()
    if where in checked:
        return
    info = info_of(connection)
    version = info.get("redis_version", "")
    if version and int(version.partition(".")[0]) < OLDEST_SERVER:
        raise errors.ServerTooOld(
            f"Redis {version} is too old", where=where, remedy=f"upgrade the server to {OLDEST_SERVER}.0 or later"
        )
    checked.add(where)
    if not may_evict and (warning := eviction_warning(info)):
        logger.warning("%s [%s]", warning, where)


def eviction_warning(info: dict[str, str]) -> str | None:
    """Return a warning about a server's ``maxmemory-policy``; ``None`` if there is none.

    Args:
        info: the reply to INFO; without the settings there is no warning.
    """
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return None
    which = "results, whether or not they have expired" if policy.startswith("allkeys") else "results that expire later"
    return (
        f"This Redis may delete {which}, when its memory is full: its maxmemory-policy is {policy}. Set it to "
        "noeviction, and keep what is only a cache on another Redis."
    )


def info_of(connection: RespConnection) -> dict[str, str]:
    """Return the reply to INFO; empty if the user may not run it."""
    try:
        return parsed_info(connection.call(pack(b"INFO")))
    except ServerError as exc:
        if isinstance(driver.translate(exc, ""), (errors.StoreUnavailable, errors.AuthenticationFailed)):
            raise
        return {}


def parsed_info(reply: bytes) -> dict[str, str]:
    """Return the names and values in the reply to INFO."""
    text = reply.decode("utf-8", "replace")
    pairs = (entry.partition(":") for entry in text.splitlines() if ":" in entry)
    return {key: value for key, _, value in pairs}
