"""Mirrors, copies and burials in tables: the ability :class:`~rootcellar.stores.mirroring.Mirrored` of SQL stores.

A burial and the row that it buries are changed in one transaction. What stores a record that may be buried must exclude
a burial of the same task until it has committed: else the burial that is stored between its look and its write would
bury nothing. Each server has its own means, which :meth:`MirroringStore._guard` and ``guard_burials`` begin, and
:meth:`MirroringStore._begin_burials` waits for. All transactions lock burials before rows, in the order of ids.

The statements of a server are in its ``migration.sql``:

- ``mirror_task``, ``settle_task``: store a row unless it is buried. Parameters: the columns of the row, and
  ``fingerprint``.
- ``lock_tasks``: lock and read rows (it is in ``archive.sql``).
- ``ends_of``: read ids and ends of rows.
- ``guard_burials``: read burials of tasks, and exclude new ones; ``burials_of``: only read; ``walk_burials``: read the
  next ones in the order of ids.
- ``put_burial``: store a burial; ``forget_burials``: delete some from before a moment.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any, Generic, TypeVar

from rootcellar.errors import RecordRefused
from rootcellar.records import TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.fields import LATEST, FieldReader, clamped
from rootcellar.stores.mirroring import (
    NOTHING_KNOWN,
    Burial,
    CopyReport,
    Held,
    fingerprint,
    is_buried,
    is_buried_copy,
    joined_fingerprints,
    latest_end,
    may_be_copied,
    split_fingerprints,
)
from rootcellar.stores.sql.by_date import is_late
from rootcellar.stores.sql.celery_tables import task_record as old_task_record
from rootcellar.stores.sql.store import SqlStore

C = TypeVar("C")
T = TypeVar("T")

#: the most records that one transaction copies or buries
AT_ONCE = 500


@dataclass
class _Copied:
    """What a copy has done so far."""

    written: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    buried: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, other: _Copied) -> None:
        self.written |= other.written
        self.kept |= other.kept
        self.buried |= other.buried

    def report(self) -> CopyReport:
        return CopyReport(
            written=frozenset(self.written),
            kept=frozenset(self.kept),
            buried=frozenset(self.buried),
            refused=self.refused,
        )


@dataclass(frozen=True)
class Known:
    """A burial as it is stored: its fingerprints are in the order in which they were added."""

    buried_at: datetime
    done_at: datetime | None
    fingerprints: bytes

    def of(self, task_id: str) -> Burial:
        """Return the burial."""
        found = frozenset(split_fingerprints(self.fingerprints))
        return Burial(task_id=task_id, buried_at=self.buried_at, done_at=self.done_at, fingerprints=found)


class MirroringStore(SqlStore[C], Generic[C]):
    """A SQL store with the ability :class:`~rootcellar.stores.mirroring.Mirrored`."""

    # -- different for each server

    @abstractmethod
    def _mirror_params(self, record: TaskRecord) -> dict[str, Any]:
        """Return the columns of a row as parameters.

        Raises:
            RecordRefused: the server cannot store it.
        """

    @abstractmethod
    def _copy_rows(self, connection: C, records: Sequence[TaskRecord], newer_wins: bool) -> set[str]:
        """Store whole rows where :func:`~rootcellar.stores.mirroring.may_be_copied` allows it; return their ids."""

    @abstractmethod
    def _mark_late(self, connection: C, ends: Iterable[datetime]) -> None:
        """Remember that the rows that ended at these times must be counted again. They may have ended long ago."""

    def _guard(self, connection: C) -> None:
        """Prepare a connection for a transaction in which burials are excluded; called before it begins."""

    def _begin_burials(self, connection: C, ids: Sequence[str]) -> None:
        """Lock the burials of these tasks, in a transaction, also those that are not there yet."""

    def _end_burials(self, connection: C, ids: Sequence[str]) -> None:
        """Undo :meth:`_begin_burials` for tasks that are not buried, at the end of the transaction."""

    # -- mirrors

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return Held(record) if self._store_unburied("mirror_task", record) else self._refused_mirror(record)

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return Held(record) if self._store_unburied("settle_task", record) else self._refused_mirror(record)

    def _store_unburied(self, statement: str, record: TaskRecord) -> bool:
        """Store a record in one statement, by name, unless it is buried; return whether it was stored."""
        params = {**self._mirror_params(record), "fingerprint": fingerprint(record)}

        def alone(connection: C) -> bool:
            self._guard(connection)
            return self._count_of(connection, statement, params) > 0

        def both(connection: C) -> bool:
            earlier = [end for _, end in self._ends_of(connection, [record.task_id])]
            written = self._count_of(connection, statement, params) > 0
            if written:
                self._mark_late(connection, [end for end in (*earlier, record.done_at) if end is not None])
            return written

        return self._guarded(both) if is_late(record) else self._run(alone)

    def _refused_mirror(self, record: TaskRecord) -> Held:
        """Return what is stored, and whether that is because of a burial."""
        burial = self.burials_of([record.task_id]).get(record.task_id)
        return Held(self.get(record.task_id), buried=is_buried(record, burial))

    def _guarded(self, work: Callable[[C], T]) -> T:
        """Call ``work`` in a transaction in which burials can be excluded."""

        def whole(connection: C) -> T:
            self._guard(connection)
            with self._transaction(connection):
                return work(connection)

        return self._run(whole)

    # -- copies

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Each :data:`AT_ONCE` records are one transaction."""
        copied = _Copied()
        fit = sorted(self._fit(records, copied), key=lambda record: record.task_id)
        for start in range(0, len(fit), AT_ONCE):
            self._copy_some(fit[start : start + AT_ONCE], newer_wins, copied)
        return copied.report()

    def _fit(self, records: Sequence[TaskRecord], copied: _Copied) -> list[TaskRecord]:
        """Return the records with ids that the server can store; note the others as refused."""
        findable = set(self._findable(record.task_id for record in records))
        for record in records:
            if record.task_id not in findable:
                copied.refused[record.task_id] = "the server cannot store its id"
        return [record for record in records if record.task_id in findable]

    def _copy_some(self, records: Sequence[TaskRecord], newer_wins: bool, copied: _Copied) -> None:
        """Copy records; if the server refuses them together, copy each half, so that only single ones are refused."""
        try:
            copied.add(self._guarded(partial(self._copy_on, records=records, newer_wins=newer_wins)))
        except RecordRefused as exc:
            if len(records) == 1:
                copied.refused[records[0].task_id] = str(exc)
                return
            middle = len(records) // 2
            self._copy_some(records[:middle], newer_wins, copied)
            self._copy_some(records[middle:], newer_wins, copied)

    def _copy_on(self, connection: C, records: Sequence[TaskRecord], newer_wins: bool) -> _Copied:
        copied = _Copied()
        ids = [record.task_id for record in records]
        burials = self._known_burials(connection, "guard_burials", ids)
        ends = dict(self._ends_of(connection, ids))
        adopted = self._adopted_on(connection, [task_id for task_id in ids if task_id not in ends])
        free = []
        for record in records:
            known = burials.get(record.task_id)
            if known is not None and is_buried_copy(record, known.of(record.task_id)):
                copied.buried.add(record.task_id)
            elif may_be_copied(record, adopted.get(record.task_id), newer_wins=newer_wins):
                free.append(record)
        copied.written = self._copy_rows(connection, free, newer_wins) if free else set()
        copied.kept = set(ids) - copied.buried - copied.written
        written = [record for record in free if record.task_id in copied.written]
        moved = {ends.get(record.task_id) for record in written}
        late = {record.done_at for record in written if is_late(record)}
        self._mark_late(connection, [end for end in moved | late if end is not None])
        return copied

    def _ends_of(self, connection: C, ids: Sequence[str]) -> Iterable[tuple[str, datetime | None]]:
        for task_id, end in self._rows_of(connection, "ends_of", {"task_ids": self._ids(ids)}):
            yield task_id, FieldReader().moment("done_at", end, self._read_date)

    # -- burials

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Each :data:`AT_ONCE` tasks are one transaction."""
        found: dict[str, TaskRecord] = {}
        for some in framing.chunks(sorted(self._findable(task_ids)), AT_ONCE):
            found.update(self._in_transaction(partial(self._bury_on, ids=some, known=known)))
        return found

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Each :data:`AT_ONCE` records are one transaction."""
        wanted = {record.task_id: record for record in records}
        count = 0
        for some in framing.chunks(sorted(self._findable(wanted)), AT_ONCE):
            count += len(self._in_transaction(partial(self._bury_same_on, ids=some, wanted=wanted)))
        return count

    def _bury_on(
        self, connection: C, ids: Sequence[str], known: Mapping[str, Sequence[TaskRecord]]
    ) -> dict[str, TaskRecord]:
        self._begin_burials(connection, ids)
        found = self._stored_on(connection, ids)
        self._bury_found(connection, ids, found, known)
        return found

    def _bury_same_on(
        self, connection: C, ids: Sequence[str], wanted: Mapping[str, TaskRecord]
    ) -> dict[str, TaskRecord]:
        self._begin_burials(connection, ids)
        stored = self._stored_on(connection, ids)
        same = {key: one for key, one in stored.items() if fingerprint(one) == fingerprint(wanted[key])}
        self._bury_found(connection, sorted(same), same, {key: [wanted[key]] for key in same})
        self._end_burials(connection, [task_id for task_id in ids if task_id not in same])
        return same

    def _bury_found(
        self,
        connection: C,
        ids: Sequence[str],
        found: Mapping[str, TaskRecord],
        known: Mapping[str, Sequence[TaskRecord]],
    ) -> None:
        """Store burials of tasks, and delete their rows, which this transaction has locked."""
        if not ids:
            return
        earlier = self._known_burials(connection, "burials_of", ids)
        if found:
            self._delete_on(connection, sorted(found))
        burials = []
        for task_id in ids:
            buried = [*known.get(task_id, ()), *([found[task_id]] if task_id in found else [])]
            before = earlier.get(task_id)
            end = latest_end(buried, before.done_at if before else None)
            joined = joined_fingerprints(before.fingerprints if before else b"", buried)
            burials.append(self._burial_params(task_id, end, joined))
        self._many_of(connection, "put_burial", burials)

    def _burial_params(self, task_id: str, end: datetime | None, fingerprints: bytes) -> dict[str, Any]:
        return {
            "task_id": task_id,
            "buried_at": self._date(datetime.now(timezone.utc)),
            "done_at": None if end is None else self._date(clamped(end)),
            "fingerprints": fingerprints,
        }

    def _stored_on(self, connection: C, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Lock and read the records of all tables of tasks, in a transaction."""
        rows = self._rows_of(connection, "lock_tasks", {"task_ids": self._ids(ids)})
        found = {record.task_id: record for record in map(self._task_record, rows)}
        return {**self._adopted_on(connection, [task_id for task_id in ids if task_id not in found]), **found}

    def _adopted_on(self, connection: C, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Read records of the table that Celery created, if there is one."""
        if not (self._adopted and self._adopted.task_table and ids):
            return {}
        found = self._dicts_of(connection, "get_adopted_tasks", {"task_ids": self._ids(ids)})
        # Celery's column may ignore the case of letters
        wanted = set(ids)
        return {row["task_id"]: old_task_record(row, self._adopted.keep) for row in found if row["task_id"] in wanted}

    # -- reading burials

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. They are in the order of their ids."""
        found = self._all("walk_burials", {"after": after or "", "limit": limit})
        page = [known.of(task_id) for task_id, known in self._read_burials(found).items()]
        return page, page[-1].task_id if page and len(found) == limit else None

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        found: dict[str, Burial] = {}
        for some in framing.chunks(self._findable(task_ids), self.MANY):
            known = self._run(partial(self._known_burials, statement="burials_of", ids=some))
            found.update({task_id: burial.of(task_id) for task_id, burial in known.items()})
        return found

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. They are deleted in batches."""
        params = {"before": self._date(LATEST if before is None else clamped(before)), "limit": DELETE_BATCH}
        count = 0
        while deleted := self._count("forget_burials", params):
            count += deleted
        return count

    def _known_burials(self, connection: C, statement: str, ids: Sequence[str]) -> dict[str, Known]:
        return self._read_burials(self._rows_of(connection, statement, {"task_ids": self._ids(ids)}))

    def _read_burials(self, rows: Iterable[Sequence[Any]]) -> dict[str, Known]:
        return {
            task_id: Known(
                buried_at=self._read_date(buried_at),
                done_at=None if done_at is None else self._read_date(done_at),
                fingerprints=bytes(fingerprints),
            )
            for task_id, buried_at, done_at, fingerprints in rows
        }
