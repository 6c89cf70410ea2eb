"""Finds tasks that take longer than any earlier run, and those of them that no worker works on any more.

A task is *late* if it has run longer than any earlier run of its name, or if it was sent and has waited for its start
longer than any earlier one. A late task is *stuck* if nothing shows that it will end: its worker has neither started
nor ended a task for a while, or it has waited for a long time.

Only the rows decide this; no worker is asked. So if a worker has nothing else to do, its task may count as stuck and
still end. If a worker lost a task and another worker has the same name now, the task is only late. A task that waits
for a retry is neither, because the time of its next run is not stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rootcellar.errors import AbilityMissing
from rootcellar.history.filters import Clock, Filter
from rootcellar.history.filters.fields import LOOKED_UP
from rootcellar.history.filters.rows import Opener, Row
from rootcellar.history.filters.tree import And, Field, Node, Not, Or, Pattern, Presence, Text, Value, fields_of
from rootcellar.records import NO_DATE, SENT, TaskRecord, was_only_sent
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted, Question
from rootcellar.stores.fields import moment_of
from rootcellar.stores.search import Condition, Negated, OneOf, Position, Search, Searchable, Segment

#: the most running and the most waiting tasks that are looked at, the most recent first
MAX_UNFINISHED = 100_000
#: the most records that are read in a store without indexes
MAX_SCANNED = 100_000
#: the most tasks in an answer
MAX_FOUND = 10_000
_BATCH = 1_000
_RETRY = "RETRY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From when on a task is late or stuck.

    Attributes:
        least_run: no task is late that has run for less than this.
        unknown_run: if no run of a name has ended, a running task of this name is late after this time.
        least_wait: no task is late that has waited for less than this.
        stuck_wait: a late task that was not started is stuck after this time.
        silence: a late task that runs is stuck if its worker has started and ended nothing for this time.
    """

    least_run: timedelta = timedelta(minutes=1)
    unknown_run: timedelta = timedelta(hours=1)
    least_wait: timedelta = timedelta(minutes=1)
    stuck_wait: timedelta = timedelta(minutes=15)
    silence: timedelta = timedelta(minutes=5)


DEFAULT = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckTask:
    """A task that is late or stuck.

    Attributes:
        record: the task, with values that are decrypted and verified if there is a key.
        since: when it was started; or when it was sent, or should have started, if it was not.
        usual: the longest run, or the longest wait, of earlier tasks of its name; ``None`` if there is none.
        why: what makes it late or stuck, in a sentence.
        is_stuck: whether it is stuck, and not only late.
    """

    record: TaskRecord
    since: datetime
    usual: timedelta | None
    why: str
    is_stuck: bool


@dataclass(slots=True)
class _Usual:
    """The longest run and the longest wait of a name, in seconds, and how many of each are known."""

    run: float = 0.0
    runs: int = 0
    wait: float = 0.0
    waits: int = 0

    def add(self, record: TaskRecord) -> None:
        """Add a record that has ended."""
        if record.sent_at is not None and record.started_at is not None:
            self.wait, self.waits = max(self.wait, (record.started_at - record.sent_at).total_seconds()), self.waits + 1
        if record.started_at is not None and record.done_at not in (None, NO_DATE):
            assert record.done_at is not None
            self.run, self.runs = max(self.run, (record.done_at - record.started_at).total_seconds()), self.runs + 1


_NOTHING_USUAL = _Usual()


@dataclass(slots=True)
class _Evidence:
    """What the rows say.

    Attributes:
        candidates: unfinished tasks that may be late.
        usual: what is usual, by the names of tasks.
        active: returns which of these workers have started or ended a task lately.
    """

    candidates: list[TaskRecord] = field(default_factory=list)
    usual: Mapping[str, _Usual] = field(default_factory=dict)
    active: Callable[[Collection[str]], Collection[str]] = frozenset


def late_tasks(
    store: Store, clock: Clock, matches: Callable[[TaskRecord], bool], opener: Opener, limits: Limits = DEFAULT
) -> list[StuckTask]:
    """Return the late tasks, also those that are stuck, the one that has been late for the longest time first.

    Args:
        store: the store.
        clock: the present.
        matches: says whether a task is wanted.
        opener: opens the values of a record.
        limits: from when on a task is late.

    Raises:
        AbilityMissing: the store has no index, and too many records.
        StoreError: it cannot be read.
    """
    now, evidence = clock.now, _evidence(store, clock.now, limits)
    slow = [record for record in evidence.candidates if _delay(record, evidence.usual, now, limits)]
    slow = heapq.nsmallest(MAX_FOUND, slow, key=lambda record: record.started_at or record.sent_at or NO_DATE)
    # read again, whole: some may have ended since, and the time at which a task should start is in its result
    whole = store.get_many([record.task_id for record in slow])
    workers = {record.worker for record in whole.values() if record.worker is not None}
    active = frozenset(evidence.active(workers)) if workers else frozenset()
    found: list[StuckTask] = []
    for record in whole.values():
        plain = opener(record)
        delay = _delay(plain, evidence.usual, now, limits)
        if delay is not None and matches(record):
            found.append(_judged(plain, delay, limits, active))
    return sorted(found, key=lambda task: (task.since, task.record.task_id))[:MAX_FOUND]


def stuck_tasks(
    store: Store, clock: Clock, matches: Callable[[TaskRecord], bool], opener: Opener, limits: Limits = DEFAULT
) -> list[StuckTask]:
    """Return the stuck tasks, the one that has been stuck for the longest time first. See :func:`late_tasks`."""
    # a task that waits and is not stuck need not be read
    at_least = replace(limits, least_wait=max(limits.least_wait, limits.stuck_wait))
    return [task for task in late_tasks(store, clock, matches, opener, at_least) if task.is_stuck]


def looked_up(query: Filter, store: Store, clock: Clock, opener: Opener) -> Filter:
    """Return a filter in which ``is:late`` and ``is:stuck`` are replaced by the ids of the tasks that are so now.

    Raises:
        AbilityMissing, StoreError: see :func:`late_tasks`.
    """
    words = {word for each in fields_of(query.condition) for word in _words(each)[0]}
    if not words:
        return query
    find = late_tasks if "late" in words else stuck_tasks
    late = find(store, clock, lambda record: True, opener)
    ids = {
        "late": [task.record.task_id for task in late],
        "stuck": [task.record.task_id for task in late if task.is_stuck],
    }
    assert query.condition is not None
    return replace(query, condition=_replaced(query.condition, ids))


def without_unfinished(query: Filter) -> Filter:
    """Return a filter for tasks that have ended: in it, no task is late or stuck."""
    if query.condition is None or not any(_words(each)[0] for each in fields_of(query.condition)):
        return query
    return replace(query, condition=_replaced(query.condition, {"late": [], "stuck": []}))


def _words(term: Field) -> tuple[list[str], list[Value]]:
    """Return the words of a term that must be looked up, and its other values."""
    if term.name != "is":
        return [], list(term.values)
    texts = [value.text or "" for value in term.values if isinstance(value, Pattern) and value.text in LOOKED_UP]
    return texts, [value for value in term.values if not (isinstance(value, Pattern) and value.text in LOOKED_UP)]


def _replaced(node: Node, ids: Mapping[str, Sequence[str]]) -> Node:
    match node:
        case And(terms):
            replaced = [_replaced(term, ids) for term in terms]
            return And(tuple(inner for term in replaced for inner in (term.terms if isinstance(term, And) else [term])))
        case Or(terms):
            replaced = [_replaced(term, ids) for term in terms]
            return Or(tuple(inner for term in replaced for inner in (term.terms if isinstance(term, Or) else [term])))
        case Not(term):
            return Not(_replaced(term, ids))
        case Field():
            words, others = _words(node)
            if not words:
                return node
            found = _any_of_ids([task_id for word in words for task_id in ids[word]])
            return Or((found, replace(node, values=tuple(others)))) if others else found
        case Text():
            return node


def _any_of_ids(ids: Sequence[str]) -> Node:
    """Return the condition that an unfinished task has one of these ids."""
    if not ids:
        return Not(Field("id", (Presence(is_there=True),)))
    patterns = tuple(Pattern((task_id,), is_quoted=True) for task_id in dict.fromkeys(ids))
    return And((Field("id", patterns), Field("state", (Pattern(("unfinished",)),))))


# -- is a task late?


@dataclass(frozen=True, slots=True)
class _Delay:
    """How long an unfinished task has run or waited, if that is too long.

    Attributes:
        since: when it was started, or should have been.
        length: how long ago that is.
        usual: the longest run or wait of earlier tasks, if one is known.
        count: of how many.
        was_started: whether it runs.
    """

    since: datetime
    length: timedelta
    usual: timedelta | None
    count: int
    was_started: bool


def _delay(record: TaskRecord, usual: Mapping[str, _Usual], now: datetime, limits: Limits) -> _Delay | None:
    """Return how long a task has run or waited; ``None`` if it is not late."""
    if record.done_at is not None:
        return None
    known = usual.get(record.name or "", _NOTHING_USUAL)
    if was_only_sent(record):
        since, seconds, count = _due(record), known.wait, known.waits
        least = limits.least_wait
    elif record.started_at is not None and record.state != _RETRY:
        since, seconds, count = record.started_at, known.run, known.runs
        least = limits.least_run if count else limits.unknown_run
    else:
        return None
    longest, length = timedelta(seconds=seconds), now - since
    if length <= max(least, longest):
        return None
    return _Delay(since, length, longest if count else None, count, was_started=record.started_at is not None)


def _due(record: TaskRecord) -> datetime:
    """Return when a task that was sent should start: its ETA, if it has one that can be read."""
    assert record.sent_at is not None
    if record.result is None:
        return record.sent_at
    known = Row(record).result
    eta = moment_of(known.get("eta")) if isinstance(known, dict) else None
    return record.sent_at if eta is None else max(eta, record.sent_at)


def _judged(record: TaskRecord, delay: _Delay, limits: Limits, active: Collection[str]) -> StuckTask:
    """Return a late task, with the reason."""
    if delay.was_started:
        is_stuck = record.worker is None or record.worker not in active
        runs = f"the longest of {delay.count:,} runs took" if delay.usual is not None else "no earlier run has ended"
        sign = "started and ended nothing for" if is_stuck else "started or ended other tasks in the last"
        parts = [f"it has run for {_s(delay.length)}", runs, f"its worker has {sign} {_s(limits.silence)}"]
    else:
        is_stuck = delay.length > limits.stuck_wait
        waits = f"the longest of {delay.count:,} waits took" if delay.usual is not None else "no earlier wait is known"
        parts = [f"it was sent and has not started for {_s(delay.length)}", waits]
    if delay.usual is not None:
        parts[1] += f" {_s(delay.usual)}"
    return StuckTask(record=record, since=delay.since, usual=delay.usual, why="; ".join(parts), is_stuck=is_stuck)


def _s(length: timedelta) -> str:
    """Return a length of time as people write it, with at most two units."""
    seconds = length.total_seconds()
    if seconds < 60:
        return f"{seconds:.3g} s"
    parts: list[str] = []
    left = round(seconds)
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        number, left = divmod(left, unit)
        if number or parts:
            parts.append(f"{number} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


# -- what the rows say


def _evidence(store: Store, now: datetime, limits: Limits) -> _Evidence:
    searchable, counted = store.ability(Searchable), store.ability(Counted)
    silence = now - limits.silence
    if searchable is None or counted is None:
        return _scanned(store, now - min(limits.least_run, limits.least_wait), silence)
    was_sent = OneOf("status", (SENT,))
    candidates = [
        *_unfinished(searchable, Negated(was_sent), now - limits.least_run),
        *_unfinished(searchable, was_sent, now - limits.least_wait),
    ]
    names = {record.name or "" for record in candidates}
    usual = _usual(counted, names) if names else {}
    return _Evidence(candidates, usual, lambda workers: _active(searchable, workers, silence))


def _unfinished(store: Searchable, condition: Condition, until: datetime) -> Iterator[TaskRecord]:
    """Yield the unfinished tasks that meet a condition and were started, or else sent, before a moment."""
    after: Position | None = None
    for _ in range(MAX_UNFINISHED // _BATCH):
        page = store.search(
            Search(
                segment=Segment.UNFINISHED,
                condition=condition,
                after=after,
                until=until,
                limit=_BATCH,
                with_values=False,
            )
        )
        yield from (found.record for found in page)
        if len(page) < _BATCH:
            return
        after = page[-1].position


def _usual(store: Counted, names: Collection[str]) -> dict[str, _Usual]:
    """Return the longest run and wait of each of these names."""
    answer = store.counts(Question(names=tuple(sorted(names)), by_name=True, by_state=False))
    return {
        cell.name or "": _Usual(
            cell.tally.run.longest, cell.tally.run.count, cell.tally.wait.longest, cell.tally.wait.count
        )
        for cell in answer.cells
    }


def _active(store: Searchable, workers: Collection[str], since: datetime) -> set[str]:
    """Return which of these workers have started or ended a task since a moment."""
    silent = set(workers)
    for segment in (Segment.FINISHED, Segment.UNFINISHED):
        while silent:
            condition = OneOf("worker", tuple(sorted(silent)))
            page = store.search(Search(segment=segment, condition=condition, since=since, limit=100, with_values=False))
            seen = {found.record.worker for found in page if found.record.worker is not None}
            if not seen & silent:
                break
            silent -= seen
    return set(workers) - silent


def _scanned(store: Store, until: datetime, silence: datetime) -> _Evidence:
    """Read every record of a store without an index."""
    usual: dict[str, _Usual] = {}
    candidates: list[TaskRecord] = []
    active: set[str] = set()
    for record in _all(store):
        last = max(filter(None, (record.started_at, record.done_at)), default=None)
        if record.worker is not None and last is not None and last >= silence:
            active.add(record.worker)
        if record.done_at is not None:
            usual.setdefault(record.name or "", _Usual()).add(record)
        elif (moment := record.started_at or record.sent_at) is not None and moment < until:
            candidates.append(record)
    return _Evidence(candidates, usual, lambda workers: active & set(workers))


def _all(store: Store) -> Iterable[TaskRecord]:
    after: str | None = None
    for _ in range(MAX_SCANNED // _BATCH):
        batch = store.scan(after, _BATCH)
        yield from batch
        if len(batch) < _BATCH:
            return
        after = batch[-1].task_id
    raise AbilityMissing(
        f"this store has no index, and more than {MAX_SCANNED:,} results",
        where=store.where,
        remedy="keep results that you want to ask about in PostgreSQL, MySQL, SQLite or the hybrid of Redis and "
        "PostgreSQL",
    )
