"""An account of results row by row, which shares no code with the counts that it checks."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Answer, Counted, FailureHour, Question, Unit

NAMES = ("shop.pay", "shop.ship", "reports.render", "")
QUEUES = ("celery", "low", "")
LENGTHS = {"minute": 16, "hour": 13, "day": 10}


@dataclass
class Account:
    """What a store must count: each row as it was stored last, also if it was deleted since."""

    rows: dict[str, TaskRecord] = field(default_factory=dict)
    deleted: list[TaskRecord] = field(default_factory=list)

    def put(self, record: TaskRecord) -> None:
        """Note that a record was stored, by the rules of a store."""
        there = self.rows.get(record.task_id)
        if there is not None:
            if there.state == "SUCCESS":
                return
            if there.done_at and not record.done_at and (there.retries or 0) > (record.retries or 0):
                return
            kept = {
                name: getattr(there, name)
                for name in ("name", "queue", "worker", "retries", "sent_at", "started_at")
                if getattr(record, name) is None
            }
            record = replace(record, **kept)
        self.rows[record.task_id] = record

    def delete(self, task_id: str) -> None:
        """Note that a row was deleted."""
        if (record := self.rows.pop(task_id, None)) is not None:
            self.deleted.append(record)

    def finished(self) -> Iterator[TaskRecord]:
        """Yield what must be counted."""
        for record in (*self.rows.values(), *self.deleted):
            if record.done_at is not None:
                yield record

    def counts(
        self, by: str | None, since: datetime | None = None, until: datetime | None = None
    ) -> dict[tuple[str, ...], list[Any]]:
        """Return count, retries, runs, the sum of the runs and the longest, by time, name, queue and state."""
        found: dict[tuple[str, ...], list[Any]] = {}
        for record in self.finished():
            assert record.done_at is not None
            if (since and record.done_at < since) or (until and record.done_at >= until):
                continue
            start = record.done_at.isoformat(" ")[: LENGTHS[by]] if by else ""
            key = (start, record.name or "", record.queue or "", record.state)
            sums = found.setdefault(key, [0, 0, 0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += record.retries or 0
            if record.started_at and record.done_at >= record.started_at:
                run = (record.done_at - record.started_at).total_seconds()
                sums[2] += 1
                sums[3] += run
                sums[4] = max(sums[4], run)
        return found

    def failures(self) -> dict[tuple[str, int, str], int]:
        """Return the number of failures by hour, group and name."""
        return Counter(
            (record.done_at.isoformat(" ")[:13], record.failure_group, record.name or "")
            for record in self.finished()
            if record.failure_group is not None and record.done_at is not None
        )


def counted(store: Counted, by: str | None, since: datetime | None = None, until: datetime | None = None) -> Any:
    """Return what a store counts, in the form of :meth:`Account.counts`, and whether it says that this is exact."""
    question = Question(
        since=since, until=until, by_name=True, by_queue=True, by=Unit(by) if by else None, with_spreads=True
    )
    answer = store.counts(question)
    found = {}
    for cell in answer.cells:
        start = cell.start.isoformat(" ")[: LENGTHS[by]] if by and cell.start else ""
        tally = cell.tally
        assert sum(tally.run.steps.values()) == tally.run.count
        found[start, cell.name, cell.queue, cell.state] = [
            tally.count,
            tally.retries,
            tally.run.count,
            tally.run.total,
            tally.run.longest,
        ]
    return found, answer


def assert_equal(found: dict[Any, list[Any]], wanted: dict[Any, list[Any]]) -> None:
    """Compare counts exactly, and sums of durations nearly."""
    wrong = {
        key: (found.get(key, [])[:3], wanted.get(key, [])[:3])
        for key in {*found, *wanted}
        if found.get(key, [])[:3] != wanted.get(key, [])[:3]
    }
    assert not wrong, f"key: (found, wanted) of count, retries, runs: {wrong}"
    for key, values in wanted.items():
        assert abs(found[key][3] - values[3]) < 1e-3 * (1 + values[0]), key
        assert abs(found[key][4] - values[4]) < 1e-3, key


UNITS = (None, "minute", "hour", "day")


def assert_right(store: Counted, account: Account, by: tuple[str | None, ...] = UNITS) -> None:
    """Compare all counts of a store with the account; by the minute, those of this hour."""
    for unit in by:
        since = None
        if unit == "minute":
            since = store.counts(Question(since=datetime.max.replace(tzinfo=timezone.utc))).as_of
            since = since.replace(minute=0, second=0, microsecond=0)
        found, answer = counted(store, unit, since)
        assert answer.is_exact, f"not exact by {unit}"
        assert not answer.behind_by, f"behind by {answer.behind_by}"
        assert_equal(found, account.counts(unit, since))
    if "hour" in by:
        hours = {(one.start.isoformat(" ")[:13], one.group, one.name): one.count for one in store.failure_hours()}
        assert hours == account.failures(), f"failures: {hours}, wanted {account.failures()}"
        sums = {(one.group, one.name): (one.count, one.first, one.last) for one in store.failure_totals()}
        assert sums == _sums(store.failure_hours())
    answer = store.counts(Question())
    states = Counter(record.state for record in account.finished())
    assert {cell.state: cell.tally.count for cell in answer.cells} == dict(states)


def _sums(hours: Iterable[FailureHour]) -> dict[tuple[int, str], tuple[int, datetime, datetime]]:
    found: dict[tuple[int, str], list[FailureHour]] = {}
    for one in hours:
        found.setdefault((one.group, one.name), []).append(one)
    return {
        key: (sum(one.count for one in ones), min(one.start for one in ones), max(one.start for one in ones))
        for key, ones in found.items()
    }


def roll_all(store: Counted, budget: float = 5.0) -> None:
    """Bring the counts wholly up to date."""
    for _ in range(200):
        if store.roll(budget=budget).is_done:
            return
    raise AssertionError("the passes never end")


class Actor:
    """Does random things to a store and to an account.

    Args:
        store: the store.
        seed: of all choices.
        now: the present.
        oldest: how long before it the oldest result ended.
    """

    def __init__(self, store: Store, seed: int, now: datetime, oldest: timedelta = timedelta(hours=20)) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.account = Account()
        self.now = now
        self.oldest = oldest

    def act(self) -> None:
        """Do one thing."""
        choice = self.random.random()
        if choice < 0.55 or not self.account.rows:
            self.put(str(uuid.UUID(int=self.random.getrandbits(128))))
        elif choice < 0.75:
            self.put(self._some())
        elif choice < 0.9:
            self.delete(self._some())
        else:
            self.expire()

    def _some(self) -> str:
        return self.random.choice(sorted(self.account.rows))

    def moment(self) -> datetime:
        """Return when a task ended: mostly lately, sometimes long ago, sometimes in the future."""
        choice = self.random.random()
        if choice < 0.5:
            return self.now - timedelta(seconds=self.random.uniform(0, 600))
        if choice < 0.9:
            return self.now - self.oldest * self.random.random()
        return self.now + timedelta(seconds=self.random.uniform(0, 3 * 3600))

    def put(self, task_id: str) -> None:
        """Store a record."""
        pick = self.random
        state = pick.choices(("SUCCESS", "FAILURE", "REVOKED", "STARTED", "RETRY"), (5, 4, 1, 2, 1))[0]
        done = self.moment().replace(microsecond=pick.randrange(1_000_000))
        started = done - timedelta(seconds=pick.choice((-1.0, 0.0, 0.0005, 0.3, 2.5, 700.0)))
        record = TaskRecord(
            task_id=task_id,
            state=state,
            name=pick.choice(NAMES) or None,
            queue=pick.choice(QUEUES) or None,
            worker=pick.choice(("celery@a", "celery@b")),
            retries=pick.choice((None, 0, 1, 3)),
            sent_at=started - timedelta(seconds=pick.choice((-2.0, 0.01, 5.0))),
            started_at=pick.choice((started, started, None)),
            done_at=None if state in ("STARTED", "RETRY") else done,
            expires_at=pick.choice((None, self.now - timedelta(days=1), self.now + timedelta(days=10))),
            failure_group=pick.choice((7, -(2**62))) if state == "FAILURE" else None,
        )
        self.store.put(record)
        self.account.put(record)

    def delete(self, task_id: str) -> None:
        """Delete a record."""
        self.store.delete([task_id, "missing"])
        self.account.delete(task_id)

    def expire(self) -> None:
        """Delete expired records, in small batches."""
        while self.store.delete_expired(self.now, 3):
            pass
        for task_id, record in list(self.account.rows.items()):
            if record.expires_at is not None and record.expires_at < self.now:
                self.account.delete(task_id)


@contextmanager
def at_time(store: Any, now: Callable[[], datetime]) -> Iterator[None]:
    """Let passes and answers of a store see another time than the server's."""
    counts = store._counts
    present = counts.present
    counts.present = lambda connection: replace(present(connection), now=now())
    try:
        yield
    finally:
        del counts.present


def cells_of(answer: Answer) -> dict[Any, int]:
    """Return the counts of an answer by name and state."""
    return {(cell.name, cell.state): cell.tally.count for cell in answer.cells}


def utc(text: str) -> datetime:
    """Return a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
