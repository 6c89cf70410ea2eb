"""What one Redis says of itself, whether it keeps results or is the broker."""

from __future__ import annotations

from collections.abc import Mapping

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import ok, wrong
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.stores.redis.server_info import OLDEST_SERVER

__all__ = ["OLDEST_SERVER", "Info", "commands", "judge_eviction", "judge_memory", "judge_persistence", "read_info"]

Info = Mapping[str, str]

#: share of ``maxmemory`` from which on it is warned of
_NEARLY_FULL, _FULL = 0.8, 1.0
#: after these a connection takes no other commands
SUBSCRIBING = (b"SUBSCRIBE", b"UNSUBSCRIBE")


def parse(text: bytes) -> dict[str, str]:
    """Return what INFO and its like say."""
    pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines() if ":" in line)
    return {key: value.strip() for key, _, value in pairs}


def read_info(line: RespConnection) -> dict[str, str]:
    """Return what INFO says; nothing where we may not ask."""
    try:
        return parse(line.call(pack(b"INFO")))
    except ServerError as exc:
        if not str(exc).startswith("NOPERM"):
            raise
        return {}


def judge_eviction(info: Info, code: str, later: str) -> Finding:
    """Say whether a server may delete what nobody told it to delete.

    Args:
        info: what INFO says.
        code: the problem where it may.
        later: the problem where it would, had it a limit of memory.
    """
    policy = info.get("maxmemory_policy")
    if policy is None:
        return ok("not told by the server")
    if policy == "noeviction":
        return ok("noeviction")
    has_limit = info.get("maxmemory", "0") != "0"
    limit = f"maxmemory {info.get('maxmemory_human', '')}" if has_limit else "no maxmemory"
    return wrong(code if has_limit else later, f"maxmemory-policy is {policy}, {limit}")


def judge_memory(info: Info, code: str, full: str, *, may_evict: bool = False) -> Finding:
    """Say whether a server has room; ``full`` is the problem where it has none."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return ok(f"{info.get('used_memory_human', 'unknown')} used, no maxmemory")
    share = used / limit
    seen = f"{info.get('used_memory_human')} of {info.get('maxmemory_human')} used, {share:.0%}"
    if may_evict or share < _NEARLY_FULL:
        return ok(seen)
    return wrong(full if share >= _FULL else code, seen)


def judge_persistence(line: RespConnection, info: Info) -> Finding:
    """Say whether a server keeps on disk what it has."""
    if "err" in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")):
        return wrong("redis-saving-fails", "the last attempt to save failed")
    if info.get("aof_enabled") == "1":
        return ok("append-only file")
    if "aof_enabled" not in info:
        return ok("not told by the server")
    try:
        answer = line.call(pack(b"CONFIG", b"GET", b"save"))
    except ServerError:
        return wrong("redis-snapshots-only", "no append-only file; whether there are snapshots may not be asked")
    if len(answer) > 1 and answer[1]:
        return wrong("redis-snapshots-only", f"snapshots (save {answer[1].decode()}), no append-only file")
    return wrong("redis-persistence", "no append-only file, no snapshots")


def commands(key: bytes, chord: bytes, waiting: bytes) -> list[tuple[bytes, ...]]:
    """Return harmless calls of every command that stores use, on throw-away keys.

    Args:
        key: named as a task's.
        chord: named as a chord's.
        waiting: named as the set that a chord waits in.
    """
    return [
        (b"SET", key, b"x", b"PX", b"60000"),
        (b"GET", key),
        (b"MGET", key),
        (b"GETRANGE", key, b"0", b"1"),
        (b"EXISTS", key),
        (b"TYPE", key),
        (b"PTTL", key),
        (b"PEXPIRE", key, b"60000"),
        (b"UNLINK", key),
        (b"DEL", key),
        (b"EVAL", b"return 1", b"0"),
        (b"SCAN", b"0", b"MATCH", key, b"COUNT", b"1"),
        (b"HSET", chord, b"f", b"1"),
        (b"PEXPIRE", chord, b"60000"),
        (b"HGET", chord, b"f"),
        (b"HSETNX", chord, b"f", b"1"),
        (b"HMGET", chord, b"f"),
        (b"HGETALL", chord),
        (b"HINCRBY", chord, b"f", b"1"),
        (b"ZADD", waiting, b"1", b"x"),
        (b"PEXPIRE", waiting, b"60000"),
        (b"ZRANGEBYSCORE", waiting, b"0", b"1"),
        (b"ZREM", waiting, b"x"),
        (b"TIME",),
        (b"PUBLISH", key, b"x"),
        (b"SUBSCRIBE", key),
        (b"UNSUBSCRIBE", key),
    ]
