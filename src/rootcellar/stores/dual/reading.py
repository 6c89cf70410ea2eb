"""Reading a result while its task may be written to either store of a migration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.dual.sampling import Samples
from rootcellar.stores.dual.verbs import MAX_LOOKS, Verb, is_end, is_success


class Reading:
    """Reads results.

    Args:
        samples: gets some of the reads, to compare them with the target later.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def get(self, verb: Verb, task_id: str) -> TaskRecord | None:
        """Return the record of a task, or ``None``."""
        if verb.phase <= Phase.DUAL:
            record = verb.source.get(task_id)
            if verb.phase is Phase.DUAL:
                self._samples.note(record)
            return record
        if verb.phase >= Phase.TARGET_ONLY:
            return verb.target.get(task_id)
        return self.get_from_both(verb, task_id)

    def get_from_both(self, verb: Verb, task_id: str) -> TaskRecord | None:
        """Return the target's record if it is a SUCCESS. Otherwise ask the source too, and push its SUCCESS."""
        in_target: TaskRecord | None = None
        for _ in range(MAX_LOOKS):
            in_target = verb.target.get(task_id)
            if self.is_hit(in_target):
                return in_target
            in_source = verb.source.get(task_id)
            if in_source is None or not is_success(in_source):
                return better(in_target, in_source)
            refused = verb.target.copy(verb.source.with_expiry([in_source])).refused
            if task_id in refused or not self.asks_target_after_push():
                # a record that the target cannot keep is only in the source
                return in_source
        # the target refuses the push, because the result was forgotten
        return in_target

    def get_many(self, verb: Verb, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Return the records that exist of these tasks, by id."""
        if verb.phase <= Phase.DUAL:
            found = verb.source.get_many(task_ids)
            if verb.phase is Phase.DUAL:
                self._samples.note_many(found.values())
            return found
        if verb.phase >= Phase.TARGET_ONLY:
            return verb.target.get_many(task_ids)
        return self.get_many_from_both(verb, list(dict.fromkeys(task_ids)))

    def get_many_from_both(self, verb: Verb, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Do the same as :meth:`get_from_both` for many tasks, in as few calls."""
        found: dict[str, TaskRecord] = {}
        asked = task_ids
        for _ in range(MAX_LOOKS):
            in_target = verb.target.get_many(asked)
            _replace(found, asked, in_target)
            open_ids = [task_id for task_id in asked if not self.is_hit(in_target.get(task_id))]
            if not open_ids:
                return found
            in_source = verb.source.get_many(open_ids)
            pushed = [record for record in in_source.values() if is_success(record)]
            asked = [record.task_id for record in pushed]
            rest = [task_id for task_id in open_ids if not is_success(in_source.get(task_id))]
            _replace(found, rest, _better_of_each(rest, in_target, in_source))
            if not pushed:
                return found
            refused = verb.target.copy(verb.source.with_expiry(pushed)).refused
            answered = [task_id for task_id in asked if task_id in refused or not self.asks_target_after_push()]
            _replace(found, answered, in_source)
            asked = [task_id for task_id in asked if task_id not in answered]
            if not asked:
                return found
        return found

    def is_hit(self, in_target: TaskRecord | None) -> bool:
        """C2: return whether the target's record is the answer without the source: only a SUCCESS is.

        A FAILURE in the target may be older than a SUCCESS in the source, which somebody has read.
        """
        return is_success(in_target)

    def asks_target_after_push(self) -> bool:
        """C1: whether the answer is what the target holds after a push, and not what was pushed.

        The target may have another SUCCESS by then, and refuse the push.
        """
        return True


def better(in_target: TaskRecord | None, in_source: TaskRecord | None) -> TaskRecord | None:
    """Return the record of a task that has no SUCCESS: one that is an end, or else the target's."""
    if in_target is None or in_source is None:
        return in_target or in_source
    return in_source if is_end(in_source) and not is_end(in_target) else in_target


def _better_of_each(
    task_ids: Iterable[str], in_target: Mapping[str, TaskRecord], in_source: Mapping[str, TaskRecord]
) -> dict[str, TaskRecord]:
    found = {task_id: better(in_target.get(task_id), in_source.get(task_id)) for task_id in task_ids}
    return {task_id: record for task_id, record in found.items() if record is not None}


def _replace(found: dict[str, TaskRecord], asked: Iterable[str], answers: Mapping[str, TaskRecord]) -> None:
    """Replace the records of the tasks that were asked for by those of the answer."""
    for task_id in asked:
        found.pop(task_id, None)
        if task_id in answers:
            found[task_id] = answers[task_id]
