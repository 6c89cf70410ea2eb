"""Counters of results and of failures, from the counts that a store keeps beside its rows.

A counter of Prometheus must not fall: a fall counts as a restart from zero. The counts of a store stay when rows are
deleted, but one of them falls when a task ends again, in another state. So the highest value is kept for each series.

Most of the counts are of the past, and hardly change. They are read once a day, and completed once an hour, up to a
border. Each scrape reads those after the border, and adds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

from rootcellar.history.history import History
from rootcellar.metrics import catalogue
from rootcellar.metrics.families import Distribution, Family
from rootcellar.metrics.readings import OTHER, label
from rootcellar.stores.counting import Answer, Counted, Question, Spread, Tally, Unit, step_of

#: the most tasks that have series of their own, and the most queues of each of them
MAX_TASKS, MAX_QUEUES = 200, 50
#: the most types of exceptions that have series of their own
MAX_EXCEPTIONS = 50
#: the states of which each task has a series from the start
FROM_START = ("SUCCESS", "FAILURE")
#: how far the border is before the present
BEHIND = timedelta(hours=2)

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

    def label(self, name: str) -> str:
        """Return the value of the label for a name."""
        return self._known.get(name, OTHER)


class Statistics:
    """Reads the counters of one store. Not thread-safe."""

    def __init__(self) -> None:
        self._border: datetime | None = None
        #: the counts up to the border
        self._past: dict[Key, Tally] = {}
        self._tasks = Names(MAX_TASKS)
        self._queues: dict[str, Names] = {}
        #: the highest value of each series
        self._results: dict[tuple[str, ...], float] = {}
        self._run: dict[tuple[str, ...], Distribution] = {}
        self._wait: dict[tuple[str, ...], Distribution] = {}

    def read(self, history: History) -> Iterator[Family]:
        """Yield the counters; none if the store keeps no counts, or has not counted the past yet."""
        counted = history.store.ability(Counted)
        if counted is None:
            return
        if not self._move_border(counted):
            return
        recent = counted.counts(_question(since=self._border))
        self._add(_sum(self._past, _by_key(recent)))
        yield Family(catalogue.STATISTICS_LAG, {(): recent.behind_by.total_seconds()})
        yield Family(catalogue.RESULTS, dict(self._results))
        yield Family(catalogue.TASK_RUNTIME, dict(self._run))
        yield Family(catalogue.TASK_WAIT, dict(self._wait))

    def _move_border(self, counted: Counted) -> bool:
        """Read the past, if the border is an hour old or older; return whether the past is known."""
        border = Unit.HOUR.floor(datetime.now(timezone.utc) - BEHIND)
        if self._border == border:
            return True
        # once a day the whole past is read, because late results and restored ones may have changed it
        is_new_day = self._border is None or self._border.date() != border.date()
        found = counted.counts(_question(since=None if is_new_day else self._border, until=border))
        if found.is_exact:
            self._past = _by_key(found) if is_new_day else _sum(self._past, _by_key(found))
            self._border = border
        return self._border is not None

    def _add(self, tallies: dict[Key, Tally]) -> None:
        """Raise each series to its new value."""
        self._name(tallies)
        results: dict[tuple[str, ...], float] = {}
        spreads: dict[tuple[str, ...], Tally] = {}
        for (name, queue, state), tally in tallies.items():
            task, place = self._tasks.label(name), self._queues.get(self._tasks.label(name), _NOWHERE).label(queue)
            for each in (*FROM_START, label(state)):
                results.setdefault((task, each, place), 0.0)
            results[task, label(state), place] += tally.count
            spreads.setdefault((task, place), Tally()).add(tally)
        for key, count in results.items():
            self._results[key] = max(count, self._results.get(key, 0.0))
        for key, tally in spreads.items():
            self._run[key] = _raised(self._run.get(key), _distribution(tally.run))
            self._wait[key] = _raised(self._wait.get(key), _distribution(tally.wait))

    def _name(self, tallies: dict[Key, Tally]) -> None:
        """Give the tasks and queues with the most results their series."""
        by_count = sorted(tallies.items(), key=lambda item: (-item[1].count, item[0]))
        self._tasks.add(name for (name, _, _), _ in by_count)
        for (name, queue, _), _ in by_count:
            self._queues.setdefault(self._tasks.label(name), Names(MAX_QUEUES)).add([queue])


_NOWHERE = Names(0)


def _question(since: datetime | None = None, until: datetime | None = None) -> Question:
    return Question(since=since, until=until, by_name=True, by_queue=True, by_state=True, with_spreads=True)


def _by_key(answer: Answer) -> dict[Key, Tally]:
    return {(cell.name or "", cell.queue or "", cell.state or ""): cell.tally for cell in answer.cells}


def _sum(past: dict[Key, Tally], recent: dict[Key, Tally]) -> dict[Key, Tally]:
    found: dict[Key, Tally] = {}
    for part in (past, recent):
        for key, tally in part.items():
            found.setdefault(key, Tally()).add(tally)
    return found


def _distribution(spread: Spread) -> Distribution:
    """Return a spread with the buckets of our histograms, each of which consists of whole steps."""
    counts = [0.0] * (len(_STEPS) + 1)
    for step, count in spread.steps.items():
        bucket = next((place for place, limit in enumerate(_STEPS) if step < limit), len(_STEPS))
        counts[bucket] += count
    return Distribution(counts, spread.total)


def _raised(old: Distribution | None, new: Distribution) -> Distribution:
    if old is None:
        return new
    counts = [max(pair) for pair in zip(old.counts, new.counts, strict=True)]
    return Distribution(counts, max(old.total, new.total))
