"""Moves finished results to the older table, and drops its partitions when their days have passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import partial
from typing import Protocol

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.maintenance.service import Service, check_seconds
from rootcellar.records import TaskRecord
from rootcellar.retention.on_record import archived_by_any
from rootcellar.stores.base import Store
from rootcellar.stores.jobs import recorded
from rootcellar.stores.older import Older, OlderStatus, Partition, Reached
from rootcellar.stores.search import Condition, Some
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the name of the job on record
JOB = "move results"
#: the most seconds until every process knows of a new older table: no row is moved earlier
KNOWN_AFTER = 60.0
#: rows that stay, such as those of a chord and those that expire soon, are looked at again after this time
ANEW_AFTER = timedelta(hours=1)
#: a user without the rights is asked again after this time
RIGHTS_AFTER = timedelta(hours=1)
#: after errors that may pass, a batch is not smaller than this
LEAST_BATCH = 500
#: the clock of the server may differ by this, which decides whether a day has passed
CLOCKS = timedelta(hours=1)
#: a partition that has so many results to be archived is dropped later, because they would all be moved before
MANY_TO_ARCHIVE = 5_000
#: how long the drop waits for the archive, and after which time it looks again
ARCHIVED_WITHIN, LOOK_AFTER = timedelta(days=7), timedelta(minutes=10)
#: how many kept rows are read at a time
READ_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverConfig:
    """How results are moved.

    Attributes:
        pause: seconds between two runs.
        batch: the most rows that one transaction moves.
        between: seconds between two batches, in which replicas and other clients catch up.
        first_move_after: no row is moved until the older table has existed for so many seconds.

    Raises:
        ConfigurationError: one of them is not such a number.
    """

    pause: float = 60.0
    batch: int = 5_000
    between: float = 0.0
    first_move_after: float = KNOWN_AFTER

    def __post_init__(self) -> None:
        check_seconds(self.pause, "pause", least=0.01)
        check_seconds(self.between, "between")
        check_seconds(self.first_move_after, "first_move_after")
        if self.batch < 1:
            raise ConfigurationError(
                f"a batch has {self.batch} rows", where="batch", remedy="give a number of at least 1"
            )


class Spared(Protocol):
    """The holds, for what deletes many rows. See :class:`rootcellar.maintenance.spares.Spares`."""

    def condition(self) -> Condition | None:
        """Read the holds, and return a condition that every held record meets; ``None`` if nothing can be held."""

    def free(self, records: Sequence[TaskRecord]) -> tuple[Sequence[TaskRecord], Condition | None]:
        """Return those of these records that are not held, and a condition that becomes true if a hold is placed."""


@dataclass
class MoverRun:
    """What one run has done.

    Attributes:
        moved: how many rows were moved.
        dropped: the partitions that were dropped.
        kept: how many rows of dropped partitions were kept, because they must not be deleted.
        deleted: how many rows were deleted that had been kept before.
        waiting: partitions that were in use, and are dropped by a later run.
        archiving: partitions with many results that will be archived first.
        finished: what an interrupted run had left, and this run has finished.
        missing: the rights that the user lacks; then nothing was done.
        is_late: whether rows are moved only later, because the older table is new, or because they are moved back.
    """

    moved: int = 0
    dropped: tuple[str, ...] = ()
    kept: int = 0
    deleted: int = 0
    waiting: tuple[str, ...] = ()
    archiving: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    is_late: bool = False

    @property
    def done(self) -> int:
        """How much was done, as one number."""
        return self.moved + self.deleted + len(self.dropped) + len(self.finished)

    def sentence(self) -> str:
        """Return what was done in words."""
        parts = [f"moved {self.moved:,} results"]
        if self.dropped:
            parts.append(f"dropped {', '.join(self.dropped)}")
        if self.kept:
            parts.append(f"kept {self.kept:,} results of dropped partitions")
        if self.deleted:
            parts.append(f"deleted {self.deleted:,} expired results that had been kept")
        if self.waiting:
            parts.append(f"{', '.join(self.waiting)} is in use and will be dropped later")
        if self.archiving:
            parts.append(f"{', '.join(self.archiving)} will be dropped when its results are archived")
        return "; ".join([*parts, *self.finished])


class Mover(Service):
    """Moves finished results, makes and drops partitions, and finishes what a killed run has left.

    Without an older table it does nothing. One process does so, because a second one would find the same rows.

    Args:
        store: the store.
        older: what it can do with the older table.
        config: how results are moved.
        spares: the holds; ``None`` if nothing is held.
        archiving: the condition of results that the rules of this process archive when they expire; ``None`` for
            none. What the rules of other processes archive is on record.
    """

    name = "mover"
    action = "move finished results to the older table (they stay where they are)"
    is_single = True

    def __init__(
        self,
        store: Store,
        older: Older,
        config: MoverConfig | None = None,
        spares: Spared | None = None,
        archiving: Condition | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._older = older
        self._config = config or MoverConfig()
        self._spares = spares
        self._archiving = archiving
        self._batch = self._config.batch
        #: where the last run ended, and when a run began at the first row
        self._after: Reached | None = None
        self._began_at: datetime | None = None
        #: partitions that wait for the archive, and when that was found
        self._archived_later: dict[str, datetime] = {}
        #: the rights that were missing, and when
        self._missing: tuple[str, ...] = ()
        self._refused_at: datetime | None = None

    @property
    def first_pause(self) -> float:
        return self._config.pause

    def pause_after(self, done: int) -> float:
        return self._config.pause

    def run_once(self) -> int:
        status = self._older.status()
        if not status.is_enabled or self._was_refused():
            return 0
        run = self.run(status)
        if run.missing:
            self._refused(run.missing)
        return run.done

    def run(self, status: OlderStatus | None = None) -> MoverRun:
        """Do everything once; return what was done.

        Args:
            status: the state of the older table, if it was just read.

        Raises:
            RootcellarError: a step failed; the others were done nevertheless.
        """
        run = MoverRun()
        status = status or self._older.status()
        if not status.is_enabled:
            return run
        run.missing = tuple(self._older.missing_rights())
        if run.missing:
            return run
        if status.is_disabling:
            run.is_late = True
            return run
        with recorded(self._store, JOB) as record:
            try:
                self._each(
                    partial(self._finish_interrupted, run),
                    partial(self._move, run, status),
                    partial(self._drop_passed, run),
                    partial(self._delete_kept, run),
                    self._forget_ids,
                )
            finally:
                record.done, record.note = run.done, run.sentence()
                for sentence in (*run.finished, *(f"dropped {name}" for name in run.dropped)):
                    logger.info("The older table of %s: %s.", self._store.where, sentence)
        return run

    def _each(self, *steps: Callable[[], None]) -> None:
        """Take all steps, also if one fails: partitions are dropped if no row can be moved.

        Raises:
            RootcellarError: the first one of a step; the others are logged.
        """
        first: RootcellarError | None = None
        for step in steps:
            try:
                step()
            except RootcellarError as exc:
                if first is not None:
                    logger.warning("The older table of %s: %s.", self._store.where, exc)
                first = first or exc
        if first is not None:
            raise first

    def _refused(self, missing: tuple[str, ...]) -> None:
        self._refused_at = _now()
        if missing == self._missing:
            return
        self._missing = missing
        logger.warning(
            "The older table of %s is left as it is, because this user lacks %s. Let a user with these rights run "
            "`rootcellar maintain --apply --loop` (`rootcellar schema grants USER --for maintainer` prints them). "
            "Until then, expired results are deleted in the live table only.",
            self._store.where,
            "; ".join(missing),
        )

    def _was_refused(self) -> bool:
        return self._refused_at is not None and _now() - self._refused_at < RIGHTS_AFTER

    # -- the steps of a run

    def _finish_interrupted(self, run: MoverRun) -> None:
        if any(each.from_ is None for each in self._older.partitions()):
            run.finished = tuple(self._older.finish_interrupted(self._spared()))

    def _move(self, run: MoverRun, status: OlderStatus) -> None:
        # the clock of the server: this process may be ahead of it
        now = status.now or _now()
        first = timedelta(seconds=self._config.first_move_after)
        if status.enabled_at is not None and now - status.enabled_at < first:
            run.is_late = True
            return
        if self._began_at is None or now - self._began_at >= ANEW_AFTER:
            self._after, self._began_at = None, now
        while self.continue_run():
            try:
                moved = self._older.move(now, status.window, self._batch, self._after)
            except RootcellarError as exc:
                if exc.retryable:
                    self._batch = max(min(LEAST_BATCH, self._config.batch), self._batch // 2)
                raise
            self._batch = min(self._config.batch, self._batch + max(1, self._batch // 4))
            run.moved += moved.count
            if moved.last is None:
                # rows that stay are looked at again when a run begins anew
                self._after = Reached(now - status.window, "")
                return
            self._after = moved.last
            self._pause(self._config.between)
            current = self._older.status()
            if current.is_disabling or not current.is_enabled:
                # somebody has begun to move everything back
                run.is_late = True
                return

    def _drop_passed(self, run: MoverRun) -> None:
        today = (_now() - CLOCKS).date()
        passed = [each for each in self._older.partitions() if _has_passed(each, today)]
        if not passed:
            return
        spared = self._spared()
        self._each(*(partial(self._drop, run, partition, spared) for partition in passed))

    def _drop(self, run: MoverRun, partition: Partition, spared: Condition | None) -> None:
        if not self.continue_run():
            return
        if self._waits_for_archive(partition):
            run.archiving += (partition.name,)
            return
        dropped = self._older.drop_partition(partition.name, spared)
        run.kept += dropped.kept
        if dropped.is_done:
            run.dropped += (partition.name,)
            return
        run.waiting += (partition.name,)
        logger.warning(
            "%s in %s is in use by an open transaction. It will be dropped by a later run.",
            partition.name,
            self._store.where,
        )

    def _waits_for_archive(self, partition: Partition) -> bool:
        """Return whether many results of a partition will be archived; the archive takes them from there."""
        now = _now()
        if self._archiving is None or partition.until is None or partition.until <= (now - ARCHIVED_WITHIN).date():
            return False
        found_at = self._archived_later.get(partition.name)
        if found_at is not None and now - found_at < LOOK_AFTER:
            return True
        self._archived_later.pop(partition.name, None)
        if self._older.count_rows(partition.name, self._archiving, MANY_TO_ARCHIVE) < MANY_TO_ARCHIVE:
            return False
        self._archived_later[partition.name] = now
        return True

    def _delete_kept(self, run: MoverRun) -> None:
        """Delete rows that were kept when their partition was dropped, and that nothing holds any more."""
        now, after = _now(), ""
        if self._spares is not None:
            # reads the holds
            self._spares.condition()
        archiving = archived_by_any(self._store, self._archiving)
        while self.continue_run() and (records := self._older.expired_kept(now, after, READ_AT_ONCE, archiving)):
            free, changed = (records, None) if self._spares is None else self._spares.free(records)
            run.deleted += self._older.delete_kept([record.task_id for record in free], now, changed)
            after = records[-1].task_id

    def _spared(self) -> Condition | None:
        """Return the condition of rows that must not be deleted; more rows may meet it."""
        held = None if self._spares is None else self._spares.condition()
        archiving = archived_by_any(self._store, self._archiving)
        terms = tuple(each for each in (held, archiving) if each is not None)
        return Some(terms) if terms else None

    def _forget_ids(self) -> None:
        _, after = self._older.forget_dropped_ids()
        while after is not None and self.continue_run():
            _, after = self._older.forget_dropped_ids(after)


def _has_passed(partition: Partition, today: date) -> bool:
    return partition.from_ is not None and partition.until is not None and partition.until <= today


def _now() -> datetime:
    return datetime.now(timezone.utc)
