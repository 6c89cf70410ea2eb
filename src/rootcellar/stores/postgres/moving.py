"""Moves finished rows into the older table and back, and makes and drops its partitions.

The older table is partitioned by the day on which a row may be dropped. Weeks lie up to a year ahead, months beyond,
and one partition is never dropped. Each step is one transaction, or leaves a mark by which the next run finishes it:

* a partition that will be dropped has a comment, so that it is also dropped if it was only detached;
* a row in the table of jobs says that entries of dropped rows are still listed;
* the comment of the older table says that its rows are moved back.

No step waits longer than :data:`LOCK_TIMEOUT` for a lock, because others would wait behind it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from itertools import count
from typing import Any

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.fields import EARLIEST
from rootcellar.stores.older import NEVER, Dropped, Moved, Partition, Reached
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.older import OlderTable
from rootcellar.stores.postgres.schema import PostgresSchema, derived, older_names, table_names
from rootcellar.stores.postgres.search import PostgresRenderer
from rootcellar.stores.search import Condition, Search, Segment
from rootcellar.stores.sql.schema import Run
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements, qualified
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

_PACKAGE = "rootcellar.stores.postgres"
#: the longest wait for a lock; others wait behind it
LOCK_TIMEOUT = "100ms"
#: the rows of a batch
BATCH = 5_000
#: how often a lock is tried, and the seconds between two tries
TRIES, PAUSE = 10, 0.1
#: from this version on, a partition is detached without a lock that readers would wait for
DETACHES_CONCURRENTLY = 140_000
#: the longest time of a batch: the next one is smaller
BATCH_TIMEOUT = "10s"
#: weeks are made for days up to here, and months for later ones
WEEKS_AHEAD = timedelta(days=366)
#: to find out how many rows could be moved, at least so many of the first and of the last rows are looked at
LOOKED_AT = 20_000
#: the entries of moved ids that are read at a time
IDS_AT_ONCE = 50_000
#: the name of the job that says that entries of dropped rows are still listed
IDS_JOB = "partitions: ids of dropped results"
#: the comment of a partition that will be dropped, before the name of its older table
TO_BE_DROPPED = "rootcellar: to be dropped from"
_LOWEST = -(2**63)
_BOUNDS = re.compile(r"FROM \('?(\d{4}-\d\d-\d\d)'?\) TO \((?:'?(\d{4}-\d\d-\d\d)'?|MAXVALUE)\)")
#: what a maintainer needs on the tables of results
_RIGHTS = {
    "task": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "chord": ("SELECT", "INSERT", "UPDATE"),
    "gone": ("INSERT",),
    "dirty": ("INSERT",),
    "job": ("SELECT", "INSERT", "UPDATE"),
}


def week_or_month(day: date, today: date) -> tuple[date, date]:
    """Return the range of the partition for a day: its week, or its month if that lies more than a year ahead.

    Args:
        day: the day on which rows may be dropped, before :data:`NEVER`.
        today: the present day.
    """
    if day <= today + WEEKS_AHEAD:
        start = day - timedelta(days=day.weekday())
        return start, start + timedelta(days=7)
    start = day.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def range_for(day: date, today: date, existing: Collection[tuple[date, date | None]]) -> tuple[date, date | None]:
    """Return the range of a new partition that has a day and overlaps no existing one.

    Args:
        day: the day, which no existing partition has.
        today: the present day.
        existing: the ranges of the partitions that exist; ``None`` for one without an end.
    """
    if day >= NEVER:
        return NEVER, None
    start, until = week_or_month(day, today)
    start = max([start, *(stop for _, stop in existing if stop is not None and stop <= day)])
    return start, min([until, NEVER, *(begin for begin, _ in existing if begin > day)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Partition):
    """A partition, as it is in the catalog.

    Attributes:
        is_attached: whether it is a part of the older table.
        is_pending: whether it was begun to detach it, and this has not ended.
        is_marked: whether its comment says that it will be dropped.
    """

    is_attached: bool
    is_pending: bool
    is_marked: bool


class Moving(OlderTable):
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
        super().__init__(options, run, schema, where)
        self._read = read
        self._moving_sql = moving_statements(options, {**self._older_sql, **texts})
        #: the comment of a partition that will be dropped; its name may be shortened, so it does not show its table
        self._mark = f"{TO_BE_DROPPED} {derived(options.task_table, '_older')}"
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
            if all(_has(self._known, day) for day in days):
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

    # -- partitions

    def partitions(self) -> Sequence[Partition]:
        """See :class:`~rootcellar.stores.older.Older`."""
        found = self._run(lambda connection: self._found(connection, with_sizes=True))
        return [replace(each, from_=None, until=None) if each.is_pending else each for each in found]

    def _attached(self, connection: Connection) -> list[Found]:
        return [each for each in self._found(connection) if each.is_attached]

    def _found(self, connection: Connection, *, with_sizes: bool = False) -> list[Found]:
        """Return the partitions, and those that were detached to be dropped."""
        params = {
            "older": self._names["older"],
            "task": self._names["task"],
            "to_be_dropped": self._mark,
            # it takes a look at every file
            "with_sizes": with_sizes,
        }
        found = []
        for name, bounds, is_pending, is_attached, is_marked, rows, size in self._rows(
            connection, "partitions", params
        ):
            start, until = _read_bounds(bounds)
            found.append(
                Found(
                    name=name,
                    from_=start,
                    until=until,
                    rows=int(rows),
                    bytes=int(size),
                    is_pending=is_pending,
                    is_attached=is_attached,
                    is_marked=is_marked,
                )
            )
        return sorted(found, key=lambda each: (each.from_ or date.min, each.name))

    def ensure_partitions(self, days: Collection[date]) -> Sequence[str]:
        """See :class:`~rootcellar.stores.older.Older`."""
        return self._run(lambda connection: self._make_partitions(connection, days))

    def _make_partitions(self, connection: Connection, days: Collection[date]) -> list[str]:
        """Make the partitions for days that have none; return their names."""
        ranges = self._ranges(connection)
        if all(_has(ranges, day) for day in days):
            return []
        made = []
        with self._transaction(connection):
            # two processes would make the same ones
            self._rows(connection, "one_maker", {"older": self._names["older"]})
            for day in sorted(days):
                ranges = self._ranges(connection)
                if not _has(ranges, day):
                    made.append(self._make(connection, *range_for(day, self._today(connection), ranges)))
        return made

    def _today(self, connection: Connection) -> date:
        ((today,),) = self._rows(connection, "today", {})
        return today  # type: ignore[no-any-return]

    def _ranges(self, connection: Connection) -> list[tuple[date, date | None]]:
        return [(each.from_, each.until) for each in self._attached(connection) if each.from_ is not None]

    def _make(self, connection: Connection, start: date, until: date | None) -> str:
        ending = "never" if until is None else f"{start:%Y%m%d}"
        name = self._free_name(connection, f"_older_{ending}")
        table, older = self._quoted(name), self._names["older"]
        # attached and not created as a partition, which would lock out all readers
        self._ddl(connection, f"CREATE TABLE {table} (LIKE {older} INCLUDING ALL)")
        if until is None:
            # few of its rows expire: those that were kept back when their partition was dropped
            self._ddl(connection, f"CREATE INDEX ON {table} (expires_at) WHERE expires_at IS NOT NULL")
        end = "MAXVALUE" if until is None else f"'{until}'"
        self._ddl(connection, f"ALTER TABLE {older} ATTACH PARTITION {table} FOR VALUES FROM ('{start}') TO ({end})")
        for grantee, rights in self._rows(connection, "grantees", {"older": older}):
            self._ddl(connection, f"GRANT {rights} ON {table} TO {grantee}")
        ((owner, is_own),) = self._rows(connection, "owner_of", {"table": older})
        if not is_own:
            self._ddl(connection, f"ALTER TABLE {table} OWNER TO {owner}")
        return name

    def _free_name(self, connection: Connection, suffix: str) -> str:
        """Return the name of a new partition; somebody may have detached one of the same days, and kept it."""
        for number in count(1):
            name = derived(self._options.task_table, suffix if number == 1 else f"{suffix}_{number}")
            if self._rows(connection, "has_table", {"table": self._quoted(name)}) == [(False,)]:
                return name
        raise AssertionError("unreachable")

    def drop_partition(self, name: str, spared: Condition | None) -> Dropped:
        """See :class:`~rootcellar.stores.older.Older`."""

        def work(connection: Connection) -> Dropped:
            self._check_passed(connection, name)
            kept = 0 if spared is None else self._keep_back(connection, name, spared)
            mark = psycopg.sql.Literal(self._mark).as_string(None)
            self._in_transaction(connection, f"COMMENT ON TABLE {self._quoted(name)} IS {mark}")
            if not self._detach(connection, name):
                return Dropped(is_done=False, kept=kept)
            if spared is not None:
                # from here on nobody finds these rows, so a hold that does not count now came too late
                kept += self._keep_back(connection, name, spared)
            return Dropped(is_done=self._drop_detached(connection, name), kept=kept)

        return self._run(work)

    def count_rows(self, name: str, wanted: Condition, limit: int) -> int:
        """See :class:`~rootcellar.stores.older.Older`."""
        text, params = self._rendered(wanted)
        params["limit"] = limit

        def work(connection: Connection) -> int:
            with self._transaction(connection, timeout="0", with_scan=True):
                ((count,),) = self._rows_of_partition(connection, "count_rows", name, params, {"wanted": text})
            return int(count)

        return self._run(work)

    def _check_passed(self, connection: Connection, name: str) -> None:
        today = self._today(connection)
        for each in self._attached(connection):
            if each.name == name and each.until is not None and each.until <= today and not each.is_pending:
                return
        raise errors.StoreError(
            f"{name} is no partition whose days have passed",
            where=self._where,
            remedy="run `rootcellar partitions status`: it names the partitions and when each is dropped",
        )

    def _keep_back(self, connection: Connection, name: str, spared: Condition) -> int:
        """Move rows that must not be dropped to the partition that is never dropped; return how many."""
        self._make_partitions(connection, [NEVER])
        text, params = self._rendered(spared)
        params["limit"] = BATCH
        total = 0
        while True:
            with self._transaction(connection, timeout="0", with_scan=True):
                ((count,),) = self._rows_of_partition(connection, "keep_back", name, params, {"spared": text})
            total += int(count)
            if not count:
                return total

    def _detach(self, connection: Connection, name: str) -> bool:
        """Detach a partition; return whether it is detached now."""
        table, older = self._quoted(name), self._names["older"]
        detach = f"ALTER TABLE {older} DETACH PARTITION {table}"
        if connection.info.server_version < DETACHES_CONCURRENTLY or connection.is_pooled:
            # a pooler may run the setting of the timeout and this statement in two sessions
            return self._try(lambda: self._in_transaction(connection, detach))

        # only one can be pending
        if any(each.is_pending and each.name != name for each in self._found(connection)):
            return False

        def concurrently() -> None:
            # a try that did not get its lock leaves the partition pending
            is_pending = any(each.is_pending for each in self._found(connection))
            self._alone(connection, f"{detach} {'FINALIZE' if is_pending else 'CONCURRENTLY'}")

        return self._try(concurrently)

    def _drop_detached(self, connection: Connection, name: str) -> bool:
        """Drop a table that is no partition any more; return whether it was dropped."""

        def work() -> None:
            with self._transaction(connection):
                self._rows(connection, "owe_ids", {"name": IDS_JOB})
                self._ddl(connection, f"DROP TABLE {self._quoted(name)}")

        return self._try(work)

    def _try(self, work: Callable[[], None]) -> bool:
        """Call ``work`` until it gets its lock, some times; return whether it got it."""
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE)
            try:
                work()
            except psycopg.errors.LockNotAvailable:
                continue
            return True
        return False

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

    def _unless(self, spared: Condition | None) -> tuple[str, dict[str, Any]]:
        """Return the condition that a row does not meet another one, and its parameters."""
        if spared is None:
            return "TRUE", {}
        text, params = self._rendered(spared)
        return f"({text}) IS NOT TRUE", params

    def _rendered(self, condition: Condition) -> tuple[str, dict[str, Any]]:
        renderer = PostgresRenderer(Search(segment=Segment.FINISHED, condition=condition), "", lambda column: column)
        renderer.holds_placed = self._moving_sql["holds_placed"]
        return renderer.render(condition), renderer.params

    def _never(self, connection: Connection) -> str | None:
        names = [each.name for each in self._attached(connection) if each.from_ == NEVER]
        return names[0] if names else None

    # -- what an earlier run left

    def finish_interrupted(self, spared: Condition | None = None) -> Sequence[str]:
        """See :class:`~rootcellar.stores.older.Older`."""
        return self._run(lambda connection: self._finish(connection, spared))

    def _finish(self, connection: Connection, spared: Condition | None = None) -> list[str]:
        done = []
        for each in self._found(connection):
            is_detached = not each.is_attached
            if each.is_pending:
                is_detached = self._detach(connection, each.name)
                if is_detached:
                    done.append(f"detached {each.name}")
            if not (is_detached and each.is_marked):
                continue
            if spared is not None and (kept := self._keep_back(connection, each.name, spared)):
                done.append(f"kept {kept:,} results of {each.name}")
            if self._drop_detached(connection, each.name):
                done.append(f"dropped {each.name}")
        return done

    def forget_dropped_ids(self, after: int | None = None) -> tuple[int, int | None]:
        """See :class:`~rootcellar.stores.older.Older`."""

        def work(connection: Connection) -> tuple[int, int | None]:
            if after is None and self._rows(connection, "owes_ids", {"name": IDS_JOB}) != [(True,)]:
                return 0, None
            params = {
                "after": _LOWEST if after is None else after,
                "limit": IDS_AT_ONCE,
                "older": self._names["older"],
            }
            with self._transaction(connection):
                ((last, count),) = self._rows(connection, "unlist", params)
                if last is None:
                    self._rows(connection, "ids_are_gone", {"name": IDS_JOB, "count": 0})
            return int(count), None if last is None else int(last)

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

    # -- talking to the server

    @contextmanager
    def _transaction(
        self, connection: Connection, *, timeout: str = BATCH_TIMEOUT, with_scan: bool = False
    ) -> Iterator[None]:
        """Begin a transaction that waits for no lock for long, and uses indexes unless it must read a whole table."""
        scan = "on" if with_scan else "off"
        with connection.without_timeout(), connection.transaction():
            connection.execute(
                f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = '{timeout}'; "
                f"SET LOCAL enable_seqscan = {scan}; SET LOCAL jit = off; "
                # a crash may undo the last steps as a whole; the next run repeats them
                "SET LOCAL synchronous_commit = off",
                prepare=False,
            )
            yield

    def _in_transaction(self, connection: Connection, statement: str) -> None:
        with self._transaction(connection):
            self._ddl(connection, statement)

    def _alone(self, connection: Connection, statement: str) -> None:
        """Run a statement that may not be part of a transaction."""
        with connection.without_timeout():
            connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'", prepare=False)
            try:
                self._ddl(connection, statement)
            finally:
                if not connection.closed:
                    connection.execute("RESET lock_timeout", prepare=False)

    def _ddl(self, connection: Connection, statement: str) -> None:
        connection.execute(statement.encode(), prepare=False)

    def _rows(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        cursor = connection.execute(self._moving_sql[statement], params, prepare=False)
        return cursor.fetchall() if cursor.description else []

    def _quoted(self, name: str) -> str:
        return qualified(self._options.task_schema, name)

    def _rows_of_partition(
        self,
        connection: Connection,
        statement: str,
        name: str,
        params: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run a statement about one partition."""
        tables = in_parameterized({"partition": self._quoted(name)})
        text = fill_in(self._moving_sql[statement], {**tables, **(texts or {})})
        cursor = connection.execute(text.encode(), params, prepare=False)
        return cursor.fetchall() if cursor.description else []


def moving_statements(options: StoreOptions, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the statements of ``moving.sql`` by name.

    Args:
        options: the names of the tables.
        texts: the fragments of other statements, by their keys.
    """
    names = {**in_parameterized(table_names(options)), **in_parameterized(older_names(options))}
    found = load_statements(_PACKAGE, "moving.sql", names)
    parts = {**texts, "movable": found["movable"]}
    parts["moved_away"] = fill_in(found["moved_away"], parts)
    return {name: fill_in(fill_in(text, parts), parts) for name, text in found.items()}


def _movable(now: datetime, window: timedelta) -> dict[str, datetime]:
    return {"done_before": now - window, "expires_from": now + window}


def _after(place: Reached | None) -> dict[str, Any]:
    return {"after_done": place.done_at if place else "-infinity", "after_id": place.task_id if place else ""}


def _reached(done: datetime, task_id: str) -> Reached:
    return Reached(done.astimezone(timezone.utc), task_id)


def _has(ranges: Collection[tuple[date, date | None]], day: date) -> bool:
    return any(start <= day and (until is None or day < until) for start, until in ranges)


def _read_bounds(text: str | None) -> tuple[date | None, date | None]:
    found = _BOUNDS.search(text or "")
    if found is None:
        return None, None
    return date.fromisoformat(found[1]), date.fromisoformat(found[2]) if found[2] else None
