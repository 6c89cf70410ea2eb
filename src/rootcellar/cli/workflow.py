"""Prints the workflow of a task as a tree, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from rich.text import Text

from rootcellar.cli.output import state_style, visible
from rootcellar.cli.times import seconds_between, show_seconds
from rootcellar.cli.values import known
from rootcellar.history.tree import TaskNode, TaskTree
from rootcellar.records import TaskRecord

#: a larger group is summarised
_MAX_MEMBERS = 12
#: the members of a summarised group that are listed because they failed
_MAX_FAILED = 3
#: deeper tasks are not indented further
_MAX_INDENT = 8
_ID, _TIME, _STATE, _WIDTH = 8, 9, 7, 78


def has_workflow(tree: TaskTree) -> bool:
    """Return whether a task has any relation to others."""
    return tree.count > 1 or bool(tree.missing) or any(root.group_id for root in tree.roots)


def workflow_lines(tree: TaskTree, *, full_ids: bool = False) -> Iterator[Text]:
    """Yield the lines of a workflow: its numbers, then each task with its wait and run.

    Args:
        tree: the workflow.
        full_ids: whether ids are printed whole; otherwise no line is wider than 80 columns with an indent of two.
    """
    tasks = f"{tree.count:,} task{'' if tree.count == 1 else 's'}"
    total = f" in {show_seconds(tree.total.total_seconds())}" if tree.total is not None else ""
    unfinished = f", {tree.unfinished:,} unfinished" if tree.unfinished else ""
    yield Text(f"{tasks}{total}{unfinished}; > this task, * on the critical path")
    rest = _WIDTH - 4 - 2 * (_TIME + 1) - _ID - 2
    yield Text(f"    {'TASK':{rest}} {'WAIT':>{_TIME}} {'RUN':>{_TIME}}  ID", style="dim")
    for root in tree.roots:
        for task_id, line in _lines(root, 0, "", tree):
            yield line.append(visible(task_id if full_ids else task_id[:_ID]), style="dim")
    if tree.missing:
        yield Text(f"{len(tree.missing):,} more without a record, such as {visible(tree.missing[0])}.")
    if tree.is_cut:
        yield Text("It has more tasks, which are not shown.")
    elif tree.searched_until is not None:
        until = tree.searched_until.astimezone()
        yield Text(f"Members of groups were searched until {until:%Y-%m-%d %H:%M}.", style="dim")


def _lines(node: TaskNode, depth: int, prefix: str, tree: TaskTree) -> Iterator[tuple[str, Text]]:
    """Yield the id that ends each line, and the line before it."""
    below = depth + 1
    if node.group_id:
        text = "  " * min(depth, _MAX_INDENT) + f"    {prefix}{_group(node)}"
        yield "", Text(text[:_WIDTH], style="dim")
        shown, left_out = _shown(node.children, tree)
        for child in shown:
            yield from _lines(child, below, "", tree)
        if left_out:
            yield "", Text("  " * min(below, _MAX_INDENT) + f"    … {left_out:,} more", style="dim")
    else:
        yield node.task_id, _task_line(node, depth, prefix, tree)
        # a chain is printed without indents
        is_chain = len(node.children) == 1
        for child in node.children:
            yield from _lines(child, depth if is_chain else below, "then " if is_chain else "", tree)
    for body in node.then:
        yield from _lines(body, depth, "then ", tree)


def _task_line(node: TaskNode, depth: int, prefix: str, tree: TaskTree) -> Text:
    record = node.record
    state = visible(record.state) if record else "not stored"
    name = visible(record.name or "(no name)") if record else ""
    marks = f"{'>' if node.task_id == tree.task_id else ' '}{'*' if node.is_critical else ' '}  "
    indent = "  " * min(depth, _MAX_INDENT)
    room = _WIDTH - len(marks) - 2 * (_TIME + 1) - _ID - 2
    lead = f"{indent}{prefix}"
    left = room - len(lead) - max(len(state), _STATE) - 2
    wait, run = _times(record)
    line = Text(marks, style="bold" if node.is_critical else "")
    line.append(lead, style="dim").append(f"{state:{_STATE}}", style=state_style(state)).append("  ")
    line.append(f"{_cut(name, left):{left}}", style="bold" if node.task_id == tree.task_id else "")
    return line.append(f" {wait:>{_TIME}} {run:>{_TIME}}  ")


def _times(record: TaskRecord | None) -> tuple[str, str]:
    if record is None:
        return "-", "-"
    return (
        show_seconds(seconds_between(record.sent_at, record.started_at)),
        show_seconds(seconds_between(record.started_at, known(record.done_at))),
    )


def _cut(name: str, room: int) -> str:
    """Return the end of a name, which says more than its begin."""
    return name if len(name) <= room else f"…{name[len(name) - room + 1 :]}"


def _group(node: TaskNode) -> str:
    members = [child for child in node.children if child.record is not None]
    states = Counter(child.record.state for child in members if child.record is not None)
    counts = ", ".join(f"{count:,} {visible(state)}" for state, count in states.most_common(4))
    runs = [
        seconds
        for child in members
        if child.record is not None
        and (seconds := seconds_between(child.record.started_at, known(child.record.done_at))) is not None
    ]
    span = f"; each ran {show_seconds(min(runs))} to {show_seconds(max(runs))}" if len(runs) > 1 else ""
    return f"group of {len(node.children):,}: {counts or 'nothing stored'}{span}"


def _shown(members: Sequence[TaskNode], tree: TaskTree) -> tuple[list[TaskNode], int]:
    """Return the members of a group to list, and how many are left out."""
    if len(members) <= _MAX_MEMBERS:
        return list(members), 0
    failed = [member for member in members if member.record is not None and member.record.state == "FAILURE"]
    listed = {id(member) for member in failed[:_MAX_FAILED]}
    shown = [
        member
        for member in members
        if id(member) in listed or any(each.is_critical or each.task_id == tree.task_id for each in member.walk())
    ]
    return shown, len(members) - len(shown)


def workflow_object(tree: TaskTree) -> dict[str, Any]:
    """Return a workflow as plain JSON: durations in seconds, times in ISO 8601 and UTC."""
    return {
        "tasks": tree.count,
        "unfinished": tree.unfinished,
        "total_seconds": _seconds(tree.total),
        "critical_path": [
            {
                "task_id": step.task_id,
                "name": step.name,
                "state": step.state,
                "wait_seconds": _seconds(step.waited),
                "run_seconds": _seconds(step.ran),
            }
            for step in tree.critical_path
        ],
        "tree": [_object(root) for root in tree.roots],
        "missing": list(tree.missing),
        "searched_until": None if tree.searched_until is None else tree.searched_until.isoformat(),
        "is_cut": tree.is_cut,
    }


def _object(node: TaskNode) -> dict[str, Any]:
    if node.group_id:
        return {
            "group_id": node.group_id,
            "members": [_object(child) for child in node.children],
            "then": [_object(body) for body in node.then],
        }
    record = node.record
    return {
        "task_id": node.task_id,
        "name": record.name if record else None,
        "state": record.state if record else None,
        "wait_seconds": seconds_between(record.sent_at, record.started_at) if record else None,
        "run_seconds": seconds_between(record.started_at, known(record.done_at)) if record else None,
        "is_critical": node.is_critical,
        "children": [_object(child) for child in node.children],
    }


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
