"""Locks that keep a forgotten result from coming back.

A statement that stores a record of the other store looks for a burial. It does not see a burial that another
transaction is storing at the same moment, so it is *guarded*: its transaction first takes a lock that a transaction
which buries the same task does not share. Whichever comes second begins its statements after the first one's commit.

There is a lock for each group of ids, and not for each id, because the server has room for few locks. All
transactions take these locks before any other lock, and in the order of their numbers. A lock ends with its
transaction, so it works through a pooler.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

#: the number of groups of ids; all processes must have the same
GROUPS = 128


def group_of(task_id: str) -> int:
    """Return the group of an id, as the parameter of the statement ``guard_for_one``."""
    return crc32(task_id.encode()) % GROUPS


def groups_of(task_ids: Iterable[str]) -> list[str]:
    """Return the groups of these ids, as the parameter of the statements ``guard`` and ``guard_alone``."""
    return [str(number) for number in sorted(set(map(group_of, task_ids)))]
