"""The workflow of a task: its chains, groups and chords as a tree, with times and the critical path.

Records name their parent, their root, their group and their children, and are read by id. The members of a group that
no task sent, and the body of a chord, are named by no other record. They are searched among the tasks that ended after
the group began, in steps that grow, until the time is over, or until an hour after the end of a group without gaps.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.errors import PayloadError, RootcellarError
from rootcellar.history.filters import Clock
from rootcellar.history.filters.tree import And, Field, Filter, Moment, Pattern
from rootcellar.history.lists import Tasks
from rootcellar.payloads import Codec
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.fields import FAILURES
from rootcellar.stores.relations import children_of, other_than
from rootcellar.stores.search import Searchable
from rootcellar.text.escaping import visible

#: the most records of a workflow, and the most levels of a tree
MAX_RECORDS, MAX_DEPTH = 2_000, 100
#: seconds that searching may take
BUDGET = 1.0
#: seconds that reading the tasks that records name may take, because each task of a chain is a call of the store
READ_BUDGET = 10.0
#: how long after the begin of a group its tasks are searched first; each further step is four times as long
_FIRST_STEP = timedelta(minutes=10)
_CLOCK_SKEW = timedelta(minutes=1)
_QUIET = timedelta(hours=1)
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class TaskNode:
    """A task of a workflow, or a group of tasks.

    Attributes:
        task_id: the task; empty for a group.
        record: its record; ``None`` for a group, and for a task without a record.
        group_id: the group, if this is one.
        children: the tasks and groups that the task sent, or that a chain has after it; the members of a group.
        then: the body of a chord, after the tasks of its header.
        is_critical: whether the task is on the critical path.
    """

    task_id: str = ""
    record: TaskRecord | None = None
    group_id: str = ""
    children: tuple[TaskNode, ...] = ()
    then: tuple[TaskNode, ...] = ()
    is_critical: bool = False

    def walk(self) -> Iterator[TaskNode]:
        """Yield this node and all below it."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += [*reversed(node.then), *reversed(node.children)]


@dataclass(frozen=True, slots=True)
class Step:
    """A task on the critical path.

    Attributes:
        task_id, name, state: the task.
        waited: how long it waited to be started; ``None`` if unknown.
        ran: how long it ran, until it ended or, if that was earlier, until it sent the next task of the path; ``None``
            if unknown.
    """

    task_id: str
    name: str | None
    state: str
    waited: timedelta | None
    ran: timedelta | None


@dataclass(frozen=True, slots=True)
class TaskTree:
    """The workflow of a task.

    Attributes:
        task_id: the task that was asked for.
        roots: the tasks and groups at the top; usually one.
        count: how many tasks are stored.
        total: from the first sending to the last end, or to the present if a task has not ended; ``None`` if unknown.
        critical_path: the tasks that decide the total time, from the first to the last: without one of them, or if one
            of them were faster, the workflow would have ended earlier. Empty if not all tasks were read.
        unfinished: how many tasks have not ended.
        missing: ids that a record names, but that have no record.
        searched_until: if the workflow has groups: up to what time members and bodies that no record names were
            searched; ``None`` if this was not needed, or the store cannot search.
        is_cut: whether not all tasks were read, or are in the tree.
    """

    task_id: str
    roots: tuple[TaskNode, ...]
    count: int
    total: timedelta | None
    critical_path: tuple[Step, ...]
    unfinished: int
    missing: tuple[str, ...]
    searched_until: datetime | None
    is_cut: bool

    def walk(self) -> Iterator[TaskNode]:
        """Yield every node, from the top."""
        for root in self.roots:
            yield from root.walk()


def tree_of(store: Store, codec: Codec, clock: Clock, task_id: str, budget: float = BUDGET) -> TaskTree:
    """Return the workflow of a task.

    Args:
        store: the store.
        codec: opens the records.
        clock: the present.
        task_id: any task of the workflow.
        budget: seconds that the search for members of groups may take.

    Raises:
        RootcellarError: nothing is stored of the task.
    """
    found = _Collected(store, codec, clock, budget)
    found.read([task_id])
    if task_id not in found.records:
        raise RootcellarError(
            f"nothing is stored of task {visible(task_id)}",
            where=store.where,
            remedy="it is unknown, or its result has expired: `rootcellar explain symptom-missing` says more",
        )
    found.complete()
    return _built(found, task_id)


class _Collected:
    """The records of a workflow, by id, and what they name."""

    def __init__(self, store: Store, codec: Codec, clock: Clock, budget: float) -> None:
        self._store = store
        self._codec = codec
        self.clock = clock
        self._end = time.monotonic() + budget
        self._read_until = time.monotonic() + READ_BUDGET
        self.records: dict[str, TaskRecord] = {}
        self.missing: dict[str, None] = {}
        #: the parent of each child that a record names, and the members of each named group
        self.parents: dict[str, str] = {}
        self.members: dict[str, list[str]] = defaultdict(list)
        self.searched_until: datetime | None = None
        self.is_cut = False

    def complete(self) -> None:
        """Read and search until nothing new is found."""
        searched: set[str] = set()
        while True:
            groups = {record.group_id for record in self.records.values() if record.group_id} - searched
            if not groups or self.is_cut or self._store.ability(Searchable) is None:
                return
            searched |= groups
            self._search(groups)

    def read(self, task_ids: Iterable[str]) -> None:
        """Read tasks, and those that they name, and those that these name."""
        todo = [*dict.fromkeys(task_ids)]
        while not self.is_cut:
            todo = [each for each in dict.fromkeys(todo) if each not in self.records and each not in self.missing]
            if not todo:
                return
            room = MAX_RECORDS - len(self.records)
            if len(todo) > room or time.monotonic() > self._read_until:
                self.is_cut = True
                todo = todo[:room]
            following: list[str] = []
            for some in _batches(todo):
                stored = self._store.get_many(some)
                self.missing.update(dict.fromkeys(each for each in some if each not in stored))
                for record in stored.values():
                    following += self._add(record)
            todo = following

    def _add(self, record: TaskRecord) -> list[str]:
        """Add a record; return the ids that it names."""
        record = self._codec.opened(record)[0]
        self.records[record.task_id] = record
        named = [each for each in (record.root_id, other_than(record.task_id, record.parent_id)) if each]
        for child, members in _children(record, self._codec):
            self.parents.setdefault(child, record.task_id)
            if members is None:
                named.append(child)
                continue
            self.members[child] += members
            named += members
        return named

    def _search(self, groups: set[str]) -> None:
        """Search the tasks of groups, in steps that grow, from when the first of their known tasks was sent."""
        known = [record for record in self.records.values() if record.group_id in groups]
        moments = [each for record in known if (each := record.sent_at or record.started_at or _done(record))]
        if not moments:
            return
        begin, step = min(moments) - _CLOCK_SKEW, _FIRST_STEP
        wanted = Field("group", tuple(Pattern((group,), is_quoted=True) for group in sorted(groups)))
        while begin < self.clock.now and (left := self._end - time.monotonic()) > 0 and not self.is_cut:
            until = min(begin + step, self.clock.now + _CLOCK_SKEW)
            window = (Field("since", (_moment(begin),)), Field("until", (_moment(until),)))
            query = Filter(And((wanted, *window)))
            page = Tasks(self._store, self._codec, query, self.clock, size=MAX_RECORDS, budget=left).page()
            self.read(record.task_id for record in page.records)
            self.is_cut = self.is_cut or (page.cursor is not None and page.searched_back_to is None)
            if page.searched_back_to is not None:
                return
            self.searched_until = max(self.searched_until or until, until)
            begin, step = until, step * 4
            if self._seems_whole(groups, until):
                return

    def _seems_whole(self, groups: set[str], until: datetime) -> bool:
        """Return whether no place of these groups is empty, and nothing happened in the last hour before ``until``."""
        known = [record for record in self.records.values() if record.group_id in groups]
        if any(record.done_at is None or record.done_at > until - _QUIET for record in known):
            return False
        places: dict[str, set[int]] = defaultdict(set)
        for record in known:
            if record.group_id and record.group_index is not None:
                places[record.group_id].add(record.group_index)
        return all(len(found) == max(found) + 1 for found in places.values())


def _children(record: TaskRecord, codec: Codec) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the children that a record names: a task with ``None``, a group with the ids of all its members."""
    if record.children is None:
        return
    try:
        found = codec.decode_open(record.children, task_id=record.task_id, field="children")
    except PayloadError:
        return
    for child in children_of(record.task_id, found):
        try:
            identity, members = child
            child_id = identity if isinstance(identity, str) else identity[0]
            if not isinstance(child_id, str):
                continue
            yield child_id, None if members is None else list(_ids(members))
        except FAILURES:
            continue


def _ids(members: Any, depth: int = 0) -> Iterator[str]:
    """Yield the ids of the tasks in the tuples of a group's members."""
    for identity, inner in members if depth < MAX_DEPTH else ():
        if inner is None:
            yield identity if isinstance(identity, str) else identity[0]
        else:
            yield from _ids(inner, depth + 1)


# -- building


@dataclass(slots=True)
class _Links:
    """The places of tasks and groups in the tree: what is below each key, which is a task's id or ``group:ID``."""

    below: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    bodies: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    placed: set[str] = field(default_factory=set)
    #: whether there are more levels than a tree may have
    is_cut: bool = False


def _built(found: _Collected, task_id: str) -> TaskTree:
    links = _linked(found)
    before = _predecessors(found.records, links)
    path = [] if found.is_cut else _critical_path(found, before)
    critical = {record.task_id for record in path}
    keys = [key for key in (*_group_keys(found), *found.records) if key not in links.placed]
    roots = tuple(node for key in keys if (node := _node(key, found, links, critical, MAX_DEPTH)) is not None)
    if not any(task_id == node.task_id for root in roots for node in root.walk()):
        # a circle of relations has no top
        own = _node(task_id, found, links, critical, MAX_DEPTH)
        roots = (own,) if own is not None else roots
    unfinished = sum(record.done_at is None for record in found.records.values())
    return TaskTree(
        task_id=task_id,
        roots=roots,
        count=len(found.records),
        total=_total(path, found.clock.now),
        critical_path=tuple(_steps(path)),
        unfinished=unfinished,
        missing=tuple(found.missing),
        searched_until=found.searched_until and min(found.searched_until, found.clock.now),
        is_cut=found.is_cut or links.is_cut,
    )


def _group_keys(found: _Collected) -> list[str]:
    ids = {record.group_id: None for record in found.records.values() if record.group_id}
    return [f"group:{each}" for each in {**ids, **dict.fromkeys(found.members)}]


def _linked(found: _Collected) -> _Links:
    """Return what is below each task and each group."""
    links = _Links()
    owners: dict[str, str] = {}
    senders: dict[str, set[str | None]] = defaultdict(set)
    for group_id in found.members:
        if (parent := found.parents.get(group_id)) is not None:
            owners[group_id] = parent

    def place(key: str, above: str, *, is_body: bool = False) -> None:
        (links.bodies if is_body else links.below)[above].append(key)
        links.placed.add(key)

    for task_id, record in found.records.items():
        parent = found.parents.get(task_id) or other_than(task_id, record.parent_id)
        if record.group_id is not None:
            place(task_id, f"group:{record.group_id}", is_body=record.group_index is None)
            if record.group_index is not None:
                senders[record.group_id].add(parent if parent in found.records else None)
        elif parent in found.records:
            place(task_id, str(parent))
    for group_id, parents in senders.items():
        # the ends of several chains have different parents: none of these sent the group
        if len(parents) == 1 and (parent := parents.pop()) is not None:
            owners.setdefault(group_id, parent)
    group_of = {task_id: each for each, members in found.members.items() for task_id in members}
    for task_id in found.missing:
        if (own_group := group_of.get(task_id)) is not None:
            place(task_id, f"group:{own_group}")
        elif (parent := found.parents.get(task_id)) is not None:
            place(task_id, parent)
    for group_id, parent in owners.items():
        place(f"group:{group_id}", parent)
    for task_ids in (*links.below.values(), *links.bodies.values()):
        task_ids.sort(key=lambda key: _order(key, found))
    return links


def _order(key: str, found: _Collected) -> tuple[int, datetime, str]:
    record = found.records.get(key)
    far = datetime.max.replace(tzinfo=timezone.utc)
    if record is None:
        return (1 << 31, far, key)
    return (record.group_index or 0, record.sent_at or record.started_at or far, key)


def _node(key: str, found: _Collected, links: _Links, critical: set[str], depth: int) -> TaskNode | None:
    """Return the node of a key with everything below it; ``None`` for an empty group."""

    def nodes(keys: Sequence[str]) -> tuple[TaskNode, ...]:
        if depth == 0:
            links.is_cut = links.is_cut or bool(keys)
            return ()
        return tuple(node for each in keys if (node := _node(each, found, links, critical, depth - 1)) is not None)

    children, then = nodes(links.below.get(key, ())), nodes(links.bodies.get(key, ()))
    if key.startswith("group:") and key not in found.records:
        if not children and not then:
            return None
        return TaskNode(group_id=key.removeprefix("group:"), children=children, then=then)
    return TaskNode(
        task_id=key, record=found.records.get(key), children=children, then=then, is_critical=key in critical
    )


# -- the critical path


def _predecessors(records: Mapping[str, TaskRecord], links: _Links) -> dict[str, str]:
    """Return for each task the one without which it would not have been sent: the last of a header, or its parent."""
    before: dict[str, str] = {}
    for above, keys in links.below.items():
        for key in keys:
            if not above.startswith("group:"):
                before[key] = above
    for group, bodies in links.bodies.items():
        header = [records[key] for key in links.below.get(group, ()) if key in records]
        if not header:
            continue
        last = max(header, key=lambda record: (record.done_at is None, record.done_at or NO_DATE))
        before.update(dict.fromkeys(bodies, last.task_id))
    for above, keys in links.below.items():
        for key in keys if above.startswith("group:") else ():
            # a member that is the end of a chain has a parent of its own
            sender = _parent(key, records) or before.get(above)
            if sender is not None:
                before[key] = sender
    return before


def _parent(key: str, records: Mapping[str, TaskRecord]) -> str | None:
    """Return the parent that a task names, if it is known."""
    parent = other_than(key, records[key].parent_id) if key in records else None
    return parent if parent in records else None


def _critical_path(found: _Collected, before: Mapping[str, str]) -> list[TaskRecord]:
    """Return the records on the critical path, from the first to the last."""
    now = found.clock.now
    ends = [(_done(record) or now, record) for record in found.records.values() if record.sent_at or record.started_at]
    if len(found.records) < 2 or not ends:
        return []
    # of several unfinished tasks, the one that has been there for the longest time
    _, last = max(ends, key=lambda each: (each[0], -(_begin(each[1]) or now).timestamp(), each[1].task_id))
    path, seen = [last], {last.task_id}
    while (key := before.get(path[-1].task_id)) is not None and key in found.records and key not in seen:
        seen.add(key)
        path.append(found.records[key])
    return path[::-1]


def _steps(path: list[TaskRecord]) -> Iterator[Step]:
    for record, following in itertools.zip_longest(path, path[1:]):
        start, end = record.started_at, _done(record)
        if following is not None and following.sent_at is not None and (end is None or following.sent_at < end):
            end = following.sent_at
        waited = None if start is None or record.sent_at is None else start - record.sent_at
        ran = None if start is None or end is None else max(end - start, timedelta())
        yield Step(record.task_id, record.name, record.state, waited, ran)


def _total(path: list[TaskRecord], now: datetime) -> timedelta | None:
    begin = _begin(path[0]) if path else None
    return None if begin is None else (_done(path[-1]) or now) - begin


def _begin(record: TaskRecord) -> datetime | None:
    return record.sent_at or record.started_at


def _done(record: TaskRecord) -> datetime | None:
    return None if record.done_at == NO_DATE else record.done_at


def _moment(moment: datetime) -> Moment:
    return Moment(f"{moment.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}")


def _batches(task_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(task_ids), _AT_ONCE):
        yield task_ids[start : start + _AT_ONCE]
