"""Deletes expired rows, batch by batch: what the SQL stores share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from rootcellar.records import TaskRecord
from rootcellar.stores.base import DELETE_BATCH
from rootcellar.stores.expiring import PARTS_OF_A_CHORD, Deleted, DeletionTooSlow, Due, Place
from rootcellar.stores.fields import EARLIEST, FieldReader
from rootcellar.stores.search import Always, Condition, MoreHolds, Negated, Search, SearchTooSlow, Segment
from rootcellar.stores.sql.rows import TASK_COLUMNS
from rootcellar.stores.sql.search import UNLISTED, Renderer
from rootcellar.stores.sql.statements import fill_in
from rootcellar.stores.sql.store import SqlStore

C = TypeVar("C")
K = TypeVar("K")

_PAGE = "SELECT {columns} FROM {table} WHERE {due} AND {wanted} ORDER BY expires_at, task_id LIMIT {limit}"
# one statement, because a cleanup may delete rows meanwhile
_COUNT = """WITH page AS (
    SELECT expires_at, task_id, {tie} AS tie, {wanted} AS is_wanted FROM {table} WHERE {due}
    ORDER BY expires_at, {tie} LIMIT {limit}
)
SELECT count(*), sum(CASE WHEN is_wanted THEN 1 ELSE 0 END), (SELECT {expiry} FROM page {last}),
    (SELECT task_id FROM page {last}), (SELECT {row} FROM page {last})
FROM page"""
_LAST = "ORDER BY expires_at DESC, tie DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Tie:
    """The order of rows that expire at the same time: that of the index, so that they need not be sorted.

    Attributes:
        column: its column.
        value: reads it from the column ``tie``, as a text; ``NULL`` if the id is enough.
        param: the SQL of such a text as a parameter, with ``{}`` for the parameter.
    """

    column: str = "task_id"
    value: str = "NULL"
    param: str = "{}"


class DueRows:
    """The SQL of one :class:`~rootcellar.stores.expiring.Due`.

    Args:
        due: which rows.
        renderer: renders conditions; its parameters are those of the statement.
        tie: the order of rows that expire at the same time.
        is_read: whether the rows are only read: then a wanted condition that the server cannot test exactly finds too
            many rows, else too few.

    Attributes:
        due: see above.
        is_due: the condition that a row has expired, and is between the places.
        is_expired: the condition that it has expired, at any place.
        is_wanted: the condition that it is wanted and not spared.
        takes_all: whether every row that is due is wanted, or none, because a hold was placed.
    """

    def __init__(self, due: Due, renderer: Renderer, tie: Tie, *, is_read: bool = False) -> None:
        self.due = due
        self._renderer = renderer
        self._tie = tie
        self.is_expired = f"expires_at < {renderer.param(renderer.date(due.now))}"
        self.is_due = " AND ".join([self.is_expired, *self._after(due.after), *self._until(due.until)])
        wanted = [] if due.wanted is None else [f"({renderer.render(due.wanted, is_read)})"]
        # a condition that the server cannot test exactly spares too many rows, never too few
        spared = [] if due.spared is None else [renderer.render(Negated(due.spared), is_widened=False)]
        self.is_wanted = " AND ".join([*wanted, *spared]) or renderer.true
        self.takes_all = due.wanted is None and (due.spared is None or isinstance(due.spared, MoreHolds))
        if self.takes_all:
            self.is_due = f"{self.is_due} AND {self.is_wanted}"

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of all conditions."""
        return self._renderer.params

    @property
    def names(self) -> dict[str, str]:
        """What a statement is filled in with."""
        limit = str(int(self.due.limit))
        parts = {"due": self.is_due, "wanted": self.is_wanted, "expired": self.is_expired}
        return {**parts, "limit": limit}

    @property
    def table(self) -> str:
        """The table's name. It is not among the names, because the name of a table may contain ``{task}``."""
        return self._renderer.task

    def selected(self, column: str) -> str:
        """Return the SQL that reads a column."""
        return self._renderer.selected(column)

    def _after(self, place: Place | None) -> list[str]:
        if place is None:
            return []
        moment, column, tie = self._place(place)
        return [f"expires_at >= {moment}", f"(expires_at > {moment} OR {column} > {tie})"]

    def _until(self, place: Place | None) -> list[str]:
        if place is None:
            return []
        moment, column, tie = self._place(place)
        return [f"expires_at <= {moment}", f"(expires_at < {moment} OR {column} <= {tie})"]

    def _place(self, place: Place) -> tuple[str, str, str]:
        moment = self._renderer.param(self._renderer.date(place.expires_at))
        if place.row is None:
            return moment, "task_id", self._renderer.param(place.task_id)
        return moment, self._tie.column, self._tie.param.format(self._renderer.param(place.row))


def with_few_parts(chords: Iterable[tuple[K, int]], limit: int) -> list[K]:
    """Return the keys of the first chords that have together about so many parts as a batch may have.

    Args:
        chords: each with its key and the number of its parts.
        limit: the most chords in a batch.
    """
    found = []
    left = limit * PARTS_OF_A_CHORD
    for key, parts in chords:
        if left <= 0:
            break
        found.append(key)
        left -= parts
    return found


class ExpiringStore(SqlStore[C], Generic[C]):
    """A SQL store with the ability :class:`~rootcellar.stores.expiring.Expiring`."""

    _TIE: ClassVar[Tie] = Tie()

    # -- different for each server

    @abstractmethod
    def _delete_due(self, rows: DueRows) -> Deleted:
        """Delete the next rows that are due and wanted.

        Raises:
            DeletionTooSlow: it took longer than the time of ``rows.due``.
        """

    @abstractmethod
    def _delete_same(self, records: Sequence[TaskRecord], rows: DueRows) -> int:
        """Delete rows that are wanted, and whose ``expires_at`` is still the same; return how many.

        Raises:
            DeletionTooSlow: it took longer than the time of ``rows.due``.
        """

    @abstractmethod
    def delete_expired_groups(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""

    @abstractmethod
    def delete_expired_chords(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""

    def _table_by_expiry(self, rows: DueRows) -> str:
        """Return the table's name, with a hint if the server would not use the index of expiries by itself."""
        return rows.table

    # -- the same for all

    def delete_expired_tasks(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        return self._delete_due(self._due_rows(due))

    def delete_unchanged(
        self, records: Sequence[TaskRecord], spared: Condition | None = None, timeout: float = 30.0
    ) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        dated = [(record.expires_at, record) for record in records if record.expires_at is not None]
        if not dated:
            return 0
        due = Due(now=max(moment for moment, _ in dated) + datetime.resolution, spared=spared, timeout=timeout)
        return self._delete_same([record for _, record in dated], self._due_rows(due))

    def count_expired_groups(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        ((count,),) = self._all("count_expired_groups", {"now": self._date(now)})
        return int(count)

    def count_expired_chords(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        params = {"now": self._date(now), "yesterday": self._date(now - timedelta(days=1))}
        ((count,),) = self._all("count_expired_chords", params)
        return int(count)

    def count_expired_adopted(self, now: datetime) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        self._ensure_schema()
        return self._count_expired_adopted(now)

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        count = self.delete_expired_tasks(Due(now=now, limit=limit, timeout=float("inf"))).count
        count += self.delete_expired_groups(now, limit)
        self.delete_expired_chords(now, limit)
        return count + self._delete_expired_adopted(now, limit)

    def delete_expired_adopted(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""
        self._ensure_schema()
        return self._delete_expired_adopted(now, limit)

    def count_expired(self, due: Due) -> Deleted:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""

        def work(connection: C) -> Deleted:
            rows = self._due_rows(due, is_read=True)
            names = {"tie": self._TIE.column, "row": self._TIE.value, "expiry": rows.selected("expires_at")}
            ((seen, wanted, *place),) = self._read_due(connection, _COUNT, rows, last=_LAST, **names)
            seen, wanted = int(seen), int(wanted or 0)
            return Deleted(wanted, None if seen < due.limit else self._place_of(due, place), seen - wanted)

        return self._run(work)

    def expired(self, due: Due) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.expiring.Expiring`."""

        def work(connection: C) -> list[TaskRecord]:
            rows = self._due_rows(due, is_read=True)
            unread = frozenset() if due.with_values else UNLISTED
            columns = ["NULL" if column in unread else rows.selected(column) for column in TASK_COLUMNS]
            found = self._read_due(connection, _PAGE, rows, columns=", ".join(columns))
            return [self._task_record(row) for row in found]

        return self._run(work)

    def _read_due(self, connection: C, statement: str, rows: DueRows, **names: str) -> list[tuple[Any, ...]]:
        text = fill_in(statement, {**rows.names, "table": self._table_by_expiry(rows), **names})
        try:
            return self._searched(connection, text, rows.params, rows.due.timeout)
        except SearchTooSlow as exc:
            raise self._deletion_too_slow(rows.due.timeout) from exc

    def _due_rows(self, due: Due, *, is_read: bool = False) -> DueRows:
        renderer = self._renderer(Search(segment=Segment.UNFINISHED, condition=Always(True)))
        renderer.is_anywhere = True
        renderer.holds_placed = self._sql["holds_placed"]
        return DueRows(due, renderer, self._TIE, is_read=is_read)

    def _place_of(self, due: Due, row: Sequence[Any]) -> Place | None:
        """Return the place of a row; ``None`` if nothing can be read after it, because its columns are damaged."""
        moment, task_id, tie = row
        found = FieldReader().moment("expires_at", moment, self._read_expiry) or EARLIEST
        if not isinstance(task_id, str):
            return None
        place = Place(found, task_id, None if tie is None else str(tie))
        return None if place == due.after else place

    def _read_expiry(self, value: Any) -> datetime:
        """Return the date that the SQL of :meth:`DueRows.selected` has read."""
        return self._read_date(value)

    def _deletion_too_slow(self, timeout: float) -> DeletionTooSlow:
        return DeletionTooSlow(
            f"a batch of expired results was not read or deleted within {timeout:.3g} s",
            where=self._where,
            remedy="see what holds a lock on the table, or what keeps the server busy; the next batch is smaller",
        )
