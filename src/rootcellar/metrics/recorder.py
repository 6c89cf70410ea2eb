"""What a process counts: the series, the row of the process, and the figures that are read when they are asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Protocol, TypeVar

from celery import states

from rootcellar import errors
from rootcellar.backend.observing import Observed
from rootcellar.errors import RootcellarError, code_of
from rootcellar.metrics import catalogue
from rootcellar.metrics.cells import Cells, Layout, Series, SharedRows, private_row
from rootcellar.metrics.families import Family
from rootcellar.records import TaskRecord
from rootcellar.stores.pool import Pooled
from rootcellar.stores.withdrawal import METHODS
from rootcellar.support.forking import PerProcess

OTHER = "other"
OK, ERROR = "ok", "error"
STORED, READ = "stored", "read"
IDLE, USED = "idle", "used"
#: the errors that have a series; another error is counted as the one that it extends
KINDS = tuple(
    sorted(
        code_of(each)
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, RootcellarError) and each is not RootcellarError
    )
)
STATES = (*sorted(states.ALL_STATES), OTHER)
#: operations that nearly every process does
_COMMON = ("put", "get", "get_many", "count_part")
_OUTAGE = "store-unavailable"

_LAYOUT = Layout(
    [
        Series(
            catalogue.STORE_DURATION,
            [(operation, outcome) for operation in METHODS for outcome in (OK, ERROR)],
            {(operation, outcome) for operation in _COMMON for outcome in (OK, ERROR)},
        ),
        Series(
            catalogue.STORE_ERRORS,
            [(operation, kind) for operation in METHODS for kind in (*KINDS, OTHER)],
            {(operation, _OUTAGE) for operation in _COMMON},
        ),
        Series(catalogue.STORE_RETRIES),
        Series(catalogue.LATE_RESULTS),
        Series(
            catalogue.PAYLOAD_BYTES,
            [(direction, state) for direction in (STORED, READ) for state in STATES],
            {(direction, state) for direction in (STORED, READ) for state in ("SUCCESS", "FAILURE")},
        ),
        Series(catalogue.POOL_CONNECTIONS, [(IDLE,), (USED,)], {(IDLE,), (USED,)}),
        Series(catalogue.POOL_WAIT),
        Series(catalogue.WAITERS),
        Series(catalogue.NOTIFICATIONS),
        Series(catalogue.CLEANUP_DELETED),
    ]
)
_GAUGES = {
    "late": _LAYOUT.place(catalogue.LATE_RESULTS),
    "waiters": _LAYOUT.place(catalogue.WAITERS),
    "idle": _LAYOUT.place(catalogue.POOL_CONNECTIONS, IDLE),
    "used": _LAYOUT.place(catalogue.POOL_CONNECTIONS, USED),
}
_DURATIONS = {
    (operation, outcome): _LAYOUT.place(catalogue.STORE_DURATION, operation, outcome)
    for operation in METHODS
    for outcome in (OK, ERROR)
}
_SIZES = {
    (direction, state): _LAYOUT.place(catalogue.PAYLOAD_BYTES, direction, state)
    for direction in (STORED, READ)
    for state in STATES
}
_RETRIES = _LAYOUT.place(catalogue.STORE_RETRIES)
_NOTIFICATIONS = _LAYOUT.place(catalogue.NOTIFICATIONS)
_DELETED = _LAYOUT.place(catalogue.CLEANUP_DELETED)
_WAITS = _LAYOUT.place(catalogue.POOL_WAIT)

WIDTH = _LAYOUT.width

T = TypeVar("T")


class Waits(Protocol):
    """Something that waits for tasks."""

    def awaited(self) -> int:
        """Return for how many tasks it waits."""


class Recorder:
    """Counts what the backends of one app do in this process, and adds up the processes of a worker.

    Any process counts for itself. :meth:`share` and :meth:`join` connect the processes of a worker.
    """

    def __init__(self) -> None:
        self._backends: weakref.WeakSet[Observed] = weakref.WeakSet()
        self._waiters: weakref.WeakSet[Waits] = weakref.WeakSet()
        self._shared: SharedRows | None = None
        #: the process that has a shared row, and the number of the row
        self._claim: tuple[int, int] | None = None
        self._cells = PerProcess(self._new_cells)

    def add_backend(self, backend: Observed) -> None:
        """Read the figures of this backend too."""
        self._backends.add(backend)

    def add_waiter(self, waiter: Waits) -> None:
        """Read for how many tasks it waits."""
        self._waiters.add(waiter)

    # -- the processes of a worker

    @property
    def is_shared(self) -> bool:
        """Whether there are rows that the processes of a worker share."""
        return self._shared is not None

    def share(self, rows: SharedRows) -> None:
        """Count in the first of these rows from now on, in the main process of a worker."""
        self.attach(rows)
        self.join(0)

    def attach(self, rows: SharedRows) -> None:
        """Take the rows of the worker to which this process belongs."""
        self._shared = rows

    def join(self, number: int) -> bool:
        """Count in a shared row from now on; return whether there is one."""
        if self._shared is None or number >= SharedRows.ROWS:
            return False
        self._claim = os.getpid(), number
        self._cells.take()
        return True

    def _new_cells(self) -> Cells:
        """Return this process's own row. A process that a task has forked has no shared one: two must not add to it."""
        if self._shared is not None and self._claim is not None and self._claim[0] == os.getpid():
            return Cells(self._shared.claim(self._claim[1]))
        return Cells(private_row(WIDTH))

    # -- counting

    def done(self, operation: str, seconds: float) -> None:
        """Count a call to the store that succeeded."""
        self._cells.get().observe(_DURATIONS[operation, OK], catalogue.CALL_BUCKETS, seconds)

    def failed(self, operation: str, seconds: float, error: Exception) -> None:
        """Count a call to the store that failed."""
        cells = self._cells.get()
        cells.observe(_DURATIONS[operation, ERROR], catalogue.CALL_BUCKETS, seconds)
        cells.add(_LAYOUT.place(catalogue.STORE_ERRORS, operation, kind_of(error)))

    def sized(self, direction: str, record: TaskRecord) -> None:
        """Count the size of a record's value."""
        if record.result is None:
            return
        state = record.state if (direction, record.state) in _SIZES else OTHER
        self._cells.get().observe(_SIZES[direction, state], catalogue.SIZE_BUCKETS, len(record.result.body))

    def retried(self) -> None:
        """Count a failed operation that is tried again."""
        self._cells.get().add(_RETRIES)

    def notified(self, count: int) -> None:
        """Count results that waiting clients were notified of."""
        self._cells.get().add(_NOTIFICATIONS, count)

    def deleted(self, count: int) -> None:
        """Count what a cleanup has deleted."""
        self._cells.get().add(_DELETED, count)

    def waited(self, seconds: float) -> None:
        """Count a wait for a connection."""
        self._cells.get().observe(_WAITS, catalogue.CALL_BUCKETS, seconds)

    # -- reading

    def sample(self) -> None:
        """Write the figures of this moment, such as the number of connections, to the row of this process."""
        figures = dict.fromkeys(_GAUGES, 0)
        figures["waiters"] = sum(waiter.awaited() for waiter in _members(self._waiters))
        for backend in _members(self._backends):
            figures["late"] += backend.late_writes
            pooled = backend.store.ability(Pooled)
            for pool in pooled.pools() if pooled else ():
                figures["idle"] += pool.idle
                figures["used"] += pool.used
        cells = self._cells.get()
        for name, value in figures.items():
            cells.set(_GAUGES[name], value)

    def families(self) -> Iterator[Family]:
        """Yield the metrics of this process; in the main process of a worker those of all of its processes."""
        self.sample()
        cells = self._cells.get()
        if self._shared is not None and self._claim == (os.getpid(), 0):
            return _LAYOUT.families(*self._shared.sums())
        row = cells.row.tolist()
        return _LAYOUT.families(row, row)


def _members(of: weakref.WeakSet[T]) -> list[T]:
    """Return what is in a set, also while other threads add to it. Without a lock, which a fork could leave locked."""
    while True:
        try:
            return list(of)
        except RuntimeError:
            # another thread has just added something
            continue


def kind_of(error: Exception) -> str:
    """Return the name of an error in ``rootcellar explain``, or that of an error of our list which it extends."""
    for cls in type(error).__mro__:
        if issubclass(cls, RootcellarError) and (code := code_of(cls)) in KINDS:
            return code
    return OTHER
