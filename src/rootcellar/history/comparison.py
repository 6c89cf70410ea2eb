"""What changed between two times: which tasks fail more often, run longer, or are new."""

from __future__ import annotations

from dataclasses import dataclass

from rootcellar.history.filters import Clock, Filter
from rootcellar.history.stats import Stats, TaskStats, stats
from rootcellar.stores import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """One task in two periods.

    Attributes:
        task: its name.
        a, b: its counts and durations in each period; ``None`` if no run of it ended.
    """

    task: str
    a: TaskStats | None
    b: TaskStats | None

    @property
    def failure_share(self) -> float:
        """By how much the share of failures rose, from -1 to 1."""
        return (self.b.failure_share if self.b else 0.0) - (self.a.failure_share if self.a else 0.0)

    @property
    def run_p95(self) -> float | None:
        """How many times as long 95 % of them ran; ``None`` if it is not known."""
        before, after = (each.run.p95 if each else None for each in (self.a, self.b))
        return after / before if before and after is not None else None

    @property
    def count(self) -> float | None:
        """How many times as many ended; ``None`` if there were none before."""
        return None if self.a is None else (self.b.count if self.b else 0) / self.a.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two periods.

    Attributes:
        a, b: the counts and durations of all tasks in each period.
        tasks: the tasks of both times, the one whose share of failures rose most first.
    """

    a: Stats
    b: Stats
    tasks: tuple[TaskChange, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every finished task of both times is counted."""
        return self.a.is_exact and self.b.is_exact


def compare(store: Store, a: Filter, b: Filter, clock: Clock) -> Comparison:
    """Compare two times, or two selections of tasks, such as ``since:48h until:24h`` and ``since:24h``.

    Raises:
        AbilityMissing: the store keeps no counts, or a filter names more than tasks, queues, states and times.
    """
    before, after = stats(store, a, clock), stats(store, b, clock)
    olds, news = ({one.task: one for one in each.tasks} for each in (before, after))
    changes = [TaskChange(task=task, a=olds.get(task), b=news.get(task)) for task in {**olds, **news}]
    changes.sort(key=lambda change: (-change.failure_share, -(change.run_p95 or 1.0), change.task))
    return Comparison(a=before, b=after, tasks=tuple(changes))
