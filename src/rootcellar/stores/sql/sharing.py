"""Shared values in a table: the ability :class:`~rootcellar.stores.shared_values.SharesValues` of SQL stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from rootcellar.stores import framing
from rootcellar.stores.shared_values import SharedValue
from rootcellar.stores.sql.store import SqlStore

C = TypeVar("C")


class SharingStore(SqlStore[C], Generic[C]):
    """A SQL store with the ability :class:`~rootcellar.stores.shared_values.SharesValues`.

    Its statements are in ``migration.sql``: ``shared_values``; ``share_value``, which stores any version, and
    ``version_of``; ``share_first`` and ``share_next``, which store only if the version is there; ``unshare_values``;
    ``server_time``.
    """

    def shared(self, prefix: str) -> Mapping[str, SharedValue]:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        found = self._all("shared_values", {"prefix": prefix})
        return {
            key: SharedValue(key=key, value=value, version=int(version), changed_at=self._read_date(changed_at))
            for key, value, version, changed_at in found
        }

    def share(self, key: str, value: str, *, if_version: int | None = None) -> int | None:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        params = {"name": key, "value": value, "version": if_version}
        if if_version is None:
            return self._in_transaction(lambda connection: self._share_on(connection, params))
        written = self._count("share_next" if if_version else "share_first", params)
        return if_version + 1 if written else None

    def _share_on(self, connection: C, params: Mapping[str, object]) -> int:
        self._count_of(connection, "share_value", params)
        ((version,),) = self._rows_of(connection, "version_of", params)
        return int(version)

    def unshare(self, keys: Sequence[str]) -> int:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        ids = sorted(self._findable(keys))
        return sum(self._count("unshare_values", {"names": self._ids(some)}) for some in framing.chunks(ids, self.MANY))

    def server_time(self) -> datetime:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        ((now,),) = self._all("server_time", {})
        return self._read_date(now)
