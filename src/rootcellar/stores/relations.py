"""The relations between tasks, without those of a task to itself.

In Celery's message for a retry, the task is its own parent. The run that is retried also has the next run among its
children. With such an entry, a walk through the tree of results would never end.
"""

from __future__ import annotations

from typing import Any


def other_than(task_id: str, related: Any) -> Any:
    """Return the id of a related task, or ``None`` if it is the task itself."""
    return None if related == task_id else related


def children_of(task_id: str, children: Any) -> list[Any]:
    """Return the children of a task without the task itself.

    Args:
        task_id: the task.
        children: their results as tuples of ``as_tuple``: ``((id, parent), None)`` for a task, and
            ``((id, parent), members)`` for a group, whose members have the same form. Lists instead of tuples, as
            from JSON, are accepted.
    """
    if not isinstance(children, (list, tuple)):
        return []
    return [kept for child in children if (kept := _without(task_id, child)) is not None]


def _without(task_id: str, child: Any) -> Any:
    match child:
        case [[child_id, *_], None] if child_id == task_id:
            return None
        case [identity, [*members]]:
            return [identity, children_of(task_id, members)]
    return child
