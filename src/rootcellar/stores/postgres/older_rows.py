"""Reads and changes results that were moved to the older table, for a process that knows that there is one.

A process learns of the table when it checks the tables, and then at most every :data:`LOOK_SECONDS` when it finds
nothing or stores the result of an old task; so it also learns of another window if the table was dropped and created
anew. The first row is moved a minute after the table was created.

Every id that was moved is in an index, with the day on which its row may be dropped. A statement that reads or changes
moved rows has these days, or the weeks around them, in its text, so that the server plans and locks only the partitions
of these days. The one that reads a single task is planned for its day, or is prepared for the weeks around it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from rootcellar.records import TaskRecord
from rootcellar.stores.fields import EARLIEST
from rootcellar.stores.older import NEVER
from rootcellar.stores.postgres import binary
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.older import OlderState
from rootcellar.stores.postgres.pipeline import Pipeline, Statement, read_int, row_of, rows_of, run, run_once
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.statements import fill_in

#: seconds between two looks for the older table
LOOK_SECONDS = 30.0
#: a process that has not looked for a while looks before it stores the result of a task that was sent so long ago
OLD_ENOUGH = timedelta(seconds=60)
#: the clocks of clients may differ by this
_SLACK = timedelta(hours=1)
#: the most days, and so partitions, in one statement
DAYS_AT_ONCE = 8
#: a row may be moved between two statements: then the same is done again, but not for ever
_TRIES = 3
_IDLE = psycopg.pq.TransactionStatus.IDLE
#: the places of the id, and of the day behind the columns of a task
_ID, _DAY = 0, len(rows.TASK_COLUMNS)
#: the days of one prepared statement: it locks their partitions, and up to about 14 locks cost the server little
DAYS_PREPARED = 56
#: a process has so many of these statements: each may take 150 kB of a session of the server
_MOST_PREPARED = 50
#: a statement is prepared when its weeks are read so often: the server plans it five times before it keeps a plan, so a
#: few reads are faster without
_OFTEN = 4
#: PostgreSQL counts days from this date
_FIRST_DAY = date(2000, 1, 1)
#: a row that expires then or later may never be deleted
_LAST_EXPIRY = datetime(9998, 12, 30, tzinfo=timezone.utc)

#: the days under which tasks are listed as moved
Days = dict[str, set[date]]


def preferred(live: TaskRecord | None, older: TaskRecord) -> TaskRecord:
    """Return the record that counts if a task has a row in both tables: the mover keeps the same one."""
    return older if live is None or older.state == "SUCCESS" else live


class OlderRows:
    """The rows of the older table.

    Args:
        sql: the store's statements by name.
        find: returns what is noted of the older table; ``None`` if there is none.
    """

    def __init__(self, sql: Mapping[str, str], find: Callable[[Connection], OlderState | None]) -> None:
        self._sql = sql
        self._find = find
        self._state: OlderState | None = None
        self._look_at = 0.0
        #: how often the weeks of each statement were read before it was prepared, and the statements
        self._reads: Counter[int] = Counter()
        self._of_weeks: dict[int, Statement] = {}
        self._get_older = Statement("get_older_task", sql["get_older_task"])
        self._get = Statement("get_task_or_moved", sql["get_task_or_moved"])
        self._get_live = Statement("get_task", sql["get_task"])
        self._days_of_one = Statement("days_of_one", sql["days_of_one"])
        self._get_many = Statement("get_tasks_or_moved", sql["get_tasks_or_moved"])
        self._moved_days = Statement("moved_days", sql["moved_days"])
        self.put = Statement("put_task_unless_moved", sql["put_task_unless_moved"])
        self.put_and_part = Statement("put_task_unless_moved_and_part", sql["put_task_unless_moved_and_part"])
        self.put_sent = Statement("put_sent_unless_moved", sql["put_sent_unless_moved"])

    # -- what this process knows

    @property
    def is_known(self) -> bool:
        """Whether this process knows of an older table."""
        return self._state is not None

    @property
    def is_to_be_looked_for(self) -> bool:
        """Whether this process has not looked for a while whether there is an older table, and with which window."""
        return time.monotonic() >= self._look_at

    def look(self, connection: Connection) -> bool:
        """Look for an older table; return whether there is one."""
        self._state = self._find(connection)
        self._look_at = time.monotonic() + LOOK_SECONDS
        return self._state is not None

    def is_known_after_look(self, connection: Connection) -> bool:
        """Return whether there is an older table, as far as this process knows; look if that is due."""
        return self.look(connection) if self.is_to_be_looked_for else self.is_known

    def may_have_moved(self, record: TaskRecord) -> bool:
        """Return whether the task of a record that is stored may have been moved before.

        Only a task that ended before can have been moved. Its message was sent longer ago than the window, also if it
        is delivered or tried again, because the time of sending stays. If a program sends another task with the same
        id, this is not so: then a SUCCESS makes a second row, which readers and the mover ignore.
        """
        state = self._state
        if state is None:
            return False
        if record.done_at is not None and record.state != "SUCCESS":
            # few tasks fail: so the index can be asked about each, and the caller learns whether the state was stored
            return True
        if record.retries or record.sent_at is None or not state.window:
            return True
        return record.sent_at <= _now() - state.window + min(_SLACK, state.window)

    @staticmethod
    def is_old(record: TaskRecord) -> bool:
        """Return whether a process that has not looked for a while should look before it stores this record.

        The shortest window is much longer than this (:data:`rootcellar.stores.older.LEAST_WINDOW`).
        """
        return bool(record.retries) or record.sent_at is None or record.sent_at < _now() - OLD_ENOUGH

    # -- reading

    def get(self, connection: Connection, task_id: str) -> TaskRecord | None:
        """Return a task's record."""
        for _ in range(_TRIES):
            live, days = self._look_up(connection, task_id)
            if not days:
                return live
            older = self._read_one(connection, task_id, days)
            if older is not None:
                return preferred(live, older)
            if live is not None:
                return live
        return None

    def _look_up(self, connection: Connection, task_id: str) -> tuple[TaskRecord | None, set[date]]:
        """Return the live record of a task, and the days under which the task is listed as moved."""
        if not connection.may_prepare:
            return self._look_up_in_two(connection, task_id)
        live: TaskRecord | None = None
        days: set[date] = set()
        result = run(connection, self._get, self._get.values({"task_id": task_id}))
        for number in range(result.ntuples):
            day = result.get_value(number, _DAY)
            if day is not None:
                days.add(_day(day))
            if live is None and result.get_value(number, _ID) is not None:
                live = binary.task_record(row_of(result, number))
        return live, days

    def _look_up_in_two(self, connection: Connection, task_id: str) -> tuple[TaskRecord | None, set[date]]:
        """Do the same in two statements and one round trip: without preparing, one of both takes twice as long to plan.

        The live table is read first, so that a task that is moved between the two is found.
        """
        pipeline = Pipeline(connection)
        values = self._get_live.values({"task_id": task_id})
        pipeline.send(self._get_live, values)
        pipeline.send(self._days_of_one, values)
        failure, results = pipeline.receive()
        if failure is not None:
            raise failure
        found, listed = results
        live = binary.task_record(row_of(found)) if found.ntuples else None
        return live, {_day(day) for (day,) in rows_of(listed)}

    def _read_one(self, connection: Connection, task_id: str, days: Collection[date]) -> TaskRecord | None:
        for day in days:
            statement = self._statement_of(day) if connection.may_prepare else None
            if statement is not None:
                values = statement.values({"task_id": task_id, "day": day.isoformat()})
                found = run(connection, statement, values)
            else:
                values = self._get_older.values({"task_id": task_id, "day": day})
                found = run_once(connection, self._get_older, values)
            if found.ntuples:
                return binary.task_record(row_of(found))
        return None

    def _statement_of(self, day: date) -> Statement | None:
        """Return the statement that is prepared for the weeks around a day, if they are read often."""
        number = (day - date.min).days // DAYS_PREPARED
        known = self._of_weeks.get(number)
        if known is not None or len(self._of_weeks) >= _MOST_PREPARED:
            return known
        self._reads[number] += 1
        if self._reads[number] < _OFTEN:
            return None
        start = date.min + timedelta(days=number * DAYS_PREPARED)
        ends = {"start": start.isoformat(), "end": (start + timedelta(days=DAYS_PREPARED)).isoformat()}
        known = Statement("get_older_task", fill_in(self._sql["get_older_task_of_weeks"], ends))
        self._of_weeks[number] = known
        return known

    def get_many(self, connection: Connection, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Return the records that exist of these tasks."""
        found: dict[str, TaskRecord] = {}
        wanted: Collection[str] = ids
        for _ in range(_TRIES):
            days: Days = {}
            values = self._get_many.values({"task_ids": list(wanted)})
            for row in rows_of(run(connection, self._get_many, values)):
                if row[_DAY] is None:
                    record = binary.task_record(row)
                    found[record.task_id] = record
                else:
                    days.setdefault(_text(row[0]), set()).add(_day(row[_DAY]))
            if not days:
                break
            for task_id, older in self._read(connection, days).items():
                found[task_id] = preferred(found.get(task_id), older)
            wanted = [task_id for task_id in days if task_id not in found]
            if not wanted:
                break
        return found

    def _read(self, connection: Connection, days: Days) -> dict[str, TaskRecord]:
        """Return the records of tasks that are listed as moved; a row may be dropped or moved back by now."""
        found: dict[str, TaskRecord] = {}
        for ids, some in _by_days(days):
            statement = self._of_days("get_older", some)
            for row in rows_of(run_once(connection, statement, statement.values({"task_ids": ids}))):
                record = binary.task_record(row)
                found[record.task_id] = record
        return found

    def days_of(self, connection: Connection, ids: Sequence[str]) -> Days:
        """Return the days under which tasks are listed as moved."""
        days: Days = {}
        values = self._moved_days.values({"task_ids": list(ids)})
        for task_id, day in rows_of(run(connection, self._moved_days, values)):
            days.setdefault(_text(task_id), set()).add(_day(day))
        return days

    # -- changing

    def delete(self, connection: Connection, ids: Sequence[str], delete_live: Callable[[], int]) -> int:
        """Delete tasks that were moved; return how many there were.

        Args:
            connection: a connection.
            ids: the tasks.
            delete_live: deletes them from the live table again, and returns how many there were.
        """
        count = 0
        for attempt in range(_TRIES):
            days = self.days_of(connection, ids)
            if not days:
                break
            deleted = 0
            for some_ids, some in _by_days(days):
                statement = self._of_days("delete_older", some)
                try:
                    found = run_once(connection, statement, statement.values({"task_ids": some_ids}))
                except psycopg.errors.SerializationFailure:
                    # a row was moved to the partition of another day at this moment; a transaction is lost then
                    if attempt == _TRIES - 1 or connection.info.transaction_status != _IDLE:
                        raise
                    continue
                deleted += len({_text(task_id) for task_id, _ in rows_of(found)})
            count += deleted
            if deleted >= len(days):
                break
            # some were moved back at the same moment, or their partition was dropped
            count += delete_live()
        return count

    def take(self, connection: Connection, ids: Sequence[str], take_live: Callable[[], object]) -> list[TaskRecord]:
        """Delete tasks that were moved; return their records. Called within a transaction.

        Args:
            connection: a connection.
            ids: the tasks.
            take_live: deletes them from the live table again.
        """
        taken: list[TaskRecord] = []
        for _ in range(_TRIES):
            days = self.days_of(connection, ids)
            if not days:
                break
            deleted = 0
            for some_ids, some in _by_days(days):
                statement = self._of_days("take_older", some)
                found = run_once(connection, statement, statement.values({"task_ids": some_ids}))
                taken += map(binary.task_record, rows_of(found))
                deleted += found.ntuples
            if deleted >= len(days):
                break
            # some were moved back at the same moment, or their partition was dropped
            take_live()
        return taken

    def take_back_all(self, connection: Connection, ids: Sequence[str]) -> None:
        """Move tasks back, also those with a SUCCESS. Called within a transaction."""
        for some_ids, some in _by_days(self.days_of(connection, ids)):
            statement = self._of_days("take_back_all", some)
            run_once(connection, statement, statement.values({"task_ids": some_ids}))

    def stay(self, connection: Connection, ids: Sequence[str]) -> set[str]:
        """Move tasks back that are stored again; return those that stay moved, because they have a SUCCESS.

        Called within a transaction.
        """
        stays: set[str] = set()
        for some_ids, some in _by_days(self.days_of(connection, ids)):
            for name in ("take_back", "succeeded"):
                statement = self._of_days(name, some)
                found = run_once(connection, statement, statement.values({"task_ids": some_ids}))
                stays.update(_text(task_id) for (task_id,) in rows_of(found))
        return stays

    def rows_of_days(
        self,
        connection: Connection,
        statement: str,
        ids: Sequence[str],
        params: Mapping[str, Any] | None = None,
        **texts: str,
    ) -> list[tuple[Any, ...]]:
        """Run a statement of the partitions of these tasks, and return its rows.

        Args:
            connection: a connection.
            statement: its name.
            ids: the tasks.
            params: its parameters besides ``task_ids``.
            texts: what replaces ``{key}`` in it besides the days.
        """
        found: list[tuple[Any, ...]] = []
        for some_ids, some in _by_days(self.days_of(connection, ids)):
            text = fill_in(self.text_of_days(statement, some), texts)
            with connection.without_timeout():
                cursor = connection.execute(text.encode(), {**(params or {}), "task_ids": some_ids}, prepare=False)
            found += cursor.fetchall()
        return found

    def set_expiries(self, connection: Connection, ids: Sequence[str], params: Mapping[str, Any]) -> int:
        """Set other expiries of older tasks; return of how many.

        Args:
            connection: a connection.
            ids: the tasks. The partitions of their new days exist.
            params: the parameters of the statement.
        """
        count = 0
        for _, some in _by_days(self.days_of(connection, ids)):
            text = self.text_of_days("set_older_expiries", some).encode()
            count += self._retried(connection, text, params)
        return count

    @staticmethod
    def _retried(connection: Connection, text: bytes, params: Mapping[str, Any]) -> int:
        """Run a statement again if another one has moved the same row to another partition."""
        for attempt in range(_TRIES):
            try:
                with connection.without_timeout():
                    return connection.execute(text, params, prepare=False).rowcount
            except psycopg.errors.SerializationFailure:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _of_days(self, name: str, days: Collection[date]) -> Statement:
        return Statement(name, self.text_of_days(name, days))

    def text_of_days(self, name: str, days: Collection[date]) -> str:
        """Return a statement for the partitions of some days only."""
        return fill_in(self._sql[name], {"days": ", ".join(f"'{day.isoformat()}'" for day in sorted(days))})


def day_of(expires_at: datetime | None) -> date:
    """Return the first day on which a row may be deleted."""
    if expires_at is None or expires_at >= _LAST_EXPIRY:
        return NEVER
    return max(expires_at, EARLIEST).astimezone(timezone.utc).date() + timedelta(days=1)


def _by_days(days: Days) -> Iterator[tuple[list[str], list[date]]]:
    """Yield tasks with the days of their rows, few days at a time."""
    by_day: dict[date, list[str]] = {}
    for task_id, its_days in days.items():
        for day in its_days:
            by_day.setdefault(day, []).append(task_id)
    order = sorted(by_day)
    for start in range(0, len(order), DAYS_AT_ONCE):
        some = order[start : start + DAYS_AT_ONCE]
        yield sorted({task_id for day in some for task_id in by_day[day]}), some


def _day(value: bytes | None) -> date:
    """Read a binary date."""
    return _FIRST_DAY + timedelta(days=read_int(value) or 0)


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


def _now() -> datetime:
    return datetime.now(timezone.utc)
