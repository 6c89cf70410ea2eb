"""Moves finished rows into the older table and back.

Each step is one transaction, or leaves a mark by which the next run finishes it: the comment of the older table says
that its rows are moved back. ``partitions.py`` makes and drops the partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.fields import EARLIEST
from rootcellar.stores.older import Moved, Reached
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.partitions import BATCH, IDS_JOB, Partitions, has_day
from rootcellar.stores.postgres.schema import PostgresSchema
from rootcellar.stores.search import Condition
from rootcellar.stores.sql.schema import Run
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: to find out how many rows could be moved, at least so many of the first and of the last rows are looked at
LOOKED_AT = 20_000
#: what a maintainer needs on the tables of results
_RIGHTS = {
    "task": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "chord": ("SELECT", "INSERT", "UPDATE"),
    "gone": ("INSERT",),
    "dirty": ("INSERT",),
    "job": ("SELECT", "INSERT", "UPDATE"),
}


class Moving(Partitions):
    """See :class:`~rootcellar.stores.older.Older`; its statements are in ``moving.sql``.

    Args:
        options: the names of the tables.
        run: calls a function with a connection, and raises errors of rootcellar.
        schema: the tables of the store.
        where: the store, for messages.
        texts: fragments of the store's other statements, by their keys.
        read: makes a record of the columns ``task_select``.
    """

    def __init__(
        self,
        options: StoreOptions,
        run: Run[Connection],
        schema: PostgresSchema,
        where: str,
        texts: Mapping[str, str],
        read: Callable[[Sequence[Any]], TaskRecord],
    ) -> None:
        super().__init__(options, run, schema, where, texts)
        self._read = read
        #: the ranges of partitions that this process has seen
        self._known: list[tuple[date, date | None]] = []
        #: where moving back goes on, by partition
        self._back_after: dict[str, Reached] = {}

    # -- moving

    def move(self, now: datetime, window: timedelta, limit: int = BATCH, after: Reached | None = None) -> Moved:
        """See :class:`~rootcellar.stores.older.Older`."""
        params = {**_movable(now, window), **_after(after), "limit": limit}

        def work(connection: Connection) -> Moved:
            try:
                return self._move(connection, params)
            except psycopg.errors.CheckViolation:
                # a partition that this process knew was dropped, with the whole older table
                self._known = []
                return self._move(connection, params)
            except psycopg.errors.UniqueViolation:
                # the older table has a row of the batch that is not among the listed ones
                self._list_again(connection, params)
                return self._move(connection, params)

        return self._run(work)

    def _move(self, connection: Connection, params: Mapping[str, Any]) -> Moved:
        with self._transaction(connection):
            if not self._may_move(connection):
                return Moved(count=0, last=None)
            ((done, last_id, found, days),) = self._rows(connection, "batch_end", params)
            if done is None:
                return Moved(count=0, last=None)
            if not found:
                return Moved(count=0, last=_reached(done, last_id))
            if all(has_day(self._known, day) for day in days):
                return self._move_batch(connection, params, done, last_id, found, days)
        self._make_partitions(connection, days)
        self._known = self._ranges(connection)
        with self._transaction(connection):
            if not self._may_move(connection):
                return Moved(count=0, last=None)
            return self._move_batch(connection, params, done, last_id, found, days)

    def _list_again(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """List the older rows again that have the ids of a batch."""
        with self._transaction(connection):
            ((number,),) = self._rows(connection, "list_again", params)
        logger.warning(
            "The index of moved ids of %s lacked %d results, and lists them again: somebody has deleted entries of %s, "
            "or has restored one of its tables alone.",
            self._where,
            number,
            self._names["moved"],
        )

    def _may_move(self, connection: Connection) -> bool:
        """Return whether rows may be moved; then nobody begins to move them back before this transaction ends."""
        if self._rows(connection, "keep_state", {"older": self._names["older"]}) != [(True,)]:
            return False
        state = self.state(connection)
        return state is not None and not state.is_disabling

    def _move_batch(
        self,
        connection: Connection,
        params: Mapping[str, Any],
        done: datetime,
        last_id: str,
        found: int,
        days: Sequence[date],
    ) -> Moved:
        params = {**params, "last_done": done, "last_id": last_id, "days": days}
        ((count,),) = self._rows(connection, "move", params)
        settled = self._settle(connection, params) if count < found else 0
        return Moved(count=int(count) + settled, last=_reached(done, last_id))

    def _settle(self, connection: Connection, params: Mapping[str, Any]) -> int:
        """Settle rows of a batch whose id is among the moved ones already; return how many left the live table.

        A SUCCESS stays. Otherwise the row stays that was stored later, which is the live one.
        """
        before = dict(self._rows(connection, "moved_before", params))
        if not before:
            return 0
        ids = [task_id for (task_id,) in self._rows(connection, "lock_live", {"ids": list(before)})]
        days = sorted({day for listed in before.values() for day in listed})
        gone = {task_id for (task_id,) in self._rows(connection, "give_way", {"ids": ids, "days": days})}
        left = [task_id for task_id in ids if task_id not in gone]
        self._rows(connection, "replace_older", {"ids": left, "days": days})
        ((count,),) = self._rows(connection, "move_named", {**params, "ids": left})
        return len(gone) + int(count)

    def behind(self, now: datetime, window: timedelta, limit: int) -> tuple[int, datetime | None]:
        """See :class:`~rootcellar.stores.older.Older`."""

        params = {**_movable(now, window), "limit": limit, "looked_at": max(LOOKED_AT, 10 * limit)}

        def work(connection: Connection) -> tuple[int, datetime | None]:
            with self._transaction(connection):
                ((count, first),) = self._rows(connection, "behind", params)
            return int(count), None if first is None else first.astimezone(timezone.utc)

        return self._run(work)

    # -- rows that were kept back

    def expired_kept(
        self, now: datetime, after: str, limit: int, spared: Condition | None = None
    ) -> Sequence[TaskRecord]:
        """See :class:`~rootcellar.stores.older.Older`."""
        wanted, params = self._unless(spared)
        params |= {"now": now, "after": after, "limit": limit}

        def work(connection: Connection) -> list[TaskRecord]:
            if (name := self._never(connection)) is None:
                return []
            with self._transaction(connection):
                found = self._rows_of_partition(connection, "expired_kept", name, params, {"wanted": wanted})
            return [self._read(row) for row in found]

        return self._run(work)

    def delete_kept(self, task_ids: Collection[str], now: datetime, spared: Condition | None = None) -> int:
        """See :class:`~rootcellar.stores.older.Older`."""
        wanted, params = self._unless(spared)
        params |= {"ids": list(task_ids), "now": now}

        def work(connection: Connection) -> int:
            if not task_ids or (name := self._never(connection)) is None:
                return 0
            with self._transaction(connection):
                found = self._rows_of_partition(connection, "delete_kept", name, params, {"wanted": wanted})
            ((count,),) = found
            return int(count)

        return self._run(work)

    # -- moving back

    def disable_step(self, limit: int = BATCH) -> Moved:
        """See :class:`~rootcellar.stores.older.Older`."""
        return self._run(lambda connection: self._disable_step(connection, limit))

    def _disable_step(self, connection: Connection, limit: int) -> Moved:
        state = self.state(connection)
        if state is None:
            return Moved(count=0, last=None)
        if not state.is_disabling:
            self._begin_to_disable(connection)
        for each in self._found(connection):
            if each.is_pending:
                self._detach(connection, each.name)
        # also those that an interrupted run would have dropped: a hold may have been placed since
        partitions = self._found(connection)
        if not partitions:
            is_dropped = self._drop_all(connection)
            return Moved(count=0, last=None if is_dropped else Reached(EARLIEST, ""))
        name = partitions[0].name
        count = self._move_back(connection, name, limit)
        # a row before this place may have been stored meanwhile: a partition is empty if a whole pass finds nothing
        if not count and self._back_after.pop(name, None) is None:
            self._drop_empty(connection, name)
        return Moved(count=count, last=self._back_after.get(name, Reached(EARLIEST, "")))

    def _begin_to_disable(self, connection: Connection) -> None:
        """Note that rows are moved back; no batch is being moved to the older table then.

        Raises:
            StoreUnavailable: such a batch takes longer.
        """

        def work() -> None:
            with self._transaction(connection):
                self._rows(connection, "change_state", {"older": self._names["older"]})
                state = self.state(connection)
                if state is not None and not state.is_disabling:
                    self.note(connection, replace(state, is_disabling=True))

        if not self._try(work):
            raise errors.StoreUnavailable(
                f"results are just being moved to {self._names['older']}",
                where=self._where,
                remedy="try again: the batch ends within a few seconds",
            )

    def _move_back(self, connection: Connection, name: str, limit: int) -> int:
        params = {**_after(self._back_after.get(name)), "limit": limit}
        with self._transaction(connection):
            ((count, done, task_id),) = self._rows_of_partition(connection, "move_back", name, params)
        if count:
            self._back_after[name] = _reached(done, task_id)
        return int(count)

    def _drop_empty(self, connection: Connection, name: str) -> None:
        """Drop a partition if it is empty.

        Raises:
            StoreUnavailable: a transaction has used it, and is still open.
        """

        def work() -> None:
            with self._transaction(connection, timeout="0"):
                # others may read while it is searched
                self._rows_of_partition(connection, "lock_partition", name, {})
                ((is_empty,),) = self._rows_of_partition(connection, "is_empty", name, {})
                if is_empty:
                    self._ddl(connection, f"DROP TABLE {self._quoted(name)}")

        if not self._try(work):
            raise self._in_use(name)

    def _drop_all(self, connection: Connection) -> bool:
        """Drop the view and the tables; return whether they were dropped: not if a partition was made meanwhile.

        Raises:
            StoreUnavailable: a transaction has used them, and is still open.
        """
        has_partitions = False

        def work() -> None:
            nonlocal has_partitions
            with self._transaction(connection):
                self._rows(connection, "lock_older_table", {})
                has_partitions = bool(self._found(connection))
                if not has_partitions:
                    self.drop(connection)
                    self._rows(connection, "ids_are_gone", {"name": IDS_JOB, "count": 0})

        if not self._try(work):
            raise self._in_use(self._names["older"])
        return not has_partitions

    def _in_use(self, name: str) -> errors.StoreUnavailable:
        return errors.StoreUnavailable(
            f"{name} cannot be dropped yet: an open transaction has used it",
            where=self._where,
            remedy="wait for the transaction, or see which one it is: "
            "SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start",
        )

    # -- rights

    def missing_rights(self) -> Sequence[str]:
        """See :class:`~rootcellar.stores.older.Older`."""
        return self._run(self._missing)

    def _missing(self, connection: Connection) -> list[str]:
        missing = []
        for schema, may_create in self._rows(connection, "may_create", {"task": self._names["task"]}):
            if not may_create:
                missing.append(f"CREATE on the schema {schema}")
        for key, wanted in _RIGHTS.items():
            params = {"table": self._names[key], "wanted": list(wanted)}
            lacking = [right for (right,) in self._rows(connection, "rights", params)]
            if lacking:
                missing.append(f"{', '.join(lacking)} on {self._names[key]}")
        for key in ("older", "moved", "all"):
            for owner, is_member in self._rows(connection, "may_own", {"table": self._names[key]}):
                if not is_member:
                    missing.append(f"ownership of {self._names[key]} (its owner is {owner})")
        return missing


def _movable(now: datetime, window: timedelta) -> dict[str, datetime]:
    return {"done_before": now - window, "expires_from": now + window}


def _after(place: Reached | None) -> dict[str, Any]:
    return {"after_done": place.done_at if place else "-infinity", "after_id": place.task_id if place else ""}


def _reached(done: datetime, task_id: str) -> Reached:
    return Reached(done.astimezone(timezone.utc), task_id)
