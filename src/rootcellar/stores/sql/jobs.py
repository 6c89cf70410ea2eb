"""Jobs and sizes in tables: the ability :class:`~rootcellar.stores.jobs.Jobs` of all SQL stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from rootcellar.stores.jobs import DAYS_KEPT, LONGEST_NOTE, DaySize, Job
from rootcellar.stores.measures import TableSize
from rootcellar.stores.rules_on_record import RulesText
from rootcellar.stores.sql.rows import storable

#: rules are kept in the table of jobs, under names that begin so; the text of the rules is the note
_RULES = "rules "


class SqlJobs(ABC):
    """The part of a SQL store that keeps jobs, sizes, and rules. Its statements are in ``upkeep.sql``."""

    @abstractmethod
    def _all(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement, by name, and return its rows."""

    @abstractmethod
    def _count(self, statement: str, params: Mapping[str, Any]) -> int:
        """Run a statement, by name, and return how many rows it changed."""

    @abstractmethod
    def _read_date(self, value: Any) -> datetime:
        """Return the date in a column, in UTC."""

    @abstractmethod
    def table_sizes(self) -> Sequence[TableSize]:
        """Return the size of each table."""

    def begin_job(self, name: str) -> None:
        """See :class:`~rootcellar.stores.jobs.Jobs`."""
        self._count("begin_job", {"name": name})

    def end_job(self, name: str, done: int, note: str | None = None, ok: bool = True) -> None:
        """See :class:`~rootcellar.stores.jobs.Jobs`."""
        kept = storable(note[:LONGEST_NOTE]) if note else None
        self._count("end_job", {"name": name, "done": done, "note": kept, "ok": int(ok)})

    def jobs(self) -> Mapping[str, Job]:
        """See :class:`~rootcellar.stores.jobs.Jobs`."""
        return {job.name: job for job in self._rows_of_jobs() if not job.name.startswith(_RULES)}

    def put_rules(self, key: str, text: str) -> None:
        """See :class:`~rootcellar.stores.rules_on_record.KeepsRules`."""
        name = f"{_RULES}{key}"
        self._count("begin_job", {"name": name})
        self._count("end_job", {"name": name, "done": 0, "note": text, "ok": 1})

    def rules_on_record(self) -> Sequence[RulesText]:
        """See :class:`~rootcellar.stores.rules_on_record.KeepsRules`."""
        return [
            RulesText(job.name[len(_RULES) :], job.note, job.ended_at or job.started_at)
            for job in self._rows_of_jobs()
            if job.name.startswith(_RULES) and job.note
        ]

    def drop_rules(self, key: str) -> bool:
        """See :class:`~rootcellar.stores.rules_on_record.KeepsRules`."""
        # the row stays: a worker may change the table of jobs, and may not delete from it
        is_there = any(each.key == key for each in self.rules_on_record())
        self._count("end_job", {"name": f"{_RULES}{key}", "done": 0, "note": None, "ok": 0})
        return is_there

    def _rows_of_jobs(self) -> list[Job]:
        return [self._job(row) for row in self._all("read_jobs", {})]

    def _job(self, row: tuple[Any, ...]) -> Job:
        name, started_at, ended_at, succeeded_at, seconds, ok, done, note = row
        return Job(
            name=name,
            started_at=self._read_date(started_at),
            ended_at=None if ended_at is None else self._read_date(ended_at),
            succeeded_at=None if succeeded_at is None else self._read_date(succeeded_at),
            seconds=None if seconds is None else float(seconds),
            has_failed=ended_at is not None and not ok,
            done=int(done),
            note=note,
        )

    def note_sizes(self) -> None:
        """See :class:`~rootcellar.stores.jobs.Jobs`."""
        for size in self.table_sizes():
            # the tables of a file have no size of their own, only the file has
            if size.bytes is not None:
                whole = size.bytes + (size.index_bytes or 0)
                self._count("note_size", {"name": size.table, "n": size.rows, "bytes": whole})
        self._count("forget_sizes", {"days": DAYS_KEPT})

    def sizes(self, since: date) -> Sequence[DaySize]:
        """See :class:`~rootcellar.stores.jobs.Jobs`."""
        return [
            DaySize(day=_day(day), name=name, rows=None if n is None else int(n), bytes=int(size))
            for day, name, n, size in self._all("read_sizes", {"since": since.isoformat()})
        ]


def _day(value: date | str) -> date:
    return date.fromisoformat(value) if isinstance(value, str) else value
