"""Judges what a Redis server reports about itself, both as a result store and as a broker."""

from __future__ import annotations

from collections.abc import Mapping

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import passed, problem
from rootcellar.stores.redis.connection import RespConnection, ServerError, pack
from rootcellar.stores.redis.server_info import OLDEST_SERVER

__all__ = ["OLDEST_SERVER", "Info", "commands", "judge_eviction", "judge_memory", "judge_persistence", "read_info"]

Info = Mapping[str, str]

#: shares of ``maxmemory`` in use: from these on, a warning and a failure
_MEMORY_WARNING_SHARE, _MEMORY_FULL_SHARE = 0.8, 1.0
#: commands after which a connection accepts no others
SUBSCRIBING = (b"SUBSCRIBE", b"UNSUBSCRIBE")


def parse(text: bytes) -> dict[str, str]:
    """Return the fields of an answer in the format of INFO."""
    pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines() if ":" in line)
    return {key: value.strip() for key, _, value in pairs}


def read_info(line: RespConnection) -> dict[str, str]:
    """Return the fields of INFO; empty if the user may not call it."""
    try:
        return parse(line.call(pack(b"INFO")))
    except ServerError as exc:
        if not str(exc).startswith("NOPERM"):
            raise
        return {}


def judge_eviction(info: Info, code: str, later: str) -> Finding:
    """Judge whether a server may evict keys.

    Args:
        info: the fields of INFO.
        code: the problem if it may.
        later: the problem if it would evict with a memory limit, but has no limit.
    """
    policy = info.get("maxmemory_policy")
    if policy is None:
        return passed("the server does not report it")
    if policy == "noeviction":
        return passed("noeviction")
    has_limit = info.get("maxmemory", "0") != "0"
    limit = f"maxmemory {info.get('maxmemory_human', '')}" if has_limit else "no maxmemory"
    return problem(code if has_limit else later, f"maxmemory-policy is {policy}, {limit}")


def judge_memory(info: Info, code: str, full: str, *, may_evict: bool = False) -> Finding:
    """Judge whether a server has free memory. ``code`` is the problem if little is left, ``full`` if none is left."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return passed(f"{info.get('used_memory_human', 'unknown')} used, no maxmemory")
    share = used / limit
    seen = f"{info.get('used_memory_human')} of {info.get('maxmemory_human')} used, {share:.0%}"
    if may_evict or share < _MEMORY_WARNING_SHARE:
        return passed(seen)
    return problem(full if share >= _MEMORY_FULL_SHARE else code, seen)


def judge_persistence(line: RespConnection, info: Info) -> Finding:
    """Judge whether a server saves its data on disk."""
    if "err" in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")):
        return problem("redis-saving-fails", "the last attempt to save failed")
    if info.get("aof_enabled") == "1":
        return passed("append-only file")
    if "aof_enabled" not in info:
        return passed("the server does not report it")
    try:
        answer = line.call(pack(b"CONFIG", b"GET", b"save"))
    except ServerError:
        return problem("redis-snapshots-only", "no append-only file; the user may not ask about snapshots")
    if len(answer) > 1 and answer[1]:
        return problem("redis-snapshots-only", f"snapshots (save {answer[1].decode()}), no append-only file")
    return problem("redis-persistence", "no append-only file, no snapshots")


def commands(key: bytes, chord: bytes, waiting: bytes) -> list[tuple[bytes, ...]]:
    """Return harmless calls of every command that stores use, on test keys.

    Args:
        key: a key named like a task's.
        chord: a key named like a chord's.
        waiting: a key named like the set of unfinished chords.
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
