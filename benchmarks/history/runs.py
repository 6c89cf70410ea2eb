"""Makes the runs of a period, one after the other in the order in which they were sent, always the same for a seed."""

from __future__ import annotations

import json
import math
import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from typing import NamedTuple

from benchmarks.history import failing
from benchmarks.history.catalogue import BODY, BROKEN, CHAIN, HEADER, MEMBERS, TASKS, WORKERS, Task
from benchmarks.history.failing import Failure

SECOND = 1_000_000
#: how busy each hour of a day is, compared with others, and each day of a week from Monday
_HOURS = (2, 2, 6, 3, 2, 2, 3, 5, 8, 10, 11, 11, 10, 10, 11, 11, 10, 9, 9, 10, 10, 8, 5, 3)
_DAYS = (1.0, 1.05, 1.0, 1.0, 1.1, 0.6, 0.5)

#: the shares of sent workflows that are chains, groups, large groups and chords; the others are single tasks
_CHAINS, _GROUPS, _LARGE_GROUPS, _CHORDS = 0.04, 0.008, 0.00004, 0.006
#: the shares of runs that are revoked, and that never end because their worker died
_REVOKED, _LOST = 0.002, 0.00005
#: the share of failures that were retried before, and of successes that needed a retry
_RETRIED, _RESCUED = 0.5, 0.02
#: while the broken version is deployed, and while the database is out of reach
_BROKEN_SHARE, _OUTAGE_SHARE = 0.7, 0.8
_BROKEN_HOURS, _OUTAGE_MINUTES = 3, 20


class Run(NamedTuple):
    """A task and what became of it. Times are microseconds since 1970; values are JSON texts.

    The names are those of the columns, but for the times.
    """

    task_id: str
    state: str
    result: str | None
    traceback: str | None
    name: str
    args: str
    kwargs: str
    worker: str | None
    retries: int
    queue: str
    children: str | None
    group_id: str | None
    group_index: int | None
    parent_id: str | None
    root_id: str
    sent: int
    started: int | None
    done: int | None
    failure_group: int | None


class Place(NamedTuple):
    """The place of a task in its workflow."""

    task_id: str
    group_id: str | None = None
    group_index: int | None = None
    parent_id: str | None = None
    root_id: str | None = None
    children: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What is generated: the same fields give the same runs.

    Attributes:
        rows: how many runs.
        days: how many days, which end at ``end``.
        end: the present of the history; what would end later is unfinished.
        seed: of all choices.
    """

    rows: int
    days: float
    end: datetime
    seed: int = 0

    @property
    def begin(self) -> datetime:
        """The moment at which the first task is sent, or shortly before."""
        return self.end - timedelta(days=self.days)

    def at(self, share: float) -> datetime:
        """Return the moment at a share of the period."""
        return self.begin + share * (self.end - self.begin)

    @property
    def deployed(self) -> datetime:
        """The moment at which the broken version was deployed: at 14:10, after 60 % of a period of several days."""
        moment = self.at(0.6)
        return moment.replace(hour=14, minute=10, second=0) if self.days >= 5 else moment

    @property
    def outage(self) -> datetime:
        """The moment at which the database went out of reach: at 03:20, after 30 % of a period of several days."""
        moment = self.at(0.3)
        return moment.replace(hour=3, minute=20, second=0) if self.days >= 5 else moment


def runs(period: Period) -> Iterator[Run]:
    """Yield the runs of a period."""
    return iter(_Shop(period))


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970."""
    return round(moment.timestamp() * SECOND)


class _Shop:
    """Chooses what is sent, and what becomes of it."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._random = random.Random(period.seed)
        self._begin, self._end = microseconds(period.begin), microseconds(period.end)
        self._deployed = microseconds(period.deployed)
        self._rolled_back = self._deployed + _BROKEN_HOURS * 3600 * SECOND
        self._outage = microseconds(period.outage)
        self._outage_ends = self._outage + _OUTAGE_MINUTES * 60 * SECOND
        self._cumulative = list(accumulate(task.weight for task in TASKS))
        self._releases = [f"{period.begin:%Y%m%d}", f"{period.deployed:%Y%m%d}"]
        self._begins = {
            failure: (microseconds(period.at(failure.begins)), microseconds(period.at(failure.ends)))
            for task in TASKS
            for failure in failing.failures_of(task)
        }

    def __iter__(self) -> Iterator[Run]:
        left, made, weight = self._period.rows, 0, 0.0
        hours = self._hours()
        total = sum(share for _, _, share in hours)
        for begin, end, share in hours:
            weight += share
            count = round(self._period.rows * weight / total) - made
            moment, step = float(begin), (end - begin) / max(count, 1)
            taken = 0
            while taken < count and left:
                for run in self._workflow(int(moment + self._random.random() * step), left):
                    yield run
                    taken += 1
                    left -= 1
                moment = begin + taken * step
            made += taken

    def _hours(self) -> list[tuple[int, int, float]]:
        """Return each hour of the period, or the part of it that is inside, with its share of all runs."""
        found, moment = [], self._period.begin
        while moment < self._period.end:
            following = min(moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1), self._period.end)
            busy = _HOURS[moment.hour] * _DAYS[moment.weekday()] * (following - moment).total_seconds()
            found.append((microseconds(moment), microseconds(following), busy))
            moment = following
        return found

    def _workflow(self, sent: int, most: int) -> Iterator[Run]:
        """Yield the runs of one workflow, at most ``most``."""
        chance, random = self._random.random(), self._random
        if (chance := chance - _CHAINS) < 0:
            return self._chain(sent, min(random.randint(2, len(CHAIN)), most))
        if (chance := chance - _GROUPS) < 0:
            return self._group(sent, min(random.randint(3, 20), most))
        if (chance := chance - _LARGE_GROUPS) < 0:
            return self._group(sent, min(random.randint(200, 500), most))
        if chance - _CHORDS < 0 and most > 2:
            return self._chord(sent, min(random.randint(3, 12), most - 1))
        task = TASKS[bisect(self._cumulative, random.random() * self._cumulative[-1])]
        return iter((self._run(task, Place(self._id()), sent),))

    def _chain(self, sent: int, size: int) -> Iterator[Run]:
        """Yield the runs of a chain; the tasks after a failed one never run, as in Celery."""
        ids = [self._id() for _ in range(size)]
        parent = None
        for number, task_id in enumerate(ids):
            following = ids[number + 1] if number + 1 < size else None
            children = f'[[["{following}", null], null]]' if following else None
            place = Place(task_id, None, None, parent, ids[0], children)
            run = self._run(CHAIN[number], place, sent)
            yield run if run.state == "SUCCESS" else run._replace(children=None)
            if run.state != "SUCCESS" or run.done is None:
                return
            parent, sent = task_id, run.done + 2_000

    def _group(self, sent: int, size: int) -> Iterator[Run]:
        """Yield the runs of a group that a client sent: each member is the root of its own workflow."""
        task, group_id = self._random.choice(MEMBERS), self._id()
        for index in range(size):
            yield self._run(task, Place(self._id(), group_id, index), sent + index * 300)

    def _chord(self, sent: int, size: int) -> Iterator[Run]:
        """Yield the runs of a chord's header and of its body, which fails if a part failed."""
        group_id, root = self._id(), self._id()
        ids = [root, *(self._id() for _ in range(size - 1))]
        parts = []
        for index, task_id in enumerate(ids):
            run = self._run(HEADER, Place(task_id, group_id, index, None, task_id), sent + index * 300)
            parts.append(run)
            yield run
        last = max((run.done or self._end) for run in parts)
        if any(run.done is None for run in parts):
            return
        # as in Celery, the body has the group of its header and no place in it
        body = Place(self._id(), group_id, None, ids[-1], ids[-1])
        if all(run.state == "SUCCESS" for run in parts):
            yield self._run(BODY, body, last + 3_000)
        else:
            yield self._failed(BODY, body, last + 3_000, None, last + 3_000, failing.CHORD_FAILED, retries=0)

    def _run(self, task: Task, place: Place, sent: int) -> Run:
        """Return a run of a task: how long it waited and ran, and how it ended."""
        random = self._random
        waited = 2_000 + int(random.expovariate(25.0) * SECOND)
        started = sent + waited
        done = started + int(task.median * math.exp(random.gauss(0.0, task.sigma)) * SECOND)
        retries = 0
        failure = self._failure(task, started)
        if random.random() < (_RETRIED if failure else _RESCUED):
            retries = random.randint(1, 3)
            # each retry waits for twice as long as the one before
            started += (2**retries - 1) * 30 * SECOND
            done += (2**retries - 1) * 30 * SECOND
        chance = random.random()
        if done > self._end or chance < _LOST:
            return self._unfinished(task, place, sent, started, retries)
        if chance < _LOST + _REVOKED:
            return self._revoked(task, place, sent, done)
        if failure is not None:
            return self._failed(task, place, sent, started, done, failure, retries)
        numbers = self._numbers()
        return Run(
            place.task_id,
            "SUCCESS",
            task.result % numbers,
            None,
            task.name,
            task.args % numbers,
            task.kwargs % numbers,
            self._worker(task),
            retries,
            task.queue,
            place.children,
            place.group_id,
            place.group_index,
            place.parent_id,
            place.root_id or place.task_id,
            sent,
            started,
            done,
            None,
        )

    def _failure(self, task: Task, moment: int) -> Failure | None:
        """Return how a run fails that starts at a moment, or ``None``."""
        chance = self._random.random()
        if task is BROKEN and self._deployed <= moment < self._rolled_back and chance < _BROKEN_SHARE:
            return failing.BROKEN
        if task.uses_database and self._outage <= moment < self._outage_ends and chance < _OUTAGE_SHARE:
            return failing.NO_DATABASE
        if chance >= task.failure_share:
            return None
        failure = self._random.choice(failing.failures_of(task))
        begin, end = self._begins[failure]
        return failure if begin <= moment < end else None

    def _failed(
        self, task: Task, place: Place, sent: int, started: int | None, done: int, failure: Failure, retries: int
    ) -> Run:
        numbers = self._numbers()
        is_new = self._deployed <= done < self._rolled_back
        traceback = failure.traceback(task, self._releases[is_new], 7 if is_new else 0, numbers)
        return Run(
            task_id=place.task_id,
            state="FAILURE",
            result=failure.result(numbers),
            traceback=traceback,
            name=task.name,
            args=task.args % numbers,
            kwargs=task.kwargs % numbers,
            worker=self._worker(task),
            retries=retries,
            queue=task.queue,
            children=place.children,
            group_id=place.group_id,
            group_index=place.group_index,
            parent_id=place.parent_id,
            root_id=place.root_id or place.task_id,
            sent=sent,
            started=started,
            done=done,
            failure_group=failing.group_of(failure, task),
        )

    def _revoked(self, task: Task, place: Place, sent: int, done: int) -> Run:
        """Return a run that was revoked before it started."""
        return self._ended_early(task, place, sent, None, "REVOKED", 0)._replace(
            result=failing.REVOKED_RESULT, done=done, worker=self._worker(task)
        )

    def _unfinished(self, task: Task, place: Place, sent: int, started: int, retries: int) -> Run:
        """Return a run that has not ended: it waits, runs, or its worker died."""
        if started > self._end:
            state = "SENT" if not retries else "RETRY"
            return self._ended_early(task, place, min(sent, self._end), None, state, max(retries - 1, 0))
        run = self._ended_early(task, place, sent, started, "STARTED", retries)
        worker = self._worker(task)
        return run._replace(worker=worker, result=json.dumps({"pid": 4711, "hostname": worker}))

    def _ended_early(self, task: Task, place: Place, sent: int, started: int | None, state: str, retries: int) -> Run:
        """Return a run without a result."""
        numbers = self._numbers()
        return Run(
            task_id=place.task_id,
            state=state,
            result=None,
            traceback=None,
            name=task.name,
            args=task.args % numbers,
            kwargs=task.kwargs % numbers,
            worker=None,
            retries=retries,
            queue=task.queue,
            children=None,
            group_id=place.group_id,
            group_index=place.group_index,
            parent_id=place.parent_id,
            root_id=place.root_id or place.task_id,
            sent=sent,
            started=started,
            done=None,
            failure_group=None,
        )

    def _id(self) -> str:
        """Return an id like Celery's."""
        text = f"{self._random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def _numbers(self) -> dict[str, int]:
        """Return the numbers for the templates of values."""
        bits = self._random.getrandbits(40)
        return {"n": 10_000 + bits % 990_000, "m": 10 + (bits >> 20) % 80}

    def _worker(self, task: Task) -> str:
        workers = WORKERS[task.queue]
        return workers[self._random.getrandbits(8) % len(workers)]


def at(moment: int) -> datetime:
    """Return microseconds since 1970 as a moment in UTC."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=moment)
