"""What a process looks at once when it first meets a server: whether it is new enough, and whether it keeps results."""

from __future__ import annotations

import logging
import os

from rootcellar import errors
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

OLDEST_SERVER = 6

_seen: set[tuple[int, str]] = set()


def look(line: RespConnection, where: str, *, may_evict: bool = False) -> None:
    """Look at a server, unless this process did so before; warn once if it may throw results away and should not.

    Raises:
        ServerTooOld: it is older than 6.0.
        OSError: the connection is gone.
    """
    me = (os.getpid(), where)
    if me in _seen:
        return
    info = info_of(line)
    version = info.get("redis_version", "")
    if version and int(version.partition(".")[0]) < OLDEST_SERVER:
        raise errors.ServerTooOld(
            f"Redis {version} is too old", where=where, remedy=f"upgrade the server to {OLDEST_SERVER}.0 or later"
        )
    _seen.add(me)
    if not may_evict and (warning := eviction_warning(info)):
        logger.warning("%s [%s]", warning, where)


def eviction_warning(info: dict[str, str]) -> str | None:
    """Return what to say of a server's ``maxmemory-policy``, ``None`` for nothing.

    Args:
        info: what INFO says; nothing is said of what is not there.
    """
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return None
    which = "results, whether or not they have expired" if policy.startswith("allkeys") else "results that expire later"
    return (
        f"This Redis may delete {which}, when its memory is full: its maxmemory-policy is {policy}. Set it to "
        "noeviction, and keep what is only a cache on another Redis."
    )


def info_of(line: RespConnection) -> dict[str, str]:
    """Return what INFO says; nothing where we may not ask."""
    try:
        text = line.call(pack(b"INFO")).decode("utf-8", "replace")
    except ServerError as exc:
        if isinstance(driver.translate(exc, ""), (errors.StoreUnavailable, errors.AuthenticationFailed)):
            raise
        return {}
    pairs = (entry.partition(":") for entry in text.splitlines() if ":" in entry)
    return {key: value for key, _, value in pairs}
