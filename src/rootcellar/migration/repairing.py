"""Stores the source's record in the target where the two differ."""

from __future__ import annotations

from rootcellar.migration.checksums import differences, same_group
from rootcellar.migration.endpoint import Endpoint
from rootcellar.migration.walking import persistent
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.mirroring import moment


class Repairer:
    """Repairs one system by another one, record by record.

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

    def repair(self, record: TaskRecord, stored: TaskRecord | None) -> bool:
        """Store the source's record; return whether the target has the same one now.

        Args:
            record: the source's.
            stored: the target's, which is not the same; ``None`` if it has none.
        """
        if stored is not None and moment(stored) > moment(record):
            return False
        if stored is None or self._mirrored is None or moment(stored) < moment(record):
            persistent(lambda: self._target.copy([record], newer_wins=True))
        else:
            # they are of the same moment
            store = self._mirrored.settle if record.state == "SUCCESS" else self._mirrored.mirror
            persistent(lambda: store(record))
        now = self._stored(record.task_id)
        return now is not None and not differences(record, now)

    def _stored(self, task_id: str) -> TaskRecord | None:
        lookup = self._lookup
        return None if lookup is None else persistent(lambda: lookup.get_many([task_id])).get(task_id)

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
