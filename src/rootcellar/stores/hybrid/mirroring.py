"""What a migration needs of write-through: the durable store has the records and the burials, the cache only copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.hybrid.cache import Cache
from rootcellar.stores.mirroring import NOTHING_KNOWN, Burial, CopyReport, Held, Mirrored


class ThroughMirror:
    """The ability :class:`~rootcellar.stores.mirroring.Mirrored` of write-through.

    The cache has only copies of a SUCCESS. So only what replaces or deletes a SUCCESS drops a copy.

    Args:
        durable: the ability of the durable store.
        cache: the copies.
    """

    def __init__(self, durable: Mirrored, cache: Cache) -> None:
        self._durable = durable
        self._cache = cache

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._durable.mirror(record)

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`.

        Raises:
            StoreUnavailable: also if only the cache cannot be reached: until it expires, a copy may show the replaced
                result. Repeat the call.
        """
        held = self._durable.settle(record)
        self._drop_copies([record.task_id])
        return held

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. With ``newer_wins``, it raises as :meth:`settle` does."""
        report = self._durable.copy(records, newer_wins=newer_wins)
        if newer_wins:
            self._drop_copies(list(report.written))
        return report

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`.

        Raises:
            StoreUnavailable: also if only the cache cannot be reached. Repeat the call.
        """
        ids = list(dict.fromkeys(task_ids))
        found = self._durable.bury(ids, known)
        self._drop_copies(ids)
        return found

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. It raises what :meth:`bury` raises."""
        count = self._durable.bury_same(records)
        # even if nothing was buried: an earlier try may have buried it, and died before this line
        self._drop_copies([record.task_id for record in records])
        return count

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._durable.burials(after, limit)

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._durable.burials_of(task_ids)

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._durable.forget_burials(before)

    def _drop_copies(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        try:
            self._cache.forget(ids)
        except RootcellarError as exc:
            raise StoreUnavailable(
                f"the durable store has the change, but the cache cannot be reached and may show the earlier result: "
                f"{exc.what}",
                where=exc.where,
                remedy="repeat it when the cache is back",
            ) from exc
