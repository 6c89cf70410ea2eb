"""Deletes what has expired: every hour in a worker, by ``celery.backend_cleanup``, and by a command.

A run may be killed at any moment: the next one finds the rest. Two runs at a time share the work. A batch goes on where
the one before ended, and nothing is kept in memory but counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeAlias

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError, PermissionDenied, RootcellarError
from rootcellar.maintenance.batches import BatchSize
from rootcellar.maintenance.burials import forget_old_burials
from rootcellar.maintenance.cleaned import Cleaned, Expected
from rootcellar.maintenance.pace import RATE, Pace
from rootcellar.maintenance.service import Retries, Service, check_seconds
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import Codec
from rootcellar.payloads.settings import value_of
from rootcellar.records import TaskRecord
from rootcellar.retention.on_record import archived_by_any, put_on_record_or_log, rules_on_record
from rootcellar.retention.policy import Retention, read_retention
from rootcellar.stores.base import Store
from rootcellar.stores.expiring import Due, Expiring, Place, Replicated
from rootcellar.stores.jobs import Job, Jobs, note_sizes, recorded
from rootcellar.stores.journal import KeepsRefused
from rootcellar.stores.search import Condition, OneOf, Some
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the names of the jobs on record
JOB, BLOB_JOB = "cleanup", "blob sweep"
#: the most rows of a batch. A store that commits during a batch waits until the log of the whole batch is on disk
BATCH = 250
#: seconds between two sweeps of the blobs, which read the names of all blobs
BLOB_INTERVAL = 86_400.0
#: seconds after which a sweep of the blobs that has not ended is begun again: its process was killed
LONGEST_SWEEP = 3_600.0
#: how many times in a row a batch may fail before the run fails
TRIES = 5
#: seconds after which it is read again which results are held
DECIDED_FOR = 86_400.0
#: the fewest chords in a batch
_LEAST_CHORDS = 10
#: records that are read with their values, at a time
_READ_AT_ONCE = 100
#: rows that one statement counts
_COUNTED_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupConfig:
    """How a worker cleans up.

    Attributes:
        cleanup_interval: seconds between two cleanups, by whatever process.
        first_pause: the most seconds from the start of a worker to its first look whether it is time.
        batch: the most rows of a batch.
        rate: the most rows a second.
        least_batch: its size after three time-outs in a row.
        timeout: seconds after which a batch is given up.
        longest_timeout: the same for a batch of the smallest size: a very slow server still makes progress.

    Raises:
        ConfigurationError: a time is not a number of seconds, ``least_batch`` is not from 1 to ``batch``, or
            ``rate`` is less than 1.
    """

    cleanup_interval: float = 3_600.0
    first_pause: float = 60.0
    batch: int = BATCH
    rate: int = RATE
    least_batch: int = 50
    timeout: float = 10.0
    longest_timeout: float = 60.0

    def __post_init__(self) -> None:
        check_seconds(self.cleanup_interval, "cleanup_interval", least=0.01)
        check_seconds(self.first_pause, "first_pause")
        check_seconds(self.timeout, "timeout", least=0.001)
        check_seconds(self.longest_timeout, "longest_timeout", least=0.001)
        self.batch_size()
        if self.rate < 1:
            raise ConfigurationError(
                f"a cleanup deletes at most {self.rate!r} rows a second",
                where="rate",
                remedy="give a number of at least 1",
            )

    def batch_size(self) -> BatchSize:
        """Return the size of a batch, which shrinks and grows."""
        return BatchSize(self.batch, self.least_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupWork:
    """What a cleanup works on.

    Attributes:
        store: the store.
        spares: what is held.
        archiving: expired results that meet this condition stay, because they will be archived; ``None`` for none.
            So do those that the rules on record archive.
        archives: the same condition for one record that the durable store of write-behind refused; ``None`` for none.
        retention: the rules of this process, which a cleanup puts on record; ``None`` for none.
        has_archive: whether an archive is configured.
        sweep_chords: finishes chords whose process died, and returns how many; ``None`` without a broker.
        sweep_blobs: deletes blobs without a record, and returns how many; ``None`` without a blob store. It calls the
            function that it is given from time to time; an error of this function ends the sweep.
    """

    store: Store
    spares: Spares
    archiving: Condition | None = None
    archives: Callable[[TaskRecord], bool] | None = None
    retention: Retention | None = None
    has_archive: bool = False
    sweep_chords: Callable[[], int] | None = None
    sweep_blobs: Callable[[Callable[[], object]], int] | None = None

    @classmethod
    def of(
        cls,
        store: Store,
        codec: Codec,
        conf: Mapping[str, Any],
        *,
        retention: Retention | None = None,
        sweep_chords: Callable[[], int] | None = None,
    ) -> CleanupWork:
        """Return the work on a store whose results are read and written with these settings.

        Args:
            store: the store.
            codec: reads its values.
            conf: Celery's settings, which may be empty.
            retention: how long results are kept, if it was read from the settings already.
            sweep_chords: finishes chords whose process died.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        kept = retention or read_retention(conf)
        spiller = codec.spiller
        return cls(
            store=store,
            spares=Spares(store, codec),
            archiving=(archiving := kept.archiving()),
            archives=None if archiving is None else kept.archives,
            retention=kept,
            has_archive=value_of(conf, "result_archive")[0] is not None,
            sweep_chords=sweep_chords,
            sweep_blobs=None if spiller is None else partial(spiller.sweep, store, kept.blob_grace()),
        )


#: the holds, and the rules that archive
_Key: TypeAlias = tuple[tuple[int, ...], "Condition | None"]


class _Decided:
    """Remembers up to which place it was read and decided which results are held, so that a run does not repeat it.

    It forgets this after a day, because a result may have been stored before that place since.
    """

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._until: Place | None = None
        self._began = 0.0

    def after(self, key: _Key, window: Due) -> Due | None:
        """Return the part of a window that was not decided with these holds and rules; ``None`` if all was."""
        if self._until is None or key != self._key or time.monotonic() - self._began > DECIDED_FOR:
            return window
        if window.until is not None and window.until.expires_at < self._until.expires_at:
            return None
        is_after = window.after is not None and window.after.expires_at >= self._until.expires_at
        return window if is_after else replace(window, after=self._until)

    def note(self, key: _Key, until: Place) -> None:
        """Note that all results up to a place were decided."""
        if self._until is None or key != self._key or time.monotonic() - self._began > DECIDED_FOR:
            self._key, self._until, self._began = key, until, time.monotonic()
        elif until.expires_at >= self._until.expires_at:
            self._until = until


class _Stopped(Exception):
    """The service stops, or another process leads."""

    def __str__(self) -> str:
        return "stopped before its end; the next run goes on"


class Cleanup(Service):
    """Cleans up. One worker does so, because a second one would only share the work.

    Args:
        work: what to clean.
        config: how.
        on_batch: called after each batch, with what was done so far.
    """

    name = "cleanup"
    action = "delete expired results (the next run goes on)"
    is_single = True

    def __init__(
        self,
        work: CleanupWork,
        config: CleanupConfig | None = None,
        on_batch: Callable[[Cleaned], object] = lambda cleaned: None,
    ) -> None:
        super().__init__(retries=Retries(first=0.2, longest=60.0))
        self._work = work
        self._config = config or CleanupConfig()
        self._on_batch = on_batch
        self._next = self._config.cleanup_interval
        self._blobs_swept: float | None = None
        #: which held results were read already
        self.decided = _Decided()
        #: what the last run, or the one that runs now, has done
        self.cleaned = Cleaned()

    # -- as a service

    def run_once(self) -> int:
        """Clean up, unless any process has done so less than an interval ago."""
        left = self._seconds_left(JOB, self._config.cleanup_interval)
        self._next = left or self._config.cleanup_interval
        if left:
            return 0
        for action, exc in self._run(self._is_time_for_blobs()):
            # the results are deleted: only these sweeps are tried again, by the next cleanup
            logger.error("Could not %s: %s", action, exc)
        if self.cleaned.has_done_something:
            logger.info("Cleanup: %s", self.cleaned.sentence())
        return self.cleaned.deleted

    def pause_after(self, done: int) -> float:
        return self._next

    @property
    def first_pause(self) -> float:
        return min(self._config.first_pause, self._config.cleanup_interval)

    def _seconds_left(self, name: str, interval: float) -> float:
        """Return after how many seconds a job is due; 0 if it is, or if the store keeps no jobs."""
        job = self._last(name)
        if job is None or job.succeeded_at is None or job.has_failed:
            return 0.0
        return max(0.0, interval - _seconds_since(job.succeeded_at))

    def _last(self, name: str) -> Job | None:
        """Return the last run of a job, if it is known."""
        jobs = self._work.store.ability(Jobs)
        try:
            return None if jobs is None else jobs.jobs().get(name)
        except PermissionDenied:
            # rights that were granted before there was a table of jobs: this process counts the time alone
            return None

    def _is_time_for_blobs(self) -> bool:
        """Return whether the blobs were not swept lately, and no other process sweeps them."""
        if self._blobs_swept is not None and time.monotonic() - self._blobs_swept < BLOB_INTERVAL:
            return False
        job = self._last(BLOB_JOB)
        if job is None:
            return True
        if job.is_open:
            return _seconds_since(job.started_at) >= LONGEST_SWEEP
        if job.has_failed or job.succeeded_at is None:
            return _seconds_since(job.ended_at or job.started_at) >= self._config.cleanup_interval
        return _seconds_since(job.succeeded_at) >= BLOB_INTERVAL

    # -- the work

    def clean(self, *, with_blobs: bool = True) -> Cleaned:
        """Clean up now, whenever it was done last.

        Args:
            with_blobs: whether blobs without a record are deleted.

        Returns:
            what was done.

        Raises:
            RootcellarError: it could not be done. :attr:`cleaned` says what was done before.
        """
        for _, exc in self._run(with_blobs):
            raise exc
        return self.cleaned

    def _run(self, with_blobs: bool) -> Sequence[tuple[str, RootcellarError]]:
        """Clean up; return which sweeps failed after the results were deleted, and their errors."""
        self.cleaned = cleaned = Cleaned(has_archive=self._work.has_archive)
        began = time.monotonic()
        try:
            with recorded(self._work.store, JOB) as run:
                try:
                    if self._work.retention is not None:
                        put_on_record_or_log(self._work.store, self._work.retention)
                    self._clean()
                finally:
                    cleaned.seconds = time.monotonic() - began
                    run.done, run.note = cleaned.deleted, cleaned.sentence()
            failed = self._sweep(with_blobs)
            cleaned.is_complete = not failed
        except _Stopped:
            return ()
        finally:
            cleaned.seconds = time.monotonic() - began
        return failed

    def _clean(self) -> None:
        expiring = self._work.store.ability(Expiring)
        if expiring is None:
            _OtherStore(self).run()
        else:
            _Rows(self, expiring).run()
        forget_old_burials(self._work.store)
        note_sizes(self._work.store)

    def _sweep(self, with_blobs: bool) -> list[tuple[str, RootcellarError]]:
        """Do the sweeps, each also if another one fails; return which ones failed, and their errors."""
        failed = []
        sweeps: list[tuple[str, Callable[[], None]]] = [("finish chords whose process died", self._sweep_chords)]
        if with_blobs:
            sweeps.append(("delete blobs without a result", self._sweep_blobs))
        for action, sweep in sweeps:
            self._go_on()
            try:
                sweep()
            except RootcellarError as exc:
                failed.append((action, exc))
        return failed

    def _sweep_chords(self) -> None:
        if self._work.sweep_chords is not None:
            self.cleaned.orphans = self._work.sweep_chords()

    def _sweep_blobs(self) -> None:
        if self._work.sweep_blobs is None:
            return
        with recorded(self._work.store, BLOB_JOB) as run:
            self.cleaned.blobs = run.done = self._work.sweep_blobs(self._go_on)
        self._blobs_swept = time.monotonic()

    def _go_on(self) -> None:
        """Do nothing, or raise an error if this run must end."""
        if not self.continue_run():
            raise _Stopped

    def expected(self, samples: int = 5) -> Expected | None:
        """Return what :meth:`clean` would do; change nothing.

        Args:
            samples: how many results are read as examples.

        Returns:
            ``None`` if the store cannot say it.

        Raises:
            RootcellarError: it could not be read.
        """
        expiring = self._work.store.ability(Expiring)
        if expiring is None:
            return None
        self.cleaned = Cleaned(has_archive=self._work.has_archive)
        return _Rows(self, expiring).expected(samples)


class _OtherStore:
    """Cleans up a store that cannot say where a batch ended: its server deletes most of what has expired by itself."""

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._now = datetime.now(timezone.utc)

    def run(self) -> None:
        size = self._cleanup._config.batch_size()
        pace = Pace(rate=self._cleanup._config.rate)
        self._cleanup.run_in_batches(size, lambda limit: self._batch(limit, pace), pause=pace.pause, tries=TRIES)
        self._cleanup._go_on()

    def _batch(self, limit: int, pace: Pace) -> int:
        began = time.monotonic()
        cleaned = self._cleanup.cleaned
        count = self._cleanup._work.store.delete_expired(self._now, limit)
        pace.note(count, time.monotonic() - began)
        cleaned.tasks += count
        cleaned.batches += 1
        self._cleanup._on_batch(cleaned)
        return count


class _Rows:
    """Cleans up a store with the ability :class:`~rootcellar.stores.expiring.Expiring`.

    Args:
        cleanup: the run.
        expiring: the ability.
    """

    def __init__(self, cleanup: Cleanup, expiring: Expiring) -> None:
        self._cleanup = cleanup
        self._config = cleanup._config
        self._work = cleanup._work
        self._cleaned = cleanup.cleaned
        self._expiring = expiring
        self._now = datetime.now(timezone.utc)
        #: what is archived instead of deleted, by the rules of this and of all other processes
        self._archiving: Condition | None = None
        self._after: Place | None = None
        self._is_done = False
        self._has_groups = True
        self._pace = self._new_pace()
        self._size = self._config.batch_size()
        #: the holds and rules with which this run began: what it decides with others is decided from the middle on
        self._first_key: _Key | None = None

    def run(self) -> None:
        """Delete tasks and groups in batches, then chords."""
        chords = BatchSize(BATCH, _LEAST_CHORDS)
        batches = ((self._tasks, self._size), (self._groups, self._size), (self._adopted, self._size))
        for batch, size in (*batches, (self._chords, chords)):
            # rows of another kind may take longer
            self._pace = self._new_pace()
            self._cleanup.run_in_batches(size, self._timed(batch), pause=self._pace.pause, tries=TRIES)
            self._cleanup._go_on()
        if (keeper := self._work.store.ability(KeepsRefused)) is not None:
            self._refused(keeper)

    def _new_pace(self) -> Pace:
        replicated = self._work.store.ability(Replicated)
        rate = self._config.rate
        return Pace(rate=rate) if replicated is None else Pace(replicated.replica_lag, rate)

    def _timed(self, batch: Callable[[int], int]) -> Callable[[int], int]:
        def work(limit: int) -> int:
            began = time.monotonic()
            looked_at = batch(limit)
            self._pace.note(looked_at, time.monotonic() - began)
            self._cleaned.batches += bool(looked_at)
            self._cleanup._on_batch(self._cleaned)
            return looked_at

        return work

    def _tasks(self, limit: int) -> int:
        """Delete the next tasks; return how many rows were looked at."""
        if self._is_done:
            return 0
        due, held = self._due(limit)
        deleted = self._expiring.delete_expired_tasks(due)
        self._cleaned.tasks += deleted.count
        spared = deleted.spared
        if spared:
            spared -= self._delete_doubtful(replace(due, until=deleted.last), held)
            self._note_spared(replace(due, until=deleted.last), spared)
        # a hold that was placed meanwhile ends the batches as if nothing more were due
        self._is_done = deleted.last is None and self._work.spares.condition() == held
        self._after = deleted.last or self._after
        if self._has_groups:
            self._has_groups = self._groups(limit) > 0
        return deleted.count + deleted.spared or int(not self._is_done)

    def _due(self, limit: int) -> tuple[Due, Condition | None]:
        """Return what the next batch looks at, and the condition of the holds."""
        held = self._work.spares.condition()
        self._archiving = archived_by_any(self._work.store, self._work.archiving)
        terms = tuple(each for each in (held, self._archiving) if each is not None)
        spared = Some(terms) if len(terms) > 1 else (terms[0] if terms else None)
        timeout = self._config.longest_timeout if self._size.is_least else self._config.timeout
        return Due(now=self._now, limit=limit, after=self._after, spared=spared, timeout=timeout), held

    def _delete_doubtful(self, window: Due, held: Condition | None, *, is_only_counted: bool = False) -> int:
        """Delete those tasks of a window that the server had to spare, and that no hold holds; return how many."""
        if held is None or (doubtful := self._work.spares.doubtful()) is None:
            return 0
        key = (self._work.spares.active, self._archiving)
        self._first_key = self._first_key or key
        unread = window if is_only_counted else self._cleanup.decided.after(key, window)
        if unread is None:
            return 0
        # first the ids alone, because values may be large
        found = self._expiring.expired(replace(unread, spared=self._archiving, wanted=doubtful, with_values=False))
        ids = [record.task_id for record in found]
        count = 0
        pace = Pace(rate=self._config.rate)
        for start in range(0, len(ids), _READ_AT_ONCE):
            began = time.monotonic()
            some = OneOf("task_id", tuple(ids[start : start + _READ_AT_ONCE]))
            records = self._expiring.expired(replace(unread, spared=self._archiving, wanted=some))
            free, placed = self._work.spares.free(records)
            if is_only_counted:
                count += len(free)
                continue
            deleted = self._expiring.delete_unchanged(free, placed, unread.timeout)
            self._cleaned.tasks += deleted
            count += deleted
            pace.note(len(records), time.monotonic() - began)
            self._cleanup._go_on()
            self._cleanup._pause(pace.pause())
        if not is_only_counted and key == self._first_key:
            self._cleanup.decided.note(key, window.until or Place(self._now, ""))
        return count

    def _note_spared(self, window: Due, count: int) -> None:
        """Count the tasks of a window that stay, by what keeps them."""
        archiving = self._count_waiting(window, self._archiving, count)
        is_own = self._archiving == self._work.archiving
        own = archiving if is_own else self._count_waiting(window, self._work.archiving, archiving)
        self._cleaned.archiving += own
        self._cleaned.archiving_elsewhere += archiving - own
        self._cleaned.held += count - archiving

    def _count_waiting(self, window: Due, archived: Condition | None, most: int) -> int:
        if archived is None:
            return 0
        return min(most, self._expiring.count_expired(replace(window, spared=None, wanted=archived)).count)

    def _groups(self, limit: int) -> int:
        count = self._expiring.delete_expired_groups(self._now, limit)
        self._cleaned.groups += count
        return count

    def _chords(self, limit: int) -> int:
        count = self._expiring.delete_expired_chords(self._now, limit)
        self._cleaned.chords += count
        return count

    def _refused(self, keeper: KeepsRefused) -> None:
        """Delete the expired records that the durable store refused, except what is held or must be archived."""
        self._work.spares.condition()
        recorded_rules = rules_on_record(self._work.store)
        if not self._work.spares.has_holds and self._work.archives is None and not recorded_rules:
            self._cleaned.tasks += keeper.delete_expired_refused(self._now)
            return
        for records in keeper.refused():
            self._cleanup._go_on()
            # read again for each page, because a hold may have been placed
            self._work.spares.condition()
            others = [record for record in records if not (self._work.archives and self._work.archives(record))]
            unarchived = [record for record in others if not any(rules.archives(record) for rules in recorded_rules)]
            free, _ = self._work.spares.free(unarchived)
            self._cleaned.tasks += keeper.delete_expired_refused(self._now, [record.task_id for record in free])
            self._cleaned.archiving += self._expired(records) - self._expired(others)
            self._cleaned.archiving_elsewhere += self._expired(others) - self._expired(unarchived)
            self._cleaned.held += self._expired(unarchived) - self._expired(free)

    def _expired(self, records: Sequence[TaskRecord]) -> int:
        """Return how many of these records have expired."""
        return sum(record.expires_at is not None and record.expires_at < self._now for record in records)

    def _adopted(self, limit: int) -> int:
        self._work.spares.condition()
        if self._work.spares.has_holds:
            # holds are not tested for the rows of these tables
            self._cleaned.keeps_adopted = True
            return 0
        count = self._expiring.delete_expired_adopted(self._now, limit)
        self._cleaned.adopted += count
        return count

    # -- without a change

    def expected(self, samples: int) -> Expected:
        """Return what :meth:`run` would do."""
        found = self._samples(samples)
        while True:
            due, held = self._due(_COUNTED_AT_ONCE)
            limit = _COUNTED_AT_ONCE if self._work.spares.doubtful() is None else self._config.batch
            due = replace(due, timeout=self._config.longest_timeout, limit=limit)
            counted = self._expiring.count_expired(due)
            window = replace(due, until=counted.last)
            free = self._delete_doubtful(window, held, is_only_counted=True) if counted.spared else 0
            self._cleaned.tasks += counted.count + free
            self._note_spared(window, counted.spared - free)
            self._cleanup._on_batch(self._cleaned)
            if counted.last is None:
                break
            self._after = counted.last
        self._cleaned.groups = self._expiring.count_expired_groups(self._now)
        self._cleaned.chords = self._expiring.count_expired_chords(self._now)
        self._work.spares.condition()
        adopted = self._expiring.count_expired_adopted(self._now)
        self._cleaned.keeps_adopted = self._work.spares.has_holds
        self._cleaned.adopted = 0 if self._work.spares.has_holds else adopted
        return Expected(cleaned=self._cleaned, samples=found)

    def _samples(self, count: int) -> Sequence[TaskRecord]:
        due, _ = self._due(count)
        return self._expiring.expired(replace(due, with_values=False))


def _seconds_since(moment: datetime) -> float:
    # the clock of the server may be another one
    return max(0.0, (datetime.now(timezone.utc) - moment).total_seconds())


def overdue_since(store: Store, after: timedelta) -> datetime | None:
    """Return since when a cleanup is missing; ``None`` if none is.

    It is missing if none has succeeded for so long, and a result that expired before that is still stored.

    Args:
        store: the store.
        after: how long a cleanup may be missing.

    Returns:
        when the last one succeeded or, if none ever did, when that result expired.
    """
    jobs, expiring = store.ability(Jobs), store.ability(Expiring)
    if jobs is None or expiring is None:
        return None
    limit = datetime.now(timezone.utc) - after
    job = jobs.jobs().get(JOB)
    last = None if job is None else job.succeeded_at
    if last is not None and last > limit:
        return None
    due = expiring.expired(Due(now=limit, limit=1, with_values=False))
    return (last or due[0].expires_at) if due else None
