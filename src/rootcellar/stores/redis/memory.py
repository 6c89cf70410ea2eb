"""How much memory Redis uses, and how many keys hold results."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from rootcellar.errors import PermissionDenied
from rootcellar.stores.measures import MemoryUse
from rootcellar.stores.redis.connection import pack
from rootcellar.stores.redis.server_info import parsed_info
from rootcellar.stores.redis.servers import SCAN_COUNT, OneServer


def memory_use(servers: Sequence[OneServer], pattern: bytes, database: int, budget: float) -> MemoryUse:
    """Return the sums over all servers. What a user may not read is ``None``.

    Args:
        servers: the server, or all masters of a Cluster.
        pattern: the pattern of the keys that hold results.
        database: the number of the database.
        budget: seconds for counting keys on all servers together.
    """
    infos = [_info(server) for server in servers]
    return MemoryUse(
        result_keys=_count_keys(servers, infos, pattern, database, time.monotonic() + budget),
        used_bytes=_sum(infos, "used_memory"),
        limit_bytes=_sum(infos, "maxmemory"),
        evicted_keys=_sum(infos, "evicted_keys"),
    )


def _info(server: OneServer) -> dict[str, str]:
    try:
        return parsed_info(server.send(pack(b"INFO")))
    except PermissionDenied:
        return {}


def _sum(infos: Sequence[dict[str, str]], name: str) -> int | None:
    found = [int(info[name]) for info in infos if name in info]
    return sum(found) if found else None


def _count_keys(
    servers: Sequence[OneServer], infos: Sequence[dict[str, str]], pattern: bytes, database: int, deadline: float
) -> int | None:
    total = 0
    for server, info in zip(servers, infos, strict=True):
        found = 0
        for pages, keys in enumerate(server.keys(pattern), start=1):
            found += len(keys)
            if time.monotonic() > deadline:
                # the keys are in a random order, so the rest has about the same share
                found = max(found, round(found / (pages * SCAN_COUNT) * _all_keys(info, database)))
                break
        total += found
    return total


def _all_keys(info: dict[str, str], database: int) -> int:
    """Return how many keys a database has, by the reply to INFO; 0 if it is not known."""
    match = re.match(r"keys=(\d+)", info.get(f"db{database}", ""))
    return int(match[1]) if match else 0
