"""Forgetting results in both stores of a migration.

C6: a burial is left in both stores, in every phase, also before the first mirror and after the last one: a process may
be one phase behind, and a mirror or a copy may be on its way. A burial names what both stores held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rootcellar.records import TaskRecord
from rootcellar.stores.dual.verbs import Verb


class Forgetting:
    """Deletes results."""

    def delete(self, verb: Verb, task_ids: Iterable[str]) -> int:
        """Delete the records of these tasks in both stores; return how many tasks had one.

        Raises:
            StoreUnavailable: also if only one of the stores cannot be reached. Repeat the call.
        """
        if verb.is_retired:
            return verb.target.store.delete(task_ids)
        return len(self.bury(verb, list(dict.fromkeys(task_ids))))

    def bury(
        self, verb: Verb, task_ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]] | None = None
    ) -> set[str]:
        """Bury tasks in both stores; return the ids of those that had a record.

        Args:
            verb: the verb that runs.
            task_ids: the tasks.
            known: other records of them, which were there before.
        """
        in_target = self.read_target(verb, task_ids)
        in_source = self.bury_in_source(verb, task_ids, joined(known or {}, in_target))
        deleted = self.bury_in_target(verb, task_ids, joined(known or {}, in_target, in_source))
        return {*in_target, *in_source, *deleted}

    def read_target(self, verb: Verb, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        """Return what the target holds, so that the burial in the source names it."""
        return verb.target.get_many(task_ids)

    def bury_in_source(
        self, verb: Verb, task_ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]]
    ) -> Mapping[str, TaskRecord]:
        """Delete the source's records, and leave burials; return what was there."""
        return verb.source.bury(task_ids, known)

    def bury_in_target(
        self, verb: Verb, task_ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]]
    ) -> Mapping[str, TaskRecord]:
        """Delete the target's records, and leave burials; return what was there."""
        return verb.target.bury(task_ids, known)


def joined(
    known: Mapping[str, Sequence[TaskRecord]], *found: Mapping[str, TaskRecord]
) -> dict[str, Sequence[TaskRecord]]:
    """Return all records that are known of each task."""
    every: dict[str, list[TaskRecord]] = {task_id: list(records) for task_id, records in known.items()}
    for records in found:
        for task_id, record in records.items():
            every.setdefault(task_id, []).append(record)
    return {task_id: list(records) for task_id, records in every.items()}
