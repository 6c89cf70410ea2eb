"""Counts, failures and durations of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rootcellar.history.filters import Clock, Filter
from rootcellar.history.selections import counted_cells, selection_of
from rootcellar.history.timeline import cannot_count
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted, Spread, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took, in seconds. The percentiles are approximate; the longest and the mean are exact.

    Attributes:
        count: how many durations are known.
        p50, p90, p95, p99: what this share of them did not exceed; ``None`` if none is known.
        mean: their mean.
        longest: the longest one.
    """

    count: int = 0
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None
    longest: float | None = None

    @classmethod
    def of(cls, spread: Spread) -> Durations:
        """Return what is known of a spread."""
        return cls(
            count=spread.count,
            p50=spread.quantile(0.5),
            p90=spread.quantile(0.9),
            p95=spread.quantile(0.95),
            p99=spread.quantile(0.99),
            mean=spread.mean,
            longest=spread.longest if spread.count else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStats:
    """The counts and durations of one task.

    Attributes:
        task: its name; an empty text if it is not known.
        queue: the queue, if queues are counted separately; ``None`` for all queues.
        states: state -> how many ended in it.
        retries: the sum of the retries.
        run, wait: how long it ran, and waited before.
    """

    task: str
    queue: str | None = None
    states: Mapping[str, int]
    retries: int = 0
    run: Durations
    wait: Durations

    @property
    def count(self) -> int:
        """How many ended."""
        return sum(self.states.values())

    @property
    def failure_share(self) -> float:
        """Which share of them failed, from 0 to 1."""
        return self.states.get("FAILURE", 0) / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The counts and durations of all tasks.

    Attributes:
        tasks: the task that ended most often first.
        total: all tasks together.
        as_of: the moment at which the numbers were right.
        behind_by: how old the newest counted results are, if the newest ones are missing; otherwise 0.
        is_exact: whether every finished task is counted.
    """

    tasks: tuple[TaskStats, ...]
    total: TaskStats
    as_of: datetime
    behind_by: timedelta = timedelta(0)
    is_exact: bool = True


def stats(store: Store, query: Filter, clock: Clock, *, by_queue: bool = False) -> Stats:
    """Return the counts and durations of the tasks that have ended.

    Args:
        store: the store.
        query: a filter that names only tasks, queues, states and times.
        clock: the present and the zone of the reader.
        by_queue: whether the queues of a task are counted separately.

    Raises:
        AbilityMissing: the store keeps no counts, or the filter names something else.
    """
    counted = store.ability(Counted)
    selection = selection_of(query, clock)
    if counted is None or selection is None:
        raise cannot_count(store, counted is not None)
    answer = counted_cells(counted, selection, by_name=True, by_queue=by_queue, with_spreads=True)
    tallies: dict[tuple[str, str | None], dict[str, Tally]] = {}
    everything: dict[str, Tally] = {}
    for cell in answer.cells:
        assert cell.name is not None
        assert cell.state is not None
        for states in (tallies.setdefault((cell.name, cell.queue), {}), everything):
            states.setdefault(cell.state, Tally()).add(cell.tally)
    tasks = [_stats_of(task, queue, states) for (task, queue), states in tallies.items()]
    return Stats(
        tasks=tuple(sorted(tasks, key=lambda one: (-one.count, one.task, one.queue or ""))),
        total=_stats_of("", None, everything),
        as_of=answer.as_of,
        behind_by=answer.behind_by,
        is_exact=answer.is_exact,
    )


def _stats_of(task: str, queue: str | None, states: Mapping[str, Tally]) -> TaskStats:
    everything = Tally()
    for tally in states.values():
        everything.add(tally)
    return TaskStats(
        task=task,
        queue=queue,
        states={state: tally.count for state, tally in sorted(states.items())},
        retries=everything.retries,
        run=Durations.of(everything.run),
        wait=Durations.of(everything.wait),
    )
