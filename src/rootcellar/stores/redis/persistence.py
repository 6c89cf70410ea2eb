"""Checks whether acknowledged results survive a crash of Redis: the append-only file, and the eviction policy."""

from __future__ import annotations

from rootcellar.errors import AppendOnlyMissing, ConfigurationError, PermissionDenied
from rootcellar.stores.redis.connection import RespConnection, pack
from rootcellar.stores.redis.server_info import info_of
from rootcellar.stores.redis.servers import Servers

#: the value of ``appendfsync`` -> what a crash may lose
_WINDOWS = {
    "everysec": "A crash of Redis's machine (or of Redis alone, while its disk is slow) may lose the results of about "
    "the last second, two at most: appendfsync is everysec. With `appendfsync always` it loses none.",
    "no": "A crash of Redis's machine may lose the results of the last half minute or so: appendfsync is no. With "
    "`appendfsync always` it loses none.",
}
_UNKNOWN = (
    "Whether a crash of Redis's machine loses the last results is not known: this user may not read appendfsync "
    "(CONFIG GET). Only with `appendfsync always` it loses none."
)
_DURING_REWRITES = (
    "A crash of Redis's machine while it rewrites its append-only file may lose the results of that time: "
    "no-appendfsync-on-rewrite is yes."
)


def require(connection: RespConnection, where: str) -> None:
    """Raise an error if a server may lose acknowledged results.

    Raises:
        AppendOnlyMissing: it has no append-only file.
        ConfigurationError: it may evict results.
        OSError: the connection was lost.
    """
    info = info_of(connection)
    if info.get("aof_enabled") != "1":
        is_known = "aof_enabled" in info
        raise AppendOnlyMissing(
            "Redis keeps no append-only file, so a restart would lose results"
            if is_known
            else "this user may not find out whether Redis keeps an append-only file",
            where=where,
            remedy="set `appendonly yes` in redis.conf (and CONFIG SET appendonly yes), or use mode write-through"
            if is_known
            else "let the user run INFO, or use mode write-through",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys") and info.get("maxmemory", "0") != "0":
        raise ConfigurationError(
            f"Redis may delete results that PostgreSQL does not have yet: its maxmemory-policy is {policy}",
            where=where,
            remedy="set maxmemory-policy to noeviction or to one that begins with volatile-",
        )


def window(servers: Servers, key: bytes) -> str | None:
    """Return which results a crash may lose, as a sentence; ``None`` for none."""
    try:
        if sentence := _WINDOWS.get(_setting(servers, key, b"appendfsync")):
            return sentence
        return _DURING_REWRITES if _setting(servers, key, b"no-appendfsync-on-rewrite") == "yes" else None
    except PermissionDenied:
        return _UNKNOWN


def _setting(servers: Servers, key: bytes, name: bytes) -> str:
    found = servers.call(key, pack(b"CONFIG", b"GET", name))
    return str(found[1].decode()) if found else ""
