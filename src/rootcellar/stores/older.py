"""The older table: finished results that were moved out of the live table, in partitions by when they may be dropped.

::

    stored ──> live table ──(finished for longer than the window)──> older table ──(its partition has passed)──> dropped
                   ^                                                      |
                   └──────────(the older table is disabled)───────────────┘

The live table is as it is without an older table. An index has the id of every task that was moved, so a task that is
in neither table is found to be missing without a look at the partitions. A task has one row: in the live table or in
the older one. Where both have one for a moment, a SUCCESS of the older table counts, and otherwise the live row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol, runtime_checkable

from rootcellar.records import TaskRecord
from rootcellar.stores.search import Condition

#: how long a result stays in the live table after its task has ended, unless another window is given
WINDOW = timedelta(days=2)
#: a shorter window is refused: the clocks of clients may differ, and processes that store count on it
LEAST_WINDOW = timedelta(hours=1)
#: the day on which rows without an expiry may be dropped: it never comes, and every client can read it
NEVER = date(9999, 1, 1)


@dataclass(frozen=True, slots=True)
class Reached:
    """The last row that was moved; the next call goes on after it.

    Attributes:
        done_at: the end of its task.
        task_id: its id.
    """

    done_at: datetime
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What one step has moved.

    Attributes:
        count: how many rows.
        last: where the next step goes on; ``None`` if there is nothing more to move.
    """

    count: int
    last: Reached | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A part of the older table.

    Attributes:
        name: its name, without quotes and schema.
        from_, until: it has the rows that may be dropped on a day from ``from_`` on and before ``until``; ``None`` if
            it was detached and not dropped yet.
        rows: about how many rows it has, from the server's statistics.
        bytes: its size with its indexes.
    """

    name: str
    from_: date | None
    until: date | None
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What became of a partition that was to be dropped.

    Attributes:
        is_done: whether it is gone; if not, it was in use for too long, and the next run tries again.
        kept: how many rows must not be deleted, and were moved to the rows without an expiry.
    """

    is_done: bool
    kept: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderStatus:
    """The state of the older table.

    Attributes:
        is_enabled: whether there is one.
        is_disabling: whether its rows are being moved back to the live table.
        enabled_at: when it was created, in UTC; ``None`` if there is none, or it is not known.
        window: no row is moved that ended later than this ago: processes that store results count on it.
        now: the present by the clock that ``enabled_at`` is from, which is that of the server.
    """

    is_enabled: bool
    is_disabling: bool = False
    enabled_at: datetime | None = None
    window: timedelta = WINDOW
    now: datetime | None = None


@runtime_checkable
class Older(Protocol):
    """A store that can move finished results to an older table."""

    def enable(self, window: timedelta = WINDOW) -> bool:
        """Create the older table, the index of moved ids and the view of both tables, if they are missing.

        No row is moved. Every process learns of the table within a minute, so the first row is moved later than that.

        Args:
            window: how long a result stays in the live table at least; :data:`LEAST_WINDOW` or longer.

        Returns:
            whether they were created.

        Raises:
            SchemaMissing: there are no tables of results.
            PermissionDenied: the user may not create tables.
            ValueError: the window is too short.
        """

    def status(self) -> OlderStatus:
        """Return the state of the older table; change nothing."""

    def sql(self) -> str:
        """Return the statements that :meth:`enable` runs in a database that has the tables of results."""

    def partitions(self) -> Sequence[Partition]:
        """Return the partitions in the order of their days, and those that were detached and not dropped."""

    def ensure_partitions(self, days: Collection[date]) -> Sequence[str]:
        """Create the partitions for rows that may be dropped on these days; return the names of new ones."""

    def move(self, now: datetime, window: timedelta, limit: int, after: Reached | None) -> Moved:
        """Look at the next rows that ended before ``now - window``, and move those that may be moved.

        Args:
            now: the present.
            window: how long a result stays in the live table.
            limit: the most rows, with those that stay.
            after: the place after which it continues.
        """

    def disable_step(self, limit: int) -> Moved:
        """Move the next rows back to the live table; drop the older table when it is empty."""

    def drop_partition(self, name: str, spared: Condition | None) -> Dropped:
        """Drop a partition whose days have passed; rows that meet ``spared`` are kept."""

    def count_rows(self, name: str, wanted: Condition, limit: int) -> int:
        """Return how many rows of a partition meet a condition, counted up to ``limit``."""

    def finish_interrupted(self, spared: Condition | None = None) -> Sequence[str]:
        """Finish what an interrupted call left; return what was done, each in a sentence.

        Args:
            spared: rows that meet it are kept when a partition is dropped.
        """

    def expired_kept(
        self, now: datetime, after: str, limit: int, spared: Condition | None = None
    ) -> Sequence[TaskRecord]:
        """Return the next rows that were kept when their partition was dropped, and have expired.

        Args:
            now: the present.
            after: only ids after this one, in their order.
            limit: the most rows.
            spared: rows that meet it are left out.
        """

    def delete_kept(self, task_ids: Collection[str], now: datetime, spared: Condition | None = None) -> int:
        """Delete those of these rows that were kept, have expired, and do not meet ``spared``; return how many."""

    def forget_dropped_ids(self, after: int | None = None) -> tuple[int, int | None]:
        """Delete the next ids of dropped rows from the index of moved ids.

        Args:
            after: where the last call ended; ``None`` for the first one, which does nothing if no id is left.

        Returns:
            how many ids were deleted, and where the next call goes on; ``None`` if there are no more.
        """

    def behind(self, now: datetime, window: timedelta, limit: int) -> tuple[int, datetime | None]:
        """Return how many rows could be moved now, counted up to ``limit``, and when the first of them ended.

        Ten times ``limit`` of the first and of the last rows are looked at, or more. If there are rows between these,
        and most stay in the live table, there may be some more.
        """

    def missing_rights(self) -> Sequence[str]:
        """Return the rights that this user lacks to create, move and drop, such as ``CREATE on the schema public``."""
