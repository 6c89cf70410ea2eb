"""Compares all results of two systems: by sums of digests first, and then record by record where the sums differ.

Both systems are walked once, at the same time. Then only the records of the buckets that differ are compared: each with
the record of the other system, as it is at that moment. So results that are stored meanwhile are no differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from threading import Event, Lock

from rootcellar.errors import AbilityMissing
from rootcellar.migration.beside import SumsBeside
from rootcellar.migration.checksums import Difference, Sums, bucket_of, differences, same_group
from rootcellar.migration.endpoint import Endpoint, Lookup, Source, Spec
from rootcellar.migration.progress import Progress
from rootcellar.migration.repairing import Repairer
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.walking import persistent, walk_groups, walk_tasks
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores.mirroring import moment

#: how many ids of each class are kept
NAMED = 1_000
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Found:
    """A difference.

    Attributes:
        record_id: the id of the task, or of the saved group.
        kind: its class.
        is_newer_in_target: whether the record of the target is newer than that of the source.
        is_repaired: whether it was repaired.
    """

    record_id: str
    kind: Difference
    is_newer_in_target: bool = False
    is_repaired: bool = False


@dataclass(slots=True)
class Verified:
    """What was found.

    Attributes:
        source_total, target_total: how many records were compared on each side; a walk may read one twice.
        groups: how many saved groups of the source were compared.
        counts: the differences by class, also those that were repaired.
        repaired: the same, only those that were repaired.
        newer: the same, only those whose record in the target is newer.
        ids: some ids of each class.
    """

    source_total: int = 0
    target_total: int = 0
    groups: int = 0
    counts: Counter[Difference] = field(default_factory=Counter)
    repaired: Counter[Difference] = field(default_factory=Counter)
    newer: Counter[Difference] = field(default_factory=Counter)
    ids: dict[Difference, list[str]] = field(default_factory=dict)

    def left(self, *, allow_more: bool = False) -> int:
        """Return how many differences were not repaired.

        Args:
            allow_more: whether the target may have more than the source.
        """
        more = (Difference.ONLY_IN_TARGET, Difference.GROUP_ONLY_IN_TARGET) if allow_more else ()
        return sum(count - self.repaired[kind] for kind, count in self.counts.items() if kind not in more)


class Verifying:
    """Compares two systems.

    Args:
        source: the system that should be complete in the other one.
        target: the other one.
        matches: says which records are compared; ``None`` for all.
        beside: how the target is opened by a second process, which reads it; ``None`` for a thread.
        repair: whether the source's record is stored in the target where they differ.
        with_groups: whether saved groups are compared too.
        throttle: limits the records a second of each side.
        progress: counts the records that are read on both sides.
        on_batch: is called after each batch.
        on_found: is called with each difference.
        now: returns the present.

    Raises:
        AbilityMissing: one of them cannot be compared, or not be repaired.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        *,
        matches: Callable[[TaskRecord], bool] | None = None,
        beside: Spec | None = None,
        repair: bool = False,
        with_groups: bool = True,
        throttle: Throttle | None = None,
        progress: Progress | None = None,
        on_batch: Callable[[], object] = lambda: None,
        on_found: Callable[[Found], object] = lambda found: None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._source, self._target = source.to_read, target.to_read
        self._of_source, self._of_target = _lookup(source), _lookup(target)
        self._repairer = Repairer(target) if repair else None
        self._matches = matches
        self._beside = beside
        self._with_groups = with_groups
        self._throttle = throttle or Throttle()
        self._progress = progress or Progress()
        self._on_batch = on_batch
        self._on_found = on_found
        self._now = now
        self._lock = Lock()
        self.found = Verified()

    def run(self) -> Verified:
        """Compare everything.

        Raises:
            RootcellarError: a server cannot be reached for about a minute, or refuses.
        """
        mine, its = self._sums()
        self.found.source_total, self.found.target_total = mine.total, its.total
        buckets = mine.differing(its)
        if buckets:
            self._compare(buckets)
        if self._with_groups:
            self._compare_groups()
        return self.found

    # -- the sums

    def _sums(self) -> tuple[Sums, Sums]:
        now = self._now()
        if self._beside is not None and self._matches is None:
            with SumsBeside(self._beside, self._throttle.rate, now, self._note) as beside:
                return self._summed(self._source, now, Event()), beside.result()
        stop = Event()
        # the two sides must not share a throttle: each is limited
        with ThreadPoolExecutor(1, "rootcellar-verify") as threads, _set_at_the_end(stop):
            other = threads.submit(self._summed, self._target, now, stop, Throttle(self._throttle.rate, wait=stop.wait))
            return self._summed(self._source, now, stop), other.result()

    def _summed(self, source: Source, now: datetime, stop: Event, throttle: Throttle | None = None) -> Sums:
        sums = Sums()
        with closing(walk_tasks(source.stream, throttle=throttle or self._throttle)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if stop.is_set():
                    break
                sums.add(self._wanted(batch.rows), now)
                if throttle is not None:
                    # the rate may change meanwhile
                    throttle.rate = self._throttle.rate
                self._note(len(batch.rows))
        return sums

    def _note(self, rows: int) -> None:
        with self._lock:
            self._progress.add(rows)
            self._on_batch()

    def _wanted(self, rows: Sequence[TaskRecord]) -> Sequence[TaskRecord]:
        return rows if self._matches is None else [record for record in rows if self._matches(record)]

    # -- record by record

    def _compare(self, buckets: frozenset[int]) -> None:
        """Compare the records of some buckets with those of the other side, from both sides."""
        self._progress.total = None
        for records in self._of_buckets(self._source, buckets):
            self._compare_records(records)
        for records in self._of_buckets(self._target, buckets):
            self._look_for_more(records)

    def _of_buckets(self, source: Source, buckets: frozenset[int]) -> Iterator[Sequence[TaskRecord]]:
        """Yield the records of some buckets in batches."""
        for batch in walk_tasks(source.stream, throttle=self._throttle):
            yield [record for record in self._wanted(batch.rows) if bucket_of(record.task_id) in buckets]
            self._note(len(batch.rows))

    def _compare_records(self, records: Sequence[TaskRecord]) -> None:
        """Compare records of the source with those of the target."""
        suspects = self._different(records)
        if not suspects:
            return
        # they may have changed since they were read, by a worker or by their expiry
        again = _many(self._of_source, [record for record, _ in suspects])
        different = self._different(list(again.values()))
        repaired = set() if self._repairer is None else self._repairer.repair(different)
        for record, other in different:
            is_newer = other is not None and moment(other) > moment(record)
            for kind in [Difference.MISSING] if other is None else differences(record, other):
                self._add(Found(record.task_id, kind, is_newer, record.task_id in repaired))

    def _different(self, records: Sequence[TaskRecord]) -> list[tuple[TaskRecord, TaskRecord | None]]:
        """Return the records that are not the same in the target, each with that of the target."""
        # the clocks of two servers differ a little: what expires within a second may be deleted in one of them
        soon = self._now() + _SECOND
        found = _many(self._of_target, records)
        pairs = [(record, found.get(record.task_id)) for record in records if not _has_expired(record, soon)]
        return [(record, other) for record, other in pairs if other is None or differences(record, other)]

    def _look_for_more(self, records: Sequence[TaskRecord]) -> None:
        """Look for records of the target that the source does not have."""
        suspects = self._more(records)
        # they may have been deleted in both, since they were read
        for record in self._more(list(_many(self._of_target, suspects).values())):
            self._add(Found(record.task_id, Difference.ONLY_IN_TARGET))

    def _more(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Return the records of the target that the source does not have, or has with an expiry that is over."""
        now = self._now()
        alive = [record for record in records if not _has_expired(record, now + _SECOND)]
        found = _many(self._of_source, alive)
        pairs = [(record, found.get(record.task_id)) for record in alive]
        return [record for record, other in pairs if other is None or _has_expired(other, now - _SECOND)]

    def _add(self, found: Found) -> None:
        ids = self.found.ids.setdefault(found.kind, [])
        if len(ids) < NAMED:
            ids.append(found.record_id)
        self.found.counts[found.kind] += 1
        self.found.repaired[found.kind] += found.is_repaired
        self.found.newer[found.kind] += found.is_newer_in_target
        self._on_found(found)

    # -- saved groups

    def _compare_groups(self) -> None:
        for group, other in self._group_pairs(self._source, self._of_target):
            self.found.groups += 1
            if other is not None and same_group(group, other):
                continue
            kind = Difference.GROUP_MISSING if other is None else Difference.GROUP
            is_newer = other is not None and other.done_at > group.done_at
            is_repaired = self._repairer is not None and self._repairer.repair_group(group, other)
            self._add(Found(group.group_id, kind, is_newer, is_repaired))
        for group, other in self._group_pairs(self._target, self._of_source):
            if other is None:
                self._add(Found(group.group_id, Difference.GROUP_ONLY_IN_TARGET))

    def _group_pairs(self, source: Source, other: Lookup) -> Iterator[tuple[GroupRecord, GroupRecord | None]]:
        """Yield the saved groups, each with that of the other side."""
        now = self._now()
        for batch in walk_groups(source.stream_groups, throttle=self._throttle):
            for group in batch.rows:
                if group.expires_at is None or group.expires_at > now:
                    yield group, persistent(partial(other.get_group, group.group_id))
            self._on_batch()


def _lookup(endpoint: Endpoint) -> Lookup:
    if endpoint.lookup is None:
        raise AbilityMissing(
            "single results cannot be looked up here", where=endpoint.where, remedy="verify another store"
        )
    return endpoint.lookup


def _many(lookup: Lookup, records: Sequence[TaskRecord]) -> Mapping[str, TaskRecord]:
    return persistent(lambda: lookup.get_many([record.task_id for record in records])) if records else {}


def _has_expired(record: TaskRecord, now: datetime) -> bool:
    return record.expires_at is not None and record.expires_at <= now


@contextmanager
def _set_at_the_end(event: Event) -> Iterator[None]:
    """Set an event at the end, so that a thread ends before it is waited for."""
    try:
        yield
    finally:
        event.set()
