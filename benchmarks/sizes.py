"""The sizes of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of one round.

    Attributes:
        seconds: the time for which results are stored or read.
        processes, threads: the number that store at the same moment.
        naps: tasks of 100 ms that are waited for.
        group, large_group: tasks of a group.
        chord, large_chord: parts of a chord.
        tasks: tasks that go through a worker end to end.
        waiting: results that one process waits for.
        waiting_slowly: the same for a contender that reads them one by one.
        awaited: results that are stored while they are awaited.
        listeners: other processes that wait at the same time.
        rounds: the number of repetitions.
    """

    seconds: float = 1.5
    processes: int = 4
    threads: int = 32
    naps: int = 50
    group: int = 2_000
    large_group: int = 10_000
    chord: int = 500
    large_chord: int = 5_000
    tasks: int = 2_000
    waiting: int = 10_000
    waiting_slowly: int = 500
    awaited: int = 5_000
    listeners: int = 60
    rounds: int = 5


FULL = Sizes()
QUICK = Sizes(
    seconds=0.3,
    naps=5,
    group=100,
    large_group=200,
    chord=20,
    large_chord=100,
    tasks=200,
    waiting=500,
    waiting_slowly=50,
    awaited=300,
    listeners=6,
    rounds=1,
)
