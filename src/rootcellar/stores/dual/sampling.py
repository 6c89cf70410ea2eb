"""Compares a sample of real reads: does the target have what the source has answered?

Only while the source is read and the target is written. Before the first pass most old results are missing in the
target, so what is counted begins again after each pass.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from rootcellar.records import TaskRecord
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.verbs import is_same
from rootcellar.support.forking import PerProcess

#: the share of reads that are compared
RATE = 0.01
#: the most reads that wait to be compared
MAX_WAITING = 200
#: dates may be rounded by a store
_TOLERANCE = timedelta(milliseconds=1)
_EXPIRY_TOLERANCE = timedelta(seconds=1)


class _Found:
    """What one process has found.

    Attributes:
        waiting: the ids to compare.
        compared: how many were compared.
        differing: how many of them differ, by class.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self.compared = 0
        self.differing: Counter[str] = Counter()
        self.begun_after: object = None


class Samples:
    """The sample of one store in each process.

    Args:
        rate: the share of reads that are compared.
    """

    def __init__(self, rate: float = RATE) -> None:
        self.rate = rate
        self._found = PerProcess(_Found)

    def note(self, record: TaskRecord | None) -> None:
        """Perhaps compare the record that was read, later."""
        if record is not None and random.random() < self.rate:
            self._found.get().waiting.append(record.task_id)

    def note_many(self, records: Iterable[TaskRecord]) -> None:
        """Do the same for several records."""
        for record in records:
            self.note(record)

    @property
    def counts(self) -> tuple[int, Mapping[str, int]]:
        """How many reads were compared, and how many of them differ, by class."""
        found = self._found.get()
        with found.lock:
            return found.compared, dict(found.differing)

    def begin_again(self, after: object) -> None:
        """Count from zero, if ``after`` is another pass than before."""
        found = self._found.get()
        with found.lock:
            if found.begun_after != after:
                found.begun_after = after
                found.compared = 0
                found.differing = Counter()

    def compare(self, source: Side, target: Side) -> None:
        """Compare what waits. A record that changes meanwhile is left out: its mirror may be on its way."""
        found = self._found.get()
        ids = [found.waiting.popleft() for _ in range(len(found.waiting))]
        if not ids:
            return
        before = source.get_many(ids)
        mirrored = target.get_many(ids)
        after = source.get_many(ids)
        with found.lock:
            for task_id, record in after.items():
                if is_same(before.get(task_id), record):
                    found.compared += 1
                    found.differing.update(difference(record, mirrored.get(task_id)))


def difference(record: TaskRecord, mirrored: TaskRecord | None) -> list[str]:
    """Return in which class the target's record differs: a list of one class, or none."""
    if mirrored is None:
        return ["missing"]
    for name, is_equal in (
        ("state", record.state == mirrored.state),
        ("value", record.result == mirrored.result),
        ("traceback", record.traceback == mirrored.traceback),
        ("times", _are_near(record.done_at, mirrored.done_at, _TOLERANCE)),
        ("expiry", _are_near(record.expires_at, mirrored.expires_at, _EXPIRY_TOLERANCE)),
    ):
        if not is_equal:
            return [name]
    return []


def _are_near(one: datetime | None, other: datetime | None, tolerance: timedelta) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance
