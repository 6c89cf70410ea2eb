"""Stores the source's record in the target where the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rootcellar.migration.checksums import differences, same_group
from rootcellar.migration.endpoint import Endpoint
from rootcellar.migration.walking import persistent
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.mirroring import moment


class Repairer:
    """Repairs one system by another one.

    A record of the target that is newer stays. What was forgotten in the target stays forgotten.

    Args:
        target: the system that is repaired.

    Raises:
        AbilityMissing: nothing can be written there.
    """

    def __init__(self, target: Endpoint) -> None:
        self._target = target.to_write
        self._mirrored = target.mirrored
        self._lookup = target.lookup
        self._store = target.store

    def repair(self, pairs: Sequence[tuple[TaskRecord, TaskRecord | None]]) -> set[str]:
        """Store records of the source; return the ids of those that the target has as they are now.

        Args:
            pairs: the records of the source, each with that of the target, which is not the same; ``None`` if it has
                none.
        """
        to_copy: list[TaskRecord] = []
        for record, stored in pairs:
            if stored is None or moment(stored) < moment(record):
                to_copy.append(record)
            elif moment(stored) == moment(record):
                self._replace(record)
        if to_copy:
            persistent(lambda: self._target.copy(to_copy, newer_wins=True))
        now = self._stored([record.task_id for record, _ in pairs])
        return {
            record.task_id
            for record, _ in pairs
            if (found := now.get(record.task_id)) is not None and not differences(record, found)
        }

    def _replace(self, record: TaskRecord) -> None:
        """Store a record in place of another one of the same moment."""
        if self._mirrored is None:
            return
        store = self._mirrored.settle if record.state == "SUCCESS" else self._mirrored.mirror
        persistent(lambda: store(record))

    def _stored(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        lookup = self._lookup
        return {} if lookup is None else persistent(lambda: lookup.get_many(task_ids))

    def repair_group(self, group: GroupRecord, stored: GroupRecord | None) -> bool:
        """Store the source's group; return whether the target has the same one now. A newer one of the target stays."""
        if stored is not None and stored.done_at > group.done_at:
            return False
        if stored is not None and self._store is not None and stored.done_at == group.done_at:
            self._store.put_group(group)
        else:
            persistent(lambda: self._target.copy_groups([group], newer_wins=True))
        lookup = self._lookup
        now = None if lookup is None else persistent(lambda: lookup.get_group(group.group_id))
        return now is not None and same_group(group, now)
