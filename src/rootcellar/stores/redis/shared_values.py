"""Small values that all processes share: one hash, and a sorted set of the keys, in which a prefix is found."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

from rootcellar.stores.redis.commands import load
from rootcellar.stores.redis.connection import pack
from rootcellar.stores.redis.keys import Keys, decoded, encoded
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.shared_values import SharedValue

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: the most keys in one call of a script, because the server does nothing else while a script runs
_KEYS_PER_CALL = 1_000

_SHARE = load("share")
_SHARED = load("shared")
_UNSHARE = load("unshare")


class RedisSharedValues:
    """The ability :class:`~rootcellar.stores.shared_values.SharesValues` of one Redis, or of a Cluster.

    Args:
        servers: the servers.
        keys: the names of the keys.
    """

    def __init__(self, servers: Servers, keys: Keys) -> None:
        self._servers = servers
        self._names = keys.shared

    def shared(self, prefix: str) -> Mapping[str, SharedValue]:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        found = self._servers.run(self._names[0], _SHARED.call(self._names, encoded(prefix)))
        values = [_value(key, stored) for key, stored in zip(found[::2], found[1::2], strict=True) if stored]
        return {value.key: value for value in values}

    def share(self, key: str, value: str, *, if_version: int | None = None) -> int | None:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        expected = b"" if if_version is None else if_version
        call = _SHARE.call(self._names, encoded(key), encoded(value), expected, secrets.token_hex(8).encode())
        return self._servers.run(self._names[0], call, durable=True) or None

    def unshare(self, keys: Sequence[str]) -> int:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        names = [encoded(key) for key in dict.fromkeys(keys)]
        count = 0
        for start in range(0, len(names), _KEYS_PER_CALL):
            call = _UNSHARE.call(self._names, *names[start : start + _KEYS_PER_CALL])
            count += self._servers.run(self._names[0], call, durable=True)
        return count

    def server_time(self) -> datetime:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`. In a Cluster, it is that of the values' node."""
        seconds, microseconds = self._servers.call(self._names[0], pack(b"TIME"))
        return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(microseconds))


def _value(key: bytes, stored: bytes) -> SharedValue:
    version, changed_at, _, value = stored.split(b" ", 3)
    return SharedValue(
        key=decoded(key),
        value=decoded(value),
        version=int(version),
        changed_at=_EPOCH + timedelta(microseconds=int(changed_at)),
    )
