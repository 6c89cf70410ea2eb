"""Numbers of a process in memory that a worker shares with the children of its pool.

Each child adds to a row of its own, which is that of its place in the pool. A child that replaces another one gets the
place, and so goes on adding to the same row: the sums never fall, and the memory does not grow, however often children
are replaced or killed. A number has 8 bytes at an address that is a multiple of 8, so a child that is killed leaves the
old number or the new one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootcellar.metrics.catalogue import Kind, Metric
from rootcellar.metrics.families import Distribution, Family

_SIZE = 8
#: the beginning of the name of a shared file; the id of the worker's process follows, for people
_PREFIX = "rootcellar-metrics-"


@dataclass(frozen=True, slots=True)
class Series:
    """The series of a metric.

    Attributes:
        metric: the metric.
        labels: the values of the labels of each series that may be added to.
        from_start: those that are exported before anything was added to them. ``rate`` needs a series from the start to
            see its first increase, and most of the others are never used.
    """

    metric: Metric
    labels: Sequence[tuple[str, ...]] = ((),)
    from_start: Container[tuple[str, ...]] = ((),)


class Layout:
    """Where the value of each series is in a row.

    Args:
        series: the series of each metric.
    """

    def __init__(self, series: Sequence[Series]) -> None:
        self.series = series
        self.places: dict[tuple[str, tuple[str, ...]], int] = {}
        place = 0
        for each in series:
            for labels in each.labels:
                self.places[each.metric.name, labels] = place
                place += _width(each.metric)
        self.width = place

    def place(self, metric: Metric, *labels: str) -> int:
        """Return the place of a series: of its value, or of the first bucket of a histogram."""
        return self.places[metric.name, labels]

    def families(self, counted: Sequence[float], current: Sequence[float]) -> Iterator[Family]:
        """Yield the metrics.

        Args:
            counted: the sums of all rows, for counters and histograms.
            current: the sums of the rows of living processes, for gauges.
        """
        for each in self.series:
            row = current if each.metric.kind is Kind.GAUGE else counted
            values = {labels: self._value(each.metric, row, labels) for labels in each.labels}
            yield Family(each.metric, {key: value for key, value in values.items() if key in each.from_start or value})

    def _value(self, metric: Metric, row: Sequence[float], labels: tuple[str, ...]) -> float | Distribution:
        place = self.place(metric, *labels)
        if metric.kind is not Kind.HISTOGRAM:
            return row[place]
        end = place + len(metric.buckets) + 1
        return Distribution(row[place:end], row[end])


def _width(metric: Metric) -> int:
    """Return how many numbers a series has: a histogram has one for each bucket, one for infinity, and the sum."""
    return len(metric.buckets) + 2 if metric.kind is Kind.HISTOGRAM else 1


class Cells:
    """The row of one process. Safe to use from any thread.

    Args:
        row: its numbers.
    """

    __slots__ = ("_lock", "row")

    def __init__(self, row: memoryview[float]) -> None:
        self.row = row
        self._lock = threading.Lock()

    def add(self, place: int, amount: float = 1.0) -> None:
        """Add to a counter."""
        with self._lock:
            self.row[place] += amount

    def observe(self, place: int, buckets: Sequence[float], value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self.row[place + bisect_left(buckets, value)] += 1.0
            self.row[place + len(buckets) + 1] += value

    def set(self, place: int, value: float) -> None:
        """Set a gauge."""
        self.row[place] = value


def private_row(width: int) -> memoryview[float]:
    """Return a row that belongs to this process alone."""
    return memoryview(bytearray(width * _SIZE)).cast("d")


class SharedRows:
    """The rows of a worker and its children, and the process id of the last owner of each row.

    Args:
        memory: the memory, of the size :meth:`size`.
        width: the numbers in a row.
    """

    #: the main process of the worker has the first row, and a child the row after its place in the pool
    ROWS = 512

    def __init__(self, memory: mmap.mmap, width: int) -> None:
        self._numbers = memoryview(memory).cast("d")
        self._width = width

    @classmethod
    def size(cls, width: int) -> int:
        """Return the bytes of the memory. The system provides only those that were used."""
        return cls.ROWS * (width + 1) * _SIZE

    def claim(self, number: int) -> memoryview[float]:
        """Return a row for this process."""
        self._numbers[number] = os.getpid()
        return self._row(number)

    def sums(self) -> tuple[list[float], list[float]]:
        """Return the sum of all rows, and the sum of the rows of living processes."""
        counted, current = [0.0] * self._width, [0.0] * self._width
        for number, pid in enumerate(self._numbers[: self.ROWS]):
            if not pid:
                continue
            row = self._row(number).tolist()
            counted = [left + right for left, right in zip(counted, row, strict=True)]
            if _is_alive(int(pid)):
                current = [left + right for left, right in zip(current, row, strict=True)]
        return counted, current

    def _row(self, number: int) -> memoryview[float]:
        begin = self.ROWS + number * self._width
        return self._numbers[begin : begin + self._width]


def anonymous(width: int) -> SharedRows:
    """Return rows that processes share which are forked from this one."""
    return SharedRows(mmap.mmap(-1, SharedRows.size(width)), width)


def in_new_file(width: int) -> tuple[SharedRows, Path]:
    """Return rows for children that are new programs, and the file through which they share them."""
    _remove_files_of_dead_workers()
    path = _new_locked_file()
    # written whole: if the disk becomes full later, no process is killed for it
    path.write_bytes(bytes(SharedRows.size(width)))
    return in_file(path, width), path


def _new_locked_file() -> Path:
    """Make a file that stays locked until this process ends, so that no other worker deletes it.

    The id of the process would not do: workers in two containers may have one folder, and the same ids.
    """
    # Windows, where no worker runs, has no such module
    import fcntl

    while True:
        descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # another worker may have deleted it before it was locked
        if os.fstat(descriptor).st_nlink:
            return Path(name)
        os.close(descriptor)


def _remove_files_of_dead_workers() -> None:
    """Delete the files of workers that were killed: those that no process has locked."""
    import fcntl

    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def in_file(path: Path, width: int) -> SharedRows:
    """Return the rows in a file that :func:`in_new_file` made.

    Raises:
        OSError: there is no such file.
        ValueError: it is of another size.
    """
    with path.open("r+b") as file:
        return SharedRows(mmap.mmap(file.fileno(), SharedRows.size(width)), width)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
