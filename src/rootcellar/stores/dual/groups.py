"""Saved groups while results are in two stores. A group may be saved again with other contents; the last one counts."""

from __future__ import annotations

import logging
from functools import partial

from rootcellar.records import GroupRecord
from rootcellar.stores.dual.mirror_breaker import NotMirrored
from rootcellar.stores.dual.phases import Phase
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.verbs import MAX_LOOKS, Verb
from rootcellar.stores.dual.writing import Writing
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))


class Groups:
    """Saves, reads and deletes groups.

    Args:
        writing: calls the store that does not decide.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    def put(self, verb: Verb, group: GroupRecord) -> None:
        """Save a group in the store that decides, then in the other one, until both have the same."""
        verb.decider.store.put_group(group)
        if not verb.is_double:
            return
        try:
            self._mirror(verb, group)
        except NotMirrored:
            logger.debug("A group is in one store of the migration only, until the next pass.")

    def _mirror(self, verb: Verb, group: GroupRecord) -> None:
        for _ in range(MAX_LOOKS):
            self._writing.call_other(verb, partial(_save, group))
            found = verb.decider.store.get_group(group.group_id)
            if found is None:
                # it was deleted meanwhile, perhaps before it was in the other store
                self._writing.call_other(verb, partial(_delete, group))
                return
            if found.result == group.result:
                return
            group = found

    def get(self, verb: Verb, group_id: str) -> GroupRecord | None:
        """Return a saved group, or ``None``. While both stores are read, the target gets what only the source has."""
        if verb.phase <= Phase.DUAL:
            return verb.source.store.get_group(group_id)
        in_target = verb.target.store.get_group(group_id)
        if in_target is not None or verb.phase >= Phase.TARGET_ONLY:
            return in_target
        in_source = verb.source.store.get_group(group_id)
        if in_source is None:
            return None
        verb.target.copy_groups([in_source])
        if verb.source.store.get_group(group_id) is None:
            # it was deleted meanwhile, perhaps before it was in the target
            _delete(in_source, verb.target)
        return verb.target.store.get_group(group_id)

    def delete(self, verb: Verb, group_id: str) -> None:
        """Delete a saved group in both stores.

        The target comes first because a save that it decides looks there whether the group still exists, and last
        because a read looks for that in the source, and has perhaps copied the group to the target.

        Raises:
            StoreUnavailable: also if only one of the stores cannot be reached. Repeat the call.
        """
        if verb.phase is not Phase.RETIRED:
            verb.target.store.delete_group(group_id)
            verb.source.store.delete_group(group_id)
        verb.target.store.delete_group(group_id)


def _save(group: GroupRecord, side: Side) -> None:
    side.store.put_group(group)


def _delete(group: GroupRecord, side: Side) -> None:
    """Delete a group, unless it was saved with other contents meanwhile."""
    found = side.store.get_group(group.group_id)
    if found is not None and found.result == group.result:
        side.store.delete_group(group.group_id)
