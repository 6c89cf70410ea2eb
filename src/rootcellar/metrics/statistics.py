"""Counters of results and of failures, from the counts that a store keeps beside its rows.

A counter of Prometheus must not fall: a fall counts as a restart from zero. The counts of a store stay when rows are
deleted, but one of them falls when a task ends again, in another state. So the highest value is kept for each series.

Most of the counts are of the past, and hardly change. They are read once a day, and completed once an hour, up to a
border. Each scrape reads those after the border, and adds both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Generic, TypeVar

from rootcellar.history.failure_groups import BACK, MUTED, NEW, RESOLVED, RISING, STEADY, FailureGroup
from rootcellar.history.grouping.identity import group_of_text
from rootcellar.history.history import History
from rootcellar.metrics import catalogue
from rootcellar.metrics.families import Distribution, Family
from rootcellar.metrics.readings import OTHER, label
from rootcellar.stores.counting import Answer, Counted, Question, Spread, Tally, Unit, step_of

K = TypeVar("K")
V = TypeVar("V")

#: the most tasks that have series of their own, and the most queues of each of them
MAX_TASKS, MAX_QUEUES = 200, 50
#: the most types of exceptions that have series of their own
MAX_EXCEPTIONS = 50
#: each task has a series for each of these states from the start
FROM_START = ("SUCCESS", "FAILURE")
#: how far the border is before the present
BEHIND = timedelta(hours=2)
#: the failures whose groups are looked at in each minute, and the most groups
RECENT_FAILURES, MAX_GROUPS = "since:24h", 1_000
STATUSES = (NEW, BACK, RISING, STEADY, MUTED, RESOLVED)

#: the name, the queue and the state of a task
Key = tuple[str, str, str]
_STEPS = tuple(step_of(limit * 1.0001) for limit in catalogue.TASK_BUCKETS)


class Names:
    """Which names have series of their own. A name keeps its series, and the others are added up as ``other``.

    Args:
        limit: the most names.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def add(self, names: Iterable[str]) -> None:
        """Give names their series, in this order, as long as there is room."""
        for name in names:
            if name not in self._known and len(self._known) < self._limit:
                self._known[name] = label(name)

    def __len__(self) -> int:
        """Return how many names have series of their own."""
        return len(self._known)

    def label(self, name: str) -> str:
        """Return the value of the label for a name."""
        return self._known.get(name, OTHER)


class Past(Generic[K, V]):
    """What was counted up to a border, which follows the present.

    Args:
        read: returns what was counted in a time; ``None`` if that is not known exactly.
        add: returns the sum of two counts.

    Attributes:
        border: the border; ``None`` as long as the past is not known.
    """

    def __init__(
        self,
        read: Callable[[Counted, datetime | None, datetime], Mapping[K, V] | None],
        add: Callable[[V, V], V],
    ) -> None:
        self._read = read
        self._add = add
        self.border: datetime | None = None
        self._counts: Mapping[K, V] = {}

    def move(self, counted: Counted) -> bool:
        """Let the border follow the present; return whether the past is known."""
        border = Unit.HOUR.floor(datetime.now(timezone.utc) - BEHIND)
        if self.border == border:
            return True
        # once a day the whole past is read, because late results and restored ones may have changed it
        is_new_day = self.border is None or self.border.date() != border.date()
        found = self._read(counted, None if is_new_day else self.border, border)
        if found is not None:
            self._counts = found if is_new_day else self.plus(found)
            self.border = border
        return self.border is not None

    def plus(self, recent: Mapping[K, V]) -> dict[K, V]:
        """Return the sum of the past and of what was counted after the border."""
        found = dict(self._counts)
        for key, value in recent.items():
            found[key] = self._add(found[key], value) if key in found else value
        return found


class Statistics:
    """Reads the counters of results of one store. Not thread-safe.

    Attributes:
        tasks: the tasks that have series of their own.
    """

    def __init__(self) -> None:
        self.tasks = Names(MAX_TASKS)
        self._queues: dict[str, Names] = {}
        self._past: Past[Key, Tally] = Past(_exact_counts, _sum)
        #: the highest value of each series
        self._results: dict[tuple[str, ...], float] = {}
        self._run: dict[tuple[str, ...], Distribution] = {}
        self._wait: dict[tuple[str, ...], Distribution] = {}

    def read(self, history: History) -> Iterator[Family]:
        """Yield the counters; none if the store keeps no counts, or has not counted the past yet."""
        counted = history.store.ability(Counted)
        if counted is None or not self._past.move(counted):
            return
        recent = counted.counts(_question(since=self._past.border))
        self._add(self._past.plus(_by_key(recent)))
        yield Family(catalogue.STATISTICS_LAG, {(): recent.behind_by.total_seconds()})
        yield Family(catalogue.RESULTS, dict(self._results))
        yield Family(catalogue.TASK_RUNTIME, dict(self._run))
        yield Family(catalogue.TASK_WAIT, dict(self._wait))

    def _add(self, tallies: Mapping[Key, Tally]) -> None:
        """Raise each series to its new value."""
        self._name(tallies)
        results: dict[tuple[str, ...], float] = {}
        spreads: dict[tuple[str, ...], Tally] = {}
        for (name, queue, state), tally in tallies.items():
            task = self.tasks.label(name)
            place = self._queues[task].label(queue)
            for each in (*FROM_START, label(state)):
                results.setdefault((task, each, place), 0.0)
            results[task, label(state), place] += tally.count
            spreads.setdefault((task, place), Tally()).add(tally)
        _raise(self._results, results)
        for key, tally in spreads.items():
            self._run[key] = _higher(self._run.get(key), _distribution(tally.run))
            self._wait[key] = _higher(self._wait.get(key), _distribution(tally.wait))

    def _name(self, tallies: Mapping[Key, Tally]) -> None:
        """Give the tasks and queues with the most results their series."""
        by_count = sorted(tallies.items(), key=lambda item: (-item[1].count, item[0]))
        self.tasks.add(name for (name, _, _), _ in by_count)
        for (name, queue, _), _ in by_count:
            self._queues.setdefault(self.tasks.label(name), Names(MAX_QUEUES)).add([queue])


class FailureStatistics:
    """Reads the counters of failures of one store, and how many groups of failures there are. Not thread-safe.

    Args:
        tasks: the tasks that have series of their own.
    """

    def __init__(self, tasks: Names) -> None:
        self._tasks = tasks
        self._exceptions = Names(MAX_EXCEPTIONS)
        self._past: Past[tuple[int, str], int] = Past(_failures, int.__add__)
        #: group -> the type of its exceptions
        self._types: dict[int, str] = {}
        #: the highest value of each series
        self._counts: dict[tuple[str, ...], float] = {}

    def read(self, history: History) -> Iterator[Family]:
        """Yield both; nothing if the store keeps no counts."""
        counted = history.store.ability(Counted)
        if counted is None:
            return
        recent = history.failures(RECENT_FAILURES, limit=MAX_GROUPS).groups
        # the types are stored encrypted if there are keys, so only the history can read them
        self._learn(recent if self._types else [*recent, *history.failures(limit=MAX_GROUPS).groups])
        statuses = dict.fromkeys(STATUSES, 0.0)
        for group in recent:
            statuses[group.status if group.status in statuses else STEADY] += 1
        yield Family(catalogue.FAILURE_GROUPS, {(status,): count for status, count in statuses.items()})
        # without the names of tasks, all failures would have the task `other`, and keep it
        if self._past.move(counted) and self._tasks:
            self._add(self._past.plus(_failures(counted, self._past.border, None)))
            yield Family(catalogue.FAILURES, dict(self._counts))

    def _learn(self, groups: Iterable[FailureGroup]) -> None:
        self._types.update({group_of_text(each.group): each.type for each in groups if each.type is not None})

    def _add(self, failures: Mapping[tuple[int, str], int]) -> None:
        """Raise each series to its new value. Failures whose type is not known yet are left out until it is."""
        known = sorted(
            ((self._types[group], name, count) for (group, name), count in failures.items() if group in self._types),
            key=lambda each: -each[2],
        )
        self._exceptions.add(kind for kind, _, _ in known)
        found: dict[tuple[str, ...], float] = {}
        for kind, name, count in known:
            key = (self._tasks.label(name), self._exceptions.label(kind))
            found[key] = found.get(key, 0.0) + count
        _raise(self._counts, found)


def _question(since: datetime | None = None, until: datetime | None = None) -> Question:
    return Question(since=since, until=until, by_name=True, by_queue=True, by_state=True, with_spreads=True)


def _exact_counts(counted: Counted, since: datetime | None, until: datetime) -> Mapping[Key, Tally] | None:
    found = counted.counts(_question(since, until))
    return _by_key(found) if found.is_exact else None


def _failures(counted: Counted, since: datetime | None, until: datetime | None) -> Mapping[tuple[int, str], int]:
    """Return how many failures each group and task has."""
    found: dict[tuple[int, str], int] = {}
    for each in counted.failure_hours(since, until):
        found[each.group, each.name] = found.get((each.group, each.name), 0) + each.count
    return found


def _by_key(answer: Answer) -> Mapping[Key, Tally]:
    return {(cell.name or "", cell.queue or "", cell.state or ""): cell.tally for cell in answer.cells}


def _sum(one: Tally, other: Tally) -> Tally:
    found = Tally()
    found.add(one)
    found.add(other)
    return found


def _distribution(spread: Spread) -> Distribution:
    """Return a spread with the buckets of our histograms. Each bucket consists of whole steps."""
    counts = [0.0] * (len(_STEPS) + 1)
    for step, count in spread.steps.items():
        bucket = next((place for place, limit in enumerate(_STEPS) if step < limit), len(_STEPS))
        counts[bucket] += count
    return Distribution(counts, spread.total)


def _raise(values: dict[tuple[str, ...], float], new: Mapping[tuple[str, ...], float]) -> None:
    """Set each series to its new value, unless the old one is higher."""
    for key, count in new.items():
        values[key] = max(count, values.get(key, 0.0))


def _higher(old: Distribution | None, new: Distribution) -> Distribution:
    if old is None:
        return new
    counts = [max(pair) for pair in zip(old.counts, new.counts, strict=True)]
    return Distribution(counts, max(old.total, new.total))
