"""The relations between tasks, without those of a task to itself.

Celery's message of a retry names the task as its own parent, and the run that is retried counts the next run as a task
that it sent. A tree of results that is followed through such an entry has no end.
"""

from __future__ import annotations

from typing import Any


def other_than(task_id: str, related: Any) -> Any:
    """Return the id of a related task, or ``None`` where it is the task itself."""
    return None if related == task_id else related


def children_of(task_id: str, children: Any) -> list[Any]:
    """Return the children of a task without the task itself.

    Args:
        task_id: the task.
        children: what ``as_tuple`` of their results gave: ``((id, parent), None)`` for a task, and
            ``((id, parent), members)`` for a group, whose members have the same form. Also as lists, as JSON has them.
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
