"""Copies all results of one system into another, or those that a filter finds.

The source is walked once: first the tasks, then the saved groups. What was written is never undone. A copy that ends
early goes on where it was, because each record may be copied twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from threading import Event

from rootcellar.errors import RecordRefused, RootcellarError
from rootcellar.migration.beside import TasksBeside
from rootcellar.migration.endpoint import Lookup, Source, Spec, Target
from rootcellar.migration.foreign.values import reason
from rootcellar.migration.progress import Progress
from rootcellar.migration.resuming import CopyState, Counts, StateKeeper
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.walking import Batch, persistent, read_ahead, walk_groups, walk_tasks
from rootcellar.records import DAMAGED, FOREIGN, GroupRecord, TaskRecord
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.mirroring import CopyReport, may_be_copied

#: how many problems are kept
_PROBLEMS = 10


class Copier:
    """Copies results.

    Args:
        source: what is read.
        target: what is written to.
        matches: says whether a record is copied; ``None`` for every record.
        newer_wins: whether a record also replaces an older one.
        with_groups: whether saved groups are copied too.
        throttle: limits the records a second.
        state: where an earlier run ended; ``None`` to begin.
        keeper: stores the state; ``None`` if it cannot be kept.
        beside: how the source is opened by a second process, which reads the tasks; ``None`` for a thread.
        at_once: how many batches are written at the same time.
        progress: counts the records that are read, also those of earlier runs.
        on_batch: is called after each batch.
        now: returns the present.

    Attributes:
        state: how far it is.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        *,
        matches: Callable[[TaskRecord], bool] | None = None,
        newer_wins: bool = True,
        with_groups: bool = True,
        throttle: Throttle | None = None,
        state: CopyState | None = None,
        keeper: StateKeeper | None = None,
        beside: Spec | None = None,
        at_once: int = 1,
        progress: Progress | None = None,
        on_batch: Callable[[], object] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._source = source
        self._target = target
        self._matches = matches
        self._newer_wins = newer_wins
        self._with_groups = with_groups
        self._throttle = throttle or Throttle()
        self.state = state or CopyState()
        self._keeper = keeper
        self._beside = beside
        self._at_once = at_once
        self._progress = progress or Progress()
        self._on_batch = on_batch
        self._stop = Event()
        self._now = now

    def run(self) -> CopyState:
        """Copy everything; return what was done.

        Raises:
            RootcellarError: a server cannot be reached for about a minute, or refuses. What was written stays.
            CopyTaken: another process runs the same copy.
        """
        if self._keeper is not None:
            self._keeper.store(self.state)
        try:
            if self.state.stage == "tasks":
                self._copy_tasks()
                self.state.stage, self.state.cursor = "groups", None
            if self._with_groups:
                self._copy_groups()
        except SystemExit:
            self._store_before_the_end()
            raise
        if self._keeper is not None:
            self._keeper.forget()
        return self.state

    def _store_before_the_end(self) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.store(self.state)
        except RootcellarError:
            # then the next run goes on a second earlier, which changes nothing
            return

    def _copy_tasks(self) -> None:
        with self._read() as batches:
            if self._at_once == 1:
                for batch in batches:
                    self._passed(batch, self._copy_batch(batch.rows))
            else:
                self._copy_at_once(batches)

    def _copy_at_once(self, batches: Iterable[Batch[TaskRecord]]) -> None:
        """Write several batches at the same time; they count as done in the order in which they were read."""
        with ThreadPoolExecutor(self._at_once, "rootcellar-copy") as threads, self._stopping():
            waiting: deque[tuple[Batch[TaskRecord], Future[_Outcome]]] = deque()
            for batch in batches:
                waiting.append((batch, threads.submit(self._copy_batch, batch.rows)))
                if len(waiting) > self._at_once:
                    done, outcome = waiting.popleft()
                    self._passed(done, outcome.result())
            for done, outcome in waiting:
                self._passed(done, outcome.result())

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """After an error or an interruption, let the threads not wait for the end of an outage."""
        try:
            yield
        except BaseException:
            self._stop.set()
            raise

    @contextmanager
    def _read(self) -> Iterator[Iterator[Batch[TaskRecord]]]:
        """Read the tasks while others are written."""
        throttle, stream, begin = self._throttle, self._source.stream, self.state.cursor
        if self._beside is None:
            with read_ahead(lambda wait: walk_tasks(stream, begin, throttle=throttle, wait=wait)) as batches:
                yield batches
            return
        with TasksBeside(self._beside, begin, throttle.rate) as reading, read_ahead(reading.batches) as batches:
            yield batches

    def _copy_groups(self) -> None:
        for batch in walk_groups(self._source.stream_groups, self.state.cursor, throttle=self._throttle):
            now = self._now()
            counts = Counts(groups=len(batch.rows))
            unread = [group for group in batch.rows if group.result.content_type in (DAMAGED, FOREIGN)]
            counts.groups_unreadable = len(unread)
            alive = [
                group
                for group in batch.rows
                if group not in unread and (group.expires_at is None or group.expires_at > now)
            ]
            if alive:
                copy = partial(self._target.copy_groups, alive, newer_wins=self._newer_wins)
                counts.groups_written = persistent(copy)
            self._passed(batch, _Outcome(counts))

    def _passed(self, batch: Batch[TaskRecord] | Batch[GroupRecord], outcome: _Outcome) -> None:
        """Note that everything up to the end of a batch is done."""
        self.state.cursor = batch.cursor
        self.state.counts.add(outcome.counts)
        self.state.problems += outcome.problems[: _PROBLEMS - len(self.state.problems)]
        self._progress.add(outcome.counts.read)
        if self._keeper is not None and batch.cursor is not None:
            self._keeper.note(self.state)
        self._on_batch()

    def _copy_batch(self, rows: Sequence[TaskRecord]) -> _Outcome:
        """Copy records; it may run in several threads at once."""
        outcome = _Outcome(Counts(read=len(rows)))
        if wanted := self._wanted(rows, outcome):
            self._write(wanted, outcome)
        return outcome

    def _wanted(self, rows: Sequence[TaskRecord], outcome: _Outcome) -> list[TaskRecord]:
        """Return the records that are copied, and count the others."""
        counts, now, matches = outcome.counts, self._now(), self._matches
        found: list[TaskRecord] = []
        for record in rows:
            if matches is not None and not matches(record):
                counts.left_out += 1
            elif record.expires_at is not None and record.expires_at <= now:
                counts.expired += 1
            elif names := damaged_fields(record):
                counts.unreadable += 1
                why = reason(record)
                outcome.problem(record.task_id, f"its {', '.join(names)} cannot be read{why and ': '}{why}")
            else:
                found.append(record)
        return found

    def _write(self, records: Sequence[TaskRecord], outcome: _Outcome) -> None:
        try:
            report = persistent(partial(self._target.copy, records, newer_wins=self._newer_wins), self._stop.wait)
        except RecordRefused as exc:
            if len(records) > 1:
                # one of them is refused: the halves show which
                middle = len(records) // 2
                self._write(records[:middle], outcome)
                self._write(records[middle:], outcome)
                return
            report = CopyReport(refused={records[0].task_id: str(exc)})
        counts = outcome.counts
        counts.written += len(report.written)
        counts.kept += len(report.kept)
        counts.buried += len(report.buried)
        counts.refused += len(report.refused)
        for task_id, why in report.refused.items():
            outcome.problem(task_id, why)


@dataclass(slots=True)
class _Outcome:
    """What became of a batch."""

    counts: Counts
    problems: list[str] = field(default_factory=list)

    def problem(self, task_id: str, reason: str) -> None:
        if len(self.problems) < _PROBLEMS:
            self.problems.append(f"task {task_id!a} is left out: {reason}")


class DryTarget:
    """A target that writes nothing, and reports what would be written.

    Args:
        lookup: finds the records of the real target; ``None`` if it cannot be asked: then all would be written.
    """

    def __init__(self, lookup: Lookup | None) -> None:
        self._lookup = lookup

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """Report what would be written; burials are not looked at."""
        stored = {} if self._lookup is None else self._lookup.get_many([record.task_id for record in records])
        written = frozenset(
            record.task_id
            for record in records
            if may_be_copied(record, stored.get(record.task_id), newer_wins=newer_wins)
        )
        return CopyReport(written=written, kept=frozenset(record.task_id for record in records) - written)

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """Return how many would be written."""
        if self._lookup is None:
            return len(groups)
        found = [(group, self._lookup.get_group(group.group_id)) for group in groups]
        return sum(stored is None or (newer_wins and group.done_at > stored.done_at) for group, stored in found)
