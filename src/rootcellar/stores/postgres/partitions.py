"""Makes, finds and drops the partitions of the older table.

The older table is partitioned by the day on which a row may be dropped. Weeks lie up to a year ahead, months beyond,
and one partition is never dropped. Each step is one transaction, or leaves a mark by which the next run finishes it:

* a partition that will be dropped has a comment, so that it is also dropped if it was only detached;
* a row in the table of jobs says that entries of dropped rows are still listed.

No step waits longer than :data:`LOCK_TIMEOUT` for a lock, because others would wait behind it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import count
from typing import Any

from rootcellar import errors
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.older import NEVER, Dropped, Partition
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.older import OlderTable
from rootcellar.stores.postgres.schema import PostgresSchema, derived, older_names, table_names
from rootcellar.stores.postgres.search import PostgresRenderer
from rootcellar.stores.search import Condition, Search, Segment
from rootcellar.stores.sql.schema import Run
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements, qualified

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
#: the entries of moved ids that are read at a time
IDS_AT_ONCE = 50_000
#: the name of the job that says that entries of dropped rows are still listed
IDS_JOB = "partitions: ids of dropped results"
#: the comment of a partition that will be dropped, before the name of its older table
TO_BE_DROPPED = "rootcellar: to be dropped from"
_LOWEST = -(2**63)
_BOUNDS = re.compile(r"FROM \('?(\d{4}-\d\d-\d\d)'?\) TO \((?:'?(\d{4}-\d\d-\d\d)'?|MAXVALUE)\)")


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


class Partitions(OlderTable):
    """Makes, finds and drops the partitions of the older table; the statements are in ``moving.sql``.

    Args:
        options: the names of the tables.
        run: calls a function with a connection, and raises errors of rootcellar.
        schema: the tables of the store.
        where: the store, for messages.
        texts: fragments of the store's other statements, by their keys.
    """

    def __init__(
        self,
        options: StoreOptions,
        run: Run[Connection],
        schema: PostgresSchema,
        where: str,
        texts: Mapping[str, str],
    ) -> None:
        super().__init__(options, run, schema, where)
        self._moving_sql = moving_statements(options, {**self._older_sql, **texts})
        #: the comment of a partition that will be dropped; its name may be shortened, so it does not show its table
        self._mark = f"{TO_BE_DROPPED} {derived(options.task_table, '_older')}"

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
        if all(has_day(ranges, day) for day in days):
            return []
        made = []
        with self._transaction(connection):
            # two processes would make the same ones
            self._rows(connection, "one_maker", {"older": self._names["older"]})
            for day in sorted(days):
                ranges = self._ranges(connection)
                if not has_day(ranges, day):
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


def has_day(ranges: Collection[tuple[date, date | None]], day: date) -> bool:
    """Return whether one of the ranges of partitions has a day."""
    return any(start <= day and (until is None or day < until) for start, until in ranges)


def _read_bounds(text: str | None) -> tuple[date | None, date | None]:
    found = _BOUNDS.search(text or "")
    if found is None:
        return None, None
    return date.fromisoformat(found[1]), date.fromisoformat(found[2]) if found[2] else None
