"""``python -m benchmarks --against PATH``: the CPU time of this code against that of another checkout.

Both run at the same time, in two processes with the same servers and drivers, and take turns after a few calls each. So
other work on the machine slows both, and only the ratio counts. A turn's time is compared with that of the other
process' turn beside it. Each pair of processes is a sample of its own: the same code in two processes differs by a few
percent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from benchmarks.contenders import POSTGRES, REDIS
from tests.servers import PostgresServer, RedisServer
from tests.workers import ROOT

#: the backends
BACKENDS = ("postgres", "redis", "hybrid")
#: the measured calls, by the name of the row
ROWS = {
    "store": "store a result",
    "get": "get a result",
    "get_pending": "get of a pending task",
    "chord_part": "store a part of a chord",
    "join": "get of a group of 10",
    "wait": "wait for a result, and store it",
}
#: calls of a row between two turns; slow calls are fewer
_CALLS = {"join": 10, "wait": 10}
_CALLS_OF_OTHERS = 50
#: turns that are not counted: imports, connections, prepared statements
_WARM_UP = 2
#: the depths of the stack that are measured in turn
_DEPTHS = 30
#: pairs of processes, and turns of each
PAIRS, TURNS = 6, 30

HEADING = f"""\
{"":46}{"µs of CPU":>20}
{"results in":12}{"":34}{"before":>10}{"now":>10}{"ratio":>10}  (of each pair of processes)"""


@dataclass(frozen=True)
class Line:
    """The figures of one row.

    Attributes:
        backend, row: the backend and the measured call.
        before, after: microseconds of CPU of one call, medians.
        ratios: of each pair of processes, after divided by before.
    """

    backend: str
    row: str
    before: float
    after: float
    ratios: Sequence[float]

    def __str__(self) -> str:
        middle = median(self.ratios)
        return (
            f"{self.backend:12}{ROWS[self.row]:34}{self.before:10.1f}{self.after:10.1f}{middle:10.3f}"
            f"  ({min(self.ratios):.3f}-{max(self.ratios):.3f})"
        )


class _Side:
    """A process that measures one checkout; a context manager that ends it."""

    def __init__(self, source: Path, url: str, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.compared", url, json.dumps(options)]
        path = os.pathsep.join([str(source), str(ROOT)])
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Side:
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def measure(self, row: str, depth: int) -> float:
        """Return the microseconds of CPU of one call."""
        assert self._process.stdin is not None
        count = _CALLS.get(row, _CALLS_OF_OTHERS)
        self._process.stdin.write(json.dumps([row, count, depth]) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r:.200} ended; its errors are above")
        return json.loads(line)


def compare(checkout: Path, backends: Sequence[str], rows: Sequence[str], *, pairs: int, turns: int) -> Iterator[Line]:
    """Measure this code and that of ``checkout`` in turn.

    Args:
        checkout: a checkout of rootcellar with a folder ``src``.
        backends: of :data:`BACKENDS`.
        rows: names in :data:`ROWS`.
        pairs: pairs of processes, one after the other.
        turns: the number of turns of each process of a pair for each row.

    Yields:
        a line for each backend and row.
    """
    with PostgresServer() as postgres, RedisServer() as redis:
        for backend in backends:
            found: dict[str, list[tuple[list[float], list[float]]]] = {row: [] for row in rows}
            for _ in range(pairs):
                with ExitStack() as stack:
                    sides = [
                        stack.enter_context(_Side(source, *_place(backend, postgres, redis)))
                        for source in (checkout / "src", ROOT / "src")
                    ]
                    for row in rows:
                        found[row].append(_turns(sides, row, turns))
            for row, figures in found.items():
                before = [value for old, _ in figures for value in old]
                after = [value for _, new in figures for value in new]
                ratios = [median(map(truediv, new, old)) for old, new in figures]
                yield Line(backend, row, median(before), median(after), ratios)


def _turns(sides: Sequence[_Side], row: str, turns: int) -> tuple[list[float], list[float]]:
    """Let both sides measure a row in turn; return what the first and the second found."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(_WARM_UP + turns):
        for index in (0, 1) if turn % 2 else (1, 0):
            figure = sides[index].measure(row, turn % _DEPTHS)
            if turn >= _WARM_UP:
                found[index].append(figure)
    return found


def _place(backend: str, postgres: PostgresServer, redis: RedisServer) -> tuple[str, dict[str, Any]]:
    """Return the URL and the options of an empty place for results."""
    if backend == "postgres":
        return POSTGRES.backend_url(postgres.create_database()), {}
    if backend == "redis":
        return REDIS.backend_url(redis.url), {}
    options = {"durable_url": postgres.create_database(), "cache_url": redis.url}
    return "rootcellar+hybrid://", options
